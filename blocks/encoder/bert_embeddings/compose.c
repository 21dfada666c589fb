#include "tasks/bert_embeddings.h"

fk_status fk_compose_bert_embeddings(fk_context *ctx, const fk_bert_embeddings_args *a) {
  fk_tensor *sum = fk_empty_like(ctx, a->out), *part = fk_empty_like(ctx, a->out);
  FK_TRY(fk_call(ctx, "embedding", a->input_ids, a->word_embeddings_weight, sum));
  FK_TRY(fk_call(ctx, "embedding", a->token_type_ids, a->token_type_embeddings_weight, part));
  FK_TRY(fk_call(ctx, "add", sum, part, sum));
  FK_TRY(fk_call(ctx, "embedding", a->position_ids, a->position_embeddings_weight, part));
  FK_TRY(fk_call(ctx, "add", sum, part, sum));
  return fk_call(ctx, "layer_norm", sum, a->LayerNorm_weight, a->LayerNorm_bias, a->epsilon, a->out);
}
