#include "core/context.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum { DEVICE_CHUNK = 64 << 20 };

const char *fk_backend_name(fk_backend backend) {
  static const char *const names[] = {"ref", "cpu", "cuda", "meta"};
  return (unsigned)backend < FK_BACKENDS ? names[backend] : "?";
}

/* The two symbols that a candidate needs of its host (ffi_host.c) are used by nothing else: this keeps them in a
 * program that links the archive. */
__attribute__((used)) static void *const host_symbols[] = {(void *)TVMFFIErrorSetRaisedFromCStr,
                                                           (void *)TVMFFIEnvGetStream};

/* The built-in implementation of a task on a device: a kernel where there is one, else the composition. */
static fk_impl builtin(fk_context *ctx, const fk_task_entry *entry, int isa) {
  fk_impl impl = {.self = ctx};
  if (ctx->backend == FK_REF) impl.fn = entry->ref;
  if (ctx->backend == FK_CUDA) impl.fn = entry->cuda;
  for (; ctx->backend == FK_CPU && isa >= 0 && !impl.fn; isa--) impl.fn = entry->cpu[isa];
  /* meta expands compositions even where a device has a fused kernel: a capture wants every level. */
  if (!impl.fn && entry->compose) impl = (fk_impl){.fn = entry->compose, .self = ctx, .composite = true};
  return impl;
}

fk_status fk_context_create(const fk_context_options *options, fk_context **out) {
  *out = NULL;
  if ((unsigned)options->backend >= FK_BACKENDS)
    return fk_fail(FK_ERROR_ARGUMENT, "context: expected a backend from 0 to %d, got %d", FK_BACKENDS - 1,
                   (int)options->backend);
  if (options->num_threads < 0)
    return fk_fail(FK_ERROR_ARGUMENT, "context: expected a thread count of 0 or more, got %d", options->num_threads);
  int count;
  const fk_task *const *tasks = fk_tasks(&count);
  if (!tasks) return FK_ERROR_FORMAT; /* the message says which definition, or that memory is short */
  fk_cuda *cuda = NULL;
  if (options->backend == FK_CUDA) FK_TRY(fk_cuda_create(options->device_id, &cuda));
  fk_context *ctx = calloc(1, sizeof *ctx);
  fk_impl *impls = calloc((size_t)count + 1, sizeof *impls);
  if (!ctx || !impls) {
    fk_cuda_destroy(cuda);
    free(ctx);
    free(impls);
    return fk_fail(FK_ERROR_MEMORY, "context: cannot allocate");
  }
  *ctx = (fk_context){.backend = options->backend, .unchecked = options->unchecked, .impls = impls, .cuda = cuda};
  fk_arena_init(&ctx->host, &fk_host_memory, 0);
  if (cuda) fk_arena_init(&ctx->device, fk_cuda_memory(cuda), DEVICE_CHUNK);
  int isa = fk_cpu_isa();
  for (int i = 0; i < count; i++) impls[tasks[i]->index] = builtin(ctx, fk_task_entry_of(tasks[i]), isa);
  ctx->num_threads = options->num_threads;
#ifdef _OPENMP
  /* OpenMP's thread count belongs to the calling thread, as the context does. */
  if (options->num_threads > 0) omp_set_num_threads(options->num_threads);
  ctx->num_threads = omp_get_max_threads();
#endif
  *out = ctx;
  return FK_OK;
}

void fk_context_destroy(fk_context *ctx) {
  if (!ctx) return;
  fk_arena_destroy(&ctx->host);
  fk_arena_destroy(&ctx->device);
  fk_cuda_destroy(ctx->cuda);
  free(ctx->impls);
  free(ctx);
}

fk_backend fk_context_backend(const fk_context *ctx) {
  return ctx->backend;
}

void fk_context_record(fk_context *ctx, fk_recorder *recorder) {
  ctx->recorder = recorder;
}

void fk_context_reset(fk_context *ctx) {
  fk_context_rewind(ctx, (fk_context_mark){0});
  ctx->pending = FK_OK;
}

fk_context_mark fk_context_save(const fk_context *ctx) {
  return (fk_context_mark){fk_arena_save(&ctx->host), fk_arena_save(&ctx->device)};
}

/* Device memory may still be in use by what is queued: whoever gets it next is queued behind. */
void fk_context_rewind(fk_context *ctx, fk_context_mark mark) {
  fk_arena_rewind(&ctx->host, mark.host);
  fk_arena_rewind(&ctx->device, mark.device);
}

