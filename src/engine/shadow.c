#include "engine/shadow.h"

#include <string.h>

enum { CHUNK = 1 << 20 };

struct fk_shadow {
  const void *data; /* in GPU memory */
  size_t bytes;
  void *copy;
  struct fk_shadow *next;
};

void fk_shadows_init(fk_shadows *s) {
  *s = (fk_shadows){0};
  fk_arena_init(&s->arena, &fk_host_memory, CHUNK);
}

void fk_shadows_drop(fk_shadows *s) {
  fk_arena_rewind(&s->arena, (fk_arena_mark){0});
  s->kept = NULL;
}

void fk_shadows_destroy(fk_shadows *s) {
  fk_arena_destroy(&s->arena);
  s->kept = NULL;
}

/* Bytes from the first element to the last, whatever lies between; 0 for no elements, or strides that go back. */
static size_t span(const fk_tensor *t) {
  int64_t last = 0;
  if (fk_numel(t) == 0) return 0;
  for (int32_t d = 0; d < t->ndim; d++) {
    if (fk_stride(t, d) < 0) return 0;
    last += (t->shape[d] - 1) * fk_stride(t, d);
  }
  return fk_type_bytes(fk_type_of(t), last + 1);
}

fk_status fk_shadow_make(fk_shadows *s, fk_cuda *cuda, const fk_tensor *t, bool keep, fk_tensor *copy) {
  *copy = *t;
  copy->device = (fk_device){FK_DL_CPU, 0};
  copy->byte_offset = 0;
  copy->data = NULL;
  size_t bytes = span(t);
  if (bytes > FK_MAX_SHADOW || (bytes == 0 && fk_numel(t) > 0)) return FK_OK;
  for (const struct fk_shadow *k = s->kept; k; k = k->next)
    if (k->data == fk_data(t) && k->bytes == bytes) {
      copy->data = k->copy;
      return FK_OK;
    }
  void *host = fk_arena_alloc(&s->arena, bytes, 64);
  if (!host) return FK_ERROR_MEMORY;
  FK_TRY(fk_cuda_download(cuda, host, fk_data(t), bytes));
  copy->data = host;
  if (!keep) return FK_OK;
  struct fk_shadow *entry = fk_arena_calloc(&s->arena, 1, sizeof *entry);
  if (!entry) return FK_ERROR_MEMORY;
  *entry = (struct fk_shadow){fk_data(t), bytes, host, s->kept};
  s->kept = entry;
  return FK_OK;
}

fk_status fk_shadow_args(fk_shadows *s, fk_cuda *cuda, const fk_task *task, const fk_any *args, fk_tensor *copies,
                         fk_any *host_args) {
  for (int i = 0; i < task->num_args; i++) {
    const fk_arg *arg = &task->args[i];
    const fk_tensor *t = fk_arg_is_tensor(arg) ? fk_arg_tensor(&args[i]) : NULL;
    host_args[i] = args[i];
    if (!t || !t->data || t->device.type != FK_DL_CUDA || arg->role == FK_OUTPUT) continue;
    if (!fk_type_is_int(fk_type_of(t)) && fk_type_of(t) != FK_BOOL) continue;
    FK_TRY(fk_shadow_make(s, cuda, t, task->index < 0, &copies[i]));
    if (copies[i].data) host_args[i] = fk_any_tensor(&copies[i]);
  }
  return FK_OK;
}
