#!/usr/bin/env bash
# Runs a bundle of scripts/bundle.sh where nothing else is: in an empty root with a /bin/sh, without a
# network, and with decoys in the place of the host's libraries. What is found there is in the bundle.
#
#   scripts/bundle-test.sh BUNDLE
#
# Needs root or user namespaces, and the test media: those that scripts/setup.sh fetched, or the bundle's
# own (scripts/bundle.sh --media). Exit status: 0 all is well, 1 something is not, 2 it cannot be tested here.
set -euo pipefail

say() { printf 'bundle-test: %s\n' "$*" >&2; }
fail() { say "FAILED: $*"; exit 1; }
cannot() { say "$@"; exit 2; }

(( $# == 1 )) || cannot "name one bundle: scripts/bundle-test.sh BUNDLE"
bundle=${1%/}
[[ -f $bundle/.retinaface-bundle ]] || cannot "$bundle is not a bundle; scripts/bundle.sh makes one"
bundle=$(cd "$bundle" && pwd)
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for media in "$project/.fetch/media" "$bundle/share/retinaface/media" none; do
  [[ ! -f $media/single_face.mp4 ]] || break
done
[[ $media != none ]] || cannot "there are no test media: run scripts/setup.sh, or make the bundle with --media"

# chroot is not on everybody's path.
PATH=$PATH:/usr/sbin:/sbin
# Ways into another root, the most closed one first.
for enter in "unshare --map-root-user --net chroot" "unshare --net chroot" "chroot" none; do
  # shellcheck disable=SC2086 # words
  [[ $enter == none ]] || ! $enter / true 2>/dev/null || break
done
[[ $enter != none ]] ||
  cannot "neither root nor user namespaces are at hand: run as root, or allow them (sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0)"
read -r -a enter <<<"$enter"

# ---------------------------------------------------------------- the empty root

# Beside the bundle, so that its files need not be copied.
root=$(mktemp -d "$(dirname "$bundle")/.bundle-test.XXXXXX" 2>/dev/null || mktemp -d)
trap 'chmod -R u+w "$root"; rm -rf "$root"' EXIT
chmod 755 "$root"
mkdir -p "$root"/{bin,dev,opt,tmp,out,media,proc,usr/lib64}
cp -al "$bundle" "$root/opt/retinaface" 2>/dev/null ||
  { rm -rf "$root/opt/retinaface"; cp -a "$bundle" "$root/opt/retinaface"; }
cp "$media/single_face.jpg" "$media/single_face.mp4" "$root/media/"
# No device is needed, just the name. ONNX Runtime complains where it is not told about the processor.
: >"$root/dev/null"
cp /proc/cpuinfo "$root/proc/"

# A shell with its own libraries in their usual places; that much every host has.
shell=$(readlink -f /bin/sh)
cp "$shell" "$root/bin/sh"
while read -r library; do
  install -D "$library" "$root$library"
done < <(ldd "$shell" 2>/dev/null | grep -o '/[^ ]*')
# And other libraries that a host has, which would break everything that met them.
for name in libglib-2.0.so.0 libgstreamer-1.0.so.0 libstdc++.so.6 libonnxruntime.so.1 libopencv_core.so.406 libm.so.6; do
  for folder in lib lib/x86_64-linux-gnu usr/lib usr/lib64; do
    mkdir -p "$root/$folder"
    [[ -e $root/$folder/$name ]] || echo "not a library" >"$root/$folder/$name"
  done
done

mkdir "$root/usr/lib64/gstreamer-1.0"
echo "not a plugin" >"$root/usr/lib64/gstreamer-1.0/libgsthost.so"

# inside COMMAND...: runs it in that root, with a host's variables that speak of the host's libraries. Every
# process writes down which libraries it loads.
# shellcheck disable=SC2016 # for the shell inside
inside=(env -i PATH="$PATH" "${enter[@]}" "$root" /bin/sh -c '
  export PATH=/bin HOME=/tmp LD_DEBUG=files LD_DEBUG_OUTPUT=/out/loaded
  export LD_LIBRARY_PATH=/usr/lib64 GST_PLUGIN_PATH=/usr/lib64/gstreamer-1.0
  export GST_DEBUG=bin:6 GST_DEBUG_NO_COLOR=1 GST_DEBUG_FILE=/out/gst.log
  exec "$@"' sh)
inside() { "${inside[@]}" "$@"; }

# plays ARGUMENTS...: gst-launch-1.0 with them, there.
plays() {
  UNTIL_END_LOG=$root/out/gst.log "$project/scripts/until-end" "${inside[@]}" "$bin/gst-launch-1.0" -q "$@"
}

# loaded: the libraries of the processes so far, without those of the shell that each launcher was before it
# became the program.
loaded() {
  local file
  for file in "$root"/out/loaded.*; do
    awk '/transferring control: \/bin\/sh/ { delete seen }
      /calling init: / { seen[$NF] }
      END { for (path in seen) print path }' "$file"
  done | LC_ALL=C sort -u
}

say "$(cat "$bundle/.retinaface-bundle"), in an empty root by ${enter[*]}"
bin=/opt/retinaface/bin

# ---------------------------------------------------------------- checks

inside $bin/gst-inspect-1.0 -b >"$root/report" || fail "gst-inspect-1.0 does not run"
grep -q '^Total count: 0 blacklisted' "$root/report" || fail "plugins that cannot be loaded: $(cat "$root/report")"
inside $bin/gst-inspect-1.0 >"$root/report"
there=$(find "$bundle/lib/gstreamer-1.0" -name 'libgst*.so' | wc -l)
# One more is part of GStreamer's library.
grep -q "^Total count: $((there + 1)) plugins" "$root/report" || fail "of $there plugins: $(tail -n 1 "$root/report")"
say "plugins: all $there are loaded"

# OpenVINO runs on any processor; CUDA does not, so that its bundle is tried as far as it goes without.
read -r _ _ variant _ <"$bundle/.retinaface-bundle"
provider=auto
[[ $variant != openvino ]] || provider=openvino
inside $bin/retinaface detect --execution-provider $provider /media/single_face.jpg >"$root/report" || fail "retinaface finds no face on a photo with one"
faces=$(grep -o '"score"' "$root/report" | wc -l)
(( faces == 1 )) || fail "retinaface finds $faces faces on a photo with one"
say "program: the face of a photo is found (execution provider $provider)"

plays filesrc location=/media/single_face.mp4 ! decodebin ! retinaface ! facemetapublish ! fakesink \
  >"$root/report" || fail "the pipeline of metadata does not run"
frames=$(grep -c '"score"' "$root/report" || true)
(( frames > 60 )) || fail "the pipeline finds faces on $frames frames only"
say "pipeline of metadata: faces on $frames frames"

plays -e filesrc location=/media/single_face.mp4 ! decodebin ! retinaface ! tee name=t \
  t. ! queue ! facemetaoverlay ! videoconvert ! x264enc tune=zerolatency ! h264parse ! mp4mux ! filesink location=/out/annotated.mp4 \
  t. ! queue ! facealign ! videoconvert ! pngenc ! multifilesink location=/out/crop-%05d.png async=false ||
  fail "the pipeline of pictures does not run"
[[ -s $root/out/annotated.mp4 ]] || fail "there is no annotated video"
crops=$(find "$root/out" -name 'crop-*.png' -size +0 | wc -l)
(( crops > 60 )) || fail "the pipeline writes $crops crops only"
plays filesrc location=/out/annotated.mp4 ! decodebin ! retinaface ! facemetapublish ! fakesink >"$root/report" ||
  fail "the annotated video cannot be read"
again=$(grep -c '"score"' "$root/report" || true)
(( again > 60 )) || fail "the annotated video has faces on $again frames only"
say "pipeline of pictures: an annotated video and $crops crops"

# Everything so far came from the bundle.
loaded >"$root/report"
strange=$(grep -v '^/opt/retinaface/' "$root/report" || true)
[[ -z $strange ]] || fail "loaded from outside the bundle: $strange"
for library in libgstreamer-1.0.so.0 libonnxruntime.so.1 libc.so.6 libavcodec.so; do
  grep -q "^/opt/retinaface/lib/.*$library" "$root/report" || fail "nothing shows that $library was loaded; does the bundle's loader obey LD_DEBUG?"
done
say "libraries: all $(wc -l <"$root/report") that were loaded are the bundle's"

# A driver of the host is found, at the end of the search. Any library can stand in for it here: NVIDIA's
# plugin opens it, finds no function in it and gives up.
cp "$bundle/lib/libdl.so.2" "$root/usr/lib64/libcuda.so.1"
rm -rf "$root"/out/loaded.*
inside $bin/gst-inspect-1.0 nvcodec >/dev/null || fail "NVIDIA's plugin cannot be loaded"
loaded >"$root/report"
strange=$(grep -v '^/opt/retinaface/' "$root/report" || true)
[[ $strange == /usr/lib64/libcuda.so.1 ]] || fail "of the host, its driver alone should be loaded, not: ${strange:-nothing}"
say "driver: libcuda.so.1 of the host is found, and nothing else of it"

(cd "$root/opt/retinaface" && sha256sum --check --quiet --strict SHA256SUMS >&2) || fail "files differ from SHA256SUMS"
extra=$(cd "$root/opt/retinaface" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | LC_ALL=C comm -23 - <(cut -c 67- SHA256SUMS | LC_ALL=C sort))
[[ -z $extra ]] || fail "files that are not in SHA256SUMS: $extra"
say "files: as in SHA256SUMS, and running the bundle wrote none into it"
say "all is well"
