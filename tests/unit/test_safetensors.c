#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* cmocka.h wants the headers above first. */
#include <cmocka.h>

#include "core/convert.h"
#include "io/safetensors.h"
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

/* A file of a header and data_size bytes 0, 1, 2, ...; the caller frees it. */
static char *make_file(const char *header, size_t data_size, size_t *size) {
  size_t length = strlen(header);
  *size = 8 + length + data_size;
  char *bytes = malloc(*size); /* exact, so that a read beyond it shows */
  assert_non_null(bytes);
  for (int i = 0; i < 8; i++) bytes[i] = (char)(length >> (8 * i));
  memcpy(bytes + 8, header, length);
  for (size_t i = 0; i < data_size; i++) bytes[8 + length + i] = (char)i;
  return bytes;
}

static void every_dtype_from_python(void **state) {
  (void)state;
  static const double floats[] = {0, 1, -2, 0.5, 4, -0.25}, powers[] = {0.5, 1, 2, 4, 8, 16};
  static const double ints[] = {1, -2, 3}, bytes[] = {0, 7, 255}, flags[] = {1, 0, 1};
  static const struct {
    const char *name;
    fk_type type;
    int32_t ndim;
    const double *values;
  } expected[] = {
      {"t.float32", FK_F32, 2, floats},
      {"t.bfloat16", FK_BF16, 2, floats},
      {"t.float16", FK_F16, 2, floats},
      {"t.float64", FK_F64, 2, floats},
      {"t.float8_e4m3fn", FK_F8_E4M3FN, 2, floats},
      {"t.float8_e5m2", FK_F8_E5M2, 2, floats},
      {"t.float8_e8m0fnu", FK_F8_E8M0, 1, powers},
      {"t.int8", FK_I8, 1, ints},
      {"t.int16", FK_I16, 1, ints},
      {"t.int32", FK_I32, 1, ints},
      {"t.int64", FK_I64, 1, ints},
      {"t.uint8", FK_U8, 1, bytes},
      {"t.bool", FK_BOOL, 1, flags},
  };
  fk_safetensors *f;
  assert_int_equal(fk_safetensors_open(FK_SOURCE_DIR "/tests/golden/fixtures/io/python.safetensors", &f), FK_OK);
  assert_int_equal(fk_safetensors_count(f), sizeof expected / sizeof *expected + 2);
  for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
    const fk_stored *t = fk_safetensors_find(f, expected[i].name);
    assert_non_null(t);
    assert_int_equal(t->type, expected[i].type);
    assert_int_equal(t->ndim, expected[i].ndim);
    for (int64_t k = 0; k < fk_stored_numel(t); k++)
      assert_true(fk_load_f64(t->type, t->data, k) == expected[i].values[k]);
  }
  const fk_stored *scalar = fk_safetensors_find(f, "scalar"), *empty = fk_safetensors_find(f, "empty");
  assert_int_equal(scalar->ndim, 0);
  assert_true(fk_load_f64(FK_F32, scalar->data, 0) == 2.5);
  assert_int_equal(empty->ndim, 3);
  assert_int_equal(empty->shape[0], 3);
  assert_int_equal(empty->bytes, 0);
  assert_string_equal(fk_safetensors_metadata(f, "note"),
                      "gr\xc3\xbc\xc3\x9f"
                      "e");
  assert_null(fk_safetensors_metadata(f, "nothing"));
  assert_null(fk_safetensors_find(f, "__metadata__"));
  fk_safetensors_close(f);
}

