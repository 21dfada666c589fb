/* Encoders: layer_norm and gelu against the copy of as many bytes, and BERT-base's forward().
 *
 *   bench_encoder                the kernels: share of the copy's bandwidth (target 70 %)
 *   bench_encoder BATCH LENGTH   BERT-base with random weights: reads a line, runs forward() once, prints its seconds,
 *                                and so on. benchmarks/encoder.py takes turns with PyTorch this way. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/model.h"

static const double target = 0.7;
enum { ROWS = 65536, COLUMNS = 768, ROUNDS = 12 };

/* BENCH_CLOCK=cpu, for one thread on a busy machine: processor time. */
static double now(void) {
  const char *clock = getenv("BENCH_CLOCK");
  struct timespec t;
  clock_gettime(clock && strcmp(clock, "cpu") == 0 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(fk_status status) {
  if (!status) return;
  fprintf(stderr, "bench_encoder: %s\n", fk_last_error());
  exit(2);
}

/* ---- Kernels --------------------------------------------------------------------------------------------- */

static double copy_seconds(void *to, const void *from, size_t bytes) {
  enum { BLOCK = 1 << 18 };
  double start = now();
#pragma omp parallel for schedule(static)
  for (size_t i = 0; i < bytes; i += BLOCK)
    memcpy((char *)to + i, (const char *)from + i, bytes - i < BLOCK ? bytes - i : BLOCK);
  return now() - start;
}

typedef struct tensors {
  fk_tensor *x, *out, *weight, *bias;
} tensors;

static double kernel_seconds(fk_context *ctx, const char *task, const tensors *t) {
  double start = now();
  if (strcmp(task, "layer_norm") == 0)
    check(fk_call(ctx, task, t->x, t->weight, t->bias, 1e-12, t->out));
  else
    check(fk_call(ctx, task, t->x, 0, t->out));
  return now() - start;
}

/* Both sides run over the same memory, in turns. */
static bool measure(fk_context *ctx, const char *task, const tensors *t, size_t bytes) {
  double copy = 1e9, own = 1e9;
  for (int i = 0; i < ROUNDS; i++) {
    double a = copy_seconds(fk_data(t->out), fk_data(t->x), bytes), b = kernel_seconds(ctx, task, t);
    copy = a < copy ? a : copy;
    own = b < own ? b : own;
  }
  printf("%-12s %8.2f ms %8.2f ms copy %8.1f GB/s %6.0f %%%s\n", task, own * 1e3, copy * 1e3,
         2e-9 * (double)bytes / own, 100 * copy / own, copy / own >= target ? "" : "  MISSED");
  return copy / own >= target;
}

static int kernels(void) {
  fk_context *ctx;
  check(fk_context_create(&(fk_context_options){.backend = FK_CPU}, &ctx));
  tensors t = {fk_empty(ctx, FK_F32, ROWS, COLUMNS), fk_empty(ctx, FK_F32, ROWS, COLUMNS),
               fk_empty(ctx, FK_F32, COLUMNS), fk_empty(ctx, FK_F32, COLUMNS)};
  if (!t.x || !t.out || !t.weight || !t.bias) check(FK_ERROR_MEMORY);
  size_t bytes = sizeof(float) * ROWS * COLUMNS;
  for (int64_t i = 0; i < ROWS * COLUMNS; i++) ((float *)t.x->data)[i] = (float)(i * 7919 % 2003) / 400 - 2.5f;
  for (int i = 0; i < COLUMNS; i++) ((float *)t.weight->data)[i] = 1, ((float *)t.bias->data)[i] = 0.5f;
  memset(t.out->data, 1, bytes);
  printf("%d threads, %d x %d float32\n", omp_get_max_threads(), ROWS, COLUMNS);
  bool norm = measure(ctx, "layer_norm", &t, bytes), gelu = measure(ctx, "gelu", &t, bytes);
  fk_context_destroy(ctx);
  return norm && gelu ? 0 : 1;
}

/* ---- The model ------------------------------------------------------------------------------------------- */

static const char config[] =
    "{\"architectures\": [\"BertModel\"], \"vocab_size\": 30522, \"hidden_size\": 768, \"intermediate_size\": 3072, "
    "\"num_hidden_layers\": 12, \"num_attention_heads\": 12, \"max_position_embeddings\": 512}";

static int model(int64_t batch, int64_t length) {
  fk_context *ctx;
  fk_model *bert;
  fk_model_options options = {.dtype = FK_F32, .random_weights = true, .seed = 1};
  check(fk_context_create(&(fk_context_options){.backend = FK_CPU}, &ctx));
  check(fk_model_open_config(ctx, config, strlen(config), "bench_encoder", &options, &bert));
  int64_t shape[] = {batch, length}, *ids = malloc((size_t)(batch * length) * sizeof *ids);
  if (!ids) return 2;
  for (int64_t i = 0; i < batch * length; i++) ids[i] = 1 + i * 7919 % 30000;
  for (char line[16]; fgets(line, sizeof line, stdin);) {
    fk_tensors inputs = {0}, outputs = {0};
    check(fk_tensors_put(&inputs, "input_ids", fk_wrap(ctx, ids, FK_I64, shape, 2, NULL)));
    double start = now();
    check(fk_model_forward(ctx, bert, &inputs, &outputs));
    printf("%.6f\n", now() - start);
    fflush(stdout);
    fk_context_reset(ctx);
  }
  free(ids);
  fk_model_close(bert);
  fk_context_destroy(ctx);
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 3) return model(atoll(argv[1]), atoll(argv[2]));
  return kernels();
}
