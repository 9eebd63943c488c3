#!/usr/bin/env bash
# Makes one folder that runs on any x86-64 Linux host, without packages and without a network: plugin,
# program, default model, ONNX Runtime, GStreamer with the plugins the pipelines need, and every library
# below them, glibc and its loader included. For a GPU the host brings its driver, nothing else.
#
#   scripts/bundle.sh [--cuda|--openvino] [--media] OUT_DIR
#
#   --cuda, --openvino   with that set of ONNX Runtime (scripts/setup.sh --cuda, --openvino); else the CPU's
#   --media              with the test media, for a try on the host
#
# OUT_DIR appears by one rename when all is done and checked; a bundle that is there already is replaced,
# anything else is left alone. Run `make build` before (`make bundle` does both).
#
# Exit status: 0 done, 1 something is missing or wrong, 2 a wrong call.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fetch=$root/.fetch
target=${CARGO_TARGET_DIR:-$root/target}
[[ $target == /* ]] || target=$root/$target

say() { printf 'bundle: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }
wrong_call() { say "$1; scripts/bundle.sh [--cuda|--openvino] [--media] OUT_DIR"; exit 2; }

# ---------------------------------------------------------------- what is asked for

variant=cpu
media=no
out=
for argument; do
  case $argument in
    --cuda | --openvino)
      [[ $variant == cpu || $variant == "${argument#--}" ]] || wrong_call "one of --cuda and --openvino"
      variant=${argument#--}
      ;;
    --media) media=yes ;;
    -*) wrong_call "unknown option $argument" ;;
    *)
      [[ -z $out ]] || wrong_call "one OUT_DIR, not $out and $argument"
      out=$argument
      ;;
  esac
done
[[ -n $out ]] || wrong_call "OUT_DIR is missing"

# ---------------------------------------------------------------- what there is

[[ $(uname -sm) == "Linux x86_64" ]] ||
  die "a bundle is made on the kind of machine it is for, x86-64 Linux; this is $(uname -sm): use such a machine or container"
for tool in dpkg-query ldd readelf pkg-config sha256sum cargo python3; do
  command -v $tool >/dev/null ||
    die "$tool is missing; a bundle is made on Debian or Ubuntu, where scripts/setup.sh installs what is needed"
done

out=${out%/}
marker=.retinaface-bundle
parent=$(dirname "$out")
[[ -d $parent ]] || die "there is no folder $parent to put $(basename "$out") into"
out=$(cd "$parent" && pwd)/$(basename "$out")
if [[ -L $out || (-e $out && ! -f $out/$marker) ]]; then
  die "$out exists and is not a bundle; move it away or name another folder"
fi

case $variant in
  cpu) runtime=$fetch/onnxruntime setup=scripts/setup.sh ;;
  *) runtime=$fetch/onnxruntime-$variant setup="scripts/setup.sh --$variant" ;;
esac
model=$fetch/models/retinaface_mnet025.onnx
[[ -f $runtime/libonnxruntime.so.1 ]] || die "there is no $runtime/libonnxruntime.so.1: run $setup"
[[ -f $model ]] || die "there is no $model: run scripts/setup.sh"
[[ $media == no || -d $fetch/media ]] || die "there is no $fetch/media: run scripts/setup.sh"
for built in libgstretinaface.so retinaface; do
  [[ -f $target/release/$built ]] || die "there is no $target/release/$built: run make build"
done

plugins=$(pkg-config --variable=pluginsdir gstreamer-1.0) || die "GStreamer's development files are missing: run scripts/setup.sh"
tools=$(pkg-config --variable=toolsdir gstreamer-1.0)
scanner=$(pkg-config --variable=pluginscannerdir gstreamer-1.0)/gst-plugin-scanner
gio_modules=$(pkg-config --variable=giomoduledir gio-2.0)

# Of every line the first group that is there; a group is one plugin, or several for the same job.
needed='
  coreelements
  typefindfunctions
  playback
  app
  videoconvertscale videoconvert+videoscale
  videorate
  videotestsrc
  videofilter
  videocrop
  audioconvert
  audioresample
  audioparsers
  imagefreeze
  autodetect
  isomp4
  matroska
  avi
  mpegtsdemux
  mpegtsmux
  videoparsersbad
  libav
  x264
  jpeg
  png
  multifile
  rtp
  rtpmanager
  rtsp
  sdpelem
  udp
  tcp
  video4linux2
  nvcodec
'
# These come along where they are installed: windows to show a picture in, and other decoders.
welcome='ximagesink xvimagesink waylandsink opengl openh264 srtp webp'

work=$(mktemp -d "$parent/.bundle.XXXXXX")
aside=
cleanup() {
  rm -rf "$work"
  # A bundle that was moved aside goes back if its successor did not make it.
  if [[ -n $aside && -e $aside ]]; then
    if [[ -e $out ]]; then rm -rf "$aside"; else mv -T "$aside" "$out"; fi
  fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
chmod 755 "$work"

# ---------------------------------------------------------------- copies

# Where each file came from, by its place in the bundle.
declare -A origin
# What has libraries of its own to be found, in the places it came from.
binaries=()

# take SOURCE PLACE [MODE]: a copy of a file of the system or the project.
take() {
  install -D -m "${3:-644}" "$1" "$work/$2"
  origin[$2]=$(readlink -f "$1")
}
take_binary() {
  take "$@"
  binaries+=("$1")
}

say "copying plugin, program, model and ONNX Runtime ($variant)"
take_binary "$target/release/retinaface" libexec/retinaface 755
take_binary "$target/release/libgstretinaface.so" lib/gstreamer-1.0/libgstretinaface.so
take "$model" "share/retinaface/$(basename "$model")"
mkdir -p "$work/lib"
cp -rL "$runtime" "$work/lib/retinaface"
rm -f "$work/lib/retinaface/.complete"

say "copying GStreamer"
for tool in gst-launch-1.0 gst-inspect-1.0; do
  [[ -f $tools/$tool ]] || die "$tools/$tool is missing: run scripts/setup.sh"
  take_binary "$tools/$tool" libexec/$tool 755
done
[[ -f $scanner ]] || die "$scanner is missing: run scripts/setup.sh"
take_binary "$scanner" libexec/gst-plugin-scanner 755

have_plugins() {
  local plugin
  for plugin in ${1//+/ }; do
    [[ -f $plugins/libgst$plugin.so ]] || return 1
  done
}
while read -r -a groups; do
  (( ${#groups[@]} > 0 )) || continue
  for group in "${groups[@]}" ""; do
    [[ -n $group ]] || die "GStreamer's plugin libgst${groups[0]}.so is not in $plugins: run scripts/setup.sh"
    have_plugins "$group" || continue
    for plugin in ${group//+/ }; do
      take_binary "$plugins/libgst$plugin.so" "lib/gstreamer-1.0/libgst$plugin.so"
    done
    break
  done
done <<<"$needed"
for plugin in $welcome; do
  ! have_plugins "$plugin" || take_binary "$plugins/libgst$plugin.so" "lib/gstreamer-1.0/libgst$plugin.so"
done
# TLS for cameras that want rtsps://.
mkdir -p "$work/lib/gio/modules"
if [[ -f $gio_modules/libgiognutls.so ]]; then
  take_binary "$gio_modules/libgiognutls.so" lib/gio/modules/libgiognutls.so
fi

# ---------------------------------------------------------------- libraries

# What belongs to a driver is the host's, and fits the host's kernel only.
is_driver() {
  case $1 in
    libcuda.so* | libnvidia-* | libnvcuvid.so* | libnvoptix.so* | libcudadebugger.so* | lib*_nvidia.so*) return 0 ;;
    *) return 1 ;;
  esac
}

# Folders of the ONNX Runtime set that hold libraries; they are searched after lib/.
mapfile -t runtime_folders < <(cd "$work/lib/retinaface" && find . -name '*.so*' -type f -printf '%h\n' | LC_ALL=C sort -u | sed 's,^\./\?,,')
runtime_path=
bundle_folders=(lib)
for folder in "${runtime_folders[@]}"; do
  runtime_path+=${runtime_path:+:}$runtime${folder:+/$folder}
  bundle_folders+=("lib/retinaface${folder:+/$folder}")
done

# libraries FILE: what it needs, as lines "NAME PATH"; PATH is empty for what is not there.
libraries() {
  local lines too_old
  lines=$(LC_ALL=C LD_LIBRARY_PATH=$runtime_path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} ldd "$1" 2>&1) || true
  too_old=$(grep -m 1 'version .* not found' <<<"$lines") && die "$1 needs a newer library: ${too_old#"${too_old%%[![:space:]]*}"}"
  awk '$2 == "=>" && $3 == "not" { print $1, "" } $2 == "=>" && $3 ~ /^\// { print $1, $3 }' <<<"$lines"
}

say "looking for libraries"
interpreter=$(LC_ALL=C readelf --program-headers "$target/release/retinaface" | sed -n 's/.*program interpreter: \(.*\)]/\1/p')
[[ -n $interpreter ]] || die "$target/release/retinaface names no loader: is it an x86-64 Linux program?"
loader=$(basename "$interpreter")
take "$interpreter" "lib/$loader" 755

while IFS= read -r -d '' file; do
  binaries+=("$runtime/${file#"$work/lib/retinaface/"}")
done < <(find "$work/lib/retinaface" -name '*.so*' -type f -print0 | LC_ALL=C sort -z)

# opened_by NAME: what the library NAME opens by name, which no loader can tell beforehand.
opened_by() {
  case $1 in
    libtbb.so.*) echo libtbbmalloc.so.2 ;;
    libnss3.so) echo libsoftokn3.so libfreeblpriv3.so libnssckbi.so ;;
  esac
}

# take_library NAME PATH: a library, and what it opens by name.
take_library() {
  local name folder path
  [[ -z ${origin[lib/$1]+set} ]] || return 0
  take "$2" "lib/$1"
  for name in $(opened_by "$1"); do
    folder=$(dirname "${origin[lib/$1]}")
    for path in "$folder/$name" "$folder/nss/$name"; do
      [[ ! -f $path ]] || { take_binary "$path" "lib/$name"; break; }
    done
  done
}

missing=()
# The list grows on the way.
for (( i = 0; i < ${#binaries[@]}; i++ )); do
  binary=${binaries[i]}
  needs=$(libraries "$binary") || exit 1
  lost=()
  found=()
  while read -r name path; do
    if [[ -z $name || $name == "$loader" || $path == "$runtime"/* ]] || is_driver "$name"; then
      continue
    elif [[ -z $path ]]; then
      lost+=("$name")
    else
      found+=("$name $path")
    fi
  done <<<"$needs"
  if (( ${#lost[@]} > 0 )); then
    name=$(basename "$binary")
    case $name in
      # A provider that nobody asked for, such as TensorRT's in the set for CUDA.
      libonnxruntime_providers_shared.so | libonnxruntime_providers_"$variant".so) ;;
      libonnxruntime_providers_*.so)
        say "left out $name: it needs ${lost[*]}"
        rm "$work/lib/retinaface/${binary#"$runtime/"}"
        continue
        ;;
    esac
    missing+=("$name needs ${lost[*]}")
  fi
  for pair in "${found[@]}"; do
    take_library "${pair%% *}" "${pair#* }"
  done
done
if (( ${#missing[@]} > 0 )); then
  say "these libraries are not on this machine; install what has them ($setup), or name their folder in LD_LIBRARY_PATH:"
  printf '  %s\n' "${missing[@]}" >&2
  exit 1
fi

# What a driver or glibc itself opens by name.
glibc=$(dirname "${origin[lib/libc.so.6]:?}")
for name in libdl.so.2 libpthread.so.0 librt.so.1 libm.so.6 libmvec.so.1 libresolv.so.2 libutil.so.1 libanl.so.1 \
  libnss_files.so.2 libnss_dns.so.2 libnss_compat.so.2; do
  [[ -n ${origin[lib/$name]+set} || ! -f $glibc/$name ]] || take "$glibc/$name" "lib/$name"
done
# Character sets; the host's modules are for the host's glibc.
take "$glibc/gconv/gconv-modules" lib/gconv/gconv-modules
while read -r module; do
  [[ ! -f $glibc/gconv/$module.so ]] || take "$glibc/gconv/$module.so" "lib/gconv/$module.so"
done < <(awk '$1 == "module" { print $4 }' "$glibc/gconv/gconv-modules" | LC_ALL=C sort -u)

# ---------------------------------------------------------------- launchers

# launcher PLACE: a script that runs libexec/PROGRAM.
launcher() {
  cat >"$work/$1" <<LAUNCHER
#!/bin/sh
# Runs libexec/$2 with the libraries of this bundle; libexec/launch.sh says how.
self=\$0
case \$self in */*) ;; *) self=./\$self ;; esac
while [ -L "\$self" ]; do
  link=\$(readlink "\$self")
  case \$link in /*) self=\$link ;; *) self=\${self%/*}/\$link ;; esac
done
bundle=\$(CDPATH='' cd -- "\${self%/*}/.." && pwd -P) || exit 2
program=$2
. "\$bundle/libexec/launch.sh"
LAUNCHER
  chmod 755 "$work/$1"
}
mkdir "$work/bin"
launcher bin/retinaface retinaface
launcher bin/gst-launch-1.0 gst-launch-1.0
launcher bin/gst-inspect-1.0 gst-inspect-1.0
launcher libexec/scan-plugins gst-plugin-scanner

cat >"$work/env.sh" <<'ENV'
# Source this (`. ./env.sh`): gst-launch-1.0, gst-inspect-1.0 and retinaface are then the bundle's.
# Works in sh, bash and zsh; in a plain sh source it from the bundle's folder.
if [ -n "${BASH_SOURCE:-}" ]; then
  _retinaface_bundle=$(cd "$(dirname "${BASH_SOURCE}")" && pwd)
elif [ -n "${ZSH_VERSION:-}" ]; then
  _retinaface_bundle=$(cd "$(dirname "${(%):-%x}")" && pwd)
else
  _retinaface_bundle=$PWD
fi
if [ -f "$_retinaface_bundle/.retinaface-bundle" ]; then
  export PATH="$_retinaface_bundle/bin:$PATH"
else
  echo "env.sh: source it from the bundle's folder" >&2
fi
unset _retinaface_bundle
ENV

mkdir "$work/pipelines" "$work/scripts"
cp "$root"/pipelines/*.launch "$work/pipelines/"
install -m 755 "$root/scripts/launch" "$work/scripts/launch"
if [[ $media == yes ]]; then
  cp -rL "$fetch/media" "$work/share/retinaface/media"
fi

# ---------------------------------------------------------------- licences, versions

say "collecting licences"
doc=$work/share/doc
mkdir -p "$doc/retinaface"
cp "$root"/LICENSE* "$root/assets/LICENSES.md" "$root/Cargo.lock" "$doc/retinaface/"
cp "$fetch/models/LICENSE.retinaface_mnet025" "$doc/retinaface/LICENSE.model"

# The crates that are linked into plugin and program, with their licences.
cargo metadata --manifest-path "$root/Cargo.toml" --locked --offline --format-version 1 \
  --filter-platform x86_64-unknown-linux-gnu >"$work/metadata.json" ||
  die "the sources of the crates are not here, nor their licences: run make build"
python3 - "$work/metadata.json" "$doc/crates" <<'CRATES'
import json, pathlib, shutil, sys
metadata = json.load(open(sys.argv[1]))
crates = pathlib.Path(sys.argv[2])
crates.mkdir()
packages = {package["id"]: package for package in metadata["packages"]}
needs = {node["id"]: [dependency["pkg"] for dependency in node["deps"]
                      if any(kind["kind"] is None for kind in dependency["dep_kinds"])]
         for node in metadata["resolve"]["nodes"]}
members = set(metadata["workspace_members"])
linked, waiting = set(), list(members)
while waiting:
    crate = waiting.pop()
    if crate not in linked:
        linked.add(crate)
        waiting.extend(needs[crate])
lines = []
for package in (packages[crate] for crate in linked - members):
    name = f"{package['name']} {package['version']}"
    lines.append(f"{name}: {package['license'] or package['license_file']}")
    for file in pathlib.Path(package["manifest_path"]).parent.iterdir():
        if file.is_file() and file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT")):
            (crates / name.replace(" ", "-")).mkdir(exist_ok=True)
            shutil.copyfile(file, crates / name.replace(" ", "-") / file.name)
(crates / "CRATES.txt").write_text("\n".join(sorted(lines)) + "\n")
CRATES
rm "$work/metadata.json"

# The package of every file. Where /lib is a link, packages name their files with /usr or without.
declare -A package_of
while IFS=: read -r package rest; do
  [[ $package == diversion* ]] || package_of[${rest##* }]=${package%%,*}
done < <(for file in "${origin[@]}"; do printf '%s\0%s\0' "$file" "${file#/usr}"; done | LC_ALL=C xargs -0 dpkg-query -S 2>/dev/null || true)
declare -A packages
strangers=()
for place in "${!origin[@]}"; do
  file=${origin[$place]}
  [[ $file != "$root"/* && $file != "$target"/* ]] || continue
  package=${package_of[$file]:-${package_of[${file#/usr}]:-}}
  if [[ -n $package ]]; then
    packages[$package]=1
  else
    strangers+=("$place, from $file")
  fi
done
if (( ${#strangers[@]} > 0 )); then
  say "of no package, so that their licences are for you to add:"
  printf '  %s\n' "${strangers[@]}" | LC_ALL=C sort | tee "$doc/OF_NO_PACKAGE.txt" >&2
fi
mapfile -t names < <(printf '%s\n' "${!packages[@]}" | LC_ALL=C sort)
for package in "${names[@]}"; do
  [[ -f /usr/share/doc/$package/copyright ]] || die "/usr/share/doc/$package/copyright is missing: reinstall $package"
  install -D -m 644 "/usr/share/doc/$package/copyright" "$doc/packages/$package/copyright"
done
if [[ -d /usr/share/common-licenses ]]; then
  cp -rL /usr/share/common-licenses "$doc/common-licenses"
fi

version=$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
runtime_version=$(LC_ALL=C readelf --version-info "$work/lib/retinaface/libonnxruntime.so.1" | sed -n 's/.*Name: VERS_\([0-9.]*\).*/\1/p' | head -n 1)
gstreamer_version=$(pkg-config --modversion gstreamer-1.0)
# shellcheck source=/dev/null
system=$(. /etc/os-release && echo "$PRETTY_NAME")
{
  echo "retinaface $version"
  echo "ONNX Runtime ${runtime_version:-of unknown version} ($variant)"
  echo "GStreamer $gstreamer_version"
  echo
  echo "Packages of $system, with the version and source package of each:"
  LC_ALL=C dpkg-query -W -f='${binary:Package} ${Version} (${source:Package} ${source:Version})\n' "${names[@]}"
} >"$work/VERSIONS.txt"

