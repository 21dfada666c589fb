/* The BERT family against what transformers, colbert-ir's and FlagEmbedding's formulas give in double precision
 * (tests/golden/colbertv2.py and bge_m3.py): every output of every file, padding included. */
#include <glob.h>

#include "model_helpers.h"

#define FIXTURES FK_SOURCE_DIR "/tests/golden/fixtures/"

/* The outputs a file expects; those of the model that it does not name are the reference's padding. */
static int check_outputs(fk_backend backend, const fk_safetensors *file, const fk_tensors *outputs, const char *path,
                         double limit, double *worst) {
  int compared = 0;
  for (size_t i = 0; i < fk_safetensors_count(file); i++) {
    const fk_stored *expected = fk_safetensors_at(file, i);
    if (strncmp(expected->name, "out.", 4) != 0) continue;
    const fk_tensor *got = fk_tensors_get(outputs, expected->name + 4);
    if (!got) fail_msg("%s: the model has no output %s", path, expected->name + 4);
    assert_int_equal(fk_type_of(got), backend == FK_REF ? FK_F64 : FK_F32);
    assert_int_equal(got->ndim, expected->ndim);
    assert_memory_equal(got->shape, expected->shape, (size_t)got->ndim * sizeof *got->shape);
    double error = row_error(fk_type_of(got), fk_data(got), expected->type, expected->data, 1, fk_numel(got), NULL);
    if (!(error <= limit))
      fail_msg("%s: %s: relative error %g, at most %g allowed", path, expected->name, error, limit);
    if (error > *worst) *worst = error;
    compared++;
  }
  return compared;
}

static int check_model(const char *family, fk_backend backend, fk_type dtype, double limit, double *worst) {
  fk_context *ctx = open_context(backend);
  glob_t folders, files;
  char pattern[1024];
  int compared = 0;
  snprintf(pattern, sizeof pattern, FIXTURES "%s/*", family);
  assert_int_equal(glob(pattern, 0, NULL, &folders), 0);
  for (size_t i = 0; i < folders.gl_pathc; i++) {
    fk_model *model = open_model(ctx, folders.gl_pathv[i], (fk_model_options){.dtype = dtype});
    assert_string_equal(model->class->name, family);
    snprintf(pattern, sizeof pattern, "%s/io*.safetensors", folders.gl_pathv[i]);
    assert_int_equal(glob(pattern, 0, NULL, &files), 0);
    for (size_t k = 0; k < files.gl_pathc; k++) {
      fk_safetensors *file;
      fk_tensors inputs, outputs = {0};
      assert_ok(fk_safetensors_open(files.gl_pathv[k], &file));
      read_inputs(ctx, file, &inputs);
      assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
      compared += check_outputs(backend, file, &outputs, files.gl_pathv[k], limit, worst);
      fk_safetensors_close(file);
      fk_context_reset(ctx);
    }
    globfree(&files);
    fk_model_close(model);
  }
  globfree(&folders);
  fk_context_destroy(ctx);
  return compared;
}

