/* An element of a row as one integer whose order is that of argmax and top_k: the float's bits made monotonic in the
 * high half, the column's complement in the low half, so that of equal values the lower column is greater. NaN is the
 * greatest; -0 equals 0. No entry is 0. Columns stay below 2^32. */
#pragma once

#include "device/cuda/kernel.cuh"

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
