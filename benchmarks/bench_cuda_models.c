/* Whole models on the GPU, with random weights: no files are needed.
 *
 *     bench_cuda_models [--json FILE] [--gpu N] [--profile no] [SUBJECT...]
 *
 * Decoding: one replay of a decode graph (engine/decode_graph.h: the step, argmax, and what prepares the next step)
 * between two events, in bfloat16, caches full of random numbers; every RESTART replays the sequences go back to their
 * length. Prefill: one eager step between two events. Encoders and classifiers: forward() on the host's clock,
 * transfers and results included. The floor is what the step must at least read over the copy rate, or its FLOPs over
 * the matrix rate, both measured in the same run. Medians; raw samples go to the JSON file. Below each line
 * stands where the GPU's time goes (cuda_profile.h), unless --profile no. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda_profile.h"
#include "engine/cache.h"
#include "engine/ceilings.h"
#include "engine/decode_graph.h"

enum { SKIPPED = 77, SAMPLES = 101, WARMUP = 5, RESTART = 16, BLOCK = 16, MAX_SUBJECTS = 16 };

static struct {
  fk_context *ctx;
  fk_cuda_timer *timer;
  fk_cuda_ceilings ceilings;
  json_t *results;
  bool profile;
} g = {.profile = true};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* One line of the table and one object of the file; floor and bar 0: none. */
static void report(const char *name, const double *milliseconds, int n, double floor, double bar, double per_call,
                   const char *unit) {
  double sorted[SAMPLES];
  json_t *samples = json_array(), *o = json_object();
  for (int i = 0; i < n; i++) json_array_append_new(samples, json_real(milliseconds[i]));
  memcpy(sorted, milliseconds, (size_t)n * sizeof *sorted);
  qsort(sorted, (size_t)n, sizeof *sorted, compare_doubles);
  double median = sorted[n / 2];
  printf("%-24s %10.3f ms %10.3f ms", name, median, sorted[0]);
  if (floor > 0)
    printf(" %10.3f ms %6.1f %%", floor, 100 * floor / median);
  else
    printf("             -        -");
  if (bar > 0)
    printf(" %8.1f ms %s", bar, median <= bar ? "met   " : "MISSED");
  else
    printf("        -          ");
  printf(" %12.1f %s/s\n", 1e3 * per_call / median, unit);
  fflush(stdout);
  json_object_set_new(o, "name", json_string(name));
  json_object_set_new(o, "median_ms", json_real(median));
  json_object_set_new(o, "min_ms", json_real(sorted[0]));
  json_object_set_new(o, "floor_ms", floor > 0 ? json_real(floor) : json_null());
  json_object_set_new(o, "bar_ms", bar > 0 ? json_real(bar) : json_null());
  json_object_set_new(o, "per_second", json_real(1e3 * per_call / median));
  json_object_set_new(o, "unit", json_string(unit));
  json_object_set_new(o, "samples_ms", samples);
  json_array_append_new(g.results, o);
}

static fk_status open_preset(const char *name, int64_t max_model_len, fk_model **model) {
  double start = now();
  fk_model_options options = {.dtype = FK_BF16, .max_model_len = max_model_len, .random_weights = true, .seed = 1};
  FK_TRY(fk_model_open(g.ctx, name, &options, model));
  printf("%s: %.2f G parameters ready in %.2f s\n", name, (double)(*model)->num_parameters / 1e9, now() - start);
  return FK_OK;
}

/* ---- Sequences ------------------------------------------------------------------------------------------- */

static fk_status random_caches(const fk_caches *caches) {
  for (int i = 0; i < caches->count; i++) {
    fk_tensor *t = caches->tensors[i];
    FK_TRY(fk_cuda_random(g.ctx->cuda, t->data, fk_type_of(t), fk_numel(t), (uint64_t)i + 1, 0, 1));
  }
  return FK_OK;
}

