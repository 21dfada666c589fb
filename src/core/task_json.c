/* task.json -> fk_task. Every rule of docs/task-json.md is enforced here and nowhere else. */
#include <ctype.h>
#include <float.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "core/task.h"

typedef struct parser {
  fk_arena *arena;
  const char *where; /* the file, for messages */
  fk_task *task;
  fk_arg args[FK_MAX_ARGS];
  fk_symbol symbols[FK_MAX_SYMBOLS];
  int ellipsis; /* the symbol of "name...", or -1 */
} parser;

#define BAD(p, ...) bad(p, fk_fail(FK_ERROR_FORMAT, __VA_ARGS__))

/* Puts the file before a message. */
static fk_status bad(const parser *p, fk_status status) {
  return fk_fail_in(status, "%s", p->where);
}

static const char *type_text(const json_t *v) {
  static const char *const names[] = {"an object", "an array", "a string", "an integer",
                                      "a number",  "true",     "false",    "null"};
  return v ? names[json_typeof(v)] : "nothing";
}

static fk_status get_string(parser *p, const json_t *object, const char *place, const char *key, const char **text) {
  const json_t *v = json_object_get(object, key);
  if (!json_is_string(v) || !*json_string_value(v))
    return BAD(p, "%s%s: expected a non-empty string, got %s", place, key, type_text(v));
  *text = fk_arena_strdup(p->arena, json_string_value(v));
  return *text ? FK_OK : FK_ERROR_MEMORY;
}

/* A key that must be an array or absent. */
static fk_status get_array(parser *p, const json_t *object, const char *place, const char *key, const json_t **array) {
  *array = json_object_get(object, key);
  if (!*array || json_is_array(*array)) return FK_OK;
  return BAD(p, "%s%s: expected an array, got %s", place, key, type_text(*array));
}

static fk_status get_bool(parser *p, const json_t *object, const char *place, const char *key, bool *value) {
  const json_t *v = json_object_get(object, key);
  if (v && !json_is_boolean(v)) return BAD(p, "%s.%s: expected true or false, got %s", place, key, type_text(v));
  *value = json_is_true(v);
  return FK_OK;
}

static fk_status get_number(parser *p, const json_t *object, const char *place, const char *key, double *value) {
  const json_t *v = json_object_get(object, key);
  if (v && !json_is_number(v)) return BAD(p, "%s.%s: expected a number, got %s", place, key, type_text(v));
  if (v) *value = json_number_value(v);
  return FK_OK;
}

/* Fails on keys that no rule reads: a misspelt key must not be silently ignored. */
static fk_status only_keys(parser *p, const json_t *object, const char *place, const char *const *allowed) {
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)object, key, value) {
    const char *const *a = allowed;
    while (*a && strcmp(*a, key) != 0) a++;
    if (!*a) return BAD(p, "%s: unknown key \"%s\"", *place ? place : "top level", key);
  }
  return FK_OK;
}

static bool is_identifier(const char *name, bool dots) {
  if (!isalpha((unsigned char)*name) && *name != '_') return false;
  for (; *name; name++)
    if (!isalnum((unsigned char)*name) && *name != '_' && !(dots && *name == '.')) return false;
  return true;
}

/* ---- Symbols --------------------------------------------------------------------------------------------- */

static int find_symbol(const void *self, const char *name) {
  const parser *p = self;
  for (int i = 0; i < p->task->num_symbols; i++)
    if (strcmp(p->symbols[i].name, name) == 0) return i;
  return -1;
}

static int find_arg(const void *self, const char *name) {
  const parser *p = self;
  for (int i = 0; i < p->task->num_args; i++)
    if (strcmp(p->args[i].name, name) == 0) return i;
  return -1;
}

static int find_tensor(const void *self, const char *name) {
  const parser *p = self;
  int i = find_arg(self, name);
  return i >= 0 && p->args[i].role != FK_ATTRIBUTE ? i : -1;
}

static fk_status parse_expr(parser *p, const char *text, const char *place, const fk_expr **expr) {
  fk_expr_scope scope = {find_symbol, find_tensor, p};
  fk_status status = fk_expr_parse(p->arena, text, &scope, expr);
  return status ? bad(p, fk_fail_in(status, "%s", place)) : FK_OK;
}

