/* Any bytes as a task definition: an error or a task, never a crash; what is accepted can be bound and evaluated. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/bind.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void exercise(const fk_task *task) {
  fk_any args[FK_MAX_ARGS] = {0};
  fk_tensor tensors[FK_MAX_ARGS];
  int64_t shape[FK_MAX_DIMS] = {2, 2, 2, 2, 2, 2, 2, 2}, inferred[FK_MAX_DIMS];
  float storage[256] = {0};
  for (int i = 0; i < task->num_args; i++) {
    const fk_arg *arg = &task->args[i];
    args[i] = fk_any_int(1);
    if (!fk_arg_is_tensor(arg)) continue;
    tensors[i] = (fk_tensor){.data = storage,
                             .device = {FK_DL_CPU, 0},
                             .ndim = arg->shapes[0].ndim,
                             .dtype = fk_dtype_from(FK_F32),
                             .shape = shape};
    args[i] = arg->optional ? (fk_any){0} : fk_any_tensor(&tensors[i]);
  }
  fk_binding binding;
  double amount;
  if (fk_bind(task, FK_CPU, args, task->num_args, &binding) == FK_OK) {
    if (fk_binding_finish(task, args, &binding) == FK_OK) {
      (void)fk_task_flops(task, args, &binding, &amount);
      (void)fk_task_bytes(task, args, &binding, &amount);
    }
  }
  for (int32_t o = 0; o < task->num_outputs; o++) {
    int32_t ndim;
    fk_type type;
    (void)fk_infer(task, FK_CPU, args, o, inferred, &ndim, &type);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fk_arena arena;
  fk_arena_init(&arena, &fk_host_memory, 1 << 16);
  fk_task *task;
  fk_status status = fk_task_parse(&arena, (const char *)data, size, "fuzz", &task);
  if ((status == FK_OK) != (task != NULL)) abort();
  if (task) exercise(task);
  fk_arena_destroy(&arena);
  return 0;
}
