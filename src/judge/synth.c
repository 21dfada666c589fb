/* Filling a buffer by a plan: inputs with meaning, outputs with poison, everything else with noise. */
#include "judge/synth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/convert.h"
#include "judge/random.h"

enum {
  KNOTS = 1024, /* intervals of the quantile table */
  CHUNK = 2048  /* elements generated at a time */
};

/* Streams of randomness beside the arguments' own. */
enum { STREAM_NOISE = 1 << 16, STREAM_POISON = 1 << 17, STREAM_SPECIAL = 1 << 18 };

typedef struct filler {
  const fk_plan *plan;
  char *base;
  uint64_t seed;
  double quantiles[KNOTS + 1]; /* of the standard normal, the ends cut at 4.5 */
  bool done[FK_MAX_ARGS];
} filler;

/* Normal quantiles by bisection on erfc; once per fill, a fraction of a millisecond. */
static void make_quantiles(double q[KNOTS + 1]) {
  q[0] = -4.5;
  q[KNOTS] = 4.5;
  for (int i = 1; i <= KNOTS / 2; i++) {
    double low = q[i - 1], high = 0, p = (double)i / KNOTS;
    for (int step = 0; step < 40; step++) {
      double middle = 0.5 * (low + high);
      if (0.5 * erfc(-middle * M_SQRT1_2) < p)
        low = middle;
      else
        high = middle;
    }
    q[i] = i == KNOTS / 2 ? 0 : low;
    q[KNOTS - i] = -q[i];
  }
}

static double normal(const filler *f, uint64_t bits) {
  uint64_t knot = bits >> 54;
  double at = (double)(bits << 10 >> 11) * 0x1p-53;
  return f->quantiles[knot] + at * (f->quantiles[knot + 1] - f->quantiles[knot]);
}

/* ---- Floats ---------------------------------------------------------------------------------------------- */

/* How one float tensor's values come from bits. */
typedef struct float_rule {
  bool uniform, clamp;
  double scale, shift, low, high;
  int64_t cos_sin; /* > 0: the length of a row of a rotary table */
  const double *values;
} float_rule;

static void make_huge(const fk_plan_tensor *t, float_rule *rule) {
  double by = t->type == FK_F16 ? 0x1p13 : fk_type_bits(t->type) <= 8 ? 0x1p5 : 0x1p40;
  rule->scale *= by;
  rule->shift *= by;
  if (t->type != FK_F16) return;
  rule->clamp = true;
  rule->low = -60000, rule->high = 60000;
}

static float_rule rule_of(const filler *f, int i) {
  const fk_arg *arg = &f->plan->task->args[i];
  const fk_plan_tensor *t = &f->plan->tensors[i];
  const fk_case_tensor *ct = &f->plan->c->tensors[i];
  float_rule rule = {.scale = arg->values.b, .shift = arg->values.a, .values = ct->values};
  int64_t last = t->ndim ? t->shape[t->ndim - 1] : 1;
  if (arg->values.kind == FK_VALUES_DEFAULT) {
    rule.scale = arg->role == FK_WEIGHT && t->ndim >= 2 && last > 0 ? 1 / sqrt((double)last) : 1;
    rule.shift = 0;
  }
  if (arg->values.kind == FK_VALUES_UNIFORM) {
    rule.uniform = true;
    rule.scale = arg->values.b - arg->values.a;
  }
  if (arg->values.kind == FK_VALUES_COS_SIN) rule.cos_sin = last;
  if (ct->has_stats && (arg->values.kind == FK_VALUES_DEFAULT || arg->values.kind == FK_VALUES_NORMAL)) {
    rule.scale = ct->std, rule.shift = ct->mean;
    rule.clamp = true, rule.low = ct->min, rule.high = ct->max;
  }
  if (f->plan->c->special == FK_SPECIAL_HUGE && arg->role == FK_INPUT && !rule.cos_sin) make_huge(t, &rule);
  return rule;
}

static void generate(const filler *f, const float_rule *rule, uint64_t key, int64_t start, int64_t n, double *out) {
  for (int64_t k = 0; k < n; k++) {
    int64_t index = start + k;
    uint64_t bits = fk_random(key, (uint64_t)index);
    double v;
    if (rule->values) {
      v = rule->values[index];
    } else if (rule->cos_sin > 0) {
      int64_t half = rule->cos_sin / 2, column = index % rule->cos_sin, j = half > 0 ? column % half : 0;
      double angle = (double)(index / rule->cos_sin) * pow(10000.0, -(double)j / (double)(half > 0 ? half : 1));
      v = column < half ? cos(angle) : sin(angle);
    } else {
      v = (rule->uniform ? fk_unit(bits) : normal(f, bits)) * rule->scale + rule->shift;
      if (rule->clamp) v = fmin(fmax(v, rule->low), rule->high);
    }
    out[k] = v;
  }
}

