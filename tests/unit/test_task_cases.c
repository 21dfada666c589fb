/* Every task, every case of its cases.json, every dtype variant: the CPU implementations of every instruction set agree
 * with the oracle, write what they must and nothing else, do not depend on the number of threads, and run on meta. */
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* cmocka.h needs the headers above. */
#include <cmocka.h>

#include "unit/task_sweep.h"

enum { NUM_ISAS = 3 };

static struct {
  fk_context *ref, *meta, *cpu[NUM_ISAS];
  int isas;
} g;

/* The call on one context over a fresh copy of the inputs; false when it failed. */
static bool call(int isa, int threads, const fk_plan *plan, const void *inputs, void *base, fk_frame *frame) {
  omp_set_num_threads(threads);
  memcpy(base, inputs, plan->bytes);
  fk_plan_frame(plan, base, frame);
  return fk_call_task(g.cpu[isa], plan->task, frame->args, plan->task->num_args) == FK_OK;
}

static int check_answer(const fk_plan *plan, const void *base, const fk_frame *frame, fk_tensor *const *wide,
                        const uint64_t *guards, uint64_t seed, const char *isa) {
  int failures = 0;
  fk_comparison each[FK_MAX_ARGS], all;
  fk_compare_call(plan, frame, NULL, wide, each, &all);
  if (!all.pass) complain(&failures, plan->c, "cpu (%s) against ref: %s", isa, all.reason);
  if (fk_plan_check_guards(plan, base, guards) != FK_OK)
    complain(&failures, plan->c, "cpu (%s): %s", isa, fk_last_error());
  for (int i = 0; i < plan->task->num_args; i++) {
    int64_t left = fk_plan_unwritten(plan, base, i, seed);
    if (left > 0)
      complain(&failures, plan->c, "cpu (%s): %s: %lld elements were not written", isa, plan->task->args[i].name,
               (long long)left);
  }
  return failures;
}

/* One variant on one instruction set, with one thread and with two. */
static int check_isa(const fk_plan *plan, int isa, const void *inputs, fk_tensor *const *wide, uint64_t seed) {
  static fk_frame frame;
  uint64_t guards[FK_MAX_ARGS];
  int failures = 0;
  void *one = sweep_buffer(plan), *two = sweep_buffer(plan);
  fk_plan_guards(plan, inputs, guards);
  if (!call(isa, 2, plan, inputs, two, &frame)) {
    complain(&failures, plan->c, "cpu (%s): %s", fk_cpu_isa_name(isa), fk_last_error());
  } else {
    failures += check_answer(plan, two, &frame, wide, guards, seed, fk_cpu_isa_name(isa));
    if (!call(isa, 1, plan, inputs, one, &frame))
      complain(&failures, plan->c, "cpu (%s), one thread: %s", fk_cpu_isa_name(isa), fk_last_error());
    else if (memcmp(one, two, plan->bytes) != 0)
      complain(&failures, plan->c, "cpu (%s): one thread and two threads differ", fk_cpu_isa_name(isa));
  }
  free(one);
  free(two);
  return failures;
}

static int check_variant(fk_case *c, uint64_t seed) {
  static fk_plan plan;
  static fk_frame frame;
  fk_tensor *wide[FK_MAX_ARGS];
  int failures = 0;
  if (fk_plan_make(c, &plan) != FK_OK) {
    complain(&failures, c, "%s", fk_last_error());
    return failures;
  }
  void *inputs = sweep_buffer(&plan);
  if (fk_plan_fill(&plan, inputs, seed) != FK_OK || fk_plan_oracle(&plan, inputs, g.ref, wide) != FK_OK)
    complain(&failures, c, "ref: %s", fk_last_error());
  else
    for (int isa = 0; isa < g.isas; isa++) failures += check_isa(&plan, isa, inputs, wide, seed);
  fk_plan_frame(&plan, inputs, &frame);
  for (int i = 0; i < c->task->num_args; i++)
    if (fk_type_is_float(plan.tensors[i].type)) frame.tensors[i].data = NULL; /* meta: shapes; integers keep data */
  if (!failures && fk_call_task(g.meta, c->task, frame.args, c->task->num_args) != FK_OK)
    complain(&failures, c, "meta: %s", fk_last_error());
  fk_context_reset(g.ref);
  fk_context_reset(g.meta);
  free(inputs);
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

static void test_every_case(void **state) {
  (void)state;
  int tasks, failures = sweep_all(check_task, &tasks);
  assert_true(tasks > 0);
  assert_int_equal(failures, 0);
}

static int setup(void **state) {
  (void)state;
  unsetenv("FASTKERNELS_ISA");
  g.isas = fk_cpu_isa() + 1;
  for (int isa = 0; isa < g.isas; isa++) g.cpu[isa] = sweep_context(FK_CPU, fk_cpu_isa_name(isa));
  g.ref = sweep_context(FK_REF, NULL);
  g.meta = sweep_context(FK_META, NULL);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  for (int isa = 0; isa < g.isas; isa++) fk_context_destroy(g.cpu[isa]);
  fk_context_destroy(g.ref);
  fk_context_destroy(g.meta);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_case)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
