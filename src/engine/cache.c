#include "engine/cache.h"

#include <stdlib.h>
#include <string.h>

enum { DEVICE_CHUNK = 64 << 20 };

static fk_status describe(const fk_model *model, fk_arena *arena, fk_cache_spec **specs, int *count) {
  *count = model->class->sequence->caches(model->state, NULL);
  *specs = fk_arena_calloc(arena, (size_t)*count + 1, sizeof **specs);
  if (!*specs) return FK_ERROR_MEMORY;
  model->class->sequence->caches(model->state, *specs);
  return FK_OK;
}

bool fk_model_has_state(const fk_model *model) {
  fk_arena arena;
  fk_arena_init(&arena, &fk_host_memory, 1 << 12);
  fk_cache_spec *specs;
  int count;
  bool found = false;
  if (describe(model, &arena, &specs, &count) == FK_OK)
    for (int i = 0; i < count; i++) found = found || specs[i].kind == FK_CACHE_STATE;
  fk_arena_destroy(&arena);
  return found;
}

static fk_status make(fk_context *ctx, const fk_cache_spec *spec, int64_t first, int64_t second, fk_caches *caches,
                      fk_tensor **out) {
  int64_t shape[FK_MAX_DIMS] = {first, second}, n = 1;
  int32_t ndim = spec->kind == FK_CACHE_PAGED ? 2 : 1;
  if (spec->ndim < 0 || spec->ndim > 4)
    return fk_fail(FK_ERROR_ARGUMENT, "cache %s: expected 0 to 4 dimensions, got %d", spec->name, spec->ndim);
  for (int32_t i = 0; i < spec->ndim; i++) shape[ndim++] = spec->shape[i];
  for (int32_t i = 0; i < ndim; i++)
    if (shape[i] < 0 || __builtin_mul_overflow(n, shape[i], &n) || n > INT64_MAX / 16)
      return fk_fail(FK_ERROR_ARGUMENT, "cache %s: dimension %d is %lld: negative or too large", spec->name, i,
                     (long long)shape[i]);
  bool wide = fk_context_backend(ctx) == FK_REF && fk_type_is_float(spec->type);
  fk_type type = wide ? FK_F64 : spec->type;
  fk_tensor *t = fk_arena_calloc(&caches->arena, 1, sizeof *t);
  int64_t *dims = fk_arena_calloc(&caches->arena, (size_t)ndim + 1, sizeof *dims);
  if (!t || !dims) return FK_ERROR_MEMORY;
  memcpy(dims, shape, (size_t)ndim * sizeof *dims);
  *t = (fk_tensor){.device = {FK_DL_CPU, 0}, .ndim = ndim, .dtype = fk_dtype_from(type), .shape = dims};
  size_t bytes = fk_type_bytes(type, n);
  caches->bytes += bytes;
  if (ctx->cuda) {
    t->device = (fk_device){FK_DL_CUDA, fk_cuda_device_id(ctx->cuda)};
    t->data = fk_arena_alloc(&caches->device, bytes, 256);
    if (!t->data) return fk_fail_in(FK_ERROR_MEMORY, "cache %s", spec->name);
    FK_TRY(fk_cuda_fill(ctx->cuda, t->data, 0, bytes));
  } else if (fk_context_backend(ctx) != FK_META) {
    t->data = fk_arena_alloc(&caches->arena, bytes, 64);
    if (!t->data) return fk_fail_in(FK_ERROR_MEMORY, "cache %s", spec->name);
    memset(t->data, 0, bytes);
  }
  *out = t;
  return FK_OK;
}

static fk_status create(fk_context *ctx, const fk_model *model, int64_t num_blocks, int64_t block_size,
                        int64_t num_slots, fk_caches *caches) {
  fk_cache_spec *specs;
  FK_TRY(describe(model, &caches->arena, &specs, &caches->count));
  caches->tensors = fk_arena_calloc(&caches->arena, (size_t)caches->count + 1, sizeof(fk_tensor *));
  if (!caches->tensors) return FK_ERROR_MEMORY;
  for (int i = 0; i < caches->count; i++) {
    bool paged = specs[i].kind == FK_CACHE_PAGED;
    caches->has_state = caches->has_state || !paged;
    FK_TRY(make(ctx, &specs[i], paged ? num_blocks : num_slots, block_size, caches, &caches->tensors[i]));
  }
  return FK_OK;
}

fk_status fk_caches_create(fk_context *ctx, const fk_model *model, int64_t num_blocks, int64_t block_size,
                           int64_t num_slots, fk_caches *caches) {
  *caches = (fk_caches){0};
  if (!model->class->sequence)
    return fk_fail(FK_ERROR_UNSUPPORTED, "%s: the model has no caches: it takes no steps", model->class->name);
  fk_arena_init(&caches->arena, &fk_host_memory, 1 << 16);
  if (ctx->cuda) fk_arena_init(&caches->device, fk_cuda_memory(ctx->cuda), DEVICE_CHUNK);
  fk_status status = create(ctx, model, num_blocks, block_size, num_slots, caches);
  if (status) fk_caches_destroy(caches);
  return status;
}

void fk_caches_destroy(fk_caches *caches) {
  fk_arena_destroy(&caches->arena);
  fk_arena_destroy(&caches->device);
  *caches = (fk_caches){0};
}
