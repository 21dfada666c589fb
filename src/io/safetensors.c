#include "io/safetensors.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/convert.h"
#include "io/file.h"
#include "io/json.h"

enum { MAX_HEADER = 100 * 1000 * 1000 };

struct fk_safetensors {
  const char *where; /* the path, in the arena */
  void *mapped;      /* NULL when opened from memory */
  size_t mapped_size;
  json_t *header;
  const char *buffer; /* what offsets count from */
  size_t buffer_size;
  size_t count;
  fk_stored *tensors;  /* by offset */
  fk_stored **by_name; /* sorted */
  fk_arena arena;
};

/* ---- Header ------------------------------------------------------------------------------------------------ */

static fk_status bad(const fk_safetensors *f, const char *tensor, const char *text) {
  return fk_fail(FK_ERROR_FORMAT, "%s: tensor \"%.200s\": %s", f->where, tensor, text);
}

/* The size of a shape, with every overflow caught. */
static bool shape_bytes(fk_type type, const int64_t *shape, int32_t ndim, size_t *bytes) {
  int64_t n = 1, bits;
  for (int32_t i = 0; i < ndim; i++)
    if (shape[i] < 0 || __builtin_mul_overflow(n, shape[i], &n)) return false;
  if (__builtin_mul_overflow(n, (int64_t)fk_type_bits(type), &bits)) return false;
  *bytes = (size_t)bits / 8;
  return bits % 8 == 0;
}

static fk_status read_type(const fk_json *entry, const char *name, fk_type *type) {
  const char *text;
  FK_TRY(fk_json_string(entry, "dtype", &text));
  /* Long spellings ("float32") begin with a small letter and do not belong here. */
  if (text[0] >= 'A' && text[0] <= 'Z' && fk_type_parse(text, type)) return FK_OK;
  return fk_fail(FK_ERROR_UNSUPPORTED, "%s: tensor \"%.200s\": unknown dtype \"%.40s\"", entry->where, name, text);
}

static fk_status read_entry(fk_safetensors *f, const char *name, const fk_json *entry, fk_stored *t) {
  size_t count, bytes;
  int64_t range[2];
  if (!json_is_object(entry->node)) return fk_json_expected(entry, "an object");
  FK_TRY(read_type(entry, name, &t->type));
  FK_TRY(fk_json_ints(entry, "shape", 0, INT64_MAX, FK_MAX_DIMS, t->shape, &count));
  t->ndim = (int32_t)count;
  FK_TRY(fk_json_ints(entry, "data_offsets", 0, INT64_MAX, 2, range, &count));
  if (count != 2) return bad(f, name, "data_offsets: expected two integers");
  if (json_object_size(entry->node) != 3) return bad(f, name, "expected only dtype, shape and data_offsets");
  if (range[0] > range[1] || (uint64_t)range[1] > f->buffer_size)
    return fk_fail(FK_ERROR_FORMAT,
                   "%s: tensor \"%.200s\": data_offsets %" PRId64 " to %" PRId64
                   " are not within the %zu bytes of data",
                   f->where, name, range[0], range[1], f->buffer_size);
  if (!shape_bytes(t->type, t->shape, t->ndim, &bytes))
    return bad(f, name, "shape is too large, or does not fill whole bytes");
  t->bytes = (size_t)(range[1] - range[0]);
  if (t->bytes != bytes)
    return fk_fail(FK_ERROR_FORMAT, "%s: tensor \"%.200s\": dtype and shape need %zu bytes, data_offsets give %zu",
                   f->where, name, bytes, t->bytes);
  t->name = name; /* lives in the header */
  t->data = f->buffer + range[0];
  return FK_OK;
}

static fk_status check_metadata(const fk_json *metadata) {
  const char *key;
  json_t *value;
  if (!json_is_object(metadata->node)) return fk_json_expected(metadata, "an object");
  json_object_foreach((json_t *)metadata->node, key, value) {
    fk_json v = fk_json_member(metadata, key);
    if (!json_is_string(value)) return fk_json_expected(&v, "a string");
  }
  return FK_OK;
}

static int compare_offsets(const void *a, const void *b) {
  const fk_stored *x = a, *y = b;
  if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
  return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* an empty tensor comes before what starts where it does */
}

static int compare_names(const void *a, const void *b) {
  return strcmp((*(fk_stored *const *)a)->name, (*(fk_stored *const *)b)->name);
}

/* Sorted by offset, each tensor must begin where the last one ended. */
static fk_status check_cover(const fk_safetensors *f) {
  const char *end = f->buffer;
  for (size_t i = 0; i < f->count; i++) {
    const fk_stored *t = &f->tensors[i];
    if ((const char *)t->data < end) return bad(f, t->name, "its data overlaps that of another tensor");
    if ((const char *)t->data > end)
      return fk_fail(FK_ERROR_FORMAT, "%s: %zu bytes before tensor \"%.200s\" belong to no tensor", f->where,
                     (size_t)((const char *)t->data - end), t->name);
    end = (const char *)t->data + t->bytes;
  }
  size_t rest = f->buffer_size - (size_t)(end - f->buffer);
  if (rest) return fk_fail(FK_ERROR_FORMAT, "%s: the last %zu bytes belong to no tensor", f->where, rest);
  return FK_OK;
}

