/* Convolutions, row kernels and image models, timed on request: the half of benchmarks/vision.py that runs this
 * library.
 *
 * Reads one request per line and answers each with the seconds of one run, repeated until a sample lasts some
 * milliseconds:
 *
 *     conv2d BATCH HEIGHT WIDTH IN_CHANNELS OUT_CHANNELS KERNEL STRIDE PADDING GROUPS
 *     layer_norm ROWS COLUMNS
 *     gelu ROWS COLUMNS
 *     model PRESET BATCH SIZE
 *
 * Data is float32 and random. What a request needs is made anew when it differs from the one before. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/model.h"

typedef struct bench {
  fk_context *ctx;
  fk_context *data;  /* holds inputs and weights; ctx is reset after each run */
  char request[256]; /* what is prepared */
  fk_model *model;   /* NULL when it is a kernel */
  const char *task;  /* then, which */
  fk_tensors inputs;
  fk_tensor *x, *weight, *bias, *out;
  long stride, padding, groups;
} bench;

static double now(void) {
  /* On a machine that is not ours alone, processor time of one thread (OMP_NUM_THREADS=1) says more. */
  bool busy = getenv("BENCH_CLOCK") && strcmp(getenv("BENCH_CLOCK"), "cpu") == 0;
  struct timespec t;
  clock_gettime(busy ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(fk_status status) {
  if (!status) return;
  fprintf(stderr, "bench_vision: %s\n", fk_last_error());
  exit(2);
}

static fk_tensor *noise(fk_context *ctx, const int64_t *shape, int32_t ndim) {
  fk_tensor *t = fk_empty_shape(ctx, FK_F32, shape, ndim);
  uint32_t bits = 1;
  if (!t) check(FK_ERROR_MEMORY);
  for (int64_t i = 0; i < fk_numel(t); i++) {
    bits = bits * 1664525u + 1013904223u;
    ((float *)t->data)[i] = (float)(bits >> 8) * 0x1p-23f - 1;
  }
  return t;
}
#define NOISE(...) noise(b->data, (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__))

static bool prepare_conv(bench *b, const char *request) {
  long n, h, w, c, o, k;
  if (sscanf(request, "conv2d %ld %ld %ld %ld %ld %ld %ld %ld %ld", &n, &h, &w, &c, &o, &k, &b->stride, &b->padding,
             &b->groups) != 9)
    return false;
  b->task = "conv2d";
  b->x = NOISE(n, h, w, c);
  b->weight = NOISE(o, c / b->groups, k, k);
  b->bias = NOISE(o);
  b->out = NOISE(n, (h + 2 * b->padding - k) / b->stride + 1, (w + 2 * b->padding - k) / b->stride + 1, o);
  return true;
}

static bool prepare_rows(bench *b, const char *request) {
  long rows, columns;
  if (sscanf(request, "layer_norm %ld %ld", &rows, &columns) == 2)
    b->task = "layer_norm";
  else if (sscanf(request, "gelu %ld %ld", &rows, &columns) == 2)
    b->task = "gelu";
  else
    return false;
  b->x = NOISE(rows, columns);
  b->weight = NOISE(columns);
  b->bias = NOISE(columns);
  b->out = NOISE(rows, columns);
  return true;
}

static bool prepare_model(bench *b, const char *request) {
  char preset[128];
  long n, size;
  if (sscanf(request, "model %127s %ld %ld", preset, &n, &size) != 3) return false;
  fk_model_options options = {.dtype = FK_F32, .random_weights = true, .seed = 1};
  check(fk_model_open(b->ctx, preset, &options, &b->model));
  b->inputs.count = 0;
  check(fk_tensors_put(&b->inputs, "pixel_values", NOISE(n, 3, size, size)));
  return true;
}

static void prepare(bench *b, const char *request) {
  fk_model_close(b->model);
  b->model = NULL;
  fk_context_destroy(b->ctx);
  fk_context_destroy(b->data);
  check(fk_context_create(&(fk_context_options){.backend = FK_CPU}, &b->ctx));
  check(fk_context_create(&(fk_context_options){.backend = FK_CPU}, &b->data));
  if (!prepare_conv(b, request) && !prepare_rows(b, request) && !prepare_model(b, request)) {
    fprintf(stderr, "bench_vision: cannot read the request: %s", request);
    exit(2);
  }
  snprintf(b->request, sizeof b->request, "%s", request);
}

static void run(bench *b) {
  fk_tensors outputs;
  if (b->model)
    check(fk_model_forward(b->ctx, b->model, &b->inputs, &outputs));
  else if (strcmp(b->task, "layer_norm") == 0)
    check(fk_call(b->ctx, "layer_norm", b->x, b->weight, b->bias, 1e-6, b->out));
  else if (strcmp(b->task, "gelu") == 0)
    check(fk_call(b->ctx, "gelu", b->x, 0, b->out));
  else
    check(fk_call(b->ctx, "conv2d", b->x, b->weight, b->bias, b->stride, b->stride, b->padding, b->padding, 1, 1,
                  b->groups, b->out));
  fk_context_reset(b->ctx);
}

int main(void) {
  bench b = {0};
  char request[256];
  while (fgets(request, sizeof request, stdin)) {
    if (strcmp(request, b.request) != 0) {
      prepare(&b, request);
      run(&b); /* warms up */
    }
    double start = now(), seconds = 0;
    int runs = 0;
    for (; seconds < 5e-3; runs++, seconds = now() - start) run(&b);
    printf("%.9g\n", seconds / runs);
    fflush(stdout);
  }
  fk_model_close(b.model);
  fk_context_destroy(b.ctx);
  fk_context_destroy(b.data);
  return 0;
}
