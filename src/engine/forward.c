/* Level 4 of models that take no steps: forward() as one call that recorders see. */
#include <stdio.h>
#include <string.h>

#include "engine/step.h"

enum { MAX_DEFINITION = 8192, MAX_AXES = 64 };

typedef struct text {
  char bytes[MAX_DEFINITION];
  size_t used;
} text;

static void put(text *t, const char *a, const char *b, const char *c) {
  if (t->used >= sizeof t->bytes) return; /* already too long: said at the end */
  t->used += (size_t)snprintf(t->bytes + t->used, sizeof t->bytes - t->used, "%s%s%s", a, b, c);
}

/* The next of the names between spaces, or false. */
static bool next_axis(const char **at, char name[64]) {
  *at += strspn(*at, " ");
  size_t n = strcspn(*at, " ");
  if (n == 0 || n >= 64) return false;
  memcpy(name, *at, n);
  name[n] = 0;
  *at += n;
  return true;
}

static void put_axes(text *t, const fk_model_input *inputs) {
  char seen[MAX_AXES][64], name[64];
  int count = 0;
  for (const fk_model_input *in = inputs; in->name; in++)
    for (const char *at = in->axes; next_axis(&at, name);) {
      int k = 0;
      while (k < count && strcmp(seen[k], name) != 0) k++;
      if (k < count || count == MAX_AXES) continue;
      put(t, count ? ", \"" : "\"", name, "\": \"var\"");
      memcpy(seen[count++], name, sizeof name);
    }
}

static void put_input(text *t, const fk_model_input *in) {
  char name[64];
  const char *separator = "";
  put(t, "\"", in->name, "\": {\"optional\": true, \"strides\": \"any\", \"shape\": [");
  for (const char *at = in->axes; next_axis(&at, name); separator = ", ") {
    put(t, separator, "\"", name);
    put(t, "\"", "", "");
  }
  put(t, "], \"dtype\": ",
      in->floats ? "[\"float32\", \"bfloat16\", \"float16\", \"float64\"]"
                 : "[\"int64\", \"int32\", \"int16\", \"int8\", \"uint8\", \"bool\"]",
      "}");
}

fk_status fk_forward_task(fk_arena *arena, const fk_model_class *class, const fk_task **task) {
  text t = {.used = 0};
  fk_task *parsed;
  if (!class->inputs) return fk_fail(FK_ERROR_UNSUPPORTED, "%s: the class declares no inputs", class->name);
  put(&t, "{\"name\": \"", class->name, "_forward\", \"level\": 4, \"family\": \"model\", ");
  put(&t, "\"summary\": \"forward() of the model on one set of inputs.\", ", "", "");
  put(&t, "\"mirrors\": [{\"library\": \"reference\", \"symbol\": \"", class->architectures[0], ".forward\", ");
  put(&t, "\"arguments\": [\"", class->inputs->name, "\"]}], \"axes\": {");
  put_axes(&t, class->inputs);
  put(&t, "}, \"inputs\": {", "", "");
  for (const fk_model_input *in = class->inputs; in->name; in++) {
    if (in > class->inputs) put(&t, ", ", "", "");
    put_input(&t, in);
  }
  put(&t, "}, \"flops\": \"0\", \"tolerance\": \"attention\"}", "", "");
  if (t.used >= sizeof t.bytes) return fk_fail(FK_ERROR_UNSUPPORTED, "%s: too many inputs", class->name);
  FK_TRY(fk_task_parse(arena, t.bytes, t.used, class->name, &parsed));
  parsed->index = -1;
  *task = parsed;
  return FK_OK;
}

/* Tells the recorder, and computes even where it skips the calls inside: the caller wants outputs. */
static fk_status record(fk_context *ctx, const fk_model *model, const fk_any *args, const fk_binding *binding,
                        const fk_tensors *inputs, fk_tensors *outputs) {
  fk_recorder *recorder = ctx->recorder;
  if (!recorder->enter(recorder, ctx, model->step_task, args, binding)) ctx->recorder = NULL;
  fk_status status = model->class->forward(ctx, model, inputs, outputs);
  ctx->recorder = recorder;
  recorder->leave(recorder, ctx, model->step_task, args, status);
  return status;
}

fk_status fk_forward_run(fk_context *ctx, const fk_model *model, const fk_tensors *inputs, fk_tensors *outputs) {
  const fk_task *task = model->step_task;
  fk_backend backend = ctx->backend == FK_CUDA ? FK_CPU : ctx->backend;
  fk_any args[FK_MAX_ARGS], bound[FK_MAX_ARGS];
  fk_tensor host[FK_MAX_ARGS];
  fk_binding binding;
  if (!ctx->recorder || !task) return model->class->forward(ctx, model, inputs, outputs);
  for (int i = 0; i < task->num_args; i++) {
    const fk_tensor *t = fk_tensors_get(inputs, task->args[i].name);
    args[i] = bound[i] = fk_any_tensor(t);
    if (!t) continue;
    /* On cuda inputs may lie on either side: only their shapes are bound. */
    host[i] = *t;
    host[i].device = (fk_device){FK_DL_CPU, 0};
    bound[i] = fk_any_tensor(&host[i]);
  }
  fk_status status = fk_bind(task, backend, bound, task->num_args, &binding);
  if (!status) return record(ctx, model, args, &binding, inputs, outputs);
  /* The model has the better words for what is wrong. */
  fk_recorder *recorder = ctx->recorder;
  ctx->recorder = NULL;
  fk_status refusal = model->class->forward(ctx, model, inputs, outputs);
  ctx->recorder = recorder;
  if (refusal) return refusal;
  outputs->count = 0;
  return fk_bind(task, backend, bound, task->num_args, &binding); /* whose message the model's run may have lost */
}
