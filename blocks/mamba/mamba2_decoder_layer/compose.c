#include "tasks/mamba2_decoder_layer.h"

fk_status fk_compose_mamba2_decoder_layer(fk_context *ctx, const fk_mamba2_decoder_layer_args *a) {
  /* residual is the sum of everything so far, but for hidden_states, the last contribution. Before the first layer
   * there is no contribution yet. */
  if (a->first)
    FK_TRY(fk_call(ctx, "rms_norm", a->residual, a->norm_weight, a->epsilon, a->hidden_states));
  else
    FK_TRY(fk_call(ctx, "fused_add_rms_norm", a->hidden_states, a->residual, a->norm_weight, a->epsilon));
  return fk_call(ctx, "mamba2_mixer", a->hidden_states, a->conv_state, a->ssm_state, a->cu_seqlens_q, a->seq_lens,
                 a->state_slots, a->mixer_in_proj_weight, a->mixer_in_proj_bias, a->mixer_conv1d_weight,
                 a->mixer_conv1d_bias, a->mixer_A, a->mixer_D, a->mixer_dt_bias, a->mixer_norm_weight,
                 a->mixer_out_proj_weight, a->mixer_out_proj_bias, a->n_groups, a->dt_min, a->dt_max, a->chunk_size,
                 a->epsilon, a->hidden_states);
}
