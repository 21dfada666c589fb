/* Which slots a block of threads writes, for every kernel that stores tokens in the caches. */
#pragma once

#include "device/cuda/kernel.cuh"

enum { CACHE_TOKENS = 64, CACHE_BITS = 2048 }; /* CACHE_TOKENS: most tokens of a block */

typedef struct cache_slots_room {
  int64_t slots[CACHE_TOKENS]; /* -1 where nothing is to be stored */
  unsigned bits[CACHE_BITS / 32];
} cache_slots_room;

/* The slots of a block's tokens [first, first + count), -1 for skipped tokens, slots out of range (reported), and slots
 * that a later token has too: its content is to stay. Later slots are looked up in a bitmap of the own ones modulo its
 * size, so that few of them are compared. For whole blocks; ends with a barrier. */
static __device__ __forceinline__ void find_slots(const int64_t *slot_mapping, int64_t tokens, int64_t first, int count,
                                                  int64_t num_slots, const fk_index_check &check,
                                                  cache_slots_room &room) {
  int thread = threadIdx.x + threadIdx.y * blockDim.x, threads = blockDim.x * blockDim.y;
  bool later = first + 1 < tokens;
  if (later) {
    for (int i = thread; i < CACHE_BITS / 32; i += threads) room.bits[i] = 0;
    __syncthreads();
  }
  for (int i = thread; i < count; i += threads) {
    int64_t slot = slot_mapping[first + i];
    bool good = slot >= 0 && fk_index_ok(check, slot, num_slots);
    room.slots[i] = good ? slot : -1;
    if (good && later) atomicOr(&room.bits[(unsigned)slot % CACHE_BITS / 32], 1u << (unsigned)slot % 32);
  }
  __syncthreads();
  if (!later) return;
#pragma unroll 4
  for (int64_t t = first + 1 + thread; t < tokens; t += threads) {
    int64_t slot = slot_mapping[t];
    if (slot < 0 || !(room.bits[(unsigned)slot % CACHE_BITS / 32] >> (unsigned)slot % 32 & 1)) continue;
    for (int i = 0; i < count && first + i < t; i++)
      if (room.slots[i] == slot) room.slots[i] = -1;
  }
  __syncthreads();
}

/* Offset of a slot in the cache. */
static __device__ __forceinline__ int64_t cache_offset(int64_t slot, unsigned block_size, int64_t block_stride,
                                                       int64_t slot_stride) {
  int64_t block = slot < INT64_C(1) << 32 ? (int64_t)((unsigned)slot / block_size) : slot / block_size;
  return block * block_stride + (slot - block * block_size) * slot_stride;
}
