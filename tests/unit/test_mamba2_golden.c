/* Mamba-2 against what transformers computes in double precision (tests/golden/mamba2.py), any way to cut sequences
 * into steps against one long prefill, levels against each other, and what must be refused. */
#include <glob.h>

#include "engine/batching.h"
#include "engine/cache.h"
#include "model_helpers.h"

#define FIXTURES FK_SOURCE_DIR "/tests/golden/fixtures/mamba2/"

/* ---- Golden ---------------------------------------------------------------------------------------------- */

static double check_file(fk_context *ctx, const fk_model *model, const char *path) {
  fk_safetensors *file;
  fk_tensors inputs, outputs;
  char name[64];
  assert_ok(fk_safetensors_open(path, &file));
  read_inputs(ctx, file, &inputs);
  assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
  assert_int_equal(outputs.count, 1);
  snprintf(name, sizeof name, "out.%s", outputs.items[0].name);
  const fk_stored *expected = fk_safetensors_find(file, name);
  const fk_tensor *got = outputs.items[0].tensor;
  assert_non_null(expected);
  assert_int_equal(got->ndim, 3);
  assert_memory_equal(got->shape, expected->shape, 3 * sizeof *got->shape);
  double error = row_error(fk_type_of(got), fk_data(got), expected->type, expected->data, got->shape[0] * got->shape[1],
                           got->shape[2], fk_safetensors_find(file, "in.attention_mask"));
  fk_safetensors_close(file);
  fk_context_reset(ctx);
  return error;
}

static void check_all(fk_backend backend, fk_type dtype, double limit) {
  fk_context *ctx = open_context(backend);
  glob_t folders, files;
  assert_int_equal(glob(FIXTURES "*", 0, NULL, &folders), 0);
  double worst = 0;
  int compared = 0;
  for (size_t i = 0; i < folders.gl_pathc; i++) {
    fk_model *model = open_model(ctx, folders.gl_pathv[i], (fk_model_options){.dtype = dtype});
    char pattern[1024];
    snprintf(pattern, sizeof pattern, "%s/io*.safetensors", folders.gl_pathv[i]);
    assert_int_equal(glob(pattern, 0, NULL, &files), 0);
    for (size_t k = 0; k < files.gl_pathc; k++, compared++) {
      double error = check_file(ctx, model, files.gl_pathv[k]);
      if (!(error <= limit)) fail_msg("%s: relative error %g, at most %g allowed", files.gl_pathv[k], error, limit);
      if (error > worst) worst = error;
    }
    globfree(&files);
    fk_model_close(model);
  }
  globfree(&folders);
  fk_context_destroy(ctx);
  assert_true(compared >= 9);
  print_message("%s %s: worst relative error %.2e over %d files\n", fk_backend_name(backend), fk_type_name(dtype),
                worst, compared);
}

static void test_ref(void **state) {
  (void)state;
  check_all(FK_REF, FK_F64, 1e-6);
}

static void test_cpu_float32(void **state) {
  (void)state;
  check_all(FK_CPU, FK_F32, 1e-5);
}

static void test_cpu_bfloat16(void **state) {
  (void)state;
  check_all(FK_CPU, FK_BF16, 2e-2);
}

static void test_cpu_float16(void **state) {
  (void)state;
  check_all(FK_CPU, FK_F16, 2e-2);
}

/* ---- Steps of any size ----------------------------------------------------------------------------------- */

enum { LENGTH = 150, VOCAB = 97, LAYERS = 2, SLOTS = 5 };

typedef struct runner {
  fk_context *ctx;
  const fk_model *model;
  fk_tensor *caches[2 * LAYERS];
} runner;

static double noise(uint64_t *seed) {
  *seed = *seed * 6364136223846793005u + 1442695040888963407u;
  return (double)(int64_t)(*seed >> 11) / (double)(1ull << 52) - 1;
}

static fk_tensor *random_tensor(fk_context *ctx, fk_type type, uint64_t seed, double shift, double scale,
                                const int64_t *shape, int32_t ndim) {
  fk_tensor *t = fk_empty_shape(ctx, type, shape, ndim);
  assert_non_null(t);
  for (int64_t i = 0; i < fk_numel(t); i++) fk_store_f64(type, t->data, i, shift + scale * noise(&seed));
  return t;
}
#define RANDOM(ctx, type, seed, shift, scale, ...) \
  random_tensor(ctx, type, seed, shift, scale, (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__))

