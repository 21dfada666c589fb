#include "core/bind.h"

#include <stdio.h>
#include <string.h>

/* "[2, 3, 4]" for messages. */
static const char *shape_text(const fk_tensor *t, char *text, size_t size) {
  size_t used = (size_t)snprintf(text, size, "[");
  for (int32_t i = 0; i < t->ndim && used < size; i++)
    used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
  if (used < size) snprintf(text + used, size - used, "]");
  return text;
}

/* "[rows..., hidden_size]" for messages. */
static const char *expected_text(const fk_task *task, const fk_shape *shape, char *text, size_t size) {
  size_t used = (size_t)snprintf(text, size, "[");
  for (int32_t i = 0; i < shape->ndim && used < size; i++) {
    const fk_dim *d = &shape->dims[i];
    const char *comma = i ? ", " : "", *dots = i == 0 && shape->ellipsis ? "..." : "";
    if (d->symbol >= 0)
      used += (size_t)snprintf(text + used, size - used, "%s%s%s", comma, task->symbols[d->symbol].name, dots);
    else if (d->expr)
      used += (size_t)snprintf(text + used, size - used, "%s%s", comma, fk_expr_text(d->expr));
    else
      used += (size_t)snprintf(text + used, size - used, "%s%lld", comma, (long long)d->literal);
  }
  if (used < size) snprintf(text + used, size - used, "]");
  return text;
}

static fk_status shape_error(const fk_task *task, const fk_arg *arg, const fk_shape *shape, const fk_tensor *t,
                             const char *why) {
  char expected[256], got[256];
  return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected shape %s, got %s%s", task->name, arg->name,
                 expected_text(task, shape, expected, sizeof expected), shape_text(t, got, sizeof got), why);
}

/* ---- Attributes ------------------------------------------------------------------------------------------ */

static fk_status bind_attribute(const fk_task *task, const fk_arg *arg, const fk_any *any, fk_binding *b) {
  bool is_int = any->type_index == FK_ANY_INT || any->type_index == FK_ANY_BOOL;
  if (!is_int && !(any->type_index == FK_ANY_FLOAT && arg->type == FK_ATTR_FLOAT))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected %s, got %s", task->name, arg->name,
                   arg->type == FK_ATTR_FLOAT ? "a number" : "an integer",
                   any->type_index == FK_ANY_FLOAT ? "a float"
                   : fk_arg_tensor(any)            ? "a tensor"
                                                   : "None");
  double value = is_int ? (double)any->v.i : any->v.f;
  if (!(value >= arg->min && value <= arg->max))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected a value from %g to %g, got %g", task->name, arg->name, arg->min,
                   arg->max, value);
  if (arg->symbol >= 0) b->symbols[arg->symbol] = any->v.i;
  return FK_OK;
}

/* ---- Dtypes, devices, strides ---------------------------------------------------------------------------- */

/* In order of preference for an output whose dtype nothing else decides. */
static const fk_type all_types[] = {FK_F32, FK_I64, FK_I32,  FK_BF16,      FK_F16,     FK_F64,     FK_U8,
                                    FK_I16, FK_I8,  FK_BOOL, FK_F8_E4M3FN, FK_F8_E5M2, FK_F8_E8M0, FK_F4_E2M1};
enum { NUM_TYPES = sizeof all_types / sizeof *all_types };

static const fk_arg *dtype_source(const fk_task *task, const fk_arg *arg, const fk_any *args, const fk_tensor **like);

static fk_status dtype_error(const fk_task *task, const fk_arg *arg, const fk_any *args, fk_type got) {
  const fk_tensor *like;
  const fk_arg *source = dtype_source(task, arg, args, &like);
  if (like)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected dtype %s as %s has, got %s", task->name, arg->name,
                   fk_type_name(fk_type_of(like)), source->name, fk_type_name(got));
  char list[256] = "";
  for (size_t i = 0, used = 0; i < NUM_TYPES; i++)
    if (source->dtypes & fk_type_bit(all_types[i]))
      used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? " or " : "", fk_type_name(all_types[i]));
  return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected dtype %s, got %s", task->name, arg->name, list,
                 fk_type_name(got));
}