static fk_status add_symbol(parser *p, const char *name, fk_axis_kind kind, int *index) {
  if (!is_identifier(name, false)) return BAD(p, "axis \"%s\": expected an identifier", name);
  if (find_symbol(p, name) >= 0) return BAD(p, "%s: an axis or attribute of this name already exists", name);
  if (p->task->num_symbols == FK_MAX_SYMBOLS) return BAD(p, "more than %d axes and attributes", FK_MAX_SYMBOLS);
  char *copy = fk_arena_strdup(p->arena, name);
  if (!copy) return FK_ERROR_MEMORY;
  *index = p->task->num_symbols++;
  p->symbols[*index] = (fk_symbol){.name = copy, .kind = kind};
  return FK_OK;
}

static fk_status parse_axes(parser *p, const json_t *root) {
  const json_t *axes = json_object_get(root, "axes");
  if (!json_is_object(axes)) return BAD(p, "axes: expected an object, got %s", type_text(axes));
  const char *name;
  json_t *v;
  json_object_foreach((json_t *)axes, name, v) {
    const char *kind = json_string_value(v);
    int index;
    if (kind && strcmp(kind, "var") == 0) {
      FK_TRY(add_symbol(p, name, FK_AXIS_VAR, &index));
    } else if (kind && strcmp(kind, "const") == 0) {
      FK_TRY(add_symbol(p, name, FK_AXIS_CONST, &index));
    } else if (json_is_string(json_object_get(v, "expr")) && json_object_size(v) == 1) {
      FK_TRY(add_symbol(p, name, FK_AXIS_EXPR, &index)); /* compiled when all names are known */
    } else {
      return BAD(p, "axes.%s: expected \"var\", \"const\" or {\"expr\": \"...\"}, got %s", name, type_text(v));
    }
  }
  return FK_OK;
}

static fk_status compile_axes(parser *p, const json_t *root) {
  for (int i = 0; i < p->task->num_symbols; i++) {
    fk_symbol *s = &p->symbols[i];
    if (s->kind != FK_AXIS_EXPR) continue;
    const json_t *v = json_object_get(json_object_get(root, "axes"), s->name);
    FK_TRY(parse_expr(p, json_string_value(json_object_get(v, "expr")), s->name, &s->expr));
  }
  return FK_OK;
}

/* ---- Attributes ------------------------------------------------------------------------------------------ */

static fk_status parse_enum(parser *p, fk_arg *arg, const json_t *values) {
  size_t n = json_array_size(values);
  const char **names = fk_arena_calloc(p->arena, n + 1, sizeof *names);
  if (!names) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < n; i++) {
    const char *text = json_string_value(json_array_get(values, i));
    if (!text) return BAD(p, "attributes.%s.enum: expected strings", arg->name);
    names[i] = fk_arena_strdup(p->arena, text);
    if (!names[i]) return FK_ERROR_MEMORY;
  }
  if (n == 0) return BAD(p, "attributes.%s.enum: expected at least one name", arg->name);
  arg->enum_names = names;
  arg->min = 0;
  arg->max = (double)n - 1;
  return FK_OK;
}

static fk_status parse_default(parser *p, fk_arg *arg, const json_t *v) {
  if (!v) return FK_OK;
  arg->has_default = true;
  if (arg->type == FK_ATTR_BOOL && json_is_boolean(v)) {
    arg->default_value = json_is_true(v);
  } else if (arg->type == FK_ATTR_ENUM && json_is_string(v)) {
    int i = 0;
    while (arg->enum_names[i] && strcmp(arg->enum_names[i], json_string_value(v)) != 0) i++;
    if (!arg->enum_names[i]) return BAD(p, "attributes.%s.default: not one of enum", arg->name);
    arg->default_value = i;
  } else if ((arg->type == FK_ATTR_INT && json_is_integer(v)) || (arg->type == FK_ATTR_FLOAT && json_is_number(v))) {
    arg->default_value = json_number_value(v);
  } else {
    return BAD(p, "attributes.%s.default: expected a value of the attribute's type, got %s", arg->name, type_text(v));
  }
  if (arg->default_value < arg->min || arg->default_value > arg->max)
    return BAD(p, "attributes.%s.default: %g is outside min and max", arg->name, arg->default_value);
  return FK_OK;
}