static void round_trip(void **state) {
  (void)state;
  const float wide[] = {1, 2, 3, 4, 5, 6};
  const uint8_t flags[] = {1, 0, 1}, nibbles[] = {0x21, 0x43};
  const double scalar = -7.25;
  const fk_stored items[] = {
      {.name = "flags \"quoted\"\n\xe6\x9d\xb1", .type = FK_BOOL, .ndim = 1, .shape = {3}, .data = flags},
      {.name = "wide", .type = FK_F32, .ndim = 2, .shape = {2, 3}, .data = wide},
      {.name = "none", .type = FK_F16, .ndim = 2, .shape = {0, 5}},
      {.name = "nibbles", .type = FK_F4_E2M1, .ndim = 1, .shape = {4}, .data = nibbles},
      {.name = "", .type = FK_F64, .ndim = 0, .data = &scalar},
  };
  const char *const metadata[] = {"format", "pt", "who", "me", NULL};
  const char *path = temp_path(&dir, "round.safetensors");
  fk_safetensors *f;
  assert_int_equal(fk_safetensors_write(path, items, 5, metadata), FK_OK);
  assert_int_equal(fk_safetensors_write(path, items, 5, metadata), FK_OK); /* replaces */
  assert_int_equal(temp_count(&dir), 1);
  assert_int_equal(fk_safetensors_open(path, &f), FK_OK);
  assert_int_equal(fk_safetensors_count(f), 5);
  for (size_t i = 0; i < 5; i++) {
    const fk_stored *t = fk_safetensors_find(f, items[i].name);
    assert_non_null(t);
    assert_int_equal(t->type, items[i].type);
    assert_int_equal(t->ndim, items[i].ndim);
    assert_memory_equal(t->shape, items[i].shape, sizeof *t->shape * (size_t)t->ndim);
    assert_int_equal(t->bytes, fk_type_bytes(t->type, fk_stored_numel(t)));
    if (t->bytes) assert_memory_equal(t->data, items[i].data, t->bytes);
    assert_true(fk_safetensors_aligned(t));
  }
  assert_string_equal(fk_safetensors_metadata(f, "who"), "me");
  assert_string_equal(fk_safetensors_at(f, 0)->name, ""); /* the widest first */
  assert_null(fk_safetensors_at(f, 5));
  double back[6];
  assert_int_equal(fk_safetensors_read(fk_safetensors_find(f, "wide"), FK_F64, back), FK_OK);
  for (int i = 0; i < 6; i++) assert_true(back[i] == i + 1);
  assert_int_equal(fk_safetensors_read(fk_safetensors_find(f, "wide"), FK_I32, back), FK_ERROR_ARGUMENT);
  assert_string_equal(fk_last_error(),
                      "tensor \"wide\": cannot convert float32 to int32: both must be floating point or both integer");
  fk_safetensors_close(f);
  assert_int_equal(fk_safetensors_write(path, NULL, 0, NULL), FK_OK);
  assert_int_equal(fk_safetensors_open(path, &f), FK_OK);
  assert_int_equal(fk_safetensors_count(f), 0);
  assert_null(fk_safetensors_find(f, "wide"));
  fk_safetensors_close(f);
  temp_clear(&dir);
}

#define T(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"

static void unaligned_data_is_readable(void **state) {
  (void)state;
  size_t size;
  char *bytes = make_file("{\"b\":" T("U8", "1", "0,1") ",\"i\":" T("I32", "2", "1,9") "}", 9, &size);
  fk_safetensors *f;
  int64_t back[2];
  assert_int_equal(fk_safetensors_open_memory(bytes, size, "memory", &f), FK_OK);
  const fk_stored *i = fk_safetensors_find(f, "i"), *b = fk_safetensors_find(f, "b");
  assert_true(fk_safetensors_aligned(b));
  assert_int_equal(fk_safetensors_aligned(i), (uintptr_t)i->data % 4 == 0);
  assert_int_equal(fk_safetensors_read(i, FK_I64, back), FK_OK);
  assert_int_equal(back[0], 0x04030201);
  assert_int_equal(back[1], 0x08070605);
  fk_safetensors_close(f);
  free(bytes);
}

