#include <float.h>
#include <math.h>

#include "device/cpu_row.h"
#include "tasks/fused_add_rms_norm.h"

typedef struct job {
  fk_type type;
  int64_t n;
  fk_type weight_type; /* float32 once it has been widened for all rows */
  const void *weight;
  double epsilon;
} job;

/* Room for one chunk of each tensor. */
typedef struct rooms {
  float x[FK_CHUNK], residual[FK_CHUNK], sum[FK_CHUNK], weight[FK_CHUNK];
  uint16_t rounded[FK_CHUNK];
} rooms;

/* Chunk i of x + residual, rounded to the dtype. Nothing is written back before the whole row has been summed: then the
 * row can still be redone in double. */
static const float *add_chunk(const job *j, const void *x, const void *residual, int64_t i, int64_t count, rooms *m) {
  const float *p = fk_row_read(j->type, x, i, m->x, count), *q = fk_row_read(j->type, residual, i, m->residual, count);
#pragma omp simd
  for (int64_t k = 0; k < count; k++) m->sum[k] = p[k] + q[k];
  if (j->type != FK_F32) {
    fk_narrow(j->type, m->sum, m->rounded, count);
    fk_widen(j->type, m->rounded, m->sum, count);
  }
  return m->sum;
}

/* One element of the sum, as the norm sees it: rounded, but not to infinity. */
static double finite_sum(float rounded, float x, float residual) {
  return isfinite(rounded) ? (double)rounded : (double)x + (double)residual;
}

/* The same formula in double, for rows whose sums or squares leave the range of float. */
static void row_in_double(const job *j, void *x, void *residual, rooms *m) {
  double total = 0, scale = 0;
  for (int pass = 0; pass < 2; pass++) {
    for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
      int64_t count = fk_chunk_at(i, j->n);
      add_chunk(j, x, residual, i, count, m);
      const float *p = fk_row_read(j->type, x, i, m->x, count);
      const float *q = fk_row_read(j->type, residual, i, m->residual, count);
      const float *w = fk_row_read(j->weight_type, j->weight, i, m->weight, count);
      for (int64_t k = 0; k < count; k++) {
        double s = finite_sum(m->sum[k], p[k], q[k]);
        if (pass == 0)
          total += s * s;
        else
          m->x[k] = (float)(s * scale * (double)w[k]);
      }
      if (pass == 0) continue;
      fk_row_write(j->type, residual, i, m->sum, count, false);
      fk_row_write(j->type, x, i, m->x, count, false);
    }
    scale = 1 / sqrt(total / (double)j->n + j->epsilon);
  }
}

static void norm_row(const job *j, void *x, void *residual) {
  rooms m;
  double total = 0;
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    total += (double)fk_sum_of_squares(add_chunk(j, x, residual, i, count, &m), count);
  }
  double mean = total / (double)j->n + j->epsilon;
  if (!(total <= (double)FLT_MAX && mean >= 1e-30)) {
    row_in_double(j, x, residual, &m);
    return;
  }
  float scale = (float)(1 / sqrt(mean));
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    /* A row of one chunk is still in m. */
    const float *s = j->n <= FK_CHUNK ? m.sum : add_chunk(j, x, residual, i, count, &m);
    const float *w = fk_row_read(j->weight_type, j->weight, i, m.weight, count);
    fk_row_write(j->type, residual, i, s, count, false);
    float *o = fk_row_target(j->type, x, i, m.x, false);
#pragma omp simd
    for (int64_t k = 0; k < count; k++) o[k] = s[k] * scale * w[k];
    fk_row_write(j->type, x, i, o, count, false);
  }
}

fk_status fk_cpu_fused_add_rms_norm(fk_context *ctx, const fk_fused_add_rms_norm_args *a) {
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1);
  if (rows == 0 || n == 0) return FK_OK;
  if (fk_data(a->x) == fk_data(a->residual))
    return fk_fail(FK_ERROR_ARGUMENT, "x and residual must not be the same memory");
  job j = {.type = fk_type_of(a->x),
           .n = n,
           .weight_type = fk_type_of(a->weight),
           .weight = fk_data(a->weight),
           .epsilon = a->epsilon};
  if (j.type != FK_F32 && rows > 3) { /* fewer rows convert it as they go */
    float *weight = fk_scratch(ctx, (size_t)n * sizeof *weight);
    if (!weight) return FK_ERROR_MEMORY;
    fk_widen(j.type, fk_data(a->weight), weight, n);
    j.weight = weight;
    j.weight_type = FK_F32;
  }
#pragma omp parallel for schedule(static) if (rows > 1 && rows * n >= FK_PARALLEL_MIN)
  for (int64_t r = 0; r < rows; r++) norm_row(&j, fk_row(a->x, r), fk_row(a->residual, r));
  return FK_OK;
}