static fk_status parse_attribute(parser *p, fk_arg *arg, const json_t *v) {
  static const char *const keys[] = {"type", "default", "min", "max", "enum", "doc", NULL};
  FK_TRY(only_keys(p, v, arg->name, keys));
  const char *type = json_string_value(json_object_get(v, "type"));
  bool is_float = type && strcmp(type, "float") == 0;
  arg->min = is_float ? -DBL_MAX : -9.2e18; /* below the range of int64_t, so that a double holds the limit */
  arg->max = is_float ? DBL_MAX : 9.2e18;
  FK_TRY(get_number(p, v, arg->name, "min", &arg->min));
  FK_TRY(get_number(p, v, arg->name, "max", &arg->max));
  if (arg->min > arg->max) return BAD(p, "attributes.%s.min: %g is above max", arg->name, arg->min);
  if (json_object_get(v, "enum") && (!type || strcmp(type, "enum") != 0))
    return BAD(p, "attributes.%s.enum: only an attribute of type enum has names", arg->name);
  arg->symbol = -1;
  if (type && strcmp(type, "int") == 0) {
    arg->type = FK_ATTR_INT;
  } else if (is_float) {
    arg->type = FK_ATTR_FLOAT;
  } else if (type && strcmp(type, "bool") == 0) {
    arg->type = FK_ATTR_BOOL;
    arg->min = 0;
    arg->max = 1;
  } else if (type && strcmp(type, "enum") == 0) {
    arg->type = FK_ATTR_ENUM;
    FK_TRY(parse_enum(p, arg, json_object_get(v, "enum")));
  } else {
    return BAD(p, "attributes.%s.type: expected \"int\", \"float\", \"bool\" or \"enum\"", arg->name);
  }
  if (arg->type != FK_ATTR_FLOAT) FK_TRY(add_symbol(p, arg->c_name, FK_AXIS_ATTRIBUTE, &arg->symbol));
  return parse_default(p, arg, json_object_get(v, "default"));
}

/* ---- Tensors: shapes, dtypes, values --------------------------------------------------------------------- */

static fk_status parse_dim(parser *p, const fk_arg *arg, const json_t *v, int at, fk_shape *shape) {
  fk_dim *dim = &shape->dims[at];
  *dim = (fk_dim){.symbol = -1};
  if (json_is_integer(v)) {
    dim->literal = json_integer_value(v);
    return dim->literal >= 0 ? FK_OK : BAD(p, "%s.shape[%d]: a dimension cannot be negative", arg->name, at);
  }
  if (!json_is_string(v)) return BAD(p, "%s.shape[%d]: expected a string or an integer", arg->name, at);
  const char *text = json_string_value(v);
  size_t n = strlen(text);
  if (n > 3 && strcmp(text + n - 3, "...") == 0) {
    char name[128];
    snprintf(name, sizeof name, "%.*s", (int)(n - 3), text);
    dim->symbol = find_symbol(p, name);
    if (at != 0 || dim->symbol < 0)
      return BAD(p, "%s.shape[%d]: \"%s\" must be an axis and come first", arg->name, at, text);
    if (p->ellipsis >= 0 && p->ellipsis != dim->symbol)
      return BAD(p, "%s.shape: a task may have one \"...\" axis", arg->name);
    p->ellipsis = dim->symbol;
    shape->ellipsis = true;
    return FK_OK;
  }
  FK_TRY(parse_expr(p, text, arg->name, &dim->expr));
  if (fk_expr_uses_tensors(dim->expr))
    return BAD(p, "%s.shape[%d]: a shape cannot depend on tensors or their data", arg->name, at);
  dim->symbol = fk_expr_as_symbol(dim->expr);
  if (dim->symbol < 0) return FK_OK;
  const fk_symbol *s = &p->symbols[dim->symbol];
  if (s->kind == FK_AXIS_EXPR && fk_expr_reads_data(s->expr))
    return BAD(p, "%s.shape[%d]: axis %s depends on data, which a shape cannot", arg->name, at, s->name);
  dim->expr = NULL;
  return FK_OK;
}

