/* Norms of rows: what an rms_norm, a layer_norm, an l2_norm are made of.
 *
 * A group of lanes has a row: part of a warp for a short row, a block for a long one. It keeps the row in registers
 * between the sum of squares and the scaling, so that memory sees it once, and has the next one under way. Rows that
 * are too long for that, or cannot be read in packs, are read twice, the second time from the caches.
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

#include "device/cuda/map.cuh"
#include "device/cuda/math.cuh"

/* A row here is a group of a tensor's row: columns neighbours. x and second have the same shape as out. */
template <typename T>
struct fk_norm_args {
  const T *x;
  T *second, *out; /* second: NULL unless Op::has_second */
  const T *weight, *bias;
  fk_row_map x_rows, second_rows, out_rows;
  int64_t rows, columns, groups; /* rows counts groups */
  fk_divider per_row;            /* by groups */
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
  if (a.groups > 1) row = fk_divide((uint32_t)index, a.per_row), at = (index - row * a.groups) * a.columns;
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

/* Two sums at once. */
template <bool BLOCK>
static __device__ __forceinline__ float2 fk_lanes_sum2(float2 v, const fk_lanes &l) {
  for (int d = (BLOCK ? 32 : l.count) / 2; d > 0; d /= 2) {
    v.x += __shfl_xor_sync(0xffffffffu, v.x, d);
    v.y += __shfl_xor_sync(0xffffffffu, v.y, d);
  }
  if constexpr (BLOCK) {
    __shared__ float2 partial[32];
    int lane = threadIdx.x % 32;
    __syncthreads();
    if (lane == 0) partial[threadIdx.x / 32] = v;
    __syncthreads();
    v = lane < (int)blockDim.x / 32 ? partial[lane] : make_float2(0, 0);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
      v.x += __shfl_xor_sync(0xffffffffu, v.x, d);
      v.y += __shfl_xor_sync(0xffffffffu, v.y, d);
    }
  }
  return v;
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
static __device__ __forceinline__ void fk_norm_in_double(fk_norm_row<T> r, int64_t columns, double epsilon, fk_lanes l,
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
static __device__ __forceinline__ void fk_load_row(const T *from, const fk_lanes &l, int end, uint4 *p) {
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    int at = (k * l.count + l.lane) * fk_pack<T>::size;
    if (at < end) p[k] = fk_load_raw(from + at);
  }
}

template <typename Op, typename T, int PACKS>
static __device__ __forceinline__ void fk_store_norm(const fk_norm_row<T> &r, const float (&v)[PACKS][fk_pack<T>::size],
                                                     const uint4 (&second)[PACKS], const uint4 (&weight)[PACKS],
                                                     float scale, const fk_lanes &l, int end) {
  constexpr int N = fk_pack<T>::size;
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    int at = (k * l.count + l.lane) * N;
    if (at >= end) continue;
    float out[N], factor[N];
#pragma unroll
    for (int i = 0; i < N; i++) out[i] = v[k][i] * scale;
    if (r.weight) {
      fk_unpack<T>(weight[k], factor);
#pragma unroll
      for (int i = 0; i < N; i++) out[i] *= factor[i];
    }
    if (r.bias) {
      fk_unpack<T>(fk_load_raw(r.bias + at), factor);
#pragma unroll
      for (int i = 0; i < N; i++) out[i] += factor[i];
    }
    if (Op::gates_last) {
      fk_unpack<T>(second[k], factor);
#pragma unroll
      for (int i = 0; i < N; i++) out[i] *= fk_silu(factor[i]);
    }
    if (Op::stores_second) fk_store_raw(r.second + at, fk_repack<T>(v[k]));
    fk_store_raw(r.out + at, fk_repack<T>(out));
  }
}

/* Sum, and sum of squares, of what a lane holds. */
template <int PACKS, int N>
static __device__ __forceinline__ float2 fk_sums_kept(const float (&v)[PACKS][N], const fk_lanes &l, int end) {
  float2 s = {0, 0};
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    if ((k * l.count + l.lane) * N >= end) continue;
#pragma unroll
    for (int i = 0; i < N; i++) s.x += v[k][i], s.y += v[k][i] * v[k][i];
  }
  return s;
}

