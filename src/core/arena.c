#include "core/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fastkernels/status.h"

enum { ALIGNMENT = 64, HUGE_PAGE = 2 << 20, DEFAULT_CHUNK = 1 << 20 };

static void *host_alloc(fk_memory *self, size_t bytes) {
  (void)self;
  size_t align = bytes >= 2 * (size_t)HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
  if (bytes > SIZE_MAX - align) return NULL;
  void *p = aligned_alloc(align, (bytes + align - 1) / align * align);
#ifdef MADV_HUGEPAGE
  /* Weights and caches are read front to back: huge pages save the TLB misses. */
  if (p && align == HUGE_PAGE) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return p;
}

static void host_release(fk_memory *self, void *block, size_t bytes) {
  (void)self;
  (void)bytes;
  free(block);
}

fk_memory fk_host_memory = {host_alloc, host_release};

void fk_arena_init(fk_arena *arena, fk_memory *memory, size_t chunk_size) {
  *arena = (fk_arena){.memory = memory, .chunk_size = chunk_size ? chunk_size : DEFAULT_CHUNK};
}

/* Takes a spare chunk that is large enough, or asks the memory for a new one. */
static fk_arena_chunk *chunk_new(fk_arena *arena, size_t bytes) {
  for (fk_arena_chunk **link = &arena->spare; *link; link = &(*link)->next) {
    fk_arena_chunk *chunk = *link;
    if (chunk->size < bytes) continue;
    *link = chunk->next;
    chunk->used = 0;
    return chunk;
  }
  size_t size = bytes > arena->chunk_size ? bytes : arena->chunk_size;
  fk_arena_chunk *chunk = malloc(sizeof *chunk);
  if (!chunk) return NULL;
  *chunk = (fk_arena_chunk){.base = arena->memory->alloc(arena->memory, size), .size = size};
  if (!chunk->base) {
    free(chunk);
    return NULL;
  }
  return chunk;
}

void *fk_arena_alloc(fk_arena *arena, size_t bytes, size_t align) {
  fk_arena_chunk *chunk = arena->top;
  size_t start = chunk ? (chunk->used + align - 1) & ~(align - 1) : 0;
  if (!chunk || start > chunk->size || chunk->size - start < bytes) {
    chunk = chunk_new(arena, bytes ? bytes : 1);
    if (!chunk) {
      fk_fail(FK_ERROR_MEMORY, "cannot allocate %zu bytes (%zu in use)", bytes, arena->in_use);
      return NULL;
    }
    chunk->next = arena->top;
    arena->top = chunk;
    start = 0;
  }
  arena->in_use += start + bytes - chunk->used;
  if (arena->in_use > arena->peak) arena->peak = arena->in_use;
  chunk->used = start + bytes;
  return chunk->base + start;
}

void *fk_arena_calloc(fk_arena *arena, size_t n, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(n, size, &bytes)) {
    fk_fail(FK_ERROR_MEMORY, "cannot allocate %zu items of %zu bytes", n, size);
    return NULL;
  }
  void *p = fk_arena_alloc(arena, bytes, 16);
  if (p) memset(p, 0, bytes);
  return p;
}

char *fk_arena_strdup(fk_arena *arena, const char *text) {
  size_t n = strlen(text) + 1;
  char *copy = fk_arena_alloc(arena, n, 1);
  return copy ? memcpy(copy, text, n) : NULL;
}

char *fk_arena_printf(fk_arena *arena, const char *format, ...) {
  va_list ap, again;
  va_start(ap, format);
  va_copy(again, ap);
  int n = vsnprintf(NULL, 0, format, ap);
  char *text = n >= 0 ? fk_arena_alloc(arena, (size_t)n + 1, 1) : NULL;
  if (text) vsnprintf(text, (size_t)n + 1, format, again);
  va_end(again);
  va_end(ap);
  return text;
}

fk_arena_mark fk_arena_save(const fk_arena *arena) {
  return (fk_arena_mark){arena->top, arena->top ? arena->top->used : 0, arena->in_use};
}

void fk_arena_rewind(fk_arena *arena, fk_arena_mark mark) {
  while (arena->top != mark.top) {
    fk_arena_chunk *chunk = arena->top;
    arena->top = chunk->next;
    chunk->next = arena->spare;
    arena->spare = chunk;
  }
  if (arena->top) arena->top->used = mark.used;
  arena->in_use = mark.in_use;
}

static void chunks_free(fk_memory *memory, fk_arena_chunk *chunk) {
  while (chunk) {
    fk_arena_chunk *next = chunk->next;
    memory->release(memory, chunk->base, chunk->size);
    free(chunk);
    chunk = next;
  }
}

void fk_arena_destroy(fk_arena *arena) {
  if (!arena->memory) return;
  chunks_free(arena->memory, arena->top);
  chunks_free(arena->memory, arena->spare);
  fk_arena_init(arena, arena->memory, arena->chunk_size);
}
