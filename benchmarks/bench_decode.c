/* Decoding one sequence: time per token against the time it takes to read the weights once, which is the floor.
 *
 *     bench_decode [llama | mamba2]
 *
 * The models have about 100 million parameters and random weights; the floor is their bytes (the embedding table counts
 * one row), and those of recurrent states, read and written, over the read bandwidth that all threads together reach on
 * an array of that size. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/model.h"

enum { CONTEXT = 64, TOKENS = 12, ROUNDS = 8, BLOCK = 16, BLOCKS = 16 };
static const double target = 0.7;

typedef struct subject {
  const char *name, *config;
} subject;

static const int64_t vocab_size = 32000, hidden_size = 768;
static const subject subjects[] = {
    {"llama",
     "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 32000, \"hidden_size\": 768, "
     "\"intermediate_size\": 2048, \"num_hidden_layers\": 12, \"num_attention_heads\": 12, "
     "\"num_key_value_heads\": 4, \"max_position_embeddings\": 256}"},
    {"mamba2",
     "{\"architectures\": [\"Mamba2ForCausalLM\"], \"vocab_size\": 32000, \"hidden_size\": 768, "
     "\"num_hidden_layers\": 16, \"num_heads\": 24, \"head_dim\": 64, \"state_size\": 128, \"n_groups\": 1}"},
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(fk_status status) {
  if (!status) return;
  fprintf(stderr, "bench_decode: %s\n", fk_last_error());
  exit(2);
}

/* Sums a block, four streams at a time with their lines asked for early: as fast as one thread can read. */
__attribute__((target_clones("avx512f", "avx2", "default"))) static uint64_t read_block(const uint64_t *p, size_t n) {
  uint64_t sum[32] = {0};
  size_t quarter = n / 4;
  for (size_t i = 0; i < quarter; i += 8)
    for (size_t stream = 0; stream < 4; stream++) {
      const uint64_t *q = p + stream * quarter + i;
      __builtin_prefetch(q + 128);
      for (size_t k = 0; k < 8; k++) sum[stream * 8 + k] += q[k];
    }
  for (size_t k = 1; k < 32; k++) sum[0] += sum[k];
  return sum[0];
}

/* Seconds to read the array with all threads, once. */
static double read_all(const uint64_t *data, size_t bytes) {
  enum { WORDS = 1 << 14 };
  size_t blocks = bytes / (WORDS * sizeof *data);
  uint64_t sum = 0;
  double start = now();
#pragma omp parallel for schedule(static) reduction(+ : sum)
  for (size_t block = 0; block < blocks; block++) sum += read_block(data + block * WORDS, WORDS);
  return sum ? now() - start : 1e9; /* the sum is used, so that the loop stays */
}

typedef struct decoder {
  fk_context *ctx;
  fk_model *model;
  fk_tensor *caches[FK_MAX_CACHES];
  fk_tensor *logits;
  fk_batch batch;
  double state_bytes; /* read and written by a step */
} decoder;

/* A paged cache of BLOCKS blocks, or one entry of a state. */
static fk_tensor *make_cache(decoder *d, const fk_cache_spec *spec) {
  bool paged = spec->kind == FK_CACHE_PAGED;
  int64_t shape[6] = {paged ? BLOCKS : 1, BLOCK};
  int32_t lead = paged ? 2 : 1;
  memcpy(shape + lead, spec->shape, (size_t)spec->ndim * sizeof *shape);
  fk_tensor *t = fk_empty_shape(d->ctx, spec->type, shape, lead + spec->ndim);
  if (!t) check(FK_ERROR_MEMORY);
  size_t bytes = fk_type_bytes(spec->type, fk_numel(t));
  memset(t->data, 0, bytes);
  if (!paged) d->state_bytes += 2 * (double)bytes;
  return t;
}

