/* fastkernels run: a model's forward() on tensors from a file. */
#include <stdio.h>
#include <string.h>

#include "cli/tensors.h"
#include "engine/model.h"

static const cli_option options[] = {
    {"inputs", "FILE", "safetensors with tensors in.NAME, named as the reference's forward() names them"},
    {"output", "FILE", "safetensors to write: tensors out.NAME, floats as float32"},
    {"device", "NAME", "ref, cpu (default) or cuda"},
    {"gpu", "N", "with --device cuda: which GPU (0)"},
    {"dtype", "TYPE", "float32 (default), bfloat16 or float16; ref computes in float64"},
    {"impl", "TASK=PATH", "compute a task with the kernel of a shared object; may be repeated"},
    {"threads", "N", "CPU threads; default: all"},
    {"random-weights", "SEED", "weights from a generator instead of a checkpoint; allows a preset's name"},
    {0}};

static const cli_spec spec = {
    .command = "run",
    .arguments = "MODEL",
    .summary = "Runs a model's forward() once. MODEL is a folder with config.json and safetensors weights.",
    .details = "Tensors of the input file that are not named in.NAME are ignored. On failure nothing is written.",
    .min_args = 1,
    .max_args = 1,
    .options = options};

static fk_status apply_overrides(const cli *c, fk_context *ctx) {
  const char *values[CLI_MAX_VALUES];
  int n = cli_values(c, "impl", values);
  for (int i = 0; i < n; i++) {
    char task[256];
    const char *equals = strchr(values[i], '=');
    if (!equals || equals == values[i] || !equals[1] || equals - values[i] >= (ptrdiff_t)sizeof task)
      return fk_fail(FK_ERROR_ARGUMENT, "--impl: expected TASK=PATH, got \"%s\"", values[i]);
    snprintf(task, sizeof task, "%.*s", (int)(equals - values[i]), values[i]);
    FK_TRY(cli_override(ctx, task, equals + 1));
  }
  return FK_OK;
}

static fk_status read_inputs(fk_context *ctx, const fk_model *model, const fk_safetensors *file, fk_tensors *inputs) {
  inputs->count = 0;
  for (size_t i = 0; i < fk_safetensors_count(file); i++) {
    const fk_stored *s = fk_safetensors_at(file, i);
    fk_tensor *t;
    if (strncmp(s->name, "in.", 3) != 0) continue;
    FK_TRY(cli_tensor_read(ctx, s, model->dtype, &t));
    FK_TRY(fk_tensors_put(inputs, s->name + 3, t));
  }
  return FK_OK;
}

static fk_status write_outputs(fk_context *ctx, const fk_tensors *outputs, const char *path) {
  fk_stored stored[FK_MAX_NAMED];
  char names[FK_MAX_NAMED][128];
  for (int i = 0; i < outputs->count; i++) {
    const fk_tensor *t = outputs->items[i].tensor;
    snprintf(names[i], sizeof names[i], "out.%s", outputs->items[i].name);
    fk_type type = fk_type_is_float(fk_type_of(t)) ? FK_F32 : fk_type_of(t);
    fk_tensor *copy = fk_host_shape(ctx, type, t->shape, t->ndim);
    if (!copy) return FK_ERROR_MEMORY;
    FK_TRY(fk_copy(t, copy));
    stored[i] = cli_tensor_stored(names[i], copy);
  }
  return fk_safetensors_write(path, stored, (size_t)outputs->count, NULL);
}

static fk_status run(const cli *c, fk_context *ctx, const fk_model_options *model_options) {
  fk_safetensors *file = NULL;
  fk_model *model = NULL;
  fk_tensors inputs, outputs;
  fk_status status = apply_overrides(c, ctx);
  if (!status) status = fk_safetensors_open(cli_value(c, "inputs"), &file);
  if (!status) status = fk_model_open(ctx, c->args[0], model_options, &model);
  if (!status) status = read_inputs(ctx, model, file, &inputs);
  if (!status) status = fk_model_forward(ctx, model, &inputs, &outputs);
  if (!status) status = write_outputs(ctx, &outputs, cli_value(c, "output"));
  fk_model_close(model);
  fk_safetensors_close(file);
  return status;
}

int fk_cmd_run(int argc, char **argv) {
  cli c;
  int exit_status;
  if (!cli_parse(&c, &spec, argc, argv, &exit_status)) return exit_status;
  fk_model_options model_options = {.dtype = FK_F32};
  int64_t seed = 0;
  if (!cli_value(&c, "inputs")) return cli_fail(&c, "--inputs is missing");
  if (!cli_value(&c, "output")) return cli_fail(&c, "--output is missing");
  if (!cli_type(&c, "dtype", &model_options.dtype)) return 2;
  if (!cli_int(&c, "random-weights", 0, INT64_MAX, &seed)) return 2;
  model_options.random_weights = cli_flag(&c, "random-weights");
  model_options.seed = (uint64_t)seed;
  fk_context *ctx;
  exit_status = cli_context(&c, &ctx);
  if (exit_status) return exit_status;
  if (run(&c, ctx, &model_options)) exit_status = cli_error(&c);
  fk_context_destroy(ctx);
  return exit_status;
}
