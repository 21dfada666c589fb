/* Stubs: for every built-in task the generated C compiles without a warning, exports the task, names every argument,
 * and refuses a call by saying where the kernel belongs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* cmocka.h needs the headers above. */
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/registry.h"
#include "judge/elf.h"
#include "judge/stubs.h"

#define FLAGS " -Wall -Wextra -Werror -shared -fPIC -I " FK_SOURCE_DIR "/include "

static char folder[] = "/tmp/fastkernels-stubs-XXXXXX";

static void write_stub(const fk_task *task, bool cuda, char *path, size_t size) {
  snprintf(path, size, "%s/%s.%s", folder, task->name, cuda ? "cu" : "c");
  FILE *out = fopen(path, "w");
  assert_non_null(out);
  fk_stub_write(task, cuda, strrchr(path, '/') + 1, "include", out);
  assert_int_equal(fclose(out), 0);
}

static bool has(const char *program) {
  char command[128];
  snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", program);
  return system(command) == 0;
}

static int compile(const char *compiler, const char *flags, const char *path, const char *object) {
  char command[1024];
  snprintf(command, sizeof command, "%s%s%s -o %s", compiler, flags, path, object);
  int rc = system(command);
  if (rc != 0) fprintf(stderr, "failed: %s\n", command);
  return rc;
}

/* Every argument's name stands in the stub's comment. */
static void check_comment(const fk_task *task, const char *path) {
  static char text[65536];
  FILE *f = fopen(path, "r");
  assert_non_null(f);
  text[fread(text, 1, sizeof text - 1, f)] = '\0';
  fclose(f);
  for (int i = 0; i < task->num_args; i++) {
    char place[200];
    snprintf(place, sizeof place, "args[%d] %s: ", i, task->args[i].name);
    if (!strstr(text, place)) fail_msg("%s: the stub does not describe %s", task->name, task->args[i].name);
  }
  assert_non_null(strstr(text, "write the kernel here"));
}

static void test_every_stub_compiles(void **state) {
  (void)state;
  int count, failures = 0;
  char path[256], object[256], symbol[160];
  const fk_task *const *tasks = fk_tasks(&count);
  bool clang = has("clang");
  assert_true(count > 0);
  snprintf(object, sizeof object, "%s/stub.so", folder);
  for (int i = 0; i < count; i++) {
    write_stub(tasks[i], false, path, sizeof path);
    check_comment(tasks[i], path);
    failures += compile("gcc", FLAGS, path, object) != 0;
    if (failures == 0) {
      fk_arena arena;
      fk_elf elf;
      bool exported = false;
      fk_arena_init(&arena, &fk_host_memory, 0);
      assert_int_equal(fk_elf_read(&arena, object, &elf), FK_OK);
      snprintf(symbol, sizeof symbol, "__tvm_ffi_%s", tasks[i]->name);
      for (int e = 0; e < elf.num_exports; e++) exported |= strcmp(elf.exports[e], symbol) == 0;
      assert_true(exported);
      fk_arena_destroy(&arena);
    }
    if (clang) failures += compile("clang", FLAGS, path, object) != 0;
    unlink(path);
  }
  unlink(object);
  assert_int_equal(failures, 0);
}

static void test_cuda_stub_compiles(void **state) {
  (void)state;
  char path[256], object[256];
  if (!has("nvcc")) skip();
  const fk_task *task = fk_task_find("rms_norm");
  assert_non_null(task);
  snprintf(object, sizeof object, "%s/stub.o", folder);
  write_stub(task, true, path, sizeof path);
  assert_int_equal(compile("nvcc", " -Werror all-warnings -c -I " FK_SOURCE_DIR "/include ", path, object), 0);
  unlink(path);
  unlink(object);
}

static int setup(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state) {
  (void)state;
  return rmdir(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_stub_compiles),
                                     cmocka_unit_test(test_cuda_stub_compiles)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
