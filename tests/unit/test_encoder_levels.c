/* Levels agree in the BERT encoder: L1 calls composed by hand = the blocks of level 2 = the layer of level 3, bit for
 * bit, in both layouts. */
#include "model_helpers.h"

enum { H = 48, I = 72, HEADS = 3, D = H / HEADS, BATCH = 3, LENGTH = 7, T = BATCH * LENGTH, WORDS = 31, TYPES = 2 };

static fk_tensor *noise(fk_context *ctx, fk_type type, double mean, double scale, const int64_t *shape, int32_t ndim) {
  static uint64_t seed = 1;
  fk_tensor *t = fk_empty_shape(ctx, type, shape, ndim);
  assert_non_null(t);
  for (int64_t i = 0; i < fk_numel(t); i++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    fk_store_f64(type, t->data, i, mean + scale * ((double)(int64_t)(seed >> 11) / (double)(1ull << 52) - 1));
  }
  return t;
}
#define NOISE(mean, scale, ...) noise(ctx, type, mean, scale, (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__))

static fk_tensor *integers(fk_context *ctx, const int32_t *values, int64_t count) {
  fk_tensor *t = fk_empty(ctx, FK_I32, count);
  assert_non_null(t);
  memcpy(t->data, values, (size_t)count * sizeof *values);
  return t;
}

static void assert_same(const fk_tensor *a, const fk_tensor *b) {
  assert_memory_equal(fk_data(a), fk_data(b), fk_type_bytes(fk_type_of(a), fk_numel(a)));
}

static double largest(const fk_tensor *t) {
  double most = 0;
  for (int64_t i = 0; i < fk_numel(t); i++) most = fmax(most, fabs(fk_load_f64(fk_type_of(t), fk_data(t), i)));
  return most;
}

typedef struct layer { /* weights of a layer; sequences as cu_seqlens (packed) or seq_lens (dense), the other NULL */
  fk_tensor *qkv, *qkv_bias, *dense, *dense_bias, *norm1, *norm1_bias, *wide, *wide_bias, *narrow, *narrow_bias;
  fk_tensor *norm2, *norm2_bias, *cu_seqlens, *seq_lens;
  double scale;
  int approximate;
} layer;

static layer make_layer(fk_context *ctx, fk_type type, bool dense, int approximate) {
  static const int32_t cu[] = {0, 9, 10, T}, lens[BATCH] = {LENGTH, 1, 4};
  layer y = {.scale = 0.25, .approximate = approximate};
  y.qkv = NOISE(0, 0.3, 3 * H, H);
  y.qkv_bias = NOISE(0, 0.3, 3 * H);
  y.dense = NOISE(0, 0.3, H, H);
  y.dense_bias = NOISE(0, 0.3, H);
  y.norm1 = NOISE(1, 0.3, H);
  y.norm1_bias = NOISE(0, 0.3, H);
  y.wide = NOISE(0, 0.3, I, H);
  y.wide_bias = NOISE(0, 0.3, I);
  y.narrow = NOISE(0, 0.3, H, I);
  y.narrow_bias = NOISE(0, 0.3, H);
  y.norm2 = NOISE(1, 0.3, H);
  y.norm2_bias = NOISE(0, 0.3, H);
  if (dense)
    y.seq_lens = integers(ctx, lens, BATCH);
  else
    y.cu_seqlens = integers(ctx, cu, BATCH + 1);
  return y;
}

/* A third of the columns, seen as heads. */
static fk_tensor *heads_of(fk_context *ctx, const fk_tensor *qkv, bool dense, int which) {
  fk_tensor *part = fk_slice(ctx, qkv, -1, which * H, H);
  return dense ? fk_view(ctx, part, BATCH, LENGTH, HEADS, D) : fk_view(ctx, part, T, HEADS, D);
}

/* The attention of a layer with nothing but L1 calls: the heads side by side. */
static void attend(fk_context *ctx, const layer *y, const fk_tensor *x, fk_tensor *heads) {
  bool dense = y->seq_lens != NULL;
  fk_type type = fk_type_of(x);
  fk_tensor *qkv = dense ? fk_empty(ctx, type, BATCH, LENGTH, 3 * H) : fk_empty(ctx, type, T, 3 * H);
  fk_tensor *seen = dense ? fk_view(ctx, heads, BATCH, LENGTH, HEADS, D) : fk_view(ctx, heads, T, HEADS, D);
  assert_ok(fk_call(ctx, "linear", x, y->qkv, y->qkv_bias, qkv));
  assert_ok(fk_call(ctx, "attention", heads_of(ctx, qkv, dense, 0), heads_of(ctx, qkv, dense, 1),
                    heads_of(ctx, qkv, dense, 2), y->cu_seqlens, y->cu_seqlens, y->seq_lens, NULL, NULL, y->scale,
                    false, -1, -1, 0.0, seen));
}

