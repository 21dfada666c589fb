/* ConvNeXt V2: see MODEL.md. */
#include <stdio.h>
#include <string.h>

#include "engine/loader.h"

enum { MAX_STAGES = 16, MAX_DEPTH = 1024, NAME_SIZE = 96 };

/* A stage's blocks are stored as one tensor per kind of weight, block after block. */
typedef struct stage {
  int64_t depth, dim;
  fk_tensor *down_norm, *down_norm_bias, *down, *down_bias; /* NULL in the first stage */
  fk_tensor *dwconv, *dwconv_bias, *norm, *norm_bias, *pwconv1, *pwconv1_bias, *grn, *grn_bias, *pwconv2, *pwconv2_bias;
} stage;

typedef struct convnextv2 {
  int64_t num_channels, patch_size, num_labels;
  int num_stages;
  double pool_epsilon;
  fk_type dtype;
  fk_tensor *patches, *patches_bias, *patches_norm, *patches_norm_bias, *norm, *norm_bias;
  fk_tensor *classifier, *classifier_bias; /* NULL for ConvNextV2Model, and with no labels */
  bool classifies;
  stage stages[MAX_STAGES];
} convnextv2;

/* Of all norms but the last: fixed in the reference, not in the configuration. */
static const double epsilon = 1e-6;

enum { CLASSIFIER, BASE_MODEL };
static const char *const architectures[] = {"ConvNextV2ForImageClassification", "ConvNextV2Model", NULL};

/* ---- Configuration --------------------------------------------------------------------------------------- */

/* One positive integer per stage. */
static fk_status read_list(fk_loader *l, const char *key, const double *otherwise, int64_t max, double *values,
                           int *count) {
  FK_TRY(fk_config_floats(l, key, MAX_STAGES, values, count));
  if (!fk_config_has(l, key)) {
    *count = 4;
    memcpy(values, otherwise, 4 * sizeof *values);
  }
  for (int i = 0; i < *count; i++)
    if (!(values[i] >= 1 && values[i] <= (double)max) || values[i] != (double)(int64_t)values[i])
      return fk_config_fail(l, key, "expected integers from 1 to %lld, got %g", (long long)max, values[i]);
  return FK_OK;
}

static fk_status read_stages(fk_loader *l, convnextv2 *m) {
  static const double tiny_dims[] = {96, 192, 384, 768}, tiny_depths[] = {3, 3, 9, 3};
  double dims[MAX_STAGES], depths[MAX_STAGES];
  int num_dims, num_depths;
  int64_t stages;
  FK_TRY(fk_config_int_or(l, "num_stages", 1, MAX_STAGES, 4, &stages));
  FK_TRY(read_list(l, "hidden_sizes", tiny_dims, 1 << 20, dims, &num_dims));
  FK_TRY(read_list(l, "depths", tiny_depths, MAX_DEPTH, depths, &num_depths));
  if (num_dims != stages)
    return fk_config_fail(l, "hidden_sizes", "expected %lld sizes, one per stage (num_stages), got %d",
                          (long long)stages, num_dims);
  if (num_depths != stages)
    return fk_config_fail(l, "depths", "expected %lld depths, one per stage (num_stages), got %d", (long long)stages,
                          num_depths);
  m->num_stages = (int)stages;
  for (int i = 0; i < m->num_stages; i++) m->stages[i] = (stage){.dim = (int64_t)dims[i], .depth = (int64_t)depths[i]};
  return FK_OK;
}

/* Published configurations do not count their labels, they name them: id2label {"0": ..., "1": ...}. */
static fk_status read_labels(fk_loader *l, int64_t *count) {
  char key[48];
  int64_t named = 0;
  do snprintf(key, sizeof key, "id2label.%lld", (long long)named);
  while (fk_config_has(l, key) && ++named);
  if (fk_config_has(l, "id2label") && !named)
    return fk_config_fail(l, "id2label", "expected an object that names labels from \"0\" on");
  return fk_config_int_or(l, "num_labels", 0, 1 << 24, named ? named : 2, count);
}