int64_t fk_plan_offset(const fk_plan_tensor *t, int64_t index) {
  int64_t offset = 0;
  for (int32_t i = t->ndim - 1; i >= 0; i--) {
    offset += index % t->shape[i] * t->strides[i];
    index /= t->shape[i];
  }
  return offset * (int64_t)(fk_type_bits(t->type) / 8);
}

static int64_t numel_of(const fk_plan_tensor *t) {
  int64_t n = 1;
  for (int32_t i = 0; i < t->ndim; i++) n *= t->shape[i];
  return n;
}

/* Consecutive logical elements that are consecutive in memory. */
static int64_t run_length(const fk_plan_tensor *t) {
  int64_t run = 1;
  for (int32_t i = t->ndim - 1; i >= 0; i--) {
    if (t->shape[i] != 1 && t->strides[i] != run) break;
    run *= t->shape[i];
  }
  return run > 0 ? run : 1;
}

static void fill_floats(const filler *f, int i) {
  const fk_plan_tensor *t = &f->plan->tensors[i];
  const float_rule rule = rule_of(f, i);
  uint64_t key = fk_random_key(f->seed, (uint64_t)i);
  int64_t numel = numel_of(t), run = run_length(t), chunks = (run + CHUNK - 1) / CHUNK;
  if (numel == 0) return;
#pragma omp parallel for schedule(static) if (numel > 1 << 16)
  for (int64_t u = 0; u < numel / run * chunks; u++) {
    double buffer[CHUNK];
    int64_t at = u % chunks * CHUNK, n = run - at < CHUNK ? run - at : CHUNK, start = u / chunks * run + at;
    generate(f, &rule, key, start, n, buffer);
    char *to = f->base + t->data;
    /* Sub-byte tensors are contiguous, and chunks start on whole bytes. */
    to += fk_type_bits(t->type) < 8 ? (int64_t)fk_type_bytes(t->type, start) : fk_plan_offset(t, start);
    fk_convert_row(t->type, to, FK_F64, buffer, n);
  }
}

/* NaN and infinities in a few rows. */
static void spoil(const filler *f, int i) {
  static const double bad[] = {NAN, INFINITY, -INFINITY};
  const fk_plan_tensor *t = &f->plan->tensors[i];
  int64_t numel = numel_of(t);
  if (numel == 0 || t->ndim == 0 || fk_type_bits(t->type) < 8) return;
  uint64_t key = fk_random_key(f->seed, STREAM_SPECIAL + (uint64_t)i);
  int64_t last = t->shape[t->ndim - 1], rows = numel / last;
  for (int64_t r = 0; r < rows; r++) {
    uint64_t bits = fk_random(key, (uint64_t)r);
    if ((r > 0 && bits % 4 != 0) || (rows > 1 && r == rows - 1)) continue;
    for (uint64_t k = 0; k <= (bits >> 8 & 1); k++) {
      uint64_t more = fk_random(key + k + 1, (uint64_t)r);
      int64_t column = (int64_t)fk_below(more, (uint64_t)last);
      fk_store_f64(t->type, f->base + t->data + fk_plan_offset(t, r * last + column), 0, bad[(more + k) % 3]);
    }
  }
}

/* ---- Integers -------------------------------------------------------------------------------------------- */

static void store(const filler *f, int i, int64_t index, int64_t value) {
  const fk_plan_tensor *t = &f->plan->tensors[i];
  fk_store_i64(t->type, f->base + t->data + fk_plan_offset(t, index), 0, value);
}

static int64_t load(const filler *f, int i, int64_t index) {
  const fk_plan_tensor *t = &f->plan->tensors[i];
  return fk_load_i64(t->type, f->base + t->data + fk_plan_offset(t, index), 0);
}

static fk_status bad_values(const filler *f, int i, const char *why) {
  return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: cannot make values: %s", f->plan->task->name, f->plan->task->args[i].name,
                 why);
}

/* Random lengths that sum to total: one each while it lasts, the rest in proportion to random weights. */
static fk_status fill_cu_seqlens(const filler *f, int i, uint64_t key, int64_t total) {
  int64_t count = numel_of(&f->plan->tensors[i]) - 1, start = 0;
  if (count < 0) return FK_OK;
  if (count == 0 && total > 0) return bad_values(f, i, "no sequence to hold the total");
  double sum = 0, seen = 0;
  int64_t spare = total > count ? total - count : 0;
  for (int64_t b = 0; b < count; b++) sum += 0.1 + fk_unit(fk_random(key, (uint64_t)b));
  for (int64_t b = 0; b < count; b++) {
    store(f, i, b, start);
    seen += 0.1 + fk_unit(fk_random(key, (uint64_t)b));
    start = (b + 1 < total ? b + 1 : total) + (int64_t)((double)spare * (seen / sum));
    if (b + 1 == count || start > total) start = total;
  }
  store(f, i, count > 0 ? count : 0, total);
  return FK_OK;
}

