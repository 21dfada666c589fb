/* The n-th allocation fails, for n = 1, 2, 3, ... until none does: every reader must say so and leak nothing. The
 * linker sends the allocator's calls of this program through the wrappers below; jansson and PCRE2 are libraries of
 * their own, so jansson is told to use them, and PCRE2 allocates as ever. jansson's parser (2.14) does not survive a
 * failed allocation in its scanner; the sweeps over readers therefore spare it and fail everything else, those over
 * writers fail both. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cmocka.h wants the headers above first. */
#include <cmocka.h>
#include <jansson.h>

#include "io/checkpoint.h"
#include "io/tokenizer.h"
#include "temp_dir.h"

static long countdown; /* allocations left before one fails; 0 = none fails */
static long live;      /* blocks allocated and not freed since the sweep began */

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
char *__wrap_strdup(const char *text);

static bool spare_json; /* jansson's allocations succeed */

static bool fails_now(void) {
  return countdown > 0 && --countdown == 0;
}

void *__wrap_malloc(size_t size) {
  return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size) {
  return fails_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size) {
  return fails_now() ? NULL : __real_realloc(p, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size) {
  return fails_now() ? NULL : __real_aligned_alloc(align, size);
}

char *__wrap_strdup(const char *text) {
  return fails_now() ? NULL : __real_strdup(text);
}

/* jansson's blocks are counted as well, since no leak checker may be running. */
static void *json_alloc(size_t size) {
  void *p = !spare_json && fails_now() ? NULL : __real_malloc(size);
  live += p != NULL;
  return p;
}

static void json_release(void *p) {
  live -= p != NULL;
  free(p);
}

static temp_dir dir;
static char tokenizer_path[600];

static fk_status open_safetensors(void) {
  fk_safetensors *f;
  fk_status status = fk_safetensors_open(temp_path(&dir, "s1.safetensors"), &f);
  assert_int_equal(status == FK_OK, f != NULL);
  fk_safetensors_close(f);
  return status;
}

static fk_status write_safetensors(void) {
  const float x[3] = {1, 2, 3};
  const fk_stored items[] = {{.name = "a", .type = FK_F32, .ndim = 1, .shape = {3}, .data = x},
                             {.name = "b", .type = FK_F32, .ndim = 2, .shape = {3, 1}, .data = x}};
  const char *const metadata[] = {"format", "pt", NULL};
  return fk_safetensors_write(temp_path(&dir, "out.safetensors"), items, 2, metadata);
}

static fk_status open_checkpoint(void) {
  fk_checkpoint *c;
  fk_status status = fk_checkpoint_open(dir.path, &c);
  assert_int_equal(status == FK_OK, c != NULL);
  fk_checkpoint_close(c);
  return status;
}

static fk_status load_json(void) {
  json_t *root;
  fk_status status = fk_json_load(temp_path(&dir, "config.json"), 1000, &root);
  assert_int_equal(status == FK_OK, root != NULL);
  json_decref(root);
  return status;
}

static fk_status write_json(void) {
  json_t *root = json_true();
  return fk_json_write(temp_path(&dir, "out.json"), root);
}

static fk_status load_tokenizer(void) {
  fk_tokenizer *t;
  fk_status status = fk_tokenizer_load(tokenizer_path, &t);
  assert_int_equal(status == FK_OK, t != NULL);
  fk_tokenizer_destroy(t);
  return status;
}

static fk_tokenizer *shared;

static fk_status encode_and_decode(void) {
  static const char text[] = "the quick brown fox<|end|> jumps over the other dog";
  int32_t *ids;
  size_t count, size;
  char *bytes;
  fk_arena arena;
  fk_arena_init(&arena, &fk_host_memory, 0);
  fk_status status = fk_tokenizer_encode(shared, text, sizeof text - 1, &arena, &ids, &count);
  if (status == FK_OK) status = fk_tokenizer_decode(shared, ids, count, false, &arena, &bytes, &size);
  if (status == FK_OK) assert_string_equal(bytes, text);
  fk_arena_destroy(&arena);
  return status;
}

static void sweep(fk_status (*run)(void), bool fail_json, long least) {
  spare_json = !fail_json;
  long n = 1;
  for (;; n++) {
    long before = live;
    countdown = n;
    fk_status status = run();
    bool met = countdown == 0;
    countdown = 0;
    assert_int_equal(live, before);
    if (!met) {
      if (status != FK_OK) fail_msg("%s", fk_last_error());
      break;
    }
    if (status != FK_ERROR_MEMORY) fail_msg("allocation %ld: %s: %s", n, fk_status_name(status), fk_last_error());
    assert_true(n < 10000000);
  }
  assert_true(n >= least); /* the failures did reach the code */
}

static void safetensors_open(void **state) {
  (void)state;
  sweep(open_safetensors, false, 4);
}

static void safetensors_write(void **state) {
  (void)state;
  sweep(write_safetensors, true, 20);
  assert_int_equal(access(temp_path(&dir, "out.safetensors"), F_OK), 0);
}

static void checkpoint_open(void **state) {
  (void)state;
  sweep(open_checkpoint, false, 12);
}

static void json_load(void **state) {
  (void)state;
  sweep(load_json, false, 1);
  sweep(write_json, true, 3);
}

static void tokenizer_load(void **state) {
  (void)state;
  sweep(load_tokenizer, false, 200);
}

static void tokenizer_encode(void **state) {
  (void)state;
  assert_int_equal(fk_tokenizer_load(tokenizer_path, &shared), FK_OK);
  sweep(encode_and_decode, true, 5);
  fk_tokenizer_destroy(shared);
}

static int setup(void **state) {
  (void)state;
  json_set_alloc_funcs(json_alloc, json_release);
  if (temp_dir_make(&dir)) return -1;
  snprintf(tokenizer_path, sizeof tokenizer_path, "%s",
           FK_SOURCE_DIR "/tests/golden/fixtures/tokenizer/llama3.tokenizer.json");
  const float x[2] = {1, 2};
  const fk_stored a = {.name = "a", .type = FK_F32, .ndim = 1, .shape = {2}, .data = x};
  const fk_stored b = {.name = "b", .type = FK_F32, .ndim = 1, .shape = {2}, .data = x};
  temp_text(&dir, "config.json", "{\"layers\": 2, \"list\": [1, 2.5, \"x\", {\"y\": null}]}");
  temp_text(&dir, "model.safetensors.index.json",
            "{\"weight_map\": {\"a\": \"s1.safetensors\", \"b\": \"s2.safetensors\"}}");
  return fk_safetensors_write(temp_path(&dir, "s1.safetensors"), &a, 1, NULL) ||
         fk_safetensors_write(temp_path(&dir, "s2.safetensors"), &b, 1, NULL);
}

static int teardown(void **state) {
  (void)state;
  temp_dir_remove(&dir);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(safetensors_open), cmocka_unit_test(safetensors_write), cmocka_unit_test(checkpoint_open),
      cmocka_unit_test(json_load),        cmocka_unit_test(tokenizer_load),    cmocka_unit_test(tokenizer_encode),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
