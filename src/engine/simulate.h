/* Simulation: drives a model through a workload, step by step, under a capture.
 *
 * Sequence models go through the batching loop (batching.h); where the device computes, greedy argmax decides the
 * tokens, and a request ends at its output length. Models that take no steps run forward() once per set of inputs. */
#ifndef FK_ENGINE_SIMULATE_H
#define FK_ENGINE_SIMULATE_H

#include "engine/batching.h"
#include "engine/capture.h"
#include "io/tokenizer.h"

typedef struct fk_simulation {
  fk_workload_kind kind;
  fk_batching_stats stats; /* FK_WORKLOAD_SEQUENCES; else only steps and requests */
  size_t cache_bytes;      /* of the model's caches */
  int32_t *first_output;   /* tokens of the first request; owned; NULL on meta */
  int64_t num_first_output;
} fk_simulation;

/* Encodes the requests that have text and no ids. tokenizer NULL is an error when there are any. */
fk_status fk_workload_encode(fk_workload *workload, const fk_tokenizer *tokenizer);

/* Runs the whole workload and finishes the capture. options' num_embeddings and state_slots come from the model. The
 * context's recorder is set meanwhile. On failure *simulation is empty. */
fk_status fk_simulate(fk_context *ctx, const fk_model *model, const fk_workload *workload,
                      const fk_batching_options *options, fk_capture *capture, fk_simulation *simulation);
void fk_simulation_free(fk_simulation *simulation);

/* The shortest way to "what does this model call": opens a model folder or preset on meta and captures a workload
 * (name or path; NULL: the built-in one of the model's name, else one request of four tokens in, two out). On failure
 * *capture is NULL. */
fk_status fk_capture_model(const char *model, const char *workload, int64_t max_requests,
                           const fk_capture_options *options, fk_capture **capture);

#endif
