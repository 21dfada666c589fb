/* The tolerances are themselves tested: for every task with cases, wrong answers made from the oracle's must die
 * wherever they differ, honest ones must live, and every kind of mutant must have been killed at least once per task.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* cmocka.h needs the headers above. */
#include <cmocka.h>

#include "core/convert.h"
#include "unit/task_sweep.h"

typedef enum mutant {
  HONEST,    /* y64 rounded once */
  REORDERED, /* y64 with the error of a float32 computation, then rounded */
  ZEROS,
  LAST_ROW,    /* the last row stays zero */
  SCALED,      /* 1 % too large */
  LOWER_CLASS, /* rounded to the next coarser precision */
  STALE,       /* the answer to other inputs */
  IDENTITY,    /* the first input of the output's shape */
  SHIFTED,     /* every row is its neighbour's */
  NUM_MUTANTS
} mutant;

static const char *const names[] = {"honest",      "reordered", "zeros",    "last row", "scaled",
                                    "lower class", "stale",     "identity", "shifted"};

static fk_context *ref;
static int killed[NUM_MUTANTS], applied[NUM_MUTANTS];

/* The precision that a careless kernel might pass through: bfloat16 for float32, four bits of significand below. */
static double coarser(fk_type type, double v) {
  float narrow = (float)v;
  if (type == FK_F32) {
    uint16_t b;
    fk_store_f64(FK_BF16, &b, 0, v);
    return fk_load_f64(FK_BF16, &b, 0);
  }
  if (!isfinite(v) || v == 0) return v;
  int exponent;
  double m = frexp((double)narrow, &exponent);
  return ldexp(nearbyint(m * 16) / 16, exponent);
}

typedef struct subject {
  const fk_plan *plan;
  const fk_tensor *y64, *stale, *input; /* input: NULL when there is none of the shape */
  int arg;
  fk_type type;
  int64_t numel, row;
} subject;

static double mutate(const subject *s, mutant kind, int64_t i) {
  double v = fk_load_f64(fk_type_of(s->y64), fk_data(s->y64), i);
  switch (kind) {
    case REORDERED:
      return v * (1 + (i % 2 ? 1.5 : -1.5) * 0x1p-24);
    case ZEROS:
      return 0;
    case LAST_ROW:
      return i >= s->numel - s->row ? 0 : v;
    case SCALED:
      return v * 1.01;
    case LOWER_CLASS:
      return coarser(s->type, v);
    case STALE:
      return fk_load_f64(fk_type_of(s->stale), fk_data(s->stale), i);
    case IDENTITY:
      return fk_load_f64(fk_type_of(s->input), fk_data(s->input), i);
    case SHIFTED:
      return fk_load_f64(fk_type_of(s->y64), fk_data(s->y64), (i + s->row) % s->numel);
    default:
      return v;
  }
}

/* A composite works in its activations' dtype, and is held to it: among bfloat16 ones, a float32 state does not show
 * that it was rounded to bfloat16. */
static bool works_in_bfloat16(const fk_plan *plan) {
  bool found = false;
  for (int i = 0; i < plan->task->num_args; i++)
    found = found || (plan->tensors[i].given && plan->tensors[i].type == FK_BF16);
  return found && plan->task->level > 1;
}

/* The number of elements that carry the output's norm, as docs/scoring.md counts them. */
static double carriers(const subject *s) {
  double square = 0, fourth = 0;
  for (int64_t i = 0; i < s->numel; i++) {
    double y = fk_load_f64(FK_F64, fk_data(s->y64), i);
    if (!isfinite(y)) continue;
    square += y * y;
    fourth += y * y * y * y;
  }
  return fourth > 0 ? square * square / fourth : 0;
}

/* Whether a kind says anything about this output. */
static bool applies(const subject *s, mutant kind, const fk_tolerance *floor) {
  bool floats = fk_type_is_float(s->type);
  if (kind == IDENTITY) return s->input != NULL;
  if (kind == REORDERED) return floats && !floor->exact;
  if (kind == LOWER_CLASS && s->type == FK_F32 && works_in_bfloat16(s->plan)) return false;
  if (kind == LOWER_CLASS) return floats && (s->type == FK_F32 || s->type == FK_F16 || s->type == FK_BF16);
  /* One per cent cannot be told from coarse roundings on a few elements: it takes many to show what they share. */
  if (kind == SCALED) return floats && 6 * floor->error / sqrt(carriers(s)) < 0.005;
  return true;
}

/* By value: one NaN is as good as another. */
static int64_t count_changed(const subject *s, const void *honest, const void *y) {
  int64_t changed = 0;
  for (int64_t i = 0; i < s->numel; i++) {
    double a = fk_load_f64(s->type, honest, i), b = fk_load_f64(s->type, y, i);
    changed += a != b && !(isnan(a) && isnan(b));
  }
  return changed;
}

