#include "engine/model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/loader_state.h"
#include "engine/step.h"

enum { MAX_CONFIG_BYTES = 16 << 20, WEIGHT_CHUNK = 32 << 20, DEVICE_CHUNK = 128 << 20 };

/* ---- Named tensors --------------------------------------------------------------------------------------- */

fk_tensor *fk_tensors_get(const fk_tensors *map, const char *name) {
  for (int i = 0; i < map->count; i++)
    if (strcmp(map->items[i].name, name) == 0) return map->items[i].tensor;
  return NULL;
}

fk_status fk_tensors_put(fk_tensors *map, const char *name, fk_tensor *tensor) {
  if (fk_tensors_get(map, name)) return fk_fail(FK_ERROR_ARGUMENT, "two tensors are named %s", name);
  if (map->count == FK_MAX_NAMED) return fk_fail(FK_ERROR_ARGUMENT, "more than %d named tensors", FK_MAX_NAMED);
  map->items[map->count].name = name;
  map->items[map->count++].tensor = tensor;
  return FK_OK;
}

/* ---- Class and dtype from the configuration -------------------------------------------------------------- */

static bool find_architecture(const char *name, const fk_model_class **class, int *index) {
  for (const fk_model_class *const *c = fk_model_classes; *c; c++)
    for (int i = 0; (*c)->architectures[i]; i++)
      if (strcmp((*c)->architectures[i], name) == 0) {
        *class = *c;
        *index = i;
        return true;
      }
  return false;
}

static fk_status unknown(const fk_json *at, const char *name) {
  char known[1024] = "";
  for (const fk_model_class *const *c = fk_model_classes; *c; c++)
    for (int i = 0; (*c)->architectures[i]; i++) {
      size_t used = strlen(known);
      snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", (*c)->architectures[i]);
    }
  return fk_json_fail(at, FK_ERROR_UNSUPPORTED, "no model here serves \"%s\"; known architectures: %s", name, known);
}

/* The first known of "architectures"; by "model_type" when there is no such list. */
static fk_status choose_class(const fk_json *root, const fk_model_class **class, int *architecture) {
  *architecture = 0;
  const char *name = "";
  if (fk_json_has(root, "architectures")) {
    fk_json list, item;
    FK_TRY(fk_json_array(root, "architectures", &list));
    for (size_t i = 0; i < json_array_size(list.node); i++) {
      item = fk_json_item(&list, i);
      if (!json_is_string(item.node)) return fk_json_expected(&item, "a string");
      if (find_architecture(json_string_value(item.node), class, architecture)) return FK_OK;
      name = json_string_value(item.node);
    }
    if (*name) return unknown(&list, name);
  }
  if (!fk_json_has(root, "model_type"))
    return fk_json_fail(root, FK_ERROR_FORMAT, "expected \"architectures\" or \"model_type\", found neither");
  FK_TRY(fk_json_string(root, "model_type", &name));
  for (const fk_model_class *const *c = fk_model_classes; *c; c++)
    if (strcmp((*c)->name, name) == 0) {
      *class = *c;
      return FK_OK;
    }
  fk_json at = fk_json_member(root, "model_type");
  return unknown(&at, name);
}

/* Transformers 4 writes "torch_dtype", 5 writes "dtype". */
static fk_status config_dtype(const fk_json *root, fk_type *dtype) {
  const char *key = fk_json_has(root, "dtype") ? "dtype" : "torch_dtype", *name;
  FK_TRY(fk_json_string_or(root, key, "float32", &name));
  if (fk_type_parse(name, dtype) && (*dtype == FK_F32 || *dtype == FK_BF16 || *dtype == FK_F16)) return FK_OK;
  fk_json at = fk_json_member(root, key);
  return fk_json_fail(&at, FK_ERROR_UNSUPPORTED, "\"%s\" is not float32, bfloat16 or float16; choose one of them",
                      name);
}

/* ---- Opening --------------------------------------------------------------------------------------------- */

static fk_status load(fk_context *ctx, const fk_json *root, const fk_model_options *options, fk_checkpoint *checkpoint,
                      fk_model *model) {
  fk_loader l = {.where = root->where, .config = root->node, .model = model, .checkpoint = checkpoint};
  l.backend = ctx->backend;
  l.cuda = ctx->cuda;
  l.max_model_len = options->max_model_len;
  l.random = options->random_weights && !checkpoint;
  l.seed = options->seed;
  if (!json_is_object(root->node)) return fk_json_expected(root, "an object");
  FK_TRY(choose_class(root, &model->class, &l.architecture));
  model->dtype = ctx->backend == FK_REF ? FK_F64 : options->dtype;
  if (!model->dtype) FK_TRY(config_dtype(root, &model->dtype));
  if (options->max_model_len < 0)
    return fk_fail(FK_ERROR_ARGUMENT, "max_model_len: expected at least 0, got %lld",
                   (long long)options->max_model_len);
  model->state = fk_arena_calloc(&model->arena, 1, model->class->state_size);
  if (!model->state) return FK_ERROR_MEMORY;
  fk_status status = model->class->load(&l, model->state);
  if (!status) status = fk_loader_finish(&l);
  free(l.scratch);
  FK_TRY(status);
  if (model->class->sequence) return fk_step_task(&model->arena, model->class, &model->step_task);
  return fk_forward_task(&model->arena, model->class, &model->step_task);
}

