#include <float.h>
#include <math.h>

#include "device/cpu_row.h"
#include "tasks/grn.h"

enum { PIXELS = 64 }; /* per work item: their squares are summed by themselves, whoever does it */

typedef struct job {
  const fk_grn_args *a;
  fk_type type;
  int64_t batch, pixels, channels, blocks; /* blocks of PIXELS pixels per image */
  const float *weight, *bias;
  float *sums;   /* [batch][blocks][channels] sums of squares */
  float *scales; /* [batch][channels] 1 + weight * response */
  bool stream;
} job;

static int64_t block_end(const job *j, int64_t block) {
  return (block + 1) * PIXELS < j->pixels ? (block + 1) * PIXELS : j->pixels;
}

static void sum_block(const job *j, int64_t n, int64_t block) {
  float room[FK_CHUNK], *sum = j->sums + (n * j->blocks + block) * j->channels;
  memset(sum, 0, (size_t)j->channels * 4);
  for (int64_t i = block * PIXELS; i < block_end(j, block); i++) {
    const void *row = fk_row(j->a->x, n * j->pixels + i);
    for (int64_t c = 0; c < j->channels; c += FK_CHUNK) {
      int64_t count = fk_chunk_at(c, j->channels);
      const float *p = fk_row_read(j->type, row, c, room, count);
      float *to = sum + c;
#pragma omp simd
      for (int64_t k = 0; k < count; k++) to[k] += p[k] * p[k];
    }
  }
}

/* The norm of one channel in double, for squares that leave the range of float. */
static double norm_in_double(const job *j, int64_t n, int64_t c) {
  double sum = 0;
  for (int64_t i = 0; i < j->pixels; i++) {
    float v;
    fk_widen(j->type, (const char *)fk_row(j->a->x, n * j->pixels + i) + c * fk_width(j->type), &v, 1);
    sum += (double)v * (double)v;
  }
  return sqrt(sum);
}

/* From the sums of an image's blocks to its scales. */
static void image_scales(const job *j, int64_t n) {
  float *scale = j->scales + n * j->channels;
  double mean = 0;
  for (int64_t c = 0; c < j->channels; c++) {
    double sum = 0;
    for (int64_t b = 0; b < j->blocks; b++) sum += (double)j->sums[(n * j->blocks + b) * j->channels + c];
    /* Too large for float, or so small that squares were lost. */
    double norm = sum <= (double)FLT_MAX && sum >= 1e-30 ? sqrt(sum) : norm_in_double(j, n, c);
    j->sums[n * j->blocks * j->channels + c] = (float)norm;
    mean += norm / (double)j->channels;
  }
  double factor = 1 / (mean + j->a->epsilon);
  for (int64_t c = 0; c < j->channels; c++) {
    double response = (double)j->sums[n * j->blocks * j->channels + c] * factor;
    scale[c] = (float)(1 + (double)j->weight[c] * response);
  }
}

static void write_row(const job *j, int64_t n, const void *x, void *out) {
  float in_room[FK_CHUNK], out_room[FK_CHUNK];
  for (int64_t c = 0; c < j->channels; c += FK_CHUNK) {
    int64_t count = fk_chunk_at(c, j->channels);
    const float *p = fk_row_read(j->type, x, c, in_room, count);
    const float *scale = j->scales + n * j->channels + c, *bias = j->bias + c;
    float *o = fk_row_target(j->type, out, c, out_room, j->stream);
#pragma omp simd
    for (int64_t k = 0; k < count; k++) o[k] = p[k] * scale[k] + bias[k];
    fk_row_write(j->type, out, c, o, count, j->stream);
  }
}

static void run(const job *j) {
  int64_t items = j->batch * j->blocks;
#pragma omp parallel if (j->batch * j->pixels * j->channels >= FK_PARALLEL_MIN)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < items; i++) sum_block(j, i / j->blocks, i % j->blocks);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < j->batch; n++) image_scales(j, n);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < items; i++) {
      int64_t n = i / j->blocks, block = i % j->blocks;
      for (int64_t k = block * PIXELS; k < block_end(j, block); k++)
        write_row(j, n, fk_row(j->a->x, n * j->pixels + k), fk_row(j->a->out, n * j->pixels + k));
    }
    if (j->stream) fk_stream_end();
  }
}

fk_status fk_cpu_grn(fk_context *ctx, const fk_grn_args *a) {
  job j = {.a = a,
           .type = fk_type_of(a->x),
           .batch = fk_size(a->x, 0),
           .pixels = fk_size(a->x, 1) * fk_size(a->x, 2),
           .channels = fk_size(a->x, 3)};
  if (fk_numel(a->x) == 0) return FK_OK;
  j.blocks = (j.pixels + PIXELS - 1) / PIXELS;
  float *weight = fk_scratch(ctx, (size_t)j.channels * 4), *bias = fk_scratch(ctx, (size_t)j.channels * 4);
  j.sums = fk_scratch(ctx, (size_t)(j.batch * j.blocks * j.channels) * 4);
  j.scales = fk_scratch(ctx, (size_t)(j.batch * j.channels) * 4);
  if (!weight || !bias || !j.sums || !j.scales) return FK_ERROR_MEMORY;
  fk_widen(j.type, fk_data(a->weight), weight, j.channels);
  fk_widen(j.type, fk_data(a->bias), bias, j.channels);
  j.weight = weight;
  j.bias = bias;
  double bytes = 2.0 * (double)fk_numel(a->x) * (double)fk_width(j.type);
  j.stream = fk_data(a->out) != fk_data(a->x) && fk_stream_pays(bytes);
  run(&j);
  return FK_OK;
}
