/* Decoding as one CUDA graph: a step of a fixed number of sequences, one token each, recorded once and replayed.
 *
 * The index tensors stay in GPU memory. With `greedy` the graph itself takes the most likely token of every sequence,
 * makes it the next input and moves positions, lengths and cache rows on, so that the host does nothing per token but
 * ask for the replay. Without, the host gives every step its batch (fk_decode_graph_set).
 *
 *     create -> set -> step, step, ... -> tokens
 *
 * The graph owns its index tensors and the temporaries of its step; it borrows context, model and caches, which must
 * outlive it. Replays and other work of the context are queued in order. */
#ifndef FK_ENGINE_DECODE_GRAPH_H
#define FK_ENGINE_DECODE_GRAPH_H

#include "engine/model.h"

typedef struct fk_decode_graph fk_decode_graph;

typedef struct fk_decode_options {
  int64_t batch_size;
  int64_t max_blocks_per_seq; /* columns of the block table, which bound the length of a sequence */
  bool greedy;
  int64_t history; /* with greedy: of how many steps the tokens are kept */
  bool tune;       /* try other kernels for the matrix products and keep what makes the whole step faster: seconds */
} fk_decode_options;

/* On a cuda context without recorder. Leaves the caches as they are. On failure *graph is NULL. */
fk_status fk_decode_graph_create(fk_context *ctx, const fk_model *model, fk_tensor *const *caches,
                                 const fk_decode_options *options, fk_decode_graph **graph);
void fk_decode_graph_destroy(fk_decode_graph *graph);

/* What the next step computes: a batch in host memory of batch_size sequences with one new token each. Its block table
 * may have fewer columns; cu_seqlens_q, logits_indices and caches are the graph's own. Forgets the history. */
fk_status fk_decode_graph_set(fk_decode_graph *graph, const fk_batch *batch);

/* Queues one step. */
fk_status fk_decode_graph_step(fk_decode_graph *graph);

/* [batch_size, output_size] of the last step, in GPU memory. */
fk_tensor *fk_decode_graph_logits(const fk_decode_graph *graph);

/* The tokens [count, batch_size] of the last steps since set, the oldest first; waits for them. Only with greedy. */
fk_status fk_decode_graph_tokens(fk_decode_graph *graph, int64_t count, int32_t *tokens);

/* Milliseconds of a step at half the longest length before and after tuning; 0 without. */
void fk_decode_graph_tuned(const fk_decode_graph *graph, double *before, double *after);

/* How many nodes a replay runs. */
int fk_decode_graph_nodes(const fk_decode_graph *graph);

#endif