static fk_status parse_shape(parser *p, const fk_arg *arg, const json_t *v, fk_shape *shape) {
  if (json_is_null(v) && p->task->num_layouts) {
    shape->absent = true;
    return arg->optional ? FK_OK : BAD(p, "%s: absent in a layout, but not optional", arg->name);
  }
  if (!json_is_array(v)) return BAD(p, "%s.shape: expected an array, got %s", arg->name, type_text(v));
  size_t n = json_array_size(v);
  if (n > FK_MAX_DIMS) return BAD(p, "%s.shape: more than %d dimensions", arg->name, FK_MAX_DIMS);
  shape->ndim = (int32_t)n;
  for (size_t i = 0; i < n; i++) FK_TRY(parse_dim(p, arg, json_array_get(v, i), (int)i, shape));
  return FK_OK;
}

/* The tensor's shape in each layout: the layout's own, or the tensor's default. */
static fk_status parse_shapes(parser *p, const json_t *root, fk_arg *arg, const json_t *v) {
  int n = p->task->num_layouts ? p->task->num_layouts : 1;
  fk_shape *shapes = fk_arena_calloc(p->arena, (size_t)n, sizeof *shapes);
  if (!shapes) return FK_ERROR_MEMORY;
  for (int i = 0; i < n; i++) {
    const json_t *layout = NULL;
    if (p->task->num_layouts) layout = json_object_get(json_object_get(root, "layouts"), p->task->layouts[i]);
    const json_t *shape = json_object_get(layout, arg->name);
    if (!shape) shape = json_object_get(v, "shape");
    if (!shape)
      return BAD(p, "%s: no shape%s%s", arg->name, layout ? " in layout " : "", layout ? p->task->layouts[i] : "");
    FK_TRY(parse_shape(p, arg, shape, &shapes[i]));
  }
  arg->shapes = shapes;
  return FK_OK;
}

static fk_status parse_dtype(parser *p, fk_arg *arg, const json_t *v) {
  arg->same_dtype_as = -1;
  const char *text = json_string_value(v);
  fk_type type;
  if (text && !fk_type_parse(text, &type)) {
    arg->same_dtype_as = find_tensor(p, text);
    if (arg->same_dtype_as < 0 || &p->args[arg->same_dtype_as] >= arg)
      return BAD(p, "%s.dtype: \"%s\" is neither a dtype nor an earlier tensor", arg->name, text);
    return FK_OK;
  }
  if (text) {
    arg->dtypes = fk_type_bit(type);
    return FK_OK;
  }
  if (!json_is_array(v) || json_array_size(v) == 0)
    return BAD(p, "%s.dtype: expected a dtype, a list of dtypes or a tensor's name, got %s", arg->name, type_text(v));
  for (size_t i = 0; i < json_array_size(v); i++) {
    const char *name = json_string_value(json_array_get(v, i));
    if (!name || !fk_type_parse(name, &type)) return BAD(p, "%s.dtype[%zu]: expected a dtype", arg->name, i);
    arg->dtypes |= fk_type_bit(type);
  }
  return FK_OK;
}

static fk_status values_expr(parser *p, const fk_arg *arg, const json_t *v, const char *key, const fk_expr **expr) {
  const json_t *bound = json_object_get(v, key);
  if (!json_is_string(bound)) return BAD(p, "%s.values.%s: expected an expression", arg->name, key);
  return parse_expr(p, json_string_value(bound), arg->name, expr);
}

static fk_status values_tensor(parser *p, const fk_arg *arg, const json_t *v, const char *key, int *index) {
  const char *name = json_string_value(json_object_get(v, key));
  *index = name ? find_tensor(p, name) : -1;
  return *index >= 0 ? FK_OK : BAD(p, "%s.values.%s: expected the name of a tensor argument", arg->name, key);
}