static fk_status read_tensors(fk_safetensors *f) {
  fk_json root = fk_json_root(f->header, f->where);
  size_t size = json_object_size(f->header);
  f->tensors = fk_arena_calloc(&f->arena, size, sizeof *f->tensors);
  f->by_name = fk_arena_calloc(&f->arena, size, sizeof *f->by_name);
  if (!f->tensors || !f->by_name) return FK_ERROR_MEMORY;
  const char *key;
  json_t *value;
  json_object_foreach(f->header, key, value) {
    fk_json entry = {.node = value, .where = f->where, .parent = &root, .key = key};
    if (strcmp(key, "__metadata__") == 0)
      FK_TRY(check_metadata(&entry));
    else
      FK_TRY(read_entry(f, key, &entry, &f->tensors[f->count++]));
  }
  qsort(f->tensors, f->count, sizeof *f->tensors, compare_offsets);
  for (size_t i = 0; i < f->count; i++) f->by_name[i] = &f->tensors[i];
  qsort(f->by_name, f->count, sizeof *f->by_name, compare_names);
  return check_cover(f);
}

static fk_status read_file(fk_safetensors *f, const char *bytes, size_t size) {
  uint64_t length = 0;
  if (size < 8)
    return fk_fail(FK_ERROR_FORMAT, "%s: expected at least 8 bytes, got %zu: empty or cut off", f->where, size);
  for (int i = 7; i >= 0; i--) length = length << 8 | (unsigned char)bytes[i];
  if (length > MAX_HEADER)
    return fk_fail(FK_ERROR_FORMAT, "%s: expected a header of at most %d bytes, got %" PRIu64, f->where, MAX_HEADER,
                   length);
  if (length > size - 8)
    return fk_fail(FK_ERROR_FORMAT, "%s: a header of %" PRIu64 " bytes does not fit in the file of %zu bytes: cut off",
                   f->where, length, size);
  if (length == 0 || bytes[8] != '{') return fk_fail(FK_ERROR_FORMAT, "%s: the header does not begin with {", f->where);
  f->buffer = bytes + 8 + length;
  f->buffer_size = size - 8 - length;
  fk_status status = fk_json_parse(bytes + 8, length, f->where, &f->header);
  return status == FK_OK ? read_tensors(f) : status;
}

/* ---- Open files -------------------------------------------------------------------------------------------- */

static fk_status create(const char *where, fk_safetensors **out) {
  fk_safetensors *f = calloc(1, sizeof *f);
  *out = f;
  if (!f) return fk_fail(FK_ERROR_MEMORY, "%s: no memory to open the file", where);
  fk_arena_init(&f->arena, &fk_host_memory, 4096);
  f->where = fk_arena_strdup(&f->arena, where);
  return f->where ? FK_OK : FK_ERROR_MEMORY;
}

fk_status fk_safetensors_open_memory(const void *bytes, size_t size, const char *where, fk_safetensors **file) {
  fk_safetensors *f;
  fk_status status = create(where, &f);
  if (status == FK_OK) status = read_file(f, bytes, size);
  if (status != FK_OK) {
    fk_safetensors_close(f);
    f = NULL;
  }
  *file = f;
  return status;
}

fk_status fk_safetensors_open(const char *path, fk_safetensors **file) {
  fk_safetensors *f;
  fk_status status = create(path, &f);
  if (status == FK_OK) status = fk_file_map(path, &f->mapped, &f->mapped_size);
  if (status == FK_OK) status = read_file(f, f->mapped, f->mapped_size);
  if (status != FK_OK) {
    fk_safetensors_close(f);
    f = NULL;
  }
  *file = f;
  return status;
}

void fk_safetensors_close(fk_safetensors *f) {
  if (!f) return;
  json_decref(f->header);
  fk_file_unmap(f->mapped, f->mapped_size);
  fk_arena_destroy(&f->arena);
  free(f);
}

size_t fk_safetensors_count(const fk_safetensors *f) {
  return f->count;
}

const fk_stored *fk_safetensors_at(const fk_safetensors *f, size_t index) {
  return index < f->count ? &f->tensors[index] : NULL;
}

const fk_stored *fk_safetensors_find(const fk_safetensors *f, const char *name) {
  fk_stored wanted = {.name = name}, *key = &wanted;
  fk_stored **found = bsearch(&key, f->by_name, f->count, sizeof *f->by_name, compare_names);
  return found ? *found : NULL;
}

const char *fk_safetensors_metadata(const fk_safetensors *f, const char *key) {
  return json_string_value(json_object_get(json_object_get(f->header, "__metadata__"), key));
}

int64_t fk_stored_numel(const fk_stored *t) {
  int64_t n = 1;
  for (int32_t i = 0; i < t->ndim; i++) n *= t->shape[i];
  return n;
}

bool fk_safetensors_aligned(const fk_stored *t) {
  size_t size = fk_type_bits(t->type) / 8;
  return size < 2 || (uintptr_t)t->data % size == 0;
}

fk_status fk_safetensors_read(const fk_stored *t, fk_type to, void *dst) {
  fk_status status = fk_convert_row(to, dst, t->type, t->data, fk_stored_numel(t));
  return status == FK_OK ? FK_OK : fk_fail_in(status, "tensor \"%.200s\"", t->name);
}
