#include "slots.h"

fk_status fk_ref_reshape_and_cache(fk_context *ctx, const fk_reshape_and_cache_args *a) {
  (void)ctx;
  FK_TRY(check_slots(a));
  int64_t k = fk_size(a->key, 1) * fk_size(a->key, 2), v = fk_size(a->value, 1) * fk_size(a->value, 2);
  const int64_t *slot = fk_i64(a->slot_mapping);
  for (int64_t t = 0; t < fk_size(a->key, 0); t++) {
    if (slot[t] < 0) continue;
    for (int64_t i = 0; i < k; i++) fk_f64(a->key_cache)[slot[t] * k + i] = fk_f64(a->key)[t * k + i];
    for (int64_t i = 0; i < v; i++) fk_f64(a->value_cache)[slot[t] * v + i] = fk_f64(a->value)[t * v + i];
  }
  return FK_OK;
}
