/* Against fixtures that the `tokenizers` package made (tests/golden/make_tokenizer.py), and against bad files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cmocka.h wants the headers above first. */
#include <cmocka.h>
#include <jansson.h>

#include "io/json.h"
#include "io/tokenizer.h"

#define FK_FIXTURES FK_SOURCE_DIR "/tests/golden/fixtures"

static fk_tokenizer *load(const char *name) {
  char path[512];
  fk_tokenizer *t;
  snprintf(path, sizeof path, FK_FIXTURES "/tokenizer/%s.tokenizer.json", name);
  if (fk_tokenizer_load(path, &t) != FK_OK) fail_msg("%s", fk_last_error());
  return t;
}

static void check_decoding(const fk_tokenizer *t, const int32_t *ids, size_t count, bool skip, const json_t *expected,
                           fk_arena *arena) {
  char *bytes;
  size_t size;
  assert_int_equal(fk_tokenizer_decode(t, ids, count, skip, arena, &bytes, &size), FK_OK);
  assert_int_equal(size, json_string_length(expected));
  assert_string_equal(bytes, json_string_value(expected));
}

static void check_case(const fk_tokenizer *t, const json_t *item, fk_arena *arena) {
  const json_t *text = json_object_get(item, "text"), *expected = json_object_get(item, "ids");
  int32_t *ids;
  size_t count;
  assert_int_equal(fk_tokenizer_encode(t, json_string_value(text), json_string_length(text), arena, &ids, &count),
                   FK_OK);
  bool same = count == json_array_size(expected);
  for (size_t i = 0; same && i < count; i++) same = ids[i] == json_integer_value(json_array_get(expected, i));
  if (!same) {
    for (size_t i = 0; i < count; i++) print_error("%d ", ids[i]);
    fail_msg("\"%s\": expected other ids", json_string_value(text));
  }
  check_decoding(t, ids, count, false, json_object_get(item, "decoded"), arena);
  check_decoding(t, ids, count, true, json_object_get(item, "decoded_plain"), arena);
}

static void check_fixture(const char *name) {
  char path[512];
  json_t *cases;
  fk_arena arena;
  fk_tokenizer *t = load(name);
  snprintf(path, sizeof path, FK_FIXTURES "/tokenizer/%s.cases.json", name);
  assert_int_equal(fk_json_load(path, 1 << 20, &cases), FK_OK);
  assert_true(json_array_size(cases) >= 60);
  fk_arena_init(&arena, &fk_host_memory, 0);
  for (size_t i = 0; i < json_array_size(cases); i++) check_case(t, json_array_get(cases, i), &arena);
  fk_arena_destroy(&arena);
  json_decref(cases);
  fk_tokenizer_destroy(t);
}

static void agrees_on_gpt2(void **state) {
  (void)state;
  check_fixture("gpt2");
}

static void agrees_on_prefix_space(void **state) {
  (void)state;
  check_fixture("prefix");
}

static void agrees_on_llama3_split(void **state) {
  (void)state;
  check_fixture("llama3");
}

static void agrees_on_several_splits(void **state) {
  (void)state;
  check_fixture("splits");
}

static void zero_bytes_and_special_ids(void **state) {
  (void)state;
  fk_tokenizer *t = load("gpt2");
  fk_arena arena;
  int32_t *ids;
  char *bytes;
  size_t count, size;
  fk_arena_init(&arena, &fk_host_memory, 0);
  assert_int_equal(fk_tokenizer_encode(t, "\0\0", 2, &arena, &ids, &count), FK_OK);
  assert_int_equal(fk_tokenizer_decode(t, ids, count, true, &arena, &bytes, &size), FK_OK);
  assert_int_equal(size, 2);
  assert_memory_equal(bytes, "\0\0", 3);
  int32_t end = fk_tokenizer_id(t, "<|end|>");
  assert_true(end > 0 && end < fk_tokenizer_size(t) && fk_tokenizer_is_special(t, end));
  assert_false(fk_tokenizer_is_special(t, fk_tokenizer_id(t, "<tool>")));
  assert_false(fk_tokenizer_is_special(t, -1) || fk_tokenizer_is_special(t, fk_tokenizer_size(t)));
  assert_int_equal(fk_tokenizer_id(t, "no such token"), -1);
  int32_t outside[] = {0, fk_tokenizer_size(t)}, negative = -1;
  assert_int_equal(fk_tokenizer_decode(t, outside, 2, true, &arena, &bytes, &size), FK_ERROR_ARGUMENT);
  assert_non_null(strstr(fk_last_error(), "at index 1"));
  assert_null(bytes);
  assert_int_equal(fk_tokenizer_decode(t, &negative, 1, true, &arena, &bytes, &size), FK_ERROR_ARGUMENT);
  fk_arena_destroy(&arena);
  fk_tokenizer_destroy(t);
}

