#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cmocka.h wants the headers above first. */
#include <cmocka.h>

#include "io/json.h"
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

static json_t *parse(const char *text) {
  json_t *root;
  if (fk_json_parse(text, strlen(text), "config.json", &root) != FK_OK) fail_msg("%s", fk_last_error());
  return root;
}

#define FAILS(call, text)                       \
  do {                                          \
    assert_int_equal(call, FK_ERROR_FORMAT);    \
    assert_string_equal(fk_last_error(), text); \
  } while (0)

static void values_are_read(void **state) {
  (void)state;
  json_t *root =
      parse("{\"i\": 7, \"f\": 2.5, \"b\": true, \"s\": \"x\", \"n\": null, \"a\": [1, 2, 3], \"o\": {\"p\": 4}}");
  fk_json r = fk_json_root(root, "config.json"), o, a;
  int64_t i, list[3];
  size_t count;
  double f;
  bool b;
  const char *s;
  assert_int_equal(fk_json_int(&r, "i", 7, 7, &i), FK_OK);
  assert_int_equal(i, 7);
  assert_int_equal(fk_json_float(&r, "f", 2.5, 2.5, &f), FK_OK);
  assert_true(f == 2.5);
  assert_int_equal(fk_json_float(&r, "i", 0, 10, &f), FK_OK);
  assert_true(f == 7);
  assert_int_equal(fk_json_bool(&r, "b", &b), FK_OK);
  assert_true(b);
  assert_int_equal(fk_json_string(&r, "s", &s), FK_OK);
  assert_string_equal(s, "x");
  assert_int_equal(fk_json_ints(&r, "a", 1, 3, 3, list, &count), FK_OK);
  assert_int_equal(count, 3);
  assert_int_equal(list[2], 3);
  assert_int_equal(fk_json_object(&r, "o", &o), FK_OK);
  assert_int_equal(fk_json_int(&o, "p", 0, 9, &i), FK_OK);
  assert_int_equal(i, 4);
  assert_int_equal(fk_json_array(&r, "a", &a), FK_OK);
  assert_int_equal(json_integer_value(fk_json_item(&a, 1).node), 2);
  assert_true(fk_json_has(&r, "i") && !fk_json_has(&r, "n") && !fk_json_has(&r, "missing"));
  json_decref(root);
}

static void defaults_stand_for_missing_and_null(void **state) {
  (void)state;
  json_t *root = parse("{\"n\": null, \"i\": 3, \"f\": 0.5, \"b\": false, \"s\": \"y\"}");
  fk_json r = fk_json_root(root, "config.json");
  static const char *const keys[] = {"n", "missing"};
  int64_t i;
  double f;
  bool b;
  const char *s;
  for (int k = 0; k < 2; k++) {
    i = 0, f = 0, b = false, s = NULL;
    assert_int_equal(fk_json_int_or(&r, keys[k], 0, 9, 5, &i), FK_OK);
    assert_int_equal(fk_json_float_or(&r, keys[k], 0, 9, 1.5, &f), FK_OK);
    assert_int_equal(fk_json_bool_or(&r, keys[k], true, &b), FK_OK);
    assert_int_equal(fk_json_string_or(&r, keys[k], "none", &s), FK_OK);
    assert_true(i == 5 && f == 1.5 && b && strcmp(s, "none") == 0);
  }
  assert_int_equal(fk_json_int_or(&r, "i", 0, 9, 5, &i), FK_OK);
  assert_int_equal(fk_json_float_or(&r, "f", 0, 9, 1.5, &f), FK_OK);
  assert_int_equal(fk_json_bool_or(&r, "b", true, &b), FK_OK);
  assert_int_equal(fk_json_string_or(&r, "s", "none", &s), FK_OK);
  assert_true(i == 3 && f == 0.5 && !b && strcmp(s, "y") == 0);
  FAILS(fk_json_int_or(&r, "s", 0, 9, 5, &i), "config.json: s: expected an integer from 0 to 9, got \"y\"");
  FAILS(fk_json_float_or(&r, "s", 0, 9, 5, &f), "config.json: s: expected a number from 0 to 9, got \"y\"");
  FAILS(fk_json_bool_or(&r, "i", false, &b), "config.json: i: expected true or false, got 3");
  FAILS(fk_json_string_or(&r, "i", "none", &s), "config.json: i: expected a string, got 3");
  json_decref(root);
}

