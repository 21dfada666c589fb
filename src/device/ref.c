/* The oracle's device: every float is a double, every integer an int64, every tensor contiguous. That keeps ref.c files
 * free of dtypes and strides, so that they can be obviously right. */
#include <string.h>

#include "core/context.h"

/* The dtype that ref.c sees for a storage dtype. */
static fk_type wide(fk_type type) {
  return fk_type_is_float(type) ? FK_F64 : FK_I64;
}

fk_status fk_ref_run(fk_context *ctx, const fk_task *task, const fk_impl *impl, const fk_any *args) {
  fk_any widened[FK_MAX_ARGS];
  for (int i = 0; i < task->num_args; i++) {
    widened[i] = args[i];
    const fk_tensor *t = fk_arg_is_tensor(&task->args[i]) ? fk_arg_tensor(&args[i]) : NULL;
    if (!t || (fk_type_of(t) == wide(fk_type_of(t)) && fk_is_contiguous(t))) continue;
    fk_tensor *w = fk_empty_shape(ctx, wide(fk_type_of(t)), t->shape, t->ndim);
    if (!w) return FK_ERROR_MEMORY;
    if (task->args[i].role != FK_OUTPUT) FK_TRY(fk_copy(t, w));
    widened[i] = fk_any_tensor(w);
  }
  FK_TRY(fk_impl_call(ctx, task, impl, widened));
  for (int i = 0; i < task->num_args; i++) {
    if (!fk_arg_is_tensor(&task->args[i]) || !fk_arg_is_written(&task->args[i])) continue;
    const fk_tensor *t = fk_arg_tensor(&args[i]), *w = fk_arg_tensor(&widened[i]);
    if (t && t != w) FK_TRY(fk_copy(w, t));
  }
  return FK_OK;
}