static runner make_runner(fk_context *ctx, const fk_model *model) {
  runner r = {ctx, model, {NULL}};
  fk_cache_spec specs[2 * LAYERS];
  const fk_sequence_ops *ops = model->class->sequence;
  assert_int_equal(ops->caches(model->state, NULL), 2 * LAYERS);
  ops->caches(model->state, specs);
  for (int i = 0; i < 2 * LAYERS; i++) {
    int64_t shape[5] = {SLOTS};
    assert_int_equal(specs[i].kind, FK_CACHE_STATE);
    memcpy(shape + 1, specs[i].shape, sizeof specs[i].shape);
    /* What a slot held before must not matter to a new sequence. */
    r.caches[i] = random_tensor(ctx, specs[i].type, (uint64_t)i, 0, 100, shape, specs[i].ndim + 1);
  }
  return r;
}

typedef struct chunk { /* tokens [from, to) of a sequence; sequence s is a text of its own */
  int sequence;
  int64_t from, to;
  int32_t slot;
} chunk;

static int32_t id_of(int sequence, int64_t i) {
  return (int32_t)((i * 31 + 17 * sequence + i * i) % VOCAB);
}

static fk_batch make_batch(runner *r, const chunk *chunks, int count) {
  fk_context *ctx = r->ctx;
  int64_t tokens = 0, at = 0;
  for (int c = 0; c < count; c++) tokens += chunks[c].to - chunks[c].from;
  fk_batch b = {.input_ids = fk_empty(ctx, FK_I32, tokens),
                .positions = fk_empty(ctx, FK_I64, tokens),
                .cu_seqlens_q = fk_empty(ctx, FK_I32, count + 1),
                .seq_lens = fk_empty(ctx, FK_I32, count),
                .slot_mapping = fk_empty(ctx, FK_I64, tokens),
                .block_table = fk_empty(ctx, FK_I32, count, 1),
                .state_slots = fk_empty(ctx, FK_I32, count),
                .logits_indices = fk_empty(ctx, FK_I32, tokens),
                .caches = r->caches};
  ((int32_t *)b.cu_seqlens_q->data)[0] = 0;
  for (int c = 0; c < count; c++) {
    ((int32_t *)b.seq_lens->data)[c] = (int32_t)chunks[c].to;
    ((int32_t *)b.state_slots->data)[c] = chunks[c].slot;
    ((int32_t *)b.block_table->data)[c] = 0;
    for (int64_t i = chunks[c].from; i < chunks[c].to; i++, at++) {
      ((int32_t *)b.input_ids->data)[at] = id_of(chunks[c].sequence, i);
      ((int64_t *)b.positions->data)[at] = i;
      ((int64_t *)b.slot_mapping->data)[at] = -1;
      ((int32_t *)b.logits_indices->data)[at] = (int32_t)at;
    }
    ((int32_t *)b.cu_seqlens_q->data)[c + 1] = (int32_t)at;
  }
  return b;
}

static fk_tensor *step(runner *r, const chunk *chunks, int count) {
  fk_batch b = make_batch(r, chunks, count);
  fk_tensor *logits = fk_empty(r->ctx, r->model->dtype, fk_numel(b.input_ids), VOCAB);
  assert_ok(fk_model_step(r->ctx, r->model, &b, logits));
  return logits;
}
#define STEP(r, ...) step(r, (const chunk[]){__VA_ARGS__}, (int)(sizeof((chunk[]){__VA_ARGS__}) / sizeof(chunk)))

/* Rows [start, start + n) of a and those from `at` on of b. */
static void check_rows(fk_context *ctx, const fk_tensor *a, int64_t start, int64_t n, const fk_tensor *b, int64_t at,
                       double limit) {
  fk_tensor *x = fk_empty(ctx, fk_type_of(a), n, VOCAB), *y = fk_empty(ctx, fk_type_of(b), n, VOCAB);
  assert_ok(fk_copy(fk_slice(ctx, a, 0, start, n), x));
  assert_ok(fk_copy(fk_slice(ctx, b, 0, at, n), y));
  double error = tensor_error(x, y);
  if (!(error <= limit)) fail_msg("relative error %g, at most %g allowed", error, limit);
}

