#include "tasks/bert_layer.h"

fk_status fk_compose_bert_layer(fk_context *ctx, const fk_bert_layer_args *a) {
  fk_tensor *heads = fk_empty_like(ctx, a->hidden_states), *hidden = fk_empty_like(ctx, a->hidden_states);
  FK_TRY(fk_call(ctx, "bert_self_attention", a->hidden_states, a->cu_seqlens, a->seq_lens,
                 a->attention_self_qkv_proj_weight, a->attention_self_qkv_proj_bias, a->num_heads, a->scale, heads));
  FK_TRY(fk_call(ctx, "linear", heads, a->attention_output_dense_weight, a->attention_output_dense_bias, hidden));
  FK_TRY(fk_call(ctx, "add", hidden, a->hidden_states, hidden));
  FK_TRY(fk_call(ctx, "layer_norm", hidden, a->attention_output_LayerNorm_weight, a->attention_output_LayerNorm_bias,
                 a->epsilon, hidden));
  FK_TRY(fk_call(ctx, "bert_mlp", hidden, a->intermediate_dense_weight, a->intermediate_dense_bias,
                 a->output_dense_weight, a->output_dense_bias, a->approximate, heads));
  FK_TRY(fk_call(ctx, "add", heads, hidden, hidden));
  return fk_call(ctx, "layer_norm", hidden, a->output_LayerNorm_weight, a->output_LayerNorm_bias, a->epsilon, a->out);
}
