/* ConvNeXt V2 against what transformers computes in double precision (tests/golden/convnextv2.py), its levels against
 * each other, and what it refuses. */
#include <glob.h>

#include "model_helpers.h"

#define FIXTURES FK_SOURCE_DIR "/tests/golden/fixtures/convnextv2/"

/* The same inputs in the model's dtype. */
static void convert_inputs(fk_context *ctx, const fk_model *model, fk_tensors *inputs) {
  for (int i = 0; i < inputs->count; i++) {
    const fk_tensor *t = inputs->items[i].tensor;
    fk_tensor *c = fk_empty_shape(ctx, model->dtype, t->shape, t->ndim);
    assert_ok(fk_copy(t, c));
    inputs->items[i].tensor = c;
  }
}

static void check_outputs(const fk_safetensors *file, const fk_tensors *outputs, const char *path, double limit,
                          double *worst) {
  for (int i = 0; i < outputs->count; i++) {
    char name[64];
    snprintf(name, sizeof name, "out.%s", outputs->items[i].name);
    const fk_stored *expected = fk_safetensors_find(file, name);
    const fk_tensor *got = outputs->items[i].tensor;
    assert_non_null(expected);
    assert_int_equal(got->ndim, expected->ndim);
    assert_memory_equal(got->shape, expected->shape, (size_t)got->ndim * sizeof *got->shape);
    double error = row_error(fk_type_of(got), fk_data(got), expected->type, expected->data, 1, fk_numel(got), NULL);
    if (!(error <= limit)) fail_msg("%s: %s: relative error %g, at most %g allowed", path, name, error, limit);
    if (error > *worst) *worst = error;
  }
}

/* Runs every io file of every fixture; the worst relative error must stay within the limit. */
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
    for (size_t k = 0; k < files.gl_pathc; k++) {
      fk_safetensors *file;
      fk_tensors inputs, outputs;
      assert_ok(fk_safetensors_open(files.gl_pathv[k], &file));
      read_inputs(ctx, file, &inputs);
      convert_inputs(ctx, model, &inputs);
      assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
      /* Every output of the file, and none besides. */
      assert_int_equal(inputs.count + outputs.count, fk_safetensors_count(file));
      check_outputs(file, &outputs, files.gl_pathv[k], limit, &worst);
      compared += outputs.count;
      fk_safetensors_close(file);
      fk_context_reset(ctx);
    }
    globfree(&files);
    fk_model_close(model);
  }
  globfree(&folders);
  fk_context_destroy(ctx);
  assert_int_equal(compared, 12);
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

enum { N = 2, Y = 7, X = 10, FROM = 6, C = 20, WIDE = 4 * C, BLOCKS = 2 };

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

