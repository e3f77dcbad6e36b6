#!/usr/bin/env bash
# Measures which lines of the package and of its CPU engine are executed by tests.
#   tests/tools/run_coverage.sh PYTHON [ARGUMENT_OF_PYTEST...]
# The build for this has a virtual environment of its own, which uses the other packages of PYTHON's environment. Device
# code is not part of it: tests/emulator/run.sh coverage measures that.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
export PATH="$(cd "$(dirname "$python")" && pwd):$PATH" # cmake and ninja
out=$PWD/build/coverage
venv=$out/venv
test -x "$venv/bin/python" || "$python" -m venv "$venv"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/borrowed.pth"
pwd >>"$site/borrowed.pth" # for imports between tests; the installed package comes before the one of the checkout
echo "import coverage; coverage.process_startup()" >>"$site/borrowed.pth" # processes that tests start are measured, too
rm -rf "$out/python" "$out/cpp" "$out"/.coverage*
find "$out" -name '*.gcda' -delete
"$python" -m pip --python "$venv/bin/python" --disable-pip-version-check -q install --no-build-isolation --no-deps --force-reinstall \
  --config-settings=build-dir=build/coverage/cmake --config-settings=cmake.build-type=Debug \
  --config-settings=cmake.define.CMAKE_CXX_FLAGS_DEBUG="-O1 -g --coverage" --config-settings=cmake.define.BSE_CUDA=OFF .
export PYTHONSAFEPATH=1 COVERAGE_FILE=$out/.coverage
status=0
"$venv/bin/python" -m coverage run -m pytest -q -p no:cacheprovider -m "not timed and not nightly" "${@:2}" || status=$?
"$venv/bin/python" -m coverage combine -q "$out"
"$venv/bin/python" -m coverage html -q -d "$out/python"
"$venv/bin/python" -m coverage report --skip-covered --sort=cover
mkdir -p "$out/cpp"
# Threads count without locks, so that kernels stay fast: a line is executed or not, the number means little. A line of a
# template counts once.
"$venv/bin/python" -m gcovr --root . --filter csrc/ --object-directory "$out/cmake" --html-details "$out/cpp/index.html" \
  --gcov-ignore-parse-errors={negative,suspicious}_hits.warn_once_per_file --merge-lines --txt-summary --txt - --sort uncovered-percent "$out/cmake"
echo "line by line: build/coverage/python/index.html, build/coverage/cpp/index.html"
exit $status
