#include "io/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"

enum { MAX_PATH_TEXT = 512, MAX_VALUE_TEXT = 80 };

/* Python writes infinite numbers as Infinity, which is no JSON. Puts the largest number of the same length in its
 * place, outside strings; true when there was one. */
static bool replace_infinity(char *text, size_t size) {
  static const char word[] = "Infinity", number[] = "1.79e308";
  size_t length = sizeof word - 1;
  bool in_string = false, found = false;
  for (size_t i = 0; i < size; i++) {
    if (in_string && text[i] == '\\') {
      i++;
    } else if (text[i] == '"') {
      in_string = !in_string;
    } else if (!in_string && size - i >= length && memcmp(text + i, word, length) == 0) {
      memcpy(text + i, number, length);
      found = true;
    }
  }
  return found;
}

static fk_status parse_infinite(const char *text, size_t size, const char *where, json_t **root) {
  char *copy = malloc(size + 1);
  if (!copy) return fk_fail(FK_ERROR_MEMORY, "%s: no memory to parse %zu bytes of JSON", where, size);
  memcpy(copy, text, size);
  if (replace_infinity(copy, size)) *root = json_loadb(copy, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
  free(copy);
  return FK_OK;
}

fk_status fk_json_parse(const char *text, size_t size, const char *where, json_t **root) {
  json_error_t error = {0};
  *root = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
  if (*root) return FK_OK;
  if (error.text[0] && json_error_code(&error) == json_error_invalid_syntax) {
    FK_TRY(parse_infinite(text, size, where, root));
    if (*root) return FK_OK;
  }
  /* An allocation that fails inside jansson leaves the text empty. */
  if (!error.text[0] || json_error_code(&error) == json_error_out_of_memory)
    return fk_fail(FK_ERROR_MEMORY, "%s: no memory to parse %zu bytes of JSON", where, size);
  return fk_fail(FK_ERROR_FORMAT, "%s:%d:%d: %s", where, error.line, error.column, error.text);
}

fk_status fk_json_load(const char *path, size_t max_bytes, json_t **root) {
  char *text;
  size_t size;
  *root = NULL;
  FK_TRY(fk_file_read(path, max_bytes, &text, &size));
  fk_status status = fk_json_parse(text, size, path, root);
  free(text);
  return status;
}

/* Measures, then fills: json_dumps would grow its own buffer and not always notice that it could not. */
fk_status fk_json_print(const json_t *root, size_t flags, const char *where, char **text) {
  size_t size = json_dumpb(root, NULL, 0, flags);
  *text = size ? malloc(size + 1) : NULL;
  if (!*text || json_dumpb(root, *text, size, flags) != size) {
    free(*text);
    *text = NULL;
    return fk_fail(FK_ERROR_MEMORY, "%s: no memory to format JSON", where);
  }
  (*text)[size] = 0;
  return FK_OK;
}

fk_status fk_json_write(const char *path, const json_t *root) {
  fk_atomic_file file = {0};
  char *text;
  FK_TRY(fk_json_print(root, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_ENCODE_ANY, path, &text));
  fk_status status = fk_atomic_open(&file, path);
  if (status == FK_OK) status = fk_atomic_write(&file, text, strlen(text));
  if (status == FK_OK) status = fk_atomic_write(&file, "\n", 1);
  if (status == FK_OK) status = fk_atomic_commit(&file);
  fk_atomic_abandon(&file);
  free(text);
  return status;
}

/* ---- Places and values in messages ------------------------------------------------------------------------ */

/* Appends the way from the root to a view, "a.b[3].c"; yields the new length. */
static size_t put_path(const fk_json *at, char *text, size_t used) {
  if (at->parent) used = put_path(at->parent, text, used);
  int n = 0;
  if (at->key)
    n = snprintf(text + used, MAX_PATH_TEXT - used, "%s%s", used ? "." : "", at->key);
  else if (at->parent)
    n = snprintf(text + used, MAX_PATH_TEXT - used, "[%zu]", at->index);
  used += n > 0 ? (size_t)n : 0;
  return used < MAX_PATH_TEXT ? used : MAX_PATH_TEXT - 1;
}

fk_status fk_json_fail(const fk_json *at, fk_status status, const char *format, ...) {
  char message[1024], path[MAX_PATH_TEXT] = "";
  va_list ap;
  va_start(ap, format);
  vsnprintf(message, sizeof message, format, ap);
  va_end(ap);
  put_path(at, path, 0);
  return fk_fail(status, "%s: %s%s%s", at->where, path, *path ? ": " : "", message);
}

static void describe(const json_t *v, char *text) {
  switch (v ? (int)json_typeof(v) : -1) {
    case JSON_STRING:
      snprintf(text, MAX_VALUE_TEXT, json_string_length(v) > 60 ? "\"%.60s...\"" : "\"%s\"", json_string_value(v));
      return;
    case JSON_INTEGER:
      snprintf(text, MAX_VALUE_TEXT, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
      return;
    case JSON_REAL:
      snprintf(text, MAX_VALUE_TEXT, "%.17g", json_real_value(v));
      return;
    case JSON_OBJECT:
      snprintf(text, MAX_VALUE_TEXT, "an object");
      return;
    case JSON_ARRAY:
      snprintf(text, MAX_VALUE_TEXT, "an array of %zu", json_array_size(v));
      return;
    case JSON_TRUE:
    case JSON_FALSE:
      snprintf(text, MAX_VALUE_TEXT, json_is_true(v) ? "true" : "false");
      return;
    case JSON_NULL:
      snprintf(text, MAX_VALUE_TEXT, "null");
      return;
    default:
      snprintf(text, MAX_VALUE_TEXT, "nothing");
  }
}

fk_status fk_json_expected(const fk_json *at, const char *what) {
  char got[MAX_VALUE_TEXT];
  describe(at->node, got);
  return fk_json_fail(at, FK_ERROR_FORMAT, "expected %s, got %s", what, got);
}

/* ---- Getters ----------------------------------------------------------------------------------------------- */

fk_json fk_json_member(const fk_json *object, const char *key) {
  const json_t *node = json_object_get(object->node, key);
  return (fk_json){.node = node, .where = object->where, .parent = object, .key = key};
}

fk_json fk_json_item(const fk_json *array, size_t index) {
  const json_t *node = json_array_get(array->node, index);
  return (fk_json){.node = node, .where = array->where, .parent = array, .index = index};
}

/* A member of what must be an object. */
static fk_status member(const fk_json *object, const char *key, fk_json *out) {
  if (!json_is_object(object->node)) return fk_json_expected(object, "an object");
  *out = fk_json_member(object, key);
  return FK_OK;
}

bool fk_json_has(const fk_json *object, const char *key) {
  const json_t *v = json_object_get(object->node, key);
  return v && !json_is_null(v);
}

static fk_status get_int(const fk_json *v, int64_t min, int64_t max, int64_t *out) {
  if (!json_is_integer(v->node) || json_integer_value(v->node) < min || json_integer_value(v->node) > max) {
    char what[96];
    snprintf(what, sizeof what, "an integer from %" PRId64 " to %" PRId64, min, max);
    return fk_json_expected(v, what);
  }
  *out = json_integer_value(v->node);
  return FK_OK;
}

fk_status fk_json_int(const fk_json *object, const char *key, int64_t min, int64_t max, int64_t *out) {
  fk_json v;
  FK_TRY(member(object, key, &v));
  return get_int(&v, min, max, out);
}

fk_status fk_json_float(const fk_json *object, const char *key, double min, double max, double *out) {
  fk_json v;
  FK_TRY(member(object, key, &v));
  double number = json_is_number(v.node) ? json_number_value(v.node) : NAN;
  if (!(number >= min && number <= max)) {
    char what[96];
    snprintf(what, sizeof what, "a number from %.17g to %.17g", min, max);
    return fk_json_expected(&v, what);
  }
  *out = number;
  return FK_OK;
}

fk_status fk_json_bool(const fk_json *object, const char *key, bool *out) {
  fk_json v;
  FK_TRY(member(object, key, &v));
  if (!json_is_boolean(v.node)) return fk_json_expected(&v, "true or false");
  *out = json_is_true(v.node);
  return FK_OK;
}

fk_status fk_json_string(const fk_json *object, const char *key, const char **out) {
  fk_json v;
  FK_TRY(member(object, key, &v));
  if (!json_is_string(v.node)) return fk_json_expected(&v, "a string");
  *out = json_string_value(v.node);
  return FK_OK;
}

fk_status fk_json_object(const fk_json *object, const char *key, fk_json *out) {
  fk_json v;
  FK_TRY(member(object, key, &v));
  if (!json_is_object(v.node)) return fk_json_expected(&v, "an object");
  *out = v;
  return FK_OK;
}

fk_status fk_json_array(const fk_json *object, const char *key, fk_json *out) {
  fk_json v;
  FK_TRY(member(object, key, &v));
  if (!json_is_array(v.node)) return fk_json_expected(&v, "an array");
  *out = v;
  return FK_OK;
}

fk_status fk_json_ints(const fk_json *object, const char *key, int64_t min, int64_t max, size_t capacity, int64_t *out,
                       size_t *count) {
  fk_json array;
  FK_TRY(fk_json_array(object, key, &array));
  size_t n = json_array_size(array.node);
  if (n > capacity) {
    char what[96];
    snprintf(what, sizeof what, "an array of at most %zu", capacity);
    return fk_json_expected(&array, what);
  }
  int64_t ignored;
  for (size_t i = 0; i < n; i++) { /* all checked before the first is stored */
    fk_json v = fk_json_item(&array, i);
    FK_TRY(get_int(&v, min, max, &ignored));
  }
  for (size_t i = 0; i < n; i++) out[i] = json_integer_value(json_array_get(array.node, i));
  *count = n;
  return FK_OK;
}

/* Missing or null; an object that is none is left for the getter to report. */
static bool absent(const fk_json *object, const char *key) {
  return json_is_object(object->node) && !fk_json_has(object, key);
}

fk_status fk_json_int_or(const fk_json *object, const char *key, int64_t min, int64_t max, int64_t otherwise,
                         int64_t *out) {
  if (!absent(object, key)) return fk_json_int(object, key, min, max, out);
  *out = otherwise;
  return FK_OK;
}

fk_status fk_json_float_or(const fk_json *object, const char *key, double min, double max, double otherwise,
                           double *out) {
  if (!absent(object, key)) return fk_json_float(object, key, min, max, out);
  *out = otherwise;
  return FK_OK;
}

fk_status fk_json_bool_or(const fk_json *object, const char *key, bool otherwise, bool *out) {
  if (!absent(object, key)) return fk_json_bool(object, key, out);
  *out = otherwise;
  return FK_OK;
}

fk_status fk_json_string_or(const fk_json *object, const char *key, const char *otherwise, const char **out) {
  if (!absent(object, key)) return fk_json_string(object, key, out);
  *out = otherwise;
  return FK_OK;
}
