# Steps for run_gpu_check.sh on a machine without a GPU: the emulated CUDA engine is in the place of the GPU.
step_build() { install_package BSE_CUDA=OFF BSE_EMULATED_CUDA=ON; }
step_native() { tests/emulator/run.sh plain; }
step_benchmark() { "$python" -m benchmarks.gpu --emulated --seconds "$1" --out "$results/benchmark.json"; }
step_tests() { run_tests -m "not needs_cuda"; }
step_sanitizer() { echo "left out: compute-sanitizer needs a GPU"; }
