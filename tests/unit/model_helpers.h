/* What the tests of models share: contexts and models opened or the test fails, fixtures, relative error. */
#ifndef FK_TESTS_MODEL_HELPERS_H
#define FK_TESTS_MODEL_HELPERS_H

#include <stdlib.h>

#include "core/convert.h"
#include "core_helpers.h"
#include "engine/model.h"
#include "io/safetensors.h"
#include "model_files.h"

#define LLAMA_FIXTURES FK_SOURCE_DIR "/tests/golden/fixtures/llama/"

static inline fk_context *open_context(fk_backend backend) {
  fk_context *ctx;
  fk_context_options options = {.backend = backend, .num_threads = 2};
  assert_ok(fk_context_create(&options, &ctx));
  return ctx;
}

static inline fk_model *open_model(fk_context *ctx, const char *source, fk_model_options options) {
  fk_model *model;
  assert_ok(fk_model_open(ctx, source, &options, &model));
  return model;
}

static inline fk_model *open_text(fk_context *ctx, const char *json, fk_model_options options) {
  fk_model *model;
  assert_ok(fk_model_open_config(ctx, json, strlen(json), "config", &options, &model));
  return model;
}

/* Tensors in.NAME of a file, as forward() wants them. They live until fk_context_reset. */
static inline void read_inputs(fk_context *ctx, const fk_safetensors *file, fk_tensors *inputs) {
  inputs->count = 0;
  for (size_t i = 0; i < fk_safetensors_count(file); i++) {
    const fk_stored *s = fk_safetensors_at(file, i);
    if (strncmp(s->name, "in.", 3) != 0) continue;
    fk_tensor *t = fk_empty_shape(ctx, s->type, s->shape, s->ndim);
    assert_non_null(t);
    assert_ok(fk_safetensors_read(s, s->type, t->data));
    assert_ok(fk_tensors_put(inputs, s->name + 3, t));
  }
}

static inline double tensor_error(const fk_tensor *a, const fk_tensor *b) {
  assert_true(fk_is_contiguous(a) && fk_is_contiguous(b) && fk_numel(a) == fk_numel(b));
  return row_error(fk_type_of(a), fk_data(a), fk_type_of(b), fk_data(b), 1, fk_numel(a), NULL);
}

#endif