gpl=$(for name in libx264 libx265 libavcodec libavfilter libpostproc; do
  compgen -G "$work/lib/$name.so.*" >/dev/null && echo "$name"
done | paste -sd ' ')
cat >"$work/README.txt" <<README
retinaface $version: a face pipeline for GStreamer, in one folder ($variant)

It runs on x86-64 Linux with a kernel 3.2 or newer and a /bin/sh. Nothing is installed and no network is
needed; copy or move the folder wherever you like (a path without ':' and ';').

    bin/retinaface detect photo.jpg
    bin/gst-launch-1.0 -q filesrc location=in.mp4 ! decodebin ! retinaface ! facemetapublish ! fakesink
    bin/gst-inspect-1.0 retinaface

    . ./env.sh                                         gst-launch-1.0 and the others are then these
    scripts/launch pipelines/annotate.launch INPUT=in.mp4 OUT=out    (needs bash)

How it works
  The scripts in bin/ start the programs in libexec/ by the bundle's own loader, with the bundle's
  libraries first. The host's glibc may be older, or not there at all. libexec/launch.sh has the details.
  Variables that you may set:
    ORT_DYLIB_PATH, RETINAFACE_MODEL   another ONNX Runtime, another model
    RETINAFACE_DRIVER_PATH             folders of the GPU driver's libraries, where they are in an unusual place
    GST_REGISTRY                       GStreamer's cache; else retinaface-bundle/ in ~/.cache or XDG_CACHE_HOME
  GST_PLUGIN_PATH, LD_LIBRARY_PATH and LD_PRELOAD are not passed on: they speak of the host's libraries.