static void check_levels(fk_backend backend, fk_type type) {
  fk_context *ctx = open_context(backend);
  fk_tensor *x = NOISE(1, N, Y, X, FROM), *norm0 = NOISE(1, FROM), *bias0 = NOISE(1, FROM);
  fk_tensor *down = NOISE(0.5, C, FROM, 2, 2), *down_bias = NOISE(1, C);
  fk_tensor *dw = NOISE(0.3, BLOCKS * C, 1, 7, 7), *dw_bias = NOISE(1, BLOCKS * C);
  fk_tensor *norm = NOISE(1, BLOCKS * C), *norm_bias = NOISE(1, BLOCKS * C);
  fk_tensor *wide = NOISE(0.3, BLOCKS * WIDE, C), *wide_bias = NOISE(1, BLOCKS * WIDE);
  fk_tensor *grn = NOISE(1, BLOCKS * WIDE), *grn_bias = NOISE(1, BLOCKS * WIDE);
  fk_tensor *back = NOISE(0.2, BLOCKS * C, WIDE), *back_bias = NOISE(1, BLOCKS * C);
  fk_tensor *stage = fk_empty(ctx, type, N, Y / 2, X / 2, C), *h = fk_empty_like(ctx, stage);
  fk_tensor *block = fk_empty_like(ctx, stage), *mixed = fk_empty_like(ctx, stage);
  fk_tensor *expanded = fk_empty(ctx, type, N, Y / 2, X / 2, WIDE), *normed = fk_empty_like(ctx, x);
  assert_ok(fk_call(ctx, "convnextv2_stage", x, norm0, bias0, down, down_bias, dw, dw_bias, norm, norm_bias, wide,
                    wide_bias, grn, grn_bias, back, back_bias, BLOCKS, 1e-6, stage));
  assert_ok(fk_call(ctx, "layer_norm", x, norm0, bias0, 1e-6, normed));
  assert_ok(fk_call(ctx, "conv2d", normed, down, down_bias, 2, 2, 0, 0, 1, 1, 1, h));
  for (int i = 0; i < BLOCKS; i++) {
#define PART(t, rows) fk_slice(ctx, t, 0, i *(rows), rows)
    assert_ok(fk_call(ctx, "convnextv2_block", h, PART(dw, C), PART(dw_bias, C), PART(norm, C), PART(norm_bias, C),
                      PART(wide, WIDE), PART(wide_bias, WIDE), PART(grn, WIDE), PART(grn_bias, WIDE), PART(back, C),
                      PART(back_bias, C), 1e-6, block));
    assert_ok(fk_call(ctx, "conv2d", h, PART(dw, C), PART(dw_bias, C), 1, 1, 3, 3, 1, 1, C, mixed));
    assert_ok(fk_call(ctx, "layer_norm", mixed, PART(norm, C), PART(norm_bias, C), 1e-6, mixed));
    assert_ok(fk_call(ctx, "linear", mixed, PART(wide, WIDE), PART(wide_bias, WIDE), expanded));
    assert_ok(fk_call(ctx, "gelu", expanded, 0, expanded));
    assert_ok(fk_call(ctx, "grn", expanded, PART(grn, WIDE), PART(grn_bias, WIDE), 1e-6, expanded));
    assert_ok(fk_call(ctx, "linear", expanded, PART(back, C), PART(back_bias, C), mixed));
    assert_ok(fk_call(ctx, "add", h, mixed, h));
    assert_memory_equal(fk_data(h), fk_data(block), fk_type_bytes(type, fk_numel(h)));
  }
  assert_memory_equal(fk_data(h), fk_data(stage), fk_type_bytes(type, fk_numel(h)));
  fk_context_destroy(ctx);
}

static void test_levels_agree(void **state) {
  (void)state;
  check_levels(FK_REF, FK_F64);
  check_levels(FK_CPU, FK_F32);
  check_levels(FK_CPU, FK_BF16);
}

/* ---- Refusals -------------------------------------------------------------------------------------------- */

static void refuse_config(fk_context *ctx, const char *json, const char *message) {
  fk_model *model;
  fk_model_options options = {0};
  assert_int_not_equal(fk_model_open_config(ctx, json, strlen(json), "config", &options, &model), FK_OK);
  assert_null(model);
  if (!strstr(fk_last_error(), message)) fail_msg("\"%s\" does not say \"%s\"", fk_last_error(), message);
}

static void test_bad_configs(void **state) {
  (void)state;
#define CONFIG(text) "{\"architectures\": [\"ConvNextV2ForImageClassification\"], " text "}"
  fk_context *ctx = open_context(FK_META);
  refuse_config(ctx, CONFIG("\"num_stages\": 2"), "hidden_sizes: expected 2 sizes");
  refuse_config(ctx, CONFIG("\"num_stages\": 0"), "num_stages");
  refuse_config(ctx, CONFIG("\"depths\": [3, 3, 9]"), "depths: expected 4 depths");
  refuse_config(ctx, CONFIG("\"depths\": [3, 3, 9, 0]"), "depths: expected integers");
  refuse_config(ctx, CONFIG("\"depths\": [3, 3, 9.5, 3]"), "depths: expected integers");
  refuse_config(ctx, CONFIG("\"hidden_sizes\": [96, -1, 2, 3]"), "hidden_sizes: expected integers");
  refuse_config(ctx, CONFIG("\"hidden_sizes\": \"base\""), "hidden_sizes");
  refuse_config(ctx, CONFIG("\"patch_size\": 0"), "patch_size");
  refuse_config(ctx, CONFIG("\"patch_size\": [4, 4]"), "patch_size");
  refuse_config(ctx, CONFIG("\"hidden_act\": \"relu\""), "hidden_act");
  refuse_config(ctx, CONFIG("\"num_labels\": -3"), "num_labels");
  refuse_config(ctx, CONFIG("\"id2label\": [\"a\"]"), "id2label");
  fk_context_destroy(ctx);
}

