#include "engine/loader.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/convert.h"
#include "engine/loader_state.h"

/* PIECE: elements that are converted before they are uploaded together. */
enum { MAX_NAME = 256, CHUNK = 1 << 16, PIECE = 1 << 22, DEVICE_ALIGN = 256 };

int fk_loader_architecture(const fk_loader *l) {
  return l->architecture;
}

fk_backend fk_loader_backend(const fk_loader *l) {
  return l->backend;
}

fk_type fk_loader_dtype(const fk_loader *l) {
  return l->model->dtype;
}

int64_t fk_loader_max_model_len(const fk_loader *l) {
  return l->max_model_len;
}

fk_arena *fk_loader_arena(fk_loader *l) {
  return &l->model->arena;
}

/* ---- Wrong tensors --------------------------------------------------------------------------------------- */

static const char *shape_text(const int64_t *shape, int32_t ndim, char *text, size_t size) {
  size_t used = (size_t)snprintf(text, size, "[");
  for (int32_t i = 0; i < ndim && used < size; i++)
    used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
  if (used < size) snprintf(text + used, size - used, "]");
  return text;
}

/* Where the weights come from, for messages. */
static const char *source(const fk_loader *l) {
  return l->checkpoint ? fk_checkpoint_dir(l->checkpoint) : l->where;
}

__attribute__((format(printf, 3, 4))) static fk_status wrong(fk_loader *l, const char *name, const char *format, ...) {
  char text[512];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  if (l->num_wrong++) return FK_OK;
  l->first_wrong = fk_arena_printf(&l->model->arena, "%s: %s: %s", source(l), name, text);
  return l->first_wrong ? FK_OK : FK_ERROR_MEMORY;
}

static fk_status give_device_data(fk_loader *l, fk_tensor *t) {
  t->data = fk_arena_alloc(&l->model->device, fk_type_bytes(fk_type_of(t), fk_numel(t)), DEVICE_ALIGN);
  t->device = (fk_device){FK_DL_CUDA, fk_cuda_device_id(l->cuda)};
  return t->data ? FK_OK : fk_fail_in(FK_ERROR_MEMORY, "%s: weights in GPU memory", l->where);
}

/* The mapped files may be closed when this returns. */
static fk_status upload_tables(fk_loader *l) {
  for (struct fk_load_table *table = l->tables; table; table = table->next) {
    fk_tensor *t = table->tensor;
    const void *content = t->data;
    FK_TRY(give_device_data(l, t));
    FK_TRY(fk_cuda_upload(l->cuda, t->data, content, fk_type_bytes(fk_type_of(t), fk_numel(t))));
  }
  return l->cuda ? fk_cuda_sync(l->cuda) : FK_OK;
}

fk_status fk_loader_finish(fk_loader *l) {
  size_t cursor = 0;
  const char *name;
  char text[128];
  while (l->checkpoint && (name = fk_checkpoint_unused(l->checkpoint, &cursor))) {
    const fk_stored *t = fk_checkpoint_find(l->checkpoint, name);
    FK_TRY(wrong(l, name, "a tensor of shape %s that the model does not have",
                 shape_text(t->shape, t->ndim, text, sizeof text)));
  }
  if (!l->num_wrong) return upload_tables(l);
  if (l->num_wrong == 1) return fk_fail(FK_ERROR_FORMAT, "%s", l->first_wrong);
  return fk_fail(FK_ERROR_FORMAT, "%s (and %d more wrong tensor%s)", l->first_wrong, l->num_wrong - 1,
                 l->num_wrong > 2 ? "s" : "");
}

/* ---- Tensors of the model -------------------------------------------------------------------------------- */

