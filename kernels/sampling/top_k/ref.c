#include <math.h>
#include <stdlib.h>

#include "tasks/top_k.h"

typedef struct element {
  double value;
  int64_t index;
} element;

/* Descending, NaN first, equals by index. */
static int compare(const void *left, const void *right) {
  const element *a = left, *b = right;
  int a_nan = isnan(a->value), b_nan = isnan(b->value);
  if (a_nan != b_nan) return b_nan - a_nan;
  if (!a_nan && a->value != b->value) return a->value > b->value ? -1 : 1;
  return a->index < b->index ? -1 : a->index > b->index;
}

fk_status fk_ref_top_k(fk_context *ctx, const fk_top_k_args *a) {
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1), k = a->k, *indices = fk_i64(a->indices);
  const double *x = fk_f64(a->x);
  double *values = fk_f64(a->values);
  element *all = fk_scratch(ctx, (size_t)n * sizeof *all);
  if (!all) return FK_ERROR_MEMORY;
  for (int64_t r = 0; r < rows; r++, x += n, values += k, indices += k) {
    for (int64_t i = 0; i < n; i++) all[i] = (element){x[i], i};
    qsort(all, (size_t)n, sizeof *all, compare);
    for (int64_t i = 0; i < k; i++) {
      values[i] = all[i].value;
      indices[i] = all[i].index;
    }
  }
  return FK_OK;
}
