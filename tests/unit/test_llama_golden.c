/* Llama against what transformers computes in double precision (tests/golden/llama.py). */
#include <glob.h>

#include "model_helpers.h"

/* Runs every io file of every fixture; the worst relative error must stay within the limit. */
static void check_all(fk_backend backend, fk_type dtype, double limit) {
  fk_context *ctx = open_context(backend);
  glob_t folders, files;
  assert_int_equal(glob(LLAMA_FIXTURES "*", 0, NULL, &folders), 0);
  double worst = 0;
  int compared = 0;
  for (size_t i = 0; i < folders.gl_pathc; i++) {
    fk_model *model = open_model(ctx, folders.gl_pathv[i], (fk_model_options){.dtype = dtype});
    char pattern[1024];
    snprintf(pattern, sizeof pattern, "%s/io*.safetensors", folders.gl_pathv[i]);
    assert_int_equal(glob(pattern, 0, NULL, &files), 0);
    for (size_t k = 0; k < files.gl_pathc; k++, compared++) {
      fk_safetensors *file;
      fk_tensors inputs, outputs;
      assert_ok(fk_safetensors_open(files.gl_pathv[k], &file));
      read_inputs(ctx, file, &inputs);
      assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
      assert_int_equal(outputs.count, 1);
      char name[64];
      snprintf(name, sizeof name, "out.%s", outputs.items[0].name);
      const fk_stored *expected = fk_safetensors_find(file, name);
      const fk_tensor *got = outputs.items[0].tensor;
      assert_non_null(expected);
      assert_int_equal(fk_type_of(got), backend == FK_REF ? FK_F64 : FK_F32);
      assert_int_equal(got->ndim, 3);
      assert_memory_equal(got->shape, expected->shape, 3 * sizeof *got->shape);
      double error =
          row_error(fk_type_of(got), fk_data(got), expected->type, expected->data, got->shape[0] * got->shape[1],
                    got->shape[2], fk_safetensors_find(file, "in.attention_mask"));
      if (!(error <= limit)) fail_msg("%s: relative error %g, at most %g allowed", files.gl_pathv[k], error, limit);
      if (error > worst) worst = error;
      fk_safetensors_close(file);
      fk_context_reset(ctx);
    }
    globfree(&files);
    fk_model_close(model);
  }
  globfree(&folders);
  fk_context_destroy(ctx);
  assert_true(compared >= 13);
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

/* Rows of padding are zero, and what stands in them as ids does not matter. */
static void test_padding(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_REF);
  fk_model *model = open_model(ctx, LLAMA_FIXTURES "plain", (fk_model_options){0});
  int64_t ids[2][5] = {{1, 2, 3, 4, 5}, {9, 96, 7, 8, 0}}, mask[2][5] = {{1, 1, 0, 1, 0}, {0, 0, 1, 1, 1}};
  double before[2 * 5 * 97];
  test_tensor a, b;
  fk_tensors inputs = {0}, outputs;
  assert_ok(fk_tensors_put(&inputs, "input_ids", TENSOR(&a, ids, FK_I64, 2, 5)));
  assert_ok(fk_tensors_put(&inputs, "attention_mask", TENSOR(&b, mask, FK_I64, 2, 5)));
  assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
  memcpy(before, fk_data(outputs.items[0].tensor), sizeof before);
  for (int i = 0; i < 10; i++) {
    if (mask[i / 5][i % 5]) continue;
    ids[i / 5][i % 5] = -1; /* not even a valid id */
    for (int v = 0; v < 97; v++) assert_true(before[i * 97 + v] == 0);
  }
  assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
  assert_memory_equal(fk_data(outputs.items[0].tensor), before, sizeof before);
  fk_model_close(model);
  fk_context_destroy(ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ref), cmocka_unit_test(test_cpu_float32),
                                     cmocka_unit_test(test_cpu_bfloat16), cmocka_unit_test(test_cpu_float16),
                                     cmocka_unit_test(test_padding)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
