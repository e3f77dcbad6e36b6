#!/usr/bin/env bash
# Builds the wheel with the CUDA engine and checks it. Needs nvcc, but no GPU.
#   tests/tools/run_cuda_build.sh PYTHON [ARCHITECTURES]   e.g. 90-real; default: all architectures of wheels
# Compares the resources of every kernel with tests/tools/cuda_resources.tsv. The wheel must import and run its CPU
# engine on a machine without a GPU or a driver, and must name its architectures.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(realpath -s "$(command -v "$1")") # absolute, and still the link of the virtual environment
export PATH="$(dirname "$python"):$PATH"     # cmake and ninja
if ! command -v nvcc >/dev/null; then
  echo "not built: no nvcc here"
  exit 0
fi
architectures=()
[ -z "${2:-}" ] || architectures=(--config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES="$2")
rm -rf build/cuda build/cuda_wheel
mkdir -p build/cuda_wheel
"$python" -m pip --disable-pip-version-check wheel -v --no-build-isolation --no-deps -w build/cuda_wheel \
  --config-settings=build-dir=build/cuda/cmake --config-settings=cmake.define.BSE_CUDA=ON \
  --config-settings=cmake.define.BSE_WERROR=ON "${architectures[@]}" . >build/cuda_wheel/build.log 2>&1 ||
  { tail -40 build/cuda_wheel/build.log && exit 1; }
"$python" tests/tools/cuda_resources.py build/cuda_wheel/build.log

"$python" -m zipfile -e build/cuda_wheel/*.whl build/cuda_wheel/site
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cd build/cuda_wheel/site # comes before an editable install in the environment
PYTHONSAFEPATH=1 "$python" -S - "$PWD" "$site" "${2:-80-real, 86-real}" <<'PY'
import sys
sys.path[:0] = sys.argv[1:3]
import torch, batchsampler_ext
from batchsampler_ext._engine.backend import cuda_load_error, cuda_module
from batchsampler_ext.__main__ import main
assert batchsampler_ext.__file__.startswith(sys.argv[1]), batchsampler_ext.__file__
assert cuda_load_error is None, cuda_load_error
assert cuda_module.architectures.startswith(sys.argv[3]), cuda_module.architectures
main(["info"])
assert batchsampler_ext.knn_graph(torch.eye(4), 1).neighbors.shape == (4, 1)
PY