static void make(decoder *d, const char *config, fk_type type) {
  fk_model_options options = {.dtype = type, .random_weights = true, .seed = 1};
  check(fk_context_create(&(fk_context_options){.backend = FK_CPU, .unchecked = true}, &d->ctx));
  check(fk_model_open_config(d->ctx, config, strlen(config), "bench_decode", &options, &d->model));
  fk_cache_spec specs[FK_MAX_CACHES];
  int count = d->model->class->sequence->caches(d->model->state, specs);
  for (int i = 0; i < count; i++) d->caches[i] = make_cache(d, &specs[i]);
  d->batch = (fk_batch){.input_ids = fk_empty(d->ctx, FK_I32, 1),
                        .positions = fk_empty(d->ctx, FK_I64, 1),
                        .cu_seqlens_q = fk_empty(d->ctx, FK_I32, 2),
                        .seq_lens = fk_empty(d->ctx, FK_I32, 1),
                        .slot_mapping = fk_empty(d->ctx, FK_I64, 1),
                        .block_table = fk_empty(d->ctx, FK_I32, 1, BLOCKS),
                        .state_slots = fk_empty(d->ctx, FK_I32, 1),
                        .logits_indices = fk_empty(d->ctx, FK_I32, 1),
                        .caches = d->caches};
  d->logits = fk_empty(d->ctx, type, 1, vocab_size);
  for (int i = 0; i < BLOCKS; i++) ((int32_t *)d->batch.block_table->data)[i] = i;
  ((int32_t *)d->batch.cu_seqlens_q->data)[0] = 0;
  ((int32_t *)d->batch.cu_seqlens_q->data)[1] = 1;
  ((int32_t *)d->batch.state_slots->data)[0] = 0;
  ((int32_t *)d->batch.logits_indices->data)[0] = 0;
}

static void decode(decoder *d, int64_t position) {
  *(int32_t *)d->batch.input_ids->data = (int32_t)(position * 97 % vocab_size);
  *(int64_t *)d->batch.positions->data = position;
  *(int64_t *)d->batch.slot_mapping->data = position;
  *(int32_t *)d->batch.seq_lens->data = (int32_t)position + 1;
  check(fk_model_step(d->ctx, d->model, &d->batch, d->logits));
}

/* True when the target is met. */
static bool measure(const subject *subject, fk_type type) {
  decoder d = {0};
  make(&d, subject->config, type);
  for (int64_t p = 0; p < CONTEXT; p++) decode(&d, p);
  double bytes = (double)fk_type_bytes(type, d.model->num_parameters - (vocab_size - 1) * hidden_size) + d.state_bytes;
  uint64_t *array = fk_host_memory.alloc(&fk_host_memory, (size_t)bytes);
  if (!array) exit(2);
  memset(array, 1, (size_t)bytes);
  /* In turns, so that both meet the same machine. */
  double best = 1e9, floor = 1e9;
  for (int r = 0; r < ROUNDS; r++) {
    double start = now();
    for (int64_t p = CONTEXT; p < CONTEXT + TOKENS; p++) decode(&d, p);
    double seconds = (now() - start) / TOKENS;
    if (seconds < best) best = seconds;
    for (int pass = 0; pass < 4; pass++) {
      seconds = read_all(array, (size_t)bytes);
      if (seconds < floor) floor = seconds;
    }
  }
  fk_host_memory.release(&fk_host_memory, array, (size_t)bytes);
  double bandwidth = bytes / floor;
  printf("%-7s %-9s %8.1f M %9.1f MB %9.1f GB/s %9.2f ms %9.2f ms %8.0f %%%s\n", subject->name, fk_type_name(type),
         (double)d.model->num_parameters / 1e6, bytes / 1e6, bandwidth / 1e9, floor * 1e3, best * 1e3,
         100 * floor / best, floor / best >= target ? "" : "  MISSED");
  fk_model_close(d.model);
  fk_context_destroy(d.ctx);
  return floor / best >= target;
}

int main(int argc, char **argv) {
  bool met = true, known = argc < 2;
  printf("%d threads; target %.0f %% of the floor\n%-7s %-9s %10s %12s %14s %12s %12s %10s\n", omp_get_max_threads(),
         100 * target, "model", "dtype", "params", "bytes", "read", "floor", "token", "of floor");
  for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
    if (argc > 1 && strcmp(argv[1], subjects[i].name) != 0) continue;
    known = true;
    met = measure(&subjects[i], FK_F32) && met;
    met = measure(&subjects[i], FK_BF16) && met;
  }
  if (!known) fprintf(stderr, "bench_decode: expected llama or mamba2, got %s\n", argv[1]);
  return known && met ? 0 : 1;
}
