/* Where the GPU's time goes within a model: a recorder that puts two events around every call, and a table of the
 * leaves by task and shapes. The host runs ahead (a long fill is queued first), so that no gap between launches is
 * counted. Fused kernels of blocks step aside while a recorder looks on: their parts are listed. */
#ifndef FK_BENCHMARKS_CUDA_PROFILE_H
#define FK_BENCHMARKS_CUDA_PROFILE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/context.h"

enum { PROFILE_CALLS = 1 << 14, PROFILE_DEPTH = 64, PROFILE_LABEL = 96, PROFILE_FILLS = 300, PROFILE_ROWS = 14 };
#define PROFILE_BYTES ((size_t)1 << 30)

typedef struct profile_call {
  char label[PROFILE_LABEL];
  fk_cuda_timer *timer;
  bool leaf;
} profile_call;

typedef struct profile {
  fk_recorder recorder; /* first */
  profile_call *calls;
  int count, depth;
  int stack[PROFILE_DEPTH];
} profile;

static void profile_label(const fk_task *task, const fk_any *args, char *label) {
  size_t used = (size_t)snprintf(label, PROFILE_LABEL, "%s", task->name);
  for (int i = 0, tensors = 0; i < task->num_args && tensors < 2 && used < PROFILE_LABEL; i++) {
    const fk_tensor *t = fk_arg_is_tensor(&task->args[i]) ? fk_arg_tensor(&args[i]) : NULL;
    if (!t) continue;
    for (int32_t d = 0; d < t->ndim && used < PROFILE_LABEL; d++)
      used += (size_t)snprintf(label + used, PROFILE_LABEL - used, "%s%lld", d ? "x" : " ", (long long)t->shape[d]);
    tensors++;
  }
}

static bool profile_enter(fk_recorder *self, fk_context *ctx, const fk_task *task, const fk_any *args,
                          const fk_binding *binding) {
  profile *p = (profile *)self;
  (void)binding;
  if (p->depth > 0 && p->stack[p->depth - 1] >= 0) p->calls[p->stack[p->depth - 1]].leaf = false;
  int at = p->count < PROFILE_CALLS && p->depth < PROFILE_DEPTH ? p->count++ : -1;
  if (p->depth < PROFILE_DEPTH) p->stack[p->depth] = at;
  p->depth++;
  if (at < 0) return true;
  profile_call *c = &p->calls[at];
  c->leaf = true;
  profile_label(task, args, c->label);
  if (fk_cuda_timer_create(ctx->cuda, &c->timer) != FK_OK || fk_cuda_timer_start(ctx->cuda, c->timer) != FK_OK)
    c->leaf = false;
  return true;
}

static void profile_leave(fk_recorder *self, fk_context *ctx, const fk_task *task, const fk_any *args,
                          fk_status status) {
  profile *p = (profile *)self;
  (void)task, (void)args;
  int at = --p->depth < PROFILE_DEPTH ? p->stack[p->depth] : -1;
  if (at < 0 || !p->calls[at].timer) return;
  if (status || fk_cuda_timer_stop(ctx->cuda, p->calls[at].timer) != FK_OK) p->calls[at].leaf = false;
}

static int profile_by_label(const void *a, const void *b) {
  return strcmp(((const profile_call *)a)->label, ((const profile_call *)b)->label);
}

typedef struct profile_row {
  const char *label;
  int calls;
  double milliseconds;
} profile_row;

static int profile_by_time(const void *a, const void *b) {
  double x = ((const profile_row *)a)->milliseconds, y = ((const profile_row *)b)->milliseconds;
  return (x < y) - (x > y);
}

static fk_status profile_print(fk_cuda *cuda, profile *p) {
  profile_row *rows = calloc((size_t)p->count + 1, sizeof *rows);
  int num_rows = 0;
  double all = 0;
  if (!rows) return FK_ERROR_MEMORY;
  qsort(p->calls, (size_t)p->count, sizeof *p->calls, profile_by_label);
  for (int i = 0; i < p->count; i++) {
    double milliseconds = 0;
    if (!p->calls[i].leaf || fk_cuda_timer_elapsed(cuda, p->calls[i].timer, &milliseconds) != FK_OK) continue;
    if (!num_rows || strcmp(rows[num_rows - 1].label, p->calls[i].label) != 0)
      rows[num_rows++].label = p->calls[i].label;
    rows[num_rows - 1].calls++;
    rows[num_rows - 1].milliseconds += milliseconds;
    all += milliseconds;
  }
  qsort(rows, (size_t)num_rows, sizeof *rows, profile_by_time);
  for (int i = 0; i < num_rows && i < PROFILE_ROWS; i++)
    printf("  %5.1f %% %9.3f ms %5d x %9.1f us  %s\n", 100 * rows[i].milliseconds / all, rows[i].milliseconds,
           rows[i].calls, 1e3 * rows[i].milliseconds / rows[i].calls, rows[i].label);
  printf("  all     %9.3f ms\n", all);
  free(rows);
  return FK_OK;
}

/* Runs the work once under the recorder and prints the table. */
static fk_status profile_run(fk_context *ctx, fk_status (*work)(void *), void *argument) {
  fk_memory *memory = fk_cuda_memory(ctx->cuda);
  profile p = {.recorder = {profile_enter, profile_leave}, .calls = calloc(PROFILE_CALLS, sizeof *p.calls)};
  void *buffer = memory->alloc(memory, PROFILE_BYTES);
  fk_status status = p.calls && buffer ? FK_OK : fk_fail(FK_ERROR_MEMORY, "profile: cannot allocate");
  for (int i = 0; i < PROFILE_FILLS && !status; i++) status = fk_cuda_fill(ctx->cuda, buffer, i & 255, PROFILE_BYTES);
  fk_context_record(ctx, &p.recorder);
  if (!status) status = work(argument);
  fk_context_record(ctx, NULL);
  if (!status) status = fk_sync(ctx);
  if (!status) status = profile_print(ctx->cuda, &p);
  for (int i = 0; i < p.count; i++) fk_cuda_timer_destroy(p.calls[i].timer);
  if (buffer) memory->release(memory, buffer, PROFILE_BYTES);
  free(p.calls);
  return status;
}

#endif
