/* Binding: a call's arguments matched against the task's definition.
 *
 * The one place that checks arguments: counts, kinds, dtypes, ranks, shapes over shared axes, strides, devices,
 * aliasing, attribute ranges and constraints. What it binds (a value per axis) is what FLOPs, bytes, captures and
 * shape inference are computed from. */
#ifndef FK_CORE_BIND_H
#define FK_CORE_BIND_H

#include "core/task.h"

typedef struct fk_binding {
  int64_t symbols[FK_MAX_SYMBOLS]; /* by task->symbols; FK_UNBOUND when no given tensor binds it */
  int layout;                      /* index in task->layouts; 0 when there is one */
  int32_t lead_ndim;               /* the dimensions that an ellipsis stands for */
  int64_t lead[FK_MAX_DIMS];
} fk_binding;

/* Checks args (FK_ERROR_ARGUMENT, naming the task, the argument, what was expected and what came) and fills binding.
 * FK_AXIS_EXPR symbols that read data stay unbound: fk_binding_finish computes them. */
fk_status fk_bind(const fk_task *task, fk_backend backend, const fk_any *args, int32_t num_args, fk_binding *binding);

/* Computes the FK_AXIS_EXPR symbols; those whose data cannot be read stay unbound and return an error. */
fk_status fk_binding_finish(const fk_task *task, const fk_any *args, fk_binding *binding);

/* Shape inference: args hold inputs, weights and attributes (task->num_args - task->num_outputs of them); writes the
 * shape and dtype of each output. */
fk_status fk_infer(const fk_task *task, fk_backend backend, const fk_any *args, int32_t output, int64_t *shape,
                   int32_t *ndim, fk_type *type);

/* The shape of one tensor argument from symbol values alone (input synthesis, stubs). FK_ERROR_ARGUMENT when an axis
 * it needs is unbound. */
fk_status fk_shape_eval(const fk_task *task, const fk_arg *arg, const fk_binding *binding, int64_t *shape,
                        int32_t *ndim);

/* FLOPs of the call by the task's formula, 0 when it has none (a copy). */
fk_status fk_task_flops(const fk_task *task, const fk_any *args, const fk_binding *binding, double *flops);

/* Fewest bytes of memory the call must move: the task's formula, or each input read once, each output written once. */
fk_status fk_task_bytes(const fk_task *task, const fk_any *args, const fk_binding *binding, double *bytes);

#endif
