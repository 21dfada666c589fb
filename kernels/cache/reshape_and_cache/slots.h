/* The one rule about slots that both implementations share. */
#pragma once

#include "tasks/reshape_and_cache.h"

/* Every slot is negative (skip) or inside the cache: checked before anything is written. */
static inline fk_status check_slots(const fk_reshape_and_cache_args *a) {
  int64_t slots = fk_size(a->key_cache, 0) * fk_size(a->key_cache, 1);
  const int64_t *slot = fk_i64(a->slot_mapping);
  for (int64_t t = 0; t < fk_size(a->key, 0); t++)
    if (slot[t] >= slots)
      return fk_fail(FK_ERROR_ARGUMENT, "slot_mapping[%lld]: expected a slot below %lld, got %lld", (long long)t,
                     (long long)slots, (long long)slot[t]);
  return FK_OK;
}
