/* Llama: see MODEL.md. */
#include <math.h>
#include <stdio.h>

#include "engine/loader.h"
#include "engine/rope.h"
#include "engine/step.h"

typedef struct layer {
  fk_tensor *input_norm, *qkv, *qkv_bias, *o, *o_bias, *post_norm, *gate_up, *gate_up_bias, *down, *down_bias;
} layer;

typedef struct llama {
  int64_t vocab_size, hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, max_position;
  double epsilon, scale;
  bool attention_bias, mlp_bias, tied;
  fk_type dtype;
  fk_tensor *embed, *cos_sin, *norm, *lm_head; /* lm_head is NULL for LlamaModel, embed when tied */
  layer *layers;
  char (*cache_names)[2][32];
} llama;

enum { CAUSAL_LM, BASE_MODEL };
static const char *const architectures[] = {"LlamaForCausalLM", "LlamaModel", NULL};

/* ---- Loading --------------------------------------------------------------------------------------------- */

static fk_status read_config(fk_loader *l, llama *m) {
  static const char *const silu[] = {"silu", NULL};
  int activation;
  int64_t tp;
  FK_TRY(fk_config_int(l, "vocab_size", 1, 1 << 24, &m->vocab_size));
  FK_TRY(fk_config_int(l, "hidden_size", 1, 1 << 20, &m->hidden_size));
  FK_TRY(fk_config_int(l, "intermediate_size", 1, 1 << 22, &m->intermediate_size));
  FK_TRY(fk_config_int(l, "num_hidden_layers", 0, FK_MAX_CACHES / 2, &m->num_layers));
  FK_TRY(fk_config_int(l, "num_attention_heads", 1, 1 << 16, &m->num_heads));
  FK_TRY(fk_config_int_or(l, "num_key_value_heads", 1, m->num_heads, m->num_heads, &m->num_kv_heads));
  FK_TRY(fk_config_int_or(l, "head_dim", 2, 1 << 16, m->hidden_size / m->num_heads, &m->head_dim));
  FK_TRY(fk_config_int_or(l, "max_position_embeddings", 1, 1 << 26, 2048, &m->max_position));
  FK_TRY(fk_config_float_or(l, "rms_norm_eps", 0, 1, 1e-6, &m->epsilon));
  FK_TRY(fk_config_bool_or(l, "attention_bias", false, &m->attention_bias));
  FK_TRY(fk_config_bool_or(l, "mlp_bias", false, &m->mlp_bias));
  FK_TRY(fk_config_bool_or(l, "tie_word_embeddings", false, &m->tied));
  FK_TRY(fk_config_enum(l, "hidden_act", silu, 0, &activation));
  FK_TRY(fk_config_int_or(l, "pretraining_tp", 1, 1, 1, &tp)); /* others split sums, which changes their rounding */
  if (m->num_heads % m->num_kv_heads)
    return fk_config_fail(l, "num_key_value_heads", "expected a divisor of num_attention_heads, %lld, got %lld",
                          (long long)m->num_heads, (long long)m->num_kv_heads);
  if (!fk_config_has(l, "head_dim") && m->hidden_size % m->num_heads)
    return fk_config_fail(l, "hidden_size", "expected a multiple of num_attention_heads, %lld, got %lld",
                          (long long)m->num_heads, (long long)m->hidden_size);
  if (m->head_dim % 2)
    return fk_config_fail(l, "head_dim", "expected an even number, got %lld", (long long)m->head_dim);
  int64_t limit = fk_loader_max_model_len(l);
  if (limit > m->max_position)
    return fk_config_fail(l, "max_position_embeddings", "sequences of %lld tokens were asked for, the model has %lld",
                          (long long)limit, (long long)m->max_position);
  if (limit) m->max_position = limit;
  m->scale = 1 / sqrt((double)m->head_dim);
  m->dtype = fk_loader_dtype(l);
  return FK_OK;
}

#define SHAPE(...) (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__)

