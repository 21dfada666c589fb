/* DLRM and DLRMv2 against what torch computes in double precision (tests/golden/dlrmv2.py), their levels against each
 * other, and what they refuse. */
#include <glob.h>

#include "model_helpers.h"

#define FIXTURES FK_SOURCE_DIR "/tests/golden/fixtures/dlrmv2/"

/* ---- Golden outputs -------------------------------------------------------------------------------------- */

static double check_file(fk_context *ctx, const fk_model *model, const char *path, double limit) {
  fk_safetensors *file;
  fk_tensors inputs, outputs;
  assert_ok(fk_safetensors_open(path, &file));
  read_inputs(ctx, file, &inputs);
  assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
  assert_int_equal(outputs.count, 1);
  const fk_stored *expected = fk_safetensors_find(file, "out.logits");
  const fk_tensor *got = fk_tensors_get(&outputs, "logits");
  assert_non_null(expected);
  assert_non_null(got);
  assert_int_equal(fk_type_of(got), model->dtype);
  assert_int_equal(got->ndim, expected->ndim);
  assert_memory_equal(got->shape, expected->shape, (size_t)got->ndim * sizeof *got->shape);
  double error = row_error(fk_type_of(got), fk_data(got), expected->type, expected->data, 1, fk_numel(got), NULL);
  if (!(error <= limit)) fail_msg("%s: relative error %g, at most %g allowed", path, error, limit);
  fk_safetensors_close(file);
  fk_context_reset(ctx);
  return error;
}

