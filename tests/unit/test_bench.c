/* The judge from outside: the real program on small cases; every kind of candidate gets its verdict and exit status. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* cmocka.h needs the headers above. */
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM FK_BUILD_DIR "/fastkernels"
#define EXAMPLES FK_SOURCE_DIR "/examples/candidates/"

/* AddressSanitizer catches the signal and exits. */
#ifdef __SANITIZE_ADDRESS__
#define CRASH_REASON "exited"
#else
#define CRASH_REASON "Segmentation"
#endif

static char folder[] = "/tmp/fastkernels-bench-XXXXXX", record[128];

/* Runs bench and reads its record; the exit status. */
static int bench(const char *arguments, json_t **json) {
  char command[4096];
  unlink(record);
  snprintf(command, sizeof command,
           "%s bench --no-ceilings --threads 2 --budget 200 --timeout 2 --output %s %s >%s/out 2>&1", PROGRAM, record,
           arguments, folder);
  int status = system(command);
  *json = json_load_file(record, 0, NULL);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const json_t *first_row(const json_t *json) {
  return json_array_get(json_object_get(json, "rows"), 0);
}

static const json_t *first_case(const json_t *json) {
  return json_array_get(json_object_get(first_row(json), "cases"), 0);
}

static const char *text_of(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text ? text : "";
}

#define ONE_CASE " --include " FK_SOURCE_DIR "/include --cases '{\"axes\": {\"rows\": 7, \"hidden_size\": 192}}' "

static void expect(const char *candidate, const char *verdict, const char *reason, int status) {
  json_t *json;
  char arguments[1024];
  snprintf(arguments, sizeof arguments, ONE_CASE "--candidate %s", candidate);
  int got = bench(arguments, &json);
  const json_t *result = first_case(json);
  if (strcmp(text_of(result, "verdict"), verdict) != 0 || !strstr(text_of(result, "reason"), reason) || got != status)
    fail_msg("%s: expected %s (%s) and status %d, got %s (%s) and %d", candidate, verdict, reason, status,
             text_of(result, "verdict"), text_of(result, "reason"), got);
  assert_true(json_is_false(json_object_get(first_row(json), "failed")) == (status == 0));
  if (status != 0) assert_true(json_number_value(json_object_get(json, "overall")) == 1);
  json_decref(json);
}

static void test_honest_candidates_pass(void **state) {
  (void)state;
  json_t *json;
  /* Whether it is faster depends on the machine's load; that it passes does not. */
  assert_int_equal(bench(ONE_CASE "--candidate " EXAMPLES "rms_norm_fast.c", &json), 0);
  const json_t *result = first_case(json);
  assert_true(json_array_size(json_object_get(result, "samples")) >= 5);
  assert_true(json_integer_value(json_object_get(result, "audits_against_oracle")) >= 4);
  assert_int_equal(json_integer_value(json_object_get(result, "elements")), 7 * 192);
  assert_true(json_number_value(json_object_get(result, "speedup")) > 0);
  json_decref(json);
  expect(EXAMPLES "rms_norm_slow.c", "SLOWER", "", 0);
}

static void test_bad_candidates_fail(void **state) {
  (void)state;
  expect(EXAMPLES "rms_norm_wrong.c", "WRONG", "192 elements were not written", 1);
  expect(EXAMPLES "rms_norm_biased.c", "WRONG", "relative RMS error", 1);
  expect(EXAMPLES "rms_norm_nothing.c", "WRONG", "not written", 1);
  expect(EXAMPLES "rms_norm_crash.c", "CRASHED", CRASH_REASON, 1);
  expect(EXAMPLES "rms_norm_hang.c", "TIMEOUT", "no answer", 1);
}

/* Writes a candidate whose body is given. */
static void write_candidate(const char *name, const char *top, const char *body, char *path, size_t size) {
  snprintf(path, size, "%s/%s", folder, name);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fprintf(f,
          "#include \"fastkernels/abi.h\"\n%s\nFK_EXPORT(rms_norm) {\n  (void)self, (void)args, (void)num_args, "
          "(void)result;\n%s\n  return 0;\n}\n",
          top, body);
  fclose(f);
}

/* A candidate refused before it is loaded: the row says why and has no case. */
static void expect_refused(const char *path, const char *reason) {
  json_t *json;
  char arguments[1024];
  snprintf(arguments, sizeof arguments, ONE_CASE "--task rms_norm --candidate %s", path);
  int status = bench(arguments, &json);
  if (status != 1 || !strstr(text_of(first_row(json), "reason"), reason))
    fail_msg("%s: expected a refusal (%s), got %s and status %d", path, reason, text_of(first_row(json), "reason"),
             status);
  json_decref(json);
  unlink(path);
}

static void test_unsafe_and_broken_files_are_refused(void **state) {
  (void)state;
  char path[256];
  write_candidate("unsafe.c", "#include <stdlib.h>", "  return system(\"true\");", path, sizeof path);
  expect_refused(path, "imports system");
  write_candidate("broken.c", "", "  return nonsense;", path, sizeof path);
  expect_refused(path, "does not compile");
  snprintf(path, sizeof path, "%s/garbage.so", folder);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs("\177ELF\002\001\001 this is no shared object, though it starts like one ................................", f);
  fclose(f);
  expect_refused(path, "not a 64-bit shared object");
  snprintf(path, sizeof path, "%s/empty.so", folder);
  f = fopen(path, "w");
  assert_non_null(f);
  fclose(f);
  expect_refused(path, "not an ELF file");
}

/* Attacks that no import gives away. */
static void test_cheats_are_caught(void **state) {
  (void)state;
  char path[256];
  /* A raw system call: fork, 57 on x86-64. */
#if defined(__x86_64__)
  write_candidate("fork.c", "",
                  "  long rc; __asm__ volatile(\"syscall\" : \"=a\"(rc) : \"a\"(57) : \"rcx\", \"r11\", \"memory\");",
                  path, sizeof path);
  expect(path, "REFUSED", "system call", 1);
  unlink(path);
#endif
  /* Writes past the end of its output. */
  write_candidate("overrun.c", "",
                  "  const fk_tensor *out = fk_arg_tensor(&args[3]);\n"
                  "  ((volatile float *)fk_data(out))[fk_numel(out)] = 0;",
                  path, sizeof path);
  expect(path, "WRONG", "memory outside the tensor's elements", 1);
  unlink(path);
  /* Changes its input, so that the answer it gives looks right. */
  write_candidate(
      "input.c", "#include <string.h>",
      "  const fk_tensor *x = fk_arg_tensor(&args[0]), *out = fk_arg_tensor(&args[3]);\n"
      "  memset(fk_data(x), 0, (size_t)fk_numel(x) * 4), memset(fk_data(out), 0, (size_t)fk_numel(out) * 4);",
      path, sizeof path);
  expect(path, "WRONG", "was modified", 1);
  unlink(path);
  /* Answers from memory: right once, then the same again. */
  write_candidate(
      "memo.c", "#include <math.h>\n#include <string.h>\nstatic float kept[1 << 16];\nstatic int calls;",
      "  const fk_tensor *x = fk_arg_tensor(&args[0]), *w = fk_arg_tensor(&args[1]), *o = fk_arg_tensor(&args[3]);\n"
      "  const float *in = fk_data(x), *g = fk_data(w);\n"
      "  int64_t n = x->shape[1];\n"
      "  for (int64_t r = 0; calls == 0 && r < x->shape[0]; r++) {\n"
      "    double s = 0;\n"
      "    for (int64_t i = 0; i < n; i++) s += (double)in[r * n + i] * in[r * n + i];\n"
      "    s = 1 / sqrt(s / (double)n + fk_arg_float(&args[2]));\n"
      "    for (int64_t i = 0; i < n; i++) kept[r * n + i] = (float)(in[r * n + i] * s * g[i]);\n"
      "  }\n"
      "  calls++;\n"
      "  memcpy(fk_data(o), kept, (size_t)fk_numel(o) * 4);",
      path, sizeof path);
  expect(path, "WRONG", "relative RMS error", 1);
  unlink(path);
}

static void test_baseline_alone(void **state) {
  (void)state;
  json_t *json;
  assert_int_equal(bench("--task rms_norm" ONE_CASE, &json), 0);
  assert_string_equal(text_of(first_case(json), "verdict"), "BASELINE");
  assert_true(json_number_value(json_object_get(first_case(json), "gigabytes_per_second")) > 0);
  assert_true(json_number_value(json_object_get(first_case(json), "bytes")) == 2 * 7 * 192 * 4 + 192 * 4);
  json_decref(json);
}

static void test_runs_that_judge_nothing_are_errors(void **state) {
  (void)state;
  static const char *const lines[] = {
      "",
      "--task rms_norm",
      "--cases '{\"axes\": {\"rows\": 1, \"hidden_size\": 8}}'",
      "--task rms_norm --cases '{\"cases\": []}'",
      "--task rms_norm --cases '{\"axes\": {\"rows\": 0, \"hidden_size\": 8}}'",
      "--task rms_norm --cases '{\"axes\": {\"row\": 4, \"hidden_size\": 8}}'",
      "--task rms_norm --cases '{\"axes\": {\"rows\": 4}}'",
      "--task rms_norm --level 2 --cases '{\"axes\": {\"rows\": 4, \"hidden_size\": 8}}'",
      "--task rms_norm --dtype int8 --cases '{\"axes\": {\"rows\": 4, \"hidden_size\": 8}}'",
      "--task rms_norm --rounds 2 --cases '{\"axes\": {\"rows\": 4, \"hidden_size\": 8}}'",
      "--task no_such_task --cases '{\"axes\": {}}'",
      "--captures /nonexistent.json",
      "--candidate /nonexistent.so --task rms_norm" ONE_CASE,
      "--cases '{\"format\": \"fastkernels-capture/2\", \"tasks\": {}}'",
      "--candidate " EXAMPLES
      "rms_norm_fast.c --cases '{\"format\": \"fastkernels-capture/1\", \"tasks\": {\"silu_and_mul\": {\"cases\": "
      "[{\"axes\": {\"rows\": 2, \"intermediate_size\": 8}}]}}}'"};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    json_t *json;
    int status = bench(lines[i], &json);
    if (status != 2 || json) fail_msg("bench %s: expected status 2 and no record, got %d", lines[i], status);
  }
}

