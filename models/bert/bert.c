/* Loading and encoding (bert.h); batch.c packs. */
#include "bert.h"

#include <math.h>
#include <stdio.h>

/* ---- Configuration --------------------------------------------------------------------------------------- */

static fk_status read_config(fk_loader *l, fk_bert *m) {
  static const char *const activations[] = {"gelu", "gelu_new", "gelu_pytorch_tanh", NULL};
  static const char *const absolute[] = {"absolute", NULL};
  int activation, position;
  FK_TRY(fk_config_int(l, "vocab_size", 1, 1 << 24, &m->vocab_size));
  FK_TRY(fk_config_int(l, "hidden_size", 1, 1 << 20, &m->hidden_size));
  FK_TRY(fk_config_int(l, "intermediate_size", 1, 1 << 22, &m->intermediate_size));
  FK_TRY(fk_config_int(l, "num_hidden_layers", 0, 1024, &m->num_layers));
  FK_TRY(fk_config_int(l, "num_attention_heads", 1, 1 << 16, &m->num_heads));
  FK_TRY(fk_config_int_or(l, "max_position_embeddings", 1, 1 << 26, 512, &m->max_position));
  FK_TRY(fk_config_int_or(l, "type_vocab_size", 1, 1 << 16, 2, &m->type_vocab_size));
  FK_TRY(fk_config_int_or(l, "pad_token_id", 0, m->vocab_size - 1, m->roberta ? 1 : 0, &m->pad_token_id));
  FK_TRY(fk_config_float_or(l, "layer_norm_eps", 0, 1, 1e-12, &m->epsilon));
  FK_TRY(fk_config_enum(l, "hidden_act", activations, 0, &activation));
  FK_TRY(fk_config_enum(l, "position_embedding_type", absolute, 0, &position));
  if (m->hidden_size % m->num_heads)
    return fk_config_fail(l, "hidden_size", "expected a multiple of num_attention_heads, %lld, got %lld",
                          (long long)m->num_heads, (long long)m->hidden_size);
  m->longest = m->max_position - (m->roberta ? m->pad_token_id + 1 : 0);
  if (m->longest < 1)
    return fk_config_fail(l, "max_position_embeddings", "expected more than pad_token_id + 1 = %lld, got %lld",
                          (long long)m->pad_token_id + 1, (long long)m->max_position);
  int64_t limit = fk_loader_max_model_len(l);
  if (limit > m->longest)
    return fk_config_fail(l, "max_position_embeddings", "sequences of %lld tokens were asked for, the model has %lld",
                          (long long)limit, (long long)m->longest);
  if (limit) m->longest = limit;
  m->approximate = activation > 0;
  m->scale = 1 / sqrt((double)(m->hidden_size / m->num_heads));
  m->dtype = fk_loader_dtype(l);
  return FK_OK;
}

/* ---- Weights --------------------------------------------------------------------------------------------- */

static fk_status load_qkv(fk_loader *l, const char *prefix, const char *kind, int64_t rows, int32_t inner,
                          fk_tensor **t) {
  static const char *const parts[] = {"query", "key", "value"};
  char names[3][160];
  const char *list[3];
  const int64_t counts[] = {rows, rows, rows};
  for (int i = 0; i < 3; i++) {
    snprintf(names[i], sizeof names[i], "%s.attention.self.%s.%s", prefix, parts[i], kind);
    list[i] = names[i];
  }
  return fk_weight_concat(l, t, list, counts, 3, &rows, inner);
}

/* NAME.weight [out, in] and NAME.bias [out]; in 0: a norm, whose weight is [out]. */
static fk_status load_pair(fk_loader *l, const char *prefix, const char *name, int64_t out, int64_t in,
                           fk_tensor **weight, fk_tensor **bias) {
  FK_TRY(fk_weight(l, weight, (const int64_t[]){out, in}, in ? 2 : 1, "%s%s.weight", prefix, name));
  return fk_weight(l, bias, FK_SHAPE(out), "%s%s.bias", prefix, name);
}

