/* Tensors as temporaries and views of a context (fastkernels.h). */
#include <string.h>

#include "core/context.h"
#include "core/convert.h"

bool fk_is_contiguous(const fk_tensor *t) {
  if (!t->strides) return true;
  int64_t expect = 1;
  for (int32_t i = t->ndim - 1; i >= 0; i--) {
    if (t->shape[i] == 0) return true;
    if (t->shape[i] != 1 && t->strides[i] != expect) return false;
    expect *= t->shape[i];
  }
  return true;
}

static fk_tensor *failed(fk_context *ctx, fk_status status) {
  ctx->pending = status;
  return NULL;
}

/* A descriptor with its shape and strides behind it; strides are filled as contiguous. */
static fk_tensor *descriptor(fk_context *ctx, fk_type type, const int64_t *shape, int32_t ndim) {
  if (!fk_type_bit(type)) return failed(ctx, fk_fail(FK_ERROR_ARGUMENT, "tensor: unknown dtype %#x", (unsigned)type));
  if (ndim < 0 || ndim > FK_MAX_DIMS)
    return failed(ctx, fk_fail(FK_ERROR_ARGUMENT, "tensor: expected 0 to %d dimensions, got %d", FK_MAX_DIMS, ndim));
  size_t dims = (size_t)ndim * sizeof(int64_t);
  fk_tensor *t = fk_arena_alloc(&ctx->host, sizeof *t + 2 * dims, 16);
  if (!t) return failed(ctx, FK_ERROR_MEMORY);
  *t = (fk_tensor){.device = {FK_DL_CPU, 0}, .ndim = ndim, .dtype = fk_dtype_from(type)};
  t->shape = (int64_t *)(t + 1);
  t->strides = t->shape + ndim;
  if (dims) memcpy(t->shape, shape, dims);
  int64_t stride = 1;
  for (int32_t i = ndim - 1; i >= 0; i--) {
    t->strides[i] = stride;
    int64_t size = shape[i] > 0 ? shape[i] : 1;
    if (shape[i] < 0 || __builtin_mul_overflow(stride, size, &stride) || stride > INT64_MAX / 16)
      return failed(ctx, fk_fail(FK_ERROR_ARGUMENT, "tensor: dimension %d is %lld: negative or too large", i,
                                 (long long)shape[i]));
  }
  return t;
}

enum { HOST_ALIGN = 64, DEVICE_ALIGN = 256 };

fk_tensor *fk_host_shape(fk_context *ctx, fk_type type, const int64_t *shape, int32_t ndim) {
  fk_tensor *t = descriptor(ctx, type, shape, ndim);
  if (!t || (ctx->backend == FK_META && fk_type_is_float(type))) return t;
  size_t bytes = fk_type_bytes(type, fk_numel(t));
  t->data = fk_arena_alloc(&ctx->host, bytes, HOST_ALIGN);
  if (!t->data) return failed(ctx, FK_ERROR_MEMORY);
  /* Integers that nobody computes on meta must still be readable. */
  if (ctx->backend == FK_META) memset(t->data, 0, bytes);
  return t;
}

fk_tensor *fk_empty_shape(fk_context *ctx, fk_type type, const int64_t *shape, int32_t ndim) {
  if (!ctx->cuda) return fk_host_shape(ctx, type, shape, ndim);
  fk_tensor *t = descriptor(ctx, type, shape, ndim);
  if (!t) return NULL;
  t->device = (fk_device){FK_DL_CUDA, fk_cuda_device_id(ctx->cuda)};
  t->data = fk_arena_alloc(&ctx->device, fk_type_bytes(type, fk_numel(t)), DEVICE_ALIGN);
  return t->data ? t : failed(ctx, FK_ERROR_MEMORY);
}

fk_tensor *fk_to_device(fk_context *ctx, fk_tensor *t) {
  if (!t || !ctx->cuda || t->device.type != FK_DL_CPU) return t;
  if (!fk_is_contiguous(t)) return failed(ctx, fk_fail(FK_ERROR_ARGUMENT, "to_device: expected a contiguous tensor"));
  fk_tensor *copy = fk_empty_like(ctx, t);
  if (!copy) return NULL;
  fk_status status = fk_cuda_upload(ctx->cuda, copy->data, fk_data(t), fk_type_bytes(fk_type_of(t), fk_numel(t)));
  return status ? failed(ctx, status) : copy;
}

