/* Cases: JSON in, a checked struct out. Nothing in a case is guessed and nothing in it is ignored. */
#include "judge/case.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct reader {
  fk_arena *arena;
  const fk_task *task;
  const char *where;
  fk_case *c;
} reader;

#define BAD(r, ...) fk_fail_in(fk_fail(FK_ERROR_FORMAT, __VA_ARGS__), "%s: %s", (r)->where, (r)->task->name)

/* The value of a key when it has the wanted kind, NULL when absent; *status says when the kind is wrong. */
static const json_t *get_object(const reader *r, const json_t *json, const char *key, fk_status *status) {
  const json_t *v = json_object_get(json, key);
  if (v && !json_is_object(v)) *status = BAD(r, "%s: expected an object", key);
  return v;
}

static fk_status only_keys(const reader *r, const json_t *json) {
  static const char *const keys[] = {"axes",    "layout",  "attributes", "absent",  "dtypes",
                                     "strided", "strides", "alias",      "special", "values",
                                     "stats",   "count",   "merged",     "cost",    "note"};
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)json, key, value) {
    size_t i = 0;
    while (i < sizeof keys / sizeof *keys && strcmp(keys[i], key) != 0) i++;
    if (i == sizeof keys / sizeof *keys) return BAD(r, "unknown key \"%s\"", key);
  }
  return FK_OK;
}

static fk_status find_tensor(const reader *r, const char *place, const char *name, int *index) {
  *index = name ? fk_task_arg(r->task, name) : -1;
  if (*index < 0 || !fk_arg_is_tensor(&r->task->args[*index]))
    return BAD(r, "%s: there is no tensor \"%s\"", place, name ? name : "(not a string)");
  return FK_OK;
}

/* The axis that an ellipsis stands for, or -1. */
static int ellipsis_symbol(const fk_task *task) {
  int layouts = task->num_layouts ? task->num_layouts : 1;
  for (int i = 0; i < task->num_args; i++)
    for (int l = 0; fk_arg_is_tensor(&task->args[i]) && l < layouts; l++)
      if (task->args[i].shapes[l].ellipsis) return task->args[i].shapes[l].dims[0].symbol;
  return -1;
}

/* ---- Axes and attributes --------------------------------------------------------------------------------- */

static fk_status read_lead(const reader *r, const char *name, const json_t *v, int64_t *product) {
  fk_binding *b = &r->c->binding;
  size_t n = json_array_size(v);
  if (n > FK_MAX_DIMS) return BAD(r, "axes.%s: more than %d dimensions", name, FK_MAX_DIMS);
  b->lead_ndim = (int32_t)n;
  *product = 1;
  for (size_t i = 0; i < n; i++) {
    const json_t *d = json_array_get(v, i);
    if (!json_is_integer(d) || json_integer_value(d) < 0 ||
        __builtin_mul_overflow(*product, (int64_t)json_integer_value(d), product))
      return BAD(r, "axes.%s[%zu]: expected a size", name, i);
    b->lead[i] = json_integer_value(d);
  }
  return FK_OK;
}

static fk_status read_axes(const reader *r, const json_t *json) {
  const fk_task *task = r->task;
  const json_t *axes = json_object_get(json, "axes");
  fk_binding *b = &r->c->binding;
  int lead = ellipsis_symbol(task);
  const char *name;
  json_t *v;
  if (!json_is_object(axes)) return BAD(r, "axes: expected an object");
  b->lead_ndim = -1;
  for (int i = 0; i < task->num_symbols; i++) b->symbols[i] = FK_UNBOUND;
  json_object_foreach((json_t *)axes, name, v) {
    int s = fk_task_symbol(task, name);
    if (s < 0 || task->symbols[s].kind == FK_AXIS_ATTRIBUTE) return BAD(r, "axes: there is no axis \"%s\"", name);
    if (json_is_array(v) && s == lead) {
      FK_TRY(read_lead(r, name, v, &b->symbols[s]));
    } else if (json_is_integer(v) && json_integer_value(v) >= 0) {
      b->symbols[s] = json_integer_value(v);
    } else {
      return BAD(r, "axes.%s: expected a size%s", name, s == lead ? " or an array of sizes" : "");
    }
    if (s == lead && b->lead_ndim < 0) {
      b->lead_ndim = 1;
      b->lead[0] = b->symbols[s];
    }
  }
  return FK_OK;
}

