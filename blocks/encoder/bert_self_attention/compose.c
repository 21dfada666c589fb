#include "tasks/bert_self_attention.h"

/* One of q, k and v: a third of the columns, seen as heads. */
static fk_tensor *third(fk_context *ctx, const fk_tensor *qkv, const fk_bert_self_attention_args *a, int64_t which) {
  int64_t hidden = fk_size(a->hidden_states, -1), dim = hidden / a->num_heads;
  fk_tensor *part = fk_slice(ctx, qkv, -1, which * hidden, hidden);
  const int64_t *shape = a->hidden_states->shape;
  if (a->hidden_states->ndim == 3) return fk_view(ctx, part, shape[0], shape[1], a->num_heads, dim);
  return fk_view(ctx, part, shape[0], a->num_heads, dim);
}

fk_status fk_compose_bert_self_attention(fk_context *ctx, const fk_bert_self_attention_args *a) {
  int64_t hidden = fk_size(a->hidden_states, -1), dim = hidden / a->num_heads;
  const int64_t *shape = a->hidden_states->shape;
  bool dense = a->hidden_states->ndim == 3;
  fk_type type = fk_type_of(a->hidden_states);
  fk_tensor *qkv =
      dense ? fk_empty(ctx, type, shape[0], shape[1], 3 * hidden) : fk_empty(ctx, type, shape[0], 3 * hidden);
  FK_TRY(fk_call(ctx, "linear", a->hidden_states, a->qkv_proj_weight, a->qkv_proj_bias, qkv));
  fk_tensor *heads = dense ? fk_view(ctx, a->out, shape[0], shape[1], a->num_heads, dim)
                           : fk_view(ctx, a->out, shape[0], a->num_heads, dim);
  return fk_call(ctx, "attention", third(ctx, qkv, a, 0), third(ctx, qkv, a, 1), third(ctx, qkv, a, 2), a->cu_seqlens,
                 a->cu_seqlens, a->seq_lens, NULL, NULL, a->scale, false, -1, -1, 0.0, heads);
}