static void check_steps(fk_backend backend, fk_type type, double limit) {
  fk_context *ctx = open_context(backend);
  fk_model *model = open_model(ctx, FIXTURES "plain", (fk_model_options){.dtype = type});
  runner whole = make_runner(ctx, model), parts = make_runner(ctx, model), mixed = make_runner(ctx, model);
  fk_tensor *expected = STEP(&whole, {0, 0, LENGTH, 3}), *other = STEP(&whole, {1, 0, 80, 1});

  /* Chunks of prefill whose borders are not the scan's, a few tokens, then one at a time. */
  check_rows(ctx, STEP(&parts, {0, 0, 2, 4}), 0, 2, expected, 0, limit);
  check_rows(ctx, STEP(&parts, {0, 2, 73, 4}), 0, 71, expected, 2, limit);
  check_rows(ctx, STEP(&parts, {0, 73, 130, 4}), 0, 57, expected, 73, limit);
  check_rows(ctx, STEP(&parts, {0, 130, 133, 4}), 0, 3, expected, 130, limit);
  for (int64_t i = 133; i < LENGTH; i++) check_rows(ctx, STEP(&parts, {0, i, i + 1, 4}), 0, 1, expected, i, limit);

  /* Two sequences whose chunks share steps, and a third that takes over a slot. */
  STEP(&mixed, {0, 0, 100, 0});
  fk_tensor *both = STEP(&mixed, {1, 0, 79, 2}, {0, 100, 101, 0});
  check_rows(ctx, both, 0, 79, other, 0, limit);
  check_rows(ctx, both, 79, 1, expected, 100, limit);
  both = STEP(&mixed, {0, 101, LENGTH, 0}, {1, 79, 80, 2});
  check_rows(ctx, both, 0, LENGTH - 101, expected, 101, limit);
  check_rows(ctx, both, LENGTH - 101, 1, other, 79, limit);
  check_rows(ctx, STEP(&mixed, {1, 0, 1, 0}), 0, 1, other, 0, limit);
  check_rows(ctx, STEP(&mixed, {1, 1, 2, 0}), 0, 1, other, 1, limit);
  fk_model_close(model);
  fk_context_destroy(ctx);
}

static void test_steps(void **state) {
  (void)state;
  check_steps(FK_REF, FK_F64, 1e-12);
  check_steps(FK_CPU, FK_F32, 1e-5);
  check_steps(FK_CPU, FK_BF16, 2e-2);
}

/* ---- In the engine --------------------------------------------------------------------------------------- */

enum { REQUESTS = 4, OUTPUT = 20 };

/* Greedy outputs of all requests under a batching policy. */
static fk_batching_stats generate(const fk_model *model, fk_context *ctx, fk_batching_options o,
                                  int32_t out[REQUESTS][OUTPUT]) {
  static const fk_request requests[REQUESTS] = {{50, OUTPUT, 0, NULL, NULL},
                                                {33, OUTPUT, 0, NULL, NULL},
                                                {7, OUTPUT, 0, NULL, NULL},
                                                {61, OUTPUT, 0, NULL, NULL}};
  fk_batcher *batcher;
  fk_batch *batch;
  fk_caches caches;
  o.num_embeddings = VOCAB;
  o.state_slots = fk_model_has_state(model);
  assert_true(o.state_slots);
  assert_ok(fk_batcher_create(&o, requests, REQUESTS, &batcher));
  const fk_batching_stats *stats = fk_batcher_stats(batcher);
  assert_ok(fk_caches_create(ctx, model, stats->num_blocks, stats->block_size, stats->max_num_seqs, &caches));
  for (;;) {
    int32_t tokens[REQUESTS] = {0};
    assert_ok(fk_batcher_next(batcher, &batch));
    if (!batch) break;
    batch->caches = caches.tensors;
    int64_t rows = batch->logits_indices->shape[0];
    fk_tensor *logits = fk_empty(ctx, model->dtype, rows, VOCAB), *best = fk_empty(ctx, FK_I64, rows);
    assert_ok(fk_model_step(ctx, model, batch, logits));
    assert_ok(fk_call(ctx, "argmax", logits, best));
    for (int64_t i = 0; i < rows; i++) tokens[i] = (int32_t)((const int64_t *)best->data)[i];
    assert_ok(fk_batcher_commit(batcher, tokens));
    fk_context_reset(ctx);
  }
  assert_ok(fk_batcher_check(batcher));
  for (int64_t i = 0, count; i < REQUESTS; i++) {
    const int32_t *tokens = fk_batcher_output(batcher, i, &count);
    assert_int_equal(count, OUTPUT);
    memcpy(out[i], tokens, sizeof out[i]);
  }
  fk_batching_stats result = *stats;
  fk_caches_destroy(&caches);
  fk_batcher_destroy(batcher);
  return result;
}

