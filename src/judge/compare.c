#include "judge/compare.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/convert.h"

const char *const fk_tolerance_classes[] = {"exact", "elementwise", "reduction", "matmul", "attention", NULL};

/* How much worse than the baseline a candidate may be: twice in the mean, four times in the worst element, whose
 * extreme statistics vary more. A baseline excuses at most 16 floors: beyond that it is broken itself. */
static const double k_error = 2, k_worst = 4, k_gain = 2, most_floors = 16;

/* ---- Floors ---------------------------------------------------------------------------------------------- */

/* Half a unit in the last place of 1. */
static double roundoff(fk_type type) {
  switch (type) {
    case FK_F64:
      return 0x1p-53;
    case FK_F32:
      return 0x1p-24;
    case FK_F16:
      return 0x1p-11;
    case FK_BF16:
      return 0x1p-8;
    case FK_F8_E4M3FN:
      return 0x1p-4;
    case FK_F8_E5M2:
      return 0x1p-3;
    case FK_F4_E2M1:
      return 0x1p-2;
    case FK_F8_E8M0:
      return 0.5;
    default:
      return 0;
  }
}

/* The unit of a composite's intermediates: they are stored like its activations. */
static double working_roundoff(const fk_plan *plan, double own) {
  for (int i = 0; i < plan->task->num_args; i++) {
    const fk_plan_tensor *t = &plan->tensors[i];
    const fk_arg *arg = &plan->task->args[i];
    if (t->given && fk_arg_is_tensor(arg) && fk_type_is_float(t->type) && t->type != FK_F8_E8M0)
      own = fmax(own, roundoff(t->type));
  }
  return own;
}

fk_status fk_tolerance_of(const fk_plan *plan, int arg, fk_tolerance *tolerance) {
  /* Errors of a float32 computation in units of its roundoff: sums of the lengths that occur, in any order. */
  static const double steps[] = {0, 16, 64, 256, 256};
  const fk_task *task = plan->task;
  int class = 0;
  while (fk_tolerance_classes[class] && strcmp(fk_tolerance_classes[class], task->tolerance) != 0) class ++;
  if (!fk_tolerance_classes[class])
    return fk_fail(FK_ERROR_FORMAT, "%s: unknown tolerance class \"%s\"", task->name, task->tolerance);
  double own = roundoff(plan->tensors[arg].type), unit = own, levels = 1;
  if (task->level > 1) {
    unit = working_roundoff(plan, own);
    levels = task->level;
  }
  double compute = steps[class] * levels * (own < 0x1p-24 ? own : 0x1p-24);
  *tolerance = (fk_tolerance){.exact = class == 0 || !fk_type_is_float(plan->tensors[arg].type)};
  tolerance->error = unit * levels + compute;
  /* One rounding is bounded; a composite's errors are sums of many and have a normal tail. */
  tolerance->worst = (task->level > 1 ? 5 : 2) * unit * levels + 8 * compute;
  tolerance->gain = fmax(tolerance->error / 8, 8 * (own < 0x1p-24 ? own : 0x1p-24));
  return FK_OK;
}

/* ---- Measuring ------------------------------------------------------------------------------------------- */

/* What a difference may owe to the smallest numbers of the dtype: half their spacing and a little; all of the smallest
 * normal number where a machine may flush to zero. Taken off every difference. */
static double underflow(fk_type type) {
  switch (type) {
    case FK_F16:
      return 0x1.1p-25;
    case FK_F8_E4M3FN:
      return 0x1.1p-10;
    case FK_F8_E5M2:
      return 0x1.1p-17;
    case FK_F4_E2M1:
      return 0.25;
    case FK_F64:
      return DBL_MIN;
    default:
      return FLT_MIN;
  }
}

/* One element at a time of a tensor of any strides, in logical order. */
typedef struct walker {
  const char *data;
  fk_type type;
  const fk_tensor *t;
  int64_t size;
} walker;

static walker walk(const fk_tensor *t) {
  return (walker){fk_data(t), fk_type_of(t), t, (int64_t)fk_type_bits(fk_type_of(t)) / 8};
}

static int64_t place(const walker *w, int64_t index) {
  int64_t offset = 0;
  for (int32_t i = w->t->ndim - 1; i >= 0; i--) {
    offset += index % w->t->shape[i] * fk_stride(w->t, i);
    index /= w->t->shape[i];
  }
  return offset;
}

static double at(const walker *w, int64_t index) {
  return fk_load_f64(w->type, w->data, w->t->strides && w->size > 0 ? place(w, index) : index);
}

static int64_t int_at(const walker *w, int64_t index) {
  return fk_load_i64(w->type, w->data, w->t->strides && w->size > 0 ? place(w, index) : index);
}

