#!/usr/bin/env bash
# Runs fast tests against an installed package, away from the checkout: a wheel must not need it.
#   tests/tools/test_installed.sh PYTHON [WHEEL|SDIST]
# Without a file, tests what PYTHON has installed, which includes the packages below. With a file, first installs both
# into an empty virtual environment. Variables such as PIP_CONSTRAINT select versions.
set -euo pipefail
source=$(cd "$(dirname "$0")/../.." && pwd)
python=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "${2:-}" ]; then
  "$python" -m venv "$work/venv"
  python=$work/venv/bin/python
  "$python" -m pip --disable-pip-version-check -q install "$2" hypothesis pytest pytest-timeout scikit-learn
fi
python=$(realpath -s "$(command -v "$python")") # absolute, and still the link of a virtual environment
mkdir -p "$work/tests/python"
cp "$source/pyproject.toml" "$work" # settings of pytest
cp "$source/tests/conftest.py" "$work/tests"
for name in bank batches errors graph_io mutual plan_file process threads walk; do
  cp "$source/tests/python/test_$name.py" "$work/tests/python"
done
cd "$work"
export PYTHONSAFEPATH=1 PYTHONPATH=$work # processes of tests find the tests there, and the package in the environment only
"$python" -m batchsampler_ext info
"$python" - "$source" <<'PY'
import subprocess, sys
from pathlib import Path
import batchsampler_ext
folder = Path(batchsampler_ext.__file__).parent
assert not folder.is_relative_to(sys.argv[1]), f"tests the checkout: {folder}"
is_gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)
assert is_gil_enabled(), "the import left the GIL off (docs/determinism.md)"
timed = "import time, torch; start = time.process_time(); import batchsampler_ext; print(time.process_time() - start)"
seconds = min(float(subprocess.check_output([sys.executable, "-c", timed])) for _ in range(3))
print(f"import of batchsampler_ext after torch: {1000 * seconds:.0f} ms of CPU time")
assert seconds < 0.15
PY
"$python" -m pytest -q -p no:cacheprovider -m "not timed and not nightly" \
  -W "ignore:The global interpreter lock:RuntimeWarning" tests