static fk_status read_attribute(const reader *r, int i, const json_t *v) {
  const fk_arg *arg = &r->task->args[i];
  double *value = &r->c->attributes[i];
  if (!v && !arg->has_default) return BAD(r, "attributes.%s: required", arg->name);
  if (!v) {
    *value = arg->default_value;
  } else if (arg->type == FK_ATTR_ENUM && json_is_string(v)) {
    int e = 0;
    while (arg->enum_names[e] && strcmp(arg->enum_names[e], json_string_value(v)) != 0) e++;
    if (!arg->enum_names[e]) return BAD(r, "attributes.%s: unknown value \"%s\"", arg->name, json_string_value(v));
    *value = e;
  } else if (arg->type == FK_ATTR_BOOL && json_is_boolean(v)) {
    *value = json_is_true(v);
  } else if (json_is_integer(v) || (arg->type == FK_ATTR_FLOAT && json_is_real(v))) {
    *value = json_number_value(v);
  } else {
    return BAD(r, "attributes.%s: expected a value of the attribute's type", arg->name);
  }
  if (!(*value >= arg->min && *value <= arg->max))
    return BAD(r, "attributes.%s: expected a value from %g to %g, got %g", arg->name, arg->min, arg->max, *value);
  if (arg->symbol >= 0) r->c->binding.symbols[arg->symbol] = (int64_t)*value;
  return FK_OK;
}

static fk_status read_attributes(const reader *r, const json_t *json) {
  fk_status status = FK_OK;
  const json_t *object = get_object(r, json, "attributes", &status);
  if (status) return status;
  const char *name;
  json_t *v;
  json_object_foreach((json_t *)object, name, v) {
    int i = fk_task_arg(r->task, name);
    if (i < 0 || fk_arg_is_tensor(&r->task->args[i])) return BAD(r, "attributes: there is no attribute \"%s\"", name);
  }
  for (int i = 0; i < r->task->num_args; i++)
    if (!fk_arg_is_tensor(&r->task->args[i]))
      FK_TRY(read_attribute(r, i, json_object_get(object, r->task->args[i].name)));
  return FK_OK;
}

/* Axes that follow from the others without data; those that need data stay unbound, and a shape that needs one of
 * those fails where the shape is computed. */
static fk_status finish_axes(const reader *r) {
  fk_binding *b = &r->c->binding;
  for (int i = 0; i < r->task->num_symbols; i++) {
    const fk_symbol *s = &r->task->symbols[i];
    int64_t value;
    if (s->kind != FK_AXIS_EXPR || fk_expr_reads_data(s->expr) || !fk_expr_is_bound(s->expr, b->symbols)) continue;
    fk_status status = fk_expr_eval(s->expr, b->symbols, NULL, &value);
    if (status) return fk_fail_in(status, "%s: %s: axes.%s", r->where, r->task->name, s->name);
    if (b->symbols[i] != FK_UNBOUND && b->symbols[i] != value)
      return BAD(r, "axes.%s: given as %lld, but %s is %lld", s->name, (long long)b->symbols[i], fk_expr_text(s->expr),
                 (long long)value);
    b->symbols[i] = value;
  }
  return FK_OK;
}

