/* The FastKernels library.
 *
 * Four objects:
 *  - a *task* is an operator with a name and a definition (task.json): "rms_norm", "llama_mlp", ... Tasks are
 *    built in, immutable, and found by name;
 *  - a *context* computes tasks on one device: ref (double, the oracle), cpu, cuda, or meta (shapes only). It owns
 *    temporaries, overrides and the recorder. One context belongs to one thread at a time;
 *  - a *tensor* (abi.h) is a view of memory that somebody else owns: an arena of the context or of a model, or the
 *    caller;
 *  - a *model* (model.h) is a network bound to weights, computed by tasks only.
 *
 * Every fallible function follows status.h. The library never prints and never exits. */
#ifndef FASTKERNELS_FASTKERNELS_H
#define FASTKERNELS_FASTKERNELS_H

#include <stdbool.h>

#include "fastkernels/abi.h"
#include "fastkernels/detail/any_list.h"
#include "fastkernels/status.h"

#define FK_VERSION "0.1.0"

/* The shared library exports what this header declares, and nothing else. */
#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

enum { FK_MAX_DIMS = 8, FK_MAX_ARGS = 64, FK_MAX_SYMBOLS = 64 };

/* ---- Devices and contexts -------------------------------------------------------------------------------- */

typedef enum fk_backend {
  FK_REF,  /* CPU memory, every number in double, plain loops: the oracle */
  FK_CPU,  /* CPU memory, the production baseline */
  FK_CUDA, /* GPU memory */
  FK_META, /* shapes only; float tensors have no data, integer tensors may */
  FK_BACKENDS
} fk_backend;

typedef struct fk_context fk_context;
typedef struct fk_task fk_task;

typedef struct fk_context_options {
  fk_backend backend;
  int num_threads; /* CPU threads; 0 = as OpenMP would choose */
  bool unchecked;  /* skip the argument check of every call: for hot paths that have been run checked */
  int device_id;   /* of cuda: which GPU */
} fk_context_options;

/* On failure *ctx is NULL. */
fk_status fk_context_create(const fk_context_options *options, fk_context **ctx);
void fk_context_destroy(fk_context *ctx);
fk_backend fk_context_backend(const fk_context *ctx);
const char *fk_backend_name(fk_backend backend);

/* ---- Tensors --------------------------------------------------------------------------------------------- */

const char *fk_type_name(fk_type type);              /* "float32", "bfloat16", ..., "?" when unknown */
bool fk_type_parse(const char *name, fk_type *type); /* also the safetensors spellings "F32", "BF16", ... */
size_t fk_type_bits(fk_type type);
bool fk_type_is_float(fk_type type); /* floating point of any width */
bool fk_type_is_int(fk_type type);   /* signed or unsigned integer, not bool */

/* Bytes of n elements (sub-byte types are packed, rounded up). */
size_t fk_type_bytes(fk_type type, int64_t n);

/* Temporaries of the running task: uninitialised, contiguous, alive until the task returns (outside any task,
 * until fk_context_reset). NULL with the error set when there is no memory or a dimension is negative; the next
 * fk_call then fails with that error, so a compose need not test every temporary. */
fk_tensor *fk_empty_shape(fk_context *ctx, fk_type type, const int64_t *shape, int32_t ndim);
#define fk_empty(ctx, type, ...) fk_empty_shape(ctx, type, (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__))
fk_tensor *fk_empty_like(fk_context *ctx, const fk_tensor *like);

/* The same in host memory, whatever the device: what a model computes with plain C (indices, masks). */
fk_tensor *fk_host_shape(fk_context *ctx, fk_type type, const int64_t *shape, int32_t ndim);
#define fk_host(ctx, type, ...) fk_host_shape(ctx, type, (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__))

/* A host tensor where the context's tasks can use it, and a device tensor where C can: t itself on host devices (and
 * NULL for NULL), else a contiguous copy, a temporary. fk_to_device needs a contiguous tensor and returns at once, t
 * may then be changed; fk_to_host waits for the device. NULL with the error set on failure, as fk_empty. */
fk_tensor *fk_to_device(fk_context *ctx, fk_tensor *t);
fk_tensor *fk_to_host(fk_context *ctx, fk_tensor *t);

/* Fills a contiguous tensor with zero bytes, on any device. */
fk_status fk_zero(fk_context *ctx, fk_tensor *t);