/* Takes v, deviations from some element of the row, to deviations from the mean; returns the sum of their squares.
 * Where that element lies far from the mean, the squares cancel, and a second look at the corrected deviations is
 * taken. */
template <int PACKS, int N, bool BLOCK>
static __device__ __forceinline__ float fk_centre_kept(float (&v)[PACKS][N], const fk_lanes &l, int end,
                                                       float columns) {
  for (int look = 0;; look++) {
    float2 s = fk_lanes_sum2<BLOCK>(fk_sums_kept<PACKS, N>(v, l, end), l);
    float rest = s.x / columns, squares = s.y - s.x * rest;
#pragma unroll
    for (int k = 0; k < PACKS; k++)
#pragma unroll
      for (int i = 0; i < N; i++) v[k][i] -= rest;
    bool cancelled = s.x * rest > 8 * squares; /* also in a row of equal elements */
    if (look == 1) return squares < 0 ? 0 : squares;
    if (BLOCK ? !cancelled : !__any_sync(0xffffffffu, cancelled)) return squares;
  }
}

enum {
  FK_ROW_WARP_ELEMENTS = 32, /* that a lane keeps of a short row */
  FK_ROW_MANY = 32,          /* and a thread of a long one */
  FK_ROW_FEW_PACKS = 2       /* or as little as this, in blocks of up to 512 threads: then two blocks fit */
};

/* What a lane holds of a row before it is computed. */
template <typename T, int PACKS>
struct fk_norm_raw {
  uint4 x[PACKS], second[PACKS];
  T first; /* of the row */
};

template <typename Op, typename T, int PACKS>
static __device__ __forceinline__ void fk_load_norm(const fk_norm_row<T> &r, const fk_lanes &l, int end,
                                                    fk_norm_raw<T, PACKS> *raw) {
  fk_load_row<T, PACKS>(r.x, l, end, raw->x);
  if (Op::has_second) fk_load_row<T, PACKS>(r.second, l, end, raw->second);
  if (Op::centred && end > 0) raw->first = r.x[0];
}

template <typename Op, typename T, int PACKS>
static __device__ __forceinline__ void fk_norm_values(const fk_norm_raw<T, PACKS> &raw, float shift,
                                                      float (&v)[PACKS][fk_pack<T>::size]) {
  constexpr int N = fk_pack<T>::size;
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    float second[N] = {};
    fk_unpack<T>(raw.x[k], v[k]);
    if (Op::has_second) fk_unpack<T>(raw.second[k], second);
#pragma unroll
    for (int i = 0; i < N; i++) v[k][i] = Op::template value<T>(v[k][i], second[i]) - shift;
  }
}

/* The row as packs: lanes * PACKS of them are room enough. A group of lanes takes row after row, and the next one
 * travels while this one is computed. */
