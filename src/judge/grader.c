#include "judge/grader.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "core/context.h"
#include "judge/subset.h"

/* Above this many FLOPs a call is compared with the oracle on some rows, drawn after the answer, where its task allows
 * it; all other elements are still compared with the baseline. */
static const double large_call = 2e10, subset_flops = 1e9;

/* Above this many seconds per oracle run, only the first block and one secret other are compared with the oracle. */
static const double slow_oracle = 0.05;

typedef struct grading {
  const fk_grade_options *options;
  fk_case_result *result;
  fk_plan plan;
  fk_context *ref;
  char *inputs;        /* the buffer before the call */
  fk_rank_call *calls; /* of a collective on several GPUs, else NULL */
  fk_arm baseline, candidate;
  bool alone; /* no candidate: the second arm is another runner of the baseline */
  uint64_t guards[FK_MAX_ARGS];
  double oracle_seconds;
  fk_subset *subset; /* for large calls: room for the rows to compare, else NULL */
  char *subset_buffers[3];
  int secret_block;
  fk_tolerance cheap[FK_MAX_ARGS]; /* for comparison with the baseline's answer */
  int64_t gaps[4 * FK_MAX_ROUNDS];
  int num_gaps;
} grading;

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t secret(void) {
  uint64_t seed = 0;
  while (getrandom(&seed, sizeof seed, 0) != sizeof seed) continue;
  return seed;
}

/* The candidate failed: the case has its verdict. */
static void fail(grading *g, fk_verdict verdict, const char *reason) {
  if (fk_verdict_failed(g->result->verdict)) return;
  g->result->verdict = verdict;
  snprintf(g->result->reason, sizeof g->result->reason, "%s", reason);
}

static fk_verdict verdict_of(fk_outcome outcome) {
  return outcome == FK_TIMED_OUT ? FK_VERDICT_TIMEOUT : outcome == FK_REFUSED ? FK_VERDICT_REFUSED : FK_VERDICT_CRASHED;
}

/* ---- One sample ------------------------------------------------------------------------------------------ */

static fk_outcome sample(grading *g, fk_arm *a, uint64_t seed, bool timed, int64_t *ns) {
  int64_t mine = 0;
  fk_outcome outcome = fk_arm_run(a, g->inputs, seed, timed, ns, &mine);
  if (outcome != FK_RAN) return outcome;
  if (a == &g->candidate && timed && g->num_gaps < (int)(sizeof g->gaps / sizeof *g->gaps)) {
    g->gaps[g->num_gaps++] = mine - *ns;
    if (*ns <= 0 || *ns > mine) fail(g, FK_VERDICT_REFUSED, "the reported time is impossible by the grader's clock");
  }
  return outcome;
}

/* How near a comparison came to its limits. */
static double strain(const fk_comparison *r) {
  double s = 0;
  if (r->limit.error > 0) s = fmax(s, r->candidate.error / r->limit.error);
  if (r->limit.worst > 0) s = fmax(s, r->candidate.worst / r->limit.worst);
  return s;
}

/* The answers are frames of a plan: of the whole call, or of some of its rows. */
static void audit_oracle(grading *g, const fk_plan *plan, const fk_frame *candidate, const fk_frame *baseline,
                         fk_tensor *const *wide) {
  fk_comparison each[FK_MAX_ARGS], all;
  fk_compare_call(plan, candidate, baseline, wide, each, &all);
  if (g->result->oracle_audits++ == 0 || strain(&all) > strain(&g->result->worst)) g->result->worst = all;
  if (!all.pass) fail(g, FK_VERDICT_WRONG, all.reason);
  for (int i = 0; i < g->plan.task->num_args; i++) {
    if (!g->plan.tensors[i].given || !fk_arg_is_written(&g->plan.task->args[i])) continue;
    fk_tolerance floor;
    if (fk_tolerance_of(&g->plan, i, &floor) != FK_OK) continue;
    /* Both may err by what was allowed or seen: the distance between them by the sum. */
    g->cheap[i] = (fk_tolerance){.exact = floor.exact,
                                 .error = each[i].limit.error + 2 * each[i].baseline.error,
                                 .worst = each[i].limit.worst + 2 * each[i].baseline.worst,
                                 .gain = each[i].limit.gain + 2 * each[i].baseline.gain};
  }
}