/* Runs every io file of every fixture; the worst relative error must stay within the limit. */
static void check_all(fk_backend backend, fk_type dtype, double limit) {
  fk_context *ctx = open_context(backend);
  glob_t folders, files;
  double worst = 0;
  int compared = 0;
  assert_int_equal(glob(FIXTURES "*", 0, NULL, &folders), 0);
  for (size_t i = 0; i < folders.gl_pathc; i++) {
    fk_model *model = open_model(ctx, folders.gl_pathv[i], (fk_model_options){.dtype = dtype});
    char pattern[1024];
    snprintf(pattern, sizeof pattern, "%s/io*.safetensors", folders.gl_pathv[i]);
    assert_int_equal(glob(pattern, 0, NULL, &files), 0);
    for (size_t k = 0; k < files.gl_pathc; k++, compared++) {
      double error = check_file(ctx, model, files.gl_pathv[k], limit);
      if (error > worst) worst = error;
    }
    globfree(&files);
    fk_model_close(model);
  }
  globfree(&folders);
  fk_context_destroy(ctx);
  assert_int_equal(compared, 7);
  print_message("%s %s: worst relative error %.2e of %d outputs\n", fk_backend_name(backend), fk_type_name(dtype),
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

/* ---- Levels ---------------------------------------------------------------------------------------------- */

enum { ROWS = 5, WIDE = 45, RANK = 11, LAYERS = 3, OUT = 19 };

static fk_tensor *noise(fk_context *ctx, fk_type type, double scale, const int64_t *shape, int32_t ndim) {
  static uint64_t seed = 1;
  fk_tensor *t = fk_empty_shape(ctx, type, shape, ndim);
  assert_non_null(t);
  for (int64_t i = 0; i < fk_numel(t); i++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    fk_store_f64(type, t->data, i, scale * ((double)(int64_t)(seed >> 11) / (double)(1ull << 52) - 1));
  }
  return t;
}
#define NOISE(scale, ...) noise(ctx, type, scale, (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__))

static void same(fk_type type, const fk_tensor *a, const fk_tensor *b) {
  assert_memory_equal(fk_data(a), fk_data(b), fk_type_bytes(type, fk_numel(a)));
}

static void check_levels(fk_backend backend, fk_type type) {
  fk_context *ctx = open_context(backend);
  fk_tensor *x = NOISE(1, ROWS, WIDE), *v = NOISE(0.3, LAYERS * RANK, WIDE), *w = NOISE(0.5, LAYERS * WIDE, RANK);
  fk_tensor *bias = NOISE(0.3, LAYERS * WIDE), *weight = NOISE(0.3, OUT, WIDE), *weight_bias = NOISE(0.3, OUT);
  fk_tensor *net = fk_empty_like(ctx, x), *layer = fk_empty_like(ctx, x), *low = fk_empty(ctx, type, ROWS, RANK);
  fk_tensor *high = fk_empty_like(ctx, x), *h = fk_empty_like(ctx, x);
  fk_tensor *fused = fk_empty(ctx, type, ROWS, OUT), *parts = fk_empty_like(ctx, fused);
  assert_ok(fk_call(ctx, "perceptron", x, weight, weight_bias, fused));
  assert_ok(fk_call(ctx, "linear", x, weight, weight_bias, parts));
  assert_ok(fk_call(ctx, "relu", parts, parts));
  same(type, fused, parts);
  assert_ok(fk_call(ctx, "low_rank_cross_net", x, v, w, bias, LAYERS, net));
  assert_ok(fk_copy(x, h));
  for (int i = 0; i < LAYERS; i++) {
    fk_tensor *vi = fk_slice(ctx, v, 0, i * RANK, RANK), *wi = fk_slice(ctx, w, 0, i * WIDE, WIDE);
    fk_tensor *bi = fk_slice(ctx, bias, 0, i * WIDE, WIDE);
    assert_ok(fk_call(ctx, "low_rank_cross", x, h, vi, wi, bi, layer));
    assert_ok(fk_call(ctx, "linear", h, vi, NULL, low));
    assert_ok(fk_call(ctx, "linear", low, wi, bi, high));
    assert_ok(fk_call(ctx, "mul_add", x, high, h, h));
    same(type, h, layer);
  }
  same(type, h, net);
  fk_context_destroy(ctx);
}

static void test_levels_agree(void **state) {
  (void)state;
  check_levels(FK_REF, FK_F64);
  check_levels(FK_CPU, FK_F32);
  check_levels(FK_CPU, FK_BF16);
}

static void says(const char *message) {
  if (!strstr(fk_last_error(), message)) fail_msg("\"%s\" does not say \"%s\"", fk_last_error(), message);
}

/* A collection is one embedding_bag per table; hostile integers are refused with their table, and nothing is written
 * by a call whose offsets are wrong. */
static void check_collection(fk_backend backend, fk_type type) {
  static const int64_t own[2][4] = {{0, 2, 2, 3}, {0, 1, 4, 5}};
  int64_t values[] = {4, 0, 2, 1, 0, 2, 2, 1}, offsets[] = {0, 2, 2, 3, 4, 7, 8}, tables[] = {0, 5, 8};
  fk_context *ctx = open_context(backend);
  fk_tensor *weight = NOISE(1, 8, 9), *factors = NOISE(1, 8), *out = NOISE(1, 3, 2, 9), *part = NOISE(1, 3, 9);
  fk_tensor *v = fk_wrap(ctx, values, FK_I64, (const int64_t[]){8}, 1, NULL);
  fk_tensor *o = fk_wrap(ctx, offsets, FK_I64, (const int64_t[]){7}, 1, NULL);
  fk_tensor *t = fk_wrap(ctx, tables, FK_I64, (const int64_t[]){3}, 1, NULL);
  for (int mode = 0; mode < 2; mode++) {
    assert_ok(fk_call(ctx, "embedding_bag_collection", v, o, factors, weight, t, mode, out));
    for (int k = 0; k < 2; k++) {
      fk_tensor *bags = fk_wrap(ctx, (void *)own[k], FK_I64, (const int64_t[]){4}, 1, NULL);
      fk_tensor *rows = fk_empty(ctx, type, 3, 9);
      assert_ok(fk_call(ctx, "embedding_bag", fk_slice(ctx, v, 0, 3 * k, 3 + 2 * k), bags,
                        fk_slice(ctx, factors, 0, 3 * k, 3 + 2 * k),
                        fk_slice(ctx, weight, 0, tables[k], tables[k + 1] - tables[k]), mode, part));
      assert_ok(fk_copy(fk_view(ctx, fk_slice(ctx, out, 1, k, 1), 3, 9), rows));
      same(type, rows, part);
    }
  }
  const struct {
    int64_t *at, bad;
    const char *message;
  } hostile[] = {{&values[3], 3, "table 1: "},
                 {&values[0], -1, "values[0]: expected a row of the table"},
                 {&values[0], 5, "table 0: "},
                 {&offsets[0], 1, "offsets[0]: expected 0, got 1"},
                 {&offsets[3], 1, "offsets[3]"},
                 {&offsets[6], 7, "number of values, 8, got 7"},
                 {&offsets[5], INT64_MAX, "offsets[6]"},
                 {&tables[1], -1, "table_offsets[1]"},
                 {&tables[2], 9, "number of rows, 8, got 9"}};
  for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
    int64_t good = *hostile[i].at;
    *hostile[i].at = hostile[i].bad;
    assert_int_equal(fk_call(ctx, "embedding_bag_collection", v, o, factors, weight, t, 0, out), FK_ERROR_ARGUMENT);
    says(hostile[i].message);
    *hostile[i].at = good;
  }
  fk_context_destroy(ctx);
}

static void test_collection(void **state) {
  (void)state;
  check_collection(FK_REF, FK_F64);
  check_collection(FK_CPU, FK_F32);
  check_collection(FK_CPU, FK_BF16);
}

/* ---- Refusals -------------------------------------------------------------------------------------------- */

static void refuse_config(fk_context *ctx, const char *json, const char *message) {
  fk_model *model;
  fk_model_options options = {0};
  assert_int_not_equal(fk_model_open_config(ctx, json, strlen(json), "config", &options, &model), FK_OK);
  assert_null(model);
  says(message);
}

static void test_bad_configs(void **state) {
  (void)state;
#define CONFIG(tables, dense, over, more)                                                             \
  "{\"architectures\": [\"DLRM_DCN\"], \"embedding_dim\": 8, \"num_embeddings_per_feature\": " tables \
  ", \"dense_arch_layer_sizes\": " dense ", \"over_arch_layer_sizes\": " over more "}"
  fk_context *ctx = open_context(FK_META);
  refuse_config(ctx, "{\"architectures\": [\"DLRM\"]}", "embedding_dim");
  refuse_config(ctx, CONFIG("[]", "[8]", "[4, 1]", ""), "num_embeddings_per_feature: expected the number of rows");
  refuse_config(ctx, CONFIG("[5, 0]", "[8]", "[4, 1]", ""), "num_embeddings_per_feature: expected integers");
  refuse_config(ctx, CONFIG("[5, 2.5]", "[8]", "[4, 1]", ""), "num_embeddings_per_feature: expected integers");
  refuse_config(ctx, CONFIG("7", "[8]", "[4, 1]", ""), "num_embeddings_per_feature");
  refuse_config(ctx, CONFIG("[5]", "[]", "[4, 1]", ""), "dense_arch_layer_sizes: expected at least 1");
  refuse_config(ctx, CONFIG("[5]", "[8, 9]", "[4, 1]", ""), "expected the last one to be embedding_dim, 8, got 9");
  refuse_config(ctx, CONFIG("[5]", "[8]", "[1]", ""), "over_arch_layer_sizes: expected at least 2 layer sizes, got 1");
  refuse_config(ctx, CONFIG("[5]", "[8]", "[4, -1]", ""), "over_arch_layer_sizes: expected integers");
  refuse_config(ctx, CONFIG("[5]", "[8]", "[4, 1]", ", \"multi_hot_sizes\": [1, 2]"), "expected 1 sizes");
  refuse_config(ctx, CONFIG("[5]", "[8]", "[4, 1]", ", \"multi_hot_sizes\": [0]"),
                "multi_hot_sizes: expected integers");
  refuse_config(ctx, CONFIG("[5]", "[8]", "[4, 1]", ", \"pooling\": \"MAX\""), "pooling");
  refuse_config(ctx, CONFIG("[5]", "[8]", "[4, 1]", ", \"dcn_num_layers\": 0"), "dcn_num_layers");
  refuse_config(ctx, CONFIG("[5]", "[8]", "[4, 1]", ", \"dcn_low_rank_dim\": 0"), "dcn_low_rank_dim");
  fk_context_destroy(ctx);
}

/* The inputs of a batch of 2 for the fixture "cross", 5 features of one value each: what a test then spoils. */
static void good_inputs(fk_context *ctx, fk_tensors *inputs) {
  fk_tensor *dense = fk_empty(ctx, FK_F32, 2, 13), *offsets = fk_empty(ctx, FK_I64, 11);
  fk_tensor *values = fk_empty(ctx, FK_I32, 10);
  memset(dense->data, 0, 26 * sizeof(float));
  memset(values->data, 0, 10 * sizeof(int32_t));
  for (int i = 0; i < 11; i++) ((int64_t *)offsets->data)[i] = i;
  inputs->count = 0;
  assert_ok(fk_tensors_put(inputs, "dense_features", dense));
  assert_ok(fk_tensors_put(inputs, "sparse_offsets", offsets));
  assert_ok(fk_tensors_put(inputs, "sparse_values", values));
}

static void refuse(fk_context *ctx, const fk_model *model, const fk_tensors *inputs, const char *message) {
  fk_tensors outputs;
  assert_int_not_equal(fk_model_forward(ctx, model, inputs, &outputs), FK_OK);
  assert_int_equal(outputs.count, 0);
  says(message);
}

static void refuse_input(fk_context *ctx, const fk_model *model, const char *name, fk_tensor *t, const char *message) {
  fk_tensors inputs;
  good_inputs(ctx, &inputs);
  for (int i = 0; i < inputs.count; i++)
    if (strcmp(inputs.items[i].name, name) == 0) {
      inputs.items[i] = inputs.items[--inputs.count];
      break;
    }
  if (t) assert_ok(fk_tensors_put(&inputs, name, t));
  refuse(ctx, model, &inputs, message);
}

static void refuse_offset(fk_context *ctx, const fk_model *model, int at, int64_t value, const char *message) {
  fk_tensors inputs;
  good_inputs(ctx, &inputs);
  ((int64_t *)fk_tensors_get(&inputs, "sparse_offsets")->data)[at] = value;
  refuse(ctx, model, &inputs, message);
}

static void refuse_value(fk_context *ctx, const fk_model *model, int at, int32_t value, const char *message) {
  fk_tensors inputs;
  good_inputs(ctx, &inputs);
  ((int32_t *)fk_tensors_get(&inputs, "sparse_values")->data)[at] = value;
  refuse(ctx, model, &inputs, message);
}

static void check_refusals(fk_backend backend) {
  fk_context *ctx = open_context(backend);
  fk_model *model = open_model(ctx, FIXTURES "cross", (fk_model_options){.dtype = FK_F32});
  fk_tensors inputs, outputs;
  good_inputs(ctx, &inputs);
  assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
  refuse_input(ctx, model, "dense_features", NULL, "dense_features: the input is missing");
  refuse_input(ctx, model, "sparse_offsets", NULL, "sparse_offsets: the input is missing");
  refuse_input(ctx, model, "sparse_values", NULL, "sparse_values: the input is missing");
  refuse_input(ctx, model, "input_ids", fk_empty(ctx, FK_I64, 2), "input_ids: unknown input");
  refuse_input(ctx, model, "sparse_weights", fk_empty(ctx, FK_F32, 10), "does not say is_weighted");
  refuse_input(ctx, model, "dense_features", fk_empty(ctx, FK_I64, 2, 13), "expected floats, got int64");
  refuse_input(ctx, model, "dense_features", fk_empty(ctx, FK_F32, 13), "expected 2 contiguous dimensions, got 1");
  refuse_input(ctx, model, "dense_features", fk_empty(ctx, FK_F32, 2, 12), "[batch, 13], got [2, 12]");
  refuse_input(ctx, model, "dense_features", fk_empty(ctx, FK_F32, 3, 13),
               "5 features * 3 samples + 1 offsets, got 11");
  refuse_input(ctx, model, "sparse_offsets", fk_empty(ctx, FK_F32, 11), "expected int32 or int64, got float32");
  refuse_input(ctx, model, "sparse_values", fk_empty(ctx, FK_I32, 2, 5), "expected 1 contiguous dimension, got 2");
  refuse_input(ctx, model, "sparse_values", fk_empty(ctx, FK_I32, 9), "number of sparse_values, 9, got 10");
  refuse_offset(ctx, model, 0, 1, "sparse_offsets[0]: expected 0, got 1");
  refuse_offset(ctx, model, 4, 2, "sparse_offsets[4]: expected at least 3, got 2");
  refuse_offset(ctx, model, 4, -7, "sparse_offsets[4]: expected at least 3, got -7");
  refuse_offset(ctx, model, 10, 11, "number of sparse_values, 10, got 11");
  refuse_offset(ctx, model, 4, INT64_MAX, "sparse_offsets[5]: expected at least 9223372036854775807");
  refuse_value(ctx, model, 3, 3, "sparse_values of feature 1");
  refuse_value(ctx, model, 3, 3, "values[1]: expected a row of the table, from 0 to 2, got 3");
  refuse_value(ctx, model, 8, -1, "values[0]: expected a row of the table, from 0 to 0, got -1");
  refuse_value(ctx, model, 0, INT32_MAX, "sparse_values of feature 0");
  fk_model_close(model);
  fk_context_destroy(ctx);
}

static void test_bad_inputs(void **state) {
  (void)state;
  check_refusals(FK_CPU);
  check_refusals(FK_REF);
}

static void test_bad_weights(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_CPU);
  fk_model *model = open_model(ctx, FIXTURES "weighted_mean", (fk_model_options){.dtype = FK_F32});
  fk_tensors inputs;
  good_inputs(ctx, &inputs);
  inputs.items[0].tensor = fk_slice(ctx, inputs.items[0].tensor, 1, 0, 4);
  refuse(ctx, model, &inputs, "sparse_weights: the input is missing");
  assert_ok(fk_tensors_put(&inputs, "sparse_weights", fk_empty(ctx, FK_F32, 9)));
  refuse(ctx, model, &inputs, "sparse_weights: expected one per value, 10, got 9");
  fk_model_close(model);
  fk_context_destroy(ctx);
}

