/* The runner's part on a GPU: a twin of the shared buffer in the GPU's memory, and the call as a CUDA graph.
 *
 * A candidate's host code runs exactly once, under stream capture; what it recorded is inspected (kernels, memsets and
 * copies within the GPU, everything joined to the capturing stream) and then replayed for every sample. The built-in
 * baseline is called once before, so that what chooses by measurement has chosen. */
#ifndef FK_JUDGE_RUNNER_GPU_H
#define FK_JUDGE_RUNNER_GPU_H

#include "core/context.h"

typedef struct fk_runner_gpu fk_runner_gpu;

/* ctx is a cuda context that outlives it; bytes is the size of the buffer; comm: of the group that computes together,
 * or 0. Lives until the process ends. */
fk_status fk_runner_gpu_open(fk_context *ctx, uint64_t bytes, bool foreign, int64_t comm, fk_runner_gpu **gpu);
char *fk_runner_gpu_base(const fk_runner_gpu *gpu); /* of the twin */

/* The shared buffer to the GPU, and back. */
fk_status fk_runner_gpu_take(fk_runner_gpu *gpu, const char *buffer);
fk_status fk_runner_gpu_give(fk_runner_gpu *gpu, char *buffer);

/* One replay with the L2 cache flushed before it; the time is the GPU's, between two events. Ranks of a group begin
 * together. */
fk_status fk_runner_gpu_run(fk_runner_gpu *gpu, const fk_task *task, const fk_any *args, int64_t *nanoseconds);

/* Nanoseconds of an empty graph between two events: a part of every time above. 0 when it cannot be measured. */
int64_t fk_runner_gpu_overhead(fk_runner_gpu *gpu);

/* What computed the baseline's call, where there was a choice (fk_cuda_choice). */
void fk_runner_gpu_chosen(const fk_runner_gpu *gpu, char *text, size_t size);

#endif