static void wrong_values_are_described(void **state) {
  (void)state;
  json_t *root = parse(
      "{\"hidden_size\": \"abc\", \"rope\": {\"factor\": -1.5}, \"n\": null, \"a\": [1, 2.5], \"l\": [[{\"k\": true}]],"
      " \"long\": \"0123456789012345678901234567890123456789012345678901234567890123456789\"}");
  fk_json r = fk_json_root(root, "config.json"), rope, l;
  int64_t i = 99, list[2] = {99, 99};
  size_t count = 99;
  double f = 99;
  bool b = true;
  const char *s = "99";
  FAILS(fk_json_int(&r, "hidden_size", 1, 1048576, &i),
        "config.json: hidden_size: expected an integer from 1 to 1048576, got \"abc\"");
  FAILS(fk_json_int(&r, "gone", 1, 2, &i), "config.json: gone: expected an integer from 1 to 2, got nothing");
  FAILS(fk_json_int(&r, "n", 1, 2, &i), "config.json: n: expected an integer from 1 to 2, got null");
  FAILS(fk_json_int(&r, "rope", 1, 2, &i), "config.json: rope: expected an integer from 1 to 2, got an object");
  FAILS(fk_json_bool(&r, "a", &b), "config.json: a: expected true or false, got an array of 2");
  FAILS(fk_json_string(&r, "rope", &s), "config.json: rope: expected a string, got an object");
  FAILS(fk_json_object(&r, "a", &rope), "config.json: a: expected an object, got an array of 2");
  FAILS(fk_json_array(&r, "rope", &l), "config.json: rope: expected an array, got an object");
  FAILS(fk_json_ints(&r, "a", 0, 9, 2, list, &count), "config.json: a[1]: expected an integer from 0 to 9, got 2.5");
  FAILS(fk_json_ints(&r, "a", 0, 9, 1, list, &count),
        "config.json: a: expected an array of at most 1, got an array of 2");
  FAILS(fk_json_int(&r, "long", 1, 2, &i),
        "config.json: long: expected an integer from 1 to 2, got "
        "\"012345678901234567890123456789012345678901234567890123456789...\"");
  assert_int_equal(fk_json_object(&r, "rope", &rope), FK_OK);
  FAILS(fk_json_float(&rope, "factor", 1, 64, &f),
        "config.json: rope.factor: expected a number from 1 to 64, got -1.5");
  assert_int_equal(fk_json_array(&r, "l", &l), FK_OK);
  fk_json inner = fk_json_item(&l, 0), object = fk_json_item(&inner, 0);
  FAILS(fk_json_int(&object, "k", 0, 1, &i), "config.json: l[0][0].k: expected an integer from 0 to 1, got true");
  FAILS(fk_json_int(&inner, "k", 0, 1, &i), "config.json: l[0]: expected an object, got an array of 1");
  FAILS(fk_json_int_or(&inner, "k", 0, 1, 0, &i), "config.json: l[0]: expected an object, got an array of 1");
  assert_int_equal(fk_json_fail(&object, FK_ERROR_UNSUPPORTED, "no %s", "way"), FK_ERROR_UNSUPPORTED);
  assert_string_equal(fk_last_error(), "config.json: l[0][0]: no way");
  assert_true(i == 99 && f == 99 && b && count == 99 && list[0] == 99 && strcmp(s, "99") == 0);
  json_decref(root);
}

static void long_paths_are_cut_not_overrun(void **state) {
  (void)state;
  char key[400];
  memset(key, 'k', sizeof key);
  key[399] = 0;
  fk_json views[6] = {fk_json_root(NULL, "config.json")};
  for (int i = 1; i < 6; i++) views[i] = (fk_json){.where = "config.json", .parent = &views[i - 1], .key = key};
  assert_int_equal(fk_json_expected(&views[5], "something"), FK_ERROR_FORMAT);
  assert_non_null(strstr(fk_last_error(), "kkk: expected something, got nothing"));
}

