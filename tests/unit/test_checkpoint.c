#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cmocka.h wants the headers above first. */
#include <cmocka.h>

#include "core/convert.h"
#include "io/checkpoint.h"
#include "temp_dir.h"

static temp_dir dir;

static int setup(void **state) {
  (void)state;
  return temp_dir_make(&dir);
}

static int teardown(void **state) {
  (void)state;
  temp_dir_remove(&dir);
  return 0;
}

static int clear(void **state) {
  (void)state;
  temp_clear(&dir);
  return 0;
}

/* A file of int32 scalars, each the first letter of its name. */
static void put_shard(const char *file, int count, const char *const *names) {
  fk_stored items[4];
  int32_t values[4];
  for (int i = 0; i < count; i++) {
    values[i] = names[i][0];
    items[i] = (fk_stored){.name = names[i], .type = FK_I32, .data = &values[i]};
  }
  assert_int_equal(fk_safetensors_write(temp_path(&dir, file), items, (size_t)count, NULL), FK_OK);
}

#define SHARD(file, ...)                                                           \
  do {                                                                             \
    const char *const shard_names[] = {__VA_ARGS__};                               \
    put_shard(file, (int)(sizeof shard_names / sizeof *shard_names), shard_names); \
  } while (0)

static void put_index(const char *weight_map) {
  char text[1000];
  snprintf(text, sizeof text, "{\"metadata\": {}, \"weight_map\": %s}", weight_map);
  temp_text(&dir, "model.safetensors.index.json", text);
}

static void fails(fk_status expected, const char *message) {
  fk_checkpoint *c = (fk_checkpoint *)(void *)&c;
  fk_status status = fk_checkpoint_open(dir.path, &c);
  assert_null(c);
  if (status != expected || !strstr(fk_last_error(), message))
    fail_msg("%s: %s\nnot %s", fk_status_name(status), fk_last_error(), message);
  assert_non_null(strstr(fk_last_error(), dir.path));
}

static void check_use(fk_checkpoint *c, const char *name) {
  const fk_stored *t;
  assert_int_equal(fk_checkpoint_use(c, name, &t), FK_OK);
  assert_ptr_equal(t, fk_checkpoint_find(c, name));
  assert_string_equal(t->name, name);
  assert_int_equal(fk_load_i64(FK_I32, t->data, 0), name[0]);
}

static void check_abc(void) {
  fk_checkpoint *c;
  const fk_stored *t;
  size_t cursor = 0;
  int64_t layers;
  if (fk_checkpoint_open(dir.path, &c) != FK_OK) fail_msg("%s", fk_last_error());
  assert_int_equal(fk_checkpoint_count(c), 3);
  assert_string_equal(fk_checkpoint_dir(c), dir.path);
  for (size_t i = 0; i < 3; i++) assert_int_equal(fk_checkpoint_at(c, i)->name[0], 'a' + (int)i);
  assert_null(fk_checkpoint_at(c, 3));
  check_use(c, "b");
  assert_null(fk_checkpoint_find(c, "z"));
  assert_int_equal(fk_checkpoint_use(c, "z", &t), FK_ERROR_NOT_FOUND);
  assert_non_null(strstr(fk_last_error(), "expected a tensor \"z\", found none"));
  assert_null(t);
  assert_string_equal(fk_checkpoint_unused(c, &cursor), "a");
  assert_string_equal(fk_checkpoint_unused(c, &cursor), "c");
  assert_null(fk_checkpoint_unused(c, &cursor));
  assert_true(fk_checkpoint_mark(c, "a") && !fk_checkpoint_mark(c, "z"));
  check_use(c, "c");
  cursor = 0;
  assert_null(fk_checkpoint_unused(c, &cursor));
  fk_json config = fk_checkpoint_config(c);
  assert_int_equal(fk_json_int(&config, "layers", 1, 9, &layers), FK_OK);
  assert_int_equal(fk_json_int(&config, "heads", 1, 9, &layers), FK_ERROR_FORMAT);
  assert_non_null(strstr(fk_last_error(), "/config.json: heads: expected an integer"));
  fk_checkpoint_close(c);
}

static void single_file(void **state) {
  (void)state;
  temp_text(&dir, "config.json", "{\"layers\": 2}");
  SHARD("model.safetensors", "c", "a", "b");
  check_abc();
}

static void shards(void **state) {
  (void)state;
  temp_text(&dir, "config.json", "{\"layers\": 2}");
  SHARD("m-1.safetensors", "c", "a");
  SHARD("m-2.safetensors", "b");
  put_index("{\"a\": \"m-1.safetensors\", \"b\": \"m-2.safetensors\", \"c\": \"m-1.safetensors\"}");
  check_abc();
}

