#!/usr/bin/env bash
# Runs kernel tests, native (tests/cpu) and in Python, and the inputs of the fuzzer against a build with AddressSanitizer and
# UndefinedBehaviorSanitizer.
#   tests/tools/run_asan.sh PYTHON
# The sanitized package has a virtual environment of its own, which uses the other packages of PYTHON's environment.
# Leaks are not checked: the interpreter and torch have some of their own.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
export PATH="$(cd "$(dirname "$python")" && pwd):$PATH" # cmake and ninja
venv=build/asan/venv
test -x "$venv/bin/python" || "$python" -m venv "$venv"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/borrowed.pth"
"$python" -m pip --python "$venv/bin/python" --disable-pip-version-check -q install --no-build-isolation --no-deps --force-reinstall \
  --config-settings=build-dir=build/asan/cmake --config-settings=cmake.build-type=RelWithDebInfo \
  --config-settings=cmake.define.BSE_ASAN=ON --config-settings=install.strip=false .
g++ -std=c++17 -O1 -g -Wall -Wextra -Werror -ffp-contract=off -fno-math-errno -fsanitize=address,undefined \
  -fno-sanitize-recover=all -Icsrc tests/cpu/isa_test.cpp build/asan/cmake/libbse_cpu.a -lpthread -o build/asan/isa_test
build/asan/isa_test
# Without libstdc++, the sanitizer cannot find the real __cxa_throw and aborts at the first exception.
libraries=$(for name in libasan.so libubsan.so libstdc++.so; do g++ -print-file-name=$name; done | paste -sd:)
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONSAFEPATH=1
LD_PRELOAD="$libraries" "$venv/bin/python" - <<'PY'
import pathlib, sys
import batchsampler_ext, pytest
assert "asan" in pathlib.Path(batchsampler_ext.__file__).parts, batchsampler_ext.__file__
sys.path.append(".")  # for tests.fuzz
tests = "oracle or symmetric or threshold or ends or bad or layout or block_boundary or subset or awkward or changes_in_place"
tests += " or refused or odd_addresses"
files = [f"tests/python/test_{name}.py" for name in ("similarity", "walk", "mutual", "batches", "errors")]
files += [f"tests/python/test_{name}.py" for name in ("fuzz_corpus", "untrusted")]
sys.exit(pytest.main(["-q", "-n", "auto", "-p", "no:cacheprovider", "-k", tests, *files]))
PY