fk_cuda *fk_context_cuda(const fk_context *ctx) {
  return ctx->cuda;
}

fk_status fk_sync(fk_context *ctx) {
  return ctx->cuda ? fk_cuda_sync(ctx->cuda) : FK_OK;
}

/* ---- Overrides ------------------------------------------------------------------------------------------- */

/* Tensors of meta contexts have no data, which a foreign kernel cannot know. */
static fk_status overridable(const fk_context *ctx, const char *name, const fk_task **task) {
  *task = fk_task_find(name);
  if (!*task) return FK_ERROR_NOT_FOUND;
  if (ctx->backend != FK_META) return FK_OK;
  return fk_fail(FK_ERROR_UNSUPPORTED, "%s: a meta context computes nothing, so nothing can be overridden", name);
}

fk_status fk_override_fn(fk_context *ctx, const char *name, fk_kernel_fn fn, void *self) {
  const fk_task *task;
  FK_TRY(overridable(ctx, name, &task));
  ctx->impls[task->index] = (fk_impl){.fn = fn, .self = self, .foreign = true};
  return FK_OK;
}

/* ISO C has no cast from object to function pointer; POSIX gives the bits. */
static fk_kernel_fn symbol(void *library, const char *format, const char *task) {
  char name[256];
  snprintf(name, sizeof name, format, task);
  void *address = dlsym(library, name);
  fk_kernel_fn fn;
  memcpy(&fn, &address, sizeof fn);
  return fn;
}

fk_status fk_override(fk_context *ctx, const char *name, const char *path) {
  const fk_task *task;
  FK_TRY(overridable(ctx, name, &task));
  char *full = realpath(path, NULL); /* dlopen would look for a bare file name in the system's folders */
  if (!full) return fk_fail(FK_ERROR_NOT_FOUND, "%s: cannot load: %s", path, strerror(errno));
  void *library = dlopen(full, RTLD_NOW | RTLD_LOCAL);
  free(full);
  if (!library) return fk_fail(FK_ERROR_NOT_FOUND, "%s: cannot load: %s", path, dlerror());
  fk_kernel_fn fn = symbol(library, "__tvm_ffi_%s", name);
  if (!fn) return fk_fail(FK_ERROR_NOT_FOUND, "%s: exports no symbol __tvm_ffi_%s", path, name);
  ctx->impls[task->index] =
      (fk_impl){.fn = fn, .workspace = symbol(library, "__tvm_ffi_%s_workspace", name), .foreign = true};
  return FK_OK;
}

/* ---- Calls ----------------------------------------------------------------------------------------------- */

/* Built-in code returns minus its status; a candidate returns -1, and may have forgotten to say why. */
static fk_status kernel_status(const fk_impl *impl, int rc, unsigned failures) {
  if (rc == 0) return FK_OK;
  if (!impl->foreign && rc < 0 && rc >= -FK_ERROR_KERNEL) return (fk_status)-rc;
  if (fk_failures() == failures) fk_fail(FK_ERROR_KERNEL, "the kernel returned %d and no error message", rc);
  return FK_ERROR_KERNEL;
}

/* Asks a candidate how much scratch it wants and appends it as the last argument. */
static fk_status with_workspace(fk_context *ctx, const fk_task *task, const fk_impl *impl, const fk_any *args,
                                fk_any *extended) {
  fk_any result = {0};
  unsigned failures = fk_failures();
  int rc = impl->workspace(impl->self, args, task->num_args, &result);
  if (rc != 0) return kernel_status(impl, rc, failures);
  if (result.type_index != FK_ANY_INT || result.v.i < 0)
    return fk_fail(FK_ERROR_KERNEL, "%s_workspace: expected a byte count as result", task->name);
  fk_tensor *scratch = fk_empty(ctx, FK_U8, result.v.i);
  if (!scratch) return FK_ERROR_MEMORY;
  memcpy(extended, args, (size_t)task->num_args * sizeof *args);
  extended[task->num_args] = fk_any_tensor(scratch);
  return FK_OK;
}

fk_status fk_impl_call(fk_context *ctx, const fk_task *task, const fk_impl *impl, const fk_any *args) {
  fk_any result = {0}, extended[FK_MAX_ARGS + 1];
  int32_t n = task->num_args;
  if (impl->workspace) {
    FK_TRY(with_workspace(ctx, task, impl, args, extended));
    args = extended;
    n++;
  }
  /* A kernel from outside asks its host for the stream (abi.h); it is this thread's while the call lasts. */
  void *stream = ctx->cuda && impl->foreign ? fk_cuda_stream(ctx->cuda) : NULL;
  if (stream) fk_ffi_set_stream(stream);
  unsigned failures = fk_failures();
  fk_status status = kernel_status(impl, impl->fn(impl->self, args, n, &result), failures);
  if (stream) fk_ffi_set_stream(NULL);
  return status;
}

