/* Norms of rows: what an rms_norm, a layer_norm, an l2_norm are made of.
 *
 * A group of lanes has a row: part of a warp for a short row, a block for a long one. It keeps the row in registers
 * between the sum of squares and the scaling, so that memory sees it once. Rows that are too long for that, or cannot
 * be read in packs, are read twice, the second time from the caches.
 *
 * An Op says what is normalised, as static members:
 *   bool centred         subtract the mean first
 *   bool length          divide by the length, not by the root mean square
 *   bool has_second      a second input, which value() sees
 *   bool stores_second   value() is written back to the second input
 *   bool gates_last      multiply the result by silu(second)
 *   value<T>(float x, float second), value<T>(double x, double second): T is the storage
 * The result is (value - mean) * scale * weight + bias, rounded once. */
#pragma once

#include <float.h>

#include "device/cuda/kernel.cuh"
#include "device/cuda/math.cuh"

/* A row here is a group of a tensor's row: columns neighbours. x and second have the same shape as out. */
template <typename T>
struct fk_norm_args {
  const T *x;
  T *second, *out; /* second: NULL unless Op::has_second */
  const T *weight, *bias;
  fk_row_map x_rows, second_rows, out_rows;
  int64_t rows, columns, groups; /* rows counts groups */
  double epsilon;
};

template <typename T>
struct fk_norm_row {
  const T *x;
  T *second, *out;
  const T *weight, *bias;
};

template <typename Op, typename T>
static __device__ __forceinline__ fk_norm_row<T> fk_norm_row_at(const fk_norm_args<T> &a, int64_t index) {
  int64_t row = index, at = 0;
  if (a.groups > 1) row = index / a.groups, at = (index - row * a.groups) * a.columns;
  fk_norm_row<T> r = {a.x + fk_row_offset(a.x_rows, row) + at, NULL, a.out + fk_row_offset(a.out_rows, row) + at,
                      a.weight ? a.weight + at : NULL, a.bias ? a.bias + at : NULL};
  if (Op::has_second) r.second = a.second + fk_row_offset(a.second_rows, row) + at;
  return r;
}

/* The lanes of a row: all of a block, or `count` neighbours of a warp, a power of two. */
typedef struct fk_lanes {
  int lane, count;
} fk_lanes;