static void refuse_input(fk_context *ctx, const fk_model *model, const char *name, fk_tensor *t, const char *message) {
  fk_tensors inputs = {0}, outputs;
  if (name) assert_ok(fk_tensors_put(&inputs, name, t));
  assert_int_not_equal(fk_model_forward(ctx, model, &inputs, &outputs), FK_OK);
  assert_int_equal(outputs.count, 0);
  if (!strstr(fk_last_error(), message)) fail_msg("\"%s\" does not say \"%s\"", fk_last_error(), message);
}

static void test_bad_inputs(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_CPU);
  fk_model *model = open_model(ctx, FIXTURES "plain", (fk_model_options){.dtype = FK_F32});
  refuse_input(ctx, model, NULL, NULL, "pixel_values: the input is missing");
  refuse_input(ctx, model, "input_ids", fk_empty(ctx, FK_F32, 1, 3, 32, 32), "input_ids: unknown input");
  refuse_input(ctx, model, "pixel_values", fk_empty(ctx, FK_BF16, 1, 3, 32, 32), "expected the model's dtype, float32");
  refuse_input(ctx, model, "pixel_values", fk_empty(ctx, FK_F32, 3, 32, 32), "got 3 dimensions");
  refuse_input(ctx, model, "pixel_values", fk_empty(ctx, FK_F32, 1, 4, 32, 32), "expected 3 channels, got 4");
  refuse_input(ctx, model, "pixel_values", fk_empty(ctx, FK_F32, 1, 3, 32, 15), "at least 16x16 pixels, got 32x15");
  fk_model_close(model);
  fk_context_destroy(ctx);
}

/* No image is no error; the presets open and run on meta. */
static void test_empty_and_presets(void **state) {
  (void)state;
  fk_tensors inputs = {0}, outputs;
  fk_context *ctx = open_context(FK_CPU), *meta = open_context(FK_META);
  fk_model *model = open_model(ctx, FIXTURES "plain", (fk_model_options){.dtype = FK_F32});
  assert_ok(fk_tensors_put(&inputs, "pixel_values", fk_empty(ctx, FK_F32, 0, 3, 32, 32)));
  assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
  assert_int_equal(outputs.items[0].tensor->shape[0], 0);
  assert_int_equal(outputs.items[0].tensor->shape[1], 7);
  fk_model_close(model);
  static const char *const presets[] = {"convnextv2-base-22k-384", "convnextv2-tiny-1k-224"};
  for (int i = 0; i < 2; i++) {
    model = open_model(meta, presets[i], (fk_model_options){0});
    inputs.count = 0;
    assert_ok(fk_tensors_put(&inputs, "pixel_values", fk_empty(meta, FK_F32, 5, 3, 384, 390)));
    assert_ok(fk_model_forward(meta, model, &inputs, &outputs));
    assert_int_equal(outputs.items[0].tensor->shape[0], 5);
    assert_int_equal(outputs.items[0].tensor->shape[1], 1000);
    fk_context_reset(meta);
    fk_model_close(model);
  }
  fk_context_destroy(meta);
  fk_context_destroy(ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ref),          cmocka_unit_test(test_cpu_float32),
                                     cmocka_unit_test(test_cpu_bfloat16), cmocka_unit_test(test_cpu_float16),
                                     cmocka_unit_test(test_levels_agree), cmocka_unit_test(test_bad_configs),
                                     cmocka_unit_test(test_bad_inputs),   cmocka_unit_test(test_empty_and_presets)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
