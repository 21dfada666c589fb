/* Plans: where the tensors of a case lie in a flat buffer, and what may change in it. */
#include <stdlib.h>
#include <string.h>

#include "judge/random.h"
#include "judge/synth.h"

enum {
  ALIGNMENT = 64,
  RED_ZONE = 512,    /* bytes on either side of every tensor */
  STRIDE_PADDING = 5 /* elements between the rows of a "strided" tensor: odd, so that rows are not aligned */
};

#define MAX_BYTES ((uint64_t)1 << 46)

static fk_status too_large(const fk_task *task, const fk_arg *arg) {
  return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: the tensor is too large", task->name, arg->name);
}

/* Strides of a tensor that has a memory of its own. */
static fk_status choose_strides(const fk_task *task, const fk_arg *arg, const fk_case_tensor *ct, fk_plan_tensor *t) {
  if (ct->strides) {
    if (ct->num_strides != t->ndim)
      return fk_fail(FK_ERROR_ARGUMENT, "%s: strides.%s: expected %d strides, got %d", task->name, arg->name, t->ndim,
                     ct->num_strides);
    memcpy(t->strides, ct->strides, (size_t)t->ndim * sizeof *t->strides);
    return FK_OK;
  }
  if (ct->strided && (t->ndim < 2 || fk_type_bits(t->type) < 8))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: strided: %s needs two dimensions and whole bytes", task->name, arg->name);
  int64_t stride = 1;
  for (int32_t i = t->ndim - 1; i >= 0; i--) {
    t->strides[i] = stride;
    if (__builtin_mul_overflow(stride, t->shape[i] ? t->shape[i] : 1, &stride)) return too_large(task, arg);
    if (ct->strided && i == t->ndim - 1) stride += STRIDE_PADDING;
  }
  return FK_OK;
}

/* Bytes from the first element to the end of the last. */
static fk_status measure(const fk_task *task, const fk_arg *arg, fk_plan_tensor *t) {
  int64_t last = 0, step, numel = 1;
  for (int32_t i = 0; i < t->ndim; i++) {
    if (__builtin_mul_overflow(numel, t->shape[i], &numel)) return too_large(task, arg);
    if (t->shape[i] == 0) continue;
    if (__builtin_mul_overflow(t->shape[i] - 1, t->strides[i], &step) || __builtin_add_overflow(last, step, &last))
      return too_large(task, arg);
  }
  if ((uint64_t)last >= MAX_BYTES / 8) return too_large(task, arg);
  t->span = numel == 0 ? 0 : fk_type_bytes(t->type, last + 1);
  return FK_OK;
}

static fk_status place(const fk_plan *plan, int i, fk_plan_tensor *t, uint64_t *end) {
  const fk_case_tensor *ct = &plan->c->tensors[i];
  const fk_arg *arg = &plan->task->args[i];
  FK_TRY(fk_shape_eval(plan->task, arg, &plan->c->binding, t->shape, &t->ndim));
  if (t->alias >= 0) return FK_OK;
  FK_TRY(choose_strides(plan->task, arg, ct, t));
  FK_TRY(measure(plan->task, arg, t));
  int64_t numel = 1;
  for (int32_t d = 0; d < t->ndim; d++) numel *= t->shape[d];
  if (ct->values && ct->num_values != numel)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: values.%s: expected %lld values, got %lld", plan->task->name, arg->name,
                   (long long)numel, (long long)ct->num_values);
  t->region = *end;
  t->data = t->region + RED_ZONE;
  t->length = (t->span + 2 * RED_ZONE + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  *end += t->length;
  return *end < MAX_BYTES ? FK_OK : too_large(plan->task, arg);
}

static fk_status follow_alias(fk_plan *plan, int i) {
  fk_plan_tensor *t = &plan->tensors[i], *of = &plan->tensors[t->alias];
  if (t->type != of->type || t->ndim != of->ndim ||
      memcmp(t->shape, of->shape, (size_t)t->ndim * sizeof *t->shape) != 0)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: alias.%s: shape or dtype differ from %s's", plan->task->name,
                   plan->task->args[i].name, plan->task->args[t->alias].name);
  memcpy(t->strides, of->strides, sizeof t->strides);
  t->data = of->data;
  t->span = of->span;
  of->written = true;
  return FK_OK;
}

fk_status fk_plan_make(const fk_case *c, fk_plan *plan) {
  *plan = (fk_plan){.task = c->task, .c = c};
  uint64_t end = 0;
  for (int i = 0; i < c->task->num_args; i++) {
    fk_plan_tensor *t = &plan->tensors[i];
    t->given = c->tensors[i].given;
    if (!t->given) continue;
    t->alias = c->tensors[i].alias;
    t->type = c->tensors[i].dtype;
    t->written = fk_arg_is_written(&c->task->args[i]);
    FK_TRY(place(plan, i, t, &end));
  }
  for (int i = 0; i < c->task->num_args; i++)
    if (plan->tensors[i].given && plan->tensors[i].alias >= 0) FK_TRY(follow_alias(plan, i));
  plan->bytes = end;
  return FK_OK;
}

void fk_plan_frame(const fk_plan *plan, void *base, fk_frame *frame) {
  memset(frame, 0, sizeof *frame);
  for (int i = 0; i < plan->task->num_args; i++) {
    const fk_arg *arg = &plan->task->args[i];
    const fk_plan_tensor *t = &plan->tensors[i];
    double v = plan->c->attributes[i];
    if (arg->role == FK_ATTRIBUTE) {
      frame->args[i] = arg->type == FK_ATTR_FLOAT  ? fk_any_float(v)
                       : arg->type == FK_ATTR_BOOL ? fk_any_bool(v != 0)
                                                   : fk_any_int((int64_t)v);
    } else if (t->given) {
      frame->tensors[i] = (fk_tensor){.data = base ? (char *)base + t->data : NULL,
                                      .device = {FK_DL_CPU, 0},
                                      .ndim = t->ndim,
                                      .dtype = fk_dtype_from(t->type),
                                      .shape = (int64_t *)t->shape,
                                      .strides = (int64_t *)t->strides};
      frame->args[i] = fk_any_tensor(&frame->tensors[i]);
    }
  }
}

/* ---- Guards ---------------------------------------------------------------------------------------------- */

/* Four lanes, so that the hash runs at memory speed. */
static uint64_t hash_bytes(uint64_t h, const unsigned char *p, uint64_t n) {
  uint64_t lane[4] = {h, ~h, h ^ n, h + n}, word[4];
  for (; n >= sizeof word; n -= sizeof word, p += sizeof word) {
    memcpy(word, p, sizeof word);
    for (int k = 0; k < 4; k++) lane[k] = (lane[k] ^ word[k]) * 0x9e3779b97f4a7c15u, lane[k] ^= lane[k] >> 29;
  }
  for (; n > 0; n--, p++) lane[n & 3] = (lane[n & 3] ^ *p) * 0xbf58476d1ce4e5b9u;
  return fk_mix(lane[0] ^ fk_mix(lane[1] ^ fk_mix(lane[2] ^ fk_mix(lane[3]))));
}

/* Rows in ascending order, none overlapping the next. */
static bool is_ascending(const fk_plan_tensor *t) {
  if (fk_type_bits(t->type) < 8) return false;
  int64_t extent = 1; /* elements that the inner dimensions span */
  for (int32_t i = t->ndim - 1; i >= 0; i--) {
    if (t->shape[i] > 1 && t->strides[i] < extent) return false;
    extent += (t->shape[i] - 1) * t->strides[i];
  }
  return true;
}

/* Hashes the gaps between the rows of the dimensions from axis on; p is their first element. */
static uint64_t hash_gaps(const fk_plan_tensor *t, int32_t axis, uint64_t h, const unsigned char *p) {
  int64_t size = (int64_t)fk_type_bits(t->type) / 8, inner = 1, numel = 1;
  for (int32_t i = axis + 1; i < t->ndim; i++) inner += (t->shape[i] - 1) * t->strides[i], numel *= t->shape[i];
  if (axis >= t->ndim) return h;
  for (int64_t k = 0; k < t->shape[axis]; k++) {
    const unsigned char *row = p + k * t->strides[axis] * size;
    if (inner != numel) h = hash_gaps(t, axis + 1, h, row);
    if (k + 1 < t->shape[axis] && t->strides[axis] > inner)
      h = hash_bytes(h, row + inner * size, (uint64_t)((t->strides[axis] - inner) * size));
  }
  return h;
}

