/* Levels agree: L1 calls composed by hand = L2 = L3 = L4, and any way to cut a sequence into steps gives the same. */
#include "model_helpers.h"

/* Deterministic numbers around zero. */
static double noise(uint64_t *seed) {
  *seed = *seed * 6364136223846793005u + 1442695040888963407u;
  return (double)(int64_t)(*seed >> 11) / (double)(1ull << 52) - 1;
}

static fk_tensor *random_tensor(fk_context *ctx, fk_type type, uint64_t seed, double scale, const int64_t *shape,
                                int32_t ndim) {
  fk_tensor *t = fk_empty_shape(ctx, type, shape, ndim);
  assert_non_null(t);
  for (int64_t i = 0; i < fk_numel(t); i++) fk_store_f64(type, t->data, i, scale * noise(&seed));
  return t;
}
#define RANDOM(ctx, type, seed, scale, ...) \
  random_tensor(ctx, type, seed, scale, (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__))

static fk_tensor *copy_of(fk_context *ctx, const fk_tensor *t) {
  fk_tensor *c = fk_empty_like(ctx, t);
  assert_ok(fk_copy(t, c));
  return c;
}

static void assert_same(const fk_tensor *a, const fk_tensor *b) {
  assert_memory_equal(fk_data(a), fk_data(b), fk_type_bytes(fk_type_of(a), fk_numel(a)));
}

/* ---- L1 = L2 = L3 ---------------------------------------------------------------------------------------- */

enum { T = 23, H = 40, I = 56, HEADS = 4, KV = 2, D = 16, QKV = (HEADS + 2 * KV) * D, BLOCKS = 5 };

typedef struct parts {
  fk_tensor *positions, *slots, *cu, *lens, *table, *keys, *values;
  fk_tensor *norm1, *norm2, *qkv, *qkv_bias, *o, *o_bias, *cos_sin, *gate_up, *gate_up_bias, *down, *down_bias;
  fk_tensor *hidden, *residual;
} parts;

/* Two sequences: 15 new tokens after 4, and 8 new ones; blocks in no order. */
static parts make_parts(fk_context *ctx, fk_type type) {
  parts p = {.positions = fk_empty(ctx, FK_I64, T), .slots = fk_empty(ctx, FK_I64, T), .cu = fk_empty(ctx, FK_I32, 3)};
  p.lens = fk_empty(ctx, FK_I32, 2);
  p.table = fk_empty(ctx, FK_I32, 2, 2);
  const int32_t cu[] = {0, 15, 23}, lens[] = {19, 8}, table[] = {3, 0, 4, 1};
  memcpy(p.cu->data, cu, sizeof cu);
  memcpy(p.lens->data, lens, sizeof lens);
  memcpy(p.table->data, table, sizeof table);
  for (int64_t i = 0; i < T; i++) {
    int64_t position = i < 15 ? 4 + i : i - 15;
    ((int64_t *)p.positions->data)[i] = position;
    ((int64_t *)p.slots->data)[i] = table[(i < 15 ? 0 : 2) + position / 16] * 16 + position % 16;
  }
  p.keys = RANDOM(ctx, type, 1, 1, BLOCKS, 16, KV, D);
  p.values = RANDOM(ctx, type, 2, 1, BLOCKS, 16, KV, D);
  p.norm1 = RANDOM(ctx, type, 3, 1, H);
  p.norm2 = RANDOM(ctx, type, 4, 1, H);
  p.qkv = RANDOM(ctx, type, 5, 0.3, QKV, H);
  p.qkv_bias = RANDOM(ctx, type, 6, 0.5, QKV);
  p.o = RANDOM(ctx, type, 7, 0.2, H, HEADS * D);
  p.o_bias = RANDOM(ctx, type, 8, 0.5, H);
  p.cos_sin = RANDOM(ctx, type == FK_F64 ? FK_F64 : FK_F32, 9, 1, 64, D);
  p.gate_up = RANDOM(ctx, type, 10, 0.3, 2 * I, H);
  p.gate_up_bias = RANDOM(ctx, type, 11, 0.5, 2 * I);
  p.down = RANDOM(ctx, type, 12, 0.3, H, I);
  p.down_bias = RANDOM(ctx, type, 13, 0.5, H);
  p.hidden = RANDOM(ctx, type, 14, 1, T, H);
  p.residual = RANDOM(ctx, type, 15, 1, T, H);
  return p;
}

