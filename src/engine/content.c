#include "engine/content.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/convert.h"

/* The address of the i-th element in row-major order. */
static const void *element(const fk_tensor *t, int64_t i) {
  int64_t offset = 0;
  for (int32_t d = t->ndim - 1; d >= 0; d--) {
    offset += i % t->shape[d] * fk_stride(t, d);
    i /= t->shape[d];
  }
  return (const char *)fk_data(t) + offset * (t->dtype.bits / 8);
}

static bool is_integer(fk_type type) {
  return fk_type_is_int(type) || type == FK_BOOL;
}

/* One element as a double: the common integers at once, the rest through conversion. */
static fk_status load(fk_type type, const void *from, double *x) {
  if (type == FK_I32) return *x = *(const int32_t *)from, FK_OK;
  if (type == FK_F32) return *x = *(const float *)from, FK_OK;
  if (!is_integer(type)) return fk_convert_row(FK_F64, x, type, from, 1);
  int64_t v;
  FK_TRY(fk_convert_row(FK_I64, &v, type, from, 1));
  return *x = (double)v, FK_OK;
}

fk_status fk_stats_read(const fk_tensor *t, fk_stats *stats) {
  fk_type type = fk_type_of(t);
  int64_t n = fk_numel(t), step = n / FK_MAX_SAMPLE + (n % FK_MAX_SAMPLE != 0);
  *stats = (fk_stats){.numel = n};
  if (type == FK_F4_E2M1)
    return fk_fail(FK_ERROR_UNSUPPORTED, "statistics: packed dtype %s cannot be sampled", fk_type_name(type));
  int64_t finite = 0, zeros = 0;
  double sum_squares = 0;
  for (int64_t i = 0; i < n; i += step, stats->sampled++) {
    double x;
    FK_TRY(load(type, element(t, i), &x));
    if (!isfinite(x)) continue;
    /* Welford: one pass, no cancellation of large squares. */
    double delta = x - stats->mean;
    stats->mean += delta / (double)++finite;
    sum_squares += delta * (x - stats->mean);
    zeros += x == 0;
    if (finite == 1 || x < stats->min) stats->min = x;
    if (finite == 1 || x > stats->max) stats->max = x;
    if (fabs(x) > stats->absmax) stats->absmax = fabs(x);
  }
  if (finite) stats->std = sqrt(sum_squares / (double)finite);
  if (stats->sampled) {
    stats->zero = (double)zeros / (double)stats->sampled;
    stats->nonfinite = (double)(stats->sampled - finite) / (double)stats->sampled;
  }
  return FK_OK;
}

static fk_status ints_new(const int64_t *shape, int32_t ndim, fk_ints **out) {
  *out = NULL;
  fk_ints *ints = calloc(1, sizeof *ints);
  if (!ints) return fk_fail(FK_ERROR_MEMORY, "capture: cannot allocate");
  ints->refs = 1;
  ints->ndim = ndim;
  ints->count = 1;
  for (int32_t d = 0; d < ndim; d++) ints->count *= ints->shape[d] = shape[d];
  *out = ints;
  return FK_OK;
}

fk_status fk_ints_create(const int64_t *values, const int64_t *shape, int32_t ndim, fk_ints **out) {
  FK_TRY(ints_new(shape, ndim, out));
  fk_ints *ints = *out;
  bool fits = true;
  for (int64_t i = 0; i < ints->count; i++) fits = fits && values[i] >= INT32_MIN && values[i] <= INT32_MAX;
  size_t n = (size_t)ints->count + 1;
  if (fits)
    ints->narrow = malloc(n * sizeof *ints->narrow);
  else
    ints->wide = malloc(n * sizeof *ints->wide);
  if (!ints->narrow && !ints->wide) {
    fk_ints_release(ints);
    *out = NULL;
    return fk_fail(FK_ERROR_MEMORY, "capture: cannot allocate");
  }
  for (int64_t i = 0; i < ints->count; i++) {
    if (fits)
      ints->narrow[i] = (int32_t)values[i];
    else
      ints->wide[i] = values[i];
  }
  return FK_OK;
}

fk_status fk_ints_read(const fk_tensor *t, fk_ints **out) {
  int64_t n = fk_numel(t);
  *out = NULL;
  int64_t *values = malloc(((size_t)n + 1) * sizeof *values);
  if (!values) return fk_fail(FK_ERROR_MEMORY, "capture: cannot allocate");
  fk_status status = FK_OK;
  if (fk_is_contiguous(t)) {
    status = fk_convert_row(FK_I64, values, fk_type_of(t), fk_data(t), n);
  } else {
    for (int64_t i = 0; i < n && !status; i++)
      status = fk_convert_row(FK_I64, &values[i], fk_type_of(t), element(t, i), 1);
  }
  if (!status) status = fk_ints_create(values, t->shape, t->ndim, out);
  free(values);
  return status;
}

void fk_ints_release(fk_ints *ints) {
  if (!ints || --ints->refs > 0) return;
  free(ints->narrow);
  free(ints->wide);
  free(ints);
}
