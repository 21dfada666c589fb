/* Cases and synthesis: what a case may say, and that content has the meaning that its kind promises. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* cmocka.h needs the headers above. */
#include <cmocka.h>

#include "core/convert.h"
#include "judge/random.h"
#include "unit/task_sweep.h"

/* One tensor of every kind of values. */
static const char definition[] =
    "{\"name\": \"every_kind\", \"level\": 1, \"family\": \"test\", \"summary\": \"Nothing.\", \"mirrors\": "
    "[{\"library\": \"none\", \"symbol\": \"none\", \"arguments\": [\"x\"]}],"
    "\"axes\": {\"tokens\": \"var\", \"seqs\": \"var\", \"blocks\": \"var\", \"width\": \"const\", \"per_seq\": "
    "\"var\"},"
    "\"inputs\": {"
    "\"x\": {\"shape\": [\"tokens...\", \"width\"], \"dtype\": [\"float32\", \"bfloat16\", \"float16\"], \"doc\": "
    "\"d\"},"
    "\"cu\": {\"shape\": [\"seqs + 1\"], \"dtype\": \"int32\", \"values\": {\"kind\": \"cu_seqlens\", \"total\": "
    "\"tokens\"}, \"doc\": \"d\"},"
    "\"lens\": {\"shape\": [\"seqs\"], \"dtype\": \"int32\", \"values\": {\"kind\": \"seq_lens\", \"max\": \"per_seq * "
    "4\", \"cu_seqlens_q\": \"cu\"}, \"doc\": \"d\"},"
    "\"table\": {\"shape\": [\"seqs\", \"per_seq\"], \"dtype\": \"int32\", \"values\": {\"kind\": \"block_table\", "
    "\"below\": \"blocks\"}, \"doc\": \"d\"},"
    "\"slots\": {\"shape\": [\"tokens\"], \"dtype\": \"int64\", \"values\": {\"kind\": \"slot_mapping\", \"below\": "
    "\"blocks * 4\"}, \"doc\": \"d\"},"
    "\"experts\": {\"shape\": [\"tokens\", 3], \"dtype\": \"int32\", \"values\": {\"kind\": \"index\", \"below\": "
    "\"5\", \"unique\": true}, \"doc\": \"d\"},"
    "\"table_cos\": {\"shape\": [\"tokens\", \"width\"], \"dtype\": \"float32\", \"values\": {\"kind\": \"cos_sin\"}, "
    "\"doc\": \"d\"},"
    "\"bias\": {\"shape\": [\"width\"], \"dtype\": \"x\", \"optional\": true, \"doc\": \"d\"}},"
    "\"weights\": {\"w\": {\"shape\": [\"width\", \"width\"], \"dtype\": \"x\", \"doc\": \"d\"}},"
    "\"attributes\": {\"epsilon\": {\"type\": \"float\", \"default\": 0.5, \"min\": 0, \"max\": 1, \"doc\": \"d\"}},"
    "\"outputs\": {\"out\": {\"shape\": [\"tokens...\", \"width\"], \"dtype\": \"x\", \"may_alias\": [\"x\"], \"doc\": "
    "\"d\"}},"
    "\"flops\": \"0\", \"tolerance\": \"elementwise\"}";

static fk_arena arena;
static fk_task *task;

static fk_status parse(const char *text, fk_case **c) {
  json_error_t error;
  json_t *json = json_loads(text, 0, &error);
  if (!json) fail_msg("%s: %s", text, error.text);
  fk_status status = fk_case_parse(&arena, task, json, "test", c);
  json_decref(json);
  return status;
}

typedef struct filled {
  fk_plan plan;
  fk_frame frame;
  char *base;
} filled;

static void fill(filled *f, const char *text, uint64_t seed, int variant) {
  fk_case *c;
  if (parse(text, &c) != FK_OK) fail_msg("%s", fk_last_error());
  fk_case_use_variant(c, variant);
  if (fk_plan_make(c, &f->plan) != FK_OK) fail_msg("%s", fk_last_error());
  f->base = sweep_buffer(&f->plan);
  if (fk_plan_fill(&f->plan, f->base, seed) != FK_OK) fail_msg("%s", fk_last_error());
  fk_plan_frame(&f->plan, f->base, &f->frame);
}