/* `added` new tokens of each of n sequences that then have `length`. */
static fk_batch make_batch(const fk_caches *caches, int64_t n, int64_t added, int64_t length, int64_t columns) {
  fk_context *ctx = g.ctx;
  fk_batch b = {.input_ids = fk_host(ctx, FK_I32, n * added),
                .positions = fk_host(ctx, FK_I64, n * added),
                .cu_seqlens_q = fk_host(ctx, FK_I32, n + 1),
                .seq_lens = fk_host(ctx, FK_I32, n),
                .slot_mapping = fk_host(ctx, FK_I64, n * added),
                .block_table = fk_host(ctx, FK_I32, n, columns),
                .state_slots = caches->has_state ? fk_host(ctx, FK_I32, n) : NULL,
                .logits_indices = fk_host(ctx, FK_I32, n),
                .caches = caches->tensors};
  for (int64_t s = 0; s <= n; s++) ((int32_t *)b.cu_seqlens_q->data)[s] = (int32_t)(s * added);
  for (int64_t s = 0; s < n; s++) {
    int32_t *table = (int32_t *)b.block_table->data + s * columns;
    /* Blocks lie mixed, as those of sequences that grow together do. */
    for (int64_t k = 0; k < columns; k++) table[k] = (int32_t)(k * n + s);
    ((int32_t *)b.seq_lens->data)[s] = (int32_t)length;
    if (b.state_slots) ((int32_t *)b.state_slots->data)[s] = (int32_t)s;
    ((int32_t *)b.logits_indices->data)[s] = (int32_t)((s + 1) * added - 1);
    for (int64_t i = 0, p = length - added; i < added; i++, p++) {
      ((int32_t *)b.input_ids->data)[s * added + i] = (int32_t)((p * 997 + s * 31) % 32000);
      ((int64_t *)b.positions->data)[s * added + i] = p;
      ((int64_t *)b.slot_mapping->data)[s * added + i] = table[p / BLOCK] * BLOCK + p % BLOCK;
    }
  }
  return b;
}

/* Bytes that a decode step reads: all weights but the embedding table's other rows, and the caches' part in use. */
static double decode_bytes(const fk_model *model, const fk_caches *caches, int64_t length, int64_t hidden,
                           int64_t columns) {
  double rows = (double)model->class->sequence->num_embeddings(model->state);
  double bytes = 2 * ((double)model->num_parameters - rows * (double)hidden);
  if (caches->has_state) return bytes + 2 * (double)caches->bytes; /* states are read and written */
  return bytes + (double)caches->bytes * (double)length / (double)(columns * BLOCK);
}

typedef struct work { /* one step, or one forward() */
  const fk_model *model;
  const fk_batch *batch;
  fk_tensor *logits;
  const fk_tensors *inputs;
} work;

static fk_status run_work(void *argument) {
  const work *w = argument;
  fk_tensors outputs = {0};
  return w->batch ? fk_model_step(g.ctx, w->model, w->batch, w->logits)
                  : fk_model_forward(g.ctx, w->model, w->inputs, &outputs);
}

static fk_status profile_step(const fk_model *model, const fk_batch *batch) {
  int64_t n = fk_numel(batch->logits_indices);
  work w = {.model = model, .batch = batch};
  if (!g.profile) return FK_OK;
  w.logits = fk_empty(g.ctx, model->dtype, n, model->class->sequence->output_size(model->state));
  return w.logits ? profile_run(g.ctx, run_work, &w) : FK_ERROR_MEMORY;
}

static fk_status time_decode(const char *name, fk_decode_graph *graph, const fk_batch *batch, int64_t n, double floor,
                             double bar) {
  double samples[SAMPLES];
  fk_cuda *cuda = g.ctx->cuda;
  for (int i = -WARMUP; i < SAMPLES; i++) {
    double ignored, *to = i < 0 ? &ignored : &samples[i];
    if (i < 0 || i % RESTART == 0) FK_TRY(fk_decode_graph_set(graph, batch));
    FK_TRY(fk_sync(g.ctx));
    FK_TRY(fk_cuda_timer_start(cuda, g.timer));
    FK_TRY(fk_decode_graph_step(graph));
    FK_TRY(fk_cuda_timer_stop(cuda, g.timer));
    FK_TRY(fk_cuda_timer_elapsed(cuda, g.timer, to));
  }
  FK_TRY(fk_sync(g.ctx)); /* faults */
  report(name, samples, SAMPLES, floor, bar, (double)n, "tokens");
  return FK_OK;
}

