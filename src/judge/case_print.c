/* Cases on their way out: labels for people, JSON for records. */
#include <stdio.h>
#include <string.h>

#include "judge/case.h"

static void append(char *text, size_t size, const char *more) {
  size_t used = strlen(text);
  if (used + 1 < size) snprintf(text + used, size - used, "%s%s", used ? " " : "", more);
}

void fk_case_label(const fk_case *c, char *text, size_t size) {
  char item[160];
  if (size == 0) return;
  *text = '\0';
  for (int i = 0; i < c->task->num_symbols; i++) {
    const fk_symbol *s = &c->task->symbols[i];
    if (c->binding.symbols[i] == FK_UNBOUND || (s->kind != FK_AXIS_VAR && s->kind != FK_AXIS_CONST)) continue;
    snprintf(item, sizeof item, "%s=%lld", s->name, (long long)c->binding.symbols[i]);
    append(text, size, item);
  }
  if (c->task->num_layouts > 1) append(text, size, c->task->layouts[c->binding.layout]);
  for (int i = 0; i < c->task->num_args; i++) {
    if (!c->tensors[i].given || c->task->args[i].same_dtype_as >= 0 || !fk_type_is_float(c->tensors[i].dtype)) continue;
    append(text, size, fk_type_name(c->tensors[i].dtype));
    break;
  }
  if (c->special) append(text, size, c->special == FK_SPECIAL_HUGE ? "huge" : "nonfinite");
}

static json_t *axes_json(const fk_case *c) {
  json_t *axes = json_object();
  const fk_shape *ellipsis = NULL;
  for (int i = 0; i < c->task->num_args && !ellipsis; i++) {
    const fk_arg *arg = &c->task->args[i];
    if (fk_arg_is_tensor(arg) && arg->shapes[c->binding.layout].ellipsis) ellipsis = &arg->shapes[c->binding.layout];
  }
  for (int i = 0; i < c->task->num_symbols; i++) {
    const fk_symbol *s = &c->task->symbols[i];
    if (s->kind == FK_AXIS_ATTRIBUTE || c->binding.symbols[i] == FK_UNBOUND) continue;
    if (ellipsis && ellipsis->dims[0].symbol == i && c->binding.lead_ndim >= 0) {
      json_t *lead = json_array();
      for (int d = 0; d < c->binding.lead_ndim; d++) json_array_append_new(lead, json_integer(c->binding.lead[d]));
      json_object_set_new(axes, s->name, lead);
    } else {
      json_object_set_new(axes, s->name, json_integer(c->binding.symbols[i]));
    }
  }
  return axes;
}

static json_t *attributes_json(const fk_case *c) {
  json_t *attributes = json_object();
  for (int i = 0; i < c->task->num_args; i++) {
    const fk_arg *arg = &c->task->args[i];
    double v = c->attributes[i];
    if (fk_arg_is_tensor(arg)) continue;
    json_object_set_new(attributes, arg->name,
                        arg->type == FK_ATTR_FLOAT  ? json_real(v)
                        : arg->type == FK_ATTR_BOOL ? json_boolean(v != 0)
                        : arg->type == FK_ATTR_ENUM ? json_string(arg->enum_names[(int)v])
                                                    : json_integer((json_int_t)v));
  }
  return attributes;
}

json_t *fk_case_to_json(const fk_case *c) {
  json_t *json = json_object(), *dtypes = json_object(), *absent = json_array(), *strided = json_array();
  json_t *alias = json_object();
  for (int i = 0; i < c->task->num_args; i++) {
    const fk_arg *arg = &c->task->args[i];
    const fk_case_tensor *t = &c->tensors[i];
    if (!fk_arg_is_tensor(arg)) continue;
    if (t->given) json_object_set_new(dtypes, arg->name, json_string(fk_type_name(t->dtype)));
    if (!t->given && !arg->shapes[c->binding.layout].absent) json_array_append_new(absent, json_string(arg->name));
    if (t->strided || t->strides) json_array_append_new(strided, json_string(arg->name));
    if (t->alias >= 0) json_object_set_new(alias, arg->name, json_string(c->task->args[t->alias].name));
  }
  json_object_set_new(json, "axes", axes_json(c));
  if (c->task->num_layouts) json_object_set_new(json, "layout", json_string(c->task->layouts[c->binding.layout]));
  json_object_set_new(json, "attributes", attributes_json(c));
  json_object_set_new(json, "dtypes", dtypes);
  json_object_set_new(json, "absent", absent);
  json_object_set_new(json, "strided", strided);
  json_object_set_new(json, "alias", alias);
  if (c->special)
    json_object_set_new(json, "special", json_string(c->special == FK_SPECIAL_HUGE ? "huge" : "nonfinite"));
  json_object_set_new(json, "count", json_integer(c->count));
  if (*c->note) json_object_set_new(json, "note", json_string(c->note));
  return json;
}
