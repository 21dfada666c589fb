#include "core/kernel.h"
#include "engine/step.h"

fk_status fk_step_finish(fk_context *ctx, const fk_step_end *e, const fk_batch *b, fk_tensor *logits) {
  if (e->has_layers)
    FK_TRY(fk_call(ctx, "fused_add_rms_norm", e->hidden, e->residual, e->norm, e->epsilon));
  else
    FK_TRY(fk_call(ctx, "rms_norm", e->residual, e->norm, e->epsilon, e->hidden));
  /* Picking the wanted rows is a look-up in the table of all rows. */
  if (!e->lm_head) return fk_call(ctx, "embedding", b->logits_indices, e->hidden, logits);
  fk_tensor *wanted = fk_empty(ctx, fk_type_of(e->norm), fk_size(b->logits_indices, 0), fk_size(e->norm, 0));
  FK_TRY(fk_call(ctx, "embedding", b->logits_indices, e->hidden, wanted));
  return fk_call(ctx, "linear", wanted, e->lm_head, NULL, logits);
}
