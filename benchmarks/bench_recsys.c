/* Kernels of recommenders, timed on request: the half of benchmarks/recsys.py that runs this library.
 *
 * Reads one request per line and answers each with the seconds of one run, repeated until a sample lasts some
 * milliseconds:
 *
 *     embedding_bag ROWS DIM BAGS POOLING DTYPE SETS  every bag holds POOLING rows, chosen at random; runs go round
 *                                                     SETS batches of bags, so that no cache holds their rows
 *     dot_interaction BATCH FEATURES DIM DTYPE
 *     low_rank_cross_net BATCH FEATURES RANK LAYERS DTYPE
 *
 * Data is random. What a request needs is made anew when it differs from the one before. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/convert.h"
#include "fastkernels/fastkernels.h"

enum { MAX_TENSORS = 5 };

typedef struct bench {
  fk_context *ctx;
  fk_context *data;  /* holds the tensors; ctx is reset after each run */
  char request[256]; /* what is prepared */
  char task[64];
  fk_tensor *t[MAX_TENSORS];
  long layers, sets, turn;
  fk_tensor *values; /* [sets * values of a batch] */
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
  fprintf(stderr, "bench_recsys: %s\n", fk_last_error());
  exit(2);
}

static uint64_t draw(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return *state >> 33;
}

static fk_tensor *noise(fk_context *ctx, fk_type type, const int64_t *shape, int32_t ndim) {
  enum { PERIOD = 4099 }; /* a prime, so that rows differ; a table of gigabytes is filled by copies */
  fk_tensor *t = fk_empty_shape(ctx, type, shape, ndim);
  uint64_t state = 1;
  if (!t) check(FK_ERROR_MEMORY);
  int64_t n = fk_numel(t), first = n < PERIOD ? n : PERIOD, width = (int64_t)fk_type_bits(type) / 8;
  for (int64_t i = 0; i < first; i++) fk_store_f64(type, t->data, i, (double)draw(&state) * 0x1p-30 - 1);
  for (int64_t i = first; i < n; i += first)
    memcpy((char *)t->data + i * width, t->data, (size_t)((n - i < first ? n - i : first) * width));
  return t;
}
#define NOISE(...) noise(b->data, type, (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__))
#define EMPTY(...) fk_empty_shape(b->data, type, (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__))

static bool prepare_bags(bench *b, const char *request) {
  long rows, dim, bags, pooling;
  char dtype[32];
  fk_type type;
  if (sscanf(request, "embedding_bag %ld %ld %ld %ld %31s %ld", &rows, &dim, &bags, &pooling, dtype, &b->sets) != 6 ||
      !fk_type_parse(dtype, &type))
    return false;
  b->values = fk_empty(b->data, FK_I64, b->sets * bags * pooling);
  b->t[1] = fk_empty(b->data, FK_I64, bags + 1);
  if (!b->values || !b->t[1]) check(FK_ERROR_MEMORY);
  uint64_t state = 2;
  for (long i = 0; i < b->sets * bags * pooling; i++) ((int64_t *)b->values->data)[i] = (int64_t)draw(&state) % rows;
  for (long i = 0; i <= bags; i++) ((int64_t *)b->t[1]->data)[i] = i * pooling;
  b->t[2] = NOISE(rows, dim);
  b->t[3] = EMPTY(bags, dim);
  return true;
}

static bool prepare_dots(bench *b, const char *request) {
  long batch, features, dim;
  char dtype[32];
  fk_type type;
  if (sscanf(request, "dot_interaction %ld %ld %ld %31s", &batch, &features, &dim, dtype) != 4 ||
      !fk_type_parse(dtype, &type))
    return false;
  b->t[0] = NOISE(batch, dim);
  b->t[1] = NOISE(batch, features, dim);
  b->t[2] = EMPTY(batch, dim + features * (features + 1) / 2);
  return true;
}

static bool prepare_cross(bench *b, const char *request) {
  long batch, features, rank;
  char dtype[32];
  fk_type type;
  if (sscanf(request, "low_rank_cross_net %ld %ld %ld %ld %31s", &batch, &features, &rank, &b->layers, dtype) != 5 ||
      !fk_type_parse(dtype, &type))
    return false;
  b->t[0] = NOISE(batch, features);
  b->t[1] = NOISE(b->layers * rank, features);
  b->t[2] = NOISE(b->layers * features, rank);
  b->t[3] = NOISE(b->layers * features);
  b->t[4] = EMPTY(batch, features);
  return true;
}

static void prepare(bench *b, const char *request) {
  fk_context_destroy(b->ctx);
  fk_context_destroy(b->data);
  check(fk_context_create(&(fk_context_options){.backend = FK_CPU}, &b->ctx));
  check(fk_context_create(&(fk_context_options){.backend = FK_CPU}, &b->data));
  if (!prepare_bags(b, request) && !prepare_dots(b, request) && !prepare_cross(b, request)) {
    fprintf(stderr, "bench_recsys: cannot read the request: %s", request);
    exit(2);
  }
  sscanf(request, "%63s", b->task);
  snprintf(b->request, sizeof b->request, "%s", request);
}

static void run(bench *b) {
  if (strcmp(b->task, "embedding_bag") == 0) {
    int64_t count = fk_numel(b->values) / b->sets;
    const fk_tensor *values = fk_slice(b->ctx, b->values, 0, b->turn++ % b->sets * count, count);
    check(fk_call(b->ctx, "embedding_bag", values, b->t[1], NULL, b->t[2], 0, b->t[3]));
  } else if (strcmp(b->task, "dot_interaction") == 0) {
    check(fk_call(b->ctx, "dot_interaction", b->t[0], b->t[1], b->t[2]));
  } else {
    check(fk_call(b->ctx, "low_rank_cross_net", b->t[0], b->t[1], b->t[2], b->t[3], b->layers, b->t[4]));
  }
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
    for (; seconds < 2e-2; runs++, seconds = now() - start) run(&b);
    printf("%.9g\n", seconds / runs);
    fflush(stdout);
  }
  fk_context_destroy(b.ctx);
  fk_context_destroy(b.data);
  return 0;
}
