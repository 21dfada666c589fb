/* Mamba-2: see MODEL.md. */
#include <math.h>
#include <stdio.h>

#include "core/convert.h"
#include "engine/loader.h"
#include "engine/step.h"

typedef struct layer {
  fk_tensor *input_norm, *in_proj, *in_bias, *conv, *conv_bias, *A, *D, *dt_bias, *norm, *out_proj, *out_bias;
} layer;

typedef struct mamba2 {
  int64_t vocab_size, hidden_size, num_layers, num_heads, head_dim, state_size, n_groups, conv_width, chunk_size;
  int64_t max_position;
  double epsilon, dt_min, dt_max;
  bool use_bias, conv_bias, tied;
  fk_type dtype, state_type;         /* states stay in float32 whatever the weights are in */
  fk_tensor *embed, *norm, *lm_head; /* lm_head is NULL for Mamba2Model, embed when tied */
  layer *layers;
  char (*cache_names)[2][32];
} mamba2;

/* UNLIMITED: there are no positions, so nothing bounds a sequence but this. */
enum { CAUSAL_LM, BASE_MODEL, UNLIMITED = 1 << 30 };
static const char *const architectures[] = {"Mamba2ForCausalLM", "Mamba2Model", NULL};

/* ---- Loading --------------------------------------------------------------------------------------------- */

static fk_status read_limits(fk_loader *l, mamba2 *m) {
  double limit[2] = {0, m->dt_max};
  int count;
  FK_TRY(fk_config_floats(l, "time_step_limit", 2, limit, &count));
  if (count == 1 || !(limit[0] >= 0 && limit[0] <= limit[1]))
    return fk_config_fail(l, "time_step_limit", "expected two numbers, 0 <= smallest <= largest");
  m->dt_min = limit[0];
  m->dt_max = limit[1];
  return FK_OK;
}

static fk_status read_config(fk_loader *l, mamba2 *m) {
  static const char *const silu[] = {"silu", "swish", NULL};
  int activation;
  int64_t expand;
  m->dt_max = 1.79e308;
  FK_TRY(fk_config_int(l, "vocab_size", 1, 1 << 24, &m->vocab_size));
  FK_TRY(fk_config_int(l, "hidden_size", 1, 1 << 20, &m->hidden_size));
  FK_TRY(fk_config_int(l, "num_hidden_layers", 0, FK_MAX_CACHES / 2, &m->num_layers));
  FK_TRY(fk_config_int(l, "num_heads", 1, 1 << 16, &m->num_heads));
  FK_TRY(fk_config_int(l, "head_dim", 1, 1 << 16, &m->head_dim));
  FK_TRY(fk_config_int(l, "state_size", 1, 1 << 16, &m->state_size));
  FK_TRY(fk_config_int_or(l, "n_groups", 1, m->num_heads, 8, &m->n_groups));
  FK_TRY(fk_config_int_or(l, "conv_kernel", 1, 16, 4, &m->conv_width));
  FK_TRY(fk_config_int_or(l, "chunk_size", 1, 1 << 20, 256, &m->chunk_size));
  FK_TRY(fk_config_int_or(l, "expand", 1, 1 << 16, 2, &expand));
  FK_TRY(fk_config_float_or(l, "layer_norm_epsilon", 0, 1, 1e-5, &m->epsilon));
  FK_TRY(fk_config_bool_or(l, "use_bias", false, &m->use_bias));
  FK_TRY(fk_config_bool_or(l, "use_conv_bias", true, &m->conv_bias));
  FK_TRY(fk_config_bool_or(l, "tie_word_embeddings", false, &m->tied));
  FK_TRY(fk_config_enum(l, "hidden_act", silu, 0, &activation));
  FK_TRY(read_limits(l, m));
  if (m->num_heads * m->head_dim != expand * m->hidden_size)
    return fk_config_fail(l, "num_heads", "expected num_heads * head_dim = expand * hidden_size = %lld, got %lld",
                          (long long)(expand * m->hidden_size), (long long)(m->num_heads * m->head_dim));
  if (m->num_heads % m->n_groups)
    return fk_config_fail(l, "n_groups", "expected a divisor of num_heads, %lld, got %lld", (long long)m->num_heads,
                          (long long)m->n_groups);
  int64_t limit = fk_loader_max_model_len(l);
  m->max_position = limit ? limit : UNLIMITED;
  m->dtype = fk_loader_dtype(l);
  m->state_type = m->dtype == FK_F64 ? FK_F64 : FK_F32;
  return FK_OK;
}

#define SHAPE(...) (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__)

