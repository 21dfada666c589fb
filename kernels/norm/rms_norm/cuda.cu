/* rms_norm on the GPU: one block per row. A row of whole packs that fits is kept in registers between the two passes,
 * so that memory sees it once; any other row is read twice, the second time from the caches. */
#include <float.h>

#include "device/cuda/kernel.cuh"
#include "tasks/rms_norm.h"

/* Rows whose squares leave the range of float (beyond 1e18, or tiny under a tiny epsilon) are redone in double. */
template <typename T>
static __device__ void row_in_double(const T *x, const T *weight, double epsilon, T *out, int64_t columns) {
  __shared__ double partial[32];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) sum += (double)fk_float(x[i]) * (double)fk_float(x[i]);
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads(); /* also: every thread has read its x before any writes an out that may be the same memory */
  sum = 0;
  for (int w = 0; w < (int)blockDim.x / 32; w++) sum += partial[w];
  double scale = 1 / sqrt(sum / (double)columns + epsilon);
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x)
    out[i] = fk_from<T>((float)((double)fk_float(x[i]) * scale * (double)fk_float(weight[i])));
}

static __device__ __forceinline__ bool in_range(float sum, float mean) {
  return sum <= FLT_MAX && mean >= 1e-30f;
}

/* PACKS: how many packs of its row a thread holds. */
template <typename T, int PACKS>
static __global__ void rms_norm_packed(const T *x, fk_row_map x_rows, const T *weight, double epsilon, T *out,
                                       fk_row_map out_rows, int columns) {
  constexpr int N = fk_pack<T>::size;
  fk_wait_previous();
  const T *from = x + fk_row_offset(x_rows, blockIdx.x);
  T *to = out + fk_row_offset(out_rows, blockIdx.x);
  fk_pack<T> kept[PACKS];
  float sum = 0;
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    int at = (k * (int)blockDim.x + (int)threadIdx.x) * N;
    if (at >= columns) break;
    kept[k] = fk_load_pack(from + at);
#pragma unroll
    for (int i = 0; i < N; i++) sum += fk_float(kept[k].at[i]) * fk_float(kept[k].at[i]);
  }
  sum = fk_block_sum(sum);
  float mean = sum / (float)columns + (float)epsilon;
  if (!in_range(sum, mean)) {
    row_in_double(from, weight, epsilon, to, columns);
    return;
  }
  float scale = rsqrtf(mean);
  fk_let_next_start();
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    int at = (k * (int)blockDim.x + (int)threadIdx.x) * N;
    if (at >= columns) break;
    fk_pack<T> w = fk_load_pack(weight + at);
#pragma unroll
    for (int i = 0; i < N; i++) kept[k].at[i] = fk_from<T>(fk_float(kept[k].at[i]) * scale * fk_float(w.at[i]));
    fk_store_pack(to + at, kept[k]);
  }
}

template <typename T>
static __global__ void rms_norm_any(const T *x, fk_row_map x_rows, const T *weight, double epsilon, T *out,
                                    fk_row_map out_rows, int64_t columns) {
  fk_wait_previous();
  const T *from = x + fk_row_offset(x_rows, blockIdx.x);
  T *to = out + fk_row_offset(out_rows, blockIdx.x);
  float sum = 0;
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) sum += fk_float(from[i]) * fk_float(from[i]);
  sum = fk_block_sum(sum);
  float mean = sum / (float)columns + (float)epsilon;
  if (!in_range(sum, mean)) {
    row_in_double(from, weight, epsilon, to, columns);
    return;
  }
  float scale = rsqrtf(mean);
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x)
    to[i] = fk_from<T>(fk_float(from[i]) * scale * fk_float(weight[i]));
}

template <typename T>
static fk_status launch(fk_context *ctx, const fk_rms_norm_args *a) {
  int64_t columns = fk_size(a->x, -1), rows = fk_rows(a->x);
  const T *x = (const T *)fk_data(a->x), *weight = (const T *)fk_data(a->weight);
  T *out = (T *)fk_data(a->out);
  fk_row_map from = fk_rows_of(a->x, 1), to = fk_rows_of(a->out, 1);
  bool packed = fk_packs<T>(weight, 0, columns) && fk_packs_rows<T>(x, from) && fk_packs_rows<T>(out, to);
  int64_t packs = columns / fk_pack<T>::size;
  if (!packed || packs > 8 * 1024)
    return fk_launch_early(ctx, rms_norm_any<T>, dim3((unsigned)rows), dim3(columns > 512 ? 512 : 128), 0, x, from,
                           weight, a->epsilon, out, to, columns);
  /* Enough threads for two packs each, so that a row's loads are in flight together. */
  int64_t threads = fk_ceil_div(fk_ceil_div(packs, 2), 32) * 32;
  if (threads > 1024) threads = 1024;
  dim3 grid((unsigned)rows), block((unsigned)threads);
  int64_t each = fk_ceil_div(packs, threads);
  if (each <= 2)
    return fk_launch_early(ctx, rms_norm_packed<T, 2>, grid, block, 0, x, from, weight, a->epsilon, out, to,
                           (int)columns);
  return fk_launch_early(ctx, rms_norm_packed<T, 8>, grid, block, 0, x, from, weight, a->epsilon, out, to,
                         (int)columns);
}

fk_status fk_cuda_rms_norm(fk_context *ctx, const fk_rms_norm_args *a) {
  if (fk_numel(a->x) == 0) return FK_OK;
  FK_FLOAT_DISPATCH(fk_type_of(a->x), T, return launch<T>(ctx, a));
}