template <bool BLOCK>
static __device__ __forceinline__ float fk_lanes_sum(float v, const fk_lanes &l) {
  if constexpr (BLOCK) {
    return fk_block_sum(v);
  } else {
    for (int d = l.count / 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
  }
}

template <bool BLOCK>
static __device__ double fk_lanes_sum_double(double v, const fk_lanes &l) {
  for (int d = (BLOCK ? 32 : l.count) / 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  if constexpr (BLOCK) {
    __shared__ double partial[32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (int w = 0; w < (int)blockDim.x / 32; w++) v += partial[w];
  }
  return v;
}

/* What is normalised of element i, in double. A value that only its rounding made infinite counts unrounded. */
template <typename Op, typename T>
static __device__ __forceinline__ double fk_norm_value(const fk_norm_row<T> &r, int64_t i) {
  float x = fk_float(r.x[i]), second = Op::has_second ? fk_float(r.second[i]) : 0;
  return Op::template value<T>((double)x, (double)second);
}

/* Rows whose squares leave the range of float (beyond 1e18, or tiny under a tiny epsilon) are computed in double.
 * Entered by whole warps, or by the block; only rows that are `mine` are read and written. Nothing has been written
 * before, and no lane writes before all have summed. */
template <typename Op, typename T, bool BLOCK>
static __device__ __noinline__ void fk_norm_in_double(fk_norm_row<T> r, int64_t columns, double epsilon, fk_lanes l,
                                                      bool mine) {
  int64_t end = mine ? columns : 0;
  double mean = 0, sum = 0;
  if (Op::centred) {
    for (int64_t i = l.lane; i < end; i += l.count) sum += fk_norm_value<Op, T>(r, i);
    mean = fk_lanes_sum_double<BLOCK>(sum, l) / (double)columns;
    sum = 0;
  }
  for (int64_t i = l.lane; i < end; i += l.count) {
    double v = fk_norm_value<Op, T>(r, i) - mean;
    sum += v * v;
  }
  sum = fk_lanes_sum_double<BLOCK>(sum, l);
  double length = sqrt(sum);
  double scale = Op::length ? 1 / (length < epsilon ? epsilon : length) : 1 / sqrt(sum / (double)columns + epsilon);
  for (int64_t i = l.lane; i < end; i += l.count) {
    double out = (fk_norm_value<Op, T>(r, i) - mean) * scale;
    if (r.weight) out *= (double)fk_float(r.weight[i]);
    if (r.bias) out += (double)fk_float(r.bias[i]);
    if (Op::gates_last) out *= fk_silu((double)fk_float(r.second[i]));
    if (Op::stores_second) r.second[i] = fk_from<T>(Op::template value<T>(fk_float(r.x[i]), fk_float(r.second[i])));
    r.out[i] = fk_from<T>((float)out);
  }
}

/* From sums over the row to the factor of its elements; false where float does not reach. */
template <typename Op>
static __device__ __forceinline__ bool fk_norm_scale(float squares, float columns, float epsilon, float *scale) {
  if (Op::length) {
    *scale = 1 / fmaxf(sqrtf(squares), epsilon);
    return squares <= FLT_MAX && squares >= 1e-30f;
  }
  float mean = squares / columns + epsilon;
  *scale = rsqrtf(mean);
  return squares <= FLT_MAX && mean >= 1e-30f;
}

template <typename T, int PACKS>
static __device__ __forceinline__ void fk_load_row(const T *from, const fk_lanes &l, int end, fk_pack<T> *p) {
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    int at = (k * l.count + l.lane) * fk_pack<T>::size;
    if (at < end) p[k] = fk_load_pack(from + at);
  }
}

/* Sum, and sum of squares of v - shift, over what a lane holds. */
template <int PACKS, int N>
static __device__ __forceinline__ void fk_sum_kept(const float (&v)[PACKS][N], float shift, const fk_lanes &l, int end,
                                                   float *sum, float *squares) {
  float s = 0, q = 0;
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    if ((k * l.count + l.lane) * N >= end) continue;
#pragma unroll
    for (int i = 0; i < N; i++) {
      float d = v[k][i] - shift;
      s += d;
      q += d * d;
    }
  }
  *sum = s;
  *squares = q;
}

/* The row as packs: lanes * PACKS of them are room enough. */
template <typename Op, typename T, int PACKS, bool BLOCK>
static __global__ void __launch_bounds__(BLOCK ? 1024 : 256)
    fk_norm_kept(const __grid_constant__ fk_norm_args<T> a, int lanes) {
  constexpr int N = fk_pack<T>::size;
  fk_lanes l = {BLOCK ? (int)threadIdx.x : (int)threadIdx.x & (lanes - 1), BLOCK ? (int)blockDim.x : lanes};
  int64_t index = BLOCK ? blockIdx.x : ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / lanes;
  bool mine = index < a.rows;
  int end = mine ? (int)a.columns : 0;
  fk_norm_row<T> r = fk_norm_row_at<Op>(a, mine ? index : 0);
  fk_pack<T> raw[PACKS], second[PACKS], weight[PACKS];
  float v[PACKS][N];
  fk_wait_previous();
  fk_load_row<T, PACKS>(r.x, l, end, raw);
  if (Op::has_second) fk_load_row<T, PACKS>(r.second, l, end, second);
  if (r.weight) fk_load_row<T, PACKS>(r.weight, l, end, weight);
#pragma unroll
  for (int k = 0; k < PACKS; k++)
#pragma unroll
    for (int i = 0; i < N; i++)
      v[k][i] = Op::template value<T>(fk_float(raw[k].at[i]), Op::has_second ? fk_float(second[k].at[i]) : 0.0f);
  float sum, squares, mean = 0, scale, columns = (float)a.columns;
  fk_sum_kept<PACKS, N>(v, 0, l, end, &sum, &squares);
  if (Op::centred) {
    /* Twice: the deviations from a first mean are exact enough to correct it, however far it is from 0. */
    mean = fk_lanes_sum<BLOCK>(sum, l) / columns;
    fk_sum_kept<PACKS, N>(v, mean, l, end, &sum, &squares);
    float rest = fk_lanes_sum<BLOCK>(sum, l) / columns;
    squares = fk_lanes_sum<BLOCK>(squares, l) - columns * rest * rest;
    if (squares < 0) squares = 0;
#pragma unroll
    for (int k = 0; k < PACKS; k++)
#pragma unroll
      for (int i = 0; i < N; i++) v[k][i] = v[k][i] - mean - rest;
  } else {
    squares = fk_lanes_sum<BLOCK>(squares, l);
  }
  bool redo = mine && !fk_norm_scale<Op>(squares, columns, (float)a.epsilon, &scale);
  if (BLOCK ? redo : __any_sync(0xffffffffu, redo)) {
    fk_norm_in_double<Op, T, BLOCK>(r, a.columns, a.epsilon, l, redo);
    if (redo) return;
  }
  fk_let_next_start();
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    int at = (k * l.count + l.lane) * N;
    if (at >= end) continue;
    fk_pack<T> bias, out;
    if (r.bias) bias = fk_load_pack(r.bias + at);
#pragma unroll
    for (int i = 0; i < N; i++) {
      float y = v[k][i] * scale;
      if (r.weight) y *= fk_float(weight[k].at[i]);
      if (r.bias) y += fk_float(bias.at[i]);
      if (Op::gates_last) y *= fk_silu(fk_float(second[k].at[i]));
      out.at[i] = fk_from<T>(y);
      if (Op::stores_second) raw[k].at[i] = fk_from<T>(v[k][i]);
    }
    if (Op::stores_second) fk_store_pack(r.second + at, raw[k]);
    fk_store_pack(r.out + at, out);
  }
}

