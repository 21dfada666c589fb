/* DLRM and DLRMv2: see MODEL.md. */
#include <stdio.h>
#include <string.h>

#include "core/convert.h"
#include "core/kernel.h"
#include "engine/loader.h"

enum { MAX_FEATURES = 1024, MAX_LAYERS = 32, NAME_SIZE = 96, PARALLEL = 1 << 16 };

typedef struct layer {
  fk_tensor *weight, *bias; /* [out, in], [out] */
} layer;

typedef struct stack {
  int count;
  double sizes[MAX_LAYERS]; /* outputs of each layer */
  layer layers[MAX_LAYERS];
} stack;

typedef struct dlrm {
  int64_t dense_in, dim, cross_layers, cross_rank;
  int num_features, pooling;
  bool crosses, weighted;
  fk_type dtype;
  const char *prefix; /* of all weights' names */
  double rows[MAX_FEATURES], multi_hot[MAX_FEATURES];
  fk_tensor *tables[MAX_FEATURES];
  fk_tensor *cross_v, *cross_w, *cross_bias; /* all layers', one after the other; NULL with dot products */
  stack dense, over;
} dlrm;

enum { DOT, CROSS };
static const char *const architectures[] = {"DLRM", "DLRM_DCN", NULL};

#define SHAPE(...) (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__)

/* ---- Configuration --------------------------------------------------------------------------------------- */

/* A list of integers from least to most; absent: *count = 0. */
static fk_status read_list(fk_loader *l, const char *key, int limit, double least, double most, double *values,
                           int *count) {
  FK_TRY(fk_config_floats(l, key, limit, values, count));
  for (int i = 0; i < *count; i++)
    if (!(values[i] >= least && values[i] <= most) || values[i] != (double)(int64_t)values[i])
      return fk_config_fail(l, key, "expected integers from %.0f to %.0f, got %g", least, most, values[i]);
  return FK_OK;
}

static fk_status read_features(fk_loader *l, dlrm *m) {
  int hot;
  FK_TRY(read_list(l, "num_embeddings_per_feature", MAX_FEATURES, 1, 1LL << 40, m->rows, &m->num_features));
  if (m->num_features == 0)
    return fk_config_fail(l, "num_embeddings_per_feature", "expected the number of rows of each feature's table");
  FK_TRY(read_list(l, "multi_hot_sizes", MAX_FEATURES, 1, 1 << 20, m->multi_hot, &hot));
  if (fk_config_has(l, "multi_hot_sizes") && hot != m->num_features)
    return fk_config_fail(l, "multi_hot_sizes",
                          "expected %d sizes, one per feature (num_embeddings_per_feature), got %d", m->num_features,
                          hot);
  for (; hot < m->num_features; hot++) m->multi_hot[hot] = 1;
  return FK_OK;
}

static fk_status read_layers(fk_loader *l, const char *key, int least, stack *s) {
  FK_TRY(read_list(l, key, MAX_LAYERS, 1, 1 << 24, s->sizes, &s->count));
  if (s->count < least) return fk_config_fail(l, key, "expected at least %d layer sizes, got %d", least, s->count);
  return FK_OK;
}

static fk_status read_config(fk_loader *l, dlrm *m) {
  static const char *const poolings[] = {"SUM", "MEAN", NULL};
  m->crosses = fk_loader_architecture(l) == CROSS;
  m->dtype = fk_loader_dtype(l);
  FK_TRY(fk_config_int_or(l, "dense_in_features", 1, 1 << 24, 13, &m->dense_in));
  FK_TRY(fk_config_int(l, "embedding_dim", 1, 1 << 20, &m->dim));
  FK_TRY(read_features(l, m));
  FK_TRY(read_layers(l, "dense_arch_layer_sizes", 1, &m->dense));
  FK_TRY(read_layers(l, "over_arch_layer_sizes", 2, &m->over));
  if ((int64_t)m->dense.sizes[m->dense.count - 1] != m->dim)
    return fk_config_fail(l, "dense_arch_layer_sizes", "expected the last one to be embedding_dim, %lld, got %.0f",
                          (long long)m->dim, m->dense.sizes[m->dense.count - 1]);
  FK_TRY(fk_config_enum(l, "pooling", poolings, 0, &m->pooling));
  FK_TRY(fk_config_bool_or(l, "is_weighted", false, &m->weighted));
  if (!m->crosses) return FK_OK;
  FK_TRY(fk_config_int_or(l, "dcn_num_layers", 1, MAX_LAYERS, 3, &m->cross_layers));
  return fk_config_int_or(l, "dcn_low_rank_dim", 1, 1 << 20, 512, &m->cross_rank);
}

