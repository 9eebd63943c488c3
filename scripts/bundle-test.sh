#!/usr/bin/env bash
# Tests a bundle of scripts/bundle.sh in a root directory that contains only /bin/sh, without a
# network. In place of the libraries of a host the root has invalid files, so that only libraries of
# the bundle can be loaded.
#
#   scripts/bundle-test.sh BUNDLE
#
# Needs root permissions or user namespaces, and the test media: from scripts/setup.sh or in the
# bundle (scripts/bundle.sh --media). Exit status: 0 all passed, 1 a check failed, 2 the test cannot
# run here.
set -euo pipefail

say() { printf 'bundle-test: %s\n' "$*" >&2; }
fail() { say "FAILED: $*"; exit 1; }
cannot() { say "$@"; exit 2; }

(( $# == 1 )) || cannot "usage: scripts/bundle-test.sh BUNDLE"
bundle=${1%/}
[[ -f $bundle/.retinaface-bundle ]] || cannot "$bundle is not a bundle; scripts/bundle.sh makes one"
bundle=$(cd "$bundle" && pwd)
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for media in "$project/.fetch/media" "$bundle/share/retinaface/media" none; do
  [[ ! -f $media/single_face.mp4 ]] || break
done
[[ $media != none ]] || cannot "the test media are missing: run scripts/setup.sh, or make the bundle with --media"

# chroot is in /usr/sbin, which is often not on PATH.
PATH=$PATH:/usr/sbin:/sbin
# Commands that enter another root, the most isolated one first.
for enter in "unshare --map-root-user --net chroot" "unshare --net chroot" "chroot" none; do
  # shellcheck disable=SC2086 # words
  [[ $enter == none ]] || ! $enter / true 2>/dev/null || break
done
[[ $enter != none ]] ||
  cannot "neither root permissions nor user namespaces are available: run as root, or allow them (sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0)"
read -r -a enter <<<"$enter"

# ---------------------------------------------------------------- the empty root

# In the directory of the bundle, so that hard links are possible.
root=$(mktemp -d "$(dirname "$bundle")/.bundle-test.XXXXXX" 2>/dev/null || mktemp -d)
trap 'chmod -R u+w "$root"; rm -rf "$root"' EXIT
chmod 755 "$root"
mkdir -p "$root"/{bin,dev,opt,tmp,out,media,proc,usr/lib64}
cp -al "$bundle" "$root/opt/retinaface" 2>/dev/null ||
  { rm -rf "$root/opt/retinaface"; cp -a "$bundle" "$root/opt/retinaface"; }
cp "$media/single_face.jpg" "$media/single_face.mp4" "$root/media/"
# A file is enough for /dev/null. ONNX Runtime prints a warning without /proc/cpuinfo.
: >"$root/dev/null"
cp /proc/cpuinfo "$root/proc/"

# A shell with its libraries in their usual directories.
shell=$(readlink -f /bin/sh)
cp "$shell" "$root/bin/sh"
while read -r library; do
  install -D "$library" "$root$library"
done < <(ldd "$shell" 2>/dev/null | grep -o '/[^ ]*')
# Invalid files with the names of common libraries: a process that opened one would fail.
for name in libglib-2.0.so.0 libgstreamer-1.0.so.0 libstdc++.so.6 libonnxruntime.so.1 libopencv_core.so.406 libm.so.6; do
  for directory in lib lib/x86_64-linux-gnu usr/lib usr/lib64; do
    mkdir -p "$root/$directory"
    [[ -e $root/$directory/$name ]] || echo "not a library" >"$root/$directory/$name"
  done
done

mkdir "$root/usr/lib64/gstreamer-1.0"
echo "not a plugin" >"$root/usr/lib64/gstreamer-1.0/libgsthost.so"

# inside COMMAND...: runs a command in the root, with environment variables that refer to libraries of the
# host. The loader of each process logs the libraries that it loads.
# shellcheck disable=SC2016 # the inner shell expands it
inside=(env -i PATH="$PATH" "${enter[@]}" "$root" /bin/sh -c '
  export PATH=/bin HOME=/tmp LD_DEBUG=files LD_DEBUG_OUTPUT=/out/loaded
  export LD_LIBRARY_PATH=/usr/lib64 GST_PLUGIN_PATH=/usr/lib64/gstreamer-1.0
  export GST_DEBUG=bin:6 GST_DEBUG_NO_COLOR=1 GST_DEBUG_FILE=/out/gst.log
  exec "$@"' sh)
inside() { "${inside[@]}" "$@"; }

# plays ARGUMENTS...: runs gst-launch-1.0 in the root.
plays() {
  UNTIL_END_LOG=$root/out/gst.log "$project/scripts/until-end" "${inside[@]}" "$bin/gst-launch-1.0" -q "$@"
}

# loaded: prints the libraries that processes loaded so far, except those of the launchers' shell,
# which replaces itself by the program.
loaded() {
  local file
  for file in "$root"/out/loaded.*; do
    awk '/transferring control: \/bin\/sh/ { delete seen }
      /calling init: / { seen[$NF] }
      END { for (path in seen) print path }' "$file"
  done | LC_ALL=C sort -u
}

say "$(cat "$bundle/.retinaface-bundle"), in an empty root with ${enter[*]}"
bin=/opt/retinaface/bin

# ---------------------------------------------------------------- checks

inside $bin/gst-inspect-1.0 -b >"$root/report" || fail "gst-inspect-1.0 does not run"
grep -q '^Total count: 0 blacklisted' "$root/report" || fail "plugins that cannot be loaded: $(cat "$root/report")"
inside $bin/gst-inspect-1.0 >"$root/report"
count=$(find "$bundle/lib/gstreamer-1.0" -name 'libgst*.so' | wc -l)
# One more plugin is part of the GStreamer library.
grep -q "^Total count: $((count + 1)) plugins" "$root/report" || fail "expected $count plugins and one static one: $(tail -n 1 "$root/report")"
say "plugins: all $count load"

# OpenVINO needs a processor of Intel. Providers that need a GPU are not tested.
inside $bin/retinaface devices --json >"$root/report" || fail "retinaface devices fails"
provider=auto
! grep -q '"provider":"openvino","usable":true' "$root/report" || provider=openvino
inside $bin/retinaface detect --execution-provider $provider /media/single_face.jpg >"$root/report" || fail "retinaface finds no face in a photo with one face"
faces=$(grep -o '"score"' "$root/report" | wc -l)
(( faces == 1 )) || fail "retinaface finds $faces faces in a photo with one face"
say "program: finds the face in a photo (execution provider $provider)"

plays filesrc location=/media/single_face.mp4 ! decodebin ! retinaface ! facemetapublish ! fakesink \
  >"$root/report" || fail "the metadata pipeline failed"
frames=$(grep -c '"score"' "$root/report" || true)
(( frames > 60 )) || fail "the metadata pipeline finds faces in only $frames frames"
say "metadata pipeline: faces in $frames frames"

plays -e filesrc location=/media/single_face.mp4 ! decodebin ! retinaface ! tee name=t \
  t. ! queue ! facemetaoverlay ! videoconvert ! x264enc tune=zerolatency ! h264parse ! mp4mux ! filesink location=/out/annotated.mp4 \
  t. ! queue ! facealign ! videoconvert ! pngenc ! multifilesink location=/out/crop-%05d.png async=false ||
  fail "the pipeline with overlay and crops failed"
[[ -s $root/out/annotated.mp4 ]] || fail "the annotated video is missing"
crops=$(find "$root/out" -name 'crop-*.png' -size +0 | wc -l)
(( crops > 60 )) || fail "the pipeline writes only $crops crops"
plays filesrc location=/out/annotated.mp4 ! decodebin ! retinaface ! facemetapublish ! fakesink >"$root/report" ||
  fail "the annotated video cannot be read"
again=$(grep -c '"score"' "$root/report" || true)
(( again > 60 )) || fail "the annotated video has faces in only $again frames"
say "pipeline with overlay and crops: an annotated video and $crops crops"

loaded >"$root/report"
foreign=$(grep -v '^/opt/retinaface/' "$root/report" || true)
[[ -z $foreign ]] || fail "loaded from outside the bundle: $foreign"
for library in libgstreamer-1.0.so.0 libonnxruntime.so.1 libc.so.6 libavcodec.so; do
  grep -q "^/opt/retinaface/lib/.*$library" "$root/report" || fail "the log does not show that $library was loaded: the loader of the bundle may ignore LD_DEBUG"
done
say "libraries: all $(wc -l <"$root/report") loaded ones are in the bundle"

# A driver of the host is found. Another library takes its place here: the plugin of NVIDIA opens
# it, finds none of the driver's functions and registers no elements.
cp "$bundle/lib/libdl.so.2" "$root/usr/lib64/libcuda.so.1"
rm -rf "$root"/out/loaded.*
inside $bin/gst-inspect-1.0 nvcodec >/dev/null || fail "the plugin nvcodec cannot be loaded"
loaded >"$root/report"
foreign=$(grep -v '^/opt/retinaface/' "$root/report" || true)
[[ $foreign == /usr/lib64/libcuda.so.1 ]] || fail "only the driver of the host should be loaded from outside the bundle, not: ${foreign:-nothing}"
say "driver: only libcuda.so.1 is loaded from the host"

(cd "$root/opt/retinaface" && sha256sum --check --quiet --strict SHA256SUMS >&2) || fail "files differ from SHA256SUMS"
extra=$(cd "$root/opt/retinaface" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | LC_ALL=C comm -23 - <(cut -c 67- SHA256SUMS | LC_ALL=C sort))
[[ -z $extra ]] || fail "files that are not in SHA256SUMS: $extra"
say "files: match SHA256SUMS, and running the bundle wrote none into it"
say "all passed"