GPU
  The driver is the host's (for NVIDIA: libcuda.so.1, and libnvcuvid.so.1 for nvh264dec). Its usual folders
  are searched after the bundle's own. nvidia-smi shows whether there is one.
  A bundle for CUDA is made with 'scripts/bundle.sh --cuda', for OpenVINO with '--openvino'; this one is
  for: $variant.

What is in it
  VERSIONS.txt   versions of everything
  SHA256SUMS     every file; 'sha256sum --check --quiet SHA256SUMS' checks them
  share/doc/     licences: retinaface/ the project's and the model's, crates/ those of the Rust crates in
                 it, packages/ those of the libraries, common-licenses/ the texts they name;
                 lib/retinaface/ has those of ONNX Runtime beside it

Licences
  retinaface is MIT or Apache-2.0, GStreamer and glibc are LGPL. Some libraries are GPL:
    ${gpl:-none was found}
  (x264 and x265 are GPL-2 or later; FFmpeg's libraries, which GStreamer's libav plugin loads, are built
  with parts under the GPL.) Who passes this folder on passes GPL software on and has to offer its
  sources: they are the source packages named in VERSIONS.txt. H.264 and H.265 may need patent licences
  where you are.
README
[[ $variant != cuda ]] || cat >>"$work/README.txt" <<'README'
  NVIDIA's libraries in lib/retinaface/ are under NVIDIA's own terms, not open source ones.