/* Every float dtype, or every integer dtype, as a set. */
static uint32_t type_class(bool (*belongs)(fk_type)) {
  uint32_t set = 0;
  for (size_t i = 0; i < NUM_TYPES; i++)
    if (belongs(all_types[i])) set |= fk_type_bit(all_types[i]);
  return set;
}

/* Follows "same dtype as" to a tensor that is there, or to the argument whose list of dtypes counts because the ones in
 * between are absent. */
static const fk_arg *dtype_source(const fk_task *task, const fk_arg *arg, const fk_any *args, const fk_tensor **like) {
  *like = NULL;
  while (arg->same_dtype_as >= 0 && !*like) {
    *like = fk_arg_tensor(&args[arg->same_dtype_as]);
    arg = &task->args[arg->same_dtype_as];
  }
  return arg;
}

/* On ref every float may also be double and every integer int64: that is how the oracle runs. */
static bool dtype_fits(const fk_task *task, const fk_arg *arg, fk_backend backend, const fk_any *args, fk_type got) {
  const fk_tensor *like;
  arg = dtype_source(task, arg, args, &like);
  if (like) return fk_type_of(like) == got;
  uint32_t bit = fk_type_bit(got);
  if (arg->dtypes & bit) return true;
  if (backend != FK_REF) return false;
  if (got == FK_F64) return arg->dtypes & type_class(fk_type_is_float);
  return got == FK_I64 && (arg->dtypes & type_class(fk_type_is_int));
}

/* What must hold before anything else may be computed from a descriptor. */
static fk_status check_descriptor(const fk_task *task, const fk_arg *arg, const fk_tensor *t) {
  if (t->ndim < 0 || t->ndim > FK_MAX_DIMS || (t->ndim > 0 && !t->shape))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected 0 to %d dimensions, got %d", task->name, arg->name, FK_MAX_DIMS,
                   t->ndim);
  if (t->dtype.lanes != 1)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected dtype lanes 1, got %d", task->name, arg->name, t->dtype.lanes);
  int64_t bytes = 16; /* at most, per element: so that no size computed later overflows */
  for (int32_t i = 0; i < t->ndim; i++) {
    if (t->shape[i] >= 0 && !__builtin_mul_overflow(bytes, t->shape[i] > 0 ? t->shape[i] : 1, &bytes)) continue;
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: dimension %d is %lld: negative or too large", task->name, arg->name, i,
                   (long long)t->shape[i]);
  }
  return FK_OK;
}

static fk_status check_memory(const fk_task *task, const fk_arg *arg, fk_backend backend, const fk_tensor *t) {
  int32_t want = backend == FK_CUDA ? FK_DL_CUDA : FK_DL_CPU;
  if (t->device.type != want)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected a tensor of DLPack device %d, got %d", task->name, arg->name,
                   want, t->device.type);
  if (!t->data && backend != FK_META && fk_numel(t) > 0)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: the tensor has no data", task->name, arg->name);
  size_t size = fk_type_bits(fk_type_of(t)) / 8;
  if (t->data && size > 1 && ((uintptr_t)fk_data(t) & (size - 1))) /* sizes are powers of two */
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected data aligned to %zu bytes", task->name, arg->name, size);
  return FK_OK;
}

static fk_status check_strides(const fk_task *task, const fk_arg *arg, const fk_tensor *t) {
  if (!t->strides || fk_numel(t) == 0) return FK_OK;
  for (int32_t i = 0; i < t->ndim && fk_arg_is_written(arg); i++) {
    if (t->shape[i] > 1 && t->strides[i] == 0)
      return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: written, but dimension %d has stride 0", task->name, arg->name, i);
  }
  if (t->ndim == 0 || arg->strides == FK_STRIDES_ANY) return FK_OK;
  if (arg->strides == FK_STRIDES_CONTIGUOUS && !fk_is_contiguous(t))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected a contiguous tensor", task->name, arg->name);
  if (t->shape[t->ndim - 1] > 1 && t->strides[t->ndim - 1] != 1)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected stride 1 along the last dimension, got %lld", task->name,
                   arg->name, (long long)t->strides[t->ndim - 1]);
  return FK_OK;
}