static int64_t at(const filled *f, const char *name, int64_t i) {
  const fk_tensor *t = &f->frame.tensors[fk_task_arg(task, name)];
  return fk_load_i64(fk_type_of(t), fk_data(t), i);
}

#define AXES "\"axes\": {\"tokens\": 40, \"seqs\": 6, \"blocks\": 64, \"width\": 8, \"per_seq\": 10}"
#define AXES_AND(more) "{" AXES ", " more "}"
/* 2^62 tokens of 8 columns: more elements than 64 bits count. */
#define HUGE_AXES \
  "{\"axes\": {\"tokens\": 4611686018427387904, \"seqs\": 1, \"blocks\": 1, \"width\": 8, \"per_seq\": 1}}"

static void test_bad_cases_name_the_key(void **state) {
  (void)state;
  static const char *const bad[][2] = {{"{}", "axes"},
                                       {"{\"axes\": {\"token\": 1}}", "\"token\""},
                                       {"{\"axes\": {\"tokens\": -1}}", "axes.tokens"},
                                       {"{\"axes\": {\"seqs\": [1, 2]}}", "axes.seqs"},
                                       {"{" AXES ", \"dtype\": {}}", "\"dtype\""},
                                       {"{" AXES ", \"dtypes\": {\"x\": \"int8\"}}", "dtypes.x"},
                                       {"{" AXES ", \"dtypes\": {\"out\": \"float16\"}}", "dtypes.out"},
                                       {"{" AXES ", \"absent\": [\"x\"]}", "not optional"},
                                       {"{" AXES ", \"alias\": {\"out\": \"w\"}}", "alias.out"},
                                       {"{" AXES ", \"special\": \"odd\"}", "special"},
                                       {"{" AXES ", \"values\": {\"lens\": [\"a\"]}}", "values.lens[0]"},
                                       {"{" AXES ", \"attributes\": {\"epsilon\": 2}}", "attributes.epsilon"},
                                       {"{" AXES ", \"attributes\": {\"eps\": 1}}", "\"eps\""},
                                       {"{" AXES ", \"layout\": \"paged\"}", "layout"},
                                       {"{" AXES ", \"count\": 0}", "count"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    fk_case *c = (fk_case *)&arena;
    if (parse(bad[i][0], &c) == FK_OK || c || !strstr(fk_last_error(), bad[i][1]) || !strstr(fk_last_error(), "test"))
      fail_msg("%s: expected an error with %s, got: %s", bad[i][0], bad[i][1], fk_last_error());
  }
}

static void test_shapes_that_do_not_follow_are_errors(void **state) {
  (void)state;
  static const char *const bad[] = {
      "{\"axes\": {\"tokens\": 4}}",
      AXES_AND("\"values\": {\"lens\": [1, 2]}"),
      AXES_AND("\"strides\": {\"x\": [1]}"),
      AXES_AND("\"strided\": [\"lens\"]"),
      HUGE_AXES,
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    fk_case *c;
    fk_plan plan;
    assert_int_equal(parse(bad[i], &c), FK_OK);
    assert_int_equal(fk_plan_make(c, &plan), FK_ERROR_ARGUMENT);
  }
}

static void test_integers_have_their_meaning(void **state) {
  (void)state;
  static filled f;
  for (uint64_t seed = 0; seed < 20; seed++) {
    fill(&f, "{" AXES "}", seed, 0);
    bool block[64] = {false}, slot[256] = {false};
    assert_int_equal(at(&f, "cu", 0), 0);
    assert_int_equal(at(&f, "cu", 6), 40);
    for (int b = 0; b < 6; b++) {
      int64_t query = at(&f, "cu", b + 1) - at(&f, "cu", b), length = at(&f, "lens", b);
      assert_true(query >= 1 && length >= query && length <= 40);
    }
    for (int i = 0; i < 60; i++) {
      int64_t v = at(&f, "table", i);
      assert_true(v >= 0 && v < 64 && !block[v]);
      block[v] = true;
    }
    for (int i = 0; i < 40; i++) {
      int64_t v = at(&f, "slots", i);
      assert_true(v >= -1 && v < 256 && (v < 0 || !slot[v]));
      if (v >= 0) slot[v] = true;
      int64_t a = at(&f, "experts", 3 * i), b = at(&f, "experts", 3 * i + 1), c = at(&f, "experts", 3 * i + 2);
      assert_true(a != b && b != c && a != c && a >= 0 && a < 5 && b >= 0 && b < 5 && c >= 0 && c < 5);
    }
    free(f.base);
  }
}

static void test_floats_are_the_same_in_every_dtype(void **state) {
  (void)state;
  static filled wide, narrow;
  fill(&wide, "{" AXES "}", 3, 0);
  fill(&narrow, "{" AXES ", \"strided\": [\"x\"]}", 3, 1);
  const fk_tensor *a = &wide.frame.tensors[0], *b = &narrow.frame.tensors[0];
  double sum = 0, squares = 0;
  assert_true(fk_type_of(a) == FK_F32 && fk_type_of(b) == FK_BF16);
  for (int64_t i = 0; i < 320; i++) {
    double v = fk_load_f64(FK_F32, fk_data(a), i);
    double w = fk_load_f64(FK_BF16, fk_data(b), i / 8 * fk_stride(b, 0) + i % 8);
    assert_true(fabs(v - w) <= 0x1p-8 * fabs(v));
    sum += v, squares += v * v;
  }
  assert_true(fabs(sum / 320) < 0.25 && fabs(squares / 320 - 1) < 0.3);
  free(wide.base);
  free(narrow.base);
}

static void test_guards_and_poison_tell(void **state) {
  (void)state;
  static filled f;
  uint64_t guards[FK_MAX_ARGS];
  fill(&f, "{" AXES ", \"strided\": [\"out\"]}", 5, 0);
  int out = fk_task_arg(task, "out");
  fk_tensor *t = &f.frame.tensors[out];
  float *data = fk_data(t);
  fk_plan_guards(&f.plan, f.base, guards);
  assert_int_equal(fk_plan_unwritten(&f.plan, f.base, out, 5), 320);
  for (int64_t i = 0; i < 320; i++) data[i / 8 * fk_stride(t, 0) + i % 8] = 1;
  assert_int_equal(fk_plan_unwritten(&f.plan, f.base, out, 5), 0);
  assert_int_equal(fk_plan_check_guards(&f.plan, f.base, guards), FK_OK);
  float kept = data[8];
  data[8] = 1; /* between two rows */
  assert_int_equal(fk_plan_check_guards(&f.plan, f.base, guards), FK_ERROR_KERNEL);
  data[8] = kept;
  ((unsigned char *)data)[-1] ^= 1; /* before the first */
  assert_int_equal(fk_plan_check_guards(&f.plan, f.base, guards), FK_ERROR_KERNEL);
  free(f.base);
}

static void test_permutation_is_one(void **state) {
  (void)state;
  static bool seen[1000];
  for (uint64_t below = 1; below <= 1000; below += 37) {
    memset(seen, 0, sizeof seen);
    for (uint64_t i = 0; i < below; i++) {
      uint64_t v = fk_permute(12345, i, below);
      assert_true(v < below && !seen[v]);
      seen[v] = true;
    }
  }
}

static int setup(void **state) {
  (void)state;
  fk_arena_init(&arena, &fk_host_memory, 0);
  if (fk_task_parse(&arena, definition, sizeof definition - 1, "test", &task) == FK_OK) return 0;
  fprintf(stderr, "%s\n", fk_last_error());
  return -1;
}

static int teardown(void **state) {
  (void)state;
  fk_arena_destroy(&arena);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bad_cases_name_the_key),      cmocka_unit_test(test_shapes_that_do_not_follow_are_errors),
      cmocka_unit_test(test_integers_have_their_meaning), cmocka_unit_test(test_floats_are_the_same_in_every_dtype),
      cmocka_unit_test(test_guards_and_poison_tell),      cmocka_unit_test(test_permutation_is_one)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
