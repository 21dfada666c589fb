#include "tasks/rotary_and_cache.h"

fk_status fk_compose_rotary_and_cache(fk_context *ctx, const fk_rotary_and_cache_args *a) {
  FK_TRY(fk_call(ctx, "rotary_embedding", a->positions, a->query, a->key, a->cos_sin_cache, a->is_neox));
  return fk_call(ctx, "reshape_and_cache", a->key, a->value, a->key_cache, a->value_cache, a->slot_mapping);
}