static fk_status describe(fk_loader *l, fk_type type, const int64_t *shape, int32_t ndim, fk_tensor **out) {
  int64_t n = 1;
  for (int32_t i = 0; i < ndim; i++)
    if (shape[i] < 0 || __builtin_mul_overflow(n, shape[i], &n) || n > INT64_MAX / 16)
      return fk_fail(FK_ERROR_ARGUMENT, "%s: a tensor's dimension %d is %lld: negative or too large", l->where, i,
                     (long long)shape[i]);
  fk_tensor *t = fk_arena_alloc(&l->model->arena, sizeof *t + (size_t)ndim * sizeof *shape, 16);
  if (!t) return FK_ERROR_MEMORY;
  *t = (fk_tensor){.device = {FK_DL_CPU, 0}, .ndim = ndim, .dtype = fk_dtype_from(type)};
  t->shape = (int64_t *)(t + 1);
  memcpy(t->shape, shape, (size_t)ndim * sizeof *shape);
  *out = t;
  return FK_OK;
}

static fk_status give_host_data(fk_loader *l, fk_tensor *t) {
  t->data = fk_arena_alloc(&l->model->arena, fk_type_bytes(fk_type_of(t), fk_numel(t)), 64);
  return t->data ? FK_OK : fk_fail_in(FK_ERROR_MEMORY, "%s: weights", l->where);
}

static bool is_on_gpu(const fk_tensor *t) {
  return t->device.type == FK_DL_CUDA;
}

fk_status fk_weight_table(fk_loader *l, fk_tensor **tensor, fk_type type, const int64_t *shape, int32_t ndim) {
  *tensor = NULL;
  fk_tensor *t;
  FK_TRY(describe(l, type, shape, ndim, &t));
  if (l->backend != FK_META) FK_TRY(give_host_data(l, t));
  if (l->cuda) {
    struct fk_load_table *table = fk_arena_calloc(&l->model->arena, 1, sizeof *table);
    if (!table) return FK_ERROR_MEMORY;
    *table = (struct fk_load_table){t, l->tables};
    l->tables = table;
  }
  *tensor = t;
  return FK_OK;
}

/* ---- Random weights -------------------------------------------------------------------------------------- */

/* Counter-based (the finaliser of SplitMix64): any element can be drawn on its own, so threads do not matter. */
static uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