/* ---- Shapes ---------------------------------------------------------------------------------------------- */

/* Binds an axis to a size, or compares it. */
static bool bind_axis(fk_binding *b, int symbol, int64_t size) {
  if (b->symbols[symbol] == FK_UNBOUND) b->symbols[symbol] = size;
  return b->symbols[symbol] == size;
}

static bool bind_lead(fk_binding *b, int symbol, const fk_tensor *t, int32_t ndim) {
  int64_t product = 1;
  for (int32_t i = 0; i < ndim; i++)
    if (__builtin_mul_overflow(product, t->shape[i], &product)) return false;
  if (b->lead_ndim < 0) {
    b->lead_ndim = ndim;
    memcpy(b->lead, t->shape, (size_t)ndim * sizeof *b->lead);
  }
  return b->lead_ndim == ndim && memcmp(b->lead, t->shape, (size_t)ndim * sizeof *b->lead) == 0 &&
         bind_axis(b, symbol, product);
}

/* Binds the bare axes of a tensor's shape; computed dimensions are compared once everything is bound. */
static fk_status bind_shape(const fk_task *task, const fk_arg *arg, const fk_shape *shape, const fk_tensor *t,
                            fk_binding *b) {
  int32_t lead = shape->ellipsis ? t->ndim - (shape->ndim - 1) : 0;
  if (lead < 0 || (!shape->ellipsis && t->ndim != shape->ndim)) return shape_error(task, arg, shape, t, "");
  if (shape->ellipsis && !bind_lead(b, shape->dims[0].symbol, t, lead))
    return shape_error(task, arg, shape, t, ": the leading dimensions differ from another tensor's");
  for (int32_t i = shape->ellipsis; i < shape->ndim; i++) {
    const fk_dim *d = &shape->dims[i];
    int64_t size = t->shape[shape->ellipsis ? lead + i - 1 : i];
    if (d->symbol >= 0 && !bind_axis(b, d->symbol, size)) {
      char why[160];
      snprintf(why, sizeof why, ": %s is %lld elsewhere", task->symbols[d->symbol].name,
               (long long)b->symbols[d->symbol]);
      return shape_error(task, arg, shape, t, why);
    }
    if (d->symbol < 0 && !d->expr && size != d->literal) return shape_error(task, arg, shape, t, "");
  }
  return FK_OK;
}

/* The axis that a computed dimension leaves open, from the dimension's size: "2 * intermediate_size" is 128. Solved as
 * a linear equation and kept only when it holds. */
static void solve_dim(const fk_expr *e, int64_t size, fk_binding *b) {
  int unknown = fk_expr_only_unbound(e, b->symbols);
  if (unknown < 0) return;
  int64_t symbols[FK_MAX_SYMBOLS], at_0, at_1, slope, rest, back;
  memcpy(symbols, b->symbols, sizeof symbols);
  symbols[unknown] = 0;
  if (fk_expr_eval(e, symbols, NULL, &at_0)) return;
  symbols[unknown] = 1;
  if (fk_expr_eval(e, symbols, NULL, &at_1)) return;
  if (__builtin_sub_overflow(at_1, at_0, &slope) || __builtin_sub_overflow(size, at_0, &rest) || slope == 0) return;
  if (rest % slope != 0 || rest / slope < 0) return;
  symbols[unknown] = rest / slope;
  if (fk_expr_eval(e, symbols, NULL, &back) == FK_OK && back == size) b->symbols[unknown] = symbols[unknown];
}

