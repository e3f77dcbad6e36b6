"""The CUDA engine against the CPU engine, for equality, and against what else runs on the same GPU, for time."""
