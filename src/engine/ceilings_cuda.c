/* The limits of a GPU, measured (ceilings.h). */
#include "core/context.h"
#include "core/convert.h"
#include "engine/ceilings.h"

enum { REPEATS = 12, WARMUP = 3, MATRIX = 8192, FLUSH_PIECE = 1 << 20 };
#define COPY_BYTES ((size_t)1 << 30)

/* Milliseconds of the fastest repetition of a call. */
static fk_status fastest(fk_context *ctx, fk_status (*call)(fk_context *, void *), void *data, double *milliseconds) {
  fk_cuda_timer *timer;
  FK_TRY(fk_cuda_timer_create(ctx->cuda, &timer));
  fk_status status = FK_OK;
  *milliseconds = 1e30;
  for (int i = -WARMUP; i < REPEATS && !status; i++) {
    double elapsed = 0;
    status = fk_cuda_timer_start(ctx->cuda, timer);
    if (!status) status = call(ctx, data);
    if (!status) status = fk_cuda_timer_stop(ctx->cuda, timer);
    if (!status) status = fk_cuda_timer_elapsed(ctx->cuda, timer, &elapsed);
    if (i >= 0 && elapsed < *milliseconds) *milliseconds = elapsed;
  }
  fk_cuda_timer_destroy(timer);
  return status;
}

typedef struct copy {
  char *from, *to;
} copy;

static fk_status copy_once(fk_context *ctx, void *data) {
  const copy *c = data;
  return fk_cuda_copy(ctx->cuda, c->to, c->from, COPY_BYTES);
}

static fk_status matrix_once(fk_context *ctx, void *data) {
  fk_tensor **t = data;
  return fk_call(ctx, "linear", t[0], t[1], NULL, t[2]);
}

/* Numbers that are not all alike: a product of zeros runs faster than one of data. */
static fk_status fill(fk_context *ctx, fk_tensor *t) {
  fk_tensor *piece = fk_host(ctx, FK_BF16, FLUSH_PIECE);
  if (!piece || !t) return FK_ERROR_MEMORY;
  uint32_t state = 1;
  for (int64_t i = 0; i < FLUSH_PIECE; i++) {
    state = state * 1664525u + 1013904223u;
    fk_store_f64(FK_BF16, piece->data, i, ((double)(state >> 8) / (1 << 24) - 0.5) * 2);
  }
  size_t bytes = fk_type_bytes(FK_BF16, fk_numel(t)), step = fk_type_bytes(FK_BF16, FLUSH_PIECE);
  for (size_t at = 0; at < bytes; at += step)
    FK_TRY(fk_cuda_upload(ctx->cuda, (char *)t->data + at, piece->data, bytes - at < step ? bytes - at : step));
  return FK_OK;
}

static fk_status measure(fk_context *ctx, fk_cuda_ceilings *ceilings) {
  double milliseconds = 0;
  fk_memory *memory = fk_cuda_memory(ctx->cuda);
  copy c = {memory->alloc(memory, COPY_BYTES), memory->alloc(memory, COPY_BYTES)};
  fk_status status = c.from && c.to ? FK_OK : fk_fail(FK_ERROR_MEMORY, "cuda: no memory to measure a copy in");
  if (!status) status = fk_cuda_fill(ctx->cuda, c.from, 1, COPY_BYTES);
  if (!status) status = fastest(ctx, copy_once, &c, &milliseconds);
  if (c.from) memory->release(memory, c.from, COPY_BYTES);
  if (c.to) memory->release(memory, c.to, COPY_BYTES);
  FK_TRY(status);
  ceilings->bytes_per_second = 2e3 * (double)COPY_BYTES / milliseconds;
  fk_tensor *t[3] = {fk_empty(ctx, FK_BF16, MATRIX, MATRIX), fk_empty(ctx, FK_BF16, MATRIX, MATRIX),
                     fk_empty(ctx, FK_BF16, MATRIX, MATRIX)};
  for (int i = 0; i < 3; i++) FK_TRY(fill(ctx, t[i]));
  FK_TRY(fastest(ctx, matrix_once, t, &milliseconds));
  ceilings->flops_per_second = 2e3 * (double)MATRIX * MATRIX * MATRIX / milliseconds;
  return FK_OK;
}

fk_status fk_measure_cuda(fk_context *ctx, fk_cuda_ceilings *ceilings) {
  *ceilings = (fk_cuda_ceilings){0};
  if (!ctx->cuda) return fk_fail(FK_ERROR_ARGUMENT, "cuda: expected a context of a GPU");
  fk_context_mark mark = fk_context_save(ctx);
  fk_status status = measure(ctx, ceilings);
  fk_context_rewind(ctx, mark);
  ctx->pending = FK_OK;
  return status;
}