/* One request after the other, all together, and with so little room that sequences are preempted and slots reused. */
static void test_batching(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_REF);
  fk_model *model = open_model(ctx, FIXTURES "plain", (fk_model_options){0});
  int32_t alone[REQUESTS][OUTPUT], together[REQUESTS][OUTPUT], pressed[REQUESTS][OUTPUT];
  generate(model, ctx, (fk_batching_options){.max_num_seqs = 1}, alone);
  generate(model, ctx, (fk_batching_options){.max_num_batched_tokens = 24}, together);
  fk_batching_stats stats =
      generate(model, ctx, (fk_batching_options){.num_blocks = 9, .max_num_batched_tokens = 48}, pressed);
  assert_true(stats.preemptions > 0);
  assert_memory_equal(alone, together, sizeof alone);
  assert_memory_equal(alone, pressed, sizeof alone);
  fk_model_close(model);
  fk_context_destroy(ctx);
}

/* ---- Levels ---------------------------------------------------------------------------------------------- */

enum { T = 83, H = 40, HEADS = 6, P = 12, N = 20, G = 3, W = 4, I = HEADS * P, CONV = I + 2 * G * N };

typedef struct parts {
  fk_tensor *cu, *lens, *slots, *hidden, *residual, *conv_state, *ssm_state;
  fk_tensor *input_norm, *in_proj, *in_bias, *conv, *conv_bias, *A, *D, *dt_bias, *norm, *out_proj, *out_bias;
} parts;

static parts make_parts(fk_context *ctx, fk_type type) {
  fk_type wide = type == FK_F64 ? FK_F64 : FK_F32;
  parts p = {.cu = fk_empty(ctx, FK_I32, 4), .lens = fk_empty(ctx, FK_I32, 3), .slots = fk_empty(ctx, FK_I32, 3)};
  const int32_t cu[] = {0, 70, 71, 83}, lens[] = {70, 9, 30}, slots[] = {2, 0, 3};
  memcpy(p.cu->data, cu, sizeof cu);
  memcpy(p.lens->data, lens, sizeof lens);
  memcpy(p.slots->data, slots, sizeof slots);
  p.hidden = RANDOM(ctx, type, 1, 0, 1, T, H);
  p.residual = RANDOM(ctx, type, 2, 0, 1, T, H);
  p.conv_state = RANDOM(ctx, type, 3, 0, 1, 4, W - 1, CONV);
  p.ssm_state = RANDOM(ctx, wide, 4, 0, 1, 4, HEADS, P, N);
  p.input_norm = RANDOM(ctx, type, 5, 1, 0.3, H);
  p.in_proj = RANDOM(ctx, type, 6, 0, 0.3, I + CONV + HEADS, H);
  p.in_bias = RANDOM(ctx, type, 7, 0, 0.3, I + CONV + HEADS);
  p.conv = RANDOM(ctx, type, 8, 0, 0.8, CONV, W);
  p.conv_bias = RANDOM(ctx, type, 9, 0, 0.3, CONV);
  p.A = RANDOM(ctx, wide, 10, -1, 0.8, HEADS);
  p.D = RANDOM(ctx, type, 11, 1, 0.5, HEADS);
  p.dt_bias = RANDOM(ctx, type, 12, -1, 1, HEADS);
  p.norm = RANDOM(ctx, type, 13, 1, 0.3, I);
  p.out_proj = RANDOM(ctx, type, 14, 0, 0.2, H, I);
  p.out_bias = RANDOM(ctx, type, 15, 0, 0.3, H);
  return p;
}