/* Any row, one block for each, element by element. */
template <typename Op, typename T>
static __global__ void __launch_bounds__(512) fk_norm_any(const __grid_constant__ fk_norm_args<T> a) {
  fk_lanes l = {(int)threadIdx.x, (int)blockDim.x};
  fk_norm_row<T> r = fk_norm_row_at<Op>(a, blockIdx.x);
  float sum = 0, squares = 0, mean = 0, scale, columns = (float)a.columns;
  fk_wait_previous();
  auto value = [&](int64_t i) {
    return Op::template value<T>(fk_float(r.x[i]), Op::has_second ? fk_float(r.second[i]) : 0.0f);
  };
  if (Op::centred) {
    for (int64_t i = l.lane; i < a.columns; i += l.count) sum += value(i);
    mean = fk_block_sum(sum) / columns;
    sum = 0;
  }
  for (int64_t i = l.lane; i < a.columns; i += l.count) {
    float d = value(i) - mean;
    sum += d;
    squares += d * d;
  }
  squares = fk_block_sum(squares);
  float rest = Op::centred ? fk_block_sum(sum) / columns : 0;
  if (Op::centred) squares -= columns * rest * rest;
  if (squares < 0) squares = 0;
  if (!fk_norm_scale<Op>(squares, columns, (float)a.epsilon, &scale)) {
    fk_norm_in_double<Op, T, true>(r, a.columns, a.epsilon, l, true);
    return;
  }
  for (int64_t i = l.lane; i < a.columns; i += l.count) {
    float v = value(i), y = (v - mean - rest) * scale;
    if (r.weight) y *= fk_float(r.weight[i]);
    if (r.bias) y += fk_float(r.bias[i]);
    if (Op::gates_last) y *= fk_silu(fk_float(r.second[i]));
    if (Op::stores_second) r.second[i] = fk_from<T>(v);
    r.out[i] = fk_from<T>(y);
  }
}