template <typename Op, typename T, int PACKS, bool BLOCK>
static __global__ void __launch_bounds__(BLOCK ? 512 : 128,
                                         BLOCK ? (PACKS > FK_ROW_FEW_PACKS || Op::has_second ? 1 : 2) : 4)
    fk_norm_kept(const __grid_constant__ fk_norm_args<T> a, int log_lanes) {
  constexpr int N = fk_pack<T>::size;
  fk_lanes l = {BLOCK ? (int)threadIdx.x : (int)threadIdx.x & ((1 << log_lanes) - 1),
                BLOCK ? (int)blockDim.x : 1 << log_lanes};
  uint32_t rows = (uint32_t)a.rows, step = BLOCK ? gridDim.x : gridDim.x * blockDim.x >> log_lanes;
  uint32_t index = BLOCK ? blockIdx.x : (blockIdx.x * blockDim.x + threadIdx.x) >> log_lanes;
  float columns = (float)a.columns;
  fk_norm_raw<T, PACKS> raw;
  uint4 weight[PACKS];
  fk_wait_previous();
  fk_let_next_start();
  fk_load_norm<Op, T, PACKS>(fk_norm_row_at<Op>(a, index < rows ? index : 0), l, index < rows ? (int)a.columns : 0,
                             &raw);
  if (a.weight && a.groups == 1) fk_load_row<T, PACKS>(a.weight, l, (int)a.columns, weight);
  /* Lanes of a warp whose row does not exist go along while others have one. */
  for (; BLOCK ? index < rows : __any_sync(0xffffffffu, index < rows); index += step) {
    int end = index < rows ? (int)a.columns : 0;
    float v[PACKS][N], scale = 0, shift = Op::centred ? fk_float(raw.first) : 0;
    uint4 second[PACKS];
    fk_norm_values<Op, T, PACKS>(raw, shift, v);
#pragma unroll
    for (int k = 0; k < PACKS; k++) second[k] = raw.second[k];
    fk_norm_row<T> r = fk_norm_row_at<Op>(a, index < rows ? index : 0);
    if (a.weight && a.groups > 1) fk_load_row<T, PACKS>(r.weight, l, end, weight);
    uint32_t next = index + step < rows ? index + step : 0;
    fk_load_norm<Op, T, PACKS>(fk_norm_row_at<Op>(a, next), l, next ? (int)a.columns : 0, &raw);
    float squares;
    if constexpr (Op::centred)
      squares = fk_centre_kept<PACKS, N, BLOCK>(v, l, end, columns);
    else
      squares = fk_lanes_sum<BLOCK>(fk_sums_kept<PACKS, N>(v, l, end).y, l);
    bool redo = end > 0 && !fk_norm_scale<Op>(squares, columns, (float)a.epsilon, &scale);
    if (BLOCK ? redo : __any_sync(0xffffffffu, redo)) fk_norm_in_double<Op, T, BLOCK>(r, a.columns, a.epsilon, l, redo);
    if (!redo) fk_store_norm<Op, T, PACKS>(r, v, second, weight, scale, l, end);
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

template <typename T>
static inline bool fk_norm_packed(const fk_norm_args<T> &a) {
  int64_t at = a.groups > 1 ? a.columns : 0; /* what groups are apart */
  return a.columns % fk_pack<T>::size == 0 && fk_packs_rows<T>(a.x, a.x_rows) && fk_packs_rows<T>(a.out, a.out_rows) &&
         (!a.second || fk_packs_rows<T>(a.second, a.second_rows)) && fk_packs<T>(a.weight, at, a.columns) &&
         fk_packs<T>(a.bias, at, a.columns);
}

template <typename Op, typename T>
static fk_status fk_norm_launch(fk_context *ctx, fk_norm_args<T> a) {
  constexpr int N = fk_pack<T>::size;
  if (a.rows == 0 || a.columns == 0) return FK_OK;
  if (a.rows > INT32_MAX) return fk_fail(FK_ERROR_UNSUPPORTED, "cuda: %lld rows are too many", (long long)a.rows);
  a.per_row = fk_divide_by(a.groups);
  if (!fk_norm_packed(a) || a.columns > 512 * FK_ROW_MANY)
    return fk_launch_early(ctx, fk_norm_any<Op, T>, dim3((unsigned)a.rows), dim3(a.columns > 512 ? 512 : 128), 0, a);
  int64_t sms = fk_context_cuda(ctx)->num_sms;
  if (a.columns <= 32 * FK_ROW_WARP_ELEMENTS) {
    /* As few lanes as hold the row: then all of them have work. */
    int log_lanes = 0;
    while (FK_ROW_WARP_ELEMENTS << log_lanes < a.columns) log_lanes++;
    int64_t blocks = fk_ceil_div(a.rows, 128 >> log_lanes), most = 4 * sms;
    return fk_launch_early(ctx, fk_norm_kept<Op, T, FK_ROW_WARP_ELEMENTS / N, false>,
                           dim3((unsigned)(blocks < most ? blocks : most)), dim3(128), 0, a, log_lanes);
  }
  /* All blocks at once on the GPU, taking rows in turn. */
  bool few = a.columns <= 512 * FK_ROW_FEW_PACKS * N;
  int64_t threads = fk_ceil_div(fk_ceil_div(a.columns, few ? FK_ROW_FEW_PACKS * N : FK_ROW_MANY), 32) * 32;
  int64_t most = sms * ((few && !Op::has_second ? 1024 : 512) / threads);
  dim3 grid((unsigned)(a.rows < most ? a.rows : most)), block((unsigned)threads);
  if (few) return fk_launch_early(ctx, fk_norm_kept<Op, T, FK_ROW_FEW_PACKS, true>, grid, block, 0, a, 0);
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