README
[[ $media == no ]] || cat >>"$work/README.txt" <<'README'
  share/retinaface/media/ is for trying the bundle out, not for passing on: see its LICENSE.
README

# ---------------------------------------------------------------- the last files, and checks

list_files() { (cd "$work" && find . -type f ! -name SHA256SUMS -printf '%P\0' | LC_ALL=C sort -z); }
# Names the cache of GStreamer's plugins: another content, another cache.
id=$(list_files | (cd "$work" && xargs -0 sha256sum) | sha256sum | cut -c 1-16)
cat >"$work/libexec/launch.sh" <<LAUNCH
# Sourced by the launchers: runs libexec/\$program of \$bundle with "\$@".
#
# The bundle's loader is given the bundle's folders, so that nothing of the host's is needed, and behind
# them the folders of the host where a GPU driver is: what the bundle has comes from the bundle, and what
# it has not (libcuda.so.1 and the like, which are opened by name) is found there, or where the host's own
# ldconfig knows it.
case \$bundle in
  *[:\;]*)
    echo "\$program: the bundle's path may not have ':' or ';' in it: \$bundle" >&2
    exit 2
    ;;
esac

LAUNCH
{
  printf 'libraries='
  separator=
  for folder in "${bundle_folders[@]}"; do
    # shellcheck disable=SC2016 # it is the launcher that knows where it is
    printf '%s$bundle/%s' "$separator" "$folder"
    separator=:
  done
  cat <<LAUNCH

libraries=\$libraries\${RETINAFACE_DRIVER_PATH:+:\$RETINAFACE_DRIVER_PATH}
gpu=\${RETINAFACE_DRIVER_PATH:+-gpu}
for folder in \\
  /usr/lib/x86_64-linux-gnu /usr/lib/x86_64-linux-gnu/nvidia/current /usr/lib64 /usr/lib64/nvidia /usr/lib \\
  /usr/local/nvidia/lib64 /usr/local/nvidia/lib /run/opengl-driver/lib /usr/lib/wsl/lib; do
  for driver in libcuda.so.1 libze_intel_gpu.so.1; do
    if [ -e "\$folder/\$driver" ]; then
      libraries=\$libraries:\$folder
      gpu=-gpu
      break
    fi
  done
done

# Plugins, modules and character sets of the host are made for the host's libraries.
unset LD_PRELOAD LD_LIBRARY_PATH GST_PLUGIN_PATH GST_PLUGIN_PATH_1_0 GST_PLUGIN_SYSTEM_PATH GIO_EXTRA_MODULES
export GST_PLUGIN_SYSTEM_PATH_1_0="\$bundle/lib/gstreamer-1.0"
export GST_PLUGIN_SCANNER_1_0="\$bundle/libexec/scan-plugins"
export GIO_MODULE_DIR="\$bundle/lib/gio/modules"
export GCONV_PATH="\$bundle/lib/gconv"
export GDAL_DRIVER_PATH=disable

# Variables that are set already are somebody's choice.
export ORT_DYLIB_PATH="\${ORT_DYLIB_PATH:-\$bundle/lib/retinaface/libonnxruntime.so.1}"
export RETINAFACE_MODEL="\${RETINAFACE_MODEL:-\$bundle/share/retinaface/$(basename "$model")}"
# What plugins offer depends on the driver, so that hosts which share a home have two caches. Without a home
# GStreamer's own default is taken.
if [ -z "\${GST_REGISTRY:-}\${GST_REGISTRY_1_0:-}" ] && [ -n "\${XDG_CACHE_HOME:-}\${HOME:-}" ]; then
  export GST_REGISTRY_1_0="\${XDG_CACHE_HOME:-\$HOME/.cache}/retinaface-bundle/registry-$id\$gpu.bin"
fi

exec "\$bundle/lib/$loader" --library-path "\$libraries" "\$bundle/libexec/\$program" "\$@"
LAUNCH
} >>"$work/libexec/launch.sh"
echo "retinaface $version $variant $id" >"$work/$marker"