static fk_status read_config(fk_loader *l, convnextv2 *m) {
  static const char *const gelu[] = {"gelu", NULL};
  int activation;
  FK_TRY(fk_config_int_or(l, "num_channels", 1, 1 << 16, 3, &m->num_channels));
  FK_TRY(fk_config_int_or(l, "patch_size", 1, 1 << 12, 4, &m->patch_size));
  FK_TRY(fk_config_enum(l, "hidden_act", gelu, 0, &activation));
  FK_TRY(fk_config_float_or(l, "layer_norm_eps", 0, 1, 1e-12, &m->pool_epsilon));
  FK_TRY(read_stages(l, m));
  m->classifies = fk_loader_architecture(l) == CLASSIFIER;
  m->dtype = fk_loader_dtype(l);
  return m->classifies ? read_labels(l, &m->num_labels) : FK_OK;
}

/* ---- Weights --------------------------------------------------------------------------------------------- */

#define SHAPE(...) (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__)

/* The same weight of all blocks of a stage, one after the other. */
static fk_status stacked(fk_loader *l, fk_tensor **t, const char *place, const stage *s, const char *kind, int64_t rows,
                         const int64_t *inner, int32_t inner_ndim) {
  int64_t *each = fk_arena_calloc(fk_loader_arena(l), (size_t)s->depth, sizeof *each);
  char(*names)[NAME_SIZE] = fk_arena_calloc(fk_loader_arena(l), (size_t)s->depth, sizeof *names);
  const char **list = fk_arena_calloc(fk_loader_arena(l), (size_t)s->depth, sizeof *list);
  if (!each || !names || !list) return FK_ERROR_MEMORY;
  for (int64_t i = 0; i < s->depth; i++) {
    snprintf(names[i], sizeof names[i], "%s.layers.%lld.%s", place, (long long)i, kind);
    list[i] = names[i];
    each[i] = rows;
  }
  return fk_weight_concat(l, t, list, each, (int)s->depth, inner, inner_ndim);
}

static fk_status load_blocks(fk_loader *l, const char *place, stage *s) {
  int64_t dim = s->dim, inner = 4 * dim;
  FK_TRY(stacked(l, &s->dwconv, place, s, "dwconv.weight", dim, SHAPE(1, 7, 7)));
  FK_TRY(stacked(l, &s->dwconv_bias, place, s, "dwconv.bias", dim, NULL, 0));
  FK_TRY(stacked(l, &s->norm, place, s, "layernorm.weight", dim, NULL, 0));
  FK_TRY(stacked(l, &s->norm_bias, place, s, "layernorm.bias", dim, NULL, 0));
  FK_TRY(stacked(l, &s->pwconv1, place, s, "pwconv1.weight", inner, SHAPE(dim)));
  FK_TRY(stacked(l, &s->pwconv1_bias, place, s, "pwconv1.bias", inner, NULL, 0));
  FK_TRY(stacked(l, &s->pwconv2, place, s, "pwconv2.weight", dim, SHAPE(inner)));
  return stacked(l, &s->pwconv2_bias, place, s, "pwconv2.bias", dim, NULL, 0);
}

/* Stored as [1, 1, 1, channels] of each block, which joined is [depth, 1, 1, channels]: used as a vector. */
static fk_status load_grn(fk_loader *l, const char *place, stage *s, const char *kind, fk_tensor **t) {
  int64_t channels = 4 * s->dim;
  FK_TRY(stacked(l, t, place, s, kind, 1, SHAPE(1, 1, channels)));
  (*t)->ndim = 1;
  (*t)->shape[0] = s->depth * channels;
  if ((*t)->strides) (*t)->strides[0] = 1;
  return FK_OK;
}