static void test_capture_weighs_cases(void **state) {
  (void)state;
  json_t *json;
  char path[256], arguments[1024];
  snprintf(path, sizeof path, "%s/capture.json", folder);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(
      "{\"format\": \"fastkernels-capture/1\", \"model\": \"m\", \"workload\": \"w\", \"device\": \"meta\", \"tasks\": "
      "{"
      "\"rms_norm\": {\"level\": 1, \"calls\": 12, \"cases\": ["
      "{\"axes\": {\"rows\": 1, \"hidden_size\": 64}, \"dtypes\": {\"x\": \"bfloat16\"}, \"count\": 2},"
      "{\"axes\": {\"rows\": 3, \"hidden_size\": 64}, \"count\": 9, \"stats\": {\"x\": {\"mean\": 1, \"std\": 0.5, "
      "\"min\": -1, \"max\": 3}}},"
      "{\"axes\": {\"rows\": 2, \"hidden_size\": 64}, \"count\": 1}]}}}",
      f);
  fclose(f);
  snprintf(arguments, sizeof arguments,
           "--captures %s --max-cases 2 --include " FK_SOURCE_DIR "/include --candidate " EXAMPLES "rms_norm_fast.c",
           path);
  assert_int_equal(bench(arguments, &json), 0);
  const json_t *row = first_row(json);
  assert_int_equal(json_array_size(json_object_get(row, "cases")), 2);
  assert_int_equal(json_integer_value(json_object_get(row, "calls_covered")), 11);
  assert_int_equal(json_integer_value(json_object_get(row, "calls_in_source")), 12);
  json_decref(json);
  unlink(path);
}

static int setup(void **state) {
  (void)state;
  if (access(PROGRAM, X_OK) != 0 || !mkdtemp(folder)) {
    fprintf(stderr, "%s is missing: build the target fastkernels first\n", PROGRAM);
    return -1;
  }
  snprintf(record, sizeof record, "%s/record.json", folder);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  char path[160];
  unlink(record);
  snprintf(path, sizeof path, "%s/out", folder);
  unlink(path);
  return rmdir(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_honest_candidates_pass),
                                     cmocka_unit_test(test_bad_candidates_fail),
                                     cmocka_unit_test(test_unsafe_and_broken_files_are_refused),
                                     cmocka_unit_test(test_cheats_are_caught),
                                     cmocka_unit_test(test_baseline_alone),
                                     cmocka_unit_test(test_runs_that_judge_nothing_are_errors),
                                     cmocka_unit_test(test_capture_weighs_cases)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