/* Takes over the checkpoint, on failure too. */
static fk_status open_json(fk_context *ctx, const json_t *config, const char *where, const fk_model_options *options,
                           fk_checkpoint *checkpoint, fk_model **out) {
  fk_json root = fk_json_root(config, where);
  fk_model *model = calloc(1, sizeof *model);
  if (!model) {
    fk_checkpoint_close(checkpoint);
    return fk_fail(FK_ERROR_MEMORY, "%s: cannot allocate a model", where);
  }
  fk_arena_init(&model->arena, &fk_host_memory, ctx->backend == FK_META ? 0 : WEIGHT_CHUNK);
  if (ctx->cuda) fk_arena_init(&model->device, fk_cuda_memory(ctx->cuda), DEVICE_CHUNK);
  model->checkpoint = checkpoint;
  fk_status status = load(ctx, &root, options, checkpoint, model);
  if (status) {
    fk_model_close(model);
    return status;
  }
  *out = model;
  return FK_OK;
}

fk_status fk_model_open_config(fk_context *ctx, const char *json, size_t size, const char *where,
                               const fk_model_options *options, fk_model **model) {
  *model = NULL;
  if (ctx->backend != FK_META && !options->random_weights)
    return fk_fail(FK_ERROR_ARGUMENT,
                   "%s is a configuration without weights: device %s needs a checkpoint folder, or "
                   "random weights",
                   where, fk_backend_name(ctx->backend));
  json_t *root;
  FK_TRY(fk_json_parse(json, size, where, &root));
  fk_status status = open_json(ctx, root, where, options, NULL, model);
  json_decref(root);
  return status;
}

static fk_status open_preset(fk_context *ctx, const char *name, const fk_model_options *options, fk_model **model) {
  char names[1024] = "", where[128];
  for (int i = 0; i < fk_preset_count; i++) {
    if (strcmp(fk_presets[i].name, name) == 0) {
      snprintf(where, sizeof where, "preset %s", name);
      return fk_model_open_config(ctx, fk_presets[i].config_json, strlen(fk_presets[i].config_json), where, options,
                                  model);
    }
    size_t used = strlen(names);
    snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", fk_presets[i].name);
  }
  return fk_fail(FK_ERROR_NOT_FOUND, "%s: neither a model folder nor a preset (%s)", name, names);
}

/* The folder's configuration alone: shapes then come from it. */
static fk_status open_config_file(fk_context *ctx, const char *folder, const fk_model_options *options,
                                  fk_model **model) {
  char path[4096];
  if ((size_t)snprintf(path, sizeof path, "%s/config.json", folder) >= sizeof path)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: the path is too long", folder);
  json_t *config;
  FK_TRY(fk_json_load(path, MAX_CONFIG_BYTES, &config));
  fk_status status = open_json(ctx, config, path, options, NULL, model);
  json_decref(config);
  return status;
}

fk_status fk_model_open(fk_context *ctx, const char *source, const fk_model_options *options, fk_model **model) {
  *model = NULL;
  struct stat st;
  if (stat(source, &st) != 0) {
    if (errno == ENOENT && !strchr(source, '/')) return open_preset(ctx, source, options, model);
    return fk_fail(FK_ERROR_NOT_FOUND, "%s: cannot open: %s", source, strerror(errno));
  }
  if (!S_ISDIR(st.st_mode))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: expected a folder with config.json and weights, got a file", source);
  if (options->random_weights) return open_config_file(ctx, source, options, model);
  fk_checkpoint *checkpoint;
  fk_status status = fk_checkpoint_open(source, &checkpoint);
  if (status == FK_ERROR_NOT_FOUND && ctx->backend == FK_META) return open_config_file(ctx, source, options, model);
  FK_TRY(status);
  fk_json root = fk_checkpoint_config(checkpoint);
  return open_json(ctx, root.node, root.where, options, checkpoint, model);
}

void fk_model_close(fk_model *model) {
  if (!model) return;
  fk_checkpoint_close(model->checkpoint);
  fk_arena_destroy(&model->arena);
  fk_arena_destroy(&model->device);
  free(model);
}

fk_status fk_model_forward(fk_context *ctx, const fk_model *model, const fk_tensors *inputs, fk_tensors *outputs) {
  outputs->count = 0;
  if (!model->class->forward)
    return fk_fail(FK_ERROR_UNSUPPORTED, "%s: the model has no forward()", model->class->name);
  fk_status status = model->class->sequence ? model->class->forward(ctx, model, inputs, outputs)
                                            : fk_forward_run(ctx, model, inputs, outputs);
  if (status) outputs->count = 0;
  return status;
}
