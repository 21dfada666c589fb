/* Every allocation of parsing a definition, of making a context and of a composite call fails once: an error each time,
 * no crash, no leak, and the next attempt works. */
#include <stdlib.h>

#include "core_helpers.h"

static long allocations, fail_at = -1;

/* True when this allocation is the one to fail. */
static bool strikes(void) {
  return allocations++ == fail_at;
}

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

void *__wrap_malloc(size_t size) {
  return strikes() ? NULL : __real_malloc(size);
}
void *__wrap_calloc(size_t n, size_t size) {
  return strikes() ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t size) {
  return strikes() ? NULL : __real_realloc(p, size);
}
void *__wrap_aligned_alloc(size_t align, size_t size) {
  return strikes() ? NULL : __real_aligned_alloc(align, size);
}
char *__wrap_strdup(const char *text) {
  return strikes() ? NULL : __real_strdup(text);
}

/* Small chunks, so that many allocations of the arena reach the allocator; jansson's own go through its hook. */
enum { SMALL_CHUNK = 64 };
void json_set_alloc_funcs(void *(*malloc_fn)(size_t), void (*free_fn)(void *));

static fk_status parse_once(const char *json) {
  fk_arena arena;
  fk_arena_init(&arena, &fk_host_memory, SMALL_CHUNK);
  fk_task *task = (fk_task *)1;
  fk_status status = fk_task_parse(&arena, json, strlen(json), "task.json", &task);
  if (status != FK_OK) assert_null(task);
  fk_arena_destroy(&arena);
  return status;
}

static void test_task_parse(void **state) {
  (void)state;
  const char *json = fk_task_find("rms_norm")->json;
  json_set_alloc_funcs(__wrap_malloc, free);
  allocations = 0;
  fail_at = -1;
  assert_int_equal(parse_once(json), FK_OK);
  long total = allocations;
  assert_true(total > 50);
  long failures = 0;
  for (long i = 0; i < total; i++) {
    allocations = 0;
    fail_at = i;
    fk_status status = parse_once(json);
    fail_at = -1;
    failures += status != FK_OK;
    /* jansson has allocations whose failure it reports as bad syntax, and some that it can do without (FK_OK). */
    if (status != FK_ERROR_MEMORY && status != FK_ERROR_FORMAT && status != FK_OK)
      fail_msg("allocation %ld of %ld: %s", i, total, fk_status_name(status));
  }
  assert_true(failures > total / 2);
  assert_int_equal(parse_once(json), FK_OK);
}

static fk_status compute_once(void) {
  fk_context *ctx;
  FK_TRY(fk_context_create(&(fk_context_options){.backend = FK_REF}, &ctx));
  fk_tensor *x = fk_empty(ctx, FK_F32, 2, 4), *weight = fk_empty(ctx, FK_F32, 4), *out = fk_empty(ctx, FK_F32, 2, 4);
  for (int i = 0; x && i < 8; i++) ((float *)x->data)[i] = 1;
  for (int i = 0; weight && i < 4; i++) ((float *)weight->data)[i] = 1;
  fk_status status = fk_call(ctx, "rms_norm", x, weight, 0.0, out);
  if (!status) assert_true(((float *)out->data)[7] == 1);
  fk_context_destroy(ctx);
  return status;
}

static void test_context_and_call(void **state) {
  (void)state;
  assert_non_null(fk_task_find("rms_norm")); /* the registry loads once, and not here */
  allocations = 0;
  fail_at = -1;
  assert_int_equal(compute_once(), FK_OK);
  long total = allocations;
  assert_true(total >= 3);
  for (long i = 0; i < total; i++) {
    allocations = 0;
    fail_at = i;
    fk_status status = compute_once();
    fail_at = -1;
    if (status != FK_ERROR_MEMORY) fail_msg("allocation %ld of %ld: %s", i, total, fk_status_name(status));
  }
  assert_int_equal(compute_once(), FK_OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_task_parse),
      cmocka_unit_test(test_context_and_call),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