/* Nearly standard normal: the sum of four uniforms, cut at 3.46. Exactly reproducible, and fast enough for billions. */
static double draw(uint64_t stream, int64_t i) {
  uint64_t bits = mix(stream + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u);
  int64_t sum = (int64_t)(bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
  return (double)(sum - 2 * 65535) * (1.7320508075688772 / 65536);
}

static uint64_t stream_of(uint64_t seed, const char *name) {
  uint64_t h = 14695981039346656037u; /* FNV-1a */
  for (; *name; name++) h = (h ^ (unsigned char)*name) * 1099511628211u;
  return mix(h ^ mix(seed));
}

/* Matrices scaled so that activations keep their size, gains near 1, biases small. Drawn as float32, so that every
 * device and dtype starts from the same numbers. */
static fk_status fill_random(const fk_loader *l, const char *name, fk_tensor *t, int64_t offset, int64_t n) {
  size_t length = strlen(name);
  bool bias = length > 5 && strcmp(name + length - 5, ".bias") == 0;
  double mean = t->ndim == 1 && !bias ? 1 : 0, std = 0.02;
  if (t->ndim > 1) std = 1 / sqrt((double)(t->shape[t->ndim - 1] ? t->shape[t->ndim - 1] : 1));
  uint64_t stream = stream_of(l->seed, name);
  fk_type type = fk_type_of(t);
  char *data = (char *)t->data + fk_type_bytes(type, offset);
  if (is_on_gpu(t)) return fk_cuda_random(l->cuda, data, type, n, stream, mean, std);
#pragma omp parallel for if (n > CHUNK)
  for (int64_t start = 0; start < n; start += CHUNK)
    for (int64_t i = start; i < n && i < start + CHUNK; i++)
      fk_store_f64(type, data, i, (float)(mean + std * draw(stream, i)));
  return FK_OK;
}

/* ---- Weights --------------------------------------------------------------------------------------------- */

/* The stored tensor of a name, checked; NULL after noting it as wrong. */
static fk_status stored(fk_loader *l, const char *name, const int64_t *shape, int32_t ndim, const fk_stored **out) {
  char expected[128], found[128];
  const fk_stored *t = fk_checkpoint_find(l->checkpoint, name);
  *out = NULL;
  shape_text(shape, ndim, expected, sizeof expected);
  if (!t) return wrong(l, name, "expected a tensor of shape %s, found none", expected);
  fk_checkpoint_mark(l->checkpoint, name);
  if (t->ndim != ndim || memcmp(t->shape, shape, (size_t)ndim * sizeof *shape) != 0)
    return wrong(l, name, "expected shape %s, found %s", expected, shape_text(t->shape, t->ndim, found, sizeof found));
  if (!fk_type_is_float(t->type) || fk_type_bits(t->type) < 16)
    return wrong(l, name, "expected dtype float64, float32, bfloat16 or float16, found %s", fk_type_name(t->type));
  *out = t;
  return FK_OK;
}

static fk_status convert(fk_type to_type, char *to, fk_type from_type, const char *from, int64_t n) {
  size_t to_size = fk_type_bits(to_type) / 8, from_size = fk_type_bits(from_type) / 8;
  fk_status status = FK_OK;
#pragma omp parallel for if (n > CHUNK) reduction(| : status)
  for (int64_t start = 0; start < n; start += CHUNK) {
    int64_t count = n - start < CHUNK ? n - start : CHUNK;
    status |= fk_convert_row(to_type, to + (size_t)start * to_size, from_type, from + (size_t)start * from_size, count);
  }
  return status;
}

/* Numbers of another dtype reach the GPU by way of host memory, piece by piece. */
static fk_status convert_to_gpu(fk_loader *l, fk_type to_type, char *to, fk_type from_type, const char *from,
                                int64_t n) {
  size_t to_size = fk_type_bits(to_type) / 8, from_size = fk_type_bits(from_type) / 8;
  if (!l->scratch && !(l->scratch = malloc(PIECE * sizeof(double))))
    return fk_fail(FK_ERROR_MEMORY, "%s: cannot allocate memory for conversions", l->where);
  for (int64_t start = 0; start < n; start += PIECE) {
    int64_t count = n - start < PIECE ? n - start : PIECE;
    FK_TRY(convert(to_type, l->scratch, from_type, from + (size_t)start * from_size, count));
    FK_TRY(fk_cuda_upload(l->cuda, to + (size_t)start * to_size, l->scratch, (size_t)count * to_size));
  }
  return FK_OK;
}

/* A stored tensor becomes n elements of t from offset on. */
static fk_status put(fk_loader *l, const fk_stored *from, fk_tensor *t, int64_t offset, int64_t n) {
  fk_type type = fk_type_of(t);
  char *to = (char *)t->data + fk_type_bytes(type, offset);
  if (!is_on_gpu(t)) return convert(type, to, from->type, from->data, n);
  if (from->type == type) return fk_cuda_upload(l->cuda, to, from->data, fk_type_bytes(type, n));
  return convert_to_gpu(l, type, to, from->type, from->data, n);
}

/* Fills rows of t, n elements from offset on, from the tensor of a name. */
static fk_status fill(fk_loader *l, const char *name, const int64_t *shape, int32_t ndim, fk_tensor *t, int64_t offset,
                      int64_t n) {
  const fk_stored *from = NULL;
  if (l->checkpoint) FK_TRY(stored(l, name, shape, ndim, &from));
  if (l->num_wrong || !t->data) return FK_OK; /* meta, or lost already: only the names and shapes matter */
  return from ? put(l, from, t, offset, n) : fill_random(l, name, t, offset, n);
}

/* Memory of the file serves as it is: same dtype, aligned. */
static bool serves(const fk_stored *from, fk_type type) {
  return from->type == type && fk_safetensors_aligned(from);
}

static fk_status give_data(fk_loader *l, bool on_host, fk_tensor *t) {
  if (l->backend == FK_META || l->num_wrong) return FK_OK;
  return on_host ? give_host_data(l, t) : give_device_data(l, t);
}

static fk_status weight(fk_loader *l, fk_tensor **tensor, bool on_host, fk_type type, const int64_t *shape,
                        int32_t ndim, const char *name) {
  fk_tensor *t;
  FK_TRY(describe(l, type, shape, ndim, &t));
  const fk_stored *from = l->checkpoint ? fk_checkpoint_find(l->checkpoint, name) : NULL;
  bool view = on_host && from && serves(from, type);
  if (!view) FK_TRY(give_data(l, on_host, t));
  FK_TRY(fill(l, name, shape, ndim, t, 0, view ? 0 : fk_numel(t)));
  if (l->backend != FK_META && view) t->data = (void *)from->data;
  l->model->num_parameters += fk_numel(t);
  *tensor = t;
  return FK_OK;
}

#define FORMAT_NAME(name, format)             \
  char name[MAX_NAME];                        \
  do {                                        \
    va_list ap;                               \
    va_start(ap, format);                     \
    vsnprintf(name, sizeof name, format, ap); \
    va_end(ap);                               \
  } while (0)

fk_status fk_weight(fk_loader *l, fk_tensor **tensor, const int64_t *shape, int32_t ndim, const char *format, ...) {
  *tensor = NULL;
  FORMAT_NAME(name, format);
  return weight(l, tensor, !l->cuda, l->model->dtype, shape, ndim, name);
}

fk_status fk_weight_as(fk_loader *l, fk_tensor **tensor, fk_type type, const int64_t *shape, int32_t ndim,
                       const char *format, ...) {
  *tensor = NULL;
  FORMAT_NAME(name, format);
  return weight(l, tensor, !l->cuda, type, shape, ndim, name);
}

fk_status fk_weight_host(fk_loader *l, fk_tensor **tensor, fk_type type, const int64_t *shape, int32_t ndim,
                         const char *format, ...) {
  *tensor = NULL;
  FORMAT_NAME(name, format);
  return weight(l, tensor, true, type, shape, ndim, name);
}

fk_status fk_weight_optional(fk_loader *l, fk_tensor **tensor, bool present, const int64_t *shape, int32_t ndim,
                             const char *format, ...) {
  *tensor = NULL;
  FORMAT_NAME(name, format);
  if (l->checkpoint ? !fk_checkpoint_find(l->checkpoint, name) : !present) return FK_OK;
  return weight(l, tensor, !l->cuda, l->model->dtype, shape, ndim, name);
}

fk_status fk_weight_concat(fk_loader *l, fk_tensor **tensor, const char *const *names, const int64_t *rows, int count,
                           const int64_t *inner_shape, int32_t inner_ndim) {
  int64_t shape[FK_MAX_DIMS] = {0}, inner = 1, offset = 0;
  *tensor = NULL;
  for (int i = 0; i < count; i++) shape[0] += rows[i];
  for (int32_t i = 0; i < inner_ndim; i++) {
    shape[i + 1] = inner_shape[i];
    inner *= inner_shape[i];
  }
  fk_tensor *t;
  FK_TRY(describe(l, l->model->dtype, shape, inner_ndim + 1, &t));
  FK_TRY(give_data(l, !l->cuda, t));
  for (int i = 0; i < count; i++) {
    shape[0] = rows[i];
    FK_TRY(fill(l, names[i], shape, inner_ndim + 1, t, offset, rows[i] * inner));
    offset += rows[i] * inner;
  }
  l->model->num_parameters += fk_numel(t);
  *tensor = t;
  return FK_OK;
}

bool fk_weight_exists(const fk_loader *l, const char *name) {
  return l->checkpoint && fk_checkpoint_find(l->checkpoint, name);
}

void fk_weight_ignore(fk_loader *l, const char *format, ...) {
  FORMAT_NAME(name, format);
  if (l->checkpoint) fk_checkpoint_mark(l->checkpoint, name);
}

fk_status fk_weight_tied(fk_loader *l, const char *name, const char *to) {
  if (!l->checkpoint || !fk_checkpoint_mark(l->checkpoint, name)) return FK_OK;
  const fk_stored *a = fk_checkpoint_find(l->checkpoint, name), *b = fk_checkpoint_find(l->checkpoint, to);
  if (!b) return FK_OK; /* missing: reported by whoever asks for it */
  if (a->type == b->type && a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0) return FK_OK;
  return wrong(l, name, "expected the same content as %s, to which the configuration ties it", to);
}