enum {
  FK_ROW_WARP_ELEMENTS = 32, /* that a lane keeps of a short row */
  FK_ROW_FEW = 16,           /* and of a long one */
  FK_ROW_MANY = 32
};

template <typename T>
static inline bool fk_norm_packed(const fk_norm_args<T> &a) {
  int64_t at = a.groups > 1 ? a.columns : 0; /* what groups are apart */
  return a.columns % fk_pack<T>::size == 0 && fk_packs_rows<T>(a.x, a.x_rows) && fk_packs_rows<T>(a.out, a.out_rows) &&
         (!a.second || fk_packs_rows<T>(a.second, a.second_rows)) && fk_packs<T>(a.weight, at, a.columns) &&
         fk_packs<T>(a.bias, at, a.columns);
}

template <typename Op, typename T>
static fk_status fk_norm_launch(fk_context *ctx, const fk_norm_args<T> &a) {
  constexpr int N = fk_pack<T>::size;
  if (a.rows == 0 || a.columns == 0) return FK_OK;
  if (a.rows > INT32_MAX) return fk_fail(FK_ERROR_UNSUPPORTED, "cuda: %lld rows are too many", (long long)a.rows);
  if (!fk_norm_packed(a) || a.columns > 1024 * FK_ROW_MANY)
    return fk_launch_early(ctx, fk_norm_any<Op, T>, dim3((unsigned)a.rows), dim3(a.columns > 512 ? 512 : 128), 0, a);
  if (a.columns <= 32 * FK_ROW_WARP_ELEMENTS) {
    /* As few lanes as hold the row: then all of them have work. */
    int lanes = 1;
    while (lanes * FK_ROW_WARP_ELEMENTS < a.columns) lanes *= 2;
    int threads = a.rows * lanes < 128 * 132 ? 64 : 128;
    dim3 grid((unsigned)fk_ceil_div(a.rows, threads / lanes));
    return fk_launch_early(ctx, fk_norm_kept<Op, T, FK_ROW_WARP_ELEMENTS / N, false>, grid, dim3((unsigned)threads), 0,
                           a, lanes);
  }
  bool few = a.columns <= 1024 * FK_ROW_FEW;
  int64_t threads = fk_ceil_div(a.columns, few ? FK_ROW_FEW : FK_ROW_MANY);
  dim3 grid((unsigned)a.rows), block((unsigned)(fk_ceil_div(threads, 32) * 32));
  if (few) return fk_launch_early(ctx, fk_norm_kept<Op, T, FK_ROW_FEW / N, true>, grid, block, 0, a, 0);
  return fk_launch_early(ctx, fk_norm_kept<Op, T, FK_ROW_MANY / N, true>, grid, block, 0, a, 0);
}

/* Arguments of the usual form: x, out and one weight row; second, weight and bias may be NULL. */
template <typename T>
static inline fk_norm_args<T> fk_norm_of(const fk_tensor *x, const fk_tensor *second, const fk_tensor *weight,
                                         const fk_tensor *bias, double epsilon, const fk_tensor *out) {
  fk_norm_args<T> a = {};
  a.x = (const T *)fk_data(x), a.x_rows = fk_rows_of(x, 1);
  a.out = (T *)fk_data(out), a.out_rows = fk_rows_of(out, 1);
  if (second) a.second = (T *)fk_data(second), a.second_rows = fk_rows_of(second, 1);
  if (weight) a.weight = (const T *)fk_data(weight);
  if (bias) a.bias = (const T *)fk_data(bias);
  a.rows = fk_rows(x), a.columns = fk_size(x, -1), a.groups = 1;
  a.epsilon = epsilon;
  return a;
}