/* Waits until the device has done everything it was asked for, and reports what failed: on cuda an error of a kernel,
 * or an index that was out of range, shows here and not in the call. */
fk_status fk_sync(fk_context *ctx);

/* Views, without copying. They live as long as temporaries and fail like them. */
fk_tensor *fk_view_shape(fk_context *ctx, const fk_tensor *t, const int64_t *shape, int32_t ndim);
#define fk_view(ctx, t, ...) fk_view_shape(ctx, t, (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__))
/* Elements [start, start+length) of one axis (negative axes count from the end). */
fk_tensor *fk_slice(fk_context *ctx, const fk_tensor *t, int32_t axis, int64_t start, int64_t length);
/* A tensor over memory of the caller, which must be of the context's device; contiguous when strides is NULL. */
fk_tensor *fk_wrap(fk_context *ctx, void *data, fk_type type, const int64_t *shape, int32_t ndim,
                   const int64_t *strides);

bool fk_is_contiguous(const fk_tensor *t);

/* Copies between tensors of equal shape, any strides; converts the dtype (rounding to nearest even; float to
 * integer is refused). Host tensors only: fk_to_host and fk_to_device carry them over. */
fk_status fk_copy(const fk_tensor *from, const fk_tensor *to);

/* Scratch bytes for a kernel in the device's memory, 64-byte aligned, alive until the task returns; NULL with the error
 * set. */
void *fk_scratch(fk_context *ctx, size_t bytes);

/* Drops all temporaries; only between calls. */
void fk_context_reset(fk_context *ctx);

/* ---- Calling tasks --------------------------------------------------------------------------------------- */

static inline fk_any fk_any_int(int64_t i) {
  fk_any any = {FK_ANY_INT, 0, {i}};
  return any;
}
static inline fk_any fk_any_tensor(const fk_tensor *t) {
  fk_any any = {t ? FK_ANY_DLTENSOR : FK_ANY_NONE, 0, {0}};
  any.v.p = (void *)t;
  return any;
}
static inline fk_any fk_any_bool(bool b) {
  fk_any any = {FK_ANY_BOOL, 0, {b}};
  return any;
}
static inline fk_any fk_any_float(double f) {
  fk_any any = {FK_ANY_FLOAT, 0, {0}};
  any.v.f = f;
  return any;
}
static inline fk_any fk_any_none(const void *null_pointer) {
  (void)null_pointer;
  fk_any any = {FK_ANY_NONE, 0, {0}};
  return any;
}
static inline fk_any fk_any_same(fk_any any) {
  return any;
}

#define FK_ANY(x) \
  _Generic((x),                                                                                                        \
      fk_any: fk_any_same,                                                                                             \
      fk_tensor *: fk_any_tensor,                                                                                      \
      const fk_tensor *: fk_any_tensor,                                                                                \
      void *: fk_any_none,                                                                                             \
      bool: fk_any_bool,                                                                                               \
      float: fk_any_float,                                                                                             \
      double: fk_any_float,                                                                                            \
      default: fk_any_int)(x)

/* Runs a task: fk_call(ctx, "rms_norm", x, weight, epsilon, out). Arguments in the order of the definition:
 * inputs, weights, attributes, outputs; NULL for an optional tensor that is absent. Checks them against the
 * definition unless the context is unchecked, tells the recorder, and runs the override or the implementation
 * of the context's device. */
#define fk_call(ctx, task, ...) \
  fk_call_array(ctx, task, (const fk_any[]){FK_ANY_LIST(__VA_ARGS__)}, FK_NARGS(__VA_ARGS__))

fk_status fk_call_array(fk_context *ctx, const char *task, const fk_any *args, int32_t num_args);
/* The same with the task already looked up. */
fk_status fk_call_task(fk_context *ctx, const fk_task *task, const fk_any *args, int32_t num_args);

/* From now on this context computes the task with the kernel that a shared object exports as
 * __tvm_ffi_<task> (every caller at a higher level follows). The object stays loaded until the process ends. */
fk_status fk_override(fk_context *ctx, const char *task, const char *path);
/* The same with a function of this process; self is passed on to it. */
fk_status fk_override_fn(fk_context *ctx, const char *task, fk_kernel_fn fn, void *self);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif
