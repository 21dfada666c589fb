/* fastkernels op: one task on tensors from a file. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/tensors.h"
#include "core/context.h"

static const cli_option options[] = {
    {"inputs", "FILE", "safetensors with the task's inputs and weights under their names"},
    {"output", "FILE", "safetensors to write: outputs, and in-out tensors as they are afterwards"},
    {"set", "NAME=VALUE", "an attribute: a number, true or false, or a name; may be repeated"},
    {"device", "NAME", "ref, cpu (default) or cuda"},
    {"gpu", "N", "with --device cuda: which GPU (0)"},
    {"dtype", "TYPE", "convert float tensors first; default: as stored (ref computes in float64)"},
    {"impl", "PATH", "compute the task with the kernel of a shared object"},
    {"threads", "N", "CPU threads; default: all"},
    {0}};

static const cli_spec spec = {
    .command = "op",
    .arguments = "TASK",
    .summary = "Runs one task once. `fastkernels list TASK` shows its tensors and attributes.",
    .details = "Optional tensors may be missing from the file. On failure nothing is written.",
    .min_args = 1,
    .max_args = 1,
    .options = options};

/* One call under construction. */
typedef struct call {
  const cli *c;
  fk_context *ctx;
  const fk_task *task;
  fk_type dtype; /* floats become this; 0 = as stored */
  fk_any args[FK_MAX_ARGS];
} call;

/* ---- Attributes ------------------------------------------------------------------------------------------ */

static const char *type_hint(const fk_arg *a) {
  static const char *const names[] = {"an integer", "a number", "true or false", "a name"};
  return names[a->type];
}

static fk_status parse_value(const fk_arg *a, const char *text, fk_any *any) {
  char *end = NULL;
  errno = 0;
  if (a->type == FK_ATTR_INT) {
    *any = fk_any_int(strtoll(text, &end, 10));
  } else if (a->type == FK_ATTR_FLOAT) {
    *any = fk_any_float(strtod(text, &end));
  } else if (a->type == FK_ATTR_BOOL) {
    bool yes = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
    bool no = strcmp(text, "false") == 0 || strcmp(text, "0") == 0;
    *any = fk_any_bool(yes);
    if (yes || no) return FK_OK;
  } else {
    char list[256] = "";
    for (int i = 0; a->enum_names[i]; i++) {
      size_t used = strlen(list);
      snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", a->enum_names[i]);
      *any = fk_any_int(i);
      if (strcmp(a->enum_names[i], text) == 0) return FK_OK;
    }
    return fk_fail(FK_ERROR_ARGUMENT, "--set %s: expected one of %s, got \"%s\"", a->name, list, text);
  }
  if (!errno && end && end != text && !*end) return FK_OK;
  return fk_fail(FK_ERROR_ARGUMENT, "--set %s: expected %s, got \"%s\"", a->name, type_hint(a), text);
}

static fk_status set_attributes(call *k) {
  const char *values[CLI_MAX_VALUES];
  bool given[FK_MAX_ARGS] = {false};
  int n = cli_values(k->c, "set", values);
  for (int i = 0; i < n; i++) {
    char name[256];
    const char *equals = strchr(values[i], '=');
    if (!equals || equals - values[i] >= (ptrdiff_t)sizeof name)
      return fk_fail(FK_ERROR_ARGUMENT, "--set: expected NAME=VALUE, got \"%s\"", values[i]);
    snprintf(name, sizeof name, "%.*s", (int)(equals - values[i]), values[i]);
    int at = fk_task_arg(k->task, name);
    if (at < 0 || k->task->args[at].role != FK_ATTRIBUTE)
      return fk_fail(FK_ERROR_ARGUMENT, "--set: %s has no attribute \"%s\"", k->task->name, name);
    FK_TRY(parse_value(&k->task->args[at], equals + 1, &k->args[at]));
    given[at] = true;
  }
  char missing[512] = "";
  for (int i = 0; i < k->task->num_args; i++) {
    const fk_arg *a = &k->task->args[i];
    if (a->role != FK_ATTRIBUTE || given[i]) continue;
    size_t used = strlen(missing);
    if (!a->has_default)
      snprintf(missing + used, sizeof missing - used, "%s%s (%s)", used ? ", " : "", a->name, type_hint(a));
    else
      k->args[i] = a->type == FK_ATTR_FLOAT ? fk_any_float(a->default_value) : fk_any_int((int64_t)a->default_value);
  }
  if (*missing) return fk_fail(FK_ERROR_ARGUMENT, "%s needs --set for %s", k->task->name, missing);
  return FK_OK;
}