static fk_status load_layer(fk_loader *l, const fk_bert *m, const char *prefix, fk_bert_layer *y) {
  int64_t h = m->hidden_size, inner = m->intermediate_size;
  FK_TRY(load_qkv(l, prefix, "weight", h, 1, &y->qkv));
  FK_TRY(load_qkv(l, prefix, "bias", h, 0, &y->qkv_bias));
  FK_TRY(load_pair(l, prefix, ".attention.output.dense", h, h, &y->dense, &y->dense_bias));
  FK_TRY(load_pair(l, prefix, ".attention.output.LayerNorm", h, 0, &y->attention_norm, &y->attention_norm_bias));
  FK_TRY(load_pair(l, prefix, ".intermediate.dense", inner, h, &y->intermediate, &y->intermediate_bias));
  FK_TRY(load_pair(l, prefix, ".output.dense", h, inner, &y->output, &y->output_bias));
  return load_pair(l, prefix, ".output.LayerNorm", h, 0, &y->output_norm, &y->output_norm_bias);
}

/* What stands before the names: nothing in a checkpoint of the base model itself. */
static const char *name_prefix(const fk_loader *l) {
  if (fk_weight_exists(l, "bert.embeddings.word_embeddings.weight")) return "bert.";
  return fk_weight_exists(l, "roberta.embeddings.word_embeddings.weight") ? "roberta." : "";
}

fk_status fk_bert_load(fk_loader *l, bool roberta, fk_bert *m) {
  m->roberta = roberta;
  FK_TRY(read_config(l, m));
  const char *prefix = name_prefix(l);
  char place[64];
  int64_t h = m->hidden_size;
  snprintf(place, sizeof place, "%sembeddings.", prefix);
  FK_TRY(fk_weight(l, &m->words, FK_SHAPE(m->vocab_size, h), "%sword_embeddings.weight", place));
  FK_TRY(fk_weight(l, &m->positions, FK_SHAPE(m->max_position, h), "%sposition_embeddings.weight", place));
  FK_TRY(fk_weight(l, &m->types, FK_SHAPE(m->type_vocab_size, h), "%stoken_type_embeddings.weight", place));
  FK_TRY(load_pair(l, place, "LayerNorm", h, 0, &m->norm, &m->norm_bias));
  fk_weight_ignore(l, "%sposition_ids", place); /* written by old versions of transformers */
  fk_weight_ignore(l, "%stoken_type_ids", place);
  m->layers = fk_arena_calloc(fk_loader_arena(l), (size_t)m->num_layers + 1, sizeof *m->layers);
  if (!m->layers) return FK_ERROR_MEMORY;
  for (int i = 0; i < (int)m->num_layers; i++) {
    snprintf(place, sizeof place, "%sencoder.layer.%d", prefix, i);
    FK_TRY(load_layer(l, m, place, &m->layers[i]));
  }
  snprintf(place, sizeof place, "%spooler.dense", prefix);
  FK_TRY(fk_weight_optional(l, &m->pooler, true, FK_SHAPE(h, h), "%s.weight", place));
  return m->pooler ? fk_weight(l, &m->pooler_bias, FK_SHAPE(h), "%s.bias", place) : FK_OK;
}

/* ---- Computing ------------------------------------------------------------------------------------------- */

fk_status fk_bert_encode(fk_context *ctx, const fk_bert *m, const fk_bert_batch *b, fk_tensor **hidden) {
  fk_tensor *rows = fk_empty(ctx, m->dtype, b->tokens, m->hidden_size), *x = rows;
  FK_TRY(fk_call(ctx, "bert_embeddings", b->input_ids, b->position_ids, b->token_type_ids, m->words, m->positions,
                 m->types, m->norm, m->norm_bias, m->epsilon, rows));
  if (b->seq_lens) x = fk_view(ctx, rows, b->batch, b->length, m->hidden_size);
  for (int64_t i = 0; i < m->num_layers; i++) {
    const fk_bert_layer *y = &m->layers[i];
    FK_TRY(fk_call(ctx, "bert_layer", x, b->seq_lens ? NULL : b->cu_seqlens, b->seq_lens, y->qkv, y->qkv_bias, y->dense,
                   y->dense_bias, y->attention_norm, y->attention_norm_bias, y->intermediate, y->intermediate_bias,
                   y->output, y->output_bias, y->output_norm, y->output_norm_bias, m->num_heads, m->scale, m->epsilon,
                   m->approximate, x));
  }
  *hidden = rows;
  return FK_OK;
}