static fk_status decode(const char *name, const fk_model *model, int64_t hidden, int64_t n, int64_t length,
                        double bar) {
  int64_t columns = length / BLOCK + 2;
  fk_caches caches;
  fk_decode_graph *graph = NULL;
  FK_TRY(fk_caches_create(g.ctx, model, n * columns, BLOCK, n, &caches));
  fk_decode_options options = {
      .batch_size = n, .max_blocks_per_seq = columns, .greedy = true, .history = RESTART, .tune = true};
  fk_batch batch = make_batch(&caches, n, 1, length, columns);
  double floor = 1e3 * decode_bytes(model, &caches, length, hidden, columns) / g.ceilings.bytes_per_second;
  fk_status status = random_caches(&caches);
  if (!status) status = fk_decode_graph_create(g.ctx, model, caches.tensors, &options, &graph);
  if (!status) status = time_decode(name, graph, &batch, n, floor, bar);
  if (!status) {
    double before, after;
    fk_decode_graph_tuned(graph, &before, &after);
    printf("  %d nodes; tuned from %.3f to %.3f ms\n", fk_decode_graph_nodes(graph), before, after);
  }
  if (!status) status = profile_step(model, &batch);
  fk_decode_graph_destroy(graph);
  fk_caches_destroy(&caches);
  fk_context_reset(g.ctx);
  return status;
}

static fk_status time_prefill(const char *name, const fk_model *model, const fk_caches *caches, int64_t length,
                              double floor, double bar) {
  enum { RUNS = 15 };
  double samples[SAMPLES];
  fk_batch batch = make_batch(caches, 1, length, length, length / BLOCK);
  fk_tensor *logits = fk_empty(g.ctx, model->dtype, 1, model->class->sequence->output_size(model->state));
  for (int i = -2; i < RUNS; i++) {
    double ignored;
    FK_TRY(fk_sync(g.ctx));
    FK_TRY(fk_cuda_timer_start(g.ctx->cuda, g.timer));
    FK_TRY(fk_model_step(g.ctx, model, &batch, logits));
    FK_TRY(fk_cuda_timer_stop(g.ctx->cuda, g.timer));
    FK_TRY(fk_cuda_timer_elapsed(g.ctx->cuda, g.timer, i < 0 ? &ignored : &samples[i]));
  }
  FK_TRY(fk_sync(g.ctx));
  report(name, samples, RUNS, floor, bar, (double)length, "tokens");
  return profile_step(model, &batch);
}

static fk_status prefill(const char *name, const fk_model *model, int64_t length, double flops, double bar) {
  fk_caches caches;
  FK_TRY(fk_caches_create(g.ctx, model, length / BLOCK, BLOCK, 1, &caches));
  fk_status status = time_prefill(name, model, &caches, length, 1e3 * flops / g.ceilings.flops_per_second, bar);
  fk_caches_destroy(&caches);
  fk_context_reset(g.ctx);
  return status;
}

/* What changes with how matrix products are computed (FASTKERNELS_GEMM), and nothing else. */
static fk_status llama_decode(void) {
  fk_model *model;
  FK_TRY(open_preset("llama-3.1-8b", 16384, &model));
  fk_status status = decode("llama-8b decode 1", model, 4096, 1, 512, 4.0);
  if (!status) status = decode("llama-8b decode 32", model, 4096, 32, 512, 4.8);
  fk_model_close(model);
  return status;
}

static fk_status llama(void) {
  enum { HIDDEN = 4096, LAYERS = 32, VOCAB = 128256, LENGTH = 8192 };
  fk_model *model;
  FK_TRY(open_preset("llama-3.1-8b", 16384, &model));
  /* Two per weight and token but for the table and, where only one row is wanted, the head; and causal attention. */
  double per_token = 2 * ((double)model->num_parameters - 2.0 * VOCAB * HIDDEN);
  double flops = per_token * LENGTH + 2.0 * VOCAB * HIDDEN + 2.0 * LENGTH * LENGTH * HIDDEN * LAYERS;
  fk_status status = decode("llama-8b decode 1", model, HIDDEN, 1, 512, 4.0);
  if (!status) status = decode("llama-8b decode 32", model, HIDDEN, 32, 512, 4.8);
  if (!status) status = prefill("llama-8b prefill 8192", model, LENGTH, flops, 215);
  fk_model_close(model);
  return status;
}

static fk_status mamba2(void) {
  fk_model *model;
  FK_TRY(open_preset("mamba-codestral-7b", 0, &model));
  fk_status status = decode("mamba2-7b decode 1", model, 4096, 1, 512, 0);
  if (!status) status = decode("mamba2-7b decode 32", model, 4096, 32, 512, 0);
  if (!status) status = prefill("mamba2-7b prefill 8192", model, 8192, 0, 0);
  fk_model_close(model);
  return status;
}