static fk_status load_stage(fk_loader *l, convnextv2 *m, const char *prefix, int i) {
  char place[NAME_SIZE / 2];
  stage *s = &m->stages[i];
  snprintf(place, sizeof place, "%sencoder.stages.%d", prefix, i);
  if (i > 0) {
    int64_t from = m->stages[i - 1].dim;
    FK_TRY(fk_weight(l, &s->down_norm, SHAPE(from), "%s.downsampling_layer.0.weight", place));
    FK_TRY(fk_weight(l, &s->down_norm_bias, SHAPE(from), "%s.downsampling_layer.0.bias", place));
    FK_TRY(fk_weight(l, &s->down, SHAPE(s->dim, from, 2, 2), "%s.downsampling_layer.1.weight", place));
    FK_TRY(fk_weight(l, &s->down_bias, SHAPE(s->dim), "%s.downsampling_layer.1.bias", place));
  }
  FK_TRY(load_blocks(l, place, s));
  FK_TRY(load_grn(l, place, s, "grn.weight", &s->grn));
  return load_grn(l, place, s, "grn.bias", &s->grn_bias);
}

static fk_status load(fk_loader *l, void *state) {
  convnextv2 *m = state;
  FK_TRY(read_config(l, m));
  /* A checkpoint of ConvNextV2Model itself has no "convnextv2." before its names. */
  const char *prefix = fk_weight_exists(l, "layernorm.weight") ? "" : "convnextv2.";
  int64_t first = m->stages[0].dim, last = m->stages[m->num_stages - 1].dim, patch = m->patch_size;
  FK_TRY(fk_weight(l, &m->patches, SHAPE(first, m->num_channels, patch, patch), "%sembeddings.patch_embeddings.weight",
                   prefix));
  FK_TRY(fk_weight(l, &m->patches_bias, SHAPE(first), "%sembeddings.patch_embeddings.bias", prefix));
  FK_TRY(fk_weight(l, &m->patches_norm, SHAPE(first), "%sembeddings.layernorm.weight", prefix));
  FK_TRY(fk_weight(l, &m->patches_norm_bias, SHAPE(first), "%sembeddings.layernorm.bias", prefix));
  for (int i = 0; i < m->num_stages; i++) FK_TRY(load_stage(l, m, prefix, i));
  FK_TRY(fk_weight(l, &m->norm, SHAPE(last), "%slayernorm.weight", prefix));
  FK_TRY(fk_weight(l, &m->norm_bias, SHAPE(last), "%slayernorm.bias", prefix));
  if (!m->classifies || m->num_labels == 0) {
    fk_weight_ignore(l, "classifier.weight"); /* the base model of a classifier's checkpoint */
    fk_weight_ignore(l, "classifier.bias");
    return FK_OK;
  }
  FK_TRY(fk_weight(l, &m->classifier, SHAPE(m->num_labels, last), "classifier.weight"));
  return fk_weight(l, &m->classifier_bias, SHAPE(m->num_labels), "classifier.bias");
}

/* ---- Running --------------------------------------------------------------------------------------------- */

static fk_status read_inputs(const convnextv2 *m, const fk_tensors *inputs, fk_tensor **pixels) {
  for (int i = 0; i < inputs->count; i++)
    if (strcmp(inputs->items[i].name, "pixel_values") != 0)
      return fk_fail(FK_ERROR_ARGUMENT, "%s: unknown input; expected pixel_values", inputs->items[i].name);
  fk_tensor *t = *pixels = fk_tensors_get(inputs, "pixel_values");
  if (!t) return fk_fail(FK_ERROR_ARGUMENT, "pixel_values: the input is missing");
  if (fk_type_of(t) != m->dtype)
    return fk_fail(FK_ERROR_ARGUMENT, "pixel_values: expected the model's dtype, %s, got %s", fk_type_name(m->dtype),
                   fk_type_name(fk_type_of(t)));
  if (t->ndim != 4)
    return fk_fail(FK_ERROR_ARGUMENT,
                   "pixel_values: expected shape [batch, channels, height, width], got %d dimensions", t->ndim);
  if (t->shape[1] != m->num_channels)
    return fk_fail(FK_ERROR_ARGUMENT, "pixel_values: expected %lld channels, got %lld", (long long)m->num_channels,
                   (long long)t->shape[1]);
  int64_t least = m->patch_size << (m->num_stages - 1);
  if (t->shape[2] < least || t->shape[3] < least)
    return fk_fail(FK_ERROR_ARGUMENT, "pixel_values: expected images of at least %lldx%lld pixels, got %lldx%lld",
                   (long long)least, (long long)least, (long long)t->shape[2], (long long)t->shape[3]);
  return FK_OK;
}