static void invalid_utf8_is_refused(void **state) {
  (void)state;
  static const char *const texts[] = {"ab\x80",     "ab\xc0\xaf", "ab\xed\xa0\x80", "ab\xf4\x90\x80\x80",
                                      "ab\xe6\x9d", "ab\xff",     "ab\xe0\x80\x80", "ab\xf0\x8f\xbf\xbf"};
  fk_tokenizer *t = load("gpt2");
  fk_arena arena;
  int32_t *ids;
  size_t count;
  fk_arena_init(&arena, &fk_host_memory, 0);
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    assert_int_equal(fk_tokenizer_encode(t, texts[i], strlen(texts[i]), &arena, &ids, &count), FK_ERROR_ARGUMENT);
    assert_string_equal(fk_last_error(), "the text is no UTF-8 at byte 2");
    assert_null(ids);
  }
  fk_arena_destroy(&arena);
  fk_tokenizer_destroy(t);
}

/* A long word without spaces, which a quadratic merge would not finish in reasonable time. */
static void long_words_merge(void **state) {
  (void)state;
  enum { N = 1 << 20 };
  fk_tokenizer *t = load("gpt2");
  fk_arena arena;
  int32_t *ids;
  char *text = malloc(N), *bytes;
  size_t count, size;
  assert_non_null(text);
  for (size_t i = 0; i < N; i++) text[i] = "theotherrow"[i % 11];
  fk_arena_init(&arena, &fk_host_memory, 0);
  assert_int_equal(fk_tokenizer_encode(t, text, N, &arena, &ids, &count), FK_OK);
  assert_true(count < N / 2);
  assert_int_equal(fk_tokenizer_decode(t, ids, count, false, &arena, &bytes, &size), FK_OK);
  assert_int_equal(size, N);
  assert_memory_equal(bytes, text, N);
  fk_arena_destroy(&arena);
  fk_tokenizer_destroy(t);
  free(text);
}

/* ---- Bad files --------------------------------------------------------------------------------------------- */

#define LEVEL "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}"
#define MODEL "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}"
#define FILE_OF(pre, model, rest) \
  "{\"pre_tokenizer\": " pre ", \"decoder\": {\"type\": \"ByteLevel\"}, \"model\": " model rest "}"
#define WITH_MODEL(vocab, merges, rest) \
  FILE_OF(LEVEL, "{\"type\": \"BPE\", \"vocab\": {" vocab "}, \"merges\": [" merges "]" rest "}", "")
#define SPLIT(inner) "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", " inner "}, " LEVEL "]}"
#define ADDED(inner) FILE_OF(LEVEL, MODEL, ", \"added_tokens\": [" inner "]")

