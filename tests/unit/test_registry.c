/* The registry: every built-in definition parses, is found by name, and has something that computes it. */
#include <stdlib.h>

#include "core_helpers.h"

static void test_every_task(void **state) {
  (void)state;
  int count;
  const fk_task *const *tasks = fk_tasks(&count);
  if (!tasks) fail_msg("%s", fk_last_error());
  assert_true(count > 0);
  for (int i = 0; i < count; i++) {
    const fk_task *t = tasks[i];
    assert_ptr_equal(fk_task_find(t->name), t);
    if (i) assert_true(strcmp(tasks[i - 1]->name, t->name) < 0);
    const fk_task_entry *e = fk_task_entry_of(t);
    if (!e->ref && !e->compose) fail_msg("%s has no reference", t->name);
    assert_string_equal(e->json, t->json);
  }
}

static void test_isa(void **state) {
  (void)state;
  int best = fk_cpu_isa();
  assert_true(best >= 0 && best <= 2);
  setenv("FASTKERNELS_ISA", "baseline", 1);
  assert_int_equal(fk_cpu_isa(), 0);
  setenv("FASTKERNELS_ISA", "avx2", 1);
  assert_int_equal(fk_cpu_isa(), best < 1 ? best : 1);
  setenv("FASTKERNELS_ISA", "nonsense", 1);
  assert_int_equal(fk_cpu_isa(), best);
  unsetenv("FASTKERNELS_ISA");
  assert_string_equal(fk_cpu_isa_name(2), "avx512");
}

static void test_dtypes(void **state) {
  (void)state;
  static const char *const names[][2] = {{"float32", "F32"},
                                         {"bfloat16", "BF16"},
                                         {"float16", "F16"},
                                         {"float64", "F64"},
                                         {"int8", "I8"},
                                         {"int16", "I16"},
                                         {"int32", "I32"},
                                         {"int64", "I64"},
                                         {"uint8", "U8"},
                                         {"bool", "BOOL"},
                                         {"float8_e4m3fn", "F8_E4M3"}};
  uint32_t seen = 0;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    fk_type a = (fk_type)0, b = (fk_type)0;
    assert_true(fk_type_parse(names[i][0], &a) && fk_type_parse(names[i][1], &b));
    assert_int_equal(a, b);
    assert_string_equal(fk_type_name(a), names[i][0]);
    assert_int_equal(seen & fk_type_bit(a), 0);
    seen |= fk_type_bit(a);
    assert_false(fk_type_is_float(a) && fk_type_is_int(a));
  }
  fk_type unused;
  assert_false(fk_type_parse("float", &unused));
  assert_false(fk_type_parse(NULL, &unused));
  assert_string_equal(fk_type_name((fk_type)77), "?");
  assert_int_equal(fk_type_bytes(FK_F4_E2M1, 3), 2);
  assert_int_equal(fk_type_bytes(FK_BF16, 3), 6);
  assert_int_equal(fk_type_bytes(FK_F32, -3), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_task),
      cmocka_unit_test(test_isa),
      cmocka_unit_test(test_dtypes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