/* Several projections that share their input, stored as one matrix; kind is "weight" or "bias". */
static fk_status fused(fk_loader *l, fk_tensor **t, const char *prefix, const char *const *parts, const int64_t *rows,
                       int count, const char *kind, int64_t columns) {
  char names[3][128];
  const char *list[3];
  for (int i = 0; i < count; i++) {
    snprintf(names[i], sizeof names[i], "%s.%s_proj.%s", prefix, parts[i], kind);
    list[i] = names[i];
  }
  return fk_weight_concat(l, t, list, rows, count, &columns, columns ? 1 : 0);
}

static fk_status load_layer(fk_loader *l, const llama *m, const char *prefix, layer *y) {
  char attn[96], mlp[96];
  int64_t q = m->num_heads * m->head_dim, kv = m->num_kv_heads * m->head_dim;
  int64_t h = m->hidden_size, inner = m->intermediate_size;
  static const char *const qkv[] = {"q", "k", "v"}, *const gate_up[] = {"gate", "up"};
  const int64_t qkv_rows[] = {q, kv, kv}, gate_up_rows[] = {inner, inner};
  snprintf(attn, sizeof attn, "%s.self_attn", prefix);
  snprintf(mlp, sizeof mlp, "%s.mlp", prefix);
  fk_weight_ignore(l, "%s.rotary_emb.inv_freq", attn); /* written by old versions of transformers */
  FK_TRY(fk_weight(l, &y->input_norm, SHAPE(h), "%s.input_layernorm.weight", prefix));
  FK_TRY(fused(l, &y->qkv, attn, qkv, qkv_rows, 3, "weight", h));
  FK_TRY(fk_weight(l, &y->o, SHAPE(h, q), "%s.o_proj.weight", attn));
  FK_TRY(fk_weight(l, &y->post_norm, SHAPE(h), "%s.post_attention_layernorm.weight", prefix));
  FK_TRY(fused(l, &y->gate_up, mlp, gate_up, gate_up_rows, 2, "weight", h));
  FK_TRY(fk_weight(l, &y->down, SHAPE(h, inner), "%s.down_proj.weight", mlp));
  if (m->attention_bias) {
    FK_TRY(fused(l, &y->qkv_bias, attn, qkv, qkv_rows, 3, "bias", 0));
    FK_TRY(fk_weight(l, &y->o_bias, SHAPE(h), "%s.o_proj.bias", attn));
  }
  if (m->mlp_bias) {
    FK_TRY(fused(l, &y->gate_up_bias, mlp, gate_up, gate_up_rows, 2, "bias", 0));
    FK_TRY(fk_weight(l, &y->down_bias, SHAPE(h), "%s.down_proj.bias", mlp));
  }
  return FK_OK;
}

static fk_status load_head(fk_loader *l, llama *m, const char *prefix) {
  char embed[64];
  snprintf(embed, sizeof embed, "%sembed_tokens.weight", prefix);
  if (fk_loader_architecture(l) == BASE_MODEL) {
    fk_weight_ignore(l, "lm_head.weight"); /* the base model of a causal checkpoint */
    return FK_OK;
  }
  if (!m->tied) return fk_weight(l, &m->lm_head, SHAPE(m->vocab_size, m->hidden_size), "lm_head.weight");
  m->lm_head = m->embed;
  return fk_weight_tied(l, "lm_head.weight", embed);
}