/* ---- forward() ------------------------------------------------------------------------------------------- */

static fk_status time_forward(const char *name, const fk_model *model, const fk_tensors *inputs, int64_t items,
                              const char *unit) {
  enum { RUNS = 31 };
  double samples[SAMPLES];
  for (int i = -WARMUP; i < RUNS; i++) {
    fk_tensors outputs = {0};
    fk_context_mark mark = fk_context_save(g.ctx);
    FK_TRY(fk_sync(g.ctx));
    double start = now();
    FK_TRY(fk_model_forward(g.ctx, model, inputs, &outputs));
    FK_TRY(fk_sync(g.ctx));
    if (i >= 0) samples[i] = 1e3 * (now() - start);
    fk_context_rewind(g.ctx, mark);
  }
  report(name, samples, RUNS, 0, 0, (double)items, unit);
  work w = {.model = model, .inputs = inputs};
  return g.profile ? profile_run(g.ctx, run_work, &w) : FK_OK;
}

static fk_status run_colbert(const fk_model *model, const char *name, int64_t batch, int64_t length) {
  fk_tensors inputs = {0};
  fk_tensor *ids = fk_host(g.ctx, FK_I64, batch, length);
  for (int64_t i = 0; i < batch * length; i++) ((int64_t *)ids->data)[i] = 1000 + i * 7919 % 29000;
  FK_TRY(fk_tensors_put(&inputs, "doc_input_ids", ids));
  fk_status status = time_forward(name, model, &inputs, batch, "passages");
  fk_context_reset(g.ctx);
  return status;
}

static fk_status colbert(void) {
  fk_model *model;
  FK_TRY(open_preset("colbertv2.0", 0, &model));
  fk_status status = run_colbert(model, "colbertv2 32 x 65", 32, 65);
  if (!status) status = run_colbert(model, "colbertv2 32 x 180", 32, 180);
  fk_model_close(model);
  return status;
}

/* Images lie in GPU memory, as a decoder there leaves them. */
static fk_status run_convnext(const fk_model *model, int64_t batch, int64_t size) {
  fk_tensors inputs = {0};
  fk_tensor *pixels = fk_empty(g.ctx, FK_BF16, batch, 3, size, size);
  if (!pixels) return FK_ERROR_MEMORY;
  FK_TRY(fk_cuda_random(g.ctx->cuda, pixels->data, FK_BF16, fk_numel(pixels), 5, 0, 1));
  FK_TRY(fk_tensors_put(&inputs, "pixel_values", pixels));
  fk_status status = time_forward("convnextv2-base 32", model, &inputs, batch, "images");
  fk_context_reset(g.ctx);
  return status;
}

static fk_status convnext(void) {
  fk_model *model;
  FK_TRY(open_preset("convnextv2-base-22k-384", 0, &model));
  fk_status status = run_convnext(model, 32, 384);
  fk_model_close(model);
  return status;
}

/* Criteo, synthetic multi-hot of MLPerf: sizes per feature as in the preset's configuration. */
static const int hot[] = {3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1};
static const int64_t table_rows[] = {40000000, 39060,    17295,    7424,     20265,  3,     7122, 1543, 63,
                                     40000000, 3067956,  405282,   10,       2209,   11938, 155,  4,    976,
                                     14,       40000000, 40000000, 40000000, 590152, 12973, 108,  36};

static fk_status run_dlrm(const fk_model *model, const char *name, int64_t batch) {
  enum { FEATURES = 26 };
  int64_t all = 0, at = 0, bag = 0;
  fk_tensors inputs = {0};
  for (int f = 0; f < FEATURES; f++) all += hot[f] * batch;
  fk_tensor *dense = fk_empty(g.ctx, FK_BF16, batch, 13), *values = fk_host(g.ctx, FK_I64, all);
  fk_tensor *offsets = fk_host(g.ctx, FK_I64, FEATURES * batch + 1);
  if (!dense || !values || !offsets) return FK_ERROR_MEMORY;
  for (int f = 0; f < FEATURES; f++)
    for (int64_t s = 0; s < batch; s++) {
      ((int64_t *)offsets->data)[bag++] = at;
      for (int k = 0; k < hot[f]; k++, at++)
        ((int64_t *)values->data)[at] = (int64_t)((uint64_t)at * 0x9e3779b97f4a7c15u >> 20) % table_rows[f];
    }
  ((int64_t *)offsets->data)[bag] = at;
  FK_TRY(fk_cuda_random(g.ctx->cuda, dense->data, FK_BF16, fk_numel(dense), 5, 0, 1));
  FK_TRY(fk_move_to_device(g.ctx, &values)); /* only tasks read them */
  FK_TRY(fk_tensors_put(&inputs, "dense_features", dense));
  FK_TRY(fk_tensors_put(&inputs, "sparse_values", values));
  FK_TRY(fk_tensors_put(&inputs, "sparse_offsets", offsets));
  fk_status status = time_forward(name, model, &inputs, batch, "samples");
  fk_context_reset(g.ctx);
  return status;
}

