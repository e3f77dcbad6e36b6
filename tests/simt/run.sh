#!/usr/bin/env bash
# Builds and runs the tests of the SIMT emulator.
#   tests/simt/run.sh [plain] [asan] [tsan] [cuda]     without arguments: plain, asan, and cuda where there is nvcc
# cuda compiles the same kernels for GPUs and, on a machine with one, runs the selftest there.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=build/simt
mkdir -p "$build"
modes=("$@")
if [ ${#modes[@]} -eq 0 ]; then
  modes=(plain asan)
  ! command -v nvcc >/dev/null || modes+=(cuda)
fi

flags="-std=c++17 -g -Wall -Wextra -Werror -ffp-contract=off -Icsrc -Itests"
# The one file without sanitizers, whatever the mode.
g++ $flags -O2 -fPIC -fvisibility=hidden -c tests/simt/runtime.cpp -o "$build/runtime.o"

for mode in "${modes[@]}"; do
  case $mode in
    plain) options="-O1" ;;
    asan) options="-O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" ;;
    tsan) options="-O1 -fsanitize=thread" ;;
    cuda)
      nvcc -std=c++17 -O2 -x cu -Icsrc -Itests -Xcompiler -Wall,-Wextra -Werror all-warnings \
        -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a \
        tests/simt/selftest.cpp -o "$build/selftest_cuda"
      echo "cuda: compiled"
      if nvidia-smi >/dev/null 2>&1; then "$build/selftest_cuda"; fi
      continue
      ;;
    *)
      echo "unknown mode $mode" >&2
      exit 2
      ;;
  esac
  g++ $flags $options tests/simt/selftest.cpp tests/simt/selftest_runtime.cpp "$build/runtime.o" -lpthread \
    -o "$build/selftest_$mode"
  echo "$mode: $("$build/selftest_$mode")"
done