static fk_status parse_values(parser *p, fk_arg *arg, const json_t *v) {
  static const struct {
    const char *name;
    fk_values_kind kind;
    const char *bound, *tensor; /* keys that the kind needs */
  } kinds[] = {{"normal", FK_VALUES_NORMAL, NULL, NULL},
               {"uniform", FK_VALUES_UNIFORM, NULL, NULL},
               {"index", FK_VALUES_INDEX, "below", NULL},
               {"cu_seqlens", FK_VALUES_CU_SEQLENS, "total", NULL},
               {"seq_lens", FK_VALUES_SEQ_LENS, "max", "cu_seqlens_q"},
               {"block_table", FK_VALUES_BLOCK_TABLE, "below", NULL},
               {"slot_mapping", FK_VALUES_SLOT_MAPPING, "below", NULL},
               {"positions", FK_VALUES_POSITIONS, "below", NULL},
               {"cos_sin", FK_VALUES_COS_SIN, NULL, NULL}};
  static const char *const keys[] = {"kind",  "mean", "std",    "low",          "high", "below",
                                     "total", "max",  "unique", "cu_seqlens_q", NULL};
  fk_values *values = &arg->values;
  *values = (fk_values){.kind = FK_VALUES_DEFAULT, .a = 0, .b = 1, .tensor = -1};
  if (!v) return FK_OK;
  if (!json_is_object(v)) return BAD(p, "%s.values: expected an object, got %s", arg->name, type_text(v));
  FK_TRY(only_keys(p, v, arg->name, keys));
  const char *kind = json_string_value(json_object_get(v, "kind"));
  size_t i = 0, n = sizeof kinds / sizeof *kinds;
  while (i < n && (!kind || strcmp(kinds[i].name, kind) != 0)) i++;
  if (i == n) return BAD(p, "%s.values.kind: unknown kind \"%s\"", arg->name, kind ? kind : "");
  values->kind = kinds[i].kind;
  bool uniform = values->kind == FK_VALUES_UNIFORM;
  char place[160];
  snprintf(place, sizeof place, "%s.values", arg->name);
  FK_TRY(get_number(p, v, place, uniform ? "low" : "mean", &values->a));
  FK_TRY(get_number(p, v, place, uniform ? "high" : "std", &values->b));
  FK_TRY(get_bool(p, v, place, "unique", &values->unique));
  if (kinds[i].bound) FK_TRY(values_expr(p, arg, v, kinds[i].bound, &values->bound));
  if (kinds[i].tensor) FK_TRY(values_tensor(p, arg, v, kinds[i].tensor, &values->tensor));
  return FK_OK;
}

static fk_status parse_may_alias(parser *p, fk_arg *arg, const json_t *v) {
  if (!v) return FK_OK;
  if (!json_is_array(v)) return BAD(p, "%s.may_alias: expected an array, got %s", arg->name, type_text(v));
  if (arg->role != FK_OUTPUT) return BAD(p, "%s.may_alias: only an output can alias", arg->name);
  size_t n = json_array_size(v);
  int *list = fk_arena_calloc(p->arena, n + 1, sizeof *list);
  if (!list) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < n; i++) {
    const char *name = json_string_value(json_array_get(v, i));
    list[i] = name ? find_tensor(p, name) : -1;
    if (list[i] < 0 || &p->args[list[i]] == arg)
      return BAD(p, "%s.may_alias[%zu]: expected the name of a tensor argument", arg->name, i);
  }
  list[n] = -1;
  arg->may_alias = list;
  return FK_OK;
}

static fk_status parse_tensor(parser *p, const json_t *root, fk_arg *arg, const json_t *v) {
  static const char *const keys[] = {"shape",  "dtype",     "optional", "inout", "strides",
                                     "values", "may_alias", "doc",      NULL};
  FK_TRY(only_keys(p, v, arg->name, keys));
  arg->symbol = -1;
  FK_TRY(get_bool(p, v, arg->name, "optional", &arg->optional));
  FK_TRY(get_bool(p, v, arg->name, "inout", &arg->inout));
  if (arg->inout && arg->role != FK_INPUT) return BAD(p, "%s.inout: only an input can be in-out", arg->name);
  const char *strides = "rows";
  if (json_object_get(v, "strides")) strides = json_string_value(json_object_get(v, "strides")) ?: "";
  if (strcmp(strides, "rows") == 0)
    arg->strides = FK_STRIDES_ROWS;
  else if (strcmp(strides, "contiguous") == 0)
    arg->strides = FK_STRIDES_CONTIGUOUS;
  else if (strcmp(strides, "any") == 0)
    arg->strides = FK_STRIDES_ANY;
  else
    return BAD(p, "%s.strides: expected \"rows\", \"contiguous\" or \"any\", got \"%s\"", arg->name, strides);
  FK_TRY(parse_dtype(p, arg, json_object_get(v, "dtype")));
  FK_TRY(parse_shapes(p, root, arg, v));
  return parse_may_alias(p, arg, json_object_get(v, "may_alias"));
}