static fk_status dlrm(void) {
  fk_model *model;
  FK_TRY(open_preset("dlrmv2-criteo", 0, &model));
  fk_status status = run_dlrm(model, "dlrmv2 2048", 2048);
  if (!status) status = run_dlrm(model, "dlrmv2 65536", 65536);
  fk_model_close(model);
  return status;
}

/* ---- The whole ------------------------------------------------------------------------------------------- */

static const struct {
  const char *name;
  fk_status (*run)(void);
  bool named_only; /* not part of a run of all */
} subjects[] = {{"llama", llama, false},       {"llama-decode", llama_decode, true}, {"mamba2", mamba2, false},
                {"colbertv2", colbert, false}, {"convnextv2", convnext, false},      {"dlrmv2", dlrm, false}};

static fk_status write_json(const char *path) {
  fk_cuda_info info;
  FK_TRY(fk_cuda_describe(g.ctx->cuda, &info));
  json_t *root =
      json_pack("{s:s, s:f, s:f, s:O}", "gpu", info.name, "copy_bytes_per_second", g.ceilings.bytes_per_second,
                "matrix_flops_per_second", g.ceilings.flops_per_second, "results", g.results);
  int failed = !root || json_dump_file(root, path, JSON_INDENT(1)) != 0;
  json_decref(root);
  return failed ? fk_fail(FK_ERROR_IO, "%s: cannot write", path) : FK_OK;
}

static bool wanted(const char *name, char **names, int count, bool named_only) {
  for (int i = 0; i < count; i++)
    if (strcmp(names[i], name) == 0) return true;
  return count == 0 && !named_only;
}

int main(int argc, char **argv) {
  const char *json = NULL;
  int gpu = 0, first = 1, failed = 0;
  for (; first + 1 < argc && argv[first][0] == '-'; first += 2) {
    if (strcmp(argv[first], "--json") == 0) json = argv[first + 1];
    if (strcmp(argv[first], "--profile") == 0) g.profile = strcmp(argv[first + 1], "no") != 0;
    if (strcmp(argv[first], "--gpu") == 0) gpu = atoi(argv[first + 1]);
  }
  if (fk_cuda_device_count() == 0) {
    puts("skipped: there is no GPU");
    return SKIPPED;
  }
  fk_context_options options = {.backend = FK_CUDA, .device_id = gpu};
  fk_status status = fk_context_create(&options, &g.ctx);
  if (!status) status = fk_cuda_timer_create(g.ctx->cuda, &g.timer);
  if (!status) status = fk_measure_cuda(g.ctx, &g.ceilings);
  if (status) {
    fprintf(stderr, "bench_cuda_models: %s\n", fk_last_error());
    return 2;
  }
  g.results = json_array();
  printf("copy %.2f TB/s, matrix products %.0f TFLOP/s\n%-24s %13s %13s %13s %8s %18s\n",
         g.ceilings.bytes_per_second / 1e12, g.ceilings.flops_per_second / 1e12, "", "median", "fastest", "floor",
         "of floor", "bar");
  for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
    if (!wanted(subjects[i].name, argv + first, argc - first, subjects[i].named_only)) continue;
    if (subjects[i].run() == FK_OK) continue;
    printf("%s: %s\n", subjects[i].name, fk_last_error());
    fk_context_reset(g.ctx);
    failed++;
  }
  if (json && write_json(json)) {
    fprintf(stderr, "bench_cuda_models: %s\n", fk_last_error());
    failed++;
  }
  json_decref(g.results);
  fk_cuda_timer_destroy(g.timer);
  fk_context_destroy(g.ctx);
  return failed ? 1 : 0;
}
