#!/usr/bin/env bash
# Makes the minimal bundle of scripts/bundle.sh --minimal: a directory that checks the execution
# providers of an x86-64 Linux host with retinaface-gpu-check, without GStreamer. bundle.sh has
# checked the arguments.
#
#   scripts/bundle-minimal.sh OUT_DIR [PROVIDER...]
#
# The libraries of a Vulkan driver come from the host. They can need a newer glibc or libstdc++ than
# this bundle has, so that gpu-check takes those of the host where they are newer.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fetch=$root/.fetch
target=${CARGO_TARGET_DIR:-$root/target}
[[ $target == /* ]] || target=$root/target
out=$1
shift
providers=("$@")

# ldconfig is in /usr/sbin, which is often not on PATH.
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'bundle: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

program=$target/release/retinaface-gpu-check
fp16=$fetch/models/variants/retinaface_mnet025_fp16.onnx
[[ -f $program ]] || die "there is no $program: run make build"

work=$(mktemp -d "$(dirname "$out")/.bundle.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
share=$work/share/retinaface
mkdir -p "$work"/{bin,lib/glibc,lib/gcc,lib/retinaface/providers} "$share" "$work/share/doc"

say "copying program, model, frames and ONNX Runtime (${providers[*]:-cpu})"
install -m 755 "$program" "$work/bin/"
strip "$work/bin/retinaface-gpu-check"
cp "$fetch/models/retinaface_mnet025.onnx" "$share/"
[[ ! -f $fp16 ]] || cp "$fp16" "$share/"
"$root/scripts/make-frames" "$share"
cp -L "$fetch/onnxruntime/libonnxruntime.so.1" "$work/lib/retinaface/"
for provider in "${providers[@]}"; do
  cp -rL "$fetch/providers/$provider" "$work/lib/retinaface/providers/"
done
find "$work" -name .complete -delete

# ---------------------------------------------------------------- libraries

# system_library NAME: prints the path of a library of this system.
system_library() {
  ldconfig -p | awk -v name="$1" '$1 == name && /x86-64/ && !found++ { print $NF }'
}

interpreter=$(LC_ALL=C readelf --program-headers "$program" | sed -n 's/.*program interpreter: \(.*\)]/\1/p')
cp -L "$interpreter" "$work/lib/glibc/"
loader=$(basename "$interpreter")
sources=()
# copy_library NAME PATH
copy_library() {
  local directory=lib
  case $1 in
    libc.so.6 | libm.so.6 | libdl.so.2 | libpthread.so.0 | librt.so.1 | libmvec.so.1) directory=lib/glibc ;;
    libstdc++.so.6 | libgcc_s.so.1) directory=lib/gcc ;;
  esac
  [[ ! -e $work/$directory/$1 ]] || return 0
  cp -L "$2" "$work/$directory/$1"
  sources+=("$(readlink -f "$2")")
}
while IFS= read -r -d '' binary; do
  directory=$(dirname "$binary")
  while read -r name arrow path _; do
    [[ $arrow == "=>" ]] || continue
    [[ $path == /* ]] || die "$(basename "$binary") needs $name, which is not installed: run scripts/setup.sh"
    [[ $path == "$work"/* ]] || copy_library "$name" "$path"
  done < <(LD_LIBRARY_PATH=$directory ldd "$binary")
done < <(find "$work/bin" "$work/lib/retinaface" -type f \( -path '*/bin/*' -o -name '*.so*' \) -print0)
# Opened by name: by the program for its threads, and by the provider.
for name in libdl.so.2 libpthread.so.0 librt.so.1; do
  copy_library "$name" "$(system_library "$name")"
done
if [[ " ${providers[*]} " == *" webgpu "* ]]; then
  vulkan=$(system_library libvulkan.so.1)
  [[ -n $vulkan ]] || die "libvulkan.so.1 is missing: run scripts/setup.sh --webgpu"
  copy_library libvulkan.so.1 "$vulkan"
fi

# ---------------------------------------------------------------- launcher, licences

glibc_version=$(getconf GNU_LIBC_VERSION | cut -d ' ' -f 2)
libstdcxx=$(basename "$(readlink -f "$(system_library libstdc++.so.6)")")
cat >"$work/gpu-check" <<LAUNCHER
#!/bin/sh
# Checks and measures the execution providers of this machine.
#
#   ./gpu-check OUT [OPTIONS]    writes OUT/report.md; ./gpu-check --help lists the options
#
# A Vulkan driver is part of the host, and can need its glibc and libstdc++. Where those are newer than
# the ones of this bundle, they are used.
here=\$(CDPATH='' cd -- "\$(dirname "\$0")" && pwd -P) || exit 2
newer() { [ "\$1" != "\$2" ] && [ "\$(printf '%s\\n%s\\n' "\$1" "\$2" | sort -V | tail -n 1)" = "\$1" ]; }
host_library() { ldconfig -p 2>/dev/null | awk -v name="\$1" '\$1 == name && /x86-64/ { print \$NF; exit }'; }
PATH=\$PATH:/usr/sbin:/sbin
libraries=\$here/lib
host=\$(host_library libstdc++.so.6)
if [ -z "\$host" ] || ! newer "\$(basename "\$(readlink -f "\$host")")" $libstdcxx; then
  libraries=\$libraries:\$here/lib/gcc
fi
export RETINAFACE_RUNTIMES="\$here/lib/retinaface"
export RETINAFACE_MODEL="\$here/share/retinaface/retinaface_mnet025.onnx"
export RETINAFACE_GPU_CHECK="\$here/gpu-check"
unset ORT_DYLIB_PATH LD_PRELOAD
fp16=\$here/share/retinaface/$(basename "$fp16")
case " \$* " in *" --frames"[=\ ]* | *" --help "*) ;; *) set -- --frames "\$here/share/retinaface/frames_640x360.nv12" "\$@" ;; esac
case " \$* " in *" --fp16-model"[=\ ]*) ;; *) [ ! -f "\$fp16" ] || set -- --fp16-model "\$fp16" "\$@" ;; esac
host=\$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d ' ' -f 2)
if newer "\${host:-0}" $glibc_version || [ "\$host" = $glibc_version ]; then
  LD_LIBRARY_PATH=\$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} exec "\$here/bin/retinaface-gpu-check" "\$@"
fi
# Directories of the host's drivers come after the libraries of the bundle.
exec "\$here/lib/glibc/$loader" --library-path \\
  "\$here/lib/glibc:\$libraries:/usr/lib/x86_64-linux-gnu:/usr/lib64:/usr/lib" "\$here/bin/retinaface-gpu-check" "\$@"
LAUNCHER
chmod 755 "$work/gpu-check"

cp "$root"/LICENSE* "$root/assets/LICENSES.md" "$root/Cargo.lock" "$work/share/doc/"
cp "$fetch/models/LICENSE.retinaface_mnet025" "$work/share/doc/LICENSE.model"
cp "$fetch/onnxruntime/LICENSE" "$work/share/doc/LICENSE.onnxruntime"
cp "$fetch/onnxruntime/ThirdPartyNotices.txt" "$work/share/doc/ThirdPartyNotices.onnxruntime.txt"
# Packages of a merged /usr list files with or without it.
mapfile -t packages < <(printf '%s\n' "${sources[@]}" "${sources[@]#/usr}" | xargs dpkg-query -S 2>/dev/null | sed 's/:.*//' | sort -u)
for package in "${packages[@]}"; do
  [[ ! -f /usr/share/doc/$package/copyright ]] || cp -L "/usr/share/doc/$package/copyright" "$work/share/doc/copyright.$package"
done
cat >"$work/README.txt" <<README
Check of the execution providers of ONNX Runtime for retinaface (${providers[*]:-cpu}).

    ./gpu-check OUT

writes OUT/report.md, OUT/report.json and OUT/throughput.svg, in at most 8 minutes. Nothing has to be
installed but the driver of the GPU. share/retinaface/frames_640x360.nv12 is for this check only and
must not be redistributed: see share/doc/LICENSES.md.
README
find "$work" -type f -name '*.so*' -exec chmod 644 {} + -o -type d -exec chmod 755 {} +
chmod 755 "$work/lib/glibc/$loader"
touch "$work/.retinaface-bundle"
rm -rf "$out"
mv -T "$work" "$out"
say "created $out (minimal, $(du -sh "$out" | cut -f 1))"