/* ---- Arguments ------------------------------------------------------------------------------------------- */

static const char *const groups[] = {"inputs", "weights", "attributes", "outputs"};

static fk_status add_arg(parser *p, fk_role role, const char *name) {
  if (!is_identifier(name, true)) return BAD(p, "%s.%s: expected an identifier", groups[role], name);
  if (find_arg(p, name) >= 0) return BAD(p, "%s: two arguments have this name", name);
  if (p->task->num_args == FK_MAX_ARGS) return BAD(p, "more than %d arguments", FK_MAX_ARGS);
  fk_arg *arg = &p->args[p->task->num_args];
  char *copy = fk_arena_strdup(p->arena, name), *c_name = fk_arena_strdup(p->arena, name);
  if (!copy || !c_name) return FK_ERROR_MEMORY;
  for (char *c = c_name; *c; c++)
    if (*c == '.') *c = '_';
  for (int i = 0; i < p->task->num_args; i++)
    if (strcmp(p->args[i].c_name, c_name) == 0)
      return BAD(p, "%s: is %s in C, and so is %s", name, c_name, p->args[i].name);
  *arg = (fk_arg){.name = copy, .c_name = c_name, .doc = "", .role = role, .symbol = -1};
  p->task->num_args++;
  return FK_OK;
}

/* First all names (so that formulas may refer forward), then attributes (they are symbols), then tensors. */
static fk_status parse_args(parser *p, const json_t *root) {
  const char *name;
  json_t *v;
  int32_t *counts[] = {&p->task->num_inputs, &p->task->num_weights, &p->task->num_attributes, &p->task->num_outputs};
  for (int role = FK_INPUT; role <= FK_OUTPUT; role++) {
    const json_t *group = json_object_get(root, groups[role]);
    if (group && !json_is_object(group))
      return BAD(p, "%s: expected an object, got %s", groups[role], type_text(group));
    json_object_foreach((json_t *)group, name, v) {
      if (!json_is_object(v)) return BAD(p, "%s.%s: expected an object, got %s", groups[role], name, type_text(v));
      FK_TRY(add_arg(p, role, name));
      fk_arg *arg = &p->args[p->task->num_args - 1];
      char place[160];
      snprintf(place, sizeof place, "%s.", name);
      if (json_object_get(v, "doc")) FK_TRY(get_string(p, v, place, "doc", &arg->doc));
      if (role == FK_ATTRIBUTE) FK_TRY(parse_attribute(p, arg, v));
      ++*counts[role];
    }
  }
  FK_TRY(compile_axes(p, root));
  for (int i = 0; i < p->task->num_args; i++) {
    fk_arg *arg = &p->args[i];
    if (arg->role != FK_ATTRIBUTE)
      FK_TRY(parse_tensor(p, root, arg, json_object_get(json_object_get(root, groups[arg->role]), arg->name)));
  }
  for (int i = 0; i < p->task->num_args; i++) {
    fk_arg *arg = &p->args[i];
    if (arg->role == FK_ATTRIBUTE) continue;
    v = json_object_get(json_object_get(root, groups[arg->role]), arg->name);
    FK_TRY(parse_values(p, arg, json_object_get(v, "values")));
  }
  bool written = p->task->num_outputs > 0;
  for (int i = 0; i < p->task->num_args; i++) written |= p->args[i].inout;
  return written ? FK_OK : BAD(p, "outputs: a task must write something");
}