static void single_file_wins(void **state) {
  (void)state;
  temp_text(&dir, "config.json", "{\"layers\": 2}");
  SHARD("model.safetensors", "c", "a", "b");
  put_index("{\"a\": \"gone\"}");
  check_abc();
}

static void missing_parts(void **state) {
  (void)state;
  fk_checkpoint *c;
  assert_int_equal(fk_checkpoint_open("/no/such/folder", &c), FK_ERROR_NOT_FOUND);
  assert_string_equal(fk_last_error(), "/no/such/folder: cannot open the model folder: No such file or directory");
  assert_int_equal(fk_checkpoint_open(temp_text(&dir, "file", "x"), &c), FK_ERROR_NOT_FOUND);
  assert_non_null(strstr(fk_last_error(), "expected a model folder, got a file"));
  assert_null(c);
  fails(FK_ERROR_NOT_FOUND, "/config.json: cannot open: No such file");
  temp_text(&dir, "config.json", "[]");
  fails(FK_ERROR_FORMAT, "/config.json: expected an object, got an array of 0");
  temp_text(&dir, "config.json", "{\"a\": ");
  fails(FK_ERROR_FORMAT, "/config.json:1:6: ");
  temp_text(&dir, "config.json", "{}");
  fails(FK_ERROR_NOT_FOUND, "expected model.safetensors or model.safetensors.index.json, found neither");
  temp_text(&dir, "model.safetensors", "");
  fails(FK_ERROR_FORMAT, "/model.safetensors: expected at least 8 bytes");
}

static void bad_indices(void **state) {
  (void)state;
  static const struct {
    const char *map;
    fk_status status;
    const char *message;
  } cases[] = {
      {"[]", FK_ERROR_FORMAT, "weight_map: expected an object, got an array of 0"},
      {"null", FK_ERROR_FORMAT, "weight_map: expected an object, got null"},
      {"{\"a\": 5}", FK_ERROR_FORMAT, "weight_map.a: expected the plain name of a file in this folder, got 5"},
      {"{\"a\": \"\"}", FK_ERROR_FORMAT, "weight_map.a: expected the plain name"},
      {"{\"a\": \"..\"}", FK_ERROR_FORMAT, "weight_map.a: expected the plain name"},
      {"{\"a\": \"../s1\"}", FK_ERROR_FORMAT, "weight_map.a: expected the plain name"},
      {"{\"a\": \"/etc/passwd\"}", FK_ERROR_FORMAT, "weight_map.a: expected the plain name"},
      {"{\"a\": \"x\\\\y\"}", FK_ERROR_FORMAT, "weight_map.a: expected the plain name"},
      {"{\"a\": \"gone\"}", FK_ERROR_NOT_FOUND, "/gone: cannot open"},
      {"{\"a\": \"s1\", \"a\": \"s1\"}", FK_ERROR_FORMAT, "duplicate object key"},
      {"{\"a\": \"s1\"}", FK_ERROR_FORMAT, "weight_map: tensor \"b\" of s1 is not listed"},
      {"{\"a\": \"s1\", \"b\": \"s1\", \"c\": \"s1\"}", FK_ERROR_FORMAT,
       "tensor \"c\" is listed in s1, which lacks it"},
      {"{\"a\": \"s1\", \"b\": \"s2\", \"c\": \"s2\"}", FK_ERROR_FORMAT,
       "tensor \"b\" is listed in s2 but also stored in s1"},
      {"{\"a\": \"s1\", \"b\": \"s1\", \"c\": \"twice\"}", FK_ERROR_FORMAT,
       "tensor \"b\" is listed in s1 but also stored in twice"},
      {"{\"a\": \"cut\"}", FK_ERROR_FORMAT, "/cut: expected at least 8 bytes, got 3"},
  };
  temp_text(&dir, "config.json", "{}");
  temp_text(&dir, "cut", "abc");
  SHARD("s1", "a", "b");
  SHARD("s2", "c");
  SHARD("twice", "b", "c");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    put_index(cases[i].map);
    fails(cases[i].status, cases[i].message);
  }
  temp_text(&dir, "model.safetensors.index.json", "{}");
  fails(FK_ERROR_FORMAT, "weight_map: expected an object, got nothing");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(single_file, clear),      cmocka_unit_test_teardown(shards, clear),
      cmocka_unit_test_teardown(single_file_wins, clear), cmocka_unit_test_teardown(missing_parts, clear),
      cmocka_unit_test_teardown(bad_indices, clear),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