static void solve_dims(const fk_task *task, const fk_any *args, int32_t num_args, fk_binding *b) {
  int known = 0;
  while (known < task->num_symbols && b->symbols[known] != FK_UNBOUND) known++;
  if (known == task->num_symbols) return; /* nothing to solve for, as in most calls */
  for (int i = 0; i < num_args; i++) {
    const fk_tensor *t = fk_arg_is_tensor(&task->args[i]) ? fk_arg_tensor(&args[i]) : NULL;
    const fk_shape *shape = t ? &task->args[i].shapes[b->layout] : NULL;
    for (int32_t k = 0; t && k < shape->ndim; k++)
      if (shape->dims[k].expr) solve_dim(shape->dims[k].expr, t->shape[k + t->ndim - shape->ndim], b);
  }
}

static fk_status check_computed_dims(const fk_task *task, const fk_arg *arg, const fk_shape *shape, const fk_tensor *t,
                                     const fk_binding *b) {
  for (int32_t i = 0; i < shape->ndim; i++) {
    const fk_dim *d = &shape->dims[i];
    if (!d->expr) continue;
    int64_t want, size = t->shape[i + t->ndim - shape->ndim];
    if (!fk_expr_is_bound(d->expr, b->symbols)) return shape_error(task, arg, shape, t, ": an axis in it is unknown");
    fk_status status = fk_expr_eval(d->expr, b->symbols, NULL, &want);
    if (status) return fk_fail_in(status, "%s: %s", task->name, arg->name);
    if (size == want) continue;
    char why[160];
    snprintf(why, sizeof why, ": %s is %lld", fk_expr_text(d->expr), (long long)want);
    return shape_error(task, arg, shape, t, why);
  }
  return FK_OK;
}

/* Computes the axes that follow from others without reading data, and compares them where a tensor has bound them. */
static fk_status bind_computed_axes(const fk_task *task, const fk_any *args, fk_binding *b) {
  for (int i = 0; i < task->num_symbols; i++) {
    const fk_symbol *s = &task->symbols[i];
    int64_t want;
    if (s->kind != FK_AXIS_EXPR || fk_expr_reads_data(s->expr) || !fk_expr_is_bound(s->expr, b->symbols)) continue;
    fk_status status = fk_expr_eval(s->expr, b->symbols, args, &want);
    if (status) return fk_fail_in(status, "%s: axis %s", task->name, s->name);
    if (!bind_axis(b, i, want))
      return fk_fail(FK_ERROR_ARGUMENT, "%s: axis %s: expected %lld (%s), got %lld", task->name, s->name,
                     (long long)want, fk_expr_text(s->expr), (long long)b->symbols[i]);
  }
  return FK_OK;
}

/* The first layout whose ranks and absences fit the given tensors. Rank decides, so that a wrong size is reported
 * against the layout the caller meant. */
static int choose_layout(const fk_task *task, const fk_any *args, int32_t num_args) {
  for (int layout = 0; layout < task->num_layouts; layout++) {
    bool fits = true;
    for (int i = 0; i < num_args && fits; i++) {
      const fk_arg *arg = &task->args[i];
      if (arg->role == FK_ATTRIBUTE) continue;
      const fk_tensor *t = fk_arg_tensor(&args[i]);
      const fk_shape *s = &arg->shapes[layout];
      fits = t ? !s->absent && (s->ellipsis ? t->ndim >= s->ndim - 1 : t->ndim == s->ndim) : s->absent || arg->optional;
    }
    if (fits) return layout;
  }
  return -1;
}

static fk_status no_layout(const fk_task *task) {
  char names[256] = "";
  for (int i = 0, used = 0; i < task->num_layouts && used < 200; i++)
    used += snprintf(names + used, sizeof names - (size_t)used, "%s%s", i ? ", " : "", task->layouts[i]);
  return fk_fail(FK_ERROR_ARGUMENT, "%s: the given tensors' ranks fit no layout (%s)", task->name, names);
}