/* The whole layer, with the blocks of level 2 or without. */
static void by_hand(fk_context *ctx, const layer *y, const fk_tensor *x, bool blocks, fk_tensor *heads, fk_tensor *mlp,
                    fk_tensor *out) {
  fk_tensor *hidden = fk_empty_like(ctx, x);
  if (blocks)
    assert_ok(fk_call(ctx, "bert_self_attention", x, y->cu_seqlens, y->seq_lens, y->qkv, y->qkv_bias, HEADS, y->scale,
                      heads));
  else
    attend(ctx, y, x, heads);
  assert_ok(fk_call(ctx, "linear", heads, y->dense, y->dense_bias, hidden));
  assert_ok(fk_call(ctx, "add", hidden, x, hidden));
  assert_ok(fk_call(ctx, "layer_norm", hidden, y->norm1, y->norm1_bias, 1e-12, hidden));
  if (blocks) {
    assert_ok(fk_call(ctx, "bert_mlp", hidden, y->wide, y->wide_bias, y->narrow, y->narrow_bias, y->approximate, mlp));
  } else {
    fk_tensor *rows = fk_view(ctx, hidden, T, H), *wide = fk_empty(ctx, fk_type_of(x), T, I);
    assert_ok(fk_call(ctx, "linear", rows, y->wide, y->wide_bias, wide));
    assert_ok(fk_call(ctx, "gelu", wide, y->approximate, wide));
    assert_ok(fk_call(ctx, "linear", wide, y->narrow, y->narrow_bias, fk_view(ctx, mlp, T, H)));
  }
  assert_ok(fk_call(ctx, "add", mlp, hidden, hidden));
  assert_ok(fk_call(ctx, "layer_norm", hidden, y->norm2, y->norm2_bias, 1e-12, out));
}

static void check_layer(fk_backend backend, fk_type type, bool dense, int approximate) {
  fk_context *ctx = open_context(backend);
  layer y = make_layer(ctx, type, dense, approximate);
  fk_tensor *x = dense ? NOISE(0, 1, BATCH, LENGTH, H) : NOISE(0, 1, T, H);
  fk_tensor *heads[2], *mlp[2], *out[3];
  for (int i = 0; i < 3; i++) {
    if (i < 2) heads[i] = fk_empty_like(ctx, x), mlp[i] = fk_empty_like(ctx, x);
    out[i] = fk_empty_like(ctx, x);
    assert_non_null(out[i]);
  }
  by_hand(ctx, &y, x, false, heads[0], mlp[0], out[0]);
  by_hand(ctx, &y, x, true, heads[1], mlp[1], out[1]);
  assert_same(heads[0], heads[1]);
  assert_same(mlp[0], mlp[1]);
  assert_same(out[0], out[1]);
  assert_ok(fk_call(ctx, "bert_layer", x, y.cu_seqlens, y.seq_lens, y.qkv, y.qkv_bias, y.dense, y.dense_bias, y.norm1,
                    y.norm1_bias, y.wide, y.wide_bias, y.narrow, y.narrow_bias, y.norm2, y.norm2_bias, HEADS, y.scale,
                    1e-12, y.approximate, out[2]));
  assert_same(out[0], out[2]);
  assert_true(largest(out[2]) > 0.5 && largest(out[2]) < 100); /* equal, and not because nothing was computed */
  fk_context_destroy(ctx);
}

static void test_layer(void **state) {
  (void)state;
  static const struct {
    fk_backend backend;
    fk_type type;
  } runs[] = {{FK_REF, FK_F64}, {FK_CPU, FK_F32}, {FK_CPU, FK_BF16}, {FK_CPU, FK_F16}};
  for (size_t i = 0; i < sizeof runs / sizeof *runs; i++)
    for (int k = 0; k < 4; k++) check_layer(runs[i].backend, runs[i].type, k % 2, k / 2);
}

static void check_embeddings(fk_backend backend, fk_type type) {
  static const int32_t words[] = {0, 30, 7, 7, 12}, places[] = {0, 1, 2, 0, 8}, kinds[] = {0, 0, 1, 1, 0};
  fk_context *ctx = open_context(backend);
  fk_tensor *ids = integers(ctx, words, 5), *positions = integers(ctx, places, 5), *types = integers(ctx, kinds, 5);
  fk_tensor *table = NOISE(0, 1, WORDS, H), *position_table = NOISE(0, 1, 9, H), *type_table = NOISE(0, 1, TYPES, H);
  fk_tensor *gain = NOISE(1, 0.3, H), *bias = NOISE(0, 0.3, H);
  fk_tensor *sum = fk_empty(ctx, type, 5, H), *part = fk_empty_like(ctx, sum), *out = fk_empty_like(ctx, sum);
  assert_ok(fk_call(ctx, "embedding", ids, table, sum));
  assert_ok(fk_call(ctx, "embedding", types, type_table, part));
  assert_ok(fk_call(ctx, "add", sum, part, sum));
  assert_ok(fk_call(ctx, "embedding", positions, position_table, part));
  assert_ok(fk_call(ctx, "add", sum, part, sum));
  assert_ok(fk_call(ctx, "layer_norm", sum, gain, bias, 1e-12, sum));
  assert_ok(fk_call(ctx, "bert_embeddings", ids, positions, types, table, position_table, type_table, gain, bias, 1e-12,
                    out));
  assert_same(sum, out);
  assert_true(largest(out) > 0.5 && largest(out) < 100);
  fk_context_destroy(ctx);
}

static void test_embeddings(void **state) {
  (void)state;
  check_embeddings(FK_REF, FK_F64);
  check_embeddings(FK_CPU, FK_F32);
  check_embeddings(FK_CPU, FK_BF16);
  check_embeddings(FK_CPU, FK_F16);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_layer), cmocka_unit_test(test_embeddings)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