/* The layer with nothing but L1 calls. */
static void layer_by_hand(fk_context *ctx, fk_type type, const parts *p, bool first, fk_tensor *attended) {
  fk_tensor *qkv = fk_empty(ctx, type, T, QKV), *heads = fk_empty(ctx, type, T, HEADS * D);
  fk_tensor *gate_up = fk_empty(ctx, type, T, 2 * I), *gated = fk_empty(ctx, type, T, I);
  if (first)
    assert_ok(fk_call(ctx, "rms_norm", p->residual, p->norm1, 1e-5, p->hidden));
  else
    assert_ok(fk_call(ctx, "fused_add_rms_norm", p->hidden, p->residual, p->norm1, 1e-5));
  assert_ok(fk_call(ctx, "linear", p->hidden, p->qkv, p->qkv_bias, qkv));
  fk_tensor *q = fk_view(ctx, fk_slice(ctx, qkv, 1, 0, HEADS * D), T, HEADS, D);
  fk_tensor *k = fk_view(ctx, fk_slice(ctx, qkv, 1, HEADS * D, KV * D), T, KV, D);
  fk_tensor *v = fk_view(ctx, fk_slice(ctx, qkv, 1, (HEADS + KV) * D, KV * D), T, KV, D);
  assert_ok(fk_call(ctx, "rotary_embedding", p->positions, q, k, p->cos_sin, true));
  assert_ok(fk_call(ctx, "reshape_and_cache", k, v, p->keys, p->values, p->slots));
  assert_ok(fk_call(ctx, "attention", q, p->keys, p->values, p->cu, NULL, p->lens, p->table, NULL, 0.25, true, -1, -1,
                    0.0, fk_view(ctx, heads, T, HEADS, D)));
  assert_ok(fk_call(ctx, "linear", heads, p->o, p->o_bias, attended));
  fk_tensor *x = copy_of(ctx, attended);
  assert_ok(fk_call(ctx, "fused_add_rms_norm", x, p->residual, p->norm2, 1e-5));
  assert_ok(fk_call(ctx, "linear", x, p->gate_up, p->gate_up_bias, gate_up));
  assert_ok(fk_call(ctx, "silu_and_mul", gate_up, gated));
  assert_ok(fk_call(ctx, "linear", gated, p->down, p->down_bias, p->hidden));
}

static void check_layer(fk_backend backend, fk_type type, bool first) {
  fk_context *ctx = open_context(backend);
  parts one = make_parts(ctx, type), two = make_parts(ctx, type), three = make_parts(ctx, type);
  fk_tensor *attended1 = fk_empty(ctx, type, T, H), *attended2 = fk_empty(ctx, type, T, H);
  layer_by_hand(ctx, type, &one, first, attended1);

  /* The same with the blocks of level 2. */
  if (first)
    assert_ok(fk_call(ctx, "rms_norm", two.residual, two.norm1, 1e-5, two.hidden));
  else
    assert_ok(fk_call(ctx, "fused_add_rms_norm", two.hidden, two.residual, two.norm1, 1e-5));
  assert_ok(fk_call(ctx, "llama_attention", two.positions, two.hidden, two.keys, two.values, two.slots, two.cu,
                    two.lens, two.table, two.qkv, two.qkv_bias, two.o, two.o_bias, two.cos_sin, HEADS, 0.25, true,
                    attended2));
  assert_same(attended1, attended2);
  assert_ok(fk_call(ctx, "fused_add_rms_norm", attended2, two.residual, two.norm2, 1e-5));
  assert_ok(fk_call(ctx, "llama_mlp", attended2, two.gate_up, two.gate_up_bias, two.down, two.down_bias, two.hidden));
  assert_same(one.hidden, two.hidden);
  assert_same(one.residual, two.residual);
  assert_same(one.keys, two.keys);
  assert_same(one.values, two.values);

  assert_ok(fk_call(ctx, "llama_decoder_layer", three.positions, three.hidden, three.residual, three.keys, three.values,
                    three.slots, three.cu, three.lens, three.table, three.norm1, three.qkv, three.qkv_bias, three.o,
                    three.o_bias, three.cos_sin, three.norm2, three.gate_up, three.gate_up_bias, three.down,
                    three.down_bias, HEADS, 0.25, true, 1e-5, first));
  assert_same(one.hidden, three.hidden);
  assert_same(one.residual, three.residual);
  assert_same(one.keys, three.keys);
  assert_same(one.values, three.values);
  fk_context_destroy(ctx);
}

