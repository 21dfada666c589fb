#include <float.h>
#include <math.h>

#include "device/cpu_row.h"
#include "device/cpu_tile.h"
#include "tasks/layer_norm.h"

typedef struct job {
  fk_type type;
  int64_t n;
  const float *weight, *bias;
  double epsilon;
  bool stream;
} job;

enum { SUMS = 4 }; /* vectors that keep as many additions in flight */

static float chunk_sum(const float *x, int64_t n) {
  fk_vec sum[SUMS] = {0};
  int64_t i = 0;
  for (; i + SUMS * FK_LANES <= n; i += SUMS * FK_LANES)
    for (int v = 0; v < SUMS; v++) sum[v] += fk_vec_load(x + i + v * FK_LANES);
  for (; i + FK_LANES <= n; i += FK_LANES) sum[0] += fk_vec_load(x + i);
  float all = fk_vec_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
  for (; i < n; i++) all += x[i];
  return all;
}

typedef struct moments {
  double first, second; /* sums of x - shift and of its square */
} moments;

static moments chunk_moments(const float *x, float shift, int64_t n) {
  fk_vec first[2] = {0}, second[2] = {0}, away = fk_vec_all(shift);
  int64_t i = 0;
  for (; i + 2 * FK_LANES <= n; i += 2 * FK_LANES)
    for (int v = 0; v < 2; v++) {
      fk_vec p = fk_vec_load(x + i + v * FK_LANES) - away;
      first[v] += p;
      second[v] += p * p;
    }
  float a = fk_vec_sum(first[0] + first[1]), b = fk_vec_sum(second[0] + second[1]);
  for (; i < n; i++) {
    float p = x[i] - shift;
    a += p;
    b += p * p;
  }
  return (moments){(double)a, (double)b};
}

/* The same formula in double, for rows whose sums or squares leave the range of float. */
static void row_in_double(const job *j, const void *x, void *out) {
  float room[FK_CHUNK];
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    const float *p = fk_row_read(j->type, x, i, room, count);
    for (int64_t k = 0; k < count; k++) sum += (double)p[k];
  }
  double mean = sum / (double)j->n;
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    const float *p = fk_row_read(j->type, x, i, room, count);
    for (int64_t k = 0; k < count; k++) squares += ((double)p[k] - mean) * ((double)p[k] - mean);
  }
  double scale = 1 / sqrt(squares / (double)j->n + j->epsilon);
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    const float *p = fk_row_read(j->type, x, i, room, count);
    for (int64_t k = 0; k < count; k++)
      room[k] = (float)(((double)p[k] - mean) * scale * (double)j->weight[i + k] + (double)j->bias[i + k]);
    fk_row_write(j->type, out, i, room, count, false);
  }
}

/* The variance is summed about the rounded mean, and what rounding took from the mean is put back: neither a mean far
 * above the deviation nor a nearly constant row loses digits. */
static void norm_row(const job *j, const void *x, void *out) {
  float in_room[FK_CHUNK], out_room[FK_CHUNK];
  double sum = 0;
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    sum += (double)chunk_sum(fk_row_read(j->type, x, i, in_room, count), count);
  }
  float shift = (float)(sum / (double)j->n);
  moments m = {0, 0};
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    moments part = chunk_moments(fk_row_read(j->type, x, i, in_room, count), shift, count);
    m.first += part.first;
    m.second += part.second;
  }
  double rest = m.first / (double)j->n, variance = m.second / (double)j->n - rest * rest + j->epsilon;
  if (!(m.second <= (double)FLT_MAX && variance >= 1e-30)) {
    row_in_double(j, x, out);
    return;
  }
  double inverse = 1 / sqrt(variance);
  float scale = (float)inverse, offset = (float)(-rest * inverse);
  for (int64_t i = 0; i < j->n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, j->n);
    const float *p = fk_row_read(j->type, x, i, in_room, count), *w = j->weight + i, *b = j->bias + i;
    float *o = fk_row_target(j->type, out, i, out_room, j->stream);
#pragma omp simd
    for (int64_t k = 0; k < count; k++) o[k] = ((p[k] - shift) * scale + offset) * w[k] + b[k];
    fk_row_write(j->type, out, i, o, count, j->stream);
  }
}

/* A parameter as n floats; the neutral element where it is absent. NULL when there is no memory. */
static const float *parameter(fk_context *ctx, const fk_tensor *t, fk_type type, int64_t n, float neutral) {
  if (t && type == FK_F32) return fk_data(t);
  float *floats = fk_scratch(ctx, (size_t)n * sizeof *floats);
  if (floats && t) fk_widen(type, fk_data(t), floats, n);
  for (int64_t i = 0; floats && !t && i < n; i++) floats[i] = neutral;
  return floats;
}

fk_status fk_cpu_layer_norm(fk_context *ctx, const fk_layer_norm_args *a) {
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1);
  if (rows == 0 || n == 0) return FK_OK;
  job j = {.type = fk_type_of(a->x), .n = n, .epsilon = a->epsilon};
  j.weight = parameter(ctx, a->weight, j.type, n, 1);
  j.bias = parameter(ctx, a->bias, j.type, n, 0);
  if (!j.weight || !j.bias) return FK_ERROR_MEMORY;
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