fk_tensor *fk_to_host(fk_context *ctx, fk_tensor *t) {
  if (!t || t->device.type == FK_DL_CPU) return t;
  if (!ctx->cuda || !fk_is_contiguous(t))
    return failed(ctx, fk_fail(FK_ERROR_ARGUMENT, "to_host: expected a contiguous tensor of the context's device"));
  fk_tensor *copy = fk_host_shape(ctx, fk_type_of(t), t->shape, t->ndim);
  if (!copy) return NULL;
  fk_status status = fk_cuda_download(ctx->cuda, copy->data, fk_data(t), fk_type_bytes(fk_type_of(t), fk_numel(t)));
  return status ? failed(ctx, status) : copy;
}

fk_status fk_zero(fk_context *ctx, fk_tensor *t) {
  if (!t) return FK_ERROR_MEMORY; /* a failed temporary: already pending */
  if (!t->data) return FK_OK;     /* meta */
  if (!fk_is_contiguous(t)) return fk_fail(FK_ERROR_ARGUMENT, "zero: expected a contiguous tensor");
  size_t bytes = fk_type_bytes(fk_type_of(t), fk_numel(t));
  if (t->device.type != FK_DL_CPU && ctx->cuda) return fk_cuda_fill(ctx->cuda, fk_data(t), 0, bytes);
  memset(fk_data(t), 0, bytes);
  return FK_OK;
}

fk_tensor *fk_empty_like(fk_context *ctx, const fk_tensor *like) {
  if (!like) return NULL; /* a failed temporary: already pending */
  return fk_empty_shape(ctx, fk_type_of(like), like->shape, like->ndim);
}

fk_tensor *fk_wrap(fk_context *ctx, void *data, fk_type type, const int64_t *shape, int32_t ndim,
                   const int64_t *strides) {
  fk_tensor *t = descriptor(ctx, type, shape, ndim);
  if (!t) return NULL;
  t->data = data;
  if (ctx->cuda) t->device = (fk_device){FK_DL_CUDA, fk_cuda_device_id(ctx->cuda)};
  if (strides && ndim > 0) memcpy(t->strides, strides, (size_t)ndim * sizeof *strides);
  return t;
}

static fk_tensor *view_of(fk_context *ctx, const fk_tensor *t, const int64_t *shape, int32_t ndim) {
  fk_tensor *v = descriptor(ctx, fk_type_of(t), shape, ndim);
  if (!v) return NULL;
  v->data = t->data;
  v->device = t->device;
  v->byte_offset = t->byte_offset;
  return v;
}

/* Splits and merges dimensions as far as strides allow: merged dimensions must lie one after the other in memory.
 * Dimensions of size 1 are left out first, since their strides mean nothing. */
static bool view_strides(const fk_tensor *t, fk_tensor *v) {
  int64_t shape[FK_MAX_DIMS], strides[FK_MAX_DIMS];
  int32_t n = 0, j = v->ndim - 1;
  for (int32_t i = 0; i < t->ndim; i++) {
    if (t->shape[i] == 1) continue;
    shape[n] = t->shape[i];
    strides[n++] = fk_stride(t, i);
  }
  for (int32_t i = n - 1; i >= 0; i--) {
    int64_t stride = strides[i], run = shape[i], taken = 1;
    for (; i > 0 && strides[i - 1] == strides[i] * shape[i]; i--) run *= shape[i - 1];
    for (; j >= 0 && (taken < run || v->shape[j] == 1); j--) {
      v->strides[j] = stride * taken;
      taken *= v->shape[j];
    }
    if (taken != run) return false;
  }
  for (; j >= 0; j--) v->strides[j] = 1; /* only sizes of 1 are left */
  return true;
}

fk_tensor *fk_view_shape(fk_context *ctx, const fk_tensor *t, const int64_t *shape, int32_t ndim) {
  if (!t) return NULL; /* a failed temporary: already pending */
  fk_tensor *v = view_of(ctx, t, shape, ndim);
  if (!v) return NULL;
  if (fk_numel(v) != fk_numel(t))
    return failed(ctx, fk_fail(FK_ERROR_ARGUMENT, "view: %lld elements cannot be viewed as %lld",
                               (long long)fk_numel(t), (long long)fk_numel(v)));
  if (fk_numel(v) == 0 || fk_is_contiguous(t)) return v;
  if (t->ndim > FK_MAX_DIMS || !view_strides(t, v))
    return failed(ctx, fk_fail(FK_ERROR_ARGUMENT, "view: the tensor's strides do not allow it"));
  return v;
}

