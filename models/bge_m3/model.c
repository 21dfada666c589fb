/* BGE-M3, and plain XLM-RoBERTa encoders: see MODEL.md. */
#include "../bert/bert.h"
#include "core/kernel.h"

typedef struct bge_m3 {
  fk_bert bert;
  fk_tensor *sparse, *sparse_bias;   /* [1, hidden_size]; NULL when the checkpoint has no sparse head */
  fk_tensor *colbert, *colbert_bias; /* [colbert_dim, hidden_size]; the same */
  fk_tensor *special_ids;            /* [num_special] int32: tokens without lexical weight */
} bge_m3;

static const char *const architectures[] = {"XLMRobertaModel", NULL};

/* ---- Loading --------------------------------------------------------------------------------------------- */

/* [CLS], [SEP], [PAD] and [UNK], as FlagEmbedding leaves them out. */
static fk_status load_special(fk_loader *l, bge_m3 *m) {
  static const char *const keys[] = {"bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"};
  FK_TRY(fk_weight_table(l, &m->special_ids, FK_I32, FK_SHAPE(4)));
  for (int i = 0; i < 4; i++) {
    int64_t id, usual = i == 0 ? 0 : i == 1 ? 2 : i == 2 ? m->bert.pad_token_id : 3;
    FK_TRY(fk_config_int_or(l, keys[i], 0, INT32_MAX, usual, &id));
    if (m->special_ids->data) ((int32_t *)m->special_ids->data)[i] = (int32_t)id;
  }
  return FK_OK;
}

static fk_status load(fk_loader *l, void *state) {
  bge_m3 *m = state;
  int64_t dim;
  FK_TRY(fk_bert_load(l, true, &m->bert));
  FK_TRY(load_special(l, m));
  int64_t h = m->bert.hidden_size;
  FK_TRY(fk_config_int_or(l, "colbert_dim", 1, 1 << 20, h, &dim));
  FK_TRY(fk_weight_optional(l, &m->sparse, true, FK_SHAPE(1, h), "sparse_linear.weight"));
  if (m->sparse) FK_TRY(fk_weight(l, &m->sparse_bias, FK_SHAPE(1), "sparse_linear.bias"));
  FK_TRY(fk_weight_optional(l, &m->colbert, true, FK_SHAPE(dim, h), "colbert_linear.weight"));
  return m->colbert ? fk_weight(l, &m->colbert_bias, FK_SHAPE(dim), "colbert_linear.bias") : FK_OK;
}

/* ---- Heads ----------------------------------------------------------------------------------------------- */

typedef struct pass { /* one forward() */
  fk_context *ctx;
  const bge_m3 *m;
  fk_bert_batch batch;
  fk_tensor *hidden, *first; /* all tokens; the first of each sequence */
  int64_t *sequences;
  fk_tensors *outputs;
} pass;

static fk_status put_pooled(pass *p) {
  const fk_bert *m = &p->m->bert;
  fk_tensor *pooled = fk_empty_like(p->ctx, p->first), *out;
  FK_TRY(fk_call(p->ctx, "linear", p->first, m->pooler, m->pooler_bias, pooled));
  FK_TRY(fk_call(p->ctx, "tanh", pooled, pooled));
  FK_TRY(fk_bert_spread(p->ctx, &p->batch, pooled, p->sequences, &out));
  return fk_tensors_put(p->outputs, "pooler_output", out);
}

static fk_status put_dense(pass *p) {
  fk_tensor *unit = fk_empty_like(p->ctx, p->first), *out;
  FK_TRY(fk_call(p->ctx, "l2_norm", p->first, 1e-12, unit));
  FK_TRY(fk_bert_spread(p->ctx, &p->batch, unit, p->sequences, &out));
  return fk_tensors_put(p->outputs, "dense_vecs", out);
}