/* y64 as the dtype can say it: overflow becomes infinity where the dtype has one. */
static double representable(fk_type type, double v) {
  unsigned char bytes[8];
  fk_store_f64(type, bytes, 0, v);
  return fk_load_f64(type, bytes, 0);
}

/* NaN and infinities: 1 agrees, 0 does not, -1 both are finite. */
static int agree_nonfinite(fk_type type, double y, double truth) {
  if (isfinite(y) && isfinite(truth)) return -1;
  if (isnan(y) || isnan(truth)) return isnan(y) && isnan(truth);
  if (isinf(y) && isinf(truth)) return y == truth;
  double rounded = representable(type, truth);
  return y == rounded;
}

static int64_t row_length(const fk_tensor *t) {
  int64_t n = 1;
  for (int32_t i = t->ndim - 1; i >= 0 && n < 16; i--) n *= t->shape[i];
  return n > 0 ? n : 1;
}

typedef struct measure {
  fk_errors errors;
  int64_t mismatched, first_mismatch, worst_at, judged;
  double rms;       /* of y64's finite elements */
  double effective; /* how many elements carry the norm: n when all are alike, 1 when one stands out */
} measure;

static double rms_of(const walker *truth, int64_t start, int64_t n, int64_t *judged) {
  double sum = 0;
  int64_t count = 0;
  for (int64_t i = start; i < start + n; i++) {
    double v = at(truth, i);
    if (!isfinite(v)) continue;
    sum += v * v;
    count++;
    if (judged && v != 0) ++*judged;
  }
  return count > 0 ? sqrt(sum / (double)count) : 0;
}

static void measure_floats(const fk_tensor *y, const fk_tensor *y64, measure *m) {
  walker a = walk(y), truth = walk(y64);
  int64_t numel = fk_numel(y), row = row_length(y);
  double squares = 0, projected = 0, norm = 0, fourth = 0, tiny = underflow(a.type);
  *m = (measure){.first_mismatch = -1, .worst_at = -1};
  m->rms = rms_of(&truth, 0, numel, &m->judged);
  for (int64_t start = 0; start < numel; start += row) {
    double scale = fmax(rms_of(&truth, start, row, NULL), 1e-4 * m->rms);
    for (int64_t i = start; i < start + row; i++) {
      double v = at(&a, i), t = at(&truth, i);
      int agree = agree_nonfinite(a.type, v, t);
      if (agree == 0 && m->mismatched++ == 0) m->first_mismatch = i;
      if (agree >= 0) continue;
      double d = v - t;
      d = copysign(fmax(fabs(d) - tiny, 0), d);
      double over = fabs(d) / (scale + fabs(t));
      squares += d * d;
      projected += d * t;
      norm += t * t;
      fourth += t * t * t * t;
      if (over > m->errors.worst) m->errors.worst = over, m->worst_at = i;
    }
  }
  m->effective = fourth > 0 ? norm * norm / fourth : 1;
  if (squares == 0) return;
  /* Without a norm to relate to, any difference is infinitely wrong. */
  m->errors.error = norm > 0 ? sqrt(squares / norm) : INFINITY;
  m->errors.gain = norm > 0 ? fabs(projected) / norm : INFINITY;
}

static void measure_exact(const fk_tensor *y, const fk_tensor *y64, measure *m) {
  walker a = walk(y), truth = walk(y64);
  int64_t numel = fk_numel(y);
  bool floats = fk_type_is_float(a.type);
  *m = (measure){.first_mismatch = -1, .worst_at = -1};
  for (int64_t i = 0; i < numel; i++) {
    bool same;
    if (floats) {
      double v = at(&a, i), t = representable(a.type, at(&truth, i));
      same = v == t || (isnan(v) && isnan(t));
      m->judged += t != 0;
    } else {
      int64_t t = int_at(&truth, i);
      same = int_at(&a, i) == t;
      /* A bool has two values: an untouched pattern is neither. */
      if (a.type == FK_BOOL) same = same && ((const unsigned char *)a.data)[place(&a, i)] < 2;
      m->judged += t != 0;
    }
    if (!same && m->mismatched++ == 0) m->first_mismatch = i;
  }
}

/* ---- Judging --------------------------------------------------------------------------------------------- */

static double limit_of(double floor, double k, double baseline) {
  if (!(baseline >= 0)) return floor;
  return fmin(fmax(floor, k * baseline), most_floors * floor);
}