static void test_blocks(void **state) {
  (void)state;
  for (int first = 0; first < 2; first++) {
    check_layer(FK_REF, FK_F64, first);
    check_layer(FK_CPU, FK_F32, first);
    check_layer(FK_CPU, FK_BF16, first);
    check_layer(FK_CPU, FK_F16, first);
  }
}

/* ---- L3 = L4, and steps of any size ---------------------------------------------------------------------- */

enum { LENGTH = 45, VOCAB = 97, LAYERS = 2, POOL = 12 };

typedef struct runner {
  fk_context *ctx;
  const fk_model *model;
  fk_tensor *caches[2 * LAYERS];
} runner;

static runner make_runner(fk_context *ctx, const fk_model *model) {
  runner r = {ctx, model, {NULL}};
  fk_cache_spec specs[2 * LAYERS];
  const fk_sequence_ops *ops = model->class->sequence;
  assert_int_equal(ops->caches(model->state, NULL), 2 * LAYERS);
  assert_int_equal(ops->vocab_size(model->state), VOCAB);
  ops->caches(model->state, specs);
  for (int i = 0; i < 2 * LAYERS; i++) {
    /* What lies in the caches before must not matter. */
    r.caches[i] = RANDOM(ctx, specs[i].type, (uint64_t)i, 100, POOL, 16, specs[i].shape[0], specs[i].shape[1]);
  }
  return r;
}

/* One step over chunks [from, to) of sequences; seq s has its own ids and blocks. Rows of all logits. */
typedef struct chunk {
  int sequence;
  int64_t from, to;
} chunk;

static const int32_t tables[2][3] = {{7, 2, 11}, {0, 10, 5}};

static int32_t id_of(int sequence, int64_t i) {
  return (int32_t)((i * 31 + 17 * sequence + i * i) % VOCAB);
}

static fk_tensor *step(runner *r, const chunk *chunks, int count) {
  fk_context *ctx = r->ctx;
  int64_t tokens = 0;
  for (int c = 0; c < count; c++) tokens += chunks[c].to - chunks[c].from;
  fk_batch b = {.input_ids = fk_empty(ctx, FK_I32, tokens),
                .positions = fk_empty(ctx, FK_I64, tokens),
                .cu_seqlens_q = fk_empty(ctx, FK_I32, count + 1),
                .seq_lens = fk_empty(ctx, FK_I32, count),
                .slot_mapping = fk_empty(ctx, FK_I64, tokens),
                .block_table = fk_empty(ctx, FK_I32, count, 3),
                .logits_indices = fk_empty(ctx, FK_I32, tokens),
                .caches = r->caches};
  int64_t at = 0;
  ((int32_t *)b.cu_seqlens_q->data)[0] = 0;
  for (int c = 0; c < count; c++) {
    const int32_t *table = tables[chunks[c].sequence];
    memcpy((int32_t *)b.block_table->data + 3 * c, table, sizeof tables[0]);
    ((int32_t *)b.seq_lens->data)[c] = (int32_t)chunks[c].to;
    for (int64_t i = chunks[c].from; i < chunks[c].to; i++, at++) {
      ((int32_t *)b.input_ids->data)[at] = id_of(chunks[c].sequence, i);
      ((int64_t *)b.positions->data)[at] = i;
      ((int64_t *)b.slot_mapping->data)[at] = table[i / 16] * 16 + i % 16;
      ((int32_t *)b.logits_indices->data)[at] = (int32_t)at;
    }
    ((int32_t *)b.cu_seqlens_q->data)[c + 1] = (int32_t)at;
  }
  fk_tensor *logits = fk_empty(ctx, r->model->dtype, tokens, VOCAB);
  assert_ok(fk_model_step(ctx, r->model, &b, logits));
  return logits;
}

static fk_tensor *rows(fk_context *ctx, const fk_tensor *t, int64_t start, int64_t n) {
  fk_tensor *out = fk_empty(ctx, fk_type_of(t), n, t->shape[1]);
  assert_ok(fk_copy(fk_slice(ctx, t, 0, start, n), out));
  return out;
}

