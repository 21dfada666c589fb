/* reshape_and_cache on the GPU: a block copies a few tokens' keys and values, all of a round asked for before the slots
 * are known. Of equal slots the last token's content must stay: each block looks whether a later token has one of its
 * slots. */
#include "store.cuh"
#include "tasks/reshape_and_cache.h"

enum { THREADS = 256, ROUND = 4 }; /* units that a thread has under way */

typedef struct cache_side {
  const char *from;
  char *to;
  int64_t from_token, from_head, to_block, to_slot, to_head; /* bytes */
  int units, units_per_head;                                 /* of a token, of a head */
} cache_side;

typedef struct cache_call {
  cache_side key, value;
  const int64_t *slot_mapping;
  int64_t tokens, num_slots, block_size;
  int tokens_per_block;
  fk_index_check check;
} cache_call;

/* Unit i of the keys, then values, of one token. */
template <typename U>
static __device__ __forceinline__ U load_unit(const cache_call &c, int64_t token, int i) {
  const cache_side &s = i < c.key.units ? c.key : c.value;
  if (i >= c.key.units) i -= c.key.units;
  int head = i / s.units_per_head;
  return *(const U *)(s.from + token * s.from_token + head * s.from_head +
                      (int64_t)(i - head * s.units_per_head) * sizeof(U));
}

template <typename U>
static __device__ __forceinline__ void store_unit(const cache_call &c, int64_t slot, int i, U x) {
  const cache_side &s = i < c.key.units ? c.key : c.value;
  if (i >= c.key.units) i -= c.key.units;
  int head = i / s.units_per_head;
  *(U *)(s.to + cache_offset(slot, c.block_size, s.to_block, s.to_slot) + head * s.to_head +
         (int64_t)(i - head * s.units_per_head) * sizeof(U)) = x;
}

/* U: what one access moves. */
template <typename U>
static __global__ void __launch_bounds__(THREADS) store_tokens(const __grid_constant__ cache_call c) {
  __shared__ int64_t slots[CACHE_TOKENS];
  __shared__ bool taken[CACHE_TOKENS];
  fk_wait_previous();
  int64_t first = (int64_t)blockIdx.x * c.tokens_per_block;
  int count = (int)min((int64_t)c.tokens_per_block, c.tokens - first), units = c.key.units + c.value.units;
  for (int base = 0; base < count * units; base += ROUND * THREADS) {
    U x[ROUND];
#pragma unroll
    for (int k = 0; k < ROUND; k++) {
      int at = base + k * THREADS + (int)threadIdx.x;
      if (at < count * units) x[k] = load_unit<U>(c, first + at / units, at % units);
    }
    if (base == 0) cache_slots(c.slot_mapping, c.tokens, first, count, c.num_slots, c.check, slots, taken);
#pragma unroll
    for (int k = 0; k < ROUND; k++) {
      int at = base + k * THREADS + (int)threadIdx.x;
      if (at < count * units && slots[at / units] >= 0 && !taken[at / units])
        store_unit<U>(c, slots[at / units], at % units, x[k]);
    }
  }
  fk_let_next_start();
}

/* The largest access that all addresses of a side allow: 16 bytes, or one number. */
static bool packs(const fk_tensor *from, const fk_tensor *to) {
  int64_t width = from->dtype.bits / 8;
  bool good = ((uintptr_t)fk_data(from) | (uintptr_t)fk_data(to)) % 16 == 0 && fk_size(from, 2) * width % 16 == 0;
  for (int i = 0; i < 2; i++) good = good && (from->shape[i] == 1 || fk_stride(from, i) * width % 16 == 0);
  for (int i = 0; i < 3; i++) good = good && (to->shape[i] == 1 || fk_stride(to, i) * width % 16 == 0);
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
  c.block_size = fk_size(a->key_cache, 1);
  c.num_slots = fk_size(a->key_cache, 0) * c.block_size;
  c.check = fk_index_checker(ctx, "reshape_and_cache: slot_mapping");
  int64_t each = fk_ceil_div(c.tokens, 8 * fk_context_cuda(ctx)->num_sms);
  c.tokens_per_block = each < CACHE_TOKENS ? (int)each : (int)CACHE_TOKENS;
  return fk_launch_early(ctx, store_tokens<U>, dim3((unsigned)fk_ceil_div(c.tokens, c.tokens_per_block)), dim3(THREADS),
                         0, c);
}

fk_status fk_cuda_reshape_and_cache(fk_context *ctx, const fk_reshape_and_cache_args *a) {
  if (fk_size(a->key, 0) == 0) return FK_OK;
  if (packs(a->key, a->key_cache) && packs(a->value, a->value_cache)) return launch<uint4>(ctx, a);
  if (a->key->dtype.bits == 32) return launch<uint32_t>(ctx, a);
  return launch<uint16_t>(ctx, a);
}