static void mixer_by_hand(fk_context *ctx, fk_type type, const parts *p) {
  fk_tensor *all = fk_empty(ctx, type, T, I + CONV + HEADS), *xbc = fk_empty(ctx, type, T, CONV);
  fk_tensor *y = fk_empty(ctx, type, T, HEADS, P), *gated = fk_empty(ctx, type, T, I);
  assert_ok(fk_call(ctx, "linear", p->hidden, p->in_proj, p->in_bias, all));
  assert_ok(fk_call(ctx, "causal_conv1d", fk_slice(ctx, all, 1, I, CONV), p->conv_state, p->cu, p->lens, p->slots,
                    p->conv, p->conv_bias, 1, xbc));
  fk_tensor *x = fk_view(ctx, fk_slice(ctx, xbc, 1, 0, I), T, HEADS, P);
  fk_tensor *b = fk_view(ctx, fk_slice(ctx, xbc, 1, I, G * N), T, G, N);
  fk_tensor *c = fk_view(ctx, fk_slice(ctx, xbc, 1, I + G * N, G * N), T, G, N);
  assert_ok(fk_call(ctx, "mamba2_ssd", x, fk_slice(ctx, all, 1, I + CONV, HEADS), b, c, p->ssm_state, p->cu, p->lens,
                    p->slots, p->A, p->D, p->dt_bias, 0.0, 1e300, 256, y));
  assert_ok(fk_call(ctx, "rms_norm_gated", fk_view(ctx, y, T, I), fk_slice(ctx, all, 1, 0, I), p->norm, I / G, 1e-5,
                    false, gated));
  assert_ok(fk_call(ctx, "linear", gated, p->out_proj, p->out_bias, p->hidden));
}

static void assert_same(const fk_tensor *a, const fk_tensor *b) {
  assert_memory_equal(fk_data(a), fk_data(b), fk_type_bytes(fk_type_of(a), fk_numel(a)));
}

static void assert_same_parts(const parts *a, const parts *b) {
  assert_same(a->hidden, b->hidden);
  assert_same(a->residual, b->residual);
  assert_same(a->conv_state, b->conv_state);
  assert_same(a->ssm_state, b->ssm_state);
}

static void check_levels(fk_backend backend, fk_type type, bool first) {
  fk_context *ctx = open_context(backend);
  parts one = make_parts(ctx, type), two = make_parts(ctx, type), three = make_parts(ctx, type);
  const parts *both[] = {&one, &two};
  for (int i = 0; i < 2; i++) {
    const parts *p = both[i];
    if (first)
      assert_ok(fk_call(ctx, "rms_norm", p->residual, p->input_norm, 1e-5, p->hidden));
    else
      assert_ok(fk_call(ctx, "fused_add_rms_norm", p->hidden, p->residual, p->input_norm, 1e-5));
  }
  mixer_by_hand(ctx, type, &one);
  assert_ok(fk_call(ctx, "mamba2_mixer", two.hidden, two.conv_state, two.ssm_state, two.cu, two.lens, two.slots,
                    two.in_proj, two.in_bias, two.conv, two.conv_bias, two.A, two.D, two.dt_bias, two.norm,
                    two.out_proj, two.out_bias, G, 0.0, 1e300, 256, 1e-5, two.hidden));
  assert_ok(fk_call(ctx, "mamba2_decoder_layer", three.hidden, three.residual, three.conv_state, three.ssm_state,
                    three.cu, three.lens, three.slots, three.input_norm, three.in_proj, three.in_bias, three.conv,
                    three.conv_bias, three.A, three.D, three.dt_bias, three.norm, three.out_proj, three.out_bias, G,
                    0.0, 1e300, 256, 1e-5, first));
  assert_same_parts(&one, &two);
  assert_same_parts(&one, &three);
  fk_context_destroy(ctx);
}