static void check_near(const fk_tensor *a, const fk_tensor *b, double limit) {
  double error = tensor_error(a, b);
  if (!(error <= limit)) fail_msg("relative error %g, at most %g allowed", error, limit);
}

static void check_steps(fk_backend backend, fk_type type, double limit) {
  fk_context *ctx = open_context(backend);
  fk_model *model = open_model(ctx, LLAMA_FIXTURES "plain", (fk_model_options){.dtype = type});
  runner whole = make_runner(ctx, model), parts = make_runner(ctx, model), mixed = make_runner(ctx, model);
  fk_tensor *expected = step(&whole, (chunk[]){{0, 0, LENGTH}}, 1);
  fk_tensor *other = step(&whole, (chunk[]){{1, 0, 20}}, 1);

  /* forward() is that step too. */
  int64_t ids[LENGTH];
  test_tensor box;
  fk_tensors inputs = {0}, outputs;
  for (int64_t i = 0; i < LENGTH; i++) ids[i] = id_of(0, i);
  assert_ok(fk_tensors_put(&inputs, "input_ids", TENSOR(&box, ids, FK_I64, 1, LENGTH)));
  assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
  check_near(fk_tensors_get(&outputs, "logits"), expected, 1e-15);

  /* A chunk of prefill, another, then one token at a time. */
  check_near(step(&parts, (chunk[]){{0, 0, 7}}, 1), rows(ctx, expected, 0, 7), limit);
  check_near(step(&parts, (chunk[]){{0, 7, 33}}, 1), rows(ctx, expected, 7, 26), limit);
  for (int64_t i = 33; i < LENGTH; i++)
    check_near(step(&parts, (chunk[]){{0, i, i + 1}}, 1), rows(ctx, expected, i, 1), limit);

  /* Two sequences whose chunks share steps: decode beside prefill. */
  step(&mixed, (chunk[]){{0, 0, 40}}, 1);
  fk_tensor *both = step(&mixed, (chunk[]){{1, 0, 19}, {0, 40, 41}}, 2);
  check_near(rows(ctx, both, 0, 19), rows(ctx, other, 0, 19), limit);
  check_near(rows(ctx, both, 19, 1), rows(ctx, expected, 40, 1), limit);
  both = step(&mixed, (chunk[]){{0, 41, LENGTH}, {1, 19, 20}}, 2);
  check_near(rows(ctx, both, 0, LENGTH - 41), rows(ctx, expected, 41, LENGTH - 41), limit);
  check_near(rows(ctx, both, LENGTH - 41, 1), rows(ctx, other, 19, 1), limit);
  fk_model_close(model);
  fk_context_destroy(ctx);
}

static void test_steps_ref(void **state) {
  (void)state;
  check_steps(FK_REF, FK_F64, 1e-12);
}

static void test_steps_cpu(void **state) {
  (void)state;
  check_steps(FK_CPU, FK_F32, 1e-5);
  check_steps(FK_CPU, FK_BF16, 2e-2);
}

/* ---- Overrides reach every level above ------------------------------------------------------------------- */

static int zero_mlp(void *self, const fk_any *args, int32_t n, fk_any *result) {
  (void)result;
  ++*(int *)self;
  fk_tensor *out = fk_arg_tensor(&args[n - 1]);
  memset(fk_data(out), 0, fk_type_bytes(fk_type_of(out), fk_numel(out)));
  return 0;
}

static void test_override(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_REF);
  fk_model *model = open_model(ctx, LLAMA_FIXTURES "plain", (fk_model_options){0});
  int calls = 0;
  runner r = make_runner(ctx, model);
  fk_tensor *before = step(&r, (chunk[]){{0, 0, 5}}, 1);
  assert_ok(fk_override_fn(ctx, "llama_mlp", zero_mlp, &calls));
  fk_tensor *after = step(&r, (chunk[]){{0, 0, 5}}, 1);
  assert_int_equal(calls, LAYERS);
  assert_true(tensor_error(after, before) > 0.1);
  fk_model_close(model);
  fk_context_destroy(ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_blocks), cmocka_unit_test(test_steps_ref),
                                     cmocka_unit_test(test_steps_cpu), cmocka_unit_test(test_override)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