/* embedding_bag by itself: an error leaves out as it was. */
static void check_bags(fk_backend backend) {
  static int64_t offsets[][4] = {{1, 1, 2, 4}, {0, 3, 2, 4}, {0, 1, 2, 3}, {0, 1, 5, 4}, {0, -1, 2, 4}};
  static int64_t values[][4] = {{0, 1, 2, 6}, {0, -1, 2, 3}, {0, 1, INT64_MIN, 3}, {INT64_MAX, 1, 2, 3}};
  int64_t good_offsets[] = {0, 1, 2, 4}, good_values[] = {0, 1, 2, 5};
  fk_context *ctx = open_context(backend);
  fk_type type = backend == FK_REF ? FK_F64 : FK_F32;
  fk_tensor *weight = NOISE(1, 6, 5), *out = NOISE(1, 3, 5), *before = fk_empty_like(ctx, out);
  assert_ok(fk_copy(out, before));
  for (int i = 0; i < 9; i++) {
    fk_tensor *o = fk_wrap(ctx, i < 5 ? offsets[i] : good_offsets, FK_I64, (const int64_t[]){4}, 1, NULL);
    fk_tensor *v = fk_wrap(ctx, i < 5 ? good_values : values[i - 5], FK_I64, (const int64_t[]){4}, 1, NULL);
    assert_int_equal(fk_call(ctx, "embedding_bag", v, o, NULL, weight, 0, out), FK_ERROR_ARGUMENT);
    says(i < 5 ? "offsets" : "values[");
    same(type, out, before);
  }
  fk_context_destroy(ctx);
}

