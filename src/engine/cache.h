/* Caches: the tensors that a sequence model keeps between steps, made from its own description.
 *
 * Paged caches have num_blocks * block_size rows, state caches num_slots entries. All begin as zeros: what a kernel
 * reads before it was written is defined. On meta only shapes exist, on cuda they lie in GPU memory. Owns its tensors
 * and their memory; to be destroyed before the context. */
#ifndef FK_ENGINE_CACHE_H
#define FK_ENGINE_CACHE_H

#include "engine/model.h"

typedef struct fk_caches {
  int count;
  bool has_state;      /* some cache is of the kind FK_CACHE_STATE */
  fk_tensor **tensors; /* for fk_batch.caches */
  size_t bytes;        /* of their content; on meta what it would be */
  fk_arena arena, device;
} fk_caches;

/* On failure nothing is left allocated. */
fk_status fk_caches_create(fk_context *ctx, const fk_model *model, int64_t num_blocks, int64_t block_size,
                           int64_t num_slots, fk_caches *caches);
void fk_caches_destroy(fk_caches *caches);

/* Whether a model needs state_slots. */
bool fk_model_has_state(const fk_model *model);

#endif
