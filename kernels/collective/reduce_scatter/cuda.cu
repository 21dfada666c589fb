/* reduce_scatter on the GPU: NCCL among ranks; within one GPU that holds the parts of all ranks, a sum over them. */
#include "device/cuda/kernel.cuh"
#include "device/cuda/nccl.h"
#include "tasks/reduce_scatter.h"

enum { THREADS = 256 };

/* n elements of a part: the blocks of all ranks, which lie in out as they do in the sum. */
template <typename T>
static __global__ void sum_parts(const T *x, T *out, int64_t ranks, int64_t n) {
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  float sum = 0;
  for (int64_t r = 0; r < ranks; r++) sum += fk_float(x[r * n + i]);
  out[i] = fk_from<T>(sum);
}

fk_status fk_cuda_reduce_scatter(fk_context *ctx, const fk_reduce_scatter_args *a) {
  int64_t ranks = fk_size(a->x, 0), n = fk_size(a->x, 1) * fk_size(a->x, 2);
  fk_type type = fk_type_of(a->x);
  if (n == 0 || ranks == 0) return FK_OK;
  if (a->comm) return fk_nccl_reduce_scatter(ctx, a->comm, fk_data(a->x), fk_data(a->out), n / a->world_size, type);
  FK_FLOAT_DISPATCH(type, T,
                    return fk_launch(ctx, sum_parts<T>, dim3((unsigned)fk_ceil_div(n, THREADS)), dim3(THREADS), 0,
                                     (const T *)fk_data(a->x), (T *)fk_data(a->out), ranks, n))
  return FK_OK;
}
