/* Steps of sequence models: the level-4 definition of a step, how a step ends, and forward() as one step.
 *
 * A model is no task of the registry: its definition is made here, named <class>_step, has index -1, and states no
 * FLOPs of its own (they are the sum of its calls). */
#ifndef FK_ENGINE_STEP_H
#define FK_ENGINE_STEP_H

#include "engine/model.h"

/* Index tensors in, logits out; weights and caches stay inside the model. */
fk_status fk_step_task(fk_arena *arena, const fk_model_class *class, const fk_task **task);

/* The same for a model that takes no steps: <class>_forward, with the inputs that the class declares. Outputs are the
 * model's own temporaries and not part of the definition. */
fk_status fk_forward_task(fk_arena *arena, const fk_model_class *class, const fk_task **task);

/* class->forward(), of which the recorder is told as one level-4 call. */
fk_status fk_forward_run(fk_context *ctx, const fk_model *model, const fk_tensors *inputs, fk_tensors *outputs);

/* Whether a batch that has been bound to the definition reads only what is there; index tensors that the host cannot
 * read pass. */
fk_status fk_step_check(const fk_model *model, const fk_batch *batch);

/* forward() of a causal language model with the inputs of transformers: input_ids [B, S], optional attention_mask
 * [B, S] (0 = padding, anywhere) and position_ids [B, S] or [1, S] (default: 0 to S - 1, whatever the mask). Puts the
 * output [B, S, output_size] under the given name, in float32 (float64 on ref); rows of padding are zero.
 *
 * Real tokens are packed, so padding is never computed. As in transformers, position_ids that do not count up by one
 * start another sequence, when there is no attention_mask. */
fk_status fk_causal_forward(fk_context *ctx, const fk_model *model, const char *output, const fk_tensors *inputs,
                            fk_tensors *outputs);

/* The end of a step of a pre-norm decoder: the last norm, the wanted rows, the head. `residual` [T, hidden_size] holds
 * the sum before the last layer's output, which is `hidden` (written over); without layers `residual` is all there is.
 * logits [N, output_size] are the rows of batch->logits_indices times lm_head [vocab_size, hidden_size], or without
 * head those rows themselves. */
typedef struct fk_step_end {
  fk_tensor *hidden, *residual;
  const fk_tensor *norm, *lm_head; /* [hidden_size]; lm_head may be NULL */
  double epsilon;
  bool has_layers;
} fk_step_end;
fk_status fk_step_finish(fk_context *ctx, const fk_step_end *end, const fk_batch *batch, fk_tensor *logits);

#endif
