/* task.json: attributes and tensors. */
#include <float.h>
#include <stdio.h>
#include <string.h>

#include "core/task_parser.h"

/* ---- Attributes ------------------------------------------------------------------------------------------ */

static fk_status parse_enum(fk_task_parser *p, fk_arg *arg, const json_t *values) {
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

static fk_status parse_default(fk_task_parser *p, fk_arg *arg, const json_t *v) {
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
    return BAD(p, "attributes.%s.default: expected a value of the attribute's type, got %s", arg->name,
               fk_def_type_text(v));
  }
  if (arg->default_value < arg->min || arg->default_value > arg->max)
    return BAD(p, "attributes.%s.default: %g is outside min and max", arg->name, arg->default_value);
  return FK_OK;
}

fk_status fk_def_parse_attribute(fk_task_parser *p, fk_arg *arg, const json_t *v) {
  static const char *const keys[] = {"type", "default", "min", "max", "enum", "doc", NULL};
  FK_TRY(fk_def_only_keys(p, v, arg->name, keys));
  const char *type = json_string_value(json_object_get(v, "type"));
  bool is_float = type && strcmp(type, "float") == 0;
  arg->min = is_float ? -DBL_MAX : -9.2e18; /* below the range of int64_t, so that a double holds the limit */
  arg->max = is_float ? DBL_MAX : 9.2e18;
  FK_TRY(fk_def_get_number(p, v, arg->name, "min", &arg->min));
  FK_TRY(fk_def_get_number(p, v, arg->name, "max", &arg->max));
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
  if (arg->type != FK_ATTR_FLOAT) FK_TRY(fk_def_add_symbol(p, arg->c_name, FK_AXIS_ATTRIBUTE, &arg->symbol));
  return parse_default(p, arg, json_object_get(v, "default"));
}

/* ---- Tensors: shapes, dtypes, values --------------------------------------------------------------------- */

static fk_status parse_dim(fk_task_parser *p, const fk_arg *arg, const json_t *v, int at, fk_shape *shape) {
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
    dim->symbol = fk_def_find_symbol(p, name);
    if (at != 0 || dim->symbol < 0)
      return BAD(p, "%s.shape[%d]: \"%s\" must be an axis and come first", arg->name, at, text);
    if (p->ellipsis >= 0 && p->ellipsis != dim->symbol)
      return BAD(p, "%s.shape: a task may have one \"...\" axis", arg->name);
    p->ellipsis = dim->symbol;
    shape->ellipsis = true;
    return FK_OK;
  }
  FK_TRY(fk_def_parse_expr(p, text, arg->name, &dim->expr));
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

static fk_status parse_shape(fk_task_parser *p, const fk_arg *arg, const json_t *v, fk_shape *shape) {
  if (json_is_null(v) && p->task->num_layouts) {
    shape->absent = true;
    return arg->optional ? FK_OK : BAD(p, "%s: absent in a layout, but not optional", arg->name);
  }
  if (!json_is_array(v)) return BAD(p, "%s.shape: expected an array, got %s", arg->name, fk_def_type_text(v));
  size_t n = json_array_size(v);
  if (n > FK_MAX_DIMS) return BAD(p, "%s.shape: more than %d dimensions", arg->name, FK_MAX_DIMS);
  shape->ndim = (int32_t)n;
  for (size_t i = 0; i < n; i++) FK_TRY(parse_dim(p, arg, json_array_get(v, i), (int)i, shape));
  return FK_OK;
}

