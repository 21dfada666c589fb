/* ColBERTv2, and plain BERT encoders: see MODEL.md. */
#include <string.h>

#include "../bert/bert.h"
#include "core/convert.h"
#include "core/kernel.h"

typedef struct colbert {
  fk_bert bert;
  int64_t dim, query_maxlen, mask_token_id;
  bool attend_to_mask_tokens;
  fk_tensor *linear; /* [dim, hidden_size]; NULL for a plain encoder */
} colbert;

enum { BERT_MODEL, HF_COLBERT, COLBERT };
static const char *const architectures[] = {"BertModel", "HF_ColBERT", "ColBERT", NULL};

/* ---- Loading --------------------------------------------------------------------------------------------- */

static fk_status load(fk_loader *l, void *state) {
  colbert *m = state;
  bool is_colbert = fk_loader_architecture(l) != BERT_MODEL;
  FK_TRY(fk_bert_load(l, false, &m->bert));
  FK_TRY(fk_config_int_or(l, "dim", 1, 1 << 16, 128, &m->dim));
  FK_TRY(fk_config_int_or(l, "query_maxlen", 1, m->bert.longest, m->bert.longest < 32 ? m->bert.longest : 32,
                          &m->query_maxlen));
  FK_TRY(fk_config_int_or(l, "mask_token_id", 0, m->bert.vocab_size - 1,
                          m->bert.vocab_size > 103 ? 103 : m->bert.vocab_size - 1, &m->mask_token_id));
  FK_TRY(fk_config_bool_or(l, "attend_to_mask_tokens", false, &m->attend_to_mask_tokens));
  if (is_colbert) return fk_weight(l, &m->linear, FK_SHAPE(m->dim, m->bert.hidden_size), "linear.weight");
  return fk_weight_optional(l, &m->linear, false, FK_SHAPE(m->dim, m->bert.hidden_size), "linear.weight");
}

/* ---- The encoder: transformers' BertModel ---------------------------------------------------------------- */

static fk_status put_pooled(fk_context *ctx, const fk_bert *m, const fk_bert_batch *b, const fk_tensor *hidden,
                            fk_tensors *outputs) {
  fk_tensor *first, *out;
  int64_t *sequences;
  FK_TRY(fk_bert_first(ctx, b, hidden, &first, &sequences));
  fk_tensor *pooled = fk_empty_like(ctx, first);
  FK_TRY(fk_call(ctx, "linear", first, m->pooler, m->pooler_bias, pooled));
  FK_TRY(fk_call(ctx, "tanh", pooled, pooled));
  FK_TRY(fk_bert_spread(ctx, b, pooled, sequences, &out));
  return fk_tensors_put(outputs, "pooler_output", out);
}

/* normalize(linear(hidden)): [T, dim]. */
static fk_status embed(fk_context *ctx, const colbert *m, const fk_bert_batch *b, fk_tensor **hidden,
                       fk_tensor **embeddings) {
  FK_TRY(fk_bert_encode(ctx, &m->bert, b, hidden));
  if (!m->linear) return FK_OK;
  *embeddings = fk_empty(ctx, m->bert.dtype, b->tokens, m->dim);
  FK_TRY(fk_call(ctx, "linear", *hidden, m->linear, NULL, *embeddings));
  return fk_call(ctx, "l2_norm", *embeddings, 1e-12, *embeddings);
}

static fk_status forward_bert(fk_context *ctx, const colbert *m, const fk_bert_inputs *in, fk_tensors *outputs) {
  fk_bert_batch b;
  fk_tensor *hidden, *embeddings = NULL, *out;
  FK_TRY(fk_bert_pack(ctx, &m->bert, in, &b));
  FK_TRY(embed(ctx, m, &b, &hidden, &embeddings));
  FK_TRY(fk_bert_unpack(ctx, &b, hidden, &out));
  FK_TRY(fk_tensors_put(outputs, "last_hidden_state", out));
  if (m->bert.pooler) FK_TRY(put_pooled(ctx, &m->bert, &b, hidden, outputs));
  if (!embeddings) return FK_OK;
  FK_TRY(fk_bert_unpack(ctx, &b, embeddings, &out));
  return fk_tensors_put(outputs, "token_embeddings", out);
}

/* ---- Queries, documents, scores: colbert-ir's query(), doc() and score() ---------------------------------- */

static fk_status encode_queries(fk_context *ctx, const colbert *m, const fk_bert_inputs *in, fk_tensor **q,
                                fk_tensors *outputs) {
  fk_bert_batch b;
  fk_tensor *hidden, *rows, *out;
  FK_TRY(fk_bert_pack_filled(ctx, &m->bert, in, m->query_maxlen, m->mask_token_id, m->attend_to_mask_tokens, &b));
  FK_TRY(embed(ctx, m, &b, &hidden, &rows));
  *q = fk_view(ctx, rows, b.batch, b.length, m->dim);
  FK_TRY(fk_bert_unpack(ctx, &b, rows, &out));
  return fk_tensors_put(outputs, "query_embeddings", out);
}

static fk_status check_skiplist(const fk_tensor *t) {
  if (t && (t->ndim != 1 || !fk_type_is_int(fk_type_of(t)) || !fk_is_contiguous(t)))
    return fk_fail(FK_ERROR_ARGUMENT, "skiplist: expected token ids of shape [count], got dtype %s of %d dimensions",
                   fk_type_name(fk_type_of(t)), t->ndim);
  return FK_OK;
}