static void bad_headers_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *header;
    size_t data;
    fk_status status;
    const char *message;
  } cases[] = {
      {"", 0, FK_ERROR_FORMAT, "does not begin with {"},
      {" {}", 0, FK_ERROR_FORMAT, "does not begin with {"},
      {"[]", 0, FK_ERROR_FORMAT, "does not begin with {"},
      {"{", 0, FK_ERROR_FORMAT, "f:1:"},
      {"{} x", 0, FK_ERROR_FORMAT, "f:1:"},
      {"{\"a\":\"\xff\"}", 0, FK_ERROR_FORMAT, "unable to decode byte 0xff"},
      {"{\"a\\u0000b\":1}", 0, FK_ERROR_FORMAT, "NUL"},
      {"{\"a\":" T("U8", "1", "0,1") ",\"a\":" T("U8", "1", "0,1") "}", 1, FK_ERROR_FORMAT, "duplicate"},
      {"{\"a\":5}", 0, FK_ERROR_FORMAT, "f: a: expected an object, got 5"},
      {"{\"__metadata__\":[]}", 0, FK_ERROR_FORMAT, "f: __metadata__: expected an object"},
      {"{\"__metadata__\":{\"k\":1}}", 0, FK_ERROR_FORMAT, "f: __metadata__.k: expected a string, got 1"},
      {"{\"a\":" T("Q3", "1", "0,1") "}", 1, FK_ERROR_UNSUPPORTED, "tensor \"a\": unknown dtype \"Q3\""},
      {"{\"a\":" T("uint8", "1", "0,1") "}", 1, FK_ERROR_UNSUPPORTED, "tensor \"a\": unknown dtype \"uint8\""},
      {"{\"a\":{\"dtype\":3,\"shape\":[],\"data_offsets\":[0,1]}}", 1, FK_ERROR_FORMAT, "a.dtype: expected a string"},
      {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, FK_ERROR_FORMAT,
       "a.shape: expected an array, got nothing"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, FK_ERROR_FORMAT,
       "a.data_offsets: expected an array, got nothing"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0}}", 1, FK_ERROR_FORMAT, "expected only"},
      {"{\"a\":" T("U8", "-1", "0,1") "}", 1, FK_ERROR_FORMAT, "a.shape[0]: expected an integer from 0"},
      {"{\"a\":" T("U8", "1.0", "0,1") "}", 1, FK_ERROR_FORMAT, "a.shape[0]: expected an integer from 0"},
      {"{\"a\":" T("U8", "\"1\"", "0,1") "}", 1, FK_ERROR_FORMAT, "a.shape[0]: expected an integer from 0"},
      {"{\"a\":" T("U8", "99999999999999999999", "0,1") "}", 1, FK_ERROR_FORMAT, "too big integer"},
      {"{\"a\":" T("U8", "1,1,1,1,1,1,1,1,1", "0,1") "}", 1, FK_ERROR_FORMAT,
       "a.shape: expected an array of at most 8"},
      {"{\"a\":" T("U8", "4294967296,4294967296", "0,0") "}", 0, FK_ERROR_FORMAT, "tensor \"a\": shape is too large"},
      {"{\"a\":" T("F64", "4611686018427387904", "0,0") "}", 0, FK_ERROR_FORMAT, "tensor \"a\": shape is too large"},
      {"{\"a\":" T("F4", "3", "0,2") "}", 2, FK_ERROR_FORMAT, "whole bytes"},
      {"{\"a\":" T("U8", "1", "0") "}", 1, FK_ERROR_FORMAT, "data_offsets: expected two integers"},
      {"{\"a\":" T("U8", "1", "0,1,2") "}", 1, FK_ERROR_FORMAT, "a.data_offsets: expected an array of at most 2"},
      {"{\"a\":" T("U8", "1", "1,0") "}", 1, FK_ERROR_FORMAT, "data_offsets 1 to 0 are not within"},
      {"{\"a\":" T("U8", "2", "0,2") "}", 1, FK_ERROR_FORMAT, "data_offsets 0 to 2 are not within the 1 bytes"},
      {"{\"a\":" T("U8", "1", "-1,0") "}", 1, FK_ERROR_FORMAT, "a.data_offsets[0]: expected an integer from 0"},
      {"{\"a\":" T("F32", "1", "0,3") "}", 3, FK_ERROR_FORMAT, "dtype and shape need 4 bytes, data_offsets give 3"},
      {"{\"a\":" T("U8", "2", "0,2") ",\"b\":" T("U8", "2", "1,3") "}", 3, FK_ERROR_FORMAT,
       "tensor \"b\": its data overlaps"},
      {"{\"a\":" T("U8", "1", "0,1") ",\"b\":" T("U8", "1", "0,1") "}", 1, FK_ERROR_FORMAT, "overlaps"},
      {"{\"a\":" T("U8", "1", "0,1") ",\"b\":" T("U8", "1", "2,3") "}", 3, FK_ERROR_FORMAT,
       "1 bytes before tensor \"b\""},
      {"{\"a\":" T("U8", "1", "0,1") "}", 4, FK_ERROR_FORMAT, "the last 3 bytes belong to no tensor"},
      {"{}", 1, FK_ERROR_FORMAT, "the last 1 bytes belong to no tensor"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t size;
    char *bytes = make_file(cases[i].header, cases[i].data, &size);
    fk_safetensors *f = (fk_safetensors *)(void *)&i;
    fk_status status = fk_safetensors_open_memory(bytes, size, "f", &f);
    assert_null(f);
    if (status != cases[i].status || !strstr(fk_last_error(), cases[i].message))
      fail_msg("%s\ngave %s: %s\nnot %s", cases[i].header, fk_status_name(status), fk_last_error(), cases[i].message);
    free(bytes);
  }
}