static void test_bad_bags(void **state) {
  (void)state;
  check_bags(FK_CPU);
  check_bags(FK_REF);
}

/* ---- Edges ----------------------------------------------------------------------------------------------- */

/* No sample is no error. */
static void test_empty(void **state) {
  (void)state;
  static const char *const fixtures[] = {FIXTURES "cross", FIXTURES "dot"};
  fk_context *ctx = open_context(FK_CPU);
  for (int i = 0; i < 2; i++) {
    fk_model *model = open_model(ctx, fixtures[i], (fk_model_options){.dtype = FK_F32});
    fk_tensors inputs = {0}, outputs;
    fk_tensor *offsets = fk_empty(ctx, FK_I32, 1);
    *(int32_t *)offsets->data = 0;
    assert_ok(fk_tensors_put(&inputs, "dense_features", fk_empty(ctx, FK_F32, 0, 13)));
    assert_ok(fk_tensors_put(&inputs, "sparse_offsets", offsets));
    assert_ok(fk_tensors_put(&inputs, "sparse_values", fk_empty(ctx, FK_I64, 0)));
    assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
    assert_int_equal(outputs.items[0].tensor->shape[0], 0);
    assert_int_equal(outputs.items[0].tensor->shape[1], 1);
    fk_model_close(model);
  }
  fk_context_destroy(ctx);
}

