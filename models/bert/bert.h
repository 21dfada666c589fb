/* BERT: the encoder that colbertv2 and bge_m3 have in common. No model by itself.
 *
 * Three steps: fk_bert_pack reads the padded inputs [B, S] of transformers' BertModel and packs the real tokens;
 * fk_bert_encode computes their last hidden states; fk_bert_unpack puts rows back among the padding. fk_bert belongs to
 * the model that embeds it, its tensors to that model's arena; batches are temporaries of the context. */
#ifndef FK_MODELS_BERT_H
#define FK_MODELS_BERT_H

#include "engine/loader.h"

#define FK_SHAPE(...) (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__)

typedef struct fk_bert_layer {
  fk_tensor *qkv, *qkv_bias, *dense, *dense_bias, *attention_norm, *attention_norm_bias;
  fk_tensor *intermediate, *intermediate_bias, *output, *output_bias, *output_norm, *output_norm_bias;
} fk_bert_layer;

typedef struct fk_bert {
  int64_t vocab_size, hidden_size, intermediate_size, num_layers, num_heads, max_position, type_vocab_size;
  int64_t pad_token_id;
  int64_t longest; /* tokens of a sequence: max_position, less those that XLM-RoBERTa's offset wastes */
  double epsilon, scale;
  int approximate; /* of gelu: 0 none, 1 tanh */
  bool roberta;    /* positions count the tokens that are not padding, from pad_token_id + 1 on */
  fk_type dtype;
  fk_tensor *words, *positions, *types, *norm, *norm_bias;
  fk_tensor *pooler, *pooler_bias; /* NULL when the checkpoint has none */
  fk_bert_layer *layers;
} fk_bert;

/* Reads the configuration and binds every weight; names may begin with "bert." or "roberta.". */
fk_status fk_bert_load(fk_loader *l, bool roberta, fk_bert *m);

/* forward()'s inputs, [B, S] each (position_ids also [1, S]); only input_ids is required. prefix stands before the
 * names in messages. */
typedef struct fk_bert_inputs {
  const char *prefix;
  const fk_tensor *input_ids, *attention_mask, *token_type_ids, *position_ids;
} fk_bert_inputs;

/* Takes the four inputs of one prefix out of a map. */
fk_bert_inputs fk_bert_find(const fk_tensors *inputs, const char *prefix);

/* Real tokens, packed; or, where dense, all tokens of sequences of one length. T tokens, B sequences. Tensors are where
 * tasks can use them, pointers in host memory. */
typedef struct fk_bert_batch {
  int64_t batch, length; /* of the padded inputs */
  int64_t tokens;
  int64_t *place;                                       /* [T]: index of each token in [B * S] */
  const int32_t *ids, *offsets;                         /* what input_ids [T] and cu_seqlens [B + 1] hold */
  fk_tensor *input_ids, *position_ids, *token_type_ids; /* [T] int32 */
  fk_tensor *cu_seqlens;                                /* [B + 1] int32 */
  fk_tensor *seq_lens;                                  /* [B] int32 where dense: the tokens attended to; else NULL */
} fk_bert_batch;

fk_status fk_bert_pack(fk_context *ctx, const fk_bert *m, const fk_bert_inputs *inputs, fk_bert_batch *batch);

/* As fk_bert_pack, for ColBERT's queries: sequences are filled up to `length` (or their own length, if that is more)
 * with fill_id, by tokens that attend but are not attended to (unless `attend`). Padding must stand at the end. */
fk_status fk_bert_pack_filled(fk_context *ctx, const fk_bert *m, const fk_bert_inputs *inputs, int64_t length,
                              int64_t fill_id, bool attend, fk_bert_batch *batch);

/* *hidden: [T, hidden_size]. */
fk_status fk_bert_encode(fk_context *ctx, const fk_bert *m, const fk_bert_batch *batch, fk_tensor **hidden);

/* Rows [T, n] to [B, S, n] in float32 (float64 on ref), on the host; padding is zero. */
fk_status fk_bert_unpack(fk_context *ctx, const fk_bert_batch *batch, const fk_tensor *rows, fk_tensor **padded);

/* The first token of each sequence: [B', n] of the B' sequences that have one, and their numbers [B']. */
fk_status fk_bert_first(fk_context *ctx, const fk_bert_batch *batch, const fk_tensor *rows, fk_tensor **first,
                        int64_t **sequences);
/* Rows [B', n] to [B, n] as fk_bert_unpack; sequences without token are zero. */
fk_status fk_bert_spread(fk_context *ctx, const fk_bert_batch *batch, const fk_tensor *first, const int64_t *sequences,
                         fk_tensor **out);

/* Fails on an input whose name is none of `known` (NULL-ended). */
fk_status fk_bert_only(const fk_tensors *inputs, const char *const *known);

#endif
