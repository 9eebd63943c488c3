#!/usr/bin/env bash
# Makes a directory that runs on any x86-64 Linux host without installed packages and without a
# network: plugin, program, default model, ONNX Runtime, GStreamer with the plugins of the
# pipelines, and all libraries that these need, including glibc and the dynamic loader. For a GPU,
# the host has to provide only its driver.
#
#   scripts/bundle.sh [--openvino] [--webgpu] [--cuda] [--media] OUT_DIR
#   scripts/bundle.sh --minimal [--openvino] [--webgpu] OUT_DIR
#
#   --cuda                  include the build of ONNX Runtime for CUDA instead of that for the CPU
#                           (scripts/setup.sh --cuda)
#   --openvino, --webgpu    include this execution provider (scripts/setup.sh --openvino, --webgpu)
#   --media                 include the test media
#   --minimal               only the program retinaface-gpu-check and what it needs, without GStreamer,
#                           to check the execution providers of another machine
#
# OUT_DIR is created by a rename after all checks. An existing bundle is replaced; any other
# existing file or directory is an error. Run `make build` first; `make bundle` does both.
#
# Exit status: 0 success, 1 an error, 2 a usage error.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fetch=$root/.fetch
target=${CARGO_TARGET_DIR:-$root/target}
[[ $target == /* ]] || target=$root/$target

say() { printf 'bundle: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }
usage_error() { say "$1; scripts/bundle.sh [--openvino] [--webgpu] [--cuda] [--media] OUT_DIR, or --minimal [--openvino] [--webgpu] OUT_DIR"; exit 2; }

# ---------------------------------------------------------------- arguments

variant=cpu
providers=()
media=no
minimal=no
out=
for argument; do
  case $argument in
    --cuda) variant=cuda ;;
    --openvino | --webgpu) providers+=("${argument#--}") ;;
    --media) media=yes ;;
    --minimal) minimal=yes ;;
    -*) usage_error "unknown option $argument" ;;
    *)
      [[ -z $out ]] || usage_error "one OUT_DIR, not $out and $argument"
      out=$argument
      ;;
  esac
done
[[ -n $out ]] || usage_error "OUT_DIR is missing"
[[ $minimal == no || ($variant == cpu && $media == no) ]] || usage_error "--minimal cannot be combined with --cuda or --media"

# ---------------------------------------------------------------- requirements

[[ $(uname -sm) == "Linux x86_64" ]] ||
  die "a bundle can only be made on x86-64 Linux; this is $(uname -sm): use such a machine or container"
for tool in dpkg-query ldd readelf pkg-config sha256sum cargo python3; do
  command -v $tool >/dev/null ||
    die "$tool is missing: make the bundle on Debian or Ubuntu, and run scripts/setup.sh"
done

out=${out%/}
marker=.retinaface-bundle
parent=$(dirname "$out")
[[ -d $parent ]] || die "there is no directory $parent for $(basename "$out"): create it first"
out=$(cd "$parent" && pwd)/$(basename "$out")
if [[ -L $out || (-e $out && ! -f $out/$marker) ]]; then
  die "$out exists and is not a bundle: move it or choose another directory"
fi

case $variant in
  cpu) runtime=$fetch/onnxruntime setup=scripts/setup.sh ;;
  *) runtime=$fetch/onnxruntime-$variant setup="scripts/setup.sh --$variant" ;;
esac
model=$fetch/models/retinaface_mnet025.onnx
for provider in "${providers[@]}"; do
  [[ -f $fetch/providers/$provider/.complete ]] ||
    die "there is no $fetch/providers/$provider: run scripts/setup.sh --$provider"
done
if [[ $minimal == yes ]]; then
  exec "$root/scripts/bundle-minimal.sh" "$out" "${providers[@]}"
fi
# What the bundle contains, in messages.
content=$variant${providers[*]:+ ${providers[*]}}
content=${content// /+}
[[ -f $runtime/libonnxruntime.so.1 ]] || die "there is no $runtime/libonnxruntime.so.1: run $setup"
[[ -f $model ]] || die "there is no $model: run scripts/setup.sh"
[[ $media == no || -d $fetch/media ]] || die "there is no $fetch/media: run scripts/setup.sh"
for built in libgstretinaface.so retinaface; do
  [[ -f $target/release/$built ]] || die "there is no $target/release/$built: run make build"
done

plugins=$(pkg-config --variable=pluginsdir gstreamer-1.0) || die "the development files of GStreamer are missing: run scripts/setup.sh"
tools=$(pkg-config --variable=toolsdir gstreamer-1.0)
scanner=$(pkg-config --variable=pluginscannerdir gstreamer-1.0)/gst-plugin-scanner
gio_modules=$(pkg-config --variable=giomoduledir gio-2.0)

# Required plugins. A line lists alternatives, and the first one that is installed is copied; `+`
# joins plugins that make up one alternative.
required_plugins='
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
# Copied if installed: video sinks with windows, and additional decoders.
optional_plugins='ximagesink xvimagesink waylandsink opengl openh264 srtp webp'

work=$(mktemp -d "$parent/.bundle.XXXXXX")
previous=
cleanup() {
  rm -rf "$work"
  # Restore the previous bundle if the new one was not moved into place.
  if [[ -n $previous && -e $previous ]]; then
    if [[ -e $out ]]; then rm -rf "$previous"; else mv -T "$previous" "$out"; fi
  fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
chmod 755 "$work"

# ---------------------------------------------------------------- copies

# Source file of each file, by its path in the bundle.
declare -A origin
# Source files whose libraries have to be found.
binaries=()

# copy SOURCE PATH [MODE]: copies a file of the system or the project to PATH in the bundle.
copy() {
  install -D -m "${3:-644}" "$1" "$work/$2"
  origin[$2]=$(readlink -f "$1")
}
copy_binary() {
  copy "$@"
  binaries+=("$1")
}

say "copying plugin, program, model and ONNX Runtime ($content)"
copy_binary "$target/release/retinaface" libexec/retinaface 755
copy_binary "$target/release/libgstretinaface.so" lib/gstreamer-1.0/libgstretinaface.so
copy "$model" "share/retinaface/$(basename "$model")"
mkdir -p "$work/lib"
cp -rL "$runtime" "$work/lib/retinaface"
for provider in "${providers[@]}"; do
  mkdir -p "$work/lib/retinaface/providers"
  cp -rL "$fetch/providers/$provider" "$work/lib/retinaface/providers/$provider"
done
find "$work/lib/retinaface" -name .complete -delete
# source_of PATH: prints the source of a file or directory below lib/retinaface.
source_of() {
  case $1 in
    providers/*) echo "$fetch/$1" ;;
    *) echo "$runtime${1:+/$1}" ;;
  esac
}

say "copying GStreamer"
for tool in gst-launch-1.0 gst-inspect-1.0; do
  [[ -f $tools/$tool ]] || die "$tools/$tool is missing: run scripts/setup.sh"
  copy_binary "$tools/$tool" libexec/$tool 755
done
[[ -f $scanner ]] || die "$scanner is missing: run scripts/setup.sh"
copy_binary "$scanner" libexec/gst-plugin-scanner 755

are_installed() {
  local plugin
  for plugin in ${1//+/ }; do
    [[ -f $plugins/libgst$plugin.so ]] || return 1
  done
}
while read -r -a groups; do
  (( ${#groups[@]} > 0 )) || continue
  for group in "${groups[@]}" ""; do
    [[ -n $group ]] || die "the GStreamer plugin libgst${groups[0]}.so is not in $plugins: run scripts/setup.sh"
    are_installed "$group" || continue
    for plugin in ${group//+/ }; do
      copy_binary "$plugins/libgst$plugin.so" "lib/gstreamer-1.0/libgst$plugin.so"
    done
    break
  done
done <<<"$required_plugins"
for plugin in $optional_plugins; do
  ! are_installed "$plugin" || copy_binary "$plugins/libgst$plugin.so" "lib/gstreamer-1.0/libgst$plugin.so"
done
# TLS, for rtsps://.
mkdir -p "$work/lib/gio/modules"
if [[ -f $gio_modules/libgiognutls.so ]]; then
  copy_binary "$gio_modules/libgiognutls.so" lib/gio/modules/libgiognutls.so
fi

# ---------------------------------------------------------------- libraries

# Libraries of a driver come from the host, because they have to match its kernel.
is_driver() {
  case $1 in
    libcuda.so* | libnvidia-* | libnvcuvid.so* | libnvoptix.so* | libcudadebugger.so* | lib*_nvidia.so*) return 0 ;;
    *) return 1 ;;
  esac
}

# Directories with libraries in the build of ONNX Runtime; they are searched after lib/.
mapfile -t runtime_directories < <(cd "$work/lib/retinaface" && find . -name '*.so*' -type f -printf '%h\n' | LC_ALL=C sort -u | sed 's,^\./\?,,')
runtime_path=
bundle_directories=(lib)
for directory in "${runtime_directories[@]}"; do
  runtime_path+=${runtime_path:+:}$(source_of "$directory")
  bundle_directories+=("lib/retinaface${directory:+/$directory}")
done

# libraries FILE: prints the libraries of FILE as lines "NAME PATH"; PATH is empty for a missing
# one.
libraries() {
  local lines too_old
  lines=$(LC_ALL=C LD_LIBRARY_PATH=$runtime_path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} ldd "$1" 2>&1) || true
  too_old=$(grep -m 1 'version .* not found' <<<"$lines") && die "$1 needs a newer library: ${too_old#"${too_old%%[![:space:]]*}"}"
  awk '$2 == "=>" && $3 == "not" { print $1, "" } $2 == "=>" && $3 ~ /^\// { print $1, $3 }' <<<"$lines"
}

say "resolving libraries"
interpreter=$(LC_ALL=C readelf --program-headers "$target/release/retinaface" | sed -n 's/.*program interpreter: \(.*\)]/\1/p')
[[ -n $interpreter ]] || die "$target/release/retinaface has no program interpreter: it is not a dynamically linked program"
loader=$(basename "$interpreter")
copy "$interpreter" "lib/$loader" 755

while IFS= read -r -d '' file; do
  binaries+=("$(source_of "${file#"$work/lib/retinaface/"}")")
done < <(find "$work/lib/retinaface" -name '*.so*' -type f -print0 | LC_ALL=C sort -z)

# dlopened_by NAME: prints the libraries that the library NAME opens with dlopen; ldd does not list
# them.
dlopened_by() {
  case $1 in
    libtbb.so.*) echo libtbbmalloc.so.2 ;;
    libnss3.so) echo libsoftokn3.so libfreeblpriv3.so libnssckbi.so ;;
  esac
}

# copy_library NAME PATH: copies a library and those that it opens with dlopen.
copy_library() {
  local name directory path
  [[ -z ${origin[lib/$1]+set} ]] || return 0
  copy "$2" "lib/$1"
  for name in $(dlopened_by "$1"); do
    directory=$(dirname "${origin[lib/$1]}")
    for path in "$directory/$name" "$directory/nss/$name"; do
      [[ ! -f $path ]] || { copy_binary "$path" "lib/$name"; break; }
    done
  done
}

missing=()
# copy_library appends to the list during the loop.
for (( i = 0; i < ${#binaries[@]}; i++ )); do
  binary=${binaries[i]}
  needs=$(libraries "$binary") || exit 1
  missing_names=()
  found=()
  while read -r name path; do
    if [[ -z $name || $name == "$loader" || $path == "$runtime"/* || $path == "$fetch/providers"/* ]] || is_driver "$name"; then
      continue
    elif [[ -z $path ]]; then
      missing_names+=("$name")
    else
      found+=("$name $path")
    fi
  done <<<"$needs"
  if (( ${#missing_names[@]} > 0 )); then
    name=$(basename "$binary")
    case $name in
      # Providers other than that of this build are optional, for example TensorRT in the build for
      # CUDA.
      libonnxruntime_providers_shared.so | libonnxruntime_providers_"$variant".so | \
        libonnxruntime_providers_openvino_plugin.so | libonnxruntime_providers_webgpu.so) ;;
      libonnxruntime_providers_*.so)
        say "$name is not included: it needs ${missing_names[*]}"
        rm "$work/lib/retinaface/${binary#"$runtime/"}"
        continue
        ;;
    esac
    missing+=("$name needs ${missing_names[*]}")
  fi
  for pair in "${found[@]}"; do
    copy_library "${pair%% *}" "${pair#* }"
  done
done
if (( ${#missing[@]} > 0 )); then
  say "missing libraries; run $setup, or set LD_LIBRARY_PATH to their directory:"
  printf '  %s\n' "${missing[@]}" >&2
  exit 1
fi

# Libraries that glibc or a driver opens with dlopen.
glibc=$(dirname "${origin[lib/libc.so.6]:?}")
for name in libdl.so.2 libpthread.so.0 librt.so.1 libm.so.6 libmvec.so.1 libresolv.so.2 libutil.so.1 libanl.so.1 \
  libnss_files.so.2 libnss_dns.so.2 libnss_compat.so.2; do
  [[ -n ${origin[lib/$name]+set} || ! -f $glibc/$name ]] || copy "$glibc/$name" "lib/$name"
done
# Character set conversion; the modules of the host do not match the glibc of the bundle.
copy "$glibc/gconv/gconv-modules" lib/gconv/gconv-modules
while read -r module; do
  [[ ! -f $glibc/gconv/$module.so ]] || copy "$glibc/gconv/$module.so" "lib/gconv/$module.so"
done < <(awk '$1 == "module" { print $4 }' "$glibc/gconv/gconv-modules" | LC_ALL=C sort -u)

# ---------------------------------------------------------------- launchers

# launcher PATH PROGRAM: writes a script that runs libexec/PROGRAM.
launcher() {
  cat >"$work/$1" <<LAUNCHER
#!/bin/sh
# Runs libexec/$2 with the libraries of this bundle, see libexec/launch.sh.
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
# Source this file (`. ./env.sh`) to run gst-launch-1.0, gst-inspect-1.0 and retinaface of the
# bundle. Works in sh, bash and zsh; in a plain sh source it from the directory of the bundle.
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
  echo "env.sh: source this file from the directory of the bundle" >&2
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

# Licences of the crates that are linked into plugin and program.
cargo metadata --manifest-path "$root/Cargo.toml" --locked --offline --format-version 1 \
  --filter-platform x86_64-unknown-linux-gnu >"$work/metadata.json" ||
  die "the sources of the crates, which contain their licences, are missing: run make build"
python3 - "$work/metadata.json" "$doc/crates" <<'CRATES'
import json, pathlib, shutil, sys
metadata = json.load(open(sys.argv[1]))
crates = pathlib.Path(sys.argv[2])
crates.mkdir()
packages = {package["id"]: package for package in metadata["packages"]}
dependencies = {node["id"]: [dependency["pkg"] for dependency in node["deps"]
                      if any(kind["kind"] is None for kind in dependency["dep_kinds"])]
         for node in metadata["resolve"]["nodes"]}
members = set(metadata["workspace_members"])
linked, waiting = set(), list(members)
while waiting:
    crate = waiting.pop()
    if crate not in linked:
        linked.add(crate)
        waiting.extend(dependencies[crate])
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

# The package of each file. If /lib is a symbolic link, packages list files with or without /usr.
declare -A package_of
while IFS=: read -r package rest; do
  [[ $package == diversion* ]] || package_of[${rest##* }]=${package%%,*}
done < <(for file in "${origin[@]}"; do printf '%s\0%s\0' "$file" "${file#/usr}"; done | LC_ALL=C xargs -0 dpkg-query -S 2>/dev/null || true)
declare -A packages
unpackaged=()
for path in "${!origin[@]}"; do
  file=${origin[$path]}
  [[ $file != "$root"/* && $file != "$target"/* ]] || continue
  package=${package_of[$file]:-${package_of[${file#/usr}]:-}}
  if [[ -n $package ]]; then
    packages[$package]=1
  else
    unpackaged+=("$path, from $file")
  fi
done
if (( ${#unpackaged[@]} > 0 )); then
  say "files that belong to no package; add their licences yourself:"
  printf '  %s\n' "${unpackaged[@]}" | LC_ALL=C sort | tee "$doc/FILES_WITHOUT_PACKAGE.txt" >&2
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
  echo "ONNX Runtime ${runtime_version:-of unknown version} ($content)"
  echo "GStreamer $gstreamer_version"
  echo
  echo "Packages of $system, each with its version and source package:"
  LC_ALL=C dpkg-query -W -f='${binary:Package} ${Version} (${source:Package} ${source:Version})\n' "${names[@]}"
} >"$work/VERSIONS.txt"

gpl=$(for name in libx264 libx265 libavcodec libavfilter libpostproc; do
  compgen -G "$work/lib/$name.so.*" >/dev/null && echo "$name"
done | paste -sd ' ')
cat >"$work/README.txt" <<README
retinaface $version: face detection for GStreamer, in one directory ($content)

It runs on x86-64 Linux with kernel 3.2 or newer and a /bin/sh. Nothing has to be installed, and no
network is needed. The directory can be copied or moved to any path without ':' and ';'.

    bin/retinaface detect photo.jpg
    bin/gst-launch-1.0 -q filesrc location=in.mp4 ! decodebin ! retinaface ! facemetapublish ! fakesink
    bin/gst-inspect-1.0 retinaface

    . ./env.sh                                         puts these programs on PATH
    scripts/launch pipelines/annotate.launch INPUT=in.mp4 OUT=out    (needs bash)

How it works
  The scripts in bin/ start the programs in libexec/ with the dynamic loader of the bundle, which
  searches the libraries of the bundle first. The glibc of the host is not used. See
  libexec/launch.sh.
  Environment variables:
    ORT_DYLIB_PATH, RETINAFACE_MODEL   another ONNX Runtime, another model
    RETINAFACE_DRIVER_PATH             directories of the GPU driver's libraries, if not a usual one
    GST_REGISTRY                       plugin cache of GStreamer; the default is retinaface-bundle/ in
                                       XDG_CACHE_HOME or ~/.cache
  GST_PLUGIN_PATH, LD_LIBRARY_PATH and LD_PRELOAD are unset: they refer to libraries of the host.

GPU
  The host provides the driver (for NVIDIA: libcuda.so.1, and libnvcuvid.so.1 for nvh264dec). Its usual
  directories are searched after those of the bundle. nvidia-smi shows whether a driver is installed.
  'scripts/bundle.sh --cuda' makes a bundle for CUDA; '--openvino' and '--webgpu' add these execution
  providers. This one has: $content. 'bin/retinaface devices' lists what works on this machine.

Contents
  VERSIONS.txt   versions of everything
  SHA256SUMS     checksums; 'sha256sum --check --quiet SHA256SUMS' verifies them
  share/doc/     licences: retinaface/ of the project and the model, crates/ of the Rust crates,
                 packages/ of the libraries, common-licenses/ texts that they refer to. Those of ONNX
                 Runtime are in lib/retinaface/

Licences
  retinaface is MIT or Apache-2.0, GStreamer and glibc are LGPL. Some libraries are GPL:
    ${gpl:-none}
  x264 and x265 are GPL-2 or later. The FFmpeg libraries, which the libav plugin of GStreamer loads,
  are built with parts under the GPL. If you redistribute this directory, you redistribute GPL
  software and must offer its sources, which are the source packages in VERSIONS.txt. H.264 and
  H.265 can require patent licences in your country.
README
[[ $variant != cuda ]] || cat >>"$work/README.txt" <<'README'
  The NVIDIA libraries in lib/retinaface/ are under NVIDIA's licence, which is not open source.
README
[[ $media == no ]] || cat >>"$work/README.txt" <<'README'
  share/retinaface/media/ is for tests and must not be redistributed: see its LICENSE.
README

# ---------------------------------------------------------------- launch.sh, checks, checksums

list_files() { (cd "$work" && find . -type f ! -name SHA256SUMS -printf '%P\0' | LC_ALL=C sort -z); }
# Part of the name of GStreamer's plugin cache, so that bundles with different content do not share
# one.
id=$(list_files | (cd "$work" && xargs -0 sha256sum) | sha256sum | cut -c 1-16)
cat >"$work/libexec/launch.sh" <<LAUNCH
# The launchers source this file. It runs libexec/\$program of \$bundle with the arguments "\$@".
#
# The loader of the bundle searches the directories of the bundle first, then those directories of
# the host that contain a GPU driver. So only libraries that the bundle does not have, such as
# libcuda.so.1, come from the host: from these directories or from the cache of ldconfig.
case \$bundle in
  *[:\;]*)
    echo "\$program: the path of the bundle must not contain ':' or ';': \$bundle" >&2
    exit 2
    ;;
esac

LAUNCH
{
  printf 'libraries='
  separator=
  for directory in "${bundle_directories[@]}"; do
    # shellcheck disable=SC2016 # $bundle is expanded by the launcher
    printf '%s$bundle/%s' "$separator" "$directory"
    separator=:
  done
  cat <<LAUNCH

libraries=\$libraries\${RETINAFACE_DRIVER_PATH:+:\$RETINAFACE_DRIVER_PATH}
gpu=\${RETINAFACE_DRIVER_PATH:+-gpu}
for directory in \\
  /usr/lib/x86_64-linux-gnu /usr/lib/x86_64-linux-gnu/nvidia/current /usr/lib64 /usr/lib64/nvidia /usr/lib \\
  /usr/local/nvidia/lib64 /usr/local/nvidia/lib /run/opengl-driver/lib /usr/lib/wsl/lib; do
  for driver in libcuda.so.1 libze_intel_gpu.so.1; do
    if [ -e "\$directory/\$driver" ]; then
      libraries=\$libraries:\$directory
      gpu=-gpu
      break
    fi
  done
done

# Plugins, modules and character sets of the host do not match the libraries of the bundle.
unset LD_PRELOAD LD_LIBRARY_PATH GST_PLUGIN_PATH GST_PLUGIN_PATH_1_0 GST_PLUGIN_SYSTEM_PATH GIO_EXTRA_MODULES
export GST_PLUGIN_SYSTEM_PATH_1_0="\$bundle/lib/gstreamer-1.0"
export GST_PLUGIN_SCANNER_1_0="\$bundle/libexec/scan-plugins"
export GIO_MODULE_DIR="\$bundle/lib/gio/modules"
export GCONV_PATH="\$bundle/lib/gconv"
export GDAL_DRIVER_PATH=disable

# Variables that are already set take precedence.
export ORT_DYLIB_PATH="\${ORT_DYLIB_PATH:-\$bundle/lib/retinaface/libonnxruntime.so.1}"
export RETINAFACE_MODEL="\${RETINAFACE_MODEL:-\$bundle/share/retinaface/$(basename "$model")}"
# The features of plugins depend on the driver, so hosts with and without one have separate caches,
# even if they share a home directory. Without a home directory the default of GStreamer applies.
if [ -z "\${GST_REGISTRY:-}\${GST_REGISTRY_1_0:-}" ] && [ -n "\${XDG_CACHE_HOME:-}\${HOME:-}" ]; then
  export GST_REGISTRY_1_0="\${XDG_CACHE_HOME:-\$HOME/.cache}/retinaface-bundle/registry-$id\$gpu.bin"
fi

exec "\$bundle/lib/$loader" --library-path "\$libraries" "\$bundle/libexec/\$program" "\$@"
LAUNCH
} >>"$work/libexec/launch.sh"
echo "retinaface $version $content $id" >"$work/$marker"

say "checking that the bundle is complete"
library_path=$(printf ":$work/%s" "${bundle_directories[@]}")
while IFS= read -r -d '' file; do
  # Like ldd. The option --list of the loader would fail on a missing driver.
  lines=$(env -i LD_TRACE_LOADED_OBJECTS=1 "$work/lib/$loader" --inhibit-cache --library-path "${library_path#:}" "$file" 2>&1) ||
    die "${file#"$work/"} cannot be loaded: $(tail -n 1 <<<"$lines")"
  while read -r name arrow path; do
    [[ $arrow == "=>" && $path != "$work"/* ]] || continue
    is_driver "$name" || die "${file#"$work/"} needs $name, which is not in the bundle: $path"
  done <<<"$lines"
done < <(find "$work/lib" "$work/libexec" -type f \( -path '*/libexec/*' ! -name '*.sh' ! -name scan-plugins -o -name '*.so*' \) ! -name "$loader" -print0)

chmod -R u=rwX,go=rX "$work"
list_files | (cd "$work" && xargs -0 sha256sum) >"$work/SHA256SUMS"
# Reproducible: the same sources give the same bundle, including timestamps.
date=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || stat -c %Y "$root/Cargo.lock")}
find "$work" -exec touch --no-dereference --date="@$date" {} +

if [[ -e $out ]]; then
  previous=$(mktemp -d "$parent/.bundle.XXXXXX")
  mv -T "$out" "$previous"
fi
mv -T "$work" "$out"
say "created $out ($content, $(du -sh "$out" | cut -f 1))"
