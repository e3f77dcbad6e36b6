#!/usr/bin/env bash
# Builds and runs the tests of the SIMT emulator, and compares kernels in it with the CPU engine.
#   tests/emulator/run.sh [plain] [asan] [tsan] [coverage] [cuda]   default: plain, asan, and cuda if there is nvcc
# coverage prints which lines of csrc/cuda the kernel tests execute (coverage.py). Tests in Python execute more lines.
# cuda compiles the same programs for GPUs. On a machine with a GPU, it also runs them. All programs run, whatever fails.
#
# Programs are compiled only if a source has changed. So a machine without a GPU can compile for one that has one: copy
# build/emulator/cuda there with the sources.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=build/emulator
modes=("$@")
if [ ${#modes[@]} -eq 0 ]; then
  modes=(plain asan)
  ! command -v nvcc >/dev/null || modes+=(cuda)
fi

search="csrc/cuda/search/knn.cu csrc/cuda/matrix_topk/matrix_topk.cu csrc/cuda/streaming_topk/streaming_topk.cu"
programs=(selftest planted_bugs graph_test knn_test walk_test bank_test mutual_test partition_test)
declare -A sources=(
  [selftest]="tests/emulator/selftest/selftest.cpp"
  [planted_bugs]="tests/emulator/selftest/planted_bugs.cpp"
  [graph_test]="tests/kernels/graph_test.cpp csrc/cuda/search/proximity_graph.cu csrc/cuda/fused_topk/fused_topk.cu $search"
  [knn_test]="tests/kernels/knn_test.cpp $search"
  [walk_test]="tests/kernels/walk_test.cpp csrc/cuda/walk/walks.cu"
  [bank_test]="tests/kernels/bank_test.cpp csrc/cuda/bank/bank_update.cu"
  [mutual_test]="tests/kernels/mutual_test.cpp csrc/cuda/graph/mutual_edges.cu"
  [partition_test]="tests/kernels/partition_test.cpp csrc/cuda/partition/partition.cu"
)
# Files of the CPU engine that the tests need, with the scalar instruction set only.
cpu_engine=(bank/bank_update graph/mutual_edges partition/edge_share partition/partition runtime/thread_team simd/scalar
  types/graph_view walk/batch_walks walk/interleaved_walks walk/row_degrees)

has_gpu() { nvidia-smi >/dev/null 2>&1; }

# Warnings are errors where developers compile. The compiler of a machine with a GPU may know others.
strict="-Werror" strict_cuda="-Werror all-warnings"
if has_gpu; then strict="" strict_cuda=""; fi
flags="-std=c++17 -g -Wall -Wextra $strict -ffp-contract=off -Icsrc -Itests"

compile_command() { # MODE: the command that compiles one source of device code
  local emulated="g++ $flags -x c++"
  case $1 in
    plain) echo "$emulated -O1" ;;
    asan) echo "$emulated -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" ;;
    tsan) echo "$emulated -O1 -fsanitize=thread" ;;
    coverage) echo "$emulated -O1 --coverage" ;;
    cuda)
      # For the GPU at hand, or without one for an old and a new architecture. Other GPUs compile the PTX.
      local gpus="-gencode arch=compute_80,code=[compute_80,sm_80] -gencode arch=compute_90a,code=sm_90a"
      ! has_gpu || gpus="-arch=native"
      echo "nvcc -std=c++17 -O2 -lineinfo --fmad=false -x cu -Icsrc -Itests -Xcompiler -Wall,-Wextra $strict_cuda $gpus"
      ;;
    *)
      echo "unknown mode $1" >&2
      return 2
      ;;
  esac
}