/* A = -exp(A_log), from A_log as it is stored: rounded to bfloat16 first, decays would be off by a per cent. */
static fk_status load_decay(fk_loader *l, const mamba2 *m, const char *mixer, fk_tensor **decay) {
  fk_tensor *log;
  FK_TRY(fk_weight_host(l, &log, m->state_type, SHAPE(m->num_heads), "%s.A_log", mixer));
  FK_TRY(fk_weight_table(l, decay, m->state_type, SHAPE(m->num_heads)));
  for (int64_t i = 0; log->data && (*decay)->data && i < m->num_heads; i++)
    fk_store_f64(m->state_type, (*decay)->data, i, -exp(fk_load_f64(m->state_type, log->data, i)));
  return FK_OK;
}

static fk_status load_layer(fk_loader *l, const mamba2 *m, const char *prefix, layer *y) {
  char mixer[96];
  int64_t inner = m->num_heads * m->head_dim, channels = inner + 2 * m->n_groups * m->state_size;
  int64_t rows = inner + channels + m->num_heads, h = m->hidden_size;
  snprintf(mixer, sizeof mixer, "%s.mixer", prefix);
  FK_TRY(fk_weight(l, &y->input_norm, SHAPE(h), "%s.norm.weight", prefix));
  FK_TRY(fk_weight(l, &y->in_proj, SHAPE(rows, h), "%s.in_proj.weight", mixer));
  FK_TRY(fk_weight(l, &y->conv, SHAPE(channels, 1, m->conv_width), "%s.conv1d.weight", mixer));
  /* Stored as of a grouped convolution, one input channel per filter. */
  y->conv->ndim = 2;
  y->conv->shape[1] = m->conv_width;
  if (m->conv_bias) FK_TRY(fk_weight(l, &y->conv_bias, SHAPE(channels), "%s.conv1d.bias", mixer));
  FK_TRY(load_decay(l, m, mixer, &y->A));
  FK_TRY(fk_weight(l, &y->D, SHAPE(m->num_heads), "%s.D", mixer));
  FK_TRY(fk_weight(l, &y->dt_bias, SHAPE(m->num_heads), "%s.dt_bias", mixer));
  FK_TRY(fk_weight(l, &y->norm, SHAPE(inner), "%s.norm.weight", mixer));
  FK_TRY(fk_weight(l, &y->out_proj, SHAPE(h, inner), "%s.out_proj.weight", mixer));
  if (!m->use_bias) return FK_OK;
  FK_TRY(fk_weight(l, &y->in_bias, SHAPE(rows), "%s.in_proj.bias", mixer));
  return fk_weight(l, &y->out_bias, SHAPE(h), "%s.out_proj.bias", mixer);
}

static fk_status load_head(fk_loader *l, mamba2 *m, const char *embed) {
  if (fk_loader_architecture(l) == BASE_MODEL) {
    fk_weight_ignore(l, "lm_head.weight"); /* the base model of a causal checkpoint */
    return FK_OK;
  }
  if (!m->tied) return fk_weight(l, &m->lm_head, SHAPE(m->vocab_size, m->hidden_size), "lm_head.weight");
  m->lm_head = m->embed;
  return fk_weight_tied(l, "lm_head.weight", embed);
}

static fk_status load(fk_loader *l, void *state) {
  mamba2 *m = state;
  char embed[64];
  FK_TRY(read_config(l, m));
  /* A checkpoint of Mamba2Model itself has no "backbone." before its names; mamba_ssm's own say "embedding". */
  const char *prefix = fk_weight_exists(l, "norm_f.weight") ? "" : "backbone.";
  snprintf(embed, sizeof embed, "%sembedding.weight", prefix);
  if (!fk_weight_exists(l, embed)) snprintf(embed, sizeof embed, "%sembeddings.weight", prefix);
  FK_TRY(fk_weight(l, &m->embed, SHAPE(m->vocab_size, m->hidden_size), "%s", embed));
  m->layers = fk_arena_calloc(fk_loader_arena(l), (size_t)m->num_layers + 1, sizeof *m->layers);
  m->cache_names = fk_arena_calloc(fk_loader_arena(l), (size_t)m->num_layers + 1, sizeof *m->cache_names);
  if (!m->layers || !m->cache_names) return FK_ERROR_MEMORY;
  for (int i = 0; i < (int)m->num_layers; i++) {
    char place[64];
    snprintf(place, sizeof place, "%slayers.%d", prefix, i);
    snprintf(m->cache_names[i][0], sizeof m->cache_names[i][0], "layers.%d.conv_state", i);
    snprintf(m->cache_names[i][1], sizeof m->cache_names[i][1], "layers.%d.ssm_state", i);
    FK_TRY(load_layer(l, m, place, &m->layers[i]));
  }
  FK_TRY(fk_weight(l, &m->norm, SHAPE(m->hidden_size), "%snorm_f.weight", prefix));
  return load_head(l, m, embed);
}

/* ---- Sequences ------------------------------------------------------------------------------------------- */

