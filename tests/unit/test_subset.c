/* Rows of a large call: the oracle's answer for them is its answer for the whole call, at those rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* cmocka.h needs the headers above. */
#include <cmocka.h>

#include "judge/subset.h"
#include "unit/task_sweep.h"

static fk_arena arena;
static fk_context *ref;

static fk_case *parse(const char *task, const char *text) {
  fk_case *c = NULL;
  json_t *json = json_loads(text, 0, NULL);
  assert_non_null(json);
  assert_int_equal(fk_case_parse(&arena, fk_task_find(task), json, "test", &c), FK_OK);
  json_decref(json);
  return c;
}

static double at(const fk_tensor *t, int64_t i) {
  return ((const double *)fk_data(t))[i];
}

/* Every drawn row of out, in double, equals the same row of the whole call. */
static void check_rows(const char *task, const char *text, int64_t columns) {
  static fk_plan plan;
  static fk_subset subset;
  fk_tensor *whole[FK_MAX_ARGS], *some[FK_MAX_ARGS];
  fk_case *c = parse(task, text);
  int64_t rows;
  int out = fk_task_arg(c->task, "out");
  assert_int_equal(fk_plan_make(c, &plan), FK_OK);
  assert_true(fk_subset_possible(&plan, &rows));
  assert_int_equal(rows, 105);
  void *full = sweep_buffer(&plan);
  assert_int_equal(fk_plan_fill(&plan, full, 3), FK_OK);
  assert_int_equal(fk_plan_oracle(&plan, full, ref, whole), FK_OK);
  assert_int_equal(fk_subset_make(&plan, 9, 17, &subset), FK_OK);
  assert_int_equal(subset.count, 9);
  assert_int_equal(subset.rows[8], 104);
  void *part = sweep_buffer(&subset.plan);
  fk_subset_copy(&subset, full, part);
  assert_int_equal(fk_plan_oracle(&subset.plan, part, ref, some), FK_OK);
  for (int64_t k = 0; k < 9; k++)
    for (int64_t j = 0; j < columns; j++)
      assert_true(at(some[out], k * columns + j) == at(whole[out], subset.rows[k] * columns + j));
  fk_context_reset(ref);
  free(full);
  free(part);
}

static void test_rows_of_linear(void **state) {
  (void)state;
  check_rows("linear",
             "{\"axes\": {\"rows\": [7, 15], \"in_features\": 33, \"out_features\": 21}, \"strided\": [\"x\"]}", 21);
}

static void test_rows_of_a_norm_in_place(void **state) {
  (void)state;
  check_rows("rms_norm", "{\"axes\": {\"rows\": 105, \"hidden_size\": 40}, \"alias\": {\"out\": \"x\"}}", 40);
}

static void test_what_mixes_rows_is_not_cut(void **state) {
  (void)state;
  static fk_plan plan;
  static fk_subset subset;
  int64_t rows;
  fk_case *c =
      parse("attention",
            "{\"layout\": \"dense\", \"axes\": {\"batch\": 100, \"seqlen_q\": 2, \"seqlen_k\": 2, \"num_heads\": "
            "1, \"num_kv_heads\": 1, \"head_size\": 8, \"head_size_v\": 8}, \"attributes\": {\"scale\": 1}}");
  assert_int_equal(fk_plan_make(c, &plan), FK_OK);
  assert_false(fk_subset_possible(&plan, &rows));
  assert_int_equal(fk_subset_make(&plan, 4, 1, &subset), FK_ERROR_UNSUPPORTED);
}

static int setup(void **state) {
  (void)state;
  fk_arena_init(&arena, &fk_host_memory, 0);
  ref = sweep_context(FK_REF, NULL);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  fk_context_destroy(ref);
  fk_arena_destroy(&arena);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows_of_linear),
                                     cmocka_unit_test(test_rows_of_a_norm_in_place),
                                     cmocka_unit_test(test_what_mixes_rows_is_not_cut)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