/* The tensor's shape in each layout: the layout's own, or the tensor's default. */
static fk_status parse_shapes(fk_task_parser *p, const json_t *root, fk_arg *arg, const json_t *v) {
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

static fk_status parse_dtype(fk_task_parser *p, fk_arg *arg, const json_t *v) {
  arg->same_dtype_as = -1;
  const char *text = json_string_value(v);
  fk_type type;
  if (text && !fk_type_parse(text, &type)) {
    arg->same_dtype_as = fk_def_find_tensor(p, text);
    if (arg->same_dtype_as < 0 || &p->args[arg->same_dtype_as] >= arg)
      return BAD(p, "%s.dtype: \"%s\" is neither a dtype nor an earlier tensor", arg->name, text);
    return FK_OK;
  }
  if (text) {
    arg->dtypes = fk_type_bit(type);
    return FK_OK;
  }
  if (!json_is_array(v) || json_array_size(v) == 0)
    return BAD(p, "%s.dtype: expected a dtype, a list of dtypes or a tensor's name, got %s", arg->name,
               fk_def_type_text(v));
  for (size_t i = 0; i < json_array_size(v); i++) {
    const char *name = json_string_value(json_array_get(v, i));
    if (!name || !fk_type_parse(name, &type)) return BAD(p, "%s.dtype[%zu]: expected a dtype", arg->name, i);
    arg->dtypes |= fk_type_bit(type);
  }
  return FK_OK;
}

static fk_status values_expr(fk_task_parser *p, const fk_arg *arg, const json_t *v, const char *key,
                             const fk_expr **expr) {
  const json_t *bound = json_object_get(v, key);
  if (!json_is_string(bound)) return BAD(p, "%s.values.%s: expected an expression", arg->name, key);
  return fk_def_parse_expr(p, json_string_value(bound), arg->name, expr);
}

static fk_status values_tensor(fk_task_parser *p, const fk_arg *arg, const json_t *v, const char *key, int *index) {
  const char *name = json_string_value(json_object_get(v, key));
  *index = name ? fk_def_find_tensor(p, name) : -1;
  return *index >= 0 ? FK_OK : BAD(p, "%s.values.%s: expected the name of a tensor argument", arg->name, key);
}

fk_status fk_def_parse_values(fk_task_parser *p, fk_arg *arg, const json_t *v) {
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
  if (!json_is_object(v)) return BAD(p, "%s.values: expected an object, got %s", arg->name, fk_def_type_text(v));
  FK_TRY(fk_def_only_keys(p, v, arg->name, keys));
  const char *kind = json_string_value(json_object_get(v, "kind"));
  size_t i = 0, n = sizeof kinds / sizeof *kinds;
  while (i < n && (!kind || strcmp(kinds[i].name, kind) != 0)) i++;
  if (i == n) return BAD(p, "%s.values.kind: unknown kind \"%s\"", arg->name, kind ? kind : "");
  values->kind = kinds[i].kind;
  bool uniform = values->kind == FK_VALUES_UNIFORM;
  char place[160];
  snprintf(place, sizeof place, "%s.values", arg->name);
  FK_TRY(fk_def_get_number(p, v, place, uniform ? "low" : "mean", &values->a));
  FK_TRY(fk_def_get_number(p, v, place, uniform ? "high" : "std", &values->b));
  FK_TRY(fk_def_get_bool(p, v, place, "unique", &values->unique));
  if (kinds[i].bound) FK_TRY(values_expr(p, arg, v, kinds[i].bound, &values->bound));
  if (kinds[i].tensor) FK_TRY(values_tensor(p, arg, v, kinds[i].tensor, &values->tensor));
  return FK_OK;
}

static fk_status parse_may_alias(fk_task_parser *p, fk_arg *arg, const json_t *v) {
  if (!v) return FK_OK;
  if (!json_is_array(v)) return BAD(p, "%s.may_alias: expected an array, got %s", arg->name, fk_def_type_text(v));
  if (arg->role != FK_OUTPUT) return BAD(p, "%s.may_alias: only an output can alias", arg->name);
  size_t n = json_array_size(v);
  int *list = fk_arena_calloc(p->arena, n + 1, sizeof *list);
  if (!list) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < n; i++) {
    const char *name = json_string_value(json_array_get(v, i));
    list[i] = name ? fk_def_find_tensor(p, name) : -1;
    if (list[i] < 0 || &p->args[list[i]] == arg)
      return BAD(p, "%s.may_alias[%zu]: expected the name of a tensor argument", arg->name, i);
  }
  list[n] = -1;
  arg->may_alias = list;
  return FK_OK;
}

fk_status fk_def_parse_tensor(fk_task_parser *p, const json_t *root, fk_arg *arg, const json_t *v) {
  static const char *const keys[] = {"shape",  "dtype",     "optional", "inout", "strides",
                                     "values", "may_alias", "doc",      NULL};
  FK_TRY(fk_def_only_keys(p, v, arg->name, keys));
  arg->symbol = -1;
  FK_TRY(fk_def_get_bool(p, v, arg->name, "optional", &arg->optional));
  FK_TRY(fk_def_get_bool(p, v, arg->name, "inout", &arg->inout));
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
