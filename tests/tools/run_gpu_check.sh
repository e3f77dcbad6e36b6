#!/usr/bin/env bash
# Runs all checks that need a GPU, on a machine with one and without network: `make gpu-check PYTHON=python3`.
#   tests/tools/run_gpu_check.sh PYTHON [STEPS]
# PYTHON has torch, numpy, pybind11, scikit-build-core, cmake and pytest. STEPS: a file that defines other steps.
# gpu_check_stub.sh runs everything without a GPU.
#
# Takes BSE_GPU_CHECK_SECONDS (350) at most. Each step has a limit and runs whatever happened before. Results are
# written as they come, to $OUT if it is set and to build/gpu otherwise: steps.tsv, a log per step, benchmark.json and
# summary.txt. If the script was cut, `python -m benchmarks.gpu --summarize FOLDER` prints the summary of what is there.
# BSE_COMMIT names the commit where the sources have no git history.
set -uo pipefail
cd "$(dirname "$0")/../.."
export python=$1 build=build/gpu
export results=${OUT:-$build}
export BSE_COMMIT=${BSE_COMMIT:-$(git describe --always --dirty 2>/dev/null || echo unknown)}
deadline=$((SECONDS + ${BSE_GPU_CHECK_SECONDS:-350}))
mkdir -p "$results"
rm -f "$results"/{build,native,benchmark,tests,sanitizer}.log "$results"/{steps.tsv,benchmark.json,summary.txt}

install_package() { # SETTINGS...: into build/gpu/site
  rm -rf "$build/site"
  "$python" -m pip --disable-pip-version-check install --no-build-isolation --no-deps --no-index -v \
    --target "$build/site" --config-settings=build-dir="$build/cmake" "${@/#/--config-settings=cmake.define.}" .
}
run_tests() { # ARGUMENTS...
  GLOO_SOCKET_IFNAME=lo "$python" -m pytest -v --durations=10 -c tests/tools/gpu_check.ini --rootdir "$PWD" \
    --confcutdir "$PWD" --import-mode=importlib -p no:cacheprovider tests/cuda/test_cuda_*.py "$@"
}
step_build() { install_package BSE_CUDA=ON CMAKE_CUDA_ARCHITECTURES=native BSE_EMULATED_CUDA=OFF; }
step_native() { tests/emulator/run.sh cuda; }
step_benchmark() { "$python" -m benchmarks.gpu --seconds "$1" --out "$results/benchmark.json"; }
step_tests() { BSE_REQUIRE_CUDA=1 run_tests -m needs_cuda; }
step_sanitizer() { # programs without Python, which would take minutes
  if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is not installed"
    return
  fi
  local failed=0 tool program start status
  for program in graph_test knn_test "walk_test 1"; do
    for tool in memcheck racecheck; do
      start=$SECONDS status=ok
      # shellcheck disable=SC2086
      timeout -k 5 20 compute-sanitizer --tool "$tool" --error-exitcode 9 build/emulator/cuda/$program ||
        { status="FAILED (exit status $?)" failed=1; }
      echo "program $tool:${program% *}: $status in $((SECONDS - start)) s"
    done
  done
  return $failed
}
# shellcheck source=/dev/null
[ -z "${2:-}" ] || . "$2"
export -f install_package run_tests step_build step_native step_benchmark step_tests step_sanitizer

tell() { (IFS=$'\t' && echo "$*" >>"$results/steps.tsv"); }
failed=()
step() { # NAME LIMIT: runs step_NAME with the seconds that it has
  local name=$1 limit=$2 left=$((deadline - SECONDS - 10)) status=0
  [ "$limit" -le "$left" ] || limit=$left # 10 s are left to kill a step and to summarize
  if [ "$limit" -lt 5 ]; then
    failed+=("$name")
    return
  fi
  echo "== $name (at most $limit s)"
  tell begin "$name" "$(date +%s)"
  timeout -k 5 "$limit" stdbuf -oL -eL bash -c "step_$name $((limit - 5))" >"$results/$name.log" 2>&1 || status=$?
  tell end "$name" "$(date +%s)" "$status"
  [ $status -eq 0 ] || failed+=("$name")
  tail -n 3 "$results/$name.log"
}

tell about commit "$BSE_COMMIT"
tell about gpu "$(nvidia-smi --query-gpu=name --format=csv,noheader --id=0 2>/dev/null || echo none)"
tell about driver "$(nvidia-smi --query-gpu=driver_version --format=csv,noheader --id=0 2>/dev/null || echo none)"
# Benchmarks are imported from the source tree. The package there has no engines, so the built one comes first.
export PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1 PYTHONPATH="$PWD/$build/site:$PWD"
step build 110
step native 75
step benchmark 180
step tests 120
step sanitizer 60
"$python" -m benchmarks.gpu --summarize "$results" | tee "$results/summary.txt"
[ ${#failed[@]} -eq 0 ]
