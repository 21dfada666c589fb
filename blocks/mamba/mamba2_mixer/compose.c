#include "tasks/mamba2_mixer.h"

fk_status fk_compose_mamba2_mixer(fk_context *ctx, const fk_mamba2_mixer_args *a) {
  int64_t tokens = fk_size(a->hidden_states, 0), heads = fk_size(a->ssm_state, 1), dim = fk_size(a->ssm_state, 2);
  int64_t size = fk_size(a->ssm_state, 3), inner = heads * dim, shared = a->n_groups * size;
  int64_t channels = inner + 2 * shared;
  fk_type type = fk_type_of(a->hidden_states);

  fk_tensor *projected = fk_empty(ctx, type, tokens, inner + channels + heads);
  FK_TRY(fk_call(ctx, "linear", a->hidden_states, a->in_proj_weight, a->in_proj_bias, projected));
  /* Gate, convolved channels and time steps are columns of one matrix, read in place. */
  fk_tensor *gate = fk_slice(ctx, projected, 1, 0, inner);
  fk_tensor *dt = fk_slice(ctx, projected, 1, inner + channels, heads);
  fk_tensor *xbc = fk_empty(ctx, type, tokens, channels);
  FK_TRY(fk_call(ctx, "causal_conv1d", fk_slice(ctx, projected, 1, inner, channels), a->conv_state, a->cu_seqlens_q,
                 a->seq_lens, a->state_slots, a->conv1d_weight, a->conv1d_bias, 1, xbc));

  fk_tensor *x = fk_view(ctx, fk_slice(ctx, xbc, 1, 0, inner), tokens, heads, dim);
  fk_tensor *b = fk_view(ctx, fk_slice(ctx, xbc, 1, inner, shared), tokens, a->n_groups, size);
  fk_tensor *c = fk_view(ctx, fk_slice(ctx, xbc, 1, inner + shared, shared), tokens, a->n_groups, size);
  fk_tensor *scanned = fk_empty(ctx, type, tokens, inner);
  FK_TRY(fk_call(ctx, "mamba2_ssd", x, dt, b, c, a->ssm_state, a->cu_seqlens_q, a->seq_lens, a->state_slots, a->A, a->D,
                 a->dt_bias, a->dt_min, a->dt_max, a->chunk_size, fk_view(ctx, scanned, tokens, heads, dim)));
  FK_TRY(
      fk_call(ctx, "rms_norm_gated", scanned, gate, a->norm_weight, inner / a->n_groups, a->epsilon, false, scanned));
  return fk_call(ctx, "linear", scanned, a->out_proj_weight, a->out_proj_bias, a->out);
}
