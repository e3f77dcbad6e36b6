#!/usr/bin/env bash
# Builds and runs the tests of the SIMT emulator, and compares kernels in it with the CPU engine.
#   tests/emulator/run.sh [plain] [asan] [tsan] [coverage] [cuda]   default: plain, asan, and cuda if there is nvcc
# coverage prints which lines of csrc/cuda the kernel tests execute (coverage.py). Tests in Python execute more lines.
# cuda compiles the same kernels for GPUs. On a machine with a GPU, it also runs the tests there.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=build/emulator
mkdir -p "$build"
modes=("$@")
if [ ${#modes[@]} -eq 0 ]; then
  modes=(plain asan)
  ! command -v nvcc >/dev/null || modes+=(cuda)
fi

# Compiles for the GPU at hand, or without one for an old and a new architecture.
if nvidia-smi >/dev/null 2>&1; then
  gpus="-arch=native"
else
  gpus="-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a"
fi
flags="-std=c++17 -g -Wall -Wextra -Werror -ffp-contract=off -Icsrc -Itests"
# This file is compiled without sanitizers in every mode.
g++ $flags -O2 -fPIC -fvisibility=hidden -c tests/emulator/runtime.cpp -o "$build/runtime.o"

# Tests of kernels against the CPU engine, and the launchers that they call.
search="csrc/cuda/search/knn.cu csrc/cuda/matrix_topk/matrix_topk.cu csrc/cuda/streaming_topk/streaming_topk.cu"
declare -A launchers=(
  [graph_test]="$search csrc/cuda/search/proximity_graph.cu csrc/cuda/fused_topk/fused_topk.cu"
  [knn_test]="$search"
  [bank_test]="csrc/cuda/bank/bank_update.cu"
  [walk_test]="csrc/cuda/walk/walks.cu"
  [mutual_test]="csrc/cuda/graph/mutual_edges.cu"
  [partition_test]="csrc/cuda/partition/partition.cu"
)
# Files of the CPU engine that the tests need, with the scalar instruction set only.
printf '%s\n' bank/bank_update graph/mutual_edges partition/edge_share partition/partition runtime/thread_team simd/scalar types/graph_view \
  walk/batch_walks walk/interleaved_walks walk/row_degrees |
  xargs -P 2 -I NAME sh -c "g++ $flags -O2 -fno-math-errno -fvisibility=hidden -c csrc/cpu/NAME.cpp \
    -o $build/cpu_\$(basename NAME).o"
rm -f "$build/cpu_engine.a"
ar rcs "$build/cpu_engine.a" "$build"/cpu_*.o

check() { # MODE
  "$build/selftest_$1"
  for test in "${!launchers[@]}"; do "$build/${test}_$1"; done
  if [ "$1" = plain ]; then # GPUs with less shared memory (sm_86, 89, 120), and with more (from sm_90)
    BSE_EMULATOR_MAX_SHARED_BYTES=101376 "$build/graph_test_$1"
    BSE_EMULATOR_MAX_SHARED_BYTES=101376 "$build/knn_test_$1"
    BSE_EMULATOR_MAX_SHARED_BYTES=232448 "$build/graph_test_$1"
  fi
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
          $gpus \
          "tests/emulator/selftest/$program.cpp" -o "$build/${program}_cuda" &
      done
      wait -n && wait -n
      for test in "${!launchers[@]}"; do
        objects=()
        for source in "tests/kernels/$test.cpp" ${launchers[$test]}; do
          objects+=("$build/$(basename "$source")_cuda.o")
          nvcc -std=c++17 -O2 --fmad=false -x cu -Icsrc -Itests -Xcompiler -Wall,-Wextra -Werror all-warnings \
            $gpus \
            -c "$source" -o "${objects[-1]}"
        done
        nvcc "${objects[@]}" "$build/cpu_engine.a" -o "$build/${test}_cuda"
      done
      if nvidia-smi >/dev/null 2>&1; then
        "$build/selftest_cuda"
        for test in "${!launchers[@]}"; do "$build/${test}_cuda"; done
        "$build/planted_bugs_cuda"
      else
        echo "compiled, not run: no GPU here"
      fi
      continue
      ;;
    coverage)
      rm -rf "$build/coverage"
      mkdir "$build/coverage"
      for test in "${!launchers[@]}"; do
        # One object per source, because gcov's notes lie beside it.
        for source in "tests/kernels/$test.cpp" ${launchers[$test]}; do
          g++ $flags -O1 --coverage -x c++ -c "$source" -o "$build/coverage/$test-$(basename "$source").o"
        done
        g++ --coverage "$build/coverage/$test-"*.o "$build/runtime.o" "$build/cpu_engine.a" -lpthread \
          -o "$build/coverage/$test"
        "$build/coverage/$test"
      done
      python3 tests/emulator/coverage.py "$build/coverage"
      continue
      ;;
    *)
      echo "unknown mode $mode" >&2
      exit 2
      ;;
  esac
  g++ $flags $options tests/emulator/selftest/selftest.cpp tests/emulator/selftest/selftest_runtime.cpp "$build/runtime.o" -lpthread \
    -o "$build/selftest_$mode" &
  g++ $flags $options tests/emulator/selftest/planted_bugs.cpp "$build/runtime.o" -lpthread -o "$build/planted_bugs_$mode" &
  wait -n && wait -n
  for test in "${!launchers[@]}"; do
    g++ $flags $options -x c++ "tests/kernels/$test.cpp" ${launchers[$test]} \
      -x none "$build/runtime.o" "$build/cpu_engine.a" -lpthread -o "$build/${test}_$mode"
  done
  check "$mode"
done
