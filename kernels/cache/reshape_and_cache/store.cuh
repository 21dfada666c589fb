/* Copying tokens into slots of the caches, for every kernel that does it. Sizes and strides are in bytes. */
#pragma once

#include "device/cuda/kernel.cuh"

enum { CACHE_TOKENS = 64 }; /* most tokens of a block */

/* The slots of a block's tokens [first, first + count), -1 where nothing is to be stored: skipped tokens, slots out of
 * range (reported), and slots that a later token has too. For whole blocks; ends with a barrier. */
static __device__ __forceinline__ void cache_slots(const int64_t *slot_mapping, int64_t tokens, int64_t first,
                                                   int count, int64_t num_slots, const fk_index_check &check,
                                                   int64_t *slots, bool *taken) {
  int thread = threadIdx.x + threadIdx.y * blockDim.x, threads = blockDim.x * blockDim.y;
  for (int i = thread; i < count; i += threads) {
    int64_t slot = slot_mapping[first + i];
    slots[i] = slot >= 0 && fk_index_ok(check, slot, num_slots) ? slot : -1;
    taken[i] = false;
  }
  __syncthreads();
  if (first + 1 == tokens) return; /* nobody comes later */
  int64_t lo = INT64_MAX, hi = -1;
  for (int i = 0; i < count; i++)
    if (slots[i] >= 0) {
      lo = min(lo, slots[i]);
      hi = max(hi, slots[i]);
    }
#pragma unroll 4
  for (int64_t t = first + 1 + thread; t < tokens; t += threads) {
    int64_t slot = slot_mapping[t];
    if (slot < lo || slot > hi) continue;
    for (int i = 0; i < count && first + i < t; i++)
      if (slots[i] == slot) taken[i] = true;
  }
  __syncthreads();
}

/* Address of a slot. */
static __device__ __forceinline__ int64_t cache_offset(int64_t slot, int64_t block_size, int64_t block_stride,
                                                       int64_t slot_stride) {
  return slot / block_size * block_stride + slot % block_size * slot_stride;
}
