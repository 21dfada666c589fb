/* Arenas: alignment, marks, reuse, accounting, and a memory that runs out. */
#include <stdlib.h>

#include "core_helpers.h"

typedef struct counted {
  fk_memory memory;
  int allocs, releases, fail_after;
  size_t bytes;
} counted;

static void *counted_alloc(fk_memory *self, size_t bytes) {
  counted *c = (counted *)self;
  if (c->allocs == c->fail_after) return NULL;
  c->allocs++;
  c->bytes += bytes;
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void counted_release(fk_memory *self, void *block, size_t bytes) {
  counted *c = (counted *)self;
  c->releases++;
  c->bytes -= bytes;
  free(block);
}

static counted counted_memory(int fail_after) {
  return (counted){.memory = {counted_alloc, counted_release}, .fail_after = fail_after};
}

static void test_alignment(void **state) {
  (void)state;
  fk_arena arena;
  fk_arena_init(&arena, &fk_host_memory, 256);
  for (size_t align = 1; align <= 64; align *= 2) {
    assert_non_null(fk_arena_alloc(&arena, 3, 1));
    assert_int_equal((uintptr_t)fk_arena_alloc(&arena, 5, align) % align, 0);
  }
  assert_non_null(fk_arena_alloc(&arena, 0, 64));
  fk_arena_destroy(&arena);
}

static void test_allocations_do_not_overlap(void **state) {
  (void)state;
  fk_arena arena;
  fk_arena_init(&arena, &fk_host_memory, 128);
  unsigned char *blocks[64];
  for (int i = 0; i < 64; i++) {
    blocks[i] = fk_arena_alloc(&arena, (size_t)i * 7 + 1, 8);
    memset(blocks[i], i, (size_t)i * 7 + 1);
  }
  for (int i = 0; i < 64; i++)
    for (int k = 0; k < i * 7 + 1; k++) assert_int_equal(blocks[i][k], i);
  fk_arena_destroy(&arena);
}

static void test_rewind_reuses(void **state) {
  (void)state;
  counted memory = counted_memory(-1);
  fk_arena arena;
  fk_arena_init(&arena, &memory.memory, 1024);
  char *kept = fk_arena_strdup(&arena, "kept");
  fk_arena_mark mark = fk_arena_save(&arena);
  size_t in_use = arena.in_use;
  for (int round = 0; round < 100; round++) {
    for (int i = 0; i < 5; i++) assert_non_null(fk_arena_alloc(&arena, 900, 64));
    fk_arena_rewind(&arena, mark);
    assert_int_equal(arena.in_use, in_use);
  }
  assert_string_equal(kept, "kept");
  assert_true(memory.allocs <= 6); /* the chunks of the first round served the others */
  assert_true(arena.peak >= 5 * 900);
  fk_arena_destroy(&arena);
  assert_int_equal(memory.allocs, memory.releases);
  assert_int_equal(memory.bytes, 0);
  assert_non_null(fk_arena_alloc(&arena, 10, 1)); /* usable again */
  fk_arena_destroy(&arena);
}

static void test_rewind_to_empty(void **state) {
  (void)state;
  fk_arena arena;
  fk_arena_init(&arena, &fk_host_memory, 0);
  fk_arena_mark empty = fk_arena_save(&arena);
  assert_non_null(fk_arena_alloc(&arena, 100, 1));
  fk_arena_rewind(&arena, empty);
  assert_int_equal(arena.in_use, 0);
  assert_null(arena.top);
  fk_arena_destroy(&arena);
}

static void test_out_of_memory(void **state) {
  (void)state;
  counted memory = counted_memory(1);
  fk_arena arena;
  fk_arena_init(&arena, &memory.memory, 128);
  assert_non_null(fk_arena_alloc(&arena, 100, 1));
  assert_null(fk_arena_alloc(&arena, 100, 1));
  assert_non_null(strstr(fk_last_error(), "cannot allocate 100 bytes (100 in use)"));
  assert_non_null(fk_arena_alloc(&arena, 20, 1)); /* what fits still fits */
  assert_null(fk_arena_strdup(&arena, "a string that is longer than the rest"));
  assert_null(fk_arena_printf(&arena, "%100d", 1));
  assert_null(fk_arena_calloc(&arena, SIZE_MAX / 2, 3));
  assert_non_null(strstr(fk_last_error(), "items of 3 bytes"));
  fk_arena_destroy(&arena);
  fk_arena_init(&arena, &fk_host_memory, 0);
  assert_null(fk_arena_alloc(&arena, SIZE_MAX - 8, 1));
  fk_arena_destroy(&arena);
}

static void test_strings(void **state) {
  (void)state;
  fk_arena arena;
  fk_arena_init(&arena, &fk_host_memory, 64);
  assert_string_equal(fk_arena_printf(&arena, "%s-%d", "layer", 31), "layer-31");
  assert_string_equal(fk_arena_strdup(&arena, ""), "");
  int *zeros = fk_arena_calloc(&arena, 100, sizeof *zeros);
  for (int i = 0; i < 100; i++) assert_int_equal(zeros[i], 0);
  fk_arena_destroy(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_alignment),     cmocka_unit_test(test_allocations_do_not_overlap),
      cmocka_unit_test(test_rewind_reuses), cmocka_unit_test(test_rewind_to_empty),
      cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_strings),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