static fk_status read_layout(const reader *r, const json_t *json) {
  const json_t *v = json_object_get(json, "layout");
  const char *name = json_string_value(v);
  int i = 0;
  if (!v && r->task->num_layouts < 2) return FK_OK;
  if (!v) return BAD(r, "layout: required, the task has several");
  while (i < r->task->num_layouts && !(name && strcmp(r->task->layouts[i], name) == 0)) i++;
  if (i == r->task->num_layouts) return BAD(r, "layout: there is no layout \"%s\"", name ? name : "(not a string)");
  r->c->binding.layout = i;
  return FK_OK;
}

/* ---- Tensors --------------------------------------------------------------------------------------------- */

static fk_status read_names(const reader *r, const json_t *json, const char *key, bool absent) {
  const json_t *list = json_object_get(json, key);
  if (list && !json_is_array(list)) return BAD(r, "%s: expected an array of tensor names", key);
  for (size_t k = 0; k < json_array_size(list); k++) {
    int i;
    FK_TRY(find_tensor(r, key, json_string_value(json_array_get(list, k)), &i));
    if (absent && !r->task->args[i].optional) return BAD(r, "absent: %s is not optional", r->task->args[i].name);
    if (absent)
      r->c->tensors[i].given = false;
    else
      r->c->tensors[i].strided = true;
  }
  return FK_OK;
}

/* Reads what a member of an object says about tensor i, which its name is. */
typedef fk_status (*member_fn)(const reader *r, const char *name, int i, const json_t *v);

/* Calls read for each member of the object under key, whose names are tensors. */
static fk_status each_tensor(const reader *r, const json_t *json, const char *key, member_fn read) {
  fk_status status = FK_OK;
  const json_t *object = get_object(r, json, key, &status);
  const char *name;
  json_t *v;
  if (status) return status;
  json_object_foreach((json_t *)object, name, v) {
    int i;
    FK_TRY(find_tensor(r, key, name, &i));
    FK_TRY(read(r, name, i, v));
  }
  return FK_OK;
}

static fk_status read_dtype(const reader *r, const char *name, int i, const json_t *v) {
  fk_type type;
  const fk_arg *arg = &r->task->args[i];
  if (!json_is_string(v) || !fk_type_parse(json_string_value(v), &type))
    return BAD(r, "dtypes.%s: expected a dtype", name);
  if (arg->same_dtype_as < 0 && !(arg->dtypes & fk_type_bit(type)))
    return BAD(r, "dtypes.%s: the task does not take %s", name, fk_type_name(type));
  r->c->tensors[i].dtype = type;
  r->c->tensors[i].dtype_named = true;
  return FK_OK;
}

static fk_status read_dtypes(const reader *r, const json_t *json) {
  FK_TRY(each_tensor(r, json, "dtypes", read_dtype));
  fk_case_use_variant(r->c, 0);
  for (int i = 0; i < r->task->num_args; i++) {
    int like = r->task->args[i].same_dtype_as;
    if (!fk_arg_is_tensor(&r->task->args[i]) || like < 0 || !r->c->tensors[like].given) continue;
    if (r->c->tensors[i].dtype != r->c->tensors[like].dtype)
      return BAD(r, "dtypes.%s: must be %s's, %s", r->task->args[i].name, r->task->args[like].name,
                 fk_type_name(r->c->tensors[like].dtype));
  }
  return FK_OK;
}

static fk_status read_values(const reader *r, const char *name, int i, const json_t *v) {
  size_t n = json_array_size(v);
  double *list = fk_arena_calloc(r->arena, n + 1, sizeof *list);
  if (!list) return FK_ERROR_MEMORY;
  if (r->task->args[i].role == FK_OUTPUT) return BAD(r, "values.%s: outputs have no values", name);
  if (!json_is_array(v)) return BAD(r, "values.%s: expected an array of numbers", name);
  for (size_t k = 0; k < n; k++) {
    const json_t *item = json_array_get(v, k);
    if (!json_is_number(item)) return BAD(r, "values.%s[%zu]: expected a number", name, k);
    list[k] = json_number_value(item);
  }
  r->c->tensors[i].values = list;
  r->c->tensors[i].num_values = (int64_t)n;
  return FK_OK;
}

