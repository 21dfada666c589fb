#include <float.h>
#include <math.h>

#include "device/cpu_row.h"
#include "tasks/l2_norm.h"

typedef struct job {
  fk_type type;
  int64_t n;
  double epsilon;
  bool stream;
} job;

/* Written so that a NaN stays. */
static double at_least(double norm, double epsilon) {
  return norm < epsilon ? epsilon : norm;
}

/* The same formula in double, for rows whose squares leave the range of float. */
static void row_in_double(const job *j, const void *x, void *out) {
  float room[FK_CHUNK];
  double sum = 0;
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    const float *p = fk_row_read(j->type, x, i, room, count);
    for (int64_t k = 0; k < count; k++) sum += (double)p[k] * (double)p[k];
  }
  double norm = at_least(sqrt(sum), j->epsilon);
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    const float *p = fk_row_read(j->type, x, i, room, count);
    for (int64_t k = 0; k < count; k++) room[k] = (float)((double)p[k] / norm);
    fk_row_write(j->type, out, i, room, count, false);
  }
}

static void norm_row(const job *j, const void *x, void *out) {
  float in_room[FK_CHUNK], out_room[FK_CHUNK];
  double sum = 0;
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    sum += (double)fk_sum_of_squares(fk_row_read(j->type, x, i, in_room, count), count);
  }
  if (!(sum <= (double)FLT_MAX && sum >= 1e-30)) {
    row_in_double(j, x, out);
    return;
  }
  float scale = (float)(1 / at_least(sqrt(sum), j->epsilon));
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    const float *p = fk_row_read(j->type, x, i, in_room, count);
    float *o = fk_row_target(j->type, out, i, out_room, j->stream);
#pragma omp simd
    for (int64_t k = 0; k < count; k++) o[k] = p[k] * scale;
    fk_row_write(j->type, out, i, o, count, j->stream);
  }
}

fk_status fk_cpu_l2_norm(fk_context *ctx, const fk_l2_norm_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1);
  job j = {.type = fk_type_of(a->x), .n = n, .epsilon = a->epsilon};
  double bytes = 2.0 * (double)rows * (double)n * (double)fk_width(j.type);
  j.stream = fk_data(a->out) != fk_data(a->x) && fk_stream_pays(bytes);
#pragma omp parallel if (rows > 1 && rows * n >= FK_PARALLEL_MIN)
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) norm_row(&j, fk_row(a->x, r), fk_row(a->out, r));
    if (j.stream) fk_stream_end();
  }
  return FK_OK;
}
