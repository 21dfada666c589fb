/* What the tests of models share, whether or not they are cmocka programs: inputs from a fixture, relative error. */
#ifndef FK_TESTS_MODEL_FILES_H
#define FK_TESTS_MODEL_FILES_H

#include <math.h>
#include <string.h>

#include "core/convert.h"
#include "engine/model.h"
#include "io/safetensors.h"

/* Relative RMS difference of rows of n elements, over the rows whose mask (NULL: all) is not 0. NaN counts as wrong. */
static inline double row_error(fk_type at, const void *a, fk_type bt, const void *b, int64_t rows, int64_t n,
                               const fk_stored *mask) {
  double difference = 0, size = 0;
  for (int64_t r = 0; r < rows; r++) {
    if (mask && fk_load_i64(mask->type, mask->data, r) == 0) continue;
    for (int64_t i = r * n; i < (r + 1) * n; i++) {
      double x = fk_load_f64(at, a, i), y = fk_load_f64(bt, b, i);
      difference += (x - y) * (x - y);
      size += y * y;
    }
  }
  double error = sqrt(difference / size);
  return error >= 0 ? error : HUGE_VAL;
}

/* Tensors in.NAME of a file in host memory, floats in the model's dtype, as its users would pass them. They live until
 * fk_context_reset. */
static inline fk_status read_model_inputs(fk_context *ctx, const fk_model *model, const fk_safetensors *file,
                                          fk_tensors *inputs) {
  *inputs = (fk_tensors){0};
  for (size_t i = 0; i < fk_safetensors_count(file); i++) {
    const fk_stored *s = fk_safetensors_at(file, i);
    if (strncmp(s->name, "in.", 3) != 0) continue;
    fk_type type = fk_type_is_float(s->type) ? model->dtype : s->type;
    fk_tensor *t = fk_host_shape(ctx, type, s->shape, s->ndim);
    if (!t) return FK_ERROR_MEMORY;
    FK_TRY(fk_safetensors_read(s, type, t->data));
    FK_TRY(fk_tensors_put(inputs, s->name + 3, t));
  }
  return FK_OK;
}

#endif
