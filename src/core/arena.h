/* Arena: many allocations, one lifetime.
 *
 * An arena hands out memory from large chunks and frees it all at once. There are three lifetimes: the model's
 * (weights), the session's (caches), the step's (temporaries; every fk_call rewinds what its task allocated).
 * The bytes come from an fk_memory, so that the same arena serves host memory and device memory. Descriptors
 * (structs, shapes, strings) always live in host arenas. Not thread-safe: one arena belongs to one thread. */
#ifndef FK_CORE_ARENA_H
#define FK_CORE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

/* A source of large blocks, at least 64-byte aligned. alloc returns NULL when it has no more. */
typedef struct fk_memory {
  void *(*alloc)(struct fk_memory *self, size_t bytes);
  void (*release)(struct fk_memory *self, void *block, size_t bytes);
} fk_memory;

/* Host memory, 64-byte aligned, 2 MiB-aligned and advised as huge pages for large blocks. */
extern fk_memory fk_host_memory;

typedef struct fk_arena_chunk {
  struct fk_arena_chunk *next; /* the chunk used before this one */
  char *base;
  size_t size, used;
} fk_arena_chunk;

typedef struct fk_arena {
  fk_memory *memory;
  fk_arena_chunk *top;   /* the chunk in use */
  fk_arena_chunk *spare; /* rewound chunks, kept for reuse */
  size_t chunk_size;     /* smallest chunk to ask for */
  size_t in_use, peak;   /* bytes handed out, now and at most */
} fk_arena;

typedef struct fk_arena_mark {
  fk_arena_chunk *top;
  size_t used, in_use;
} fk_arena_mark;

/* A zeroed fk_arena with memory set is ready for use; chunk_size 0 means 1 MiB. */
void fk_arena_init(fk_arena *arena, fk_memory *memory, size_t chunk_size);

/* Uninitialised bytes aligned to align (a power of two, at most 64 in host arenas, 256 in device arenas), or NULL with
 * the error set. Zero bytes yield a valid pointer. */
void *fk_arena_alloc(fk_arena *arena, size_t bytes, size_t align);

/* As fk_arena_alloc, for n items of a size, zeroed; only for host arenas. */
void *fk_arena_calloc(fk_arena *arena, size_t n, size_t size);

/* A copy of a string; only for host arenas. NULL with the error set when there is no memory. */
char *fk_arena_strdup(fk_arena *arena, const char *text);
char *fk_arena_printf(fk_arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

fk_arena_mark fk_arena_save(const fk_arena *arena);
void fk_arena_rewind(fk_arena *arena, fk_arena_mark mark);

/* Frees every chunk; the arena is then empty and usable again. */
void fk_arena_destroy(fk_arena *arena);

#endif