static int check_mutants(const subject *s) {
  fk_tolerance tolerance;
  fk_comparison r;
  int failures = 0;
  size_t bytes = fk_type_bytes(s->type, s->numel);
  if (fk_type_bits(s->type) < 8 || s->numel == 0) return 0;
  if (fk_tolerance_of(s->plan, s->arg, &tolerance) != FK_OK) {
    complain(&failures, s->plan->c, "%s", fk_last_error());
    return failures;
  }
  char *honest = malloc(bytes), *y = malloc(bytes);
  fk_tensor t = *s->y64;
  t.dtype = fk_dtype_from(s->type);
  t.byte_offset = 0;
  t.data = y;
  for (mutant kind = HONEST; kind < NUM_MUTANTS; kind++) {
    if (!applies(s, kind, &tolerance)) continue;
    for (int64_t i = 0; i < s->numel; i++) fk_store_f64(s->type, y, i, mutate(s, kind, i));
    if (kind == HONEST) memcpy(honest, y, bytes);
    fk_compare(&tolerance, &t, NULL, s->y64, &r);
    const char *name = s->plan->task->args[s->arg].name;
    if (kind <= REORDERED) {
      if (!r.pass) complain(&failures, s->plan->c, "%s: the %s answer was refused: %s", name, names[kind], r.reason);
      continue;
    }
    if (count_changed(s, honest, y) == 0) continue;
    applied[kind]++;
    killed[kind] += !r.pass;
    if (r.pass)
      complain(&failures, s->plan->c,
               "%s: the mutant \"%s\" lives: error %.3g of %.3g, worst %.3g of %.3g, gain %.3g of %.3g", name,
               names[kind], r.candidate.error, r.limit.error, r.candidate.worst, r.limit.worst, r.candidate.gain,
               r.limit.gain);
  }
  free(honest);
  free(y);
  return failures;
}

/* The answer to other inputs: the oracle once more, with another seed. */
static bool oracle(const fk_plan *plan, void *base, uint64_t seed, fk_tensor *wide[FK_MAX_ARGS]) {
  return fk_plan_fill(plan, base, seed) == FK_OK && fk_plan_oracle(plan, base, ref, wide) == FK_OK;
}

static int check_case(fk_case *c) {
  static fk_plan plan;
  int failures = 0;
  fk_tensor *wide[FK_MAX_ARGS], *stale[FK_MAX_ARGS], *inputs[FK_MAX_ARGS];
  if (fk_plan_make(c, &plan) != FK_OK) {
    complain(&failures, c, "%s", fk_last_error());
    return failures;
  }
  void *base = sweep_buffer(&plan);
  if (!oracle(&plan, base, 8, stale) || !oracle(&plan, base, 7, wide)) {
    complain(&failures, c, "ref: %s", fk_last_error());
  } else {
    fk_frame frame;
    fk_plan_frame(&plan, base, &frame);
    for (int i = 0; i < c->task->num_args; i++) inputs[i] = plan.tensors[i].given ? wide[i] : NULL;
    for (int o = 0; o < c->task->num_args; o++) {
      const fk_arg *arg = &c->task->args[o];
      if (!fk_arg_is_tensor(arg) || !fk_arg_is_written(arg) || !plan.tensors[o].given) continue;
      subject s = {&plan, wide[o], stale[o], NULL, o, plan.tensors[o].type, fk_numel(wide[o]), 1};
      s.row = wide[o]->ndim ? wide[o]->shape[wide[o]->ndim - 1] : 1;
      for (int i = 0; i < o && !s.input; i++)
        if (inputs[i] && c->task->args[i].role == FK_INPUT && !c->task->args[i].inout &&
            plan.tensors[i].type == s.type && plan.tensors[i].ndim == plan.tensors[o].ndim &&
            memcmp(plan.tensors[i].shape, plan.tensors[o].shape, (size_t)plan.tensors[o].ndim * sizeof(int64_t)) == 0)
          s.input = inputs[i];
      failures += check_mutants(&s);
    }
  }
  fk_context_reset(ref);
  free(base);
  return failures;
}

static int check_task(sweep_task *s) {
  int failures = 0;
  memset(killed, 0, sizeof killed);
  memset(applied, 0, sizeof applied);
  for (int i = 0; i < s->count; i++)
    for (int v = 0; v < fk_task_num_variants(s->task); v++) {
      fk_case_use_variant(s->cases[i].c, v);
      failures += check_case(s->cases[i].c);
    }
  for (mutant kind = ZEROS; kind <= STALE; kind++) {
    bool needs_floats = kind == SCALED || kind == LOWER_CLASS;
    bool floats = false;
    for (int i = 0; i < s->task->num_args; i++)
      floats |= fk_arg_is_written(&s->task->args[i]) && fk_type_is_float(s->cases[0].c->tensors[i].dtype);
    if (killed[kind] > 0 || (needs_floats && !floats)) continue;
    fprintf(stderr, "%s: no case shows the mutant \"%s\"\n", s->task->name, names[kind]);
    failures++;
  }
  return failures;
}

static void test_mutants_die_and_honest_answers_live(void **state) {
  (void)state;
  int tasks, failures = sweep_all(check_task, &tasks);
  assert_true(tasks > 0);
  assert_int_equal(failures, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutants_die_and_honest_answers_live)};
  ref = sweep_context(FK_REF, NULL);
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  fk_context_destroy(ref);
  return failed;
}