static void audit_baseline(grading *g) {
  g->result->baseline_audits++;
  for (int i = 0; i < g->plan.task->num_args; i++) {
    fk_comparison r;
    char reason[320];
    if (!g->plan.tensors[i].given || !fk_arg_is_written(&g->plan.task->args[i])) continue;
    fk_compare(&g->cheap[i], &g->candidate.frame.tensors[i], NULL, &g->baseline.frame.tensors[i], &r);
    snprintf(reason, sizeof reason, "%s (against the baseline): %s", g->plan.task->args[i].name, r.reason);
    if (!r.pass) fail(g, FK_VERDICT_WRONG, reason);
  }
}

static void audit(grading *g, uint64_t seed, fk_tensor *const *wide) {
  const fk_task *task = g->plan.task;
  char reason[320];
  if (fk_arm_check_guards(&g->candidate, g->guards) != FK_OK) fail(g, FK_VERDICT_WRONG, fk_last_error());
  for (int i = 0; i < task->num_args; i++) {
    int64_t left = fk_plan_unwritten(&g->plan, g->candidate.answer, i, seed);
    snprintf(reason, sizeof reason, "%s: %lld elements were not written", task->args[i].name, (long long)left);
    if (left > 0) fail(g, FK_VERDICT_WRONG, reason);
  }
  if (wide) audit_oracle(g, &g->plan, &g->candidate.frame, &g->baseline.frame, wide);
  if (!wide || g->subset) audit_baseline(g);
}

enum { INPUTS, BASELINE, CANDIDATE };

/* Compares some rows, drawn now, with the oracle. */
static fk_status audit_rows(grading *g) {
  const char *full[] = {g->inputs, g->baseline.answer, g->candidate.answer};
  fk_tensor *wide[FK_MAX_ARGS];
  fk_frame baseline, candidate;
  int64_t rows;
  if (!fk_subset_possible(&g->plan, &rows)) return FK_OK;
  FK_TRY(fk_subset_make(&g->plan, (int64_t)(subset_flops * (double)rows / g->result->flops), secret(), g->subset));
  for (int k = 0; k < 3; k++) {
    free(g->subset_buffers[k]);
    g->subset_buffers[k] = aligned_alloc(64, (g->subset->plan.bytes + 64) / 64 * 64);
    if (!g->subset_buffers[k])
      return fk_fail(FK_ERROR_MEMORY, "%s: no memory for the oracle's rows", g->plan.task->name);
    fk_subset_copy(g->subset, full[k], g->subset_buffers[k]);
  }
  FK_TRY(fk_plan_oracle(&g->subset->plan, g->subset_buffers[INPUTS], g->ref, wide));
  fk_plan_frame(&g->subset->plan, g->subset_buffers[BASELINE], &baseline);
  fk_plan_frame(&g->subset->plan, g->subset_buffers[CANDIDATE], &candidate);
  audit_oracle(g, &g->subset->plan, &candidate, &baseline, wide);
  return FK_OK;
}

/* ---- Blocks ---------------------------------------------------------------------------------------------- */

static fk_status prepare(grading *g, uint64_t seed) {
  FK_TRY(fk_plan_fill(&g->plan, g->inputs, seed));
  fk_plan_guards(&g->plan, g->inputs, g->guards);
  return FK_OK;
}

static fk_status run_arm(grading *g, fk_arm *a, uint64_t seed, bool timed, int64_t *ns) {
  fk_outcome outcome = sample(g, a, seed, timed, ns);
  if (outcome == FK_RAN) return FK_OK;
  if (a == &g->candidate) {
    fail(g, outcome == FK_FAILED ? FK_VERDICT_WRONG : verdict_of(outcome), a->reason);
    return FK_OK;
  }
  return fk_fail(FK_ERROR_KERNEL, "%s: the baseline failed: %s", g->plan.task->name, a->reason);
}