static fk_status bind_tensor(const fk_task *task, const fk_arg *arg, fk_backend backend, const fk_any *args,
                             const fk_any *any, fk_binding *b) {
  const fk_shape *shape = &arg->shapes[b->layout];
  const fk_tensor *t = fk_arg_tensor(any);
  if (!t) {
    if (any->type_index != FK_ANY_NONE)
      return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected a tensor, got a number", task->name, arg->name);
    return arg->optional ? FK_OK : fk_fail(FK_ERROR_ARGUMENT, "%s: %s: the tensor is missing", task->name, arg->name);
  }
  if (shape->absent)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: must not be given in layout %s", task->name, arg->name,
                   task->layouts[b->layout]);
  fk_type type = fk_type_of(t);
  FK_TRY(check_descriptor(task, arg, t));
  if (!dtype_fits(task, arg, backend, args, type)) return dtype_error(task, arg, args, type);
  FK_TRY(check_memory(task, arg, backend, t));
  FK_TRY(check_strides(task, arg, t));
  return bind_shape(task, arg, shape, t, b);
}

static bool may_alias(const fk_arg *arg, int other) {
  const int *allowed = arg->may_alias;
  while (allowed && *allowed >= 0 && *allowed != other) allowed++;
  return allowed && *allowed >= 0;
}

/* Equal shapes and strides: element i of one is element i of the other. */
static bool same_elements(const fk_tensor *a, const fk_tensor *b) {
  bool same = a->ndim == b->ndim && fk_type_of(a) == fk_type_of(b);
  for (int32_t i = 0; same && i < a->ndim; i++)
    same = a->shape[i] == b->shape[i] && (a->shape[i] == 1 || fk_stride(a, i) == fk_stride(b, i));
  return same || (fk_is_contiguous(a) && fk_is_contiguous(b) && fk_numel(a) == fk_numel(b));
}

/* A written tensor shares no memory with another, except, where the definition says so, exactly its memory. Of two that
 * are not contiguous only the starts are compared: columns of one matrix may interleave. */
static fk_status check_alias(const fk_task *task, const fk_any *args, int o, int i) {
  const fk_tensor *out = fk_arg_tensor(&args[o]), *in = fk_arg_tensor(&args[i]);
  const char *name = task->args[o].name, *other = task->args[i].name;
  if (!may_alias(&task->args[o], i) && !may_alias(&task->args[i], o))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: must not be the memory of %s", task->name, name, other);
  if (fk_data(out) != fk_data(in) || !same_elements(out, in))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: must be exactly the memory of %s or none of it", task->name, name,
                   other);
  return FK_OK;
}

/* Where the tensors of a call lie: the start of each (0 when it has no memory), and the range of the contiguous ones
 * (an empty one at the top for the others, which nothing overlaps). */
typedef struct spans {
  uintptr_t start[FK_MAX_ARGS], low[FK_MAX_ARGS], high[FK_MAX_ARGS];
} spans;

static void find_spans(const fk_task *task, const fk_any *args, spans *s) {
  for (int i = 0; i < task->num_args; i++) {
    const fk_tensor *t = fk_arg_is_tensor(&task->args[i]) ? fk_arg_tensor(&args[i]) : NULL;
    int64_t n = t && t->data ? fk_numel(t) : 0;
    bool whole = n > 0 && fk_is_contiguous(t);
    s->start[i] = n > 0 ? (uintptr_t)fk_data(t) : 0;
    s->low[i] = whole ? s->start[i] : UINTPTR_MAX;
    s->high[i] = whole ? s->start[i] + fk_type_bytes(fk_type_of(t), n) : 0;
  }
}

static bool touch(const spans *s, int a, int b) {
  return ((s->low[a] < s->high[b]) & (s->low[b] < s->high[a])) | (s->start[a] == s->start[b]);
}