static fk_status read_strides(const reader *r, const char *name, int i, const json_t *v) {
  size_t n = json_array_size(v);
  int64_t *list = fk_arena_calloc(r->arena, n + 1, sizeof *list);
  if (!list) return FK_ERROR_MEMORY;
  if (!json_is_array(v) || n > FK_MAX_DIMS) return BAD(r, "strides.%s: expected an array of strides", name);
  for (size_t k = 0; k < n; k++) {
    const json_t *item = json_array_get(v, k);
    if (!json_is_integer(item) || json_integer_value(item) < 0)
      return BAD(r, "strides.%s[%zu]: expected an integer, 0 or more", name, k);
    list[k] = json_integer_value(item);
  }
  r->c->tensors[i].strides = list;
  r->c->tensors[i].num_strides = (int32_t)n;
  return FK_OK;
}

static fk_status read_stats(const reader *r, const char *name, int i, const json_t *v) {
  static const char *const keys[] = {"mean", "std", "min", "max"};
  double number[4];
  for (int k = 0; k < 4; k++) {
    const json_t *item = json_object_get(v, keys[k]);
    if (!json_is_number(item)) return BAD(r, "stats.%s.%s: expected a number", name, keys[k]);
    number[k] = json_number_value(item);
  }
  if (number[1] < 0 || number[2] > number[3]) return BAD(r, "stats.%s: std < 0 or min > max", name);
  fk_case_tensor *t = &r->c->tensors[i];
  t->has_stats = true;
  t->mean = number[0], t->std = number[1], t->min = number[2], t->max = number[3];
  return FK_OK;
}

static fk_status read_alias(const reader *r, const char *name, int out, const json_t *v) {
  int in;
  FK_TRY(find_tensor(r, "alias", json_string_value(v), &in));
  const int *allowed = r->task->args[out].may_alias;
  while (allowed && *allowed >= 0 && *allowed != in) allowed++;
  if (!allowed || *allowed < 0)
    return BAD(r, "alias.%s: the task does not let it share %s's memory", name, r->task->args[in].name);
  if (!r->c->tensors[out].given || !r->c->tensors[in].given) return BAD(r, "alias.%s: a tensor is absent", name);
  r->c->tensors[out].alias = in;
  return FK_OK;
}

/* ---- Cases ----------------------------------------------------------------------------------------------- */

static fk_status read_rest(const reader *r, const json_t *json) {
  const json_t *special = json_object_get(json, "special"), *count = json_object_get(json, "count");
  const json_t *cost = json_object_get(json, "cost"), *note = json_object_get(json, "note");
  const char *text = json_string_value(special);
  if (special && (!text || (strcmp(text, "huge") != 0 && strcmp(text, "nonfinite") != 0)))
    return BAD(r, "special: expected \"huge\" or \"nonfinite\"");
  if (text) r->c->special = *text == 'h' ? FK_SPECIAL_HUGE : FK_SPECIAL_NONFINITE;
  if (count && (!json_is_integer(count) || json_integer_value(count) < 1))
    return BAD(r, "count: expected an integer, 1 or more");
  r->c->count = count ? json_integer_value(count) : 1;
  if (cost && !json_is_object(cost)) return BAD(r, "cost: expected an object");
  r->c->flops = json_number_value(json_object_get(cost, "flops"));
  r->c->bytes = json_number_value(json_object_get(cost, "bytes"));
  if (note && !json_is_string(note)) return BAD(r, "note: expected a string");
  r->c->note = fk_arena_strdup(r->arena, note ? json_string_value(note) : "");
  return r->c->note ? FK_OK : FK_ERROR_MEMORY;
}