static void deep_headers_are_refused(void **state) {
  (void)state;
  enum { DEPTH = 200000 };
  char *header = malloc(DEPTH + 6), *bytes;
  size_t size;
  fk_safetensors *f;
  assert_non_null(header);
  strcpy(header, "{\"a\":");
  memset(header + 5, '[', DEPTH);
  header[DEPTH + 5] = 0;
  bytes = make_file(header, 0, &size);
  assert_int_equal(fk_safetensors_open_memory(bytes, size, "f", &f), FK_ERROR_FORMAT);
  assert_non_null(strstr(fk_last_error(), "depth"));
  free(bytes), free(header);
}

/* Every prefix of a good file is an error. */
static void cut_files_are_refused(void **state) {
  (void)state;
  size_t size;
  char *bytes = make_file("{\"a\":" T("F32", "2", "0,8") "}  ", 8, &size);
  fk_safetensors *f;
  for (size_t n = 0; n < size; n++) {
    char *part = malloc(n ? n : 1);
    assert_non_null(part);
    memcpy(part, bytes, n);
    assert_int_equal(fk_safetensors_open_memory(part, n, "f", &f), FK_ERROR_FORMAT);
    assert_null(f);
    const char *path = temp_write(&dir, "cut", part, n);
    assert_int_equal(fk_safetensors_open(path, &f), FK_ERROR_FORMAT);
    assert_memory_equal(fk_last_error(), path, strlen(path));
    free(part);
  }
  assert_int_equal(fk_safetensors_open_memory(bytes, size, "f", &f), FK_OK);
  fk_safetensors_close(f);
  memset(bytes, 0xff, 8);
  assert_int_equal(fk_safetensors_open_memory(bytes, size, "f", &f), FK_ERROR_FORMAT);
  assert_non_null(strstr(fk_last_error(), "header of at most 100000000 bytes"));
  free(bytes);
  temp_clear(&dir);
}

static void missing_files_are_reported(void **state) {
  (void)state;
  fk_safetensors *f;
  assert_int_equal(fk_safetensors_open(temp_path(&dir, "nothing"), &f), FK_ERROR_NOT_FOUND);
  assert_null(f);
  assert_int_equal(fk_safetensors_open(dir.path, &f), FK_ERROR_IO);
  assert_non_null(strstr(fk_last_error(), "expected a regular file, got a folder"));
  assert_int_equal(mkfifo(temp_path(&dir, "fifo"), 0600), 0);
  assert_int_equal(fk_safetensors_open(temp_path(&dir, "fifo"), &f), FK_ERROR_IO);
  temp_clear(&dir);
  fk_safetensors_close(NULL);
}