static void malformed_text_is_refused(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } cases[] = {
      {"", "config.json:1:0: "},
      {"{\"a\": 1,\n \"b\": }", "config.json:2:7: "},
      {"{\"a\": 1, \"a\": 2}", "duplicate object key"},
      {"{\"a\": 1} {}", "end of file expected"},
      {"{\"a\": 01}", "config.json:1:"},
      {"{\"a\": \"\xc0\x80\"}", "unable to decode byte 0xc0"},
      {"{\"a\": 1e999}", "real number overflow"},
      {"{\"a\": NaN}", "invalid token"},
      {"{'a': 1}", "config.json:1:"},
      {"{\"a\": 1,}", "config.json:1:"},
  };
  json_t *root;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    root = (json_t *)(void *)&root;
    fk_status status = fk_json_parse(cases[i].text, strlen(cases[i].text), "config.json", &root);
    assert_null(root);
    if (status != FK_ERROR_FORMAT || !strstr(fk_last_error(), cases[i].message))
      fail_msg("%s gave %s: %s", cases[i].text, fk_status_name(status), fk_last_error());
  }
}

static void infinity_is_a_large_number(void **state) {
  (void)state;
  static const char text[] = "{\"Infinity\": [Infinity, -Infinity], \"a\": \"\\\\\\\"Infinity\"}";
  json_t *root;
  assert_int_equal(fk_json_parse(text, strlen(text), "config.json", &root), FK_OK);
  const json_t *list = json_object_get(root, "Infinity");
  assert_true(json_real_value(json_array_get(list, 0)) == 1.79e308);
  assert_true(json_real_value(json_array_get(list, 1)) == -1.79e308);
  assert_string_equal(json_string_value(json_object_get(root, "a")), "\\\"Infinity");
  json_decref(root);
  assert_int_equal(fk_json_parse("[Infinit]", 9, "config.json", &root), FK_ERROR_FORMAT);
  assert_null(root);
}

static void deep_text_is_refused(void **state) {
  (void)state;
  enum { DEPTH = 1000000 };
  char *text = malloc(DEPTH);
  json_t *root;
  assert_non_null(text);
  memset(text, '[', DEPTH);
  assert_int_equal(fk_json_parse(text, DEPTH, "deep", &root), FK_ERROR_FORMAT);
  assert_non_null(strstr(fk_last_error(), "maximum parsing depth"));
  free(text);
}

static void files_are_limited(void **state) {
  (void)state;
  const char *path = temp_text(&dir, "c.json", "{\"a\": 1}");
  json_t *root;
  assert_int_equal(fk_json_load(path, 8, &root), FK_OK);
  json_decref(root);
  assert_int_equal(fk_json_load(path, 7, &root), FK_ERROR_FORMAT);
  assert_non_null(strstr(fk_last_error(), "expected at most 7 bytes, got 8"));
  assert_null(root);
  assert_int_equal(fk_json_load(temp_path(&dir, "none.json"), 8, &root), FK_ERROR_NOT_FOUND);
  assert_int_equal(fk_json_load(dir.path, 8, &root), FK_ERROR_IO);
  assert_null(root);
  temp_clear(&dir);
}

static void equal_values_give_equal_files(void **state) {
  (void)state;
  json_t *one = parse("{\"b\": [1, 0.1], \"a\": {\"y\": 1, \"x\": null}}");
  json_t *two = parse("{\"a\": {\"x\": null, \"y\": 1}, \"b\": [1, 0.1]}"), *back;
  static const char expected[] =
      "{\n  \"a\": {\n    \"x\": null,\n    \"y\": 1\n  },\n  \"b\": [\n    1,\n    0.10000000000000001\n  ]\n}\n";
  const json_t *const both[] = {one, two};
  for (int i = 0; i < 2; i++) {
    char text[200] = "";
    const char *path = temp_path(&dir, "w.json");
    assert_int_equal(fk_json_write(path, both[i]), FK_OK);
    assert_int_equal(temp_count(&dir), 1);
    FILE *f = fopen(path, "rb");
    assert_true(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    assert_string_equal(text, expected);
    assert_int_equal(fk_json_load(path, 1000, &back), FK_OK);
    assert_true(json_equal(back, one));
    json_decref(back);
  }
  assert_int_equal(fk_json_write(temp_path(&dir, "no/w.json"), one), FK_ERROR_NOT_FOUND);
  json_decref(one);
  json_decref(two);
  temp_clear(&dir);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(values_are_read),
      cmocka_unit_test(defaults_stand_for_missing_and_null),
      cmocka_unit_test(wrong_values_are_described),
      cmocka_unit_test(long_paths_are_cut_not_overrun),
      cmocka_unit_test(malformed_text_is_refused),
      cmocka_unit_test(infinity_is_a_large_number),
      cmocka_unit_test(deep_text_is_refused),
      cmocka_unit_test(files_are_limited),
      cmocka_unit_test(equal_values_give_equal_files),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