static fk_status load(fk_loader *l, void *state) {
  llama *m = state;
  FK_TRY(read_config(l, m));
  FK_TRY(fk_rope_cos_sin(l, m->head_dim, m->max_position, &m->cos_sin));
  /* A checkpoint of LlamaModel itself has no "model." before its names. */
  const char *prefix = fk_weight_exists(l, "embed_tokens.weight") ? "" : "model.";
  FK_TRY(fk_weight(l, &m->embed, SHAPE(m->vocab_size, m->hidden_size), "%sembed_tokens.weight", prefix));
  m->layers = fk_arena_calloc(fk_loader_arena(l), (size_t)m->num_layers, sizeof *m->layers);
  m->cache_names = fk_arena_calloc(fk_loader_arena(l), (size_t)m->num_layers, sizeof *m->cache_names);
  if (!m->layers || !m->cache_names) return FK_ERROR_MEMORY;
  for (int i = 0; i < (int)m->num_layers; i++) {
    char place[64];
    snprintf(place, sizeof place, "%slayers.%d", prefix, i);
    snprintf(m->cache_names[i][0], sizeof m->cache_names[i][0], "layers.%d.key_cache", i);
    snprintf(m->cache_names[i][1], sizeof m->cache_names[i][1], "layers.%d.value_cache", i);
    FK_TRY(load_layer(l, m, place, &m->layers[i]));
  }
  FK_TRY(fk_weight(l, &m->norm, SHAPE(m->hidden_size), "%snorm.weight", prefix));
  fk_weight_ignore(l, "%srotary_emb.inv_freq", prefix);
  return load_head(l, m, prefix);
}

/* ---- Sequences ------------------------------------------------------------------------------------------- */

static int caches(const void *model, fk_cache_spec *specs) {
  const llama *m = model;
  for (int64_t i = 0; specs && i < 2 * m->num_layers; i++)
    specs[i] =
        (fk_cache_spec){m->cache_names[i / 2][i % 2], FK_CACHE_PAGED, m->dtype, 2, {m->num_kv_heads, m->head_dim}};
  return (int)(2 * m->num_layers);
}

static fk_status step(fk_context *ctx, const void *model, const fk_batch *b, fk_tensor *logits) {
  const llama *m = model;
  int64_t tokens = fk_numel(b->input_ids);
  fk_tensor *residual = fk_empty(ctx, m->dtype, tokens, m->hidden_size);
  fk_tensor *hidden = fk_empty(ctx, m->dtype, tokens, m->hidden_size);
  FK_TRY(fk_call(ctx, "embedding", b->input_ids, m->embed, residual));
  for (int64_t i = 0; i < m->num_layers; i++) {
    const layer *y = &m->layers[i];
    FK_TRY(fk_call(ctx, "llama_decoder_layer", b->positions, hidden, residual, b->caches[2 * i], b->caches[2 * i + 1],
                   b->slot_mapping, b->cu_seqlens_q, b->seq_lens, b->block_table, y->input_norm, y->qkv, y->qkv_bias,
                   y->o, y->o_bias, m->cos_sin, y->post_norm, y->gate_up, y->gate_up_bias, y->down, y->down_bias,
                   m->num_heads, m->scale, true, m->epsilon, i == 0));
  }
  const fk_step_end end = {hidden, residual, m->norm, m->lm_head, m->epsilon, m->num_layers > 0};
  return fk_step_finish(ctx, &end, b, logits);
}

static int64_t num_embeddings(const void *model) {
  return ((const llama *)model)->vocab_size;
}

static int64_t vocab_size(const void *model) {
  const llama *m = model;
  return m->lm_head ? m->vocab_size : 0;
}

static int64_t output_size(const void *model) {
  const llama *m = model;
  return m->lm_head ? m->vocab_size : m->hidden_size;
}

static int64_t max_position(const void *model) {
  return ((const llama *)model)->max_position;
}

static fk_status forward(fk_context *ctx, const fk_model *model, const fk_tensors *inputs, fk_tensors *outputs) {
  const llama *m = model->state;
  return fk_causal_forward(ctx, model, m->lm_head ? "logits" : "last_hidden_state", inputs, outputs);
}

static const fk_sequence_ops sequence = {caches, step, num_embeddings, vocab_size, output_size, max_position};

const fk_model_class fk_model_llama = {
    .name = "llama",
    .category = "Dense & MoE LLMs",
    .summary = "Decoder-only transformer with grouped-query attention, rotary positions and a SiLU-gated network",
    .architectures = architectures,
    .state_size = sizeof(llama),
    .load = load,
    .forward = forward,
    .sequence = &sequence,
};
