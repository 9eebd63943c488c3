# Source this file (`. ./env.sh`) so that gst-launch-1.0 and gst-inspect-1.0 find the plugin, the
# plugin finds ONNX Runtime and the default model, and `retinaface` is on PATH.
# Works in sh, bash and zsh; in sh, source it from the root of the repository.
if [ -n "${BASH_SOURCE:-}" ]; then
  _retinaface_root=$(cd "$(dirname "${BASH_SOURCE}")" && pwd)
elif [ -n "${ZSH_VERSION:-}" ]; then
  _retinaface_root=$(cd "$(dirname "${(%):-%x}")" && pwd)
else
  _retinaface_root=$PWD
fi
if [ -f "$_retinaface_root/env.sh" ]; then
  _retinaface_target=${CARGO_TARGET_DIR:-$_retinaface_root/target}
  export GST_PLUGIN_PATH="$_retinaface_target/plugins${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"
  # Variables that are already set take precedence.
  export RETINAFACE_RUNTIMES="${RETINAFACE_RUNTIMES:-$_retinaface_root/.fetch}"
  export RETINAFACE_MODEL="${RETINAFACE_MODEL:-$_retinaface_root/.fetch/models/retinaface_mnet025.onnx}"
  export PATH="$_retinaface_target/bin:$_retinaface_root/.fetch/rust/bin:$PATH"
  unset _retinaface_target
else
  echo "env.sh: source it from the root of the repository" >&2
fi
unset _retinaface_root
