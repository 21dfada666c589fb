/* Several GPUs: every collective task over NCCL, one thread per GPU, ranks with different data, the answer of every
 * rank compared with the oracle, replayed as a graph bit for bit; ordinary tasks on a GPU that is not the first; copies
 * between GPUs.
 *
 * Ends with 77 where there are fewer than two GPUs. */
#include <pthread.h>
#include <unistd.h>

#include "judge/ranks.h"
#include "unit/task_sweep.h"

enum { SKIPPED = 77, SECONDS = 150, WORDS = 1 << 20 };

typedef struct rank {
  pthread_t thread;
  fk_context *ctx;
  int64_t comm;
  char *base; /* of its call's buffer, in its GPU's memory */
  fk_rank_call call;
  void *inputs, *answer, *again;
  fk_status status;
  char message[512];
} rank;

static struct {
  fk_context *ref;
  char id[FK_CUDA_ID_BYTES];
  rank ranks[FK_MAX_RANKS];
  int world, cases;
} g;

/* ---- One rank -------------------------------------------------------------------------------------------- */

typedef struct job {
  rank *self;
  fk_status (*work)(rank *self);
} job;

static void *run_job(void *p) {
  job *j = p;
  j->self->status = j->work(j->self);
  if (j->self->status) snprintf(j->self->message, sizeof j->self->message, "%s", fk_last_error());
  return NULL;
}

/* The same on every rank at once; the number of ranks that failed, which say why. */
static int on_all(fk_status (*work)(rank *self), const char *what) {
  job jobs[FK_MAX_RANKS];
  int failures = 0;
  for (int i = 0; i < g.world; i++) {
    jobs[i] = (job){&g.ranks[i], work};
    if (pthread_create(&g.ranks[i].thread, NULL, run_job, &jobs[i]) != 0) abort();
  }
  for (int i = 0; i < g.world; i++) {
    pthread_join(g.ranks[i].thread, NULL);
    if (!g.ranks[i].status) continue;
    printf("rank %d: %s: %s\n", i, what, g.ranks[i].message);
    failures++;
  }
  return failures;
}

static fk_status join(rank *self) {
  int number = (int)(self - g.ranks);
  FK_TRY(fk_context_create(&(fk_context_options){.backend = FK_CUDA, .device_id = number}, &self->ctx));
  return fk_cuda_join(self->ctx->cuda, g.id, number, g.world, &self->comm);
}

static fk_status leave(rank *self) {
  fk_cuda_leave(self->ctx->cuda, self->comm);
  fk_context_destroy(self->ctx);
  self->ctx = NULL;
  return FK_OK;
}

/* Descriptors of the rank's call over its memory. */
static void frame_of(rank *self, fk_frame *frame) {
  const fk_plan *plan = &self->call.plan;
  fk_plan_frame(plan, self->base, frame);
  for (int i = 0; i < plan->task->num_args; i++)
    if (plan->tensors[i].given) frame->tensors[i].device = (fk_device){FK_DL_CUDA, fk_cuda_device_id(self->ctx->cuda)};
  frame->args[self->call.comm_arg] = fk_any_int(self->comm);
}

static fk_status replay(rank *self, const fk_frame *frame) {
  const fk_plan *plan = &self->call.plan;
  fk_cuda *cuda = self->ctx->cuda;
  fk_cuda_graph *graph;
  FK_TRY(fk_cuda_graph_begin(cuda));
  fk_status status = fk_call_task(self->ctx, plan->task, frame->args, plan->task->num_args);
  fk_status ended = fk_cuda_graph_end(cuda, &graph);
  /* Twice: what the first run leaves behind must not show in the second. */
  for (int k = 0; k < 2 && !status && !ended; k++) {
    status = fk_cuda_upload(cuda, self->base, self->inputs, plan->bytes);
    if (!status) status = fk_cuda_barrier(cuda, self->comm);
    if (!status) status = fk_cuda_graph_launch(cuda, graph);
    if (!status) status = fk_cuda_download(cuda, self->again, self->base, plan->bytes);
  }
  fk_cuda_graph_destroy(graph);
  return status ? status : ended;
}

static fk_status compute(rank *self) {
  static _Thread_local fk_frame frame;
  const fk_plan *plan = &self->call.plan;
  fk_cuda *cuda = self->ctx->cuda;
  fk_memory *memory = fk_cuda_memory(cuda);
  self->base = memory->alloc(memory, plan->bytes + 64);
  if (!self->base) return fk_fail(FK_ERROR_MEMORY, "no GPU memory");
  frame_of(self, &frame);
  fk_status status = fk_cuda_upload(cuda, self->base, self->inputs, plan->bytes);
  if (!status) status = fk_call_task(self->ctx, plan->task, frame.args, plan->task->num_args);
  if (!status) status = fk_cuda_download(cuda, self->answer, self->base, plan->bytes);
  if (!status) status = replay(self, &frame);
  /* Of two numbers there is one sum; more may be added in another order. */
  if (!status && g.world == 2 && memcmp(self->answer, self->again, plan->bytes) != 0)
    status = fk_fail(FK_ERROR_KERNEL, "the graph's replay differs from the call");
  memory->release(memory, self->base, plan->bytes + 64);
  fk_context_reset(self->ctx);
  return status;
}

