#include "engine/loader.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/convert.h"
#include "engine/loader_state.h"

enum { MAX_NAME = 256, CHUNK = 1 << 16 };

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

fk_status fk_loader_finish(fk_loader *l) {
  size_t cursor = 0;
  const char *name;
  char text[128];
  while (l->checkpoint && (name = fk_checkpoint_unused(l->checkpoint, &cursor))) {
    const fk_stored *t = fk_checkpoint_find(l->checkpoint, name);
    FK_TRY(wrong(l, name, "a tensor of shape %s that the model does not have",
                 shape_text(t->shape, t->ndim, text, sizeof text)));
  }
  if (!l->num_wrong) return FK_OK;
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

static fk_status give_data(fk_loader *l, fk_tensor *t) {
  t->data = fk_arena_alloc(&l->model->arena, fk_type_bytes(fk_type_of(t), fk_numel(t)), 64);
  return t->data ? FK_OK : fk_fail_in(FK_ERROR_MEMORY, "%s: weights", l->where);
}

fk_status fk_weight_table(fk_loader *l, fk_tensor **tensor, fk_type type, const int64_t *shape, int32_t ndim) {
  *tensor = NULL;
  fk_tensor *t;
  FK_TRY(describe(l, type, shape, ndim, &t));
  if (l->backend != FK_META) FK_TRY(give_data(l, t));
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
static void fill_random(const fk_loader *l, const char *name, fk_tensor *t, int64_t offset, int64_t n) {
  size_t length = strlen(name);
  bool bias = length > 5 && strcmp(name + length - 5, ".bias") == 0;
  double mean = t->ndim == 1 && !bias ? 1 : 0, std = 0.02;
  if (t->ndim > 1) std = 1 / sqrt((double)(t->shape[t->ndim - 1] ? t->shape[t->ndim - 1] : 1));
  uint64_t stream = stream_of(l->seed, name);
  fk_type type = fk_type_of(t);
  char *data = (char *)t->data + fk_type_bytes(type, offset);
#pragma omp parallel for if (n > CHUNK)
  for (int64_t start = 0; start < n; start += CHUNK)
    for (int64_t i = start; i < n && i < start + CHUNK; i++)
      fk_store_f64(type, data, i, (float)(mean + std * draw(stream, i)));
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

/* Converts a stored tensor into n elements of t from offset on. */
static fk_status convert(const fk_stored *from, fk_tensor *t, int64_t offset, int64_t n) {
  fk_type type = fk_type_of(t);
  size_t to_size = fk_type_bits(type) / 8, from_size = fk_type_bits(from->type) / 8;
  char *dst = (char *)t->data + (size_t)offset * to_size;
  const char *src = from->data;
  fk_status status = FK_OK;
#pragma omp parallel for if (n > CHUNK) reduction(| : status)
  for (int64_t start = 0; start < n; start += CHUNK) {
    int64_t count = n - start < CHUNK ? n - start : CHUNK;
    status |= fk_convert_row(type, dst + (size_t)start * to_size, from->type, src + (size_t)start * from_size, count);
  }
  return status;
}

/* Fills rows of t, n elements from offset on, from the tensor of a name. */
static fk_status fill(fk_loader *l, const char *name, const int64_t *shape, int32_t ndim, fk_tensor *t, int64_t offset,
                      int64_t n) {
  const fk_stored *from = NULL;
  if (l->checkpoint) FK_TRY(stored(l, name, shape, ndim, &from));
  if (l->num_wrong || !t->data) return FK_OK; /* meta, or lost already: only the names and shapes matter */
  if (from) return convert(from, t, offset, n);
  fill_random(l, name, t, offset, n);
  return FK_OK;
}

/* Memory of the file serves as it is: same dtype, aligned. */
static bool serves(const fk_stored *from, fk_type type) {
  return from->type == type && fk_safetensors_aligned(from);
}

static fk_status weight(fk_loader *l, fk_tensor **tensor, fk_type type, const int64_t *shape, int32_t ndim,
                        const char *name) {
  fk_tensor *t;
  FK_TRY(describe(l, type, shape, ndim, &t));
  const fk_stored *from = l->checkpoint ? fk_checkpoint_find(l->checkpoint, name) : NULL;
  bool view = from && serves(from, type);
  if (l->backend != FK_META && !l->num_wrong && !view) FK_TRY(give_data(l, t));
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
  return weight(l, tensor, l->model->dtype, shape, ndim, name);
}

fk_status fk_weight_as(fk_loader *l, fk_tensor **tensor, fk_type type, const int64_t *shape, int32_t ndim,
                       const char *format, ...) {
  *tensor = NULL;
  FORMAT_NAME(name, format);
  return weight(l, tensor, type, shape, ndim, name);
}

fk_status fk_weight_optional(fk_loader *l, fk_tensor **tensor, bool present, const int64_t *shape, int32_t ndim,
                             const char *format, ...) {
  *tensor = NULL;
  FORMAT_NAME(name, format);
  if (l->checkpoint ? !fk_checkpoint_find(l->checkpoint, name) : !present) return FK_OK;
  return weight(l, tensor, l->model->dtype, shape, ndim, name);
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
  if (l->backend != FK_META && !l->num_wrong) FK_TRY(give_data(l, t));
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