static fk_status run(fk_context *ctx, const fk_task *task, const fk_impl *impl, const fk_any *args) {
  if (!impl->fn) {
    if (ctx->backend == FK_META) return FK_OK; /* a leaf: its shapes were checked, there is nothing to compute */
    return fk_fail(FK_ERROR_UNSUPPORTED, "no implementation for device %s", fk_backend_name(ctx->backend));
  }
  if (ctx->backend == FK_REF && !impl->composite) return fk_ref_run(ctx, task, impl, args);
  return fk_impl_call(ctx, task, impl, args);
}

static fk_status call_recorded(fk_context *ctx, const fk_task *task, const fk_impl *impl, const fk_any *args,
                               fk_binding *binding) {
  fk_recorder *recorder = ctx->recorder;
  /* A recorder wants every level: no fused kernel stands in for a composition, as on meta. */
  const fk_task_entry *entry = task->index >= 0 ? fk_task_entry_of(task) : NULL;
  const fk_impl composed = {.fn = entry ? entry->compose : NULL, .self = ctx, .composite = true};
  if (composed.fn && !impl->foreign) impl = &composed;
  /* An expression over data that has none stays unbound: the recorder sees what is known. */
  (void)fk_binding_finish(task, args, binding);
  fk_status status = FK_OK;
  if (recorder->enter(recorder, ctx, task, args, binding)) status = run(ctx, task, impl, args);
  recorder->leave(recorder, ctx, task, args, status);
  return status;
}

/* The shapes of a call, for messages of devices whose errors say nothing of the arguments. */
static const char *describe_shapes(const fk_task *task, const fk_any *args, char *text, size_t size) {
  size_t used = (size_t)snprintf(text, size, "(");
  for (int i = 0; i < task->num_args && used < size; i++) {
    const fk_tensor *t = fk_arg_is_tensor(&task->args[i]) ? fk_arg_tensor(&args[i]) : NULL;
    if (!t) continue;
    used += (size_t)snprintf(text + used, size - used, "%s%s %s[", used > 1 ? ", " : "", task->args[i].name,
                             fk_type_name(fk_type_of(t)));
    for (int32_t d = 0; d < t->ndim && used < size; d++)
      used += (size_t)snprintf(text + used, size - used, "%s%lld", d ? ", " : "", (long long)t->shape[d]);
    if (used < size) used += (size_t)snprintf(text + used, size - used, "]");
  }
  if (used < size) snprintf(text + used, size - used, ")");
  return text;
}

fk_status fk_call_task(fk_context *ctx, const fk_task *task, const fk_any *args, int32_t num_args) {
  fk_status status = ctx->pending;
  if (status) {
    ctx->pending = FK_OK;
    return fk_fail_in(status, "%s", task->name);
  }
  const fk_impl *impl = &ctx->impls[task->index];
  fk_context_mark mark = fk_context_save(ctx);
  if (ctx->cuda) FK_TRY(fk_cuda_enter(ctx->cuda));
  if (ctx->recorder || !ctx->unchecked) {
    fk_binding binding;
    status = fk_bind(task, ctx->backend, args, num_args, &binding);
    if (status) return status; /* already names the task */
    status = ctx->recorder ? call_recorded(ctx, task, impl, args, &binding) : run(ctx, task, impl, args);
  } else {
    status = run(ctx, task, impl, args);
  }
  fk_context_rewind(ctx, mark); /* the task's temporaries end with it */
  /* A temporary that failed and that no call has noticed: what was to be written through it was not. */
  if (!status) status = ctx->pending;
  if (!status) return FK_OK;
  ctx->pending = FK_OK;
  char shapes[512];
  return fk_fail_in(status, "%s%s", task->name, ctx->cuda ? describe_shapes(task, args, shapes, sizeof shapes) : "");
}

fk_status fk_call_array(fk_context *ctx, const char *name, const fk_any *args, int32_t num_args) {
  const fk_task *task = fk_task_find(name);
  return task ? fk_call_task(ctx, task, args, num_args) : FK_ERROR_NOT_FOUND;
}
