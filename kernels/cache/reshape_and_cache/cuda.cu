/* reshape_and_cache on the GPU: a block copies a few tokens' keys and values; a thread the same place of each of them,
 * the first ones asked for before the slots are known. Of equal slots the last token's content must stay: each block
 * looks whether a later token has one of its slots. */
#include "store.cuh"
#include "tasks/reshape_and_cache.h"

enum { THREADS = 256, ROUND = 4 }; /* tokens that a thread has under way */

typedef struct cache_side {
  const char *from;
  char *to;
  int64_t from_token, from_head, to_block, to_slot, to_head; /* bytes */
  int units, units_per_head;                                 /* of a token, of a head */
} cache_side;

typedef struct cache_call {
  cache_side key, value;
  const int64_t *slot_mapping;
  int64_t tokens, num_slots;
  unsigned block_size;
  int tokens_per_block;
  fk_index_check check;
} cache_call;

/* U: what one access moves. */
template <typename U>
static __global__ void __launch_bounds__(THREADS) store_tokens(const __grid_constant__ cache_call c) {
  __shared__ cache_slots_room room;
  fk_wait_previous();
  int64_t first = (int64_t)blockIdx.x * c.tokens_per_block;
  int count = (int)min((int64_t)c.tokens_per_block, c.tokens - first), units = c.key.units + c.value.units;
  for (int base = 0; base < units; base += THREADS) {
    bool busy = base + (int)threadIdx.x < units, of_key = base + (int)threadIdx.x < c.key.units;
    const cache_side &s = of_key ? c.key : c.value;
    int unit = base + threadIdx.x - (of_key ? 0 : c.key.units), head = busy ? unit / s.units_per_head : 0;
    int64_t place = (int64_t)(unit - head * s.units_per_head) * sizeof(U);
    const char *from = s.from + first * s.from_token + head * s.from_head + place;
    char *to = s.to + head * s.to_head + place;
    for (int i = 0; i < count; i += ROUND) {
      U x[ROUND];
#pragma unroll
      for (int k = 0; k < ROUND; k++)
        if (busy && i + k < count) x[k] = *(const U *)(from + (i + k) * s.from_token);
      if (base == 0 && i == 0) find_slots(c.slot_mapping, c.tokens, first, count, c.num_slots, c.check, room);
#pragma unroll
      for (int k = 0; k < ROUND; k++)
        if (busy && i + k < count && room.slots[i + k] >= 0)
          *(U *)(to + cache_offset(room.slots[i + k], c.block_size, s.to_block, s.to_slot)) = x[k];
    }
  }
  fk_let_next_start();
}

/* Whether accesses of so many bytes fit all addresses of a side. */
static bool fits(const fk_tensor *from, const fk_tensor *to, int64_t bytes) {
  int64_t width = from->dtype.bits / 8;
  bool good = ((uintptr_t)fk_data(from) | (uintptr_t)fk_data(to)) % bytes == 0 && fk_size(from, 2) * width % bytes == 0;
  for (int i = 0; i < 2; i++) good = good && (from->shape[i] == 1 || fk_stride(from, i) * width % bytes == 0);
  for (int i = 0; i < 3; i++) good = good && (to->shape[i] == 1 || fk_stride(to, i) * width % bytes == 0);
  return good;
}

static cache_side side_of(const fk_tensor *from, const fk_tensor *to, int64_t unit) {
  int64_t width = from->dtype.bits / 8, head = fk_size(from, 2) * width;
  cache_side s = {};
  s.from = (const char *)fk_data(from);
  s.to = (char *)fk_data(to);
  s.from_token = fk_stride(from, 0) * width, s.from_head = fk_stride(from, 1) * width;
  s.to_block = fk_stride(to, 0) * width, s.to_slot = fk_stride(to, 1) * width, s.to_head = fk_stride(to, 2) * width;
  s.units_per_head = (int)(head / unit);
  s.units = (int)(fk_size(from, 1) * head / unit);
  return s;
}

template <typename U>
static fk_status launch(fk_context *ctx, const fk_reshape_and_cache_args *a) {
  cache_call c = {};
  c.key = side_of(a->key, a->key_cache, sizeof(U));
  c.value = side_of(a->value, a->value_cache, sizeof(U));
  c.slot_mapping = (const int64_t *)fk_data(a->slot_mapping);
  c.tokens = fk_size(a->key, 0);
  c.block_size = (unsigned)fk_size(a->key_cache, 1);
  c.num_slots = fk_size(a->key_cache, 0) * fk_size(a->key_cache, 1);
  c.check = fk_index_checker(ctx, "reshape_and_cache: slot_mapping");
  int64_t each = fk_ceil_div(c.tokens, 8 * fk_context_cuda(ctx)->num_sms);
  c.tokens_per_block = each < CACHE_TOKENS ? (int)each : (int)CACHE_TOKENS;
  return fk_launch_early(ctx, store_tokens<U>, dim3((unsigned)fk_ceil_div(c.tokens, c.tokens_per_block)), dim3(THREADS),
                         0, c);
}

fk_status fk_cuda_reshape_and_cache(fk_context *ctx, const fk_reshape_and_cache_args *a) {
  if (fk_size(a->key, 0) == 0) return FK_OK;
  int64_t bytes = 16;
  while (bytes > a->key->dtype.bits / 8 &&
         !(fits(a->key, a->key_cache, bytes) && fits(a->value, a->value_cache, bytes)))
    bytes /= 2;
  if (bytes == 16) return launch<uint4>(ctx, a);
  if (bytes == 8) return launch<uint2>(ctx, a);
  if (bytes == 4) return launch<uint32_t>(ctx, a);
  return launch<uint16_t>(ctx, a);
}
