/* task.json -> fk_task. Every rule of docs/task-json.md is enforced here and in the two files beside it
 * (task_parser.h), and nowhere else. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/task_parser.h"

/* ---- Axes ------------------------------------------------------------------------------------------------- */

static fk_status parse_axes(fk_task_parser *p, const json_t *root) {
  const json_t *axes = json_object_get(root, "axes");
  if (!json_is_object(axes)) return BAD(p, "axes: expected an object, got %s", fk_def_type_text(axes));
  const char *name;
  json_t *v;
  json_object_foreach((json_t *)axes, name, v) {
    const char *kind = json_string_value(v);
    int index;
    if (kind && strcmp(kind, "var") == 0) {
      FK_TRY(fk_def_add_symbol(p, name, FK_AXIS_VAR, &index));
    } else if (kind && strcmp(kind, "const") == 0) {
      FK_TRY(fk_def_add_symbol(p, name, FK_AXIS_CONST, &index));
    } else if (json_is_string(json_object_get(v, "expr")) && json_object_size(v) == 1) {
      FK_TRY(fk_def_add_symbol(p, name, FK_AXIS_EXPR, &index)); /* compiled when all names are known */
    } else {
      return BAD(p, "axes.%s: expected \"var\", \"const\" or {\"expr\": \"...\"}, got %s", name, fk_def_type_text(v));
    }
  }
  return FK_OK;
}

static fk_status compile_axes(fk_task_parser *p, const json_t *root) {
  for (int i = 0; i < p->task->num_symbols; i++) {
    fk_symbol *s = &p->symbols[i];
    if (s->kind != FK_AXIS_EXPR) continue;
    const json_t *v = json_object_get(json_object_get(root, "axes"), s->name);
    FK_TRY(fk_def_parse_expr(p, json_string_value(json_object_get(v, "expr")), s->name, &s->expr));
  }
  return FK_OK;
}

/* ---- Arguments ------------------------------------------------------------------------------------------- */

static const char *const groups[] = {"inputs", "weights", "attributes", "outputs"};

static fk_status add_arg(fk_task_parser *p, fk_role role, const char *name) {
  if (!fk_def_is_identifier(name, true)) return BAD(p, "%s.%s: expected an identifier", groups[role], name);
  if (fk_def_find_arg(p, name) >= 0) return BAD(p, "%s: two arguments have this name", name);
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
static fk_status parse_args(fk_task_parser *p, const json_t *root) {
  const char *name;
  json_t *v;
  int32_t *counts[] = {&p->task->num_inputs, &p->task->num_weights, &p->task->num_attributes, &p->task->num_outputs};
  for (int role = FK_INPUT; role <= FK_OUTPUT; role++) {
    const json_t *group = json_object_get(root, groups[role]);
    if (group && !json_is_object(group))
      return BAD(p, "%s: expected an object, got %s", groups[role], fk_def_type_text(group));
    json_object_foreach((json_t *)group, name, v) {
      if (!json_is_object(v))
        return BAD(p, "%s.%s: expected an object, got %s", groups[role], name, fk_def_type_text(v));
      FK_TRY(add_arg(p, role, name));
      fk_arg *arg = &p->args[p->task->num_args - 1];
      char place[160];
      snprintf(place, sizeof place, "%s.", name);
      if (json_object_get(v, "doc")) FK_TRY(fk_def_get_string(p, v, place, "doc", &arg->doc));
      if (role == FK_ATTRIBUTE) FK_TRY(fk_def_parse_attribute(p, arg, v));
      ++*counts[role];
    }
  }
  FK_TRY(compile_axes(p, root));
  for (int i = 0; i < p->task->num_args; i++) {
    fk_arg *arg = &p->args[i];
    if (arg->role != FK_ATTRIBUTE)
      FK_TRY(fk_def_parse_tensor(p, root, arg, json_object_get(json_object_get(root, groups[arg->role]), arg->name)));
  }
  for (int i = 0; i < p->task->num_args; i++) {
    fk_arg *arg = &p->args[i];
    if (arg->role == FK_ATTRIBUTE) continue;
    v = json_object_get(json_object_get(root, groups[arg->role]), arg->name);
    FK_TRY(fk_def_parse_values(p, arg, json_object_get(v, "values")));
  }
  /* A model that runs forward() makes its outputs itself. */
  bool written = p->task->num_outputs > 0 || p->task->level == 4;
  for (int i = 0; i < p->task->num_args; i++) written |= p->args[i].inout;
  return written ? FK_OK : BAD(p, "outputs: a task must write something");
}

static fk_status parse_layouts(fk_task_parser *p, const json_t *root) {
  const json_t *layouts = json_object_get(root, "layouts");
  if (!layouts) return FK_OK;
  size_t n = json_object_size(layouts), i = 0;
  if (n == 0) return BAD(p, "layouts: expected a non-empty object");
  const char **names = fk_arena_calloc(p->arena, n + 1, sizeof *names);
  if (!names) return FK_ERROR_MEMORY;
  const char *name;
  json_t *v;
  json_object_foreach((json_t *)layouts, name, v) {
    if (!json_is_object(v)) return BAD(p, "layouts.%s: expected an object, got %s", name, fk_def_type_text(v));
    names[i] = fk_arena_strdup(p->arena, name);
    if (!names[i++]) return FK_ERROR_MEMORY;
  }
  p->task->layouts = names;
  p->task->num_layouts = (int32_t)n;
  return FK_OK;
}

/* A layout may only speak of tensors that exist. */
static fk_status check_layout_names(fk_task_parser *p, const json_t *root) {
  const char *layout, *name;
  json_t *shapes, *v;
  json_object_foreach(json_object_get(root, "layouts"), layout, shapes) {
    json_object_foreach(shapes, name, v) {
      if (fk_def_find_tensor(p, name) < 0)
        return BAD(p, "layouts.%s.%s: no tensor argument has this name", layout, name);
    }
  }
  return FK_OK;
}

/* ---- The rest of the definition -------------------------------------------------------------------------- */

static fk_status parse_mirrors(fk_task_parser *p, const json_t *root) {
  const json_t *list = json_object_get(root, "mirrors");
  if (!json_is_array(list) || json_array_size(list) == 0)
    return BAD(p, "mirrors: expected at least one {library, symbol, arguments}");
  size_t n = json_array_size(list);
  fk_mirror *mirrors = fk_arena_calloc(p->arena, n, sizeof *mirrors);
  if (!mirrors) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < n; i++) {
    static const char *const keys[] = {"library", "symbol", "arguments", "notes", NULL};
    const json_t *m = json_array_get(list, i), *arguments;
    FK_TRY(fk_def_only_keys(p, m, "mirrors", keys));
    FK_TRY(fk_def_get_array(p, m, "mirrors.", "arguments", &arguments));
    FK_TRY(fk_def_get_string(p, m, "mirrors.", "library", &mirrors[i].library));
    FK_TRY(fk_def_get_string(p, m, "mirrors.", "symbol", &mirrors[i].symbol));
    const char **names = fk_arena_calloc(p->arena, json_array_size(arguments) + 1, sizeof *names);
    if (!names) return FK_ERROR_MEMORY;
    for (size_t k = 0; k < json_array_size(arguments); k++) {
      int arg = fk_def_find_arg(p, json_string_value(json_array_get(arguments, k)) ?: "");
      if (arg < 0) return BAD(p, "mirrors[%zu].arguments[%zu]: no argument has this name", i, k);
      names[k] = p->args[arg].name;
    }
    mirrors[i].arguments = names;
  }
  p->task->mirrors = mirrors;
  p->task->num_mirrors = (int32_t)n;
  return FK_OK;
}