/* ---- Tensors --------------------------------------------------------------------------------------------- */

/* The dtype that --dtype (or ref) gives a float tensor; 0 where the definition allows no choice. */
static fk_type wanted_type(const call *k, const fk_arg *a) {
  if (k->dtype == FK_F64 || a->same_dtype_as >= 0) return k->dtype;
  return a->dtypes & fk_type_bit(k->dtype) ? k->dtype : 0;
}

static fk_status read_tensors(call *k, const fk_safetensors *file) {
  const fk_task *task = k->task;
  for (size_t i = 0; i < fk_safetensors_count(file); i++) {
    const fk_stored *s = fk_safetensors_at(file, i);
    int at = fk_task_arg(task, s->name);
    if (at < 0 || task->args[at].role == FK_ATTRIBUTE || task->args[at].role == FK_OUTPUT)
      return fk_fail(FK_ERROR_ARGUMENT, "%s: %s has no input or weight of this name", s->name, task->name);
    fk_tensor *t;
    FK_TRY(cli_tensor_read(k->ctx, s, wanted_type(k, &task->args[at]), &t));
    FK_TRY(fk_move_to_device(k->ctx, &t));
    k->args[at] = fk_any_tensor(t);
  }
  return FK_OK;
}

static fk_status make_outputs(call *k) {
  int first = k->task->num_args - k->task->num_outputs;
  for (int o = 0; o < k->task->num_outputs; o++) {
    int64_t shape[FK_MAX_DIMS];
    int32_t ndim;
    fk_type type;
    FK_TRY(fk_infer(k->task, fk_context_backend(k->ctx), k->args, o, shape, &ndim, &type));
    fk_tensor *t = fk_empty_shape(k->ctx, type, shape, ndim);
    if (!t) return FK_ERROR_MEMORY;
    k->args[first + o] = fk_any_tensor(t);
  }
  return FK_OK;
}

static fk_status write_tensors(const call *k, const char *path) {
  fk_stored stored[FK_MAX_ARGS];
  size_t n = 0;
  for (int i = 0; i < k->task->num_args; i++) {
    const fk_arg *a = &k->task->args[i];
    const fk_tensor *written = fk_arg_is_tensor(a) && fk_arg_is_written(a) ? fk_arg_tensor(&k->args[i]) : NULL;
    if (!written) continue;
    fk_tensor *t = fk_view_shape(k->ctx, written, written->shape, written->ndim);
    FK_TRY(fk_move_to_host(k->ctx, &t));
    if (t) stored[n++] = cli_tensor_stored(a->name, t);
  }
  return fk_safetensors_write(path, stored, n, NULL);
}

static fk_status run(const cli *c, fk_context *ctx, fk_type dtype) {
  call k = {.c = c, .ctx = ctx, .dtype = fk_context_backend(ctx) == FK_REF ? FK_F64 : dtype};
  k.task = fk_task_find(c->args[0]);
  if (!k.task) return FK_ERROR_NOT_FOUND;
  if (cli_value(c, "impl")) FK_TRY(cli_override(ctx, k.task->name, cli_value(c, "impl")));
  FK_TRY(set_attributes(&k));
  fk_safetensors *file;
  FK_TRY(fk_safetensors_open(cli_value(c, "inputs"), &file));
  fk_status status = read_tensors(&k, file);
  if (status) status = fk_fail_in(status, "%s", cli_value(c, "inputs"));
  if (!status) status = make_outputs(&k);
  if (!status) status = fk_call_task(ctx, k.task, k.args, k.task->num_args);
  if (!status) status = write_tensors(&k, cli_value(c, "output"));
  fk_safetensors_close(file);
  return status;
}

int fk_cmd_op(int argc, char **argv) {
  cli c;
  int exit_status;
  if (!cli_parse(&c, &spec, argc, argv, &exit_status)) return exit_status;
  fk_type dtype = 0;
  if (!cli_value(&c, "inputs")) return cli_fail(&c, "--inputs is missing");
  if (!cli_value(&c, "output")) return cli_fail(&c, "--output is missing");
  if (!cli_type(&c, "dtype", &dtype)) return 2;
  fk_context *ctx;
  exit_status = cli_context(&c, &ctx);
  if (exit_status) return exit_status;
  if (run(&c, ctx, dtype)) exit_status = cli_error(&c);
  fk_context_destroy(ctx);
  return exit_status;
}
