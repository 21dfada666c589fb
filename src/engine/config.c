/* Configuration getters of the loader: paths with dots over the JSON views of io/json.h. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/loader_state.h"

enum { MAX_DEPTH = 6 };

/* The way to a key: views of the objects on it. */
typedef struct path {
  fk_json at[MAX_DEPTH];
  char names[MAX_DEPTH][64];
  const fk_json *object; /* that holds the last key; node NULL when it is missing */
  const char *last;
} path;

/* Fails when something on the way is neither an object nor absent. */
static fk_status walk(const fk_loader *l, const char *key, path *p) {
  p->at[0] = fk_json_root(l->config, l->where);
  if (!json_is_object(l->config)) return fk_json_expected(&p->at[0], "an object");
  int depth = 0;
  for (const char *dot; (dot = strchr(key, '.')) && depth + 1 < MAX_DEPTH; key = dot + 1, depth++) {
    size_t n = (size_t)(dot - key);
    if (n >= sizeof p->names[0]) n = sizeof p->names[0] - 1;
    memcpy(p->names[depth], key, n);
    p->names[depth][n] = 0;
    p->at[depth + 1] = fk_json_member(&p->at[depth], p->names[depth]);
    const json_t *node = p->at[depth + 1].node;
    if (node && !json_is_object(node) && !json_is_null(node)) return fk_json_expected(&p->at[depth + 1], "an object");
  }
  p->object = &p->at[depth];
  p->last = key;
  return FK_OK;
}

static bool present(const path *p) {
  return json_is_object(p->object->node) && fk_json_has(p->object, p->last);
}

static fk_status missing(const path *p) {
  fk_json at = fk_json_member(p->object, p->last);
  at.parent = p->object;
  at.key = p->last;
  return fk_json_fail(&at, FK_ERROR_FORMAT, "the key is missing");
}

fk_status fk_config_fail(fk_loader *l, const char *key, const char *format, ...) {
  char text[512];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  return fk_fail(FK_ERROR_FORMAT, "%s: %s: %s", l->where, key, text);
}

bool fk_config_has(const fk_loader *l, const char *key) {
  path p;
  return walk(l, key, &p) == FK_OK && present(&p);
}

fk_status fk_config_int(fk_loader *l, const char *key, int64_t min, int64_t max, int64_t *value) {
  path p;
  FK_TRY(walk(l, key, &p));
  return present(&p) ? fk_json_int(p.object, p.last, min, max, value) : missing(&p);
}

fk_status fk_config_int_or(fk_loader *l, const char *key, int64_t min, int64_t max, int64_t otherwise, int64_t *value) {
  path p;
  FK_TRY(walk(l, key, &p));
  *value = otherwise;
  return present(&p) ? fk_json_int(p.object, p.last, min, max, value) : FK_OK;
}

fk_status fk_config_float_or(fk_loader *l, const char *key, double min, double max, double otherwise, double *value) {
  path p;
  FK_TRY(walk(l, key, &p));
  *value = otherwise;
  return present(&p) ? fk_json_float(p.object, p.last, min, max, value) : FK_OK;
}

fk_status fk_config_bool_or(fk_loader *l, const char *key, bool otherwise, bool *value) {
  path p;
  FK_TRY(walk(l, key, &p));
  *value = otherwise;
  return present(&p) ? fk_json_bool(p.object, p.last, value) : FK_OK;
}

fk_status fk_config_enum(fk_loader *l, const char *key, const char *const *names, int otherwise, int *index) {
  path p;
  FK_TRY(walk(l, key, &p));
  *index = otherwise;
  if (!present(&p)) return otherwise >= 0 ? FK_OK : missing(&p);
  const char *text;
  FK_TRY(fk_json_string(p.object, p.last, &text));
  char list[256] = "";
  for (int i = 0; names[i]; i++) {
    if (strcmp(names[i], text) == 0) {
      *index = i;
      return FK_OK;
    }
    size_t used = strlen(list);
    snprintf(list + used, sizeof list - used, "%s\"%s\"", i ? ", " : "", names[i]);
  }
  fk_json at = fk_json_member(p.object, p.last);
  return fk_json_fail(&at, FK_ERROR_UNSUPPORTED, "\"%s\" is not supported (only %s)", text, list);
}

fk_status fk_config_floats(fk_loader *l, const char *key, int max, double *values, int *count) {
  path p;
  *count = 0;
  FK_TRY(walk(l, key, &p));
  if (!present(&p)) return FK_OK;
  fk_json list;
  FK_TRY(fk_json_array(p.object, p.last, &list));
  size_t n = json_array_size(list.node);
  if (n > (size_t)max) return fk_json_fail(&list, FK_ERROR_FORMAT, "expected at most %d numbers, got %zu", max, n);
  for (size_t i = 0; i < n; i++) {
    fk_json item = fk_json_item(&list, i);
    /* transformers 5 writes an infinite number as {"__float__": "Infinity"}, transformers 4 as Infinity (io/json.h). */
    const char *special = json_string_value(json_object_get(item.node, "__float__"));
    bool infinite = special && strcmp(special, "Infinity") == 0;
    if (!json_is_number(item.node) && !infinite) return fk_json_expected(&item, "a number");
    values[i] = infinite ? 1.79e308 : json_number_value(item.node);
  }
  *count = (int)n;
  return FK_OK;
}