/* Both arms on one input, in the given order, and the audit of the candidate's answer. */
static fk_status run_pair(grading *g, uint64_t seed, bool baseline_first, bool timed, bool oracle, int64_t *base,
                          int64_t *cand) {
  fk_tensor *wide[FK_MAX_ARGS];
  FK_TRY(prepare(g, seed));
  if (baseline_first) FK_TRY(run_arm(g, &g->baseline, seed, timed, base));
  FK_TRY(run_arm(g, &g->candidate, seed, timed, cand));
  if (fk_verdict_failed(g->result->verdict)) return FK_OK;
  if (!baseline_first) FK_TRY(run_arm(g, &g->baseline, seed, timed, base));
  double start = seconds();
  bool whole = oracle && !g->subset;
  fk_status status = whole ? fk_plan_oracle(&g->plan, g->inputs, g->ref, wide) : FK_OK;
  if (oracle && g->subset) status = audit_rows(g); /* first: it sets what the baseline comparison allows */
  if (oracle && !status) g->oracle_seconds = seconds() - start;
  if (!status) audit(g, seed, whole ? wide : NULL);
  fk_context_reset(g->ref);
  return status;
}

static fk_status run_block(grading *g) {
  fk_case_result *r = g->result;
  int n = r->num_blocks;
  fk_block *b = &r->blocks[n];
  bool oracle = g->oracle_seconds < slow_oracle || n == 0 || n == g->secret_block;
  r->seeds[n][0] = secret();
  r->seeds[n][1] = secret();
  FK_TRY(run_pair(g, r->seeds[n][0], true, true, oracle, &b->baseline[0], &b->candidate[0]));
  if (fk_verdict_failed(r->verdict)) return FK_OK;
  FK_TRY(run_pair(g, r->seeds[n][1], false, true, oracle, &b->baseline[1], &b->candidate[1]));
  if (!fk_verdict_failed(r->verdict)) r->num_blocks++;
  if (g->options->limits.backend == FK_CUDA) fk_cuda_clocks_read(g->options->limits.devices[0], &r->clocks);
  return FK_OK;
}

/* A candidate whose clock runs slow would show a gap that a message does not explain. */
static void check_clocks(grading *g) {
  double gaps[4 * FK_MAX_ROUNDS];
  for (int i = 0; i < g->num_gaps; i++) gaps[i] = (double)g->gaps[i];
  double gap = fk_median(gaps, g->num_gaps), call = g->result->timing.candidate_ns;
  g->result->overhead_ns = (int64_t)gap;
  if (call + gap > 1e6 && gap > fmax(5e5, 0.25 * (call + gap)))
    fail(g, FK_VERDICT_REFUSED, "the runner's clock and the grader's disagree");
}

static fk_status run_blocks(grading *g) {
  fk_case_result *r = g->result;
  int64_t ignored[2];
  double start = seconds();
  /* Warm-up: untimed, audited; it finds the slow and the wrong before any statistics. */
  for (int i = 0; i < 2 && !fk_verdict_failed(r->verdict); i++) {
    FK_TRY(run_pair(g, secret(), i == 0, false, i == 0 || g->oracle_seconds < slow_oracle, &ignored[0], &ignored[1]));
    if (i == 0 && r->worst.vacuous && !fk_verdict_failed(r->verdict))
      return fk_fail(FK_ERROR_ARGUMENT, "%s: the case has nothing to judge: %s", g->plan.task->name,
                     r->worst.num_elements ? "every expected value is zero or not finite" : "its outputs are empty");
  }
  int most = g->options->rounds < FK_MAX_ROUNDS ? g->options->rounds : FK_MAX_ROUNDS;
  g->secret_block = 1 + (int)(secret() % (uint64_t)(FK_MIN_ROUNDS - 1));
  while (r->num_blocks < most && !fk_verdict_failed(r->verdict)) {
    if (r->num_blocks >= FK_MIN_ROUNDS && seconds() - start > g->options->budget_seconds) break;
    FK_TRY(run_block(g));
  }
  if (fk_verdict_failed(r->verdict)) return FK_OK;
  snprintf(r->baseline_by, sizeof r->baseline_by, "%s", g->baseline.sessions[0].by);
  r->timing = fk_score_blocks(r->blocks, r->num_blocks, r->seeds[0][0]);
  check_clocks(g);
  if (!fk_verdict_failed(r->verdict)) r->verdict = g->alone ? FK_VERDICT_BASELINE : fk_score_verdict(&r->timing);
  return FK_OK;
}

/* ---- Cases ----------------------------------------------------------------------------------------------- */