/* ---- Weights --------------------------------------------------------------------------------------------- */

static fk_status load_layer(fk_loader *l, const dlrm *m, layer *to, int64_t out, int64_t in, const char *place) {
  FK_TRY(fk_weight(l, &to->weight, SHAPE(out, in), "%s%s.weight", m->prefix, place));
  return fk_weight(l, &to->bias, SHAPE(out), "%s%s.bias", m->prefix, place);
}

/* Perceptrons PLACE._mlp.0._linear, ...; the last layer is a plain linear one of its own name unless NULL. */
static fk_status load_stack(fk_loader *l, const dlrm *m, stack *s, int64_t in, const char *place, const char *last) {
  char name[NAME_SIZE];
  for (int i = 0; i < s->count; i++) {
    int64_t out = (int64_t)s->sizes[i];
    snprintf(name, sizeof name, "%s._mlp.%d._linear", place, i);
    FK_TRY(load_layer(l, m, &s->layers[i], out, in, last && i + 1 == s->count ? last : name));
    in = out;
  }
  return FK_OK;
}

/* One kind of weight of all cross layers, joined. */
static fk_status load_cross(fk_loader *l, const dlrm *m, const char *kind, int64_t rows, int64_t columns,
                            fk_tensor **t) {
  char names[MAX_LAYERS][NAME_SIZE];
  const char *list[MAX_LAYERS];
  int64_t each[MAX_LAYERS];
  for (int i = 0; i < m->cross_layers; i++) {
    snprintf(names[i], sizeof names[i], "%sinter_arch.crossnet.%s.%d", m->prefix, kind, i);
    list[i] = names[i];
    each[i] = rows;
  }
  return fk_weight_concat(l, t, list, each, (int)m->cross_layers, &columns, columns ? 1 : 0);
}

static fk_status load(fk_loader *l, void *state) {
  dlrm *m = state;
  FK_TRY(read_config(l, m));
  int64_t features = m->num_features, wide = (features + 1) * m->dim;
  int64_t interactions = m->crosses ? wide : m->dim + features * (features + 1) / 2;
  /* A checkpoint of the training wrapper, DLRMTrain, has the network as its member "model". */
  m->prefix = fk_weight_exists(l, "model.dense_arch.model._mlp.0._linear.weight") ? "model." : "";
  for (int i = 0; i < m->num_features; i++)
    FK_TRY(fk_weight(l, &m->tables[i], SHAPE((int64_t)m->rows[i], m->dim),
                     "%ssparse_arch.embedding_bag_collection.embedding_bags.t_cat_%d.weight", m->prefix, i));
  FK_TRY(load_stack(l, m, &m->dense, m->dense_in, "dense_arch.model", NULL));
  FK_TRY(load_stack(l, m, &m->over, interactions, "over_arch.model.0", "over_arch.model.1"));
  fk_weight_ignore(l, "%sinter_arch.triu_indices", m->prefix); /* which pairs: constants that old releases stored */
  if (!m->crosses) return FK_OK;
  FK_TRY(load_cross(l, m, "V_kernels", m->cross_rank, wide, &m->cross_v));
  FK_TRY(load_cross(l, m, "W_kernels", wide, m->cross_rank, &m->cross_w));
  return load_cross(l, m, "bias", wide, 0, &m->cross_bias);
}

/* ---- Inputs ---------------------------------------------------------------------------------------------- */

