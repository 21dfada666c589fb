#include "judge/runner_gpu.h"

#include <stdio.h>
#include <stdlib.h>

#include "judge/score.h"

enum { EMPTY_SAMPLES = 21 };

struct fk_runner_gpu {
  fk_context *ctx;
  fk_cuda *cuda;
  char *base, *flush;
  const char *last; /* the shared buffer that was taken last */
  uint64_t bytes;
  size_t flush_bytes;
  bool foreign;
  int64_t comm; /* of the group that computes together, or 0 */
  fk_cuda_graph *graph;
  fk_cuda_timer *timer;
};

fk_status fk_runner_gpu_open(fk_context *ctx, uint64_t bytes, bool foreign, int64_t comm, fk_runner_gpu **out) {
  *out = NULL;
  fk_cuda_info info;
  FK_TRY(fk_cuda_describe(ctx->cuda, &info));
  fk_runner_gpu *gpu = calloc(1, sizeof *gpu);
  if (!gpu) return fk_fail(FK_ERROR_MEMORY, "runner: cannot allocate");
  *gpu = (fk_runner_gpu){.ctx = ctx, .cuda = ctx->cuda, .bytes = bytes, .foreign = foreign, .comm = comm};
  gpu->flush_bytes = 3 * info.l2_bytes;
  fk_memory *memory = fk_cuda_memory(gpu->cuda);
  gpu->base = memory->alloc(memory, bytes + 64);
  gpu->flush = memory->alloc(memory, gpu->flush_bytes);
  if (!gpu->base || !gpu->flush) {
    if (gpu->base) memory->release(memory, gpu->base, bytes + 64);
    free(gpu);
    return fk_fail(FK_ERROR_MEMORY, "runner: no GPU memory for a case of %llu bytes", (unsigned long long)bytes);
  }
  fk_status status = fk_cuda_timer_create(gpu->cuda, &gpu->timer);
  /* Everything that a first call would set up, before the sandbox closes. */
  if (!status) status = fk_cuda_upload(gpu->cuda, gpu->flush, &info, sizeof info);
  if (!status) status = fk_cuda_fill(gpu->cuda, gpu->flush, 1, gpu->flush_bytes);
  if (!status) status = fk_cuda_read(gpu->cuda, gpu->flush, gpu->flush_bytes);
  if (!status) status = fk_cuda_sync(gpu->cuda);
  if (status) {
    memory->release(memory, gpu->base, bytes + 64);
    memory->release(memory, gpu->flush, gpu->flush_bytes);
    free(gpu);
    return status;
  }
  *out = gpu;
  return FK_OK;
}

char *fk_runner_gpu_base(const fk_runner_gpu *gpu) {
  return gpu->base;
}

fk_status fk_runner_gpu_take(fk_runner_gpu *gpu, const char *buffer) {
  gpu->last = buffer;
  FK_TRY(fk_cuda_upload(gpu->cuda, gpu->base, buffer, gpu->bytes));
  return fk_cuda_sync(gpu->cuda);
}

fk_status fk_runner_gpu_give(fk_runner_gpu *gpu, char *buffer) {
  return fk_cuda_download(gpu->cuda, buffer, gpu->base, gpu->bytes);
}

/* A fresh recording; what the eager call of the baseline wrote is undone. */
static fk_status record(fk_runner_gpu *gpu, const fk_task *task, const fk_any *args) {
  fk_cuda_choice_reset(gpu->cuda);
  if (!gpu->foreign) {
    FK_TRY(fk_call_task(gpu->ctx, task, args, task->num_args));
    FK_TRY(fk_runner_gpu_take(gpu, gpu->last));
  }
  FK_TRY(fk_cuda_graph_begin(gpu->cuda));
  fk_status status = fk_call_task(gpu->ctx, task, args, task->num_args);
  char why[512];
  snprintf(why, sizeof why, "%s", status ? fk_last_error() : "");
  fk_cuda_graph *graph;
  fk_status ended = fk_cuda_graph_end(gpu->cuda, &graph);
  if (status) {
    fk_cuda_graph_destroy(graph);
    return fk_fail(status, "%s", why);
  }
  if (ended) return fk_fail_in(ended, "what the call queued is no graph");
  /* NCCL marks its own streams by events. */
  const char *alien = fk_cuda_graph_foreign(graph, gpu->comm != 0);
  if (alien && gpu->foreign) {
    fk_cuda_graph_destroy(graph);
    return fk_fail(FK_ERROR_KERNEL, "the call queued %s: only kernels, memsets and copies within the GPU may be",
                   alien);
  }
  gpu->graph = graph;
  return FK_OK;
}

/* A replay between two events, waited for. */
static fk_status time_graph(fk_runner_gpu *gpu, fk_cuda_graph *graph, int64_t *nanoseconds) {
  double milliseconds = 0;
  FK_TRY(fk_cuda_timer_start(gpu->cuda, gpu->timer));
  FK_TRY(fk_cuda_graph_launch(gpu->cuda, graph));
  FK_TRY(fk_cuda_timer_stop(gpu->cuda, gpu->timer));
  FK_TRY(fk_cuda_timer_elapsed(gpu->cuda, gpu->timer, &milliseconds));
  *nanoseconds = (int64_t)(milliseconds * 1e6);
  return FK_OK;
}

fk_status fk_runner_gpu_run(fk_runner_gpu *gpu, const fk_task *task, const fk_any *args, int64_t *nanoseconds) {
  *nanoseconds = 0;
  if (!gpu->graph) FK_TRY(record(gpu, task, args));
  FK_TRY(fk_cuda_read(gpu->cuda, gpu->flush, gpu->flush_bytes));
  if (gpu->comm) FK_TRY(fk_cuda_barrier(gpu->cuda, gpu->comm));
  FK_TRY(time_graph(gpu, gpu->graph, nanoseconds));
  return fk_cuda_sync(gpu->cuda);
}

int64_t fk_runner_gpu_overhead(fk_runner_gpu *gpu) {
  fk_cuda_graph *empty = NULL;
  double samples[EMPTY_SAMPLES];
  fk_status status = fk_cuda_graph_begin(gpu->cuda);
  if (!status) status = fk_cuda_graph_end(gpu->cuda, &empty);
  for (int i = -1; i < EMPTY_SAMPLES && !status; i++) {
    int64_t nanoseconds = 0;
    status = time_graph(gpu, empty, &nanoseconds);
    if (i >= 0) samples[i] = (double)nanoseconds;
  }
  fk_cuda_graph_destroy(empty);
  return status ? 0 : (int64_t)fk_median(samples, EMPTY_SAMPLES);
}

void fk_runner_gpu_chosen(const fk_runner_gpu *gpu, char *text, size_t size) {
  fk_cuda_choice(gpu->cuda, text, size);
}