static fk_status check_aliases(const fk_task *task, const fk_any *args) {
  spans s;
  find_spans(task, args, &s);
  for (int o = 0; o < task->num_args; o++) {
    if (!s.start[o] || !fk_arg_is_written(&task->args[o])) continue;
    int touching = 0; /* counted without branches: nearly always it is only o itself */
    for (int i = 0; i < task->num_args; i++) touching += touch(&s, o, i);
    for (int i = 0; touching > 1 && i < task->num_args; i++) {
      if (i == o || !touch(&s, o, i) || (i > o && fk_arg_is_written(&task->args[i]))) continue; /* each pair once */
      FK_TRY(check_alias(task, args, o, i));
    }
  }
  return FK_OK;
}

/* Binds the first num_args arguments (all of them, or all but the outputs for shape inference). */
static fk_status bind_args(const fk_task *task, fk_backend backend, const fk_any *args, int32_t num_args,
                           fk_binding *b) {
  for (int i = 0; i < task->num_symbols; i++) b->symbols[i] = FK_UNBOUND;
  b->lead_ndim = -1;
  b->layout = task->num_layouts ? choose_layout(task, args, num_args) : 0;
  if (b->layout < 0) return no_layout(task);
  for (int i = 0; i < num_args; i++) {
    const fk_arg *arg = &task->args[i];
    if (arg->role == FK_ATTRIBUTE) FK_TRY(bind_attribute(task, arg, &args[i], b));
  }
  for (int i = 0; i < num_args; i++) {
    const fk_arg *arg = &task->args[i];
    if (arg->role != FK_ATTRIBUTE) FK_TRY(bind_tensor(task, arg, backend, args, &args[i], b));
  }
  solve_dims(task, args, num_args, b);
  FK_TRY(bind_computed_axes(task, args, b));
  for (int i = 0; i < num_args; i++) {
    const fk_tensor *t = task->args[i].role == FK_ATTRIBUTE ? NULL : fk_arg_tensor(&args[i]);
    if (t) FK_TRY(check_computed_dims(task, &task->args[i], &task->args[i].shapes[b->layout], t, b));
  }
  for (int i = 0; i < task->num_constraints; i++) {
    int64_t holds;
    if (!fk_expr_is_bound(task->constraints[i], b->symbols)) continue;
    fk_status status = fk_expr_eval(task->constraints[i], b->symbols, args, &holds);
    if (status) return fk_fail_in(status, "%s", task->name);
    if (!holds)
      return fk_fail(FK_ERROR_ARGUMENT, "%s: the constraint %s does not hold", task->name,
                     fk_expr_text(task->constraints[i]));
  }
  return FK_OK;
}

fk_status fk_bind(const fk_task *task, fk_backend backend, const fk_any *args, int32_t num_args, fk_binding *b) {
  if (num_args != task->num_args)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: expected %d arguments, got %d", task->name, task->num_args, num_args);
  FK_TRY(bind_args(task, backend, args, num_args, b));
  return check_aliases(task, args);
}

fk_status fk_binding_finish(const fk_task *task, const fk_any *args, fk_binding *b) {
  for (int i = 0; i < task->num_symbols; i++) {
    const fk_symbol *s = &task->symbols[i];
    if (s->kind != FK_AXIS_EXPR || b->symbols[i] != FK_UNBOUND || !fk_expr_is_bound(s->expr, b->symbols)) continue;
    int64_t value;
    fk_status status = fk_expr_eval(s->expr, b->symbols, args, &value);
    if (status) return fk_fail_in(status, "%s: %s", task->name, s->name);
    b->symbols[i] = value;
  }
  return FK_OK;
}

/* ---- Shapes, FLOPs and bytes from a binding -------------------------------------------------------------- */