static void bad_items_are_not_written(void **state) {
  (void)state;
  const float x[4] = {0};
  const fk_stored good = {.name = "a", .type = FK_F32, .ndim = 1, .shape = {4}, .data = x};
  static const char *const messages[] = {"cannot name",       "cannot name", "cannot name", "unknown dtype",
                                         "0 to 8 dimensions", "negative",    "too large",   "whole bytes",
                                         "has no data",       "two tensors"};
  fk_stored items[10][2];
  for (int i = 0; i < 10; i++) items[i][0] = items[i][1] = good, items[i][1].name = "b";
  items[0][1].name = NULL;
  items[1][1].name = "__metadata__";
  items[2][1].name = "\xc0\x80";
  items[3][1].type = (fk_type)0x7f20;
  items[4][1].ndim = 9;
  items[5][1].shape[0] = -1;
  items[6][1].shape[0] = INT64_MAX / 2;
  items[7][1].type = FK_F4_E2M1, items[7][1].shape[0] = 3;
  items[8][1].data = NULL;
  items[9][1].name = "a";
  for (int i = 0; i < 10; i++) {
    assert_int_equal(fk_safetensors_write(temp_path(&dir, "x"), items[i], 2, NULL), FK_ERROR_ARGUMENT);
    if (!strstr(fk_last_error(), messages[i])) fail_msg("%s\nnot %s", fk_last_error(), messages[i]);
    assert_int_equal(temp_count(&dir), 0);
  }
  const char *const metadata[] = {"key", "\xff", NULL};
  assert_int_equal(fk_safetensors_write(temp_path(&dir, "x"), &good, 1, metadata), FK_ERROR_ARGUMENT);
  assert_int_equal(temp_count(&dir), 0);
}

/* A limit on file sizes stands for a full disk: the old file stays, and nothing else. */
static void failed_writes_leave_the_old_file(void **state) {
  (void)state;
  enum { N = 100000 };
  float *x = calloc(N, sizeof *x);
  assert_non_null(x);
  const fk_stored large = {.name = "a", .type = FK_F32, .ndim = 1, .shape = {N}, .data = x};
  const char *path = temp_text(&dir, "kept", "old");
  struct rlimit old, small;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
  small = (struct rlimit){4096, old.rlim_max};
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
  fk_status status = fk_safetensors_write(path, &large, 1, NULL);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
  assert_int_equal(status, FK_ERROR_IO);
  assert_non_null(strstr(fk_last_error(), "cannot write"));
  assert_int_equal(temp_count(&dir), 1);
  char text[8] = "";
  FILE *f = fopen(path, "rb");
  assert_int_equal(fread(text, 1, 8, f), 3);
  fclose(f);
  assert_string_equal(text, "old");
  assert_int_equal(fk_safetensors_write(temp_path(&dir, "no/such/folder"), &large, 1, NULL), FK_ERROR_NOT_FOUND);
  assert_int_equal(mkdir(temp_path(&dir, "folder"), 0700), 0);
  assert_int_equal(fk_safetensors_write(temp_path(&dir, "folder"), &large, 1, NULL), FK_ERROR_IO);
  assert_non_null(strstr(fk_last_error(), "cannot replace"));
  assert_int_equal(temp_count(&dir), 2);
  temp_clear(&dir);
  free(x);
}

static void many_tensors(void **state) {
  (void)state;
  enum { N = 50000 };
  fk_stored *items = calloc(N, sizeof *items);
  char(*names)[32] = calloc(N, sizeof *names);
  int32_t *values = calloc(N, sizeof *values);
  assert_true(items && names && values);
  for (int i = 0; i < N; i++) {
    snprintf(names[i], sizeof *names, "layer.%d.w", i);
    values[i] = i * 7;
    items[i] = (fk_stored){.name = names[i], .type = FK_I32, .ndim = 1, .shape = {1}, .data = &values[i]};
  }
  const char *path = temp_path(&dir, "many");
  fk_safetensors *f;
  assert_int_equal(fk_safetensors_write(path, items, N, NULL), FK_OK);
  assert_int_equal(fk_safetensors_open(path, &f), FK_OK);
  assert_int_equal(fk_safetensors_count(f), N);
  for (int i = 0; i < N; i++) {
    const fk_stored *t = fk_safetensors_find(f, names[i]);
    assert_non_null(t);
    assert_int_equal(fk_load_i64(FK_I32, t->data, 0), i * 7);
  }
  fk_safetensors_close(f);
  temp_clear(&dir);
  free(items), free(names), free(values);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_dtype_from_python),          cmocka_unit_test(round_trip),
      cmocka_unit_test(unaligned_data_is_readable),       cmocka_unit_test(bad_headers_are_refused),
      cmocka_unit_test(deep_headers_are_refused),         cmocka_unit_test(cut_files_are_refused),
      cmocka_unit_test(missing_files_are_reported),       cmocka_unit_test(bad_items_are_not_written),
      cmocka_unit_test(failed_writes_leave_the_old_file), cmocka_unit_test(many_tensors),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