/* The presets open and run on meta, where 105 GB of tables take no memory. */
static void test_presets(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int64_t parameters, values;
  } presets[] = {{"dlrmv2-criteo", 204184588LL * 128, 214}, {"dlrm-criteo-kaggle", 33762577LL * 16, 26}};
  for (int i = 0; i < 2; i++) {
    fk_context *meta = open_context(FK_META);
    fk_model *model = open_model(meta, presets[i].name, (fk_model_options){.dtype = i ? FK_BF16 : 0});
    fk_tensors inputs = {0}, outputs;
    assert_true(model->num_parameters > presets[i].parameters);
    assert_true(model->num_parameters < presets[i].parameters + 20000000);
    assert_ok(fk_tensors_put(&inputs, "dense_features", fk_empty(meta, FK_F32, 7, 13)));
    assert_ok(fk_tensors_put(&inputs, "sparse_offsets", fk_empty(meta, FK_I64, 7 * 26 + 1)));
    assert_ok(fk_tensors_put(&inputs, "sparse_values", fk_empty(meta, FK_I64, 7 * presets[i].values)));
    assert_ok(fk_model_forward(meta, model, &inputs, &outputs));
    assert_int_equal(outputs.items[0].tensor->shape[0], 7);
    assert_int_equal(outputs.items[0].tensor->shape[1], 1);
    fk_model_close(model);
    fk_context_destroy(meta);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ref),         cmocka_unit_test(test_cpu_float32),  cmocka_unit_test(test_cpu_bfloat16),
      cmocka_unit_test(test_cpu_float16), cmocka_unit_test(test_levels_agree), cmocka_unit_test(test_collection),
      cmocka_unit_test(test_bad_configs), cmocka_unit_test(test_bad_inputs),   cmocka_unit_test(test_bad_weights),
      cmocka_unit_test(test_bad_bags),    cmocka_unit_test(test_empty),        cmocka_unit_test(test_presets)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