static void test_levels(void **state) {
  (void)state;
  for (int first = 0; first < 2; first++) {
    check_levels(FK_REF, FK_F64, first);
    check_levels(FK_CPU, FK_F32, first);
    check_levels(FK_CPU, FK_BF16, first);
    check_levels(FK_CPU, FK_F16, first);
  }
}

/* ---- What is refused ------------------------------------------------------------------------------------- */

static void refuse_step(runner *r, const fk_batch *b, const char *reason) {
  fk_tensor *logits = fk_empty(r->ctx, r->model->dtype, fk_numel(b->input_ids), VOCAB);
  assert_int_equal(fk_model_step(r->ctx, r->model, b, logits), FK_ERROR_ARGUMENT);
  if (!strstr(fk_last_error(), reason)) fail_msg("expected \"%s\" in \"%s\"", reason, fk_last_error());
}

static void check_hostile(fk_backend backend, fk_type type) {
  fk_context *ctx = open_context(backend);
  fk_model *model = open_model(ctx, FIXTURES "plain", (fk_model_options){.dtype = type});
  runner r = make_runner(ctx, model);
  const chunk two[] = {{0, 0, 9, 1}, {1, 4, 5, 3}};
  fk_batch b = make_batch(&r, two, 2);
  int32_t *slots = b.state_slots->data, *cu = b.cu_seqlens_q->data, *lens = b.seq_lens->data;
  slots[1] = -1;
  refuse_step(&r, &b, "state_slots[1]");
  slots[1] = SLOTS;
  refuse_step(&r, &b, "state_slots[1]");
  slots[1] = INT32_MAX;
  refuse_step(&r, &b, "state_slots[1]");
  slots[1] = slots[0];
  refuse_step(&r, &b, "slot 1 belongs to an earlier sequence");
  slots[1] = 3;
  cu[1] = lens[0] = 11;
  refuse_step(&r, &b, "cu_seqlens_q[2]");
  lens[0] = 9;
  cu[1] = -4;
  refuse_step(&r, &b, "cu_seqlens_q[1]");
  cu[1] = 9;
  cu[2] = 900;
  refuse_step(&r, &b, "cu_seqlens_q");
  cu[2] = 10;
  cu[0] = 1;
  refuse_step(&r, &b, "cu_seqlens_q");
  cu[0] = 0;
  lens[0] = 8;
  refuse_step(&r, &b, "seq_lens[0]");
  lens[0] = 9;
  b.state_slots = NULL;
  refuse_step(&r, &b, "state_slots");
  fk_model_close(model);
  fk_context_destroy(ctx);
}

/* The scan checks for itself, and writes nothing when it refuses. */
static void check_scan(fk_backend backend, fk_type type) {
  fk_context *ctx = open_context(backend);
  parts p = make_parts(ctx, type), before = make_parts(ctx, type);
  fk_tensor *x = RANDOM(ctx, type, 1, 0, 1, T, HEADS, P), *y = fk_empty(ctx, type, T, HEADS, P);
  fk_tensor *dt = RANDOM(ctx, type, 2, 0, 1, T, HEADS), *b = RANDOM(ctx, type, 3, 0, 1, T, G, N);
  static const int32_t wrong[] = {4, -1, 2, INT32_MIN};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    ((int32_t *)p.slots->data)[2] = wrong[i];
    assert_int_equal(fk_call(ctx, "mamba2_ssd", x, dt, b, b, p.ssm_state, p.cu, p.lens, p.slots, p.A, p.D, p.dt_bias,
                             0.0, 1e300, 256, y),
                     FK_ERROR_ARGUMENT);
    assert_non_null(strstr(fk_last_error(), "state_slots[2]"));
    assert_same(p.ssm_state, before.ssm_state);
  }
  fk_context_destroy(ctx);
}

static void test_hostile(void **state) {
  (void)state;
  check_scan(FK_REF, FK_F64);
  check_scan(FK_CPU, FK_BF16);
  check_hostile(FK_REF, FK_F64);
  check_hostile(FK_CPU, FK_F32);
}