static fk_status fill_seq_lens(const filler *f, int i, uint64_t key, int64_t max) {
  int cu = f->plan->task->args[i].values.tensor;
  const fk_plan_tensor *c = cu >= 0 ? &f->plan->tensors[cu] : NULL;
  int64_t count = numel_of(&f->plan->tensors[i]);
  for (int64_t b = 0; b < count; b++) {
    int64_t least = 1;
    if (c && c->given && b + 1 < numel_of(c)) least = load(f, cu, b + 1) - load(f, cu, b);
    if (least < 1) least = max < 1 ? 0 : 1;
    if (least > max) return bad_values(f, i, "a sequence has more query tokens than max");
    store(f, i, b, least + (int64_t)fk_below(fk_random(key, (uint64_t)b), (uint64_t)(max - least + 1)));
  }
  return FK_OK;
}

/* The kinds whose elements do not depend on each other. */
static int64_t plain_int(const fk_arg *arg, const fk_plan_tensor *t, uint64_t key, int64_t index, int64_t below) {
  int64_t last = t->ndim ? t->shape[t->ndim - 1] : 1;
  uint64_t bits = fk_random(key, (uint64_t)index), n = (uint64_t)below, at = (uint64_t)index;
  switch (arg->values.kind) {
    case FK_VALUES_INDEX:
      if (!arg->values.unique) return (int64_t)fk_below(bits, n);
      return (int64_t)fk_permute(fk_random(key, (uint64_t)(index / last)), (uint64_t)(index % last), n);
    case FK_VALUES_POSITIONS:
      return (int64_t)fk_below(bits, n);
    case FK_VALUES_BLOCK_TABLE:
      return (int64_t)fk_permute(key, at % n, n);
    case FK_VALUES_SLOT_MAPPING:
      return bits % 8 == 0 || at >= n ? -1 : (int64_t)fk_permute(key, at, n);
    case FK_VALUES_UNIFORM:
      return (int64_t)arg->values.a + (int64_t)fk_below(bits, (uint64_t)(arg->values.b - arg->values.a) + 1);
    case FK_VALUES_NORMAL:
      return (int64_t)llround(arg->values.a + arg->values.b * (fk_unit(bits) * 4 - 2));
    default:
      return (int64_t)(bits >> 63);
  }
}

static fk_status fill_ints(filler *f, int i) {
  const fk_plan *plan = f->plan;
  const fk_arg *arg = &plan->task->args[i];
  const fk_plan_tensor *t = &plan->tensors[i];
  const fk_case_tensor *ct = &plan->c->tensors[i];
  uint64_t key = fk_random_key(f->seed, (uint64_t)i);
  int64_t bound = 0, numel = numel_of(t);
  if (ct->values) {
    for (int64_t k = 0; k < numel; k++) store(f, i, k, (int64_t)ct->values[k]);
    return FK_OK;
  }
  if (arg->values.bound) {
    fk_frame frame;
    fk_plan_frame(plan, f->base, &frame);
    if (!fk_expr_is_bound(arg->values.bound, plan->c->binding.symbols))
      return bad_values(f, i, "an axis of its bound has no value");
    fk_status status = fk_expr_eval(arg->values.bound, plan->c->binding.symbols, frame.args, &bound);
    if (status) return fk_fail_in(status, "%s: %s", plan->task->name, arg->name);
    if (bound < 0) return bad_values(f, i, "its bound is negative");
  }
  if (arg->values.kind == FK_VALUES_CU_SEQLENS) return fill_cu_seqlens(f, i, key, bound);
  if (arg->values.kind == FK_VALUES_SEQ_LENS) return fill_seq_lens(f, i, key, bound);
  bool slots = arg->values.kind == FK_VALUES_SLOT_MAPPING;
  if (arg->values.bound && bound == 0 && numel > 0 && !slots) return bad_values(f, i, "no value lies below 0");
  if (arg->values.unique && t->ndim > 0 && t->shape[t->ndim - 1] > bound)
    return bad_values(f, i, "more distinct values than there are");
  for (int64_t k = 0; k < numel; k++) store(f, i, k, plain_int(arg, t, key, k, bound));
  return FK_OK;
}

/* ---- Poison and noise ------------------------------------------------------------------------------------ */

static uint64_t poison_bits(fk_type type, uint64_t bits) {
  switch (type) {
    case FK_F64:
      return 0x7ff0000000000001u | (bits & 0x8007fffffffffffeu);
    case FK_F32:
      return 0x7f800001u | (bits & 0x803ffffeu);
    case FK_BF16:
      return 0x7f81u | (bits & 0x803eu);
    case FK_F16:
      return 0x7c01u | (bits & 0x81feu);
    case FK_F8_E4M3FN:
      return 0x7fu | (bits & 0x80u);
    case FK_F8_E5M2:
      return 0x7du | (bits & 0x82u);
    case FK_F8_E8M0:
      return 0xffu;
    case FK_BOOL:
      return 2 + bits % 254;
    default:
      return bits;
  }
}

