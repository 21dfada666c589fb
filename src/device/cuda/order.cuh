/* An element of a row as one integer whose order is that of argmax and top_k: the float's bits made monotonic in the
 * high half, the column's complement in the low half, so that of equal values the lower column is greater. NaN is the
 * greatest; -0 equals 0. No entry is 0. Columns stay below 2^32. */
#pragma once

#include "device/cuda/pack.cuh"

typedef unsigned long long fk_entry;

static __device__ __forceinline__ uint32_t fk_order_of(float value) {
  uint32_t u = __float_as_uint(value + 0.0f);
  u = u >> 31 ? ~u : u | 0x80000000u;
  return value == value ? u : 0xffffffffu;
}

static __device__ __forceinline__ fk_entry fk_entry_of(uint32_t order, int64_t column) {
  return (fk_entry)order << 32 | (uint32_t) ~(uint32_t)column;
}

static __device__ __forceinline__ int64_t fk_entry_column(fk_entry e) {
  return (int64_t)(uint32_t) ~(uint32_t)e;
}

static __device__ __forceinline__ fk_entry fk_warp_max_entry(fk_entry e) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    fk_entry other = __shfl_xor_sync(0xffffffffu, e, d);
    e = other > e ? other : e;
  }
  return e;
}

/* The larger of two, NaN if one is. */
static __device__ __forceinline__ float fk_max_nan(float a, float b) {
  float max;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(max) : "f"(a), "f"(b));
  return max;
}

/* The largest of 16 bytes of T, NaN if there is one. */
template <typename T>
static __device__ __forceinline__ float fk_max_of_pack(const uint4 &p) {
  if constexpr (std::is_same<T, float>::value) {
    return fk_max_nan(fk_max_nan(__uint_as_float(p.x), __uint_as_float(p.y)),
                      fk_max_nan(__uint_as_float(p.z), __uint_as_float(p.w)));
  } else {
    typedef typename std::conditional<std::is_same<T, __half>::value, __half2, __nv_bfloat162>::type two;
    const two *v = reinterpret_cast<const two *>(&p);
    two m = __hmax2_nan(__hmax2_nan(v[0], v[1]), __hmax2_nan(v[2], v[3]));
    return fk_max_nan(fk_float(m.x), fk_float(m.y));
  }
}
