/* fastkernels list, as its users meet it: what it prints, and its errors. */
#include <jansson.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "core_helpers.h"

/* Runs the program with stderr joined to stdout; the caller frees the text. */
static char *run(const char *arguments, int *exit_status) {
  char command[1024];
  snprintf(command, sizeof command, "%s/fastkernels list %s 2>&1", FK_BUILD_DIR, arguments);
  FILE *f = popen(command, "r");
  assert_non_null(f);
  size_t size = 0, n;
  char *text = calloc(1, 1 << 20);
  while ((n = fread(text + size, 1, (1 << 20) - 1 - size, f)) > 0) size += n;
  *exit_status = WEXITSTATUS(pclose(f));
  return text;
}

static bool contains(const json_t *array, const char *name) {
  for (size_t i = 0; i < json_array_size(array); i++)
    if (strcmp(json_string_value(json_array_get(array, i)), name) == 0) return true;
  return false;
}

static const json_t *named(const json_t *array, const char *name) {
  for (size_t i = 0; i < json_array_size(array); i++)
    if (strcmp(json_string_value(json_object_get(json_array_get(array, i), "name")), name) == 0)
      return json_array_get(array, i);
  return NULL;
}

static json_t *run_json(const char *arguments) {
  int status;
  char *text = run(arguments, &status);
  json_t *root = json_loads(text, 0, NULL);
  assert_int_equal(status, 0);
  assert_non_null(root);
  free(text);
  return root;
}

static void who_uses_what(void **state) {
  (void)state;
  int count;
  json_t *root = run_json("--json");
  const json_t *tasks = json_object_get(root, "tasks"), *models = json_object_get(root, "models");
  assert_non_null(fk_tasks(&count));
  assert_int_equal(json_array_size(tasks), count);
  const json_t *norm = named(tasks, "rms_norm"), *llama = named(models, "llama");
  assert_int_equal(json_integer_value(json_object_get(norm, "level")), 1);
  assert_true(contains(json_object_get(norm, "models"), "llama"));
  assert_true(contains(json_object_get(norm, "devices"), "ref"));
  assert_true(json_is_true(json_object_get(named(tasks, "llama_mlp"), "composed")));
  assert_true(contains(json_object_get(llama, "tasks"), "llama_decoder_layer"));
  assert_true(contains(json_object_get(llama, "presets"), "llama-3.1-70b"));
  assert_false(contains(json_object_get(llama, "tasks"), "add"));
  json_decref(root);
}

static void filters(void **state) {
  (void)state;
  json_t *root = run_json("--json --level 2");
  const json_t *tasks = json_object_get(root, "tasks");
  assert_true(json_array_size(tasks) > 0);
  for (size_t i = 0; i < json_array_size(tasks); i++)
    assert_int_equal(json_integer_value(json_object_get(json_array_get(tasks, i), "level")), 2);
  assert_int_equal(json_array_size(json_object_get(root, "models")), 0);
  json_decref(root);
  root = run_json("--json --model llama-3.1-8b --family norm");
  assert_non_null(named(json_object_get(root, "tasks"), "rms_norm"));
  assert_null(named(json_object_get(root, "tasks"), "layer_norm"));
  json_decref(root);
  int status;
  char *text = run("--level 4", &status);
  assert_true(strstr(text, "llama") && !strstr(text, "L1  "));
  free(text);
}

static void unknown_names(void **state) {
  (void)state;
  static const char *const cases[][2] = {{"--family nrom", "did you mean norm?"},
                                         {"--model lama", "did you mean llama?"},
                                         {"--level 5", "expected an integer from 1 to 4"},
                                         {"--nothing", "unknown option"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int status;
    char *text = run(cases[i][0], &status);
    assert_int_equal(status, 2);
    if (!strstr(text, cases[i][1])) fail_msg("%s: expected \"%s\", got: %s", cases[i][0], cases[i][1], text);
    free(text);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(who_uses_what), cmocka_unit_test(filters),
                                     cmocka_unit_test(unknown_names)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