typedef struct batch {
  int64_t size;
  fk_tensor *dense, *values, *offsets, *weights; /* weights may be NULL; both float tensors of the model's dtype */
} batch;

/* In the model's dtype and on its device. */
static fk_status take_floats(fk_context *ctx, fk_type dtype, fk_tensor **t) {
  bool movable = !*t || !ctx->cuda || fk_is_contiguous(*t);
  if (!*t || (fk_type_of(*t) == dtype && movable)) return fk_move_to_device(ctx, t);
  fk_tensor *from = *t, *to = fk_host_shape(ctx, dtype, from->shape, from->ndim);
  if (!to) return FK_ERROR_MEMORY;
  *t = to;
  if (fk_context_backend(ctx) == FK_META) return FK_OK;
  FK_TRY(fk_copy(from, to));
  return fk_move_to_device(ctx, t);
}

static fk_status check_kind(const char *name, const fk_tensor *t, int32_t ndim, bool floats) {
  if (!t) return fk_fail(FK_ERROR_ARGUMENT, "%s: the input is missing", name);
  fk_type type = fk_type_of(t);
  if (floats ? !fk_type_is_float(type) : type != FK_I32 && type != FK_I64)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: expected %s, got %s", name, floats ? "floats" : "int32 or int64",
                   fk_type_name(type));
  if (t->ndim != ndim || (!floats && !fk_is_contiguous(t)))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: expected %d contiguous dimension%s, got %d", name, ndim, ndim > 1 ? "s" : "",
                   t->ndim);
  return FK_OK;
}

/* An offset: int32 or int64, as check_kind has made sure. */
static inline int64_t offset_at(const fk_tensor *t, int64_t i) {
  return fk_type_of(t) == FK_I64 ? ((const int64_t *)fk_data(t))[i] : ((const int32_t *)fk_data(t))[i];
}

static fk_status check_offsets(const dlrm *m, const batch *b) {
  int64_t count = m->num_features * b->size, wrong = 0;
#pragma omp parallel for reduction(+ : wrong) if (count > PARALLEL)
  for (int64_t i = 0; i < count; i++) wrong += offset_at(b->offsets, i) > offset_at(b->offsets, i + 1);
  for (int64_t i = 0, last = 0; i <= count && (wrong || i == 0); last = offset_at(b->offsets, i++)) {
    int64_t x = offset_at(b->offsets, i);
    if (i == 0 ? x != 0 : x < last)
      return fk_fail(FK_ERROR_ARGUMENT, "sparse_offsets[%lld]: expected %s%lld, got %lld", (long long)i,
                     i == 0 ? "" : "at least ", (long long)last, (long long)x);
  }
  int64_t last = offset_at(b->offsets, count);
  if (last == b->values->shape[0]) return FK_OK;
  return fk_fail(FK_ERROR_ARGUMENT,
                 "sparse_offsets: expected the last one to be the number of sparse_values, %lld, got %lld",
                 (long long)b->values->shape[0], (long long)last);
}

static fk_status check_inputs(const dlrm *m, const batch *b) {
  FK_TRY(check_kind("dense_features", b->dense, 2, true));
  FK_TRY(check_kind("sparse_offsets", b->offsets, 1, false));
  FK_TRY(check_kind("sparse_values", b->values, 1, false));
  if (b->dense->shape[1] != m->dense_in)
    return fk_fail(FK_ERROR_ARGUMENT, "dense_features: expected shape [batch, %lld], got [%lld, %lld]",
                   (long long)m->dense_in, (long long)b->dense->shape[0], (long long)b->dense->shape[1]);
  if (b->offsets->shape[0] != m->num_features * b->size + 1)
    return fk_fail(FK_ERROR_ARGUMENT, "sparse_offsets: expected %d features * %lld samples + 1 offsets, got %lld",
                   m->num_features, (long long)b->size, (long long)b->offsets->shape[0]);
  if (!m->weighted) {
    if (b->weights) return fk_fail(FK_ERROR_ARGUMENT, "sparse_weights: the configuration does not say is_weighted");
    return FK_OK;
  }
  FK_TRY(check_kind("sparse_weights", b->weights, 1, true));
  if (b->weights->shape[0] != b->values->shape[0])
    return fk_fail(FK_ERROR_ARGUMENT, "sparse_weights: expected one per value, %lld, got %lld",
                   (long long)b->values->shape[0], (long long)b->weights->shape[0]);
  return FK_OK;
}