/* Which packed tokens of the documents count: neither in the skiplist nor padding by id. On the host. */
static fk_status document_mask(fk_context *ctx, const colbert *m, const fk_bert_batch *b, const fk_tensor *skiplist,
                               fk_tensor **mask) {
  FK_TRY(check_skiplist(skiplist));
  *mask = fk_host(ctx, FK_BOOL, b->tokens);
  if (!*mask) return FK_ERROR_MEMORY;
  for (int64_t i = 0; i < b->tokens && (*mask)->data; i++) {
    int64_t id = b->ids[i];
    bool keep = id != m->bert.pad_token_id;
    for (int64_t k = 0; skiplist && skiplist->data && keep && k < fk_numel(skiplist); k++)
      keep = fk_load_i64(fk_type_of(skiplist), fk_data(skiplist), k) != id;
    ((uint8_t *)(*mask)->data)[i] = keep;
  }
  return FK_OK;
}

/* The embeddings as colbert-ir returns them: those of hidden tokens are zero. Only padded is changed. */
static void clear_hidden(const fk_bert_batch *b, const fk_tensor *mask, fk_tensor *padded) {
  size_t row = fk_type_bytes(fk_type_of(padded), fk_size(padded, -1));
  for (int64_t i = 0; i < b->tokens && padded->data && mask->data; i++)
    if (!((const uint8_t *)mask->data)[i]) memset((char *)padded->data + (size_t)b->place[i] * row, 0, row);
}

static fk_status forward_retrieval(fk_context *ctx, const colbert *m, const fk_tensors *inputs, fk_tensors *outputs) {
  fk_bert_inputs query = fk_bert_find(inputs, "query_"), doc = fk_bert_find(inputs, "doc_");
  fk_tensor *q = NULL, *hidden, *d, *mask, *out;
  fk_bert_batch b;
  if (!m->linear)
    return fk_fail(FK_ERROR_ARGUMENT, "query_input_ids, doc_input_ids: the checkpoint has no linear.weight");
  if (query.input_ids) FK_TRY(encode_queries(ctx, m, &query, &q, outputs));
  if (!doc.input_ids) return FK_OK;
  FK_TRY(fk_bert_pack(ctx, &m->bert, &doc, &b));
  FK_TRY(document_mask(ctx, m, &b, fk_tensors_get(inputs, "skiplist"), &mask));
  FK_TRY(embed(ctx, m, &b, &hidden, &d));
  FK_TRY(fk_bert_unpack(ctx, &b, d, &out));
  clear_hidden(&b, mask, out);
  FK_TRY(fk_tensors_put(outputs, "doc_embeddings", out));
  if (!q) return FK_OK;
  fk_tensor *scores = fk_empty(ctx, fk_context_backend(ctx) == FK_REF ? FK_F64 : FK_F32, fk_size(q, 0), b.batch);
  FK_TRY(fk_move_to_device(ctx, &mask));
  FK_TRY(fk_call(ctx, "max_sim", q, d, b.cu_seqlens, mask, scores));
  FK_TRY(fk_move_to_host(ctx, &scores));
  return fk_tensors_put(outputs, "scores", scores);
}

static fk_status forward(fk_context *ctx, const fk_model *model, const fk_tensors *inputs, fk_tensors *outputs) {
  static const char *const known[] = {"input_ids",
                                      "attention_mask",
                                      "token_type_ids",
                                      "position_ids",
                                      "query_input_ids",
                                      "query_attention_mask",
                                      "doc_input_ids",
                                      "doc_attention_mask",
                                      "doc_token_type_ids",
                                      "skiplist",
                                      NULL};
  const colbert *m = model->state;
  fk_bert_inputs plain = fk_bert_find(inputs, "");
  FK_TRY(fk_bert_only(inputs, known));
  bool retrieval = fk_tensors_get(inputs, "query_input_ids") || fk_tensors_get(inputs, "doc_input_ids");
  if (plain.input_ids || !retrieval) FK_TRY(forward_bert(ctx, m, &plain, outputs));
  return retrieval ? forward_retrieval(ctx, m, inputs, outputs) : FK_OK;
}

static const fk_model_input model_inputs[] = {{"input_ids", "batch length", false},
                                              {"attention_mask", "batch length", false},
                                              {"token_type_ids", "batch length", false},
                                              {"position_ids", "position_batch length", false},
                                              {"query_input_ids", "num_queries query_length", false},
                                              {"query_attention_mask", "num_queries query_length", false},
                                              {"doc_input_ids", "num_docs doc_length", false},
                                              {"doc_attention_mask", "num_docs doc_length", false},
                                              {"doc_token_type_ids", "num_docs doc_length", false},
                                              {"skiplist", "num_skipped", false},
                                              {0}};

const fk_model_class fk_model_colbertv2 = {
    .name = "colbertv2",
    .category = "Recommendation & Specialized",
    .summary = "BERT encoder with token embeddings for late interaction; also serves plain BERT encoders",
    .architectures = architectures,
    .state_size = sizeof(colbert),
    .load = load,
    .forward = forward,
    .inputs = model_inputs,
};