static void bad_files_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *text;
    fk_status status;
    const char *message;
  } cases[] = {
      {"", FK_ERROR_FORMAT, "t.json:"},
      {"[]", FK_ERROR_FORMAT, "expected an object, got an array of 0"},
      {"{}", FK_ERROR_FORMAT, "pre_tokenizer: expected an object, got nothing"},
      {FILE_OF("{\"type\": \"Whitespace\"}", MODEL, ""), FK_ERROR_UNSUPPORTED, "pre_tokenizer.type: expected"},
      {FILE_OF("{\"type\": \"ByteLevel\"}", MODEL, ""), FK_ERROR_FORMAT, "pre_tokenizer.add_prefix_space: expected"},
      {FILE_OF("{\"type\": \"Sequence\", \"pretokenizers\": []}", MODEL, ""), FK_ERROR_UNSUPPORTED, "expected 0 to 8"},
      {FILE_OF(SPLIT("\"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Removed\""), MODEL, ""), FK_ERROR_UNSUPPORTED,
       "pre_tokenizer.pretokenizers[0].behavior: expected \"Isolated\", got \"Removed\""},
      {FILE_OF(SPLIT("\"pattern\": {\"String\": \"a\"}, \"behavior\": \"Isolated\""), MODEL, ""), FK_ERROR_UNSUPPORTED,
       "pattern: expected a Regex"},
      {FILE_OF(SPLIT("\"pattern\": {\"Regex\": \"(\"}, \"behavior\": \"Isolated\""), MODEL, ""), FK_ERROR_FORMAT,
       "missing closing parenthesis"},
      {FILE_OF(SPLIT("\"pattern\": {\"Regex\": \"[\\\\S]\"}, \"behavior\": \"Isolated\""), MODEL, ""),
       FK_ERROR_UNSUPPORTED, "\\S within brackets"},
      {FILE_OF(SPLIT("\"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Isolated\", \"invert\": true"), MODEL, ""),
       FK_ERROR_UNSUPPORTED, "invert: this setting is not supported"},
      {FILE_OF(LEVEL, MODEL, ", \"normalizer\": {\"type\": \"NFC\"}"), FK_ERROR_UNSUPPORTED, "t.json: normalizer: "},
      {FILE_OF(LEVEL, MODEL, ", \"truncation\": {\"max_length\": 5}"), FK_ERROR_UNSUPPORTED, "truncation"},
      {FILE_OF(LEVEL, MODEL, ", \"padding\": {}"), FK_ERROR_UNSUPPORTED, "padding"},
      {"{\"pre_tokenizer\": " LEVEL ", \"decoder\": {\"type\": \"Fuse\"}, \"model\": " MODEL "}", FK_ERROR_UNSUPPORTED,
       "decoder.type: expected \"ByteLevel\", got \"Fuse\""},
      {FILE_OF(LEVEL, "{\"type\": \"Unigram\", \"vocab\": {}, \"merges\": []}", ""), FK_ERROR_UNSUPPORTED,
       "model.type"},
      {WITH_MODEL("\"a\": 0", "", ", \"dropout\": 0.1"), FK_ERROR_UNSUPPORTED, "model.dropout: "},
      {WITH_MODEL("\"a\": 0", "", ", \"unk_token\": \"a\""), FK_ERROR_UNSUPPORTED, "model.unk_token: "},
      {WITH_MODEL("\"a\": 0", "", ", \"continuing_subword_prefix\": \"##\""), FK_ERROR_UNSUPPORTED,
       "model.continuing_subword_prefix: "},
      {WITH_MODEL("\"a\": 0", "", ", \"end_of_word_suffix\": \"/\""), FK_ERROR_UNSUPPORTED, "model.end_of_word_suffix"},
      {WITH_MODEL("\"a\": 0", "", ", \"byte_fallback\": true"), FK_ERROR_UNSUPPORTED, "model.byte_fallback: "},
      {WITH_MODEL("\"a\": 0", "", ", \"ignore_merges\": 1"), FK_ERROR_FORMAT, "model.ignore_merges: expected true"},
      {WITH_MODEL("\"a\": -1", "", ""), FK_ERROR_FORMAT, "model.vocab.a: expected an integer from 0"},
      {WITH_MODEL("\"a\": 99999999", "", ""), FK_ERROR_FORMAT, "model.vocab.a: expected an integer from 0"},
      {WITH_MODEL("\"\": 0", "", ""), FK_ERROR_FORMAT, "got an empty one"},
      {WITH_MODEL("\"a\": 0, \"b\": 0", "", ""), FK_ERROR_FORMAT, "id 0 belongs to \"a\" and \"b\""},
      {WITH_MODEL("\"a\": 0, \"a\": 1", "", ""), FK_ERROR_FORMAT, "duplicate"},
      {WITH_MODEL("\"a\": 0", "\"a\"", ""), FK_ERROR_FORMAT, "model.merges[0]: expected two tokens"},
      {WITH_MODEL("\"a\": 0", "\"a b c\"", ""), FK_ERROR_FORMAT, "model.merges[0]: expected two tokens"},
      {WITH_MODEL("\"a\": 0", "[\"a\"]", ""), FK_ERROR_FORMAT, "model.merges[0]: expected two tokens"},
      {WITH_MODEL("\"a\": 0", "5", ""), FK_ERROR_FORMAT, "model.merges[0]: expected two tokens"},
      {WITH_MODEL("\"a\": 0", "[\"a\", \"a\"]", ""), FK_ERROR_FORMAT, "not in the vocabulary"},
      {WITH_MODEL("\"a\": 0, \"aa\": 1", "\"a a\", [\"a\", \"a\"]", ""), FK_ERROR_FORMAT, "is the same as merge 0"},
      {ADDED("{\"content\": \"<x>\"}"), FK_ERROR_FORMAT, "added_tokens[0].id: expected an integer"},
      {ADDED("{\"id\": 5}"), FK_ERROR_FORMAT, "added_tokens[0].content: expected a string"},
      {ADDED("{\"id\": 5, \"content\": \"\"}"), FK_ERROR_FORMAT, "got an empty one"},
      {ADDED("{\"id\": 5, \"content\": \"a\"}"), FK_ERROR_FORMAT, "token \"a\" has the ids 0 and 5"},
      {ADDED("{\"id\": 1, \"content\": \"<x>\"}"), FK_ERROR_FORMAT, "id 1 belongs to \"b\" and \"<x>\""},
      {ADDED("{\"id\": 5, \"content\": \"x\"}, {\"id\": 5, \"content\": \"x\"}"), FK_ERROR_FORMAT, "listed twice"},
      {ADDED("{\"id\": 5, \"content\": \"x\", \"lstrip\": true}"), FK_ERROR_UNSUPPORTED, "added_tokens[0].lstrip"},
      {ADDED("{\"id\": 5, \"content\": \"x\", \"rstrip\": true}"), FK_ERROR_UNSUPPORTED, "rstrip"},
      {ADDED("{\"id\": 5, \"content\": \"x\", \"single_word\": true}"), FK_ERROR_UNSUPPORTED, "single_word"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    fk_tokenizer *t = (fk_tokenizer *)(void *)&i;
    fk_status status = fk_tokenizer_load_memory(cases[i].text, strlen(cases[i].text), "t.json", &t);
    assert_null(t);
    if (status != cases[i].status || !strstr(fk_last_error(), cases[i].message))
      fail_msg("%s\ngave %s: %s\nnot %s", cases[i].text, fk_status_name(status), fk_last_error(), cases[i].message);
  }
  fk_tokenizer *t;
  assert_int_equal(fk_tokenizer_load("/no/such/tokenizer.json", &t), FK_ERROR_NOT_FOUND);
  assert_null(t);
}

