#include <string.h>

#include "slots.h"

/* Where a token goes: block, and place in the block. */
static char *cache_row(const fk_tensor *cache, int64_t slot) {
  int64_t size = cache->shape[1];
  return (char *)fk_data(cache) +
         (slot / size * fk_stride(cache, 0) + slot % size * fk_stride(cache, 1)) * (cache->dtype.bits / 8);
}

/* One token's heads: a single copy where both sides have them packed. */
static void copy_heads(char *to, const fk_tensor *cache, const char *from, const fk_tensor *x) {
  int64_t size = x->dtype.bits / 8, heads = x->shape[1], row = x->shape[2] * size;
  int64_t to_step = fk_stride(cache, 2) * size, from_step = fk_stride(x, 1) * size;
  if (row == 0) return;
  if (to_step == row && from_step == row) {
    memcpy(to, from, (size_t)(heads * row));
    return;
  }
  for (int64_t h = 0; h < heads; h++) memcpy(to + h * to_step, from + h * from_step, (size_t)row);
}

static void copy_token(const fk_reshape_and_cache_args *a, int64_t t, int64_t slot) {
  int64_t size = a->key->dtype.bits / 8;
  copy_heads(cache_row(a->key_cache, slot), a->key_cache, (char *)fk_data(a->key) + t * fk_stride(a->key, 0) * size,
             a->key);
  copy_heads(cache_row(a->value_cache, slot), a->value_cache,
             (char *)fk_data(a->value) + t * fk_stride(a->value, 0) * size, a->value);
}

/* Whether slots rise strictly, skipped tokens aside: the usual case, in which no two tokens can share a slot. */
static bool rising(const int64_t *slot, int64_t n) {
  int64_t last = -1;
  for (int64_t t = 0; t < n; t++) {
    if (slot[t] < 0) continue;
    if (slot[t] <= last) return false;
    last = slot[t];
  }
  return true;
}

fk_status fk_cpu_reshape_and_cache(fk_context *ctx, const fk_reshape_and_cache_args *a) {
  (void)ctx;
  FK_TRY(check_slots(a));
  const int64_t *slot = fk_i64(a->slot_mapping);
  int64_t n = fk_size(a->key, 0), bytes = fk_numel(a->key) * (a->key->dtype.bits / 8);
  /* The token order decides between equal slots, so only slots known to differ are written in parallel. */
  bool parallel = bytes > 1 << 16 && rising(slot, n);
#pragma omp parallel for schedule(static) if (parallel)
  for (int64_t t = 0; t < n; t++)
    if (slot[t] >= 0) copy_token(a, t, slot[t]);
  return FK_OK;
}