/* ---- Cases ----------------------------------------------------------------------------------------------- */

static int check_answer(const fk_plan *whole, void *answer, fk_tensor *const *wide, uint64_t seed) {
  static fk_frame frame;
  int failures = 0;
  fk_comparison each[FK_MAX_ARGS], all;
  fk_plan_frame(whole, answer, &frame);
  fk_compare_call(whole, &frame, NULL, wide, each, &all);
  if (!all.pass) complain(&failures, whole->c, "cuda against ref: %s", all.reason);
  for (int i = 0; i < whole->task->num_args; i++) {
    int64_t left = fk_plan_unwritten(whole, answer, i, seed);
    if (left > 0)
      complain(&failures, whole->c, "%s: %lld elements were not written", whole->task->args[i].name, (long long)left);
  }
  return failures;
}

static int check_buffers(const fk_plan *whole, void *inputs, void *answer, uint64_t seed) {
  static uint64_t guards[FK_MAX_RANKS][FK_MAX_ARGS];
  fk_tensor *wide[FK_MAX_ARGS];
  int failures = 0;
  if (fk_plan_fill(whole, inputs, seed) != FK_OK || fk_plan_oracle(whole, inputs, g.ref, wide) != FK_OK) {
    complain(&failures, whole->c, "ref: %s", fk_last_error());
    return failures;
  }
  for (int i = 0; i < g.world; i++) {
    rank *r = &g.ranks[i];
    if (fk_rank_scatter(whole, inputs, &r->call, seed + 100 + (uint64_t)i, r->inputs) != FK_OK)
      complain(&failures, whole->c, "rank %d: %s", i, fk_last_error());
    fk_plan_guards(&r->call.plan, r->inputs, guards[i]);
  }
  if (failures) return failures;
  failures = on_all(compute, whole->task->name);
  if (failures) {
    complain(&failures, whole->c, "failed");
    return failures;
  }
  for (int graph = 0; graph < 2; graph++) {
    memcpy(answer, inputs, whole->bytes);
    for (int i = 0; i < g.world; i++) {
      rank *r = &g.ranks[i];
      void *own = graph ? r->again : r->answer;
      if (fk_plan_check_guards(&r->call.plan, own, guards[i]) != FK_OK)
        complain(&failures, whole->c, "rank %d%s: %s", i, graph ? ", graph" : "", fk_last_error());
      fk_rank_gather(whole, answer, &r->call, own);
    }
    failures += check_answer(whole, answer, wide, seed);
  }
  return failures;
}

static int check_variant(fk_case *c, uint64_t seed) {
  static fk_plan whole;
  int failures = 0;
  fk_case_set_ranks(c, g.world);
  fk_status status = fk_plan_make(c, &whole);
  for (int i = 0; i < g.world && !status; i++) status = fk_rank_make(&whole, i, &g.ranks[i].call);
  if (status) {
    complain(&failures, c, "%s", fk_last_error());
    return failures;
  }
  void *inputs = sweep_buffer(&whole), *answer = sweep_buffer(&whole);
  for (int i = 0; i < g.world; i++) {
    rank *r = &g.ranks[i];
    r->inputs = sweep_buffer(&r->call.plan);
    r->answer = sweep_buffer(&r->call.plan);
    r->again = sweep_buffer(&r->call.plan);
  }
  failures = check_buffers(&whole, inputs, answer, seed);
  for (int i = 0; i < g.world; i++) {
    free(g.ranks[i].inputs);
    free(g.ranks[i].answer);
    free(g.ranks[i].again);
  }
  free(inputs);
  free(answer);
  fk_context_reset(g.ref);
  g.cases++;
  return failures;
}

/* Every case with as many ranks as there are GPUs. */
static int check_task(sweep_task *s) {
  int failures = 0, before = g.cases;
  if (!fk_task_is_collective(s->task)) return 0;
  for (int i = 0; i < s->count; i++)
    for (int v = 0; v < fk_task_num_variants(s->task); v++) {
      fk_case_use_variant(s->cases[i].c, v);
      failures += check_variant(s->cases[i].c, 1000 + (uint64_t)i);
    }
  printf("%s on %d GPUs: %d cases, %d failures\n", s->task->name, g.world, g.cases - before, failures);
  return failures;
}

/* ---- The second GPU -------------------------------------------------------------------------------------- */

