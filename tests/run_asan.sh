#!/usr/bin/env bash
# Runs the kernel tests against a build with AddressSanitizer and UndefinedBehaviorSanitizer.
#   tests/run_asan.sh PYTHON
# The sanitized _core is built beside the installed one and put first on the path together with the package's Python
# files. Leaks are not looked for: the interpreter and torch keep their own.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
stage=build/asan/package
"$python" -m pip --disable-pip-version-check -q install --no-build-isolation --no-deps --target "$stage" --upgrade \
  -Cbuild-dir=build/asan/cmake -Ccmake.build-type=RelWithDebInfo -Ccmake.define.BSE_ASAN=ON -Cinstall.strip=false .
runtimes="$(g++ -print-file-name=libasan.so):$(g++ -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 UBSAN_OPTIONS=print_stacktrace=1
LD_PRELOAD="$runtimes" PYTHONPATH="$stage" "$python" - <<'PY'
import pathlib, sys
import batchsampler_ext
assert "asan" in pathlib.Path(batchsampler_ext.__file__).parts, batchsampler_ext.__file__
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-k", "oracle or ends or errors or layout or bad or block_boundary or subset",
                      "tests/test_similarity.py", "tests/test_walk.py", "tests/test_batches.py", "tests/test_errors.py"]))
PY
