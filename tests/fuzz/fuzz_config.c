/* Any bytes as config.json of a model: an error, or a model on meta; one that takes tokens runs on two of them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* forward() on two tokens: whatever loads must be computable, except that a task may refuse the sizes. */
static void forward(fk_context *ctx, const fk_model *model) {
  int64_t ids[2] = {0, 0}, shape[2] = {1, 2};
  fk_tensor *t = fk_wrap(ctx, ids, FK_I64, shape, 2, NULL);
  fk_tensors inputs = {0}, outputs;
  if (!t || fk_tensors_put(&inputs, "input_ids", t)) abort();
  if (fk_model_forward(ctx, model, &inputs, &outputs) == FK_OK && outputs.count != 1) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static fk_context *ctx; /* kept: what a failed load leaves behind would show in the next one */
  fk_context_options options = {.backend = FK_META};
  fk_model *model;
  if (!ctx && fk_context_create(&options, &ctx)) abort();
  fk_status status = fk_model_open_config(ctx, (const char *)data, size, "fuzz", &(fk_model_options){0}, &model);
  if (status ? model != NULL : model == NULL) abort();
  const fk_sequence_ops *sequence = model ? model->class->sequence : NULL;
  if (sequence && sequence->caches(model->state, NULL) <= 64) forward(ctx, model);
  fk_model_close(model);
  fk_context_reset(ctx);
  return 0;
}