fk_status fk_case_parse(fk_arena *arena, const fk_task *task, const json_t *json, const char *where, fk_case **out) {
  *out = NULL;
  fk_case *c = fk_arena_calloc(arena, 1, sizeof *c);
  if (!c) return FK_ERROR_MEMORY;
  reader state = {arena, task, where, c}, *r = &state;
  c->task = task;
  if (!json_is_object(json)) return BAD(r, "expected a case, which is an object");
  FK_TRY(only_keys(r, json));
  FK_TRY(read_axes(r, json));
  FK_TRY(read_attributes(r, json));
  FK_TRY(read_layout(r, json));
  FK_TRY(finish_axes(r));
  for (int i = 0; i < task->num_args; i++) {
    c->tensors[i].alias = -1;
    c->tensors[i].given = fk_arg_is_tensor(&task->args[i]) && !task->args[i].shapes[c->binding.layout].absent;
  }
  FK_TRY(read_names(r, json, "absent", true));
  FK_TRY(read_names(r, json, "strided", false));
  FK_TRY(read_dtypes(r, json));
  FK_TRY(each_tensor(r, json, "values", read_values));
  FK_TRY(each_tensor(r, json, "strides", read_strides));
  FK_TRY(each_tensor(r, json, "stats", read_stats));
  FK_TRY(each_tensor(r, json, "alias", read_alias));
  FK_TRY(read_rest(r, json));
  *out = c;
  return FK_OK;
}

/* ---- Dtypes ---------------------------------------------------------------------------------------------- */

/* From the definition's text, because the parsed set of dtypes has no order. */
int fk_task_dtypes(const fk_task *task, int arg, fk_type types[16]) {
  static const char *const groups[] = {"inputs", "weights", "attributes", "outputs"};
  const fk_arg *a = &task->args[arg];
  int n = 0;
  if (!fk_arg_is_tensor(a) || a->same_dtype_as >= 0) return 0;
  json_t *root = json_loads(task->json, 0, NULL);
  const json_t *v = json_object_get(json_object_get(json_object_get(root, groups[a->role]), a->name), "dtype");
  fk_type type;
  if (json_is_string(v) && fk_type_parse(json_string_value(v), &type)) types[n++] = type;
  for (size_t i = 0; i < json_array_size(v) && n < 16; i++) {
    const char *name = json_string_value(json_array_get(v, i));
    if (name && fk_type_parse(name, &type)) types[n++] = type;
  }
  json_decref(root);
  return n;
}

int fk_task_num_variants(const fk_task *task) {
  int most = 1;
  for (int i = 0; i < task->num_args; i++) {
    fk_type types[16];
    int n = fk_task_dtypes(task, i, types);
    if (n > most) most = n;
  }
  return most;
}

/* Dtypes that follow another's, in order: an argument refers to an earlier one or to one that needs no other. */
static void follow_dtypes(fk_case *c) {
  const fk_task *task = c->task;
  for (int pass = 0; pass < 2; pass++)
    for (int i = 0; i < task->num_args; i++)
      if (fk_arg_is_tensor(&task->args[i]) && task->args[i].same_dtype_as >= 0 && !c->tensors[i].dtype_named)
        c->tensors[i].dtype = c->tensors[task->args[i].same_dtype_as].dtype;
}

void fk_case_use_variant(fk_case *c, int variant) {
  for (int i = 0; i < c->task->num_args; i++) {
    fk_type types[16];
    int n = c->tensors[i].dtype_named ? 0 : fk_task_dtypes(c->task, i, types);
    if (n > 0) c->tensors[i].dtype = types[variant % n];
  }
  follow_dtypes(c);
}

bool fk_case_use_dtype(fk_case *c, fk_type dtype) {
  bool used = false;
  for (int i = 0; i < c->task->num_args; i++) {
    const fk_arg *arg = &c->task->args[i];
    if (!fk_arg_is_tensor(arg) || arg->same_dtype_as >= 0 || c->tensors[i].dtype_named) continue;
    if (!(arg->dtypes & fk_type_bit(dtype))) continue;
    c->tensors[i].dtype = dtype;
    used = true;
  }
  follow_dtypes(c);
  return used;
}
