// Marks a function that both the CPU and the GPU compile.
//
// Everything in csrc/common is plain C++17 without standard containers, torch, Python or CUDA types. So one header
// defines a result for every device. On the CPU these functions are always inlined. Otherwise the linker could pick a
// weak out-of-line copy from a file compiled for AVX, and the baseline path would run it.
#pragma once

#if defined(__CUDACC__)
#define BSE_HOST_DEVICE __host__ __device__
#else
#define BSE_HOST_DEVICE __attribute__((always_inline))
#endif
