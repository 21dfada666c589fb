/* The runner: loads one kernel in a sandbox and calls it when told. Its grader trusts nothing of what it says but the
 * bytes it leaves in the output tensors, and its clock only as far as the grader's own agrees. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/context.h"
#include "judge/protocol.h"
#include "judge/runner_gpu.h"
#include "judge/sandbox.h"

typedef struct runner {
  fk_shared_header header; /* a private copy: the call may scribble over the shared one */
  char *buffer;
  char *flush; /* a memory walk of flush_bytes evicts everything smaller */
  fk_context *ctx;
  const fk_task *task;
  fk_any args[FK_MAX_ARGS];
  fk_tensor tensors[FK_MAX_ARGS];
  fk_runner_gpu *gpu; /* NULL when the call runs on the processor */
} runner;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool answer(const fk_message *m) {
  ssize_t n;
  do n = write(FK_RUNNER_SOCKET_FD, m, sizeof *m);
  while (n < 0 && errno == EINTR);
  return n == (ssize_t)sizeof *m;
}

static int refuse(const char *why) {
  fk_message m = {.kind = FK_MESSAGE_REFUSED};
  snprintf(m.text, sizeof m.text, "%s", why);
  return answer(&m) ? 0 : 2;
}

static bool map_shared(runner *r) {
  struct stat st;
  if (fstat(FK_RUNNER_MEMORY_FD, &st) != 0 || st.st_size < (off_t)sizeof r->header) return false;
  char *base = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, FK_RUNNER_MEMORY_FD, 0);
  if (base == MAP_FAILED) return false;
  memcpy(&r->header, base, sizeof r->header);
  const fk_shared_header *h = &r->header;
  if (h->magic != FK_SHARED_MAGIC || h->size != (uint64_t)st.st_size || h->buffer > h->size ||
      h->length > h->size - h->buffer || h->num_args < 0 || h->num_args > FK_MAX_ARGS ||
      (h->world_size > 1 && (h->comm_arg < 0 || h->comm_arg >= h->num_args)))
    return false;
  r->buffer = base + h->buffer;
  close(FK_RUNNER_MEMORY_FD);
  return true;
}

/* Descriptors anew for every call: the last call may have changed them. */
static void make_args(runner *r) {
  const fk_shared_header *h = &r->header;
  static int64_t shapes[FK_MAX_ARGS][FK_MAX_DIMS], strides[FK_MAX_ARGS][FK_MAX_DIMS];
  for (int i = 0; i < h->num_args; i++) {
    const fk_shared_tensor *t = &h->tensors[i];
    r->args[i] = h->attributes[i];
    if (!t->given) continue;
    memcpy(shapes[i], t->shape, sizeof shapes[i]);
    memcpy(strides[i], t->strides, sizeof strides[i]);
    char *base = r->gpu ? fk_runner_gpu_base(r->gpu) : r->buffer;
    r->tensors[i] = (fk_tensor){.data = base + t->data,
                                .device = {r->gpu ? FK_DL_CUDA : FK_DL_CPU, r->gpu ? h->device_id : 0},
                                .ndim = t->ndim,
                                .dtype = fk_dtype_from((fk_type)t->type),
                                .shape = shapes[i],
                                .strides = strides[i]};
    r->args[i] = fk_any_tensor(&r->tensors[i]);
  }
}

/* Every thread's core loses what it has cached. */
static void walk(const runner *r) {
#pragma omp parallel
  for (uint64_t i = 0; i < r->header.flush_bytes; i += 64) ((volatile char *)r->flush)[i];
}

static fk_message run_once(runner *r) {
  fk_message m = {.kind = FK_MESSAGE_DONE};
  make_args(r);
  fk_context_reset(r->ctx);
  int64_t start = now();
  fk_status status = r->gpu ? fk_runner_gpu_run(r->gpu, r->task, r->args, &m.nanoseconds)
                            : fk_call_task(r->ctx, r->task, r->args, r->header.num_args);
  if (!r->gpu) m.nanoseconds = now() - start;
  m.rc = status;
  if (status)
    snprintf(m.text, sizeof m.text, "%s", fk_last_error());
  else if (r->gpu)
    fk_runner_gpu_chosen(r->gpu, m.text, sizeof m.text);
  return m;
}

/* Commands until the grader hangs up. */
static int serve(runner *r) {
  fk_message m;
  for (;;) {
    ssize_t n = read(FK_RUNNER_SOCKET_FD, &m, sizeof m);
    if (n < 0 && errno == EINTR) continue;
    if (n != (ssize_t)sizeof m) return 0;
    uint64_t nonce = m.nonce;
    if (m.kind == FK_MESSAGE_FLUSH) {
      if (!r->gpu)
        walk(r);
      else if (fk_runner_gpu_take(r->gpu, r->buffer) != FK_OK)
        return 2;
    } else if (m.kind == FK_MESSAGE_FETCH && r->gpu) {
      if (fk_runner_gpu_give(r->gpu, r->buffer) != FK_OK) return 2;
    } else if (m.kind == FK_MESSAGE_RUN) {
      m = run_once(r);
    } else {
      return 2;
    }
    m.nonce = nonce;
    if (!answer(&m)) return 0;
  }
}

/* Joins its group too, before the sandbox forbids sockets. */
static fk_status open_gpu(runner *r) {
  fk_shared_header *h = &r->header;
  int64_t comm = 0;
  if (h->world_size > 1) {
    FK_TRY(fk_cuda_join(r->ctx->cuda, h->group, h->rank, h->world_size, &comm));
    h->attributes[h->comm_arg] = fk_any_int(comm);
  }
  return fk_runner_gpu_open(r->ctx, h->length, *h->candidate != 0, comm, &r->gpu);
}

int fk_runner_main(void) {
  static runner r;
  fk_message ready = {.kind = FK_MESSAGE_READY};
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (!map_shared(&r)) return refuse("runner: the shared memory is not what it should be");
  bool with_gpu = r.header.backend == FK_CUDA;
  fk_context_options options = {.backend = with_gpu ? FK_CUDA : FK_CPU,
                                .num_threads = r.header.threads,
                                .device_id = r.header.device_id,
                                .unchecked = true};
  r.task = fk_task_find(r.header.task);
  if (!r.task || fk_context_create(&options, &r.ctx) != FK_OK) return refuse(fk_last_error());
  if (with_gpu && open_gpu(&r) != FK_OK) return refuse(fk_last_error());
  if (with_gpu) {
    r.header.flush_bytes = 0; /* the GPU's caches are flushed there */
    ready.nanoseconds = fk_runner_gpu_overhead(r.gpu);
  }
  r.flush = malloc(r.header.flush_bytes + 64);
  if (!r.flush) return refuse("runner: no memory for the cache walk");
  memset(r.flush, 1, r.header.flush_bytes + 64);
  walk(&r); /* also starts the threads */
  fk_sandbox_enter(r.header.memory_bytes, r.header.cpu_seconds, with_gpu, r.header.world_size > 1, ready.text,
                   sizeof ready.text);
  /* Its constructors run in here, so the sandbox comes first. */
  if (*r.header.candidate && fk_override(r.ctx, r.header.task, r.header.candidate) != FK_OK)
    return refuse(fk_last_error());
  if (!answer(&ready)) return 2;
  return serve(&r);
}