static void check_all(fk_backend backend, fk_type dtype, double limit) {
  double worst = 0;
  int colbert = check_model("colbertv2", backend, dtype, limit, &worst);
  int bge = check_model("bge_m3", backend, dtype, limit, &worst);
  print_message("%s %s: worst relative error %.2e over %d outputs\n", fk_backend_name(backend), fk_type_name(dtype),
                worst, colbert + bge);
  assert_true(colbert >= 22 && bge >= 30);
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

/* ---- Inputs and their absence ---------------------------------------------------------------------------- */

static fk_status forward_ids(fk_context *ctx, const fk_model *model, const char *name, fk_tensor *ids,
                             const char *other_name, fk_tensor *other, fk_tensors *outputs) {
  fk_tensors inputs = {0};
  *outputs = (fk_tensors){0};
  if (ids) assert_ok(fk_tensors_put(&inputs, name, ids));
  if (other) assert_ok(fk_tensors_put(&inputs, other_name, other));
  return fk_model_forward(ctx, model, &inputs, outputs);
}

static void assert_refused(fk_status status, const char *expected) {
  assert_int_equal(status, FK_ERROR_ARGUMENT);
  if (!strstr(fk_last_error(), expected))
    fail_msg("expected a message with \"%s\", got \"%s\"", expected, fk_last_error());
}

static void test_bad_inputs(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_CPU);
  fk_model *model = open_model(ctx, FIXTURES "colbertv2/colbert", (fk_model_options){0});
  fk_model *plain = open_model(ctx, FIXTURES "colbertv2/bert", (fk_model_options){0});
  fk_model *bge = open_model(ctx, FIXTURES "bge_m3/plain", (fk_model_options){0});
  int64_t ids[2][3] = {{1, 2, 3}, {4, 97, 6}}, fine[2][3] = {{1, 2, 3}, {4, 5, 6}}, mask[2][3] = {{1, 0, 1}, {1, 1, 1}};
  int64_t types[2][3] = {{0, 1, 2}, {0, 0, 0}}, negative[1][3] = {{0, -1, 0}}, far[2][3] = {{0, 1, 64}};
  static int64_t zeros[66];
  float floats[2][3] = {{0}};
  test_tensor a, b;
  fk_tensors out;
#define BAD(model, name, ids, other_name, other, message) \
  assert_refused(forward_ids(ctx, model, name, ids, other_name, other, &out), message)
  fk_tensor *good = TENSOR(&a, fine, FK_I64, 2, 3);
  BAD(model, NULL, NULL, NULL, NULL, "input_ids: the input is missing");
  BAD(model, "input_ids", TENSOR(&b, ids, FK_I64, 2, 3), NULL, NULL,
      "input_ids[1, 1]: expected a number below 97, got 97");
  BAD(model, "input_ids", good, "labels", TENSOR(&b, fine, FK_I64, 2, 3), "labels: unknown input");
  BAD(model, "input_ids", good, "attention_mask", TENSOR(&b, mask, FK_I64, 3, 2),
      "attention_mask: expected shape [2, 3]");
  BAD(model, "input_ids", good, "attention_mask", TENSOR(&b, floats, FK_F32, 2, 3), "contiguous integers");
  BAD(model, "input_ids", good, "token_type_ids", TENSOR(&b, types, FK_I64, 2, 3), "token_type_ids[0, 2]");
  BAD(model, "input_ids", good, "position_ids", TENSOR(&b, negative, FK_I64, 1, 3), "position_ids[0, 1]");
  BAD(model, "input_ids", good, "position_ids", TENSOR(&b, far, FK_I64, 2, 3), "below 64, got 64");
  BAD(model, "input_ids", TENSOR(&b, zeros, FK_I64, 1, 65), NULL, NULL, "longer than the model's 64");
  BAD(bge, "input_ids", TENSOR(&b, zeros, FK_I64, 1, 65), NULL, NULL, "longer than the model's 64");
  BAD(model, "input_ids", TENSOR(&b, zeros, FK_I64, 6), NULL, NULL, "1 dimensions");
  BAD(plain, "doc_input_ids", good, NULL, NULL, "no linear.weight");
  BAD(model, "query_input_ids", good, "query_attention_mask", TENSOR(&b, mask, FK_I64, 2, 3),
      "padding at the end only");
  BAD(model, "doc_input_ids", good, "skiplist", TENSOR(&b, mask, FK_I64, 2, 3), "skiplist: expected token ids");
#undef BAD
  fk_model_close(model);
  fk_model_close(plain);
  fk_model_close(bge);
  fk_context_destroy(ctx);
}

