// Marks a function that both the CPU and the GPU compile.
//
// Everything in csrc/common is plain C++17 without the standard library's containers, torch, Python or CUDA types, so
// that the same header defines a result once for every device. On the CPU these functions are always inlined: a weak
// out-of-line copy from a file compiled for AVX could otherwise be linked into the baseline path.
#pragma once

#if defined(__CUDACC__)
#define BSE_HOST_DEVICE __host__ __device__
#else
#define BSE_HOST_DEVICE __attribute__((always_inline))
#endif
