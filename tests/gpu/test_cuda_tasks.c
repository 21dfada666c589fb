/* Every task, every case of its cases.json, every dtype variant, on the GPU: agrees with the oracle within the task's
 * own limits, writes what it must and nothing else, and replayed as a CUDA graph over other memory content gives the
 * same bits.
 *
 *     test_cuda_tasks [TASK...]     each task in a process of its own: a bad address ends only that one
 *
 * FASTKERNELS_TEST_BYTES leaves out cases that need more memory, and says how many: for a run under a sanitizer, which
 * slows kernels by a hundred.
 *
 * Ends with 77 where there is no GPU. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit/task_sweep.h"

enum { SKIPPED = 77, MAX_CHILDREN = 8, CHILD_SECONDS = 600, MAX_TASKS = 256 };

static struct {
  fk_context *ref, *cuda;
  int cases, left_out;
  uint64_t most_bytes; /* of a case; 0: any */
} g;

/* The plan's buffer in GPU memory, and descriptors of the call over it. */
static void device_frame(const fk_plan *plan, void *base, fk_frame *frame) {
  fk_plan_frame(plan, base, frame);
  for (int i = 0; i < plan->task->num_args; i++)
    if (plan->tensors[i].given) frame->tensors[i].device = (fk_device){FK_DL_CUDA, 0};
}

static fk_status run(const fk_plan *plan, const void *inputs, char *base, const fk_frame *frame, void *answer) {
  FK_TRY(fk_cuda_upload(g.cuda->cuda, base, inputs, plan->bytes));
  FK_TRY(fk_call_task(g.cuda, plan->task, frame->args, plan->task->num_args));
  return fk_cuda_download(g.cuda->cuda, answer, base, plan->bytes);
}

static fk_status replay(const fk_plan *plan, const void *inputs, char *base, const fk_frame *frame, void *answer) {
  fk_cuda *cuda = g.cuda->cuda;
  fk_cuda_graph *graph;
  FK_TRY(fk_cuda_graph_begin(cuda));
  fk_status status = fk_call_task(g.cuda, plan->task, frame->args, plan->task->num_args);
  fk_status ended = fk_cuda_graph_end(cuda, &graph);
  if (!status && !ended && fk_cuda_graph_foreign(graph, false))
    ended = fk_fail(FK_ERROR_KERNEL, "the graph holds %s", fk_cuda_graph_foreign(graph, false));
  /* Twice: what the first run leaves behind (counters, scratch) must not show in the second. */
  for (int k = 0; k < 2 && !status && !ended; k++) {
    status = fk_cuda_upload(cuda, base, inputs, plan->bytes);
    if (!status) status = fk_cuda_graph_launch(cuda, graph);
    if (!status) status = fk_cuda_download(cuda, answer, base, plan->bytes);
  }
  fk_cuda_graph_destroy(graph);
  return status ? status : ended;
}

static int check_answer(const fk_plan *plan, void *answer, fk_tensor *const *wide, const uint64_t *guards,
                        uint64_t seed) {
  static fk_frame frame;
  int failures = 0;
  fk_comparison each[FK_MAX_ARGS], all;
  fk_plan_frame(plan, answer, &frame);
  fk_compare_call(plan, &frame, NULL, wide, each, &all);
  if (!all.pass) complain(&failures, plan->c, "cuda against ref: %s", all.reason);
  if (fk_plan_check_guards(plan, answer, guards) != FK_OK) complain(&failures, plan->c, "cuda: %s", fk_last_error());
  for (int i = 0; i < plan->task->num_args; i++) {
    int64_t left = fk_plan_unwritten(plan, answer, i, seed);
    if (left > 0)
      complain(&failures, plan->c, "cuda: %s: %lld elements were not written", plan->task->args[i].name,
               (long long)left);
  }
  return failures;
}

/* One variant over buffers of the plan's size. */
static int check_buffers(const fk_plan *plan, char *base, void *inputs, void *answer, void *again, uint64_t seed) {
  static fk_frame frame;
  fk_tensor *wide[FK_MAX_ARGS];
  uint64_t guards[FK_MAX_ARGS];
  int failures = 0;
  if (fk_plan_fill(plan, inputs, seed) != FK_OK || fk_plan_oracle(plan, inputs, g.ref, wide) != FK_OK) {
    complain(&failures, plan->c, "ref: %s", fk_last_error());
    return failures;
  }
  fk_plan_guards(plan, inputs, guards);
  device_frame(plan, base, &frame);
  if (run(plan, inputs, base, &frame, answer) != FK_OK) {
    complain(&failures, plan->c, "cuda: %s", fk_last_error());
    return failures;
  }
  failures += check_answer(plan, answer, wide, guards, seed);
  if (replay(plan, inputs, base, &frame, again) != FK_OK)
    complain(&failures, plan->c, "cuda graph: %s", fk_last_error());
  else if (memcmp(answer, again, plan->bytes) != 0)
    complain(&failures, plan->c, "cuda: the graph's replay differs from the call");
  return failures;
}

