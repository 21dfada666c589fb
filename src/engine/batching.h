/* Continuous batching: which tokens of which requests a step computes, and where their cache rows lie.
 *
 * The loop of an engine without the engine: waiting, prefilling and running sequences; chunked prefill under a budget
 * of tokens per step; paged blocks with a watermark at admission; preemption by recomputation of the newest sequence
 * when blocks run out. It yields one fk_batch per step, with real tables; who runs the batch says which tokens came
 * out.
 *
 *     fk_batcher_next -> run the batch -> fk_batcher_commit, until the batch is NULL
 *
 * A batcher owns its tables and borrows the requests. Deterministic: equal requests and options give equal steps. */
#ifndef FK_ENGINE_BATCHING_H
#define FK_ENGINE_BATCHING_H

#include "engine/model.h"
#include "engine/workload.h"

enum { FK_BLOCK_SIZE = 16, FK_DEFAULT_NUM_SEQS = 256, FK_DEFAULT_BATCHED_TOKENS = 8192, FK_MOST_AUTO_BLOCKS = 65536 };

typedef struct fk_batching_options {
  int64_t max_num_seqs;           /* sequences in flight; 0 = FK_DEFAULT_NUM_SEQS */
  int64_t max_num_batched_tokens; /* tokens per step; 0 = FK_DEFAULT_BATCHED_TOKENS */
  int64_t num_blocks;             /* of FK_BLOCK_SIZE tokens; 0 = what the requests need, at most FK_MOST_AUTO_BLOCKS
                                     (a million tokens) or what the longest needs */
  bool honour_arrivals;           /* a request waits for its arrival time, on a clock by which a step takes
                                     10 ms and 50 us per token; else all are there from the start */
  int64_t num_embeddings;         /* ids of requests without input_ids lie below it */
  bool state_slots;               /* the model has caches of the kind FK_CACHE_STATE */
} fk_batching_options;

typedef struct fk_batching_stats {
  int64_t steps, requests, finished;
  int64_t prefill_tokens, decode_tokens;  /* computed */
  int64_t output_tokens;                  /* emitted */
  int64_t preemptions, recomputed_tokens; /* tokens whose cache rows a preemption dropped */
  int64_t max_step_tokens, max_decode_batch, max_in_flight, max_blocks_used;
  int64_t max_num_seqs, max_num_batched_tokens, num_blocks, block_size; /* as chosen */
  double seconds;                                                       /* of the simulated clock */
} fk_batching_stats;

typedef struct fk_batcher fk_batcher;

/* Fails when a request can never fit. On failure *batcher is NULL. */
fk_status fk_batcher_create(const fk_batching_options *options, const fk_request *requests, int64_t count,
                            fk_batcher **batcher);
void fk_batcher_destroy(fk_batcher *batcher);

/* Plans a step. *batch (with caches NULL, for the caller to set) lives until the next call; NULL when all is done. */
fk_status fk_batcher_next(fk_batcher *batcher, fk_batch **batch);
/* Ends the step. tokens has one id per row of logits_indices; NULL invents ids. */
fk_status fk_batcher_commit(fk_batcher *batcher, const int32_t *tokens);

const fk_batching_stats *fk_batcher_stats(const fk_batcher *batcher);
/* Checks the whole run once it is done: tokens computed and emitted, blocks returned. */
fk_status fk_batcher_check(const fk_batcher *batcher);
/* What a request has generated so far; count of them. */
const int32_t *fk_batcher_output(const fk_batcher *batcher, int64_t request, int64_t *count);

#endif
