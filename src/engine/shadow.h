/* Shadows: copies in host memory of what a capture reads of tensors in GPU memory.
 *
 * A shadow lives until fk_shadows_drop. Tensors that are kept stay as they are until then (the index tensors of a
 * step): they are carried over once. Every other copy waits for the GPU. */
#ifndef FK_ENGINE_SHADOW_H
#define FK_ENGINE_SHADOW_H

#include "core/context.h"

/* A larger tensor has no shadow. */
#define FK_MAX_SHADOW ((size_t)64 << 20)

typedef struct fk_shadows {
  fk_arena arena;
  struct fk_shadow *kept;
} fk_shadows;

void fk_shadows_init(fk_shadows *shadows);
void fk_shadows_drop(fk_shadows *shadows);
void fk_shadows_destroy(fk_shadows *shadows);

/* Makes *copy describe the same numbers in host memory, with t's shape and strides; copy->data is NULL when t is too
 * large. */
fk_status fk_shadow_make(fk_shadows *shadows, fk_cuda *cuda, const fk_tensor *t, bool keep, fk_tensor *copy);

/* The call as the host sees it: integer inputs of args in GPU memory become shadows in copies[task->num_args], and
 * host_args refers to them; all else is args. Level-4 tasks' tensors are kept. */
fk_status fk_shadow_args(fk_shadows *shadows, fk_cuda *cuda, const fk_task *task, const fk_any *args, fk_tensor *copies,
                         fk_any *host_args);

#endif
