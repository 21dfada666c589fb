/* 16 bytes of T as the memory has them, and as floats. What waits between a load and its use stays a uint4: taken apart
 * into elements it would fill twice the registers, and the compiler would wait for each load to take it apart. */
#pragma once

#include "device/cuda/kernel.cuh"

template <typename T>
static __device__ __forceinline__ void fk_unpack(const uint4 &packed, float *to) {
  const uint32_t word[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if constexpr (std::is_same<T, float>::value) {
      to[i] = __uint_as_float(word[i]);
    } else if constexpr (std::is_same<T, __nv_bfloat16>::value) {
      to[2 * i] = __uint_as_float(word[i] << 16);
      to[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
    } else {
      float2 two = __half22float2(*reinterpret_cast<const __half2 *>(&word[i]));
      to[2 * i] = two.x;
      to[2 * i + 1] = two.y;
    }
  }
}

template <typename T>
static __device__ __forceinline__ uint4 fk_repack(const float *from) {
  uint32_t word[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if constexpr (std::is_same<T, float>::value) {
      word[i] = __float_as_uint(from[i]);
    } else if constexpr (std::is_same<T, __nv_bfloat16>::value) {
      __nv_bfloat162 two = __floats2bfloat162_rn(from[2 * i], from[2 * i + 1]);
      word[i] = *reinterpret_cast<const uint32_t *>(&two);
    } else {
      __half2 two = __floats2half2_rn(from[2 * i], from[2 * i + 1]);
      word[i] = *reinterpret_cast<const uint32_t *>(&two);
    }
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

template <typename T>
static __device__ __forceinline__ uint4 fk_load_raw(const T *p) {
  return *reinterpret_cast<const uint4 *>(p);
}

template <typename T>
static __device__ __forceinline__ void fk_store_raw(T *p, const uint4 &v) {
  *reinterpret_cast<uint4 *>(p) = v;
}
