/* What an implementation file (ref.c, cpu.c, cuda.cu, compose.c) includes, through its generated tasks/<task>.h.
 *
 *   ref.c      fk_status fk_ref_<task>(fk_context *ctx, const fk_<task>_args *a)
 *              every tensor contiguous, floats are double, integers int64_t: fk_f64(t), fk_i64(t);
 *   cpu.c      fk_cpu_<task>: tensors as task.json allows them; compiled once per instruction set;
 *   cuda.cu    fk_cuda_<task>: the same tensors in GPU memory (device/cuda/kernel.cuh);
 *   compose.c  fk_compose_<task>: calls other tasks with fk_call, temporaries from fk_empty; any device.
 *
 * Arguments have been checked against task.json (or the caller has vouched for them). Temporaries and scratch end
 * when the function returns. Zero elements: do nothing and succeed. */
#ifndef FK_CORE_KERNEL_H
#define FK_CORE_KERNEL_H

#include "core/convert.h"
#include "fastkernels/fastkernels.h"

/* The instruction set a cpu.c is being compiled for: part of its function's name, so that one binary holds them all. */
#ifndef FK_ISA
#define FK_ISA baseline
#endif
#define FK_ISA_PASTE(name, isa) name##_##isa
#define FK_ISA_EXPAND(name, isa) FK_ISA_PASTE(name, isa)
#define FK_ISA_NAME(name) FK_ISA_EXPAND(name, FK_ISA)

static inline double *fk_f64(const fk_tensor *t) {
  return (double *)fk_data(t);
}
static inline int64_t *fk_i64(const fk_tensor *t) {
  return (int64_t *)fk_data(t);
}

/* Size of axis i; negative axes count from the end. */
static inline int64_t fk_size(const fk_tensor *t, int32_t axis) {
  return t->shape[axis < 0 ? axis + t->ndim : axis];
}

/* Product of all sizes but the last: the rows of a [rows..., columns] tensor. */
static inline int64_t fk_rows(const fk_tensor *t) {
  int64_t n = 1;
  for (int32_t i = 0; i + 1 < t->ndim; i++) n *= t->shape[i];
  return n;
}

/* Address of row r of a [rows..., columns] tensor of any strides over the leading dimensions. */
static inline void *fk_row(const fk_tensor *t, int64_t r) {
  int64_t offset = 0;
  for (int32_t i = t->ndim - 2; i >= 0; i--) {
    offset += r % t->shape[i] * fk_stride(t, i);
    r /= t->shape[i];
  }
  return (char *)fk_data(t) + offset * (t->dtype.bits / 8);
}

#endif