static fk_status read_inputs(fk_context *ctx, const dlrm *m, const fk_tensors *inputs, batch *b) {
  static const char *const names[] = {"dense_features", "sparse_offsets", "sparse_values", "sparse_weights"};
  fk_tensor **const slots[] = {&b->dense, &b->offsets, &b->values, &b->weights};
  *b = (batch){0};
  for (int i = 0; i < inputs->count; i++) {
    int k = 0;
    while (k < 4 && strcmp(inputs->items[i].name, names[k]) != 0) k++;
    if (k == 4)
      return fk_fail(FK_ERROR_ARGUMENT,
                     "%s: unknown input; expected dense_features, sparse_offsets, sparse_values or sparse_weights",
                     inputs->items[i].name);
    *slots[k] = inputs->items[i].tensor;
  }
  b->size = b->dense && b->dense->ndim > 0 ? b->dense->shape[0] : 0;
  FK_TRY(check_inputs(m, b));
  /* On meta only the shapes count. */
  if (fk_context_backend(ctx) != FK_META) FK_TRY(check_offsets(m, b));
  FK_TRY(take_floats(ctx, m->dtype, &b->dense));
  FK_TRY(fk_move_to_device(ctx, &b->values));
  return take_floats(ctx, m->dtype, &b->weights);
}

/* ---- Sparse features ------------------------------------------------------------------------------------- */

/* Where the values of feature f begin when offsets have no content: shared out by multi_hot_sizes. */
static int64_t expected_start(const dlrm *m, int64_t count, int f) {
  int64_t before = 0, all = 0;
  for (int i = 0; i < m->num_features; i++) {
    before += i < f ? (int64_t)m->multi_hot[i] : 0;
    all += (int64_t)m->multi_hot[i];
  }
  return (int64_t)((double)count * (double)before / (double)all);
}

/* Where the values of feature f begin. */
static int64_t start_of(fk_context *ctx, const dlrm *m, const batch *b, int f) {
  if (fk_context_backend(ctx) == FK_META) return expected_start(m, b->values->shape[0], f);
  return offset_at(b->offsets, f * b->size);
}

/* [features, batch + 1]: offsets that begin with 0 in every feature, carried over together. On meta: bags of equal
 * lengths. */
static fk_status feature_offsets(fk_context *ctx, const dlrm *m, const batch *b, fk_tensor **out) {
  bool meta = fk_context_backend(ctx) == FK_META;
  *out = fk_host(ctx, FK_I64, m->num_features, b->size + 1);
  if (!*out) return FK_ERROR_MEMORY;
  int64_t *all = (*out)->data;
#pragma omp parallel for if (m->num_features * b->size > PARALLEL)
  for (int f = 0; f < m->num_features; f++) {
    int64_t start = start_of(ctx, m, b, f), length = start_of(ctx, m, b, f + 1) - start;
    int64_t *offsets = all + f * (b->size + 1);
    for (int64_t i = 0; i <= b->size && !meta; i++) offsets[i] = offset_at(b->offsets, f * b->size + i) - start;
    for (int64_t i = 0; i <= b->size && meta; i++) offsets[i] = b->size ? length * i / b->size : 0;
  }
  return fk_move_to_device(ctx, out);
}

/* Pooled embeddings beside the dense features: columns from dim on of combined [batch, (features + 1) * dim]. On meta
 * values have no content. */
