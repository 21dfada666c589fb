#include <float.h>
#include <math.h>

#include "device/cpu_math.h"
#include "device/cpu_row.h"
#include "tasks/rms_norm_gated.h"

typedef struct job {
  fk_type type;
  int64_t n, size; /* columns of a row, and of a group */
  const float *weight;
  double epsilon;
  bool norm_first;
} job;

/* Columns [i, i + n) of a row, gated: t = x silu(gate), and what the norm is taken of: t, or x itself. Returns the sum
 * of squares of the latter. */
static float gate_chunk(const job *j, const void *x, const void *gate, int64_t i, float *t, int64_t n) {
  float x_room[FK_CHUNK], gate_room[FK_CHUNK], sum = 0;
  const float *p = fk_row_read(j->type, x, i, x_room, n), *g = fk_row_read(j->type, gate, i, gate_room, n);
#pragma omp simd
  for (int64_t k = 0; k < n; k++) t[k] = p[k] * fk_siluf(g[k]);
  const float *of = j->norm_first ? p : t;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < n; k++) sum += of[k] * of[k];
  return sum;
}

/* The same formula in double, for groups whose squares leave the range of float. */
static void group_in_double(const job *j, const void *x, const void *gate, void *out, int64_t from) {
  float x_room[FK_CHUNK], gate_room[FK_CHUNK];
  double sum = 0, scale = 0;
  for (int pass = 0; pass < 2; pass++) {
    for (int64_t i = from; i < from + j->size; i += FK_CHUNK) {
      int64_t count = fk_chunk_at(i, from + j->size);
      const float *p = fk_row_read(j->type, x, i, x_room, count), *g = fk_row_read(j->type, gate, i, gate_room, count);
      for (int64_t k = 0; k < count; k++) {
        double gated = (double)p[k] * ((double)g[k] / (1 + exp(-(double)g[k])));
        double t = j->norm_first ? (double)p[k] : gated;
        if (pass == 0) sum += t * t;
        x_room[k] = (float)(gated * scale * (double)j->weight[i + k]);
      }
      if (pass) fk_row_write(j->type, out, i, x_room, count, false);
    }
    scale = 1 / sqrt(sum / (double)j->size + j->epsilon);
  }
}

static void norm_group(const job *j, const void *x, const void *gate, void *out, int64_t from) {
  float t[FK_CHUNK];
  double sum = 0;
  int64_t end = from + j->size;
  for (int64_t i = from; i < end; i += FK_CHUNK) sum += (double)gate_chunk(j, x, gate, i, t, fk_chunk_at(i, end));
  double mean = sum / (double)j->size + j->epsilon;
  if (!(sum <= (double)FLT_MAX && mean >= 1e-30)) {
    group_in_double(j, x, gate, out, from);
    return;
  }
  float scale = (float)(1 / sqrt(mean));
  for (int64_t i = from; i < end; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, end);
    if (j->size > FK_CHUNK) gate_chunk(j, x, gate, i, t, count); /* else t still holds the group */
    const float *w = j->weight + i;
#pragma omp simd
    for (int64_t k = 0; k < count; k++) t[k] = t[k] * scale * w[k];
    fk_row_write(j->type, out, i, t, count, false);
  }
}

fk_status fk_cpu_rms_norm_gated(fk_context *ctx, const fk_rms_norm_gated_args *a) {
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1), groups = n / a->group_size;
  if (rows == 0 || n == 0) return FK_OK;
  job j = {fk_type_of(a->x), n, a->group_size, fk_data(a->weight), a->epsilon, a->norm_before_gate};
  if (j.type != FK_F32) {
    float *weight = fk_scratch(ctx, (size_t)n * sizeof *weight);
    if (!weight) return FK_ERROR_MEMORY;
    fk_widen(j.type, fk_data(a->weight), weight, n);
    j.weight = weight;
  }
#pragma omp parallel for schedule(static) if (rows * groups > 1 && rows * n >= FK_PARALLEL_MIN / 4)
  for (int64_t i = 0; i < rows * groups; i++) {
    int64_t r = i / groups;
    norm_group(&j, fk_row(a->x, r), fk_row(a->gate, r), fk_row(a->out, r), i % groups * j.size);
  }
  return FK_OK;
}