say "checking that the bundle is complete"
library_path=$(printf ":$work/%s" "${bundle_folders[@]}")
while IFS= read -r -d '' file; do
  # As ldd does it: --list would stop at a driver that is not there.
  lines=$(env -i LD_TRACE_LOADED_OBJECTS=1 "$work/lib/$loader" --inhibit-cache --library-path "${library_path#:}" "$file" 2>&1) ||
    die "${file#"$work/"} cannot be loaded: $(tail -n 1 <<<"$lines")"
  while read -r name arrow path; do
    [[ $arrow == "=>" && $path != "$work"/* ]] || continue
    is_driver "$name" || die "${file#"$work/"} needs $name, which is not in the bundle: $path"
  done <<<"$lines"
done < <(find "$work/lib" "$work/libexec" -type f \( -path '*/libexec/*' ! -name '*.sh' ! -name scan-plugins -o -name '*.so*' \) ! -name "$loader" -print0)

chmod -R u=rwX,go=rX "$work"
list_files | (cd "$work" && xargs -0 sha256sum) >"$work/SHA256SUMS"
# The same sources give the same bundle, times included.
date=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || stat -c %Y "$root/Cargo.lock")}
find "$work" -exec touch --no-dereference --date="@$date" {} +

if [[ -e $out ]]; then
  aside=$(mktemp -d "$parent/.bundle.XXXXXX")
  mv -T "$out" "$aside"
fi
mv -T "$work" "$out"
say "ready: $out ($variant, $(du -sh "$out" | cut -f 1))"
