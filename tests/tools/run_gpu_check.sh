#!/usr/bin/env bash
# Runs all checks that need a GPU, on a machine with one and without network: `make gpu-check PYTHON=python3`.
#   tests/tools/run_gpu_check.sh PYTHON
# PYTHON has torch, numpy, pybind11, scikit-build-core, cmake and pytest. Builds for the GPU at hand. Runs the selftest
# of the emulator, the kernel tests, all tests marked needs_cuda (none may be skipped), compute-sanitizer on a few of
# them, and the benchmark, whose table comes last. Logs go to build/gpu (and to $OUT, if set).
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
build=build/gpu
rm -rf "$build/site"
mkdir -p "$build"
failures=()
step() { # NAME COMMAND...: continues after a failure, which is reported at the end
  local name=$1
  shift
  local start=$SECONDS
  echo "== $name"
  if ! "$@" >"$build/$name.log" 2>&1; then
    failures+=("$name")
    tail -n 60 "$build/$name.log"
  fi
  tail -n 2 "$build/$name.log"
  echo "   $((SECONDS - start)) s"
}

step build "$python" -m pip --disable-pip-version-check install --no-build-isolation --no-deps --no-index -v \
  --target "$build/site" --config-settings=build-dir="$build/cmake" --config-settings=cmake.define.BSE_CUDA=ON \
  --config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=native --config-settings=cmake.define.BSE_EMULATED_CUDA=ON .
export PYTHONPATH="$PWD/$build/site" PYTHONSAFEPATH=1 BSE_REQUIRE_CUDA=1
pytest=("$python" -m pytest -q -c tests/tools/gpu_check.ini --rootdir "$PWD" --import-mode=importlib -p no:cacheprovider)
tests=(tests/cuda/test_cuda_*.py)

step selftests tests/emulator/run.sh cuda
step tests timeout 150 "${pytest[@]}" -m needs_cuda "${tests[@]}"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    # Without torch's cache of memory, the tool sees where each array ends.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      step "$tool" timeout 90 compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
      "${pytest[@]}" -m needs_cuda -k "equals_the_oracle or test_walks_equal or (test_partitions and soft) or (tensor_core and near)" \
      "${tests[@]}"
  done
else
  echo "compute-sanitizer: not here"
fi
# Without the safe path, because benchmarks is a package of this folder.
export PYTHONPATH="$PWD/$build/site:$PWD"
step benchmark timeout 240 "$python" -m benchmarks.gpu
if [ -n "${OUT:-}" ]; then
  cp "$build"/*.log "$OUT/"
  cp benchmarks/results/*.json "$OUT/" || true
fi
echo "failed: ${failures[*]:-nothing}"
cat "$build/benchmark.log"
[ ${#failures[@]} -eq 0 ]