/* The definition's costs, which may depend on data: of one set of inputs. */
static fk_status measure_costs(grading *g) {
  fk_frame frame;
  fk_binding binding;
  fk_case_result *r = g->result;
  const fk_task *task = g->plan.task;
  FK_TRY(fk_plan_fill(&g->plan, g->inputs, 1));
  fk_plan_frame(&g->plan, g->inputs, &frame);
  FK_TRY(fk_bind(task, FK_CPU, frame.args, task->num_args, &binding));
  (void)fk_binding_finish(task, frame.args, &binding);
  if (fk_task_flops(task, frame.args, &binding, &r->flops) != FK_OK) r->flops = 0;
  if (fk_task_bytes(task, frame.args, &binding, &r->bytes) != FK_OK) r->bytes = 0;
  return FK_OK;
}

/* One call per rank where the case is a collective's and there are several GPUs. */
static fk_status divide(grading *g) {
  int num_ranks = g->options->limits.num_devices;
  g->result->num_ranks = 1;
  if (num_ranks < 2 || !fk_task_is_collective(g->plan.task)) return FK_OK;
  if (fk_case_ranks(g->plan.c) != num_ranks)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: the case is of %lld ranks, there are %d GPUs", g->plan.task->name,
                   (long long)fk_case_ranks(g->plan.c), num_ranks);
  g->calls = calloc((size_t)num_ranks, sizeof *g->calls);
  if (!g->calls) return fk_fail(FK_ERROR_MEMORY, "%s: no memory to judge a case", g->plan.task->name);
  for (int i = 0; i < num_ranks; i++) FK_TRY(fk_rank_make(&g->plan, i, &g->calls[i]));
  g->result->num_ranks = num_ranks;
  return FK_OK;
}

static fk_status start_arms(grading *g, const char *object) {
  const fk_limits *limits = &g->options->limits;
  if (fk_arm_start(&g->baseline, &g->plan, g->calls, NULL, limits) != FK_RAN)
    return fk_fail(FK_ERROR_KERNEL, "%s: the baseline's runner: %s", g->plan.task->name, g->baseline.reason);
  fk_outcome outcome = fk_arm_start(&g->candidate, &g->plan, g->calls, object, limits);
  if (outcome != FK_RAN) fail(g, verdict_of(outcome), g->candidate.reason);
  g->result->empty_ns = g->baseline.sessions[0].empty_ns;
  snprintf(g->result->missing, sizeof g->result->missing, "%s", g->candidate.sessions[0].missing);
  return FK_OK;
}

static fk_status grade(grading *g, const char *object) {
  size_t bytes = (g->plan.bytes + 64) / 64 * 64;
  g->inputs = aligned_alloc(64, bytes);
  if (!g->inputs)
    return fk_fail(FK_ERROR_MEMORY, "%s: no memory for a case of %llu bytes", g->plan.task->name,
                   (unsigned long long)g->plan.bytes);
  FK_TRY(measure_costs(g));
  int64_t rows;
  if (g->result->flops > large_call && fk_subset_possible(&g->plan, &rows)) {
    g->subset = calloc(1, sizeof *g->subset);
    if (!g->subset) return fk_fail(FK_ERROR_MEMORY, "%s: no memory to judge a case", g->plan.task->name);
  }
  FK_TRY(divide(g));
  FK_TRY(start_arms(g, object));
  return fk_verdict_failed(g->result->verdict) ? FK_OK : run_blocks(g);
}

fk_status fk_grade_case(const fk_case *c, const char *object, const fk_grade_options *options, fk_context *ref,
                        fk_case_result *result) {
  memset(result, 0, sizeof *result);
  result->c = c;
  grading *g = calloc(1, sizeof *g);
  if (!g) return fk_fail(FK_ERROR_MEMORY, "%s: no memory to judge a case", c->task->name);
  g->options = options;
  g->result = result;
  g->ref = ref;
  g->alone = !object;
  fk_status status = fk_plan_make(c, &g->plan);
  if (!status) status = grade(g, object);
  fk_arm_end(&g->baseline);
  fk_arm_end(&g->candidate);
  free(g->calls);
  free(g->inputs);
  for (int i = 0; i < 3; i++) free(g->subset_buffers[i]);
  free(g->subset);
  free(g);
  return status;
}