/* Padding is never read, its rows are zero, and sequences without a token are fine. */
static void test_padding(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_CPU);
  fk_model *model = open_model(ctx, FIXTURES "bge_m3/heads", (fk_model_options){0});
  int64_t ids[3][4] = {{5, 6, 7, 8}, {-1, 9, -1, 10}, {-1, -7, 1000, -1}};
  int64_t mask[3][4] = {{1, 1, 1, 1}, {0, 1, 0, 1}, {0, 0, 0, 0}};
  test_tensor a, b;
  fk_tensors out;
  assert_ok(forward_ids(ctx, model, "input_ids", TENSOR(&a, ids, FK_I64, 3, 4), "attention_mask",
                        TENSOR(&b, mask, FK_I64, 3, 4), &out));
  for (int i = 0; i < out.count; i++) {
    const fk_tensor *t = out.items[i].tensor;
    int64_t row = fk_numel(t) / 3;
    double first = 0;
    for (int64_t k = 0; k < row; k++) {
      first += fabs((double)((float *)fk_data(t))[k]);
      assert_true(((float *)fk_data(t))[2 * row + k] == 0);
    }
    assert_true(first > 0);
  }
  assert_ok(forward_ids(ctx, model, "input_ids", TENSOR(&a, ids, FK_I64, 0, 4), NULL, NULL, &out));
  assert_int_equal(fk_numel(fk_tensors_get(&out, "dense_vecs")), 0);
  assert_ok(forward_ids(ctx, model, "input_ids", TENSOR(&a, ids, FK_I64, 3, 0), NULL, NULL, &out));
  fk_model_close(model);
  fk_context_destroy(ctx);
}

/* ---- Configurations -------------------------------------------------------------------------------------- */

#define CONFIG(class, heads, changes)                                          \
  "{\"architectures\": [\"" class                                              \
      "\"], \"vocab_size\": 9, \"hidden_size\": 8, \"intermediate_size\": 8, " \
      "\"num_hidden_layers\": 1, \"num_attention_heads\": " heads ", \"max_position_embeddings\": 8" changes "}"

static void test_bad_configs(void **state) {
  (void)state;
  static const struct {
    const char *json, *message;
  } bad[] = {
      {CONFIG("BertModel", "3", ""), "num_attention_heads"},
      {CONFIG("BertModel", "2", ", \"hidden_act\": \"swish\""), "hidden_act"},
      {CONFIG("BertModel", "2", ", \"position_embedding_type\": \"relative_key\""), "position_embedding_type"},
      {CONFIG("BertModel", "2", ", \"pad_token_id\": 9"), "pad_token_id"},
      {CONFIG("XLMRobertaModel", "2", ", \"pad_token_id\": 7"), "more than pad_token_id"},
      {CONFIG("HF_ColBERT", "2", ", \"query_maxlen\": 9"), "query_maxlen"},
      {CONFIG("HF_ColBERT", "2", ", \"mask_token_id\": 9"), "mask_token_id"},
  };
  fk_context *ctx = open_context(FK_META);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    fk_model *model;
    fk_model_options options = {0};
    assert_int_not_equal(fk_model_open_config(ctx, bad[i].json, strlen(bad[i].json), "config", &options, &model),
                         FK_OK);
    assert_null(model);
    if (!strstr(fk_last_error(), bad[i].message))
      fail_msg("expected \"%s\", got \"%s\"", bad[i].message, fk_last_error());
  }
  fk_context_destroy(ctx);
}

/* On meta: shapes without data. */
static void test_meta(void **state) {
  (void)state;
  static const char json[] = CONFIG("HF_ColBERT", "2", "");
  fk_context *ctx = open_context(FK_META);
  fk_model *model = open_text(ctx, json, (fk_model_options){0});
  int64_t ids[1][8] = {{0}};
  test_tensor a;
  fk_tensors out;
  assert_ok(forward_ids(ctx, model, "input_ids", TENSOR(&a, ids, FK_I64, 1, 8), NULL, NULL, &out));
  const fk_tensor *t = fk_tensors_get(&out, "token_embeddings");
  assert_true(t && t->ndim == 3 && t->shape[2] == 128 && !t->data);
  fk_model_close(model);
  fk_context_destroy(ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ref),        cmocka_unit_test(test_cpu_float32), cmocka_unit_test(test_cpu_bfloat16),
      cmocka_unit_test(test_bad_inputs), cmocka_unit_test(test_padding),     cmocka_unit_test(test_bad_configs),
      cmocka_unit_test(test_meta),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
