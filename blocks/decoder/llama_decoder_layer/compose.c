#include "tasks/llama_decoder_layer.h"

fk_status fk_compose_llama_decoder_layer(fk_context *ctx, const fk_llama_decoder_layer_args *a) {
  fk_tensor *attended = fk_empty_like(ctx, a->hidden_states);
  /* residual is the sum of everything so far, but for hidden_states, the last contribution. Before the first layer
   * there is no contribution yet. */
  if (a->first)
    FK_TRY(fk_call(ctx, "rms_norm", a->residual, a->input_layernorm_weight, a->epsilon, a->hidden_states));
  else
    FK_TRY(fk_call(ctx, "fused_add_rms_norm", a->hidden_states, a->residual, a->input_layernorm_weight, a->epsilon));
  FK_TRY(fk_call(ctx, "llama_attention", a->positions, a->hidden_states, a->key_cache, a->value_cache, a->slot_mapping,
                 a->cu_seqlens_q, a->seq_lens, a->block_table, a->self_attn_qkv_proj_weight, a->self_attn_qkv_proj_bias,
                 a->self_attn_o_proj_weight, a->self_attn_o_proj_bias, a->self_attn_rotary_emb_cos_sin_cache,
                 a->num_heads, a->scale, a->is_neox, attended));
  FK_TRY(fk_call(ctx, "fused_add_rms_norm", attended, a->residual, a->post_attention_layernorm_weight, a->epsilon));
  return fk_call(ctx, "llama_mlp", attended, a->mlp_gate_up_proj_weight, a->mlp_gate_up_proj_bias,
                 a->mlp_down_proj_weight, a->mlp_down_proj_bias, a->hidden_states);
}