static fk_status parse_layouts(parser *p, const json_t *root) {
  const json_t *layouts = json_object_get(root, "layouts");
  if (!layouts) return FK_OK;
  size_t n = json_object_size(layouts), i = 0;
  if (n == 0) return BAD(p, "layouts: expected a non-empty object");
  const char **names = fk_arena_calloc(p->arena, n + 1, sizeof *names);
  if (!names) return FK_ERROR_MEMORY;
  const char *name;
  json_t *v;
  json_object_foreach((json_t *)layouts, name, v) {
    if (!json_is_object(v)) return BAD(p, "layouts.%s: expected an object, got %s", name, type_text(v));
    names[i] = fk_arena_strdup(p->arena, name);
    if (!names[i++]) return FK_ERROR_MEMORY;
  }
  p->task->layouts = names;
  p->task->num_layouts = (int32_t)n;
  return FK_OK;
}

/* A layout may only speak of tensors that exist. */
static fk_status check_layout_names(parser *p, const json_t *root) {
  const char *layout, *name;
  json_t *shapes, *v;
  json_object_foreach(json_object_get(root, "layouts"), layout, shapes) {
    json_object_foreach(shapes, name, v) {
      if (find_tensor(p, name) < 0) return BAD(p, "layouts.%s.%s: no tensor argument has this name", layout, name);
    }
  }
  return FK_OK;
}

/* ---- The rest of the definition -------------------------------------------------------------------------- */

static fk_status parse_mirrors(parser *p, const json_t *root) {
  const json_t *list = json_object_get(root, "mirrors");
  if (!json_is_array(list) || json_array_size(list) == 0)
    return BAD(p, "mirrors: expected at least one {library, symbol, arguments}");
  size_t n = json_array_size(list);
  fk_mirror *mirrors = fk_arena_calloc(p->arena, n, sizeof *mirrors);
  if (!mirrors) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < n; i++) {
    static const char *const keys[] = {"library", "symbol", "arguments", "notes", NULL};
    const json_t *m = json_array_get(list, i), *arguments;
    FK_TRY(only_keys(p, m, "mirrors", keys));
    FK_TRY(get_array(p, m, "mirrors.", "arguments", &arguments));
    FK_TRY(get_string(p, m, "mirrors.", "library", &mirrors[i].library));
    FK_TRY(get_string(p, m, "mirrors.", "symbol", &mirrors[i].symbol));
    const char **names = fk_arena_calloc(p->arena, json_array_size(arguments) + 1, sizeof *names);
    if (!names) return FK_ERROR_MEMORY;
    for (size_t k = 0; k < json_array_size(arguments); k++) {
      int arg = find_arg(p, json_string_value(json_array_get(arguments, k)) ?: "");
      if (arg < 0) return BAD(p, "mirrors[%zu].arguments[%zu]: no argument has this name", i, k);
      names[k] = p->args[arg].name;
    }
    mirrors[i].arguments = names;
  }
  p->task->mirrors = mirrors;
  p->task->num_mirrors = (int32_t)n;
  return FK_OK;
}

static fk_status parse_formulas(parser *p, const json_t *root) {
  fk_task *t = p->task;
  const json_t *constraints;
  FK_TRY(get_array(p, root, "", "constraints", &constraints));
  size_t n = json_array_size(constraints);
  const fk_expr **list = fk_arena_calloc(p->arena, n + 1, sizeof *list);
  if (!list) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < n; i++) {
    const char *text = json_string_value(json_array_get(constraints, i));
    if (!text) return BAD(p, "constraints[%zu]: expected an expression", i);
    FK_TRY(parse_expr(p, text, "constraints", &list[i]));
    if (fk_expr_reads_data(list[i])) return BAD(p, "constraints[%zu]: a constraint cannot depend on data", i);
  }
  t->constraints = list;
  t->num_constraints = (int32_t)n;
  const char *flops;
  FK_TRY(get_string(p, root, "", "flops", &flops));
  FK_TRY(parse_expr(p, flops, "flops", &t->flops));
  const char *bytes;
  if (!json_object_get(root, "bytes")) return FK_OK;
  FK_TRY(get_string(p, root, "", "bytes", &bytes));
  return parse_expr(p, bytes, "bytes", &t->bytes);
}