static int check_variant(fk_case *c, uint64_t seed) {
  static fk_plan plan;
  int failures = 0;
  if (fk_plan_make(c, &plan) != FK_OK) {
    complain(&failures, c, "%s", fk_last_error());
    return failures;
  }
  if (g.most_bytes && plan.bytes > g.most_bytes) {
    g.left_out++;
    return 0;
  }
  fk_memory *memory = fk_cuda_memory(g.cuda->cuda);
  size_t bytes = plan.bytes + 64;
  char *base = memory->alloc(memory, bytes);
  void *inputs = sweep_buffer(&plan), *answer = sweep_buffer(&plan), *again = sweep_buffer(&plan);
  if (base)
    failures = check_buffers(&plan, base, inputs, answer, again, seed);
  else
    complain(&failures, c, "no GPU memory");
  memory->release(memory, base, bytes);
  free(inputs);
  free(answer);
  free(again);
  fk_context_reset(g.ref);
  fk_context_reset(g.cuda);
  g.cases++;
  return failures;
}

static int check_task(sweep_task *s) {
  int failures = 0;
  for (int i = 0; i < s->count; i++)
    for (int v = 0; v < fk_task_num_variants(s->task); v++) {
      fk_case_use_variant(s->cases[i].c, v);
      failures += check_variant(s->cases[i].c, 1000 + (uint64_t)i);
    }
  return failures;
}

/* One task in this process. */
static int run_task(const char *task) {
  int tasks;
  const char *bytes = getenv("FASTKERNELS_TEST_BYTES");
  g.most_bytes = bytes ? strtoull(bytes, NULL, 10) : 0;
  alarm(CHILD_SECONDS);
  setenv("FASTKERNELS_TASK", task, 1);
  g.ref = sweep_context(FK_REF, NULL);
  g.cuda = sweep_context(FK_CUDA, NULL);
  int failures = sweep_all(check_task, &tasks);
  printf("%s: %d cases, %d failures", task, g.cases, failures);
  printf(g.left_out ? ", %d left out: too large\n" : "\n", g.left_out);
  fk_context_destroy(g.ref);
  fk_context_destroy(g.cuda);
  return failures || g.cases == 0;
}

/* ---- All tasks ------------------------------------------------------------------------------------------- */

static char names[MAX_TASKS][128];
static int num_names;

static int collect(sweep_task *s) {
  if (num_names < MAX_TASKS) snprintf(names[num_names++], sizeof *names, "%s", s->task->name);
  return 0;
}

static int wait_for_one(pid_t *children, const char **running) {
  int status;
  pid_t pid = wait(&status);
  for (int i = 0; i < MAX_CHILDREN; i++) {
    if (children[i] != pid) continue;
    children[i] = 0;
    if (WIFEXITED(status)) return WEXITSTATUS(status) != 0;
    printf("%s: ended by signal %d (%s)\n", running[i], WTERMSIG(status), strsignal(WTERMSIG(status)));
    return 1;
  }
  return 0;
}

static int run_all(const char *self, char **only, int num_only) {
  pid_t children[MAX_CHILDREN] = {0};
  const char *running[MAX_CHILDREN];
  int failed = 0, alive = 0, tasks;
  if (num_only == 0) failed += sweep_all(collect, &tasks);
  for (int i = 0; i < num_only && i < MAX_TASKS; i++) snprintf(names[num_names++], sizeof *names, "%s", only[i]);
  for (int n = 0; n < num_names || alive > 0;) {
    if (n < num_names && alive < MAX_CHILDREN) {
      int slot = 0;
      while (children[slot]) slot++;
      fflush(stdout);
      pid_t pid = fork();
      if (pid == 0) {
        execl(self, self, names[n], (char *)NULL);
        _exit(127);
      }
      children[slot] = pid;
      running[slot] = names[n++];
      alive++;
      continue;
    }
    failed += wait_for_one(children, running);
    alive--;
  }
  printf("%d tasks passed, %d failed\n", num_names - failed, failed);
  return failed || num_names == 0;
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (fk_cuda_device_count() == 0) {
    printf("skipped: there is no GPU\n");
    return SKIPPED;
  }
  return argc == 2 ? run_task(argv[1]) : run_all("/proc/self/exe", argv + 1, argc - 1);
}