static int caches(const void *model, fk_cache_spec *specs) {
  const mamba2 *m = model;
  int64_t channels = m->num_heads * m->head_dim + 2 * m->n_groups * m->state_size;
  for (int64_t i = 0; specs && i < m->num_layers; i++) {
    specs[2 * i] = (fk_cache_spec){m->cache_names[i][0], FK_CACHE_STATE, m->dtype, 2, {m->conv_width - 1, channels}};
    specs[2 * i + 1] = (fk_cache_spec){
        m->cache_names[i][1], FK_CACHE_STATE, m->state_type, 3, {m->num_heads, m->head_dim, m->state_size}};
  }
  return (int)(2 * m->num_layers);
}

static fk_status step(fk_context *ctx, const void *model, const fk_batch *b, fk_tensor *logits) {
  const mamba2 *m = model;
  int64_t tokens = fk_numel(b->input_ids);
  if (!b->state_slots) return fk_fail(FK_ERROR_ARGUMENT, "state_slots: expected the entry of each sequence, got none");
  fk_tensor *residual = fk_empty(ctx, m->dtype, tokens, m->hidden_size);
  fk_tensor *hidden = fk_empty(ctx, m->dtype, tokens, m->hidden_size);
  FK_TRY(fk_call(ctx, "embedding", b->input_ids, m->embed, residual));
  for (int64_t i = 0; i < m->num_layers; i++) {
    const layer *y = &m->layers[i];
    FK_TRY(fk_call(ctx, "mamba2_decoder_layer", hidden, residual, b->caches[2 * i], b->caches[2 * i + 1],
                   b->cu_seqlens_q, b->seq_lens, b->state_slots, y->input_norm, y->in_proj, y->in_bias, y->conv,
                   y->conv_bias, y->A, y->D, y->dt_bias, y->norm, y->out_proj, y->out_bias, m->n_groups, m->dt_min,
                   m->dt_max, m->chunk_size, m->epsilon, i == 0));
  }
  const fk_step_end end = {hidden, residual, m->norm, m->lm_head, m->epsilon, m->num_layers > 0};
  return fk_step_finish(ctx, &end, b, logits);
}

static int64_t num_embeddings(const void *model) {
  return ((const mamba2 *)model)->vocab_size;
}

static int64_t vocab_size(const void *model) {
  const mamba2 *m = model;
  return m->lm_head ? m->vocab_size : 0;
}

static int64_t output_size(const void *model) {
  const mamba2 *m = model;
  return m->lm_head ? m->vocab_size : m->hidden_size;
}

static int64_t max_position(const void *model) {
  return ((const mamba2 *)model)->max_position;
}

/* ---- forward() ------------------------------------------------------------------------------------------- */

/* Padding may stand before or after the tokens. Between them transformers lets the states decay over it, and with
 * use_bias padding on the left enters the convolution: what a server would never do is refused. */
static fk_status check_mask(const mamba2 *m, const fk_tensor *mask) {
  if (!mask || !mask->data || mask->ndim != 2 || !fk_is_contiguous(mask)) return FK_OK; /* others check the rest */
  if (!fk_type_is_int(fk_type_of(mask)) && fk_type_of(mask) != FK_BOOL) return FK_OK;
  for (int64_t row = 0, n = mask->shape[1]; row < mask->shape[0]; row++) {
    int64_t runs = 0, last = 0, before = 0; /* of tokens; the column before; padding before the first run */
    for (int64_t i = 0; i < n; i++) {
      int64_t now = fk_load_i64(fk_type_of(mask), fk_data(mask), row * n + i) != 0;
      if (now && !last && runs++ == 0) before = i;
      last = now;
    }
    if (runs > 1 || (m->use_bias && before))
      return fk_fail(FK_ERROR_UNSUPPORTED, "attention_mask: row %lld has padding %s its tokens", (long long)row,
                     runs > 1 ? "between" : "before");
  }
  return FK_OK;
}

static fk_status forward(fk_context *ctx, const fk_model *model, const fk_tensors *inputs, fk_tensors *outputs) {
  const mamba2 *m = model->state;
  if (fk_tensors_get(inputs, "position_ids"))
    return fk_fail(FK_ERROR_ARGUMENT, "position_ids: unknown input; expected input_ids or attention_mask");
  FK_TRY(check_mask(m, fk_tensors_get(inputs, "attention_mask")));
  return fk_causal_forward(ctx, model, m->lm_head ? "logits" : "last_hidden_state", inputs, outputs);
}

static const fk_sequence_ops sequence = {caches, step, num_embeddings, vocab_size, output_size, max_position};

const fk_model_class fk_model_mamba2 = {
    .name = "mamba2",
    .category = "Linear Attention & New Archs",
    .summary = "Attention-free decoder: state-space layers with one decay per head and a state of fixed size",
    .architectures = architectures,
    .state_size = sizeof(mamba2),
    .load = load,
    .forward = forward,
    .sequence = &sequence,
};
