#!/usr/bin/env bash
# Builds and runs the tests of the SIMT emulator, and of kernels in it against the CPU engine.
#   tests/simt/run.sh [plain] [asan] [tsan] [cuda]     without arguments: plain, asan, and cuda where there is nvcc
# cuda compiles the same kernels for GPUs and, on a machine with one, runs the tests there.
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

# What the kernels of csrc/cuda/walk_launch.cu are compared with.
cpu_walks=(csrc/cpu/{batch_walks,graph_view,interleaved_walks,kernels_scalar,thread_team}.cpp)

check() { # MODE
  "$build/selftest_$1"
  "$build/walk_test_$1"
  "$build/bank_test_$1"
  "$build/planted_bugs_$1" "$1" >"$build/matrix_$1.txt" 2>"$build/reports_$1.txt" || {
    grep FAILED "$build/matrix_$1.txt"
    echo "see $build/matrix_$1.txt and reports_$1.txt" >&2
    return 1
  }
  tail -n 1 "$build/matrix_$1.txt"
}

for mode in "${modes[@]}"; do
  echo "== $mode"
  case $mode in
    plain) options="-O1" ;;
    asan) options="-O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" ;;
    tsan) options="-O1 -fsanitize=thread" ;;
    cuda)
      for program in selftest planted_bugs; do
        nvcc -std=c++17 -O2 -x cu -Icsrc -Itests -Xcompiler -Wall,-Wextra -Werror all-warnings \
          -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a \
          "tests/simt/$program.cpp" -o "$build/${program}_cuda" &
      done
      wait -n && wait -n
      for source in csrc/cuda/walk_launch.cu tests/simt/walk_test.cpp; do
        nvcc -std=c++17 -O2 -x cu -Icsrc -Itests -Xcompiler -Wall,-Wextra -Werror all-warnings \
          -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a \
          -c "$source" -o "$build/$(basename "$source")_cuda.o" &
      done
      wait -n && wait -n
      g++ $flags -O2 "${cpu_walks[@]}" -r -o "$build/cpu_walks.o"
      nvcc "$build/walk_launch.cu_cuda.o" "$build/walk_test.cpp_cuda.o" "$build/cpu_walks.o" -o "$build/walk_test_cuda"
      for source in csrc/cuda/bank_update.cu tests/simt/bank_test.cpp; do
        nvcc -std=c++17 -O2 -x cu --fmad=false -Icsrc -Itests -Xcompiler -Wall,-Wextra -Werror all-warnings \
          -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a \
          -c "$source" -o "$build/$(basename "$source")_cuda.o" &
      done
      wait -n && wait -n
      g++ $flags -O2 -c csrc/cpu/bank_update.cpp -o "$build/cpu_bank.o"
      nvcc "$build/bank_update.cu_cuda.o" "$build/bank_test.cpp_cuda.o" "$build/cpu_bank.o" -o "$build/bank_test_cuda"
      if nvidia-smi >/dev/null 2>&1; then
        "$build/selftest_cuda"
        "$build/walk_test_cuda"
        "$build/bank_test_cuda"
        "$build/planted_bugs_cuda"
      else
        echo "compiled, not run: no GPU here"
      fi
      continue
      ;;
    *)
      echo "unknown mode $mode" >&2
      exit 2
      ;;
  esac
  g++ $flags $options tests/simt/selftest.cpp tests/simt/selftest_runtime.cpp "$build/runtime.o" -lpthread \
    -o "$build/selftest_$mode" &
  g++ $flags $options tests/simt/planted_bugs.cpp "$build/runtime.o" -lpthread -o "$build/planted_bugs_$mode" &
  wait -n && wait -n
  g++ $flags $options -x c++ csrc/cuda/walk_launch.cu tests/simt/walk_test.cpp "${cpu_walks[@]}" \
    -x none "$build/runtime.o" -lpthread -o "$build/walk_test_$mode"
  g++ $flags $options -x c++ csrc/cuda/bank_update.cu tests/simt/bank_test.cpp csrc/cpu/bank_update.cpp \
    -x none "$build/runtime.o" -lpthread -o "$build/bank_test_$mode"
  check "$mode"
done