static void explain(fk_comparison *r, const fk_tensor *y, const fk_tensor *y64, const char *what, double got,
                    double limit) {
  walker a = walk(y), truth = walk(y64);
  int64_t i = r->first_mismatch;
  int used = limit >= 0 ? snprintf(r->reason, sizeof r->reason, "%s %.3g, allowed %.3g", what, got, limit)
                        : snprintf(r->reason, sizeof r->reason, "%s: %.0f of %lld elements", what, got,
                                   (long long)r->num_elements);
  if (i >= 0 && used > 0 && used < (int)sizeof r->reason)
    snprintf(r->reason + used, sizeof r->reason - (size_t)used, "; element %lld is %.9g, should be %.9g", (long long)i,
             at(&a, i), at(&truth, i));
}

static void judge_floats(const fk_tolerance *tolerance, const fk_tensor *y, const fk_tensor *baseline,
                         const fk_tensor *y64, fk_comparison *r) {
  measure m, b;
  measure_floats(y, y64, &m);
  r->candidate = m.errors;
  if (baseline) {
    measure_floats(baseline, y64, &b);
    /* A baseline with NaN where the truth has none excuses nothing. */
    r->baseline = b.mismatched ? (fk_errors){0} : b.errors;
  }
  r->limit.error = limit_of(tolerance->error, k_error, r->baseline.error);
  r->limit.worst = limit_of(tolerance->worst, k_worst, r->baseline.worst);
  /* Independent roundings leave a gain of about error / sqrt(n), n elements carrying the norm. */
  double chance = 6 * r->limit.error / sqrt(fmax(m.effective, 1));
  r->limit.gain = fmax(limit_of(tolerance->gain, k_gain, r->baseline.gain), chance);
  r->vacuous = m.judged == 0;
  r->num_mismatched = m.mismatched;
  r->first_mismatch = m.mismatched ? m.first_mismatch : m.worst_at;
  if (m.mismatched)
    explain(r, y, y64, "NaN or infinity in the wrong place", (double)m.mismatched, -1);
  else if (!(m.errors.error <= r->limit.error))
    explain(r, y, y64, "relative RMS error", m.errors.error, r->limit.error);
  else if (!(m.errors.worst <= r->limit.worst))
    explain(r, y, y64, "worst element's error on the scale of its row", m.errors.worst, r->limit.worst);
  else if (!(m.errors.gain <= r->limit.gain))
    explain(r, y, y64, "error shared by all elements (a wrong scale)", m.errors.gain, r->limit.gain);
  else
    r->pass = true;
}

void fk_compare(const fk_tolerance *tolerance, const fk_tensor *y, const fk_tensor *baseline, const fk_tensor *y64,
                fk_comparison *r) {
  *r = (fk_comparison){.num_elements = fk_numel(y), .first_mismatch = -1};
  if (r->num_elements == 0) {
    r->pass = r->vacuous = true;
    return;
  }
  if (!tolerance->exact) {
    judge_floats(tolerance, y, baseline, y64, r);
    return;
  }
  measure m;
  measure_exact(y, y64, &m);
  r->vacuous = m.judged == 0;
  r->num_mismatched = m.mismatched;
  r->first_mismatch = m.first_mismatch;
  r->pass = m.mismatched == 0;
  if (!r->pass) explain(r, y, y64, "differs from the exact result", (double)m.mismatched, -1);
}

void fk_compare_call(const fk_plan *plan, const fk_frame *answer, const fk_frame *baseline, fk_tensor *const *wide,
                     fk_comparison comparisons[FK_MAX_ARGS], fk_comparison *all) {
  *all = (fk_comparison){.pass = true, .vacuous = true, .first_mismatch = -1};
  for (int i = 0; i < plan->task->num_args; i++) {
    const fk_arg *arg = &plan->task->args[i];
    if (!plan->tensors[i].given || !fk_arg_is_tensor(arg) || !fk_arg_is_written(arg)) continue;
    fk_comparison *r = &comparisons[i];
    fk_tolerance tolerance;
    *r = (fk_comparison){.first_mismatch = -1};
    if (fk_tolerance_of(plan, i, &tolerance) != FK_OK)
      snprintf(r->reason, sizeof r->reason, "%s", fk_last_error());
    else
      fk_compare(&tolerance, &answer->tensors[i], baseline ? &baseline->tensors[i] : NULL, wide[i], r);
    all->num_elements += r->num_elements;
    all->vacuous &= r->vacuous;
    if (all->pass && !r->pass) {
      *all = (fk_comparison){.num_elements = all->num_elements,
                             .num_mismatched = r->num_mismatched,
                             .first_mismatch = r->first_mismatch,
                             .vacuous = all->vacuous};
      snprintf(all->reason, sizeof all->reason, "%.40s: %.180s", arg->name, r->reason);
    }
    if (r->candidate.error >= all->candidate.error) {
      all->candidate = r->candidate;
      all->baseline = r->baseline;
      all->limit = r->limit;
    }
  }
}