/* An ordinary task there: a + b of small integers, which is exact. */
static fk_status add_on(fk_context *ctx, int *wrong) {
  enum { N = 1000 };
  float a[N], b[N], out[N];
  for (int i = 0; i < N; i++) a[i] = (float)(i % 97), b[i] = (float)(i % 89) * 2;
  fk_tensor *ha = fk_host(ctx, FK_F32, 10, 100), *hb = fk_host(ctx, FK_F32, 10, 100);
  if (!ha || !hb) return FK_ERROR_MEMORY;
  memcpy(ha->data, a, sizeof a);
  memcpy(hb->data, b, sizeof b);
  fk_tensor *sum = fk_empty(ctx, FK_F32, 10, 100);
  FK_TRY(fk_call(ctx, "add", fk_to_device(ctx, ha), fk_to_device(ctx, hb), sum));
  FK_TRY(fk_cuda_download(ctx->cuda, out, fk_data(sum), sizeof out));
  *wrong = 0;
  for (int i = 0; i < N; i++) *wrong += out[i] != a[i] + b[i];
  return FK_OK;
}

/* From the first GPU's memory to the second's, queued on either of them. */
static fk_status peer_copy(fk_cuda *from, fk_cuda *to, fk_cuda *queue, int *wrong) {
  fk_memory *sources = fk_cuda_memory(from), *targets = fk_cuda_memory(to);
  int32_t *sent = malloc(WORDS * sizeof *sent), *got = malloc(WORDS * sizeof *got);
  void *source = sources->alloc(sources, WORDS * sizeof *sent), *target = targets->alloc(targets, WORDS * sizeof *sent);
  fk_status status = sent && got && source && target ? FK_OK : fk_fail(FK_ERROR_MEMORY, "peer copy: no memory");
  for (int i = 0; i < WORDS && !status; i++) sent[i] = i * 7 - 3, got[i] = 0;
  if (!status) status = fk_cuda_upload(from, source, sent, WORDS * sizeof *sent);
  if (!status) status = fk_cuda_fill(to, target, 0, WORDS * sizeof *sent);
  if (!status) status = fk_cuda_sync(from);
  if (!status) status = fk_cuda_sync(to);
  if (!status) status = fk_cuda_copy(queue, target, source, WORDS * sizeof *sent);
  if (!status) status = fk_cuda_sync(queue);
  if (!status) status = fk_cuda_download(to, got, target, WORDS * sizeof *sent);
  if (!status) *wrong = memcmp(sent, got, WORDS * sizeof *sent) != 0;
  if (source) sources->release(sources, source, WORDS * sizeof *sent);
  if (target) targets->release(targets, target, WORDS * sizeof *sent);
  free(sent);
  free(got);
  return status;
}

static int check_second(void) {
  fk_context *ctx[2] = {NULL, NULL};
  int failures = 0, wrong = 0;
  for (int i = 0; i < 2; i++)
    if (fk_context_create(&(fk_context_options){.backend = FK_CUDA, .device_id = i}, &ctx[i]) != FK_OK) abort();
  /* Turn by turn: each call must find its own GPU again. */
  for (int i = 0; i < 4; i++)
    if (add_on(ctx[i % 2], &wrong) != FK_OK || wrong) {
      printf("add on GPU %d: %s\n", i % 2, wrong ? "wrong" : fk_last_error());
      failures++;
    }
  for (int i = 0; i < 4; i++)
    if (peer_copy(ctx[i % 2]->cuda, ctx[1 - i % 2]->cuda, ctx[i / 2]->cuda, &wrong) != FK_OK || wrong) {
      printf("copy from GPU %d to GPU %d: %s\n", i % 2, 1 - i % 2, wrong ? "wrong" : fk_last_error());
      failures++;
    }
  for (int i = 0; i < 2; i++) fk_context_destroy(ctx[i]);
  printf("ordinary tasks on the second GPU, copies between GPUs: %d failures\n", failures);
  return failures;
}

int main(void) {
  int tasks;
  setvbuf(stdout, NULL, _IOLBF, 0);
  g.world = fk_cuda_device_count() < FK_MAX_RANKS ? fk_cuda_device_count() : FK_MAX_RANKS;
  if (g.world < 2) {
    printf("skipped: there are fewer than two GPUs\n");
    return SKIPPED;
  }
  alarm(SECONDS); /* a rank that waits for one that failed waits for ever */
  int failures = check_second();
  g.ref = sweep_context(FK_REF, NULL);
  if (fk_cuda_unique_id(g.id) != FK_OK) {
    printf("%s\n", fk_last_error());
    return 1;
  }
  if (on_all(join, "joining the group")) return 1;
  failures += sweep_all(check_task, &tasks);
  failures += on_all(leave, "leaving the group");
  fk_context_destroy(g.ref);
  printf("%d cases, %d failures\n", g.cases, failures);
  return failures || g.cases == 0;
}