static void test_masks(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_CPU);
  fk_model *plain = open_model(ctx, FIXTURES "plain", (fk_model_options){0});
  fk_model *biased = open_model(ctx, FIXTURES "one_group_biases", (fk_model_options){0});
  int64_t ids[5] = {1, 2, 3, 4, 5}, hole[5] = {1, 1, 0, 1, 1}, left[5] = {0, 1, 1, 1, 1}, positions[5] = {0};
  test_tensor a, b;
  fk_tensors inputs = {0}, outputs;
  assert_ok(fk_tensors_put(&inputs, "input_ids", TENSOR(&a, ids, FK_I64, 1, 5)));
  assert_ok(fk_tensors_put(&inputs, "attention_mask", TENSOR(&b, hole, FK_I64, 1, 5)));
  assert_int_equal(fk_model_forward(ctx, plain, &inputs, &outputs), FK_ERROR_UNSUPPORTED);
  inputs.items[1].tensor = TENSOR(&b, left, FK_I64, 1, 5);
  assert_ok(fk_model_forward(ctx, plain, &inputs, &outputs));
  assert_int_equal(fk_model_forward(ctx, biased, &inputs, &outputs), FK_ERROR_UNSUPPORTED);
  inputs.items[1].name = "position_ids";
  inputs.items[1].tensor = TENSOR(&b, positions, FK_I64, 1, 5);
  assert_int_equal(fk_model_forward(ctx, plain, &inputs, &outputs), FK_ERROR_ARGUMENT);
  fk_model_close(plain);
  fk_model_close(biased);
  fk_context_destroy(ctx);
}

#define CONFIG(extra)                                                                                                \
  "{\"architectures\": [\"Mamba2ForCausalLM\"], \"vocab_size\": 32, \"hidden_size\": 16, \"num_hidden_layers\": 1, " \
  "\"state_size\": 4, \"num_heads\": 4, \"head_dim\": 8, \"n_groups\": 2" extra "}"

static void test_configs(void **state) {
  (void)state;
  static const struct {
    const char *json, *reason;
  } wrong[] = {
      {CONFIG(", \"expand\": 3"), "num_heads"},
      {"{\"architectures\": [\"Mamba2ForCausalLM\"], \"vocab_size\": 32, \"hidden_size\": 16, \"num_hidden_layers\": "
       "1, "
       "\"state_size\": 4, \"num_heads\": 4, \"head_dim\": 8, \"n_groups\": 3}",
       "n_groups"},
      {CONFIG(", \"hidden_act\": \"gelu\""), "hidden_act"},
      {CONFIG(", \"conv_kernel\": 17"), "conv_kernel"},
      {CONFIG(", \"time_step_limit\": [0.5]"), "time_step_limit"},
      {CONFIG(", \"time_step_limit\": [0.5, 0.1]"), "time_step_limit"},
      {CONFIG(", \"time_step_limit\": [0.5, {\"__float__\": \"NaN\"}]"), "time_step_limit"},
  };
  fk_context *ctx = open_context(FK_META);
  fk_model *model = open_model(ctx, "mamba-codestral-7b", (fk_model_options){0});
  assert_int_equal(model->num_parameters, 7285403648);
  fk_model_close(model);
  model = open_text(ctx, CONFIG(", \"time_step_limit\": [0.0, Infinity]"), (fk_model_options){0});
  fk_model_close(model);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    fk_model_options options = {0};
    assert_int_not_equal(fk_model_open_config(ctx, wrong[i].json, strlen(wrong[i].json), "config", &options, &model),
                         FK_OK);
    assert_null(model);
    if (!strstr(fk_last_error(), wrong[i].reason))
      fail_msg("expected \"%s\" in \"%s\"", wrong[i].reason, fk_last_error());
  }
  fk_context_destroy(ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ref),          cmocka_unit_test(test_cpu_float32),
                                     cmocka_unit_test(test_cpu_bfloat16), cmocka_unit_test(test_cpu_float16),
                                     cmocka_unit_test(test_steps),        cmocka_unit_test(test_batching),
                                     cmocka_unit_test(test_levels),       cmocka_unit_test(test_hostile),
                                     cmocka_unit_test(test_masks),        cmocka_unit_test(test_configs)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