static void a_byte_without_token_is_an_error(void **state) {
  (void)state;
  static const char text[] = FILE_OF(LEVEL, MODEL, "");
  fk_tokenizer *t;
  fk_arena arena;
  int32_t *ids;
  size_t count;
  assert_int_equal(fk_tokenizer_load_memory(text, strlen(text), "t.json", &t), FK_OK);
  fk_arena_init(&arena, &fk_host_memory, 0);
  assert_int_equal(fk_tokenizer_encode(t, "abba", 4, &arena, &ids, &count), FK_OK);
  assert_int_equal(count, 3);
  assert_memory_equal(ids, ((const int32_t[]){2, 1, 0}), 12);
  assert_int_equal(fk_tokenizer_encode(t, "abc", 3, &arena, &ids, &count), FK_ERROR_ARGUMENT);
  assert_string_equal(fk_last_error(), "t.json: the vocabulary has no token for the byte 0x63");
  fk_arena_destroy(&arena);
  fk_tokenizer_destroy(t);
}

/* A regular expression that backtracks without end is cut off. */
static void runaway_patterns_fail(void **state) {
  (void)state;
  static const char text[] =
      FILE_OF(SPLIT("\"pattern\": {\"Regex\": \"(?:a+)+$\"}, \"behavior\": \"Isolated\""), MODEL, "");
  char word[64];
  fk_tokenizer *t;
  fk_arena arena;
  int32_t *ids;
  size_t count;
  memset(word, 'a', sizeof word);
  word[63] = 'b';
  assert_int_equal(fk_tokenizer_load_memory(text, strlen(text), "t.json", &t), FK_OK);
  fk_arena_init(&arena, &fk_host_memory, 0);
  assert_int_equal(fk_tokenizer_encode(t, word, sizeof word, &arena, &ids, &count), FK_ERROR_UNSUPPORTED);
  assert_non_null(strstr(fk_last_error(), "limit"));
  fk_arena_destroy(&arena);
  fk_tokenizer_destroy(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(agrees_on_gpt2),
      cmocka_unit_test(agrees_on_prefix_space),
      cmocka_unit_test(agrees_on_llama3_split),
      cmocka_unit_test(agrees_on_several_splits),
      cmocka_unit_test(zero_bytes_and_special_ids),
      cmocka_unit_test(invalid_utf8_is_refused),
      cmocka_unit_test(long_words_merge),
      cmocka_unit_test(bad_files_are_refused),
      cmocka_unit_test(a_byte_without_token_is_an_error),
      cmocka_unit_test(runaway_patterns_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