static fk_status embed(fk_context *ctx, const dlrm *m, const batch *b, const fk_tensor *combined) {
  bool meta = fk_context_backend(ctx) == FK_META;
  fk_tensor *offsets;
  FK_TRY(feature_offsets(ctx, m, b, &offsets));
  for (int f = 0; f < m->num_features; f++) {
    int64_t start = start_of(ctx, m, b, f), length = start_of(ctx, m, b, f + 1) - start;
    fk_tensor *values = meta ? fk_wrap(ctx, NULL, fk_type_of(b->values), SHAPE(length), NULL)
                             : fk_slice(ctx, b->values, 0, start, length);
    fk_tensor *bags = fk_view(ctx, fk_slice(ctx, offsets, 0, f, 1), b->size + 1);
    fk_status status = fk_call(ctx, "embedding_bag", values, bags, fk_slice(ctx, b->weights, 0, start, length),
                               m->tables[f], m->pooling, fk_slice(ctx, combined, 1, (f + 1) * m->dim, m->dim));
    if (status) return fk_fail_in(status, "sparse_values of feature %d", f);
  }
  return FK_OK;
}

/* ---- Running --------------------------------------------------------------------------------------------- */

/* Perceptrons, but for the last layer of a stack that ends in a linear one. */
static fk_status run_stack(fk_context *ctx, const stack *s, bool last_linear, const fk_tensor *x,
                           const fk_tensor *out) {
  for (int i = 0; i < s->count; i++) {
    bool last = i + 1 == s->count;
    const layer *y = &s->layers[i];
    const fk_tensor *to = last ? out : fk_empty(ctx, fk_type_of(x), fk_size(x, 0), (int64_t)s->sizes[i]);
    FK_TRY(fk_call(ctx, last && last_linear ? "linear" : "perceptron", x, y->weight, y->bias, to));
    x = to;
  }
  return FK_OK;
}

static fk_status interact(fk_context *ctx, const dlrm *m, const fk_tensor *combined, fk_tensor **out) {
  int64_t size = fk_size(combined, 0), vectors = m->num_features + 1;
  if (m->crosses) {
    *out = fk_empty_like(ctx, combined);
    return fk_call(ctx, "low_rank_cross_net", combined, m->cross_v, m->cross_w, m->cross_bias, m->cross_layers, *out);
  }
  *out = fk_empty(ctx, m->dtype, size, m->dim + vectors * (vectors - 1) / 2);
  fk_tensor *rows = fk_view(ctx, combined, size, vectors, m->dim);
  return fk_call(ctx, "dot_interaction", fk_slice(ctx, combined, 1, 0, m->dim), fk_slice(ctx, rows, 1, 1, vectors - 1),
                 *out);
}

static fk_status forward(fk_context *ctx, const fk_model *model, const fk_tensors *inputs, fk_tensors *outputs) {
  const dlrm *m = model->state;
  batch b;
  fk_tensor *interactions;
  FK_TRY(read_inputs(ctx, m, inputs, &b));
  fk_tensor *combined = fk_empty(ctx, m->dtype, b.size, (m->num_features + 1) * m->dim);
  fk_tensor *logits = fk_empty(ctx, m->dtype, b.size, (int64_t)m->over.sizes[m->over.count - 1]);
  FK_TRY(run_stack(ctx, &m->dense, false, b.dense, fk_slice(ctx, combined, 1, 0, m->dim)));
  FK_TRY(embed(ctx, m, &b, combined));
  FK_TRY(interact(ctx, m, combined, &interactions));
  FK_TRY(run_stack(ctx, &m->over, true, interactions, logits));
  FK_TRY(fk_move_to_host(ctx, &logits));
  return fk_tensors_put(outputs, "logits", logits);
}

static const fk_model_input model_inputs[] = {{"dense_features", "batch dense_in_features", true},
                                              {"sparse_offsets", "num_offsets", false},
                                              {"sparse_values", "num_values", false},
                                              {"sparse_weights", "num_values", true},
                                              {0}};

const fk_model_class fk_model_dlrmv2 = {
    .name = "dlrmv2",
    .category = "Recommendation & Specialized",
    .summary = "Click prediction from dense features and pooled embeddings, joined by dot products or a cross network",
    .architectures = architectures,
    .state_size = sizeof(dlrm),
    .load = load,
    .forward = forward,
    .inputs = model_inputs,
};