static fk_status parse_root(parser *p, const json_t *root) {
  static const char *const keys[] = {"name",   "level",   "family",     "summary", "mirrors", "axes",
                                     "inputs", "weights", "attributes", "outputs", "layouts", "constraints",
                                     "flops",  "bytes",   "tolerance",  "notes",   NULL};
  static const char *const tolerances[] = {"exact", "elementwise", "reduction", "matmul", "attention", NULL};
  fk_task *t = p->task;
  if (!json_is_object(root)) return BAD(p, "expected an object, got %s", type_text(root));
  FK_TRY(only_keys(p, root, "", keys));
  FK_TRY(get_string(p, root, "", "name", &t->name));
  if (!is_identifier(t->name, false)) return BAD(p, "name: \"%s\" is no identifier", t->name);
  FK_TRY(get_string(p, root, "", "family", &t->family));
  FK_TRY(get_string(p, root, "", "summary", &t->summary));
  FK_TRY(get_string(p, root, "", "tolerance", &t->tolerance));
  int i = 0;
  while (tolerances[i] && strcmp(tolerances[i], t->tolerance) != 0) i++;
  if (!tolerances[i])
    return BAD(p, "tolerance: \"%s\" is none of exact, elementwise, reduction, matmul, attention", t->tolerance);
  const json_t *level = json_object_get(root, "level");
  t->level = (int)json_integer_value(level);
  if (!json_is_integer(level) || t->level < 1 || t->level > 4) return BAD(p, "level: expected 1, 2, 3 or 4");
  FK_TRY(parse_axes(p, root));
  FK_TRY(parse_layouts(p, root));
  FK_TRY(parse_args(p, root));
  FK_TRY(check_layout_names(p, root));
  FK_TRY(parse_mirrors(p, root));
  return parse_formulas(p, root);
}

static void *copied(fk_arena *arena, const void *from, int32_t n, size_t size) {
  void *to = fk_arena_calloc(arena, (size_t)n + 1, size);
  return to ? memcpy(to, from, (size_t)n * size) : NULL;
}

fk_status fk_task_parse(fk_arena *arena, const char *json, size_t length, const char *where, fk_task **task) {
  *task = NULL;
  json_error_t error;
  json_t *root = json_loadb(json, length, JSON_REJECT_DUPLICATES, &error);
  if (!root && json_error_code(&error) == json_error_out_of_memory)
    return fk_fail(FK_ERROR_MEMORY, "%s: out of memory", where);
  if (!root) return fk_fail(FK_ERROR_FORMAT, "%s:%d:%d: %s", where, error.line, error.column, error.text);
  fk_task *t = fk_arena_calloc(arena, 1, sizeof *t);
  parser *p = fk_arena_calloc(arena, 1, sizeof *p);
  fk_status status = FK_ERROR_MEMORY;
  if (!t || !p) goto cleanup;
  *p = (parser){.arena = arena, .where = where, .task = t, .ellipsis = -1};
  t->index = -1;
  status = parse_root(p, root);
  if (status) goto cleanup;
  status = FK_ERROR_MEMORY;
  t->args = copied(arena, p->args, t->num_args, sizeof *p->args);
  t->symbols = copied(arena, p->symbols, t->num_symbols, sizeof *p->symbols);
  char *text = fk_arena_alloc(arena, length + 1, 1);
  if (!t->args || !t->symbols || !text) goto cleanup;
  memcpy(text, json, length);
  text[length] = 0;
  t->json = text;
  *task = t;
  status = FK_OK;
cleanup:
  json_decref(root);
  return status;
}

int fk_task_arg(const fk_task *task, const char *name) {
  for (int i = 0; i < task->num_args; i++)
    if (strcmp(task->args[i].name, name) == 0) return i;
  return -1;
}

int fk_task_symbol(const fk_task *task, const char *name) {
  for (int i = 0; i < task->num_symbols; i++)
    if (strcmp(task->symbols[i].name, name) == 0) return i;
  return -1;
}

uint32_t fk_type_bit(fk_type type) {
  static const fk_type order[] = {FK_I8,  FK_I16,  FK_I32,  FK_I64,       FK_U8,      FK_F16,     FK_F32,
                                  FK_F64, FK_BF16, FK_BOOL, FK_F8_E4M3FN, FK_F8_E5M2, FK_F8_E8M0, FK_F4_E2M1};
  for (uint32_t i = 0; i < sizeof order / sizeof *order; i++)
    if (order[i] == type) return 1u << i;
  return 0;
}
