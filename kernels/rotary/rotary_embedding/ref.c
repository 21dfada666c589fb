#include "tasks/rotary_embedding.h"

/* The heads of one token. cos and sin hold half values each. */
static void rotate(double *x, int64_t heads, int64_t head_size, const double *cos, const double *sin, int64_t half,
                   bool is_neox) {
  for (int64_t h = 0; h < heads; h++, x += head_size) {
    for (int64_t i = 0; i < half; i++) {
      double *a = is_neox ? x + i : x + 2 * i, *b = is_neox ? x + half + i : x + 2 * i + 1;
      double turned = *a * sin[i] + *b * cos[i];
      *a = *a * cos[i] - *b * sin[i];
      *b = turned;
    }
  }
}

fk_status fk_ref_rotary_embedding(fk_context *ctx, const fk_rotary_embedding_args *a) {
  (void)ctx;
  int64_t tokens = fk_size(a->query, 0), heads = fk_size(a->query, 1), head_size = fk_size(a->query, 2);
  int64_t kv_heads = a->key ? fk_size(a->key, 1) : 0;
  int64_t max_position = fk_size(a->cos_sin_cache, 0), half = fk_size(a->cos_sin_cache, 1) / 2;
  const int64_t *positions = fk_i64(a->positions);
  for (int64_t t = 0; t < tokens; t++)
    if (positions[t] < 0 || positions[t] >= max_position)
      return fk_fail(FK_ERROR_ARGUMENT, "positions[%lld]: expected a row of the table, 0 to %lld, got %lld",
                     (long long)t, (long long)max_position - 1, (long long)positions[t]);
  for (int64_t t = 0; t < tokens; t++) {
    const double *cos = fk_f64(a->cos_sin_cache) + positions[t] * 2 * half, *sin = cos + half;
    rotate(fk_f64(a->query) + t * heads * head_size, heads, head_size, cos, sin, half, a->is_neox);
    if (a->key) rotate(fk_f64(a->key) + t * kv_heads * head_size, kv_heads, head_size, cos, sin, half, a->is_neox);
  }
  return FK_OK;
}