fk_status fk_shape_eval(const fk_task *task, const fk_arg *arg, const fk_binding *b, int64_t *shape, int32_t *ndim) {
  const fk_shape *s = &arg->shapes[b->layout];
  int32_t n = 0;
  for (int32_t i = 0; i < s->ndim; i++) {
    const fk_dim *d = &s->dims[i];
    if (i == 0 && s->ellipsis && b->lead_ndim >= 0) {
      if (b->lead_ndim + s->ndim - 1 > FK_MAX_DIMS)
        return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: more than %d dimensions", task->name, arg->name, FK_MAX_DIMS);
      memcpy(shape, b->lead, (size_t)b->lead_ndim * sizeof *shape);
      n = b->lead_ndim;
      continue;
    }
    int64_t size = d->literal;
    if (d->symbol >= 0) size = b->symbols[d->symbol];
    if (d->expr) {
      if (!fk_expr_is_bound(d->expr, b->symbols))
        size = FK_UNBOUND;
      else
        FK_TRY(fk_expr_eval(d->expr, b->symbols, NULL, &size));
    }
    if (size < 0) {
      const char *name = d->symbol >= 0 ? task->symbols[d->symbol].name : fk_expr_text(d->expr);
      return size == FK_UNBOUND
                 ? fk_fail(FK_ERROR_ARGUMENT, "%s: %s: axis %s has no value", task->name, arg->name, name)
                 : fk_fail(FK_ERROR_ARGUMENT, "%s: %s: %s is negative", task->name, arg->name, name);
    }
    shape[n++] = size;
  }
  *ndim = n;
  return FK_OK;
}

fk_status fk_infer(const fk_task *task, fk_backend backend, const fk_any *args, int32_t output, int64_t *shape,
                   int32_t *ndim, fk_type *type) {
  fk_binding b;
  int32_t given = task->num_args - task->num_outputs;
  fk_any padded[FK_MAX_ARGS] = {0}; /* formulas may ask about the outputs that are not there yet */
  memcpy(padded, args, (size_t)given * sizeof *args);
  FK_TRY(bind_args(task, backend, padded, given, &b));
  const fk_arg *arg = &task->args[given + output];
  const fk_tensor *like = NULL;
  const fk_arg *source = arg;
  while (source->same_dtype_as >= 0 && !like) { /* an earlier output has no tensor yet: its own rule counts */
    int at = source->same_dtype_as;
    if (at < given) like = fk_arg_tensor(&args[at]);
    source = &task->args[at];
  }
  *type = like ? fk_type_of(like) : FK_F32;
  for (size_t i = 0; !like && i < NUM_TYPES; i++) {
    if (!(source->dtypes & fk_type_bit(all_types[i]))) continue;
    *type = all_types[i];
    break;
  }
  if (backend == FK_REF && !like) *type = fk_type_is_float(*type) ? FK_F64 : fk_type_is_int(*type) ? FK_I64 : *type;
  return fk_shape_eval(task, arg, &b, shape, ndim);
}

/* Evaluates a formula over a call. Where a task has layouts, an axis that the call's layout lacks counts as 0. */
static fk_status eval_formula(const fk_task *task, const fk_expr *expr, const fk_any *args, const fk_binding *b,
                              int64_t *value) {
  int64_t symbols[FK_MAX_SYMBOLS];
  for (int i = 0; i < task->num_symbols; i++)
    symbols[i] = task->num_layouts && b->symbols[i] == FK_UNBOUND ? 0 : b->symbols[i];
  return fk_expr_eval(expr, symbols, args, value);
}

fk_status fk_task_flops(const fk_task *task, const fk_any *args, const fk_binding *b, double *flops) {
  int64_t value;
  *flops = 0;
  FK_TRY(eval_formula(task, task->flops, args, b, &value));
  *flops = (double)value;
  return FK_OK;
}

fk_status fk_task_bytes(const fk_task *task, const fk_any *args, const fk_binding *b, double *bytes) {
  *bytes = 0;
  if (task->bytes) {
    int64_t value;
    FK_TRY(eval_formula(task, task->bytes, args, b, &value));
    *bytes = (double)value;
    return FK_OK;
  }
  for (int i = 0; i < task->num_args; i++) {
    const fk_tensor *t = task->args[i].role == FK_ATTRIBUTE ? NULL : fk_arg_tensor(&args[i]);
    if (!t) continue;
    double size = (double)fk_numel(t) * (double)fk_type_bits(fk_type_of(t)) / 8;
    *bytes += task->args[i].inout ? 2 * size : size;
  }
  return FK_OK;
}
