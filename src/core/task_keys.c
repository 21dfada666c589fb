/* task.json: keys, names and formulas, each with an error that names its place. */
#include <ctype.h>
#include <string.h>

#include "core/task_parser.h"

/* Puts the file before a message. */
fk_status fk_def_bad(const fk_task_parser *p, fk_status status) {
  return fk_fail_in(status, "%s", p->where);
}

const char *fk_def_type_text(const json_t *v) {
  static const char *const names[] = {"an object", "an array", "a string", "an integer",
                                      "a number",  "true",     "false",    "null"};
  return v ? names[json_typeof(v)] : "nothing";
}

fk_status fk_def_get_string(fk_task_parser *p, const json_t *object, const char *place, const char *key,
                            const char **text) {
  const json_t *v = json_object_get(object, key);
  if (!json_is_string(v) || !*json_string_value(v))
    return BAD(p, "%s%s: expected a non-empty string, got %s", place, key, fk_def_type_text(v));
  *text = fk_arena_strdup(p->arena, json_string_value(v));
  return *text ? FK_OK : FK_ERROR_MEMORY;
}

/* A key that must be an array or absent. */
fk_status fk_def_get_array(fk_task_parser *p, const json_t *object, const char *place, const char *key,
                           const json_t **array) {
  *array = json_object_get(object, key);
  if (!*array || json_is_array(*array)) return FK_OK;
  return BAD(p, "%s%s: expected an array, got %s", place, key, fk_def_type_text(*array));
}

fk_status fk_def_get_bool(fk_task_parser *p, const json_t *object, const char *place, const char *key, bool *value) {
  const json_t *v = json_object_get(object, key);
  if (v && !json_is_boolean(v)) return BAD(p, "%s.%s: expected true or false, got %s", place, key, fk_def_type_text(v));
  *value = json_is_true(v);
  return FK_OK;
}

fk_status fk_def_get_number(fk_task_parser *p, const json_t *object, const char *place, const char *key,
                            double *value) {
  const json_t *v = json_object_get(object, key);
  if (v && !json_is_number(v)) return BAD(p, "%s.%s: expected a number, got %s", place, key, fk_def_type_text(v));
  if (v) *value = json_number_value(v);
  return FK_OK;
}

/* Fails on keys that no rule reads: a misspelt key must not be silently ignored. */
fk_status fk_def_only_keys(fk_task_parser *p, const json_t *object, const char *place, const char *const *allowed) {
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)object, key, value) {
    const char *const *a = allowed;
    while (*a && strcmp(*a, key) != 0) a++;
    if (!*a) return BAD(p, "%s: unknown key \"%s\"", *place ? place : "top level", key);
  }
  return FK_OK;
}

bool fk_def_is_identifier(const char *name, bool dots) {
  if (!isalpha((unsigned char)*name) && *name != '_') return false;
  for (; *name; name++)
    if (!isalnum((unsigned char)*name) && *name != '_' && !(dots && *name == '.')) return false;
  return true;
}

/* ---- Symbols --------------------------------------------------------------------------------------------- */

int fk_def_find_symbol(const void *self, const char *name) {
  const fk_task_parser *p = self;
  for (int i = 0; i < p->task->num_symbols; i++)
    if (strcmp(p->symbols[i].name, name) == 0) return i;
  return -1;
}

int fk_def_find_arg(const void *self, const char *name) {
  const fk_task_parser *p = self;
  for (int i = 0; i < p->task->num_args; i++)
    if (strcmp(p->args[i].name, name) == 0) return i;
  return -1;
}

int fk_def_find_tensor(const void *self, const char *name) {
  const fk_task_parser *p = self;
  int i = fk_def_find_arg(self, name);
  return i >= 0 && p->args[i].role != FK_ATTRIBUTE ? i : -1;
}

fk_status fk_def_parse_expr(fk_task_parser *p, const char *text, const char *place, const fk_expr **expr) {
  fk_expr_scope scope = {fk_def_find_symbol, fk_def_find_tensor, p};
  fk_status status = fk_expr_parse(p->arena, text, &scope, expr);
  return status ? fk_def_bad(p, fk_fail_in(status, "%s", place)) : FK_OK;
}

fk_status fk_def_add_symbol(fk_task_parser *p, const char *name, fk_axis_kind kind, int *index) {
  if (!fk_def_is_identifier(name, false)) return BAD(p, "axis \"%s\": expected an identifier", name);
  if (fk_def_find_symbol(p, name) >= 0) return BAD(p, "%s: an axis or attribute of this name already exists", name);
  if (p->task->num_symbols == FK_MAX_SYMBOLS) return BAD(p, "more than %d axes and attributes", FK_MAX_SYMBOLS);
  char *copy = fk_arena_strdup(p->arena, name);
  if (!copy) return FK_ERROR_MEMORY;
  *index = p->task->num_symbols++;
  p->symbols[*index] = (fk_symbol){.name = copy, .kind = kind};
  return FK_OK;
}
