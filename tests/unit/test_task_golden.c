/* The oracle against independent formulas: ref must reproduce every golden.safetensors (tests/golden/make_tasks.py)
 * to 1e-12, and every folder with a golden.py must have its file. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* cmocka.h needs the headers above. */
#include <cmocka.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>

#include "core/context.h"
#include "core/convert.h"
#include "io/safetensors.h"

static int failures, compared;

static const fk_stored *find(const fk_safetensors *file, int number, const char *name, const char *suffix) {
  char key[256];
  snprintf(key, sizeof key, "%d.%s%s", number, name, suffix);
  return fk_safetensors_find(file, key);
}

/* Double and int64 where ref takes them, else what the file holds. */
static fk_type wide_type(const fk_task *task, const fk_arg *arg, const fk_stored *stored) {
  while (arg->same_dtype_as >= 0) arg = &task->args[arg->same_dtype_as];
  if (stored->type == FK_BOOL) return FK_BOOL;
  if (fk_type_is_float(stored->type)) return FK_F64;
  uint32_t ints = fk_type_bit(FK_I64) | fk_type_bit(FK_I32) | fk_type_bit(FK_U8) | fk_type_bit(FK_I8);
  return arg->dtypes & ints ? FK_I64 : FK_I16;
}

static fk_tensor *load(fk_context *ctx, const fk_task *task, const fk_arg *arg, const fk_stored *stored) {
  fk_tensor *t = fk_empty_shape(ctx, wide_type(task, arg, stored), stored->shape, stored->ndim);
  assert_non_null(t);
  assert_int_equal(fk_safetensors_read(stored, fk_type_of(t), fk_data(t)), FK_OK);
  return t;
}

static void complain(const fk_task *task, int number, const char *text, const char *more) {
  fprintf(stderr, "%s: golden case %d: %s%s\n", task->name, number, text, more);
  failures++;
}

static void compare(const fk_task *task, int number, const char *name, const fk_tensor *got, const fk_tensor *want) {
  char text[256];
  int64_t n = fk_numel(want);
  double sum = 0;
  if (got->ndim != want->ndim || memcmp(got->shape, want->shape, (size_t)want->ndim * sizeof *want->shape) != 0) {
    complain(task, number, name, ": the expected tensor has another shape");
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    double v = fk_load_f64(fk_type_of(want), fk_data(want), i);
    if (isfinite(v)) sum += v * v;
  }
  double scale = n > 0 ? sqrt(sum / (double)n) : 0;
  bool exact = !fk_type_is_float(fk_type_of(want));
  for (int64_t i = 0; i < n; i++) {
    double a = fk_load_f64(fk_type_of(got), fk_data(got), i), b = fk_load_f64(fk_type_of(want), fk_data(want), i);
    bool same = a == b || (isnan(a) && isnan(b)) || (!exact && fabs(a - b) <= 1e-12 * (scale + fabs(b)));
    if (same) continue;
    snprintf(text, sizeof text, "%s[%lld]: got %.17g, expected ", name, (long long)i, a);
    char value[40];
    snprintf(value, sizeof value, "%.17g", b);
    complain(task, number, text, value);
    return;
  }
  compared++;
}

/* One case; false when the file has no such number. */
static bool run_case(fk_context *ctx, const fk_task *task, const fk_safetensors *file, int number) {
  fk_any args[FK_MAX_ARGS];
  bool found = false;
  for (int i = 0; i < task->num_args; i++) {
    const fk_arg *arg = &task->args[i];
    const fk_stored *stored = find(file, number, arg->name, "");
    found |= stored != NULL;
    args[i] = (fk_any){.type_index = FK_ANY_NONE};
    if (arg->role == FK_ATTRIBUTE) {
      double v = stored ? fk_load_f64(stored->type, stored->data, 0) : arg->default_value;
      args[i] = arg->type == FK_ATTR_FLOAT ? fk_any_float(v) : fk_any_int((int64_t)v);
    } else if (stored) {
      fk_tensor *t = load(ctx, task, arg, stored);
      /* An output starts as something else than what is expected. */
      if (arg->role == FK_OUTPUT && fk_numel(t) > 0)
        memset(fk_data(t), 0x7b, fk_type_bytes(fk_type_of(t), fk_numel(t)));
      args[i] = fk_any_tensor(t);
    }
  }
  if (!found) return false;
  if (fk_call_task(ctx, task, args, task->num_args) != FK_OK) {
    complain(task, number, "", fk_last_error());
    return true;
  }
  for (int i = 0; i < task->num_args; i++) {
    const fk_arg *arg = &task->args[i];
    if (!fk_arg_is_tensor(arg) || !fk_arg_is_written(arg) || args[i].type_index == FK_ANY_NONE) continue;
    const fk_stored *want = find(file, number, arg->name, arg->role == FK_OUTPUT ? "" : ".after");
    if (want) compare(task, number, arg->name, fk_arg_tensor(&args[i]), load(ctx, task, arg, want));
  }
  return true;
}

static void run_folder(fk_context *ctx, const char *golden_py) {
  char path[512];
  fk_safetensors *file;
  snprintf(path, sizeof path, "%.*s", (int)(strrchr(golden_py, '/') - golden_py), golden_py);
  const fk_task *task = fk_task_find(strrchr(path, '/') + 1);
  strncat(path, "/golden.safetensors", sizeof path - strlen(path) - 1);
  if (!task || fk_safetensors_open(path, &file) != FK_OK) {
    fprintf(stderr, "%s\n", fk_last_error());
    failures++;
    return;
  }
  int number = 0, before = compared;
  while (run_case(ctx, task, file, number)) {
    number++;
    fk_context_reset(ctx);
  }
  if (compared == before && failures == 0) complain(task, number, "nothing was compared", "");
  fk_safetensors_close(file);
}

static void test_golden_files(void **state) {
  (void)state;
  static const char *const patterns[] = {FK_SOURCE_DIR "/kernels/*/*/golden.py", FK_SOURCE_DIR "/blocks/*/*/golden.py"};
  fk_context *ctx;
  fk_context_options options = {.backend = FK_REF};
  assert_int_equal(fk_context_create(&options, &ctx), FK_OK);
  for (int p = 0; p < 2; p++) {
    glob_t found;
    if (glob(patterns[p], 0, NULL, &found) != 0) continue;
    for (size_t i = 0; i < found.gl_pathc; i++) run_folder(ctx, found.gl_pathv[i]);
    globfree(&found);
  }
  fk_context_destroy(ctx);
  assert_true(compared > 0);
  assert_int_equal(failures, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden_files)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