static void poison(const filler *f, int i) {
  const fk_plan_tensor *t = &f->plan->tensors[i];
  size_t size = fk_type_bits(t->type) / 8;
  uint64_t key = fk_random_key(f->seed, STREAM_POISON + (uint64_t)i);
  int64_t numel = numel_of(t);
  if (size == 0) return; /* sub-byte: the noise of the whole buffer is its poison */
  for (int64_t k = 0; k < numel; k++) {
    uint64_t bits = poison_bits(t->type, fk_random(key, (uint64_t)k));
    memcpy(f->base + t->data + fk_plan_offset(t, k), &bits, size);
  }
}

int64_t fk_plan_unwritten(const fk_plan *plan, const void *base, int arg, uint64_t seed) {
  const fk_plan_tensor *t = &plan->tensors[arg];
  size_t size = fk_type_bits(t->type) / 8;
  if (!t->given || t->alias >= 0 || plan->task->args[arg].role != FK_OUTPUT) return 0;
  if (!fk_type_is_float(t->type) || size < 2) return 0;
  uint64_t key = fk_random_key(seed, STREAM_POISON + (uint64_t)arg);
  int64_t numel = numel_of(t), left = 0;
  for (int64_t k = 0; k < numel; k++) {
    uint64_t bits = poison_bits(t->type, fk_random(key, (uint64_t)k));
    left += memcmp((const char *)base + t->data + fk_plan_offset(t, k), &bits, size) == 0;
  }
  return left;
}

/* Red zones and gaps: random, so that no kernel can rely on what lies there. */
static void fill_noise(const filler *f, int i) {
  const fk_plan_tensor *t = &f->plan->tensors[i];
  uint64_t key = fk_random_key(f->seed, STREAM_NOISE + (uint64_t)i);
  bool dense = run_length(t) == numel_of(t) && fk_type_bits(t->type) >= 8;
  for (uint64_t at = 0; at + 8 <= t->length; at += 8) {
    uint64_t place = t->region + at;
    if (dense && place >= t->data &&
        place + 8 <= t->data + t->span) { /* elements follow: on to the last word of them */
      at += (t->data + t->span - place) / 8 * 8 - 8;
      continue;
    }
    uint64_t bits = fk_random(key, at);
    memcpy(f->base + place, &bits, 8);
  }
}

/* ---- All of it ------------------------------------------------------------------------------------------- */

static fk_status fill_one(filler *f, int i) {
  const fk_arg *arg = &f->plan->task->args[i];
  const fk_plan_tensor *t = &f->plan->tensors[i];
  if (f->done[i] || !t->given || t->alias >= 0) return FK_OK;
  f->done[i] = true;
  if (arg->values.tensor >= 0) FK_TRY(fill_one(f, arg->values.tensor)); /* the lengths it must agree with */
  fill_noise(f, i);
  if (arg->role == FK_OUTPUT) {
    poison(f, i);
  } else if (fk_type_is_float(t->type)) {
    fill_floats(f, i);
    bool values = f->plan->c->tensors[i].values || arg->values.kind == FK_VALUES_COS_SIN;
    if (f->plan->c->special == FK_SPECIAL_NONFINITE && arg->role == FK_INPUT && !values) spoil(f, i);
  } else {
    return fill_ints(f, i);
  }
  return FK_OK;
}

/* Integers first, those last whose bound is a function of another integer tensor's content. */
static fk_status fill_passes(filler *f, int passes) {
  const fk_plan *plan = f->plan;
  for (int pass = 0; pass < passes; pass++)
    for (int i = 0; i < plan->task->num_args; i++) {
      if (!fk_arg_is_tensor(&plan->task->args[i]) || !plan->tensors[i].given) continue;
      const fk_expr *bound = plan->task->args[i].values.bound;
      int turn = fk_type_is_float(plan->tensors[i].type) ? 2 : bound && fk_expr_reads_data(bound) ? 1 : 0;
      if (turn == pass) FK_TRY(fill_one(f, i));
    }
  return FK_OK;
}

fk_status fk_plan_fill(const fk_plan *plan, void *base, uint64_t seed) {
  filler f = {.plan = plan, .base = base, .seed = seed};
  make_quantiles(f.quantiles);
  return fill_passes(&f, 3);
}

fk_status fk_plan_fill_integers(const fk_plan *plan, void *base, uint64_t seed) {
  filler f = {.plan = plan, .base = base, .seed = seed};
  return fill_passes(&f, 2);
}