static fk_status parse_formulas(fk_task_parser *p, const json_t *root) {
  fk_task *t = p->task;
  const json_t *constraints;
  FK_TRY(fk_def_get_array(p, root, "", "constraints", &constraints));
  size_t n = json_array_size(constraints);
  const fk_expr **list = fk_arena_calloc(p->arena, n + 1, sizeof *list);
  if (!list) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < n; i++) {
    const char *text = json_string_value(json_array_get(constraints, i));
    if (!text) return BAD(p, "constraints[%zu]: expected an expression", i);
    FK_TRY(fk_def_parse_expr(p, text, "constraints", &list[i]));
    if (fk_expr_reads_data(list[i])) return BAD(p, "constraints[%zu]: a constraint cannot depend on data", i);
  }
  t->constraints = list;
  t->num_constraints = (int32_t)n;
  const char *flops;
  FK_TRY(fk_def_get_string(p, root, "", "flops", &flops));
  FK_TRY(fk_def_parse_expr(p, flops, "flops", &t->flops));
  const char *bytes;
  if (!json_object_get(root, "bytes")) return FK_OK;
  FK_TRY(fk_def_get_string(p, root, "", "bytes", &bytes));
  return fk_def_parse_expr(p, bytes, "bytes", &t->bytes);
}

static fk_status parse_root(fk_task_parser *p, const json_t *root) {
  static const char *const keys[] = {"name",   "level",   "family",     "summary", "mirrors", "axes",
                                     "inputs", "weights", "attributes", "outputs", "layouts", "constraints",
                                     "flops",  "bytes",   "tolerance",  "notes",   NULL};
  static const char *const tolerances[] = {"exact", "elementwise", "reduction", "matmul", "attention", NULL};
  fk_task *t = p->task;
  if (!json_is_object(root)) return BAD(p, "expected an object, got %s", fk_def_type_text(root));
  FK_TRY(fk_def_only_keys(p, root, "", keys));
  FK_TRY(fk_def_get_string(p, root, "", "name", &t->name));
  if (!fk_def_is_identifier(t->name, false)) return BAD(p, "name: \"%s\" is no identifier", t->name);
  FK_TRY(fk_def_get_string(p, root, "", "family", &t->family));
  FK_TRY(fk_def_get_string(p, root, "", "summary", &t->summary));
  FK_TRY(fk_def_get_string(p, root, "", "tolerance", &t->tolerance));
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
  fk_task_parser *p = fk_arena_calloc(arena, 1, sizeof *p);
  fk_status status = FK_ERROR_MEMORY;
  if (!t || !p) goto cleanup;
  *p = (fk_task_parser){.arena = arena, .where = where, .task = t, .ellipsis = -1};
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
