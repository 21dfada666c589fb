/* Expressions: grammar, precedence, checked arithmetic, tensor functions, and every message. */
#include "core_helpers.h"

static const char *const symbols[] = {"a", "b", "unbound"};
static const char *const tensors[] = {"x", "cu_seqlens_q", "seq_lens", "gate.weight"};

static int index_of(const char *const *names, int n, const char *name) {
  for (int i = 0; i < n; i++)
    if (strcmp(names[i], name) == 0) return i;
  return -1;
}
static int find_symbol(const void *self, const char *name) {
  (void)self;
  return index_of(symbols, 3, name);
}
static int find_tensor(const void *self, const char *name) {
  (void)self;
  return index_of(tensors, 4, name);
}

static fk_arena arena;
static const fk_expr_scope scope = {find_symbol, find_tensor, NULL};

static int set_up(void **state) {
  (void)state;
  fk_arena_init(&arena, &fk_host_memory, 0);
  return 0;
}
static int tear_down(void **state) {
  (void)state;
  fk_arena_destroy(&arena);
  return 0;
}

static fk_status evaluate(const char *text, const fk_any *args, int64_t *value) {
  static const int64_t values[] = {7, -3, FK_UNBOUND};
  const fk_expr *e;
  FK_TRY(fk_expr_parse(&arena, text, &scope, &e));
  return fk_expr_eval(e, values, args, value);
}

static void expect_result(const char *text, int64_t expected) {
  int64_t value = 0;
  assert_ok(evaluate(text, NULL, &value));
  if (value != expected) fail_msg("%s: expected %lld, got %lld", text, (long long)expected, (long long)value);
}

static void test_values(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int64_t value;
  } rows[] = {
      {"1 + 2 * 3", 7},
      {"(1 + 2) * 3", 9},
      {"10 - 4 - 3", 3},
      {"100 / 5 / 2", 10},
      {"2 * 7 % 4", 2},
      {"-a + 1", -6},
      {"--a", 7},
      {"!0 + !5", 1},
      {"!a == 0", 1},
      {"-7 / 2", -4},
      {"7 / -2", -4},
      {"-7 % 2", 1},
      {"7 % -2", -1},
      {"ceil_div(7, 2)", 4},
      {"ceil_div(-7, 2)", -3},
      {"ceil_div(8, 2)", 4},
      {"min(a, b)", -3},
      {"max(a, b) * 2", 14},
      {"min(1, max(2, 3))", 1},
      {"1 + 1 == 2", 1},
      {"1 < 2 && 2 <= 2", 1},
      {"3 > 4 || 3 >= 3", 1},
      {"1 || 0 && 0", 1},
      {"(1 || 0) && 0", 0},
      {"a != b", 1},
      {"0 != 0", 0},
      {"  a  +\tb\n", 4},
      {"2 - -2", 4},
      {"9223372036854775807", INT64_MAX},
      {"1 == 1 && !(2 < 1)", 1},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) expect_result(rows[i].text, rows[i].value);
}

static void test_syntax_errors(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } rows[] = {
      {"", "column 1: expected a number, a name or '('"},
      {"1 +", "column 4: expected a number"},
      {"(1", "column 3: expected ')'"},
      {"1 2", "column 3: unexpected text"},
      {"1 < 2 < 3", "unexpected text"},
      {"a = b", "unexpected text"},
      {"nothing + 1", "column 1: no axis or integer attribute has this name"},
      {"1 + foo(2)", "no such function (min, max"},
      {"min(1)", "expected ','"},
      {"min(1, 2", "expected ')'"},
      {"present(1)", "expected the name of a tensor"},
      {"present(a)", "no tensor argument has this name"},
      {"pairs(cu_seqlens_q)", "expected ','"},
      {"sum(x, x)", "expected ')'"},
      {"9223372036854775808", "too large"},
      {"1 + $", "expected a number"},
      {"((((((((((((((((((((((((((((((1))))))))))))))))))))))))))))))", "too deeply nested"},
      {"------------------------------------------------------------1", "too deeply nested"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const fk_expr *e = (const fk_expr *)1;
    assert_fails(fk_expr_parse(&arena, rows[i].text, &scope, &e), FK_ERROR_FORMAT, rows[i].message);
    assert_null(e);
  }
}

static void test_too_long(void **state) {
  (void)state;
  char text[1024] = "1";
  for (int i = 0; i < 100; i++) strcat(text, "+1");
  const fk_expr *e;
  assert_fails(fk_expr_parse(&arena, text, &scope, &e), FK_ERROR_FORMAT, "too long");
}