fk_tensor *fk_slice(fk_context *ctx, const fk_tensor *t, int32_t axis, int64_t start, int64_t length) {
  if (!t) return NULL;
  if (axis < 0) axis += t->ndim;
  if (axis < 0 || axis >= t->ndim || start < 0 || length < 0 || start > t->shape[axis] - length)
    return failed(
        ctx, fk_fail(FK_ERROR_ARGUMENT, "slice: expected a range within axis %d of %d, got %lld elements from %lld",
                     axis, t->ndim, (long long)length, (long long)start));
  fk_tensor *v = view_of(ctx, t, t->shape, t->ndim);
  if (!v) return NULL;
  for (int32_t i = 0; i < t->ndim; i++) v->strides[i] = fk_stride(t, i);
  v->shape[axis] = length;
  int64_t bits = start * v->strides[axis] * (int64_t)fk_type_bits(fk_type_of(t));
  if (bits % 8) return failed(ctx, fk_fail(FK_ERROR_ARGUMENT, "slice: it would start within a byte"));
  v->byte_offset += (uint64_t)(bits / 8); /* modulo 2^64: strides may be negative */
  return v;
}

void *fk_scratch(fk_context *ctx, size_t bytes) {
  return ctx->cuda ? fk_arena_alloc(&ctx->device, bytes, DEVICE_ALIGN) : fk_arena_alloc(&ctx->host, bytes, HOST_ALIGN);
}

/* ---- Copies ---------------------------------------------------------------------------------------------- */

typedef struct copier {
  const fk_tensor *from, *to;
  fk_type from_type, to_type;
  size_t from_size, to_size; /* bytes per element */
} copier;

static fk_status copy_row(const copier *c, const char *src, char *dst) {
  int32_t last = c->from->ndim - 1;
  int64_t n = c->from->shape[last], from_stride = fk_stride(c->from, last), to_stride = fk_stride(c->to, last);
  if (from_stride == 1 && to_stride == 1) return fk_convert_row(c->to_type, dst, c->from_type, src, n);
  for (int64_t i = 0; i < n; i++)
    FK_TRY(fk_convert_row(c->to_type, dst + i * to_stride * (int64_t)c->to_size, c->from_type,
                          src + i * from_stride * (int64_t)c->from_size, 1));
  return FK_OK;
}

static fk_status copy_axis(const copier *c, int32_t axis, const char *src, char *dst) {
  if (axis == c->from->ndim - 1) return copy_row(c, src, dst);
  int64_t from_step = fk_stride(c->from, axis) * (int64_t)c->from_size;
  int64_t to_step = fk_stride(c->to, axis) * (int64_t)c->to_size;
  for (int64_t i = 0; i < c->from->shape[axis]; i++)
    FK_TRY(copy_axis(c, axis + 1, src + i * from_step, dst + i * to_step));
  return FK_OK;
}

fk_status fk_copy(const fk_tensor *from, const fk_tensor *to) {
  copier c = {
      from, to, fk_type_of(from), fk_type_of(to), fk_type_bits(fk_type_of(from)) / 8, fk_type_bits(fk_type_of(to)) / 8};
  bool same = from->ndim == to->ndim;
  for (int32_t i = 0; same && i < from->ndim; i++) same = from->shape[i] == to->shape[i];
  if (!same) return fk_fail(FK_ERROR_ARGUMENT, "copy: the shapes differ");
  int64_t n = fk_numel(from);
  if (n == 0) return FK_OK;
  if (from->device.type != FK_DL_CPU || to->device.type != FK_DL_CPU || !from->data || !to->data)
    return fk_fail(FK_ERROR_ARGUMENT, "copy: expected two host tensors with data");
  if (fk_is_contiguous(from) && fk_is_contiguous(to))
    return fk_convert_row(c.to_type, fk_data(to), c.from_type, fk_data(from), n);
  if (c.from_size == 0 || c.to_size == 0)
    return fk_fail(FK_ERROR_UNSUPPORTED, "copy: sub-byte dtypes must be contiguous");
  return copy_axis(&c, 0, fk_data(from), fk_data(to));
}
