// CUDA's vector types, as far as kernels use them. Their alignment makes misaligned vector loads detectable.
#pragma once

#define BSE_VECTOR_TYPE_2(Type, Element, alignment) \
  struct alignas(alignment) Type {                  \
    Element x, y;                                   \
  };                                                \
  inline Type make_##Type(Element x, Element y) { return Type{x, y}; }
#define BSE_VECTOR_TYPE_4(Type, Element, alignment) \
  struct alignas(alignment) Type {                  \
    Element x, y, z, w;                             \
  };                                                \
  inline Type make_##Type(Element x, Element y, Element z, Element w) { return Type{x, y, z, w}; }

BSE_VECTOR_TYPE_2(int2, int, 8)
BSE_VECTOR_TYPE_2(uint2, unsigned, 8)
BSE_VECTOR_TYPE_2(float2, float, 8)
BSE_VECTOR_TYPE_2(ushort2, unsigned short, 4)
BSE_VECTOR_TYPE_2(ulonglong2, unsigned long long, 16)
BSE_VECTOR_TYPE_4(int4, int, 16)
BSE_VECTOR_TYPE_4(uint4, unsigned, 16)
BSE_VECTOR_TYPE_4(float4, float, 16)
BSE_VECTOR_TYPE_4(ushort4, unsigned short, 8)
#undef BSE_VECTOR_TYPE_2
#undef BSE_VECTOR_TYPE_4

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
};