static void test_arithmetic_errors(void **state) {
  (void)state;
  static const char *const texts[] = {"9223372036854775807 + 1",
                                      "-9223372036854775807 - 2",
                                      "9223372036854775807 * 2",
                                      "1 / 0",
                                      "1 % (a - 7)",
                                      "ceil_div(1, 0)",
                                      "-(0 - 9223372036854775807 - 1)",
                                      "(0 - 9223372036854775807 - 1) / -1"};
  int64_t value;
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    assert_fails(evaluate(texts[i], NULL, &value), FK_ERROR_ARGUMENT, "overflow");
  assert_fails(evaluate("a + unbound", NULL, &value), FK_ERROR_ARGUMENT, "no value");
}

static void test_tensor_functions(void **state) {
  (void)state;
  int32_t offsets[] = {0, 3, 4, 9};
  int64_t lengths[] = {5, 1, 5};
  test_tensor cu, lens, wide;
  double storage[4] = {0};
  fk_any args[4] = {fk_any_tensor(TENSOR(&wide, storage, FK_F64, 4)), fk_any_tensor(TENSOR(&cu, offsets, FK_I32, 4)),
                    fk_any_tensor(TENSOR(&lens, lengths, FK_I64, 3)), fk_any_none(NULL)};
  int64_t value;
  static const struct {
    const char *text;
    int64_t value;
  } rows[] = {{"sum(seq_lens)", 11},
              {"largest(seq_lens)", 5},
              /* 3 queries on 5 keys: 3 + 4 + 5; 1 on 1: 1; 5 on 5: 15 */
              {"pairs(cu_seqlens_q, seq_lens)", 28},
              {"cross(cu_seqlens_q, seq_lens)", 3 * 5 + 1 + 25},
              {"pairs(cu_seqlens_q, cu_seqlens_q)", 6 + 1 + 15},
              {"present(x) + present(gate.weight)", 1},
              {"itemsize(x)", 8},
              {"itemsize(gate.weight) + sum(gate.weight)", 0}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    assert_ok(evaluate(rows[i].text, args, &value));
    if (value != rows[i].value) fail_msg("%s is %lld", rows[i].text, (long long)value);
  }
  assert_fails(evaluate("sum(x)", args, &value), FK_ERROR_ARGUMENT, "no data on the host");
  assert_fails(evaluate("pairs(seq_lens, seq_lens)", (fk_any[]){{0}, {0}, args[2], {0}}, &value), FK_ERROR_ARGUMENT,
               "negative length"); /* 5, 1, 5 as offsets go down */
  assert_fails(evaluate("present(x)", NULL, &value), FK_ERROR_ARGUMENT, "there are none here");
  lens.t.data = NULL;
  assert_fails(evaluate("sum(seq_lens)", args, &value), FK_ERROR_ARGUMENT, "no data on the host");
  lens.t.data = lengths;
  lengths[0] = lengths[1] = INT64_MAX;
  assert_fails(evaluate("sum(seq_lens)", args, &value), FK_ERROR_ARGUMENT, "overflow");
  assert_fails(evaluate("pairs(cu_seqlens_q, seq_lens)", args, &value), FK_ERROR_ARGUMENT, "negative length");
  lens.shape[0] = 1;
  assert_fails(evaluate("pairs(cu_seqlens_q, seq_lens)", args, &value), FK_ERROR_ARGUMENT, "n + 1 offsets");
}

static void test_strided_tensor(void **state) {
  (void)state;
  int32_t data[] = {1, 100, 2, 100, 3, 100};
  test_tensor t;
  TENSOR(&t, data, FK_I32, 3);
  t.strides[0] = 2;
  fk_any args[4] = {[2] = fk_any_tensor(&t.t)};
  int64_t value;
  assert_ok(evaluate("sum(seq_lens)", args, &value));
  assert_int_equal(value, 6);
}

static void test_questions(void **state) {
  (void)state;
  const fk_expr *e;
  const int64_t bound[] = {1, 2, 3}, partly[] = {1, FK_UNBOUND, 3};
  assert_ok(fk_expr_parse(&arena, "b", &scope, &e));
  assert_int_equal(fk_expr_as_symbol(e), 1);
  assert_string_equal(fk_expr_text(e), "b");
  assert_true(fk_expr_is_bound(e, bound));
  assert_false(fk_expr_is_bound(e, partly));
  assert_false(fk_expr_reads_data(e));
  assert_ok(fk_expr_parse(&arena, "b + 0", &scope, &e));
  assert_int_equal(fk_expr_as_symbol(e), -1);
  assert_ok(fk_expr_parse(&arena, "present(x)", &scope, &e));
  assert_true(fk_expr_uses_tensors(e));
  assert_false(fk_expr_reads_data(e));
  assert_ok(fk_expr_parse(&arena, "largest(x)", &scope, &e));
  assert_true(fk_expr_reads_data(e));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_values),           cmocka_unit_test(test_syntax_errors),
      cmocka_unit_test(test_too_long),         cmocka_unit_test(test_arithmetic_errors),
      cmocka_unit_test(test_tensor_functions), cmocka_unit_test(test_strided_tensor),
      cmocka_unit_test(test_questions),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
