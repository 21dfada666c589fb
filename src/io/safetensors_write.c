#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/utf8.h"

/* An item in the order of the file. */
typedef struct placed {
  const fk_stored *item;
  size_t order, bytes;
} placed;

static int compare_width(const void *a, const void *b) {
  const placed *x = a, *y = b;
  size_t wide = fk_type_bits(x->item->type), other = fk_type_bits(y->item->type);
  if (wide != other) return wide > other ? -1 : 1;
  return x->order < y->order ? -1 : x->order > y->order;
}

static const char *short_name(fk_type type) {
  static const char *const names[] = {"F32", "BF16", "F16",  "F64",     "I8",      "I16",     "I32",
                                      "I64", "U8",   "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    fk_type t;
    if (fk_type_parse(names[i], &t) && t == type) return names[i];
  }
  return NULL;
}

static fk_status place(const char *path, const fk_stored *t, size_t order, placed *out) {
  const char *name = t->name ? t->name : "";
  int64_t n = 1, bits;
  if (!t->name || strcmp(name, "__metadata__") == 0 || fk_utf8_valid(name, strlen(name)) != strlen(name))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: item %zu: \"%.200s\" cannot name a tensor", path, order, name);
  if (!short_name(t->type))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: tensor \"%.200s\": unknown dtype %d", path, name, (int)t->type);
  if (t->ndim < 0 || t->ndim > FK_MAX_DIMS)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: tensor \"%.200s\": expected 0 to %d dimensions, got %d", path, name,
                   FK_MAX_DIMS, t->ndim);
  bool fits = true;
  for (int32_t i = 0; i < t->ndim; i++) fits = fits && t->shape[i] >= 0 && !__builtin_mul_overflow(n, t->shape[i], &n);
  if (!fits || __builtin_mul_overflow(n, (int64_t)fk_type_bits(t->type), &bits) || bits % 8)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: tensor \"%.200s\": negative, too large or not in whole bytes", path, name);
  if (bits && !t->data) return fk_fail(FK_ERROR_ARGUMENT, "%s: tensor \"%.200s\" has no data", path, name);
  *out = (placed){t, order, (size_t)bits / 8};
  return FK_OK;
}

static json_t *describe(const fk_stored *t, size_t begin, size_t end) {
  json_t *shape = json_array();
  for (int32_t i = 0; shape && i < t->ndim; i++)
    if (json_array_append_new(shape, json_integer(t->shape[i]))) {
      json_decref(shape);
      return NULL;
    }
  return json_pack("{s:s, s:o, s:[I, I]}", "dtype", short_name(t->type), "shape", shape, "data_offsets",
                   (json_int_t)begin, (json_int_t)end);
}

static fk_status put_metadata(const char *path, json_t *header, const char *const *metadata) {
  json_t *object = json_object();
  fk_status status = object ? FK_OK : fk_fail(FK_ERROR_MEMORY, "%s: no memory for the header", path);
  for (; status == FK_OK && metadata[0]; metadata += 2) {
    const char *key = metadata[0], *value = metadata[1];
    if (!value || fk_utf8_valid(key, strlen(key)) != strlen(key) ||
        fk_utf8_valid(value, strlen(value)) != strlen(value))
      status = fk_fail(FK_ERROR_ARGUMENT, "%s: metadata \"%.200s\" is no UTF-8", path, key);
    else if (json_object_set_new(object, key, json_string(value)))
      status = fk_fail(FK_ERROR_MEMORY, "%s: no memory for the header", path);
  }
  if (status != FK_OK)
    json_decref(object);
  else if (json_object_set_new(header, "__metadata__", object))
    status = fk_fail(FK_ERROR_MEMORY, "%s: no memory for the header", path);
  return status;
}

static fk_status build_header(const char *path, const placed *order, size_t count, const char *const *metadata,
                              char **text) {
  json_t *header = json_object();
  fk_status status = header ? FK_OK : fk_fail(FK_ERROR_MEMORY, "%s: no memory for the header", path);
  if (status == FK_OK && metadata) status = put_metadata(path, header, metadata);
  size_t offset = 0;
  for (size_t i = 0; status == FK_OK && i < count; i++) {
    const fk_stored *t = order[i].item;
    size_t end = 0;
    if (json_object_get(header, t->name))
      status = fk_fail(FK_ERROR_ARGUMENT, "%s: two tensors are named \"%.200s\"", path, t->name);
    else if (__builtin_add_overflow(offset, order[i].bytes, &end) || end > INT64_MAX)
      status = fk_fail(FK_ERROR_ARGUMENT, "%s: the tensors are too large for one file", path);
    else if (json_object_set_new(header, t->name, describe(t, offset, end)))
      status = fk_fail(FK_ERROR_MEMORY, "%s: no memory for the header", path);
    offset = end;
  }
  if (status == FK_OK) status = fk_json_print(header, JSON_COMPACT, path, text);
  json_decref(header);
  return status;
}

static fk_status write_parts(const char *path, const char *header, const placed *order, size_t count) {
  fk_atomic_file file = {0};
  size_t length = strlen(header), padded = (length + 7) / 8 * 8;
  unsigned char prefix[8];
  for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)((uint64_t)padded >> (8 * i));
  fk_status status = fk_atomic_open(&file, path);
  if (status == FK_OK) status = fk_atomic_write(&file, prefix, 8);
  if (status == FK_OK) status = fk_atomic_write(&file, header, length);
  if (status == FK_OK) status = fk_atomic_write(&file, "       ", padded - length);
  for (size_t i = 0; status == FK_OK && i < count; i++)
    status = fk_atomic_write(&file, order[i].item->data, order[i].bytes);
  if (status == FK_OK) status = fk_atomic_commit(&file);
  fk_atomic_abandon(&file);
  return status;
}

fk_status fk_safetensors_write(const char *path, const fk_stored *items, size_t count, const char *const *metadata) {
  fk_status status = FK_OK;
  char *header = NULL;
  placed *order = calloc(count ? count : 1, sizeof *order);
  if (!order) return fk_fail(FK_ERROR_MEMORY, "%s: no memory to order %zu tensors", path, count);
  for (size_t i = 0; status == FK_OK && i < count; i++) status = place(path, &items[i], i, &order[i]);
  if (status != FK_OK) goto cleanup;
  qsort(order, count, sizeof *order, compare_width);
  status = build_header(path, order, count, metadata, &header);
  if (status == FK_OK) status = write_parts(path, header, order, count);

cleanup:
  free(header);
  free(order);
  return status;
}