uint64_t fk_plan_guard(const fk_plan *plan, const void *base, int arg) {
  const fk_plan_tensor *t = &plan->tensors[arg];
  const unsigned char *bytes = base;
  if (!t->given || t->alias >= 0) return 0;
  if (!t->written) return hash_bytes(1, bytes + t->region, t->length);
  uint64_t h = hash_bytes(1, bytes + t->region, t->data - t->region), end = t->data + t->span;
  if (t->span > 0 && is_ascending(t)) h = hash_gaps(t, 0, h, bytes + t->data);
  return hash_bytes(h, bytes + end, t->region + t->length - end);
}

void fk_plan_guards(const fk_plan *plan, const void *base, uint64_t guards[FK_MAX_ARGS]) {
  for (int i = 0; i < plan->task->num_args; i++) guards[i] = fk_plan_guard(plan, base, i);
}

fk_status fk_plan_check_guards(const fk_plan *plan, const void *base, const uint64_t guards[FK_MAX_ARGS]) {
  for (int i = 0; i < plan->task->num_args; i++)
    if (fk_plan_guard(plan, base, i) != guards[i])
      return fk_fail(FK_ERROR_KERNEL, "%s: %s: %s", plan->task->name, plan->task->args[i].name,
                     plan->tensors[i].written ? "memory outside the tensor's elements was written"
                                              : "an input, or memory beside it, was modified");
  return FK_OK;
}

/* ---- The oracle ------------------------------------------------------------------------------------------ */

/* The dtype in which ref takes a tensor: double and int64 where the definition lets ref widen it (core/bind.c). */
static fk_type wide_type(const fk_task *task, const fk_plan *plan, int i) {
  const fk_arg *arg = &task->args[i];
  while (arg->same_dtype_as >= 0 && plan->tensors[arg->same_dtype_as].given) arg = &task->args[arg->same_dtype_as];
  uint32_t floats = fk_type_bit(FK_F32) | fk_type_bit(FK_F64) | fk_type_bit(FK_BF16) | fk_type_bit(FK_F16) |
                    fk_type_bit(FK_F8_E4M3FN) | fk_type_bit(FK_F8_E5M2);
  uint32_t ints = fk_type_bit(FK_I64) | fk_type_bit(FK_I32) | fk_type_bit(FK_U8) | fk_type_bit(FK_I8);
  fk_type type = plan->tensors[i].type;
  if (fk_type_is_float(type) && (arg->same_dtype_as >= 0 || (arg->dtypes & floats))) return FK_F64;
  if (fk_type_is_int(type) && (arg->same_dtype_as >= 0 || (arg->dtypes & ints))) return FK_I64;
  return type;
}

fk_status fk_plan_oracle(const fk_plan *plan, const void *base, fk_context *ref, fk_tensor *wide[FK_MAX_ARGS]) {
  fk_frame frame;
  fk_plan_frame(plan, (void *)base, &frame);
  for (int i = 0; i < plan->task->num_args; i++) {
    const fk_plan_tensor *t = &plan->tensors[i];
    wide[i] = NULL;
    if (!fk_arg_is_tensor(&plan->task->args[i]) || !t->given) continue;
    wide[i] = fk_empty_shape(ref, wide_type(plan->task, plan, i), t->shape, t->ndim);
    if (!wide[i]) return FK_ERROR_MEMORY;
    size_t bytes = fk_type_bytes(fk_type_of(wide[i]), fk_numel(wide[i]));
    if (plan->task->args[i].role == FK_OUTPUT) {
      if (bytes > 0) memset(fk_data(wide[i]), 0xff, bytes); /* NaN, or -1: an oracle that skips an element shows */
    } else {
      FK_TRY(fk_copy(&frame.tensors[i], wide[i]));
    }
    frame.args[i] = fk_any_tensor(wide[i]);
  }
  return fk_call_task(ref, plan->task, frame.args, plan->task->num_args);
}
