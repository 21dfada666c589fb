#include <float.h>
#include <math.h>

#include "device/cpu_row.h"
#include "tasks/rms_norm.h"

typedef struct job {
  fk_type type;
  int64_t n;
  fk_type weight_type; /* float32 once it has been widened for all rows */
  const void *weight;
  double epsilon;
  bool stream;
} job;

/* The same formula in double, for rows whose squares leave the range of float: values beyond 1e18, or a row of tiny
 * values under a tiny epsilon. */
static void row_in_double(const job *j, const void *x, void *out) {
  float room[FK_CHUNK], weight_room[FK_CHUNK];
  double sum = 0;
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    const float *p = fk_row_read(j->type, x, i, room, count);
    for (int64_t k = 0; k < count; k++) sum += (double)p[k] * (double)p[k];
  }
  double scale = 1 / sqrt(sum / (double)j->n + j->epsilon);
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    const float *p = fk_row_read(j->type, x, i, room, count);
    const float *w = fk_row_read(j->weight_type, j->weight, i, weight_room, count);
    for (int64_t k = 0; k < count; k++) room[k] = (float)((double)p[k] * scale * (double)w[k]);
    fk_row_write(j->type, out, i, room, count, false);
  }
}

static void norm_row(const job *j, const void *x, void *out) {
  float in_room[FK_CHUNK], out_room[FK_CHUNK], weight_room[FK_CHUNK];
  double sum = 0;
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    sum += (double)fk_sum_of_squares(fk_row_read(j->type, x, i, in_room, count), count);
  }
  double mean = sum / (double)j->n + j->epsilon;
  if (!(sum <= (double)FLT_MAX && mean >= 1e-30)) {
    row_in_double(j, x, out);
    return;
  }
  float scale = (float)(1 / sqrt(mean));
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    const float *p = fk_row_read(j->type, x, i, in_room, count);
    const float *w = fk_row_read(j->weight_type, j->weight, i, weight_room, count);
    float *o = fk_row_target(j->type, out, i, out_room, j->stream);
#pragma omp simd
    for (int64_t k = 0; k < count; k++) o[k] = p[k] * scale * w[k];
    fk_row_write(j->type, out, i, o, count, j->stream);
  }
}

fk_status fk_cpu_rms_norm(fk_context *ctx, const fk_rms_norm_args *a) {
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1);
  if (rows == 0 || n == 0) return FK_OK;
  job j = {.type = fk_type_of(a->x),
           .n = n,
           .weight_type = fk_type_of(a->weight),
           .weight = fk_data(a->weight),
           .epsilon = a->epsilon};
  double bytes = 2.0 * (double)rows * (double)n * (double)fk_width(j.type);
  j.stream = fk_data(a->out) != fk_data(a->x) && fk_stream_pays(bytes);
  if (j.type != FK_F32 && rows > 3) { /* fewer rows convert it as they go */
    float *weight = fk_scratch(ctx, (size_t)n * sizeof *weight);
    if (!weight) return FK_ERROR_MEMORY;
    fk_widen(j.type, fk_data(a->weight), weight, n);
    j.weight = weight;
    j.weight_type = FK_F32;
  }
#pragma omp parallel if (rows > 1 && rows * n >= FK_PARALLEL_MIN)
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) norm_row(&j, fk_row(a->x, r), fk_row(a->out, r));
    if (j.stream) fk_stream_end();
  }
  return FK_OK;
}
