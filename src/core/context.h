/* Context: what one thread needs to compute tasks on one device. The public half is fastkernels.h. */
#ifndef FK_CORE_CONTEXT_H
#define FK_CORE_CONTEXT_H

#include "core/bind.h"
#include "core/registry.h"
#include "device/cuda.h"

/* Sees every call of every level, in order: enter before a task runs, leave after. */
typedef struct fk_recorder {
  /* binding holds the call's axes (expression axes too, where readable). Returning false skips the task: only for
   * meta contexts, where a composite that was seen before need not be expanded again. */
  bool (*enter)(struct fk_recorder *self, fk_context *ctx, const fk_task *task, const fk_any *args,
                const fk_binding *binding);
  /* Called for each entered task, skipped ones included. */
  void (*leave)(struct fk_recorder *self, fk_context *ctx, const fk_task *task, const fk_any *args, fk_status status);
} fk_recorder;

/* What a context runs for one task. */
typedef struct fk_impl {
  fk_kernel_fn fn;
  void *self;             /* the context for built-in code, else the override's */
  fk_kernel_fn workspace; /* __tvm_ffi_<task>_workspace of a candidate, or NULL */
  bool composite;         /* compose.c: runs on any device by calling other tasks */
  bool foreign;           /* an override */
} fk_impl;

struct fk_context {
  fk_backend backend;
  bool unchecked;
  int num_threads;
  fk_arena host;   /* descriptors, and temporaries in host memory */
  fk_cuda *cuda;   /* of a cuda context */
  fk_arena device; /* temporaries of a cuda context */
  fk_impl *impls;  /* by task->index */
  fk_recorder *recorder;
  fk_status pending; /* a failed fk_empty or view, reported by the next call */
};

/* recorder may be NULL; it must outlive its use. */
void fk_context_record(fk_context *ctx, fk_recorder *recorder);

/* Calls impl with args (or args and its workspace) and turns its return code into a status. */
fk_status fk_impl_call(fk_context *ctx, const fk_task *task, const fk_impl *impl, const fk_any *args);

/* Where the context's temporaries stand: what is allocated after save is dropped by rewind. */
typedef struct fk_context_mark {
  fk_arena_mark host, device;
} fk_context_mark;
fk_context_mark fk_context_save(const fk_context *ctx);
void fk_context_rewind(fk_context *ctx, fk_context_mark mark);

/* Scratch bytes for plain C on any device, as fk_scratch otherwise. */
static inline void *fk_host_scratch(fk_context *ctx, size_t bytes) {
  return fk_arena_alloc(&ctx->host, bytes, 64);
}

/* fk_to_host and fk_to_device in place, for callers that return a status; NULL stays NULL. */
static inline fk_status fk_moved(fk_context *ctx, fk_tensor **t, fk_tensor *moved) {
  fk_status status = *t && !moved ? ctx->pending : FK_OK;
  if (status) ctx->pending = FK_OK;
  *t = moved;
  return status;
}
static inline fk_status fk_move_to_host(fk_context *ctx, fk_tensor **t) {
  return fk_moved(ctx, t, fk_to_host(ctx, *t));
}
static inline fk_status fk_move_to_device(fk_context *ctx, fk_tensor **t) {
  return fk_moved(ctx, t, fk_to_device(ctx, *t));
}

/* The stream that TVMFFIEnvGetStream gives the kernels that this thread calls (core/ffi_host.c). */
void fk_ffi_set_stream(void *stream);

/* The GPU of a cuda context, else NULL. */
fk_cuda *fk_context_cuda(const fk_context *ctx);

/* How many errors this thread has met: tells whether a call that failed left a message. */
unsigned fk_failures(void);

/* Runs fn on contiguous double and int64 copies of the tensors, and copies what it wrote back (device/ref.c). */
fk_status fk_ref_run(fk_context *ctx, const fk_task *task, const fk_impl *impl, const fk_any *args);

#endif