static fk_status put_sparse(pass *p) {
  const bge_m3 *m = p->m;
  fk_tensor *weights = fk_empty(p->ctx, m->bert.dtype, p->batch.tokens, 1), *lexical, *out;
  FK_TRY(fk_call(p->ctx, "linear", p->hidden, m->sparse, m->sparse_bias, weights));
  FK_TRY(fk_call(p->ctx, "relu", weights, weights));
  FK_TRY(fk_bert_unpack(p->ctx, &p->batch, weights, &out));
  FK_TRY(fk_tensors_put(p->outputs, "token_weights", out));
  lexical = fk_empty(p->ctx, m->bert.dtype, p->batch.tokens);
  FK_TRY(fk_call(p->ctx, "lexical_weights", fk_view(p->ctx, weights, p->batch.tokens), p->batch.input_ids,
                 p->batch.cu_seqlens, m->special_ids, lexical));
  fk_tensor *column = fk_view(p->ctx, lexical, p->batch.tokens, 1);
  if (!column) return FK_ERROR_MEMORY;
  FK_TRY(fk_bert_unpack(p->ctx, &p->batch, column, &out));
  return fk_tensors_put(p->outputs, "lexical_weights", fk_view(p->ctx, out, p->batch.batch, p->batch.length));
}

/* FlagEmbedding's colbert_vecs begin behind [CLS]. */
static fk_status put_colbert(pass *p) {
  const bge_m3 *m = p->m;
  fk_tensor *vecs = fk_empty(p->ctx, m->bert.dtype, p->batch.tokens, fk_size(m->colbert, 0)), *out;
  FK_TRY(fk_call(p->ctx, "linear", p->hidden, m->colbert, m->colbert_bias, vecs));
  FK_TRY(fk_call(p->ctx, "l2_norm", vecs, 1e-12, vecs));
  FK_TRY(fk_bert_unpack(p->ctx, &p->batch, vecs, &out));
  int64_t length = p->batch.length ? p->batch.length - 1 : 0;
  fk_tensor *tail = fk_slice(p->ctx, out, 1, p->batch.length - length, length);
  fk_tensor *copy = fk_host(p->ctx, fk_type_of(out), p->batch.batch, length, fk_size(out, -1));
  if (!tail || !copy) return FK_ERROR_MEMORY;
  if (copy->data) FK_TRY(fk_copy(tail, copy));
  return fk_tensors_put(p->outputs, "colbert_vecs", copy);
}

static fk_status forward(fk_context *ctx, const fk_model *model, const fk_tensors *inputs, fk_tensors *outputs) {
  static const char *const known[] = {"input_ids", "attention_mask", "token_type_ids", "position_ids", NULL};
  const bge_m3 *m = model->state;
  pass p = {.ctx = ctx, .m = m, .outputs = outputs};
  fk_bert_inputs in = fk_bert_find(inputs, "");
  fk_tensor *out;
  FK_TRY(fk_bert_only(inputs, known));
  FK_TRY(fk_bert_pack(ctx, &m->bert, &in, &p.batch));
  FK_TRY(fk_bert_encode(ctx, &m->bert, &p.batch, &p.hidden));
  FK_TRY(fk_bert_unpack(ctx, &p.batch, p.hidden, &out));
  FK_TRY(fk_tensors_put(outputs, "last_hidden_state", out));
  FK_TRY(fk_bert_first(ctx, &p.batch, p.hidden, &p.first, &p.sequences));
  if (m->bert.pooler) FK_TRY(put_pooled(&p));
  FK_TRY(put_dense(&p));
  if (m->sparse) FK_TRY(put_sparse(&p));
  return m->colbert ? put_colbert(&p) : FK_OK;
}

static const fk_model_input model_inputs[] = {{"input_ids", "batch length", false},
                                              {"attention_mask", "batch length", false},
                                              {"token_type_ids", "batch length", false},
                                              {"position_ids", "position_batch length", false},
                                              {0}};

const fk_model_class fk_model_bge_m3 = {
    .name = "bge_m3",
    .category = "Recommendation & Specialized",
    .summary = "XLM-RoBERTa encoder with dense, sparse and multi-vector embeddings; also serves plain XLM-RoBERTa",
    .architectures = architectures,
    .state_size = sizeof(bge_m3),
    .load = load,
    .forward = forward,
    .inputs = model_inputs,
};