# Compiles each source once, as many at a time as there are cores, and links programs build/emulator/MODE/NAME.
build_programs() { # MODE
  local mode=$1 folder=$build/$1 objects=$build/objects_$1 command key
  command=$(compile_command "$mode")
  key=$(find csrc tests/emulator tests/kernels -type f | LC_ALL=C sort | xargs sha256sum | sha256sum)
  if [ "$(cat "$folder/sources" 2>/dev/null)" = "$key" ]; then
    echo "programs are compiled already"
    return
  fi
  rm -rf "$objects" "$folder"
  mkdir -p "$objects" "$folder"
  local linker="g++ $flags" runtime="" libraries="-lpthread" commands=$objects/commands program source
  if [ "$mode" = cuda ]; then
    linker="nvcc" libraries=""
  else
    runtime=$objects/runtime.o # compiled without sanitizers in every mode
    linker=${command/ -x c++/}
    echo "g++ $flags -O2 -fPIC -fvisibility=hidden -c tests/emulator/runtime.cpp -o $runtime" >"$commands"
    sources[selftest]="tests/emulator/selftest/selftest.cpp tests/emulator/selftest/selftest_runtime.cpp"
  fi
  for source in "${cpu_engine[@]}"; do
    echo "g++ $flags -O2 -fno-math-errno -fvisibility=hidden -c csrc/cpu/$source.cpp -o $objects/cpu_$(basename "$source").o"
  done >>"$commands"
  for source in $(printf '%s\n' ${sources[*]} | sort -u); do
    echo "$command -c $source -o $objects/$(basename "$source").o"
  done >>"$commands"
  xargs -P "$(nproc)" -I COMMAND sh -c COMMAND <"$commands"
  ar rcs "$objects/cpu_engine.a" "$objects"/cpu_*.o
  for program in "${programs[@]}"; do
    local parts=()
    for source in ${sources[$program]}; do parts+=("$objects/$(basename "$source").o"); done
    $linker "${parts[@]}" $runtime "$objects/cpu_engine.a" $libraries -o "$folder/$program"
  done
  echo "$key" >"$folder/sources"
}

failed=()
run() { # COMMAND...: reports the result and the time; a failure does not end the script
  local start=$EPOCHREALTIME status=0
  "${limit[@]}" "$@" || status=$?
  local word=ok
  if [ $status -ne 0 ]; then
    word="FAILED (exit status $status)"
    failed+=("$(basename "$1")")
  fi
  echo "$start $EPOCHREALTIME $(basename "$1") $word" | awk '{
    printf "program %s: ", $3; for (i = 4; i <= NF; ++i) printf "%s ", $i; printf "in %.1f s\n", $2 - $1 }'
}

planted_bugs() { # MODE
  "$build/$1/planted_bugs" "$1" >"$build/matrix_$1.txt" 2>"$build/reports_$1.txt" || {
    grep FAILED "$build/matrix_$1.txt"
    echo "see $build/matrix_$1.txt and reports_$1.txt" >&2
    return 1
  }
  tail -n 1 "$build/matrix_$1.txt"
}

limit=()
for mode in "${modes[@]}"; do
  echo "== $mode"
  build_programs "$mode"
  case $mode in
    cuda)
      if ! has_gpu; then
        echo "compiled, not run: no GPU here"
        continue
      fi
      limit=(timeout --foreground -k 5 25) # in the process group of the caller, who may have a limit too
      for program in "${programs[@]}"; do run "$build/cuda/$program"; done
      limit=()
      ;;
    coverage)
      for program in "${programs[@]:2}"; do run "$build/coverage/$program"; done
      python3 tests/emulator/coverage.py "$build/objects_coverage"
      ;;
    *)
      for program in selftest "${programs[@]:2}"; do run "$build/$mode/$program"; done
      if [ "$mode" = plain ]; then # GPUs with less shared memory (sm_86, 89, 120), and with more (from sm_90)
        BSE_EMULATOR_MAX_SHARED_BYTES=101376 run "$build/plain/graph_test"
        BSE_EMULATOR_MAX_SHARED_BYTES=101376 run "$build/plain/knn_test"
        BSE_EMULATOR_MAX_SHARED_BYTES=232448 run "$build/plain/graph_test"
      fi
      run planted_bugs "$mode"
      ;;
  esac
done
[ ${#failed[@]} -eq 0 ] || { echo "FAILED: ${failed[*]}" && exit 1; }
