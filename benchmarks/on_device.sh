#!/usr/bin/env bash
# Everything to measure on a device that is lent for half an hour, most important rows first:
#
#     benchmarks/on_device.sh OUT [--groups=check,score:1.5b] [--budget_minutes=25] [--smoke]
#
# Runs under PYTHON (default: python3) from a checkout, and installs only what is missing there of
# what it imports: from the wheels in .whl/ if there are any, else by pip. See benchmarks/on_device.py.
set -euo pipefail
out=${1:?usage: benchmarks/on_device.sh OUT [flags of benchmarks/on_device.py]}
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
missing=$("$python" - <<'END'
import importlib.util
names = ("absl", "flax", "huggingface_hub", "jax", "jaxtyping", "optax", "regex", "transformers")
missing = [name for name in names if importlib.util.find_spec(name) is None]
print(*("absl-py" if name == "absl" else name for name in missing))
END
)
if [ -n "$missing" ]; then
  from=()
  if compgen -G ".whl/*.whl" >/dev/null; then from=(--no-index --find-links .whl); fi
  "$python" -m pip install -q --target "$out/packages" --no-deps "${from[@]}" $missing
  export PYTHONPATH="$out/packages"
fi
# PyTorch's rows share the device: no process takes what it does not use.
export XLA_PYTHON_CLIENT_PREALLOCATE=${XLA_PYTHON_CLIENT_PREALLOCATE:-false} PYTHONUNBUFFERED=1
exec "$python" -m benchmarks.on_device --out="$out" "$@"