static fk_status run_stage(fk_context *ctx, const stage *s, const fk_tensor *x, fk_tensor *out) {
  return fk_call(ctx, "convnextv2_stage", x, s->down_norm, s->down_norm_bias, s->down, s->down_bias, s->dwconv,
                 s->dwconv_bias, s->norm, s->norm_bias, s->pwconv1, s->pwconv1_bias, s->grn, s->grn_bias, s->pwconv2,
                 s->pwconv2_bias, s->depth, epsilon, out);
}

static fk_status put(fk_context *ctx, fk_tensors *outputs, const char *name, fk_tensor *t) {
  FK_TRY(fk_move_to_host(ctx, &t));
  return fk_tensors_put(outputs, name, t);
}

/* Last hidden state, channels last. */
static fk_status encode(fk_context *ctx, const convnextv2 *m, const fk_tensor *pixels, fk_tensor **hidden) {
  int64_t batch = pixels->shape[0], height = pixels->shape[2] / m->patch_size, width = pixels->shape[3] / m->patch_size;
  fk_tensor *x = fk_empty(ctx, m->dtype, batch, height, width, m->stages[0].dim);
  FK_TRY(fk_call(ctx, "convnextv2_embeddings", pixels, m->patches, m->patches_bias, m->patches_norm,
                 m->patches_norm_bias, epsilon, x));
  for (int i = 0; i < m->num_stages; i++, x = *hidden) {
    if (i > 0) height /= 2, width /= 2;
    *hidden = fk_empty(ctx, m->dtype, batch, height, width, m->stages[i].dim);
    FK_TRY(run_stage(ctx, &m->stages[i], x, *hidden));
  }
  return FK_OK;
}

static fk_status forward(fk_context *ctx, const fk_model *model, const fk_tensors *inputs, fk_tensors *outputs) {
  const convnextv2 *m = model->state;
  fk_tensor *pixels = NULL, *hidden = NULL;
  FK_TRY(read_inputs(m, inputs, &pixels));
  FK_TRY(fk_move_to_device(ctx, &pixels));
  FK_TRY(encode(ctx, m, pixels, &hidden));
  int64_t batch = hidden->shape[0], height = hidden->shape[1], width = hidden->shape[2], dim = hidden->shape[3];
  fk_tensor *pooled = fk_empty(ctx, m->dtype, batch, dim);
  FK_TRY(fk_call(ctx, "global_avg_pool2d", hidden, pooled));
  FK_TRY(fk_call(ctx, "layer_norm", pooled, m->norm, m->norm_bias, m->pool_epsilon, pooled));
  if (!m->classifies) {
    fk_tensor *last = fk_empty(ctx, m->dtype, batch, dim, height, width);
    FK_TRY(fk_call(ctx, "nhwc_to_nchw", hidden, last));
    FK_TRY(put(ctx, outputs, "last_hidden_state", last));
    return put(ctx, outputs, "pooler_output", pooled);
  }
  if (!m->classifier) return put(ctx, outputs, "logits", pooled);
  fk_tensor *logits = fk_empty(ctx, m->dtype, batch, m->num_labels);
  FK_TRY(fk_call(ctx, "linear", pooled, m->classifier, m->classifier_bias, logits));
  return put(ctx, outputs, "logits", logits);
}

static const fk_model_input model_inputs[] = {{"pixel_values", "batch num_channels height width", true}, {0}};

const fk_model_class fk_model_convnextv2 = {
    .name = "convnextv2",
    .category = "Edge & Detection",
    .summary = "Convolutional image classifier of depthwise 7x7 blocks with global response normalisation",
    .architectures = architectures,
    .state_size = sizeof(convnextv2),
    .load = load,
    .forward = forward,
    .inputs = model_inputs,
};
