#include "tasks/llama_attention.h"

fk_status fk_compose_llama_attention(fk_context *ctx, const fk_llama_attention_args *a) {
  int64_t tokens = fk_size(a->hidden_states, 0), kv_heads = fk_size(a->key_cache, 2), dim = fk_size(a->key_cache, 3);
  int64_t q_size = a->num_heads * dim, kv_size = kv_heads * dim;
  fk_type type = fk_type_of(a->hidden_states);

  fk_tensor *qkv = fk_empty(ctx, type, tokens, q_size + 2 * kv_size);
  FK_TRY(fk_call(ctx, "linear", a->hidden_states, a->qkv_proj_weight, a->qkv_proj_bias, qkv));
  /* q, k and v are columns of one matrix: rotated, stored and read in place. */
  fk_tensor *q = fk_view(ctx, fk_slice(ctx, qkv, 1, 0, q_size), tokens, a->num_heads, dim);
  fk_tensor *k = fk_view(ctx, fk_slice(ctx, qkv, 1, q_size, kv_size), tokens, kv_heads, dim);
  fk_tensor *v = fk_view(ctx, fk_slice(ctx, qkv, 1, q_size + kv_size, kv_size), tokens, kv_heads, dim);
  FK_TRY(fk_call(ctx, "rotary_and_cache", a->positions, q, k, v, a->key_cache, a->value_cache, a->slot_mapping,
                 a->rotary_emb_cos_sin_cache, a->is_neox));

  fk_tensor *heads = fk_empty(ctx, type, tokens, a->num_heads, dim);
  FK_TRY(fk_call(ctx, "attention", q, a->key_cache, a->value_cache, a->cu_seqlens_q, NULL, a->seq_lens, a->block_table,
                 NULL, a->scale, true, -1, -1, 0.0, heads));
  return fk_call(ctx, "linear", fk_view(ctx, heads, tokens, q_size), a->o_proj_weight, a->o_proj_bias, a->out);
}
