/* JSON files of users: configs, indices, tokenizers. Errors name the file, the key path, what was expected and what
 * came: `config.json: rope_scaling.factor: expected a number from 1 to 64, got "abc"`.
 *
 * An fk_json is a view of one value together with the way to it. It owns nothing: it borrows the json_t, the strings
 * and, through parent, the view that it was reached from, all of which must outlive it. Views cost no allocation. */
#ifndef FK_IO_JSON_H
#define FK_IO_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "fastkernels/status.h"

typedef struct fk_json {
  const json_t *node;
  const char *where; /* the file, for messages */
  const struct fk_json *parent;
  const char *key; /* in the parent; NULL at the root and in arrays */
  size_t index;    /* in a parent array */
} fk_json;

/* Reads a file of at most max_bytes, or text. Duplicate keys, nesting deeper than 2048 and trailing text are errors,
 * which carry file:line:column. Infinity, as Python writes it, counts as 1.79e308. The caller owns *root (json_decref).
 */
fk_status fk_json_load(const char *path, size_t max_bytes, json_t **root);
fk_status fk_json_parse(const char *text, size_t size, const char *where, json_t **root);

/* The text of a value, NUL-terminated; the caller frees *text. flags are jansson's. where is for messages. */
fk_status fk_json_print(const json_t *root, size_t flags, const char *where, char **text);

/* Writes indented JSON with sorted keys atomically: equal values give equal files. */
fk_status fk_json_write(const char *path, const json_t *root);

static inline fk_json fk_json_root(const json_t *root, const char *where) {
  return (fk_json){.node = root, .where = where};
}

/* Whether the object has the key with a value other than null. */
bool fk_json_has(const fk_json *object, const char *key);

/* Getters of a required key. Ranges are inclusive. On failure *out is untouched. */
fk_status fk_json_int(const fk_json *object, const char *key, int64_t min, int64_t max, int64_t *out);
fk_status fk_json_float(const fk_json *object, const char *key, double min, double max, double *out); /* or integer */
fk_status fk_json_bool(const fk_json *object, const char *key, bool *out);
fk_status fk_json_string(const fk_json *object, const char *key, const char **out); /* borrowed */
fk_status fk_json_object(const fk_json *object, const char *key, fk_json *out);
fk_status fk_json_array(const fk_json *object, const char *key, fk_json *out);
/* At most capacity integers into out, their number into *count. */
fk_status fk_json_ints(const fk_json *object, const char *key, int64_t min, int64_t max, size_t capacity, int64_t *out,
                       size_t *count);

/* The same, with a value for a key that is missing or null. A value of a wrong type is still an error. */
fk_status fk_json_int_or(const fk_json *object, const char *key, int64_t min, int64_t max, int64_t otherwise,
                         int64_t *out);
fk_status fk_json_float_or(const fk_json *object, const char *key, double min, double max, double otherwise,
                           double *out);
fk_status fk_json_bool_or(const fk_json *object, const char *key, bool otherwise, bool *out);
fk_status fk_json_string_or(const fk_json *object, const char *key, const char *otherwise, const char **out);

/* Element of an array as a view; index < json_array_size(array->node). */
fk_json fk_json_item(const fk_json *array, size_t index);
/* Member of an object as a view; node is NULL when it is missing. */
fk_json fk_json_member(const fk_json *object, const char *key);

/* An error at this value: file and key path before the message. */
__attribute__((format(printf, 3, 4))) fk_status fk_json_fail(const fk_json *at, fk_status status, const char *format,
                                                             ...);
/* The error "expected <what>, got <value>" at this value. */
fk_status fk_json_expected(const fk_json *at, const char *what);

#endif
