/* One function of one element over whole tensors: what an elementwise cuda.cu is made of.
 *
 * The function is a struct with `template <typename T> static __device__ float of(const float *v)`: v holds one element
 * of each input, T is the storage. All tensors have one shape [rows..., columns]; rows may lie at any stride. Tensors
 * without gaps are one long row. An output may be the memory of an input: a thread reads its elements before it writes
 * them. */
#pragma once

#include "device/cuda/pack.cuh"

/* Division of numbers below 2^31 by one number known before the launch: a multiplication and a shift. */
typedef struct fk_divider {
  uint32_t divisor, factor, shift;
} fk_divider;

static inline fk_divider fk_divide_by(int64_t divisor) {
  fk_divider d = {(uint32_t)divisor, 0, 0};
  while (((uint64_t)1 << d.shift) < (uint64_t)divisor) d.shift++;
  d.factor = (uint32_t)(((((uint64_t)1 << d.shift) - (uint64_t)divisor) << 32) / (uint64_t)divisor + 1);
  return d;
}

static __device__ __forceinline__ uint32_t fk_divide(uint32_t n, const fk_divider &d) {
  return (__umulhi(n, d.factor) + n) >> d.shift;
}

template <int INPUTS>
struct fk_map_args {
  const void *in[INPUTS];
  void *out;
  fk_row_map in_rows[INPUTS], out_rows;
  int64_t rows, columns;
  int64_t items, items_per_row; /* an item is V columns of a row */
  fk_divider per_row;           /* when items < 2^31 */
};

/* V neighbouring elements: a pack, or one. */
template <typename T, int V>
struct fk_span {
  typedef uint4 type;
};
template <typename T>
struct fk_span<T, 1> {
  typedef T type;
};

template <typename F, typename T, int INPUTS>
static __device__ __forceinline__ uint4 fk_map_span(const uint4 (&in)[INPUTS]) {
  constexpr int N = fk_pack<T>::size;
  float v[INPUTS][N], out[N];
#pragma unroll
  for (int i = 0; i < INPUTS; i++) fk_unpack<T>(in[i], v[i]);
#pragma unroll
  for (int k = 0; k < N; k++) {
    float one[INPUTS];
#pragma unroll
    for (int i = 0; i < INPUTS; i++) one[i] = v[i][k];
    out[k] = F::template of<T>(one);
  }
  return fk_repack<T>(out);
}

template <typename F, typename T, int INPUTS>
static __device__ __forceinline__ T fk_map_span(const T (&in)[INPUTS]) {
  float one[INPUTS];
#pragma unroll
  for (int i = 0; i < INPUTS; i++) one[i] = fk_float(in[i]);
  return fk_from<T>(F::template of<T>(one));
}

/* U items per thread, all loaded before the first is computed. What no item covers, the last columns of a single row,
 * the first threads of the last block take one by one. */
template <typename F, typename T, int INPUTS, int V, int U>
static __global__ void __launch_bounds__(256) fk_map_kernel(const __grid_constant__ fk_map_args<INPUTS> a) {
  typedef typename fk_span<T, V>::type span;
  span in[U][INPUTS];
  int64_t first = (int64_t)blockIdx.x * blockDim.x * U + threadIdx.x, out_at[U];
  fk_wait_previous();
#pragma unroll
  for (int u = 0; u < U; u++) {
    int64_t item = first + u * (int)blockDim.x, row = 0;
    if (item >= a.items) continue;
    if (a.rows > 1) {
      row = a.items >> 31 ? item / a.items_per_row : (int64_t)fk_divide((uint32_t)item, a.per_row);
      item -= row * a.items_per_row;
    }
    out_at[u] = fk_row_offset(a.out_rows, row) + item * V;
#pragma unroll
    for (int i = 0; i < INPUTS; i++)
      in[u][i] = *reinterpret_cast<const span *>((const T *)a.in[i] + fk_row_offset(a.in_rows[i], row) + item * V);
  }
  fk_let_next_start();
#pragma unroll
  for (int u = 0; u < U; u++)
    if (first + u * (int)blockDim.x < a.items)
      *reinterpret_cast<span *>((T *)a.out + out_at[u]) = fk_map_span<F, T>(in[u]);
  if constexpr (V > 1) {
    int64_t rest = a.items * V + threadIdx.x;
    if (a.rows > 1 || blockIdx.x + 1 < gridDim.x || rest >= a.columns) return;
    T one[INPUTS];
#pragma unroll
    for (int i = 0; i < INPUTS; i++) one[i] = ((const T *)a.in[i])[rest];
    ((T *)a.out)[rest] = fk_map_span<F, T>(one);
  }
}

/* Rows that follow each other without a gap are one row. */
template <int INPUTS>
static inline bool fk_map_flat(const fk_map_args<INPUTS> &a) {
  bool flat = a.out_rows.ndim == 1 && a.out_rows.strides[0] == a.columns;
  for (int i = 0; i < INPUTS; i++) flat = flat && a.in_rows[i].ndim == 1 && a.in_rows[i].strides[0] == a.columns;
  return flat;
}

/* Takes in, out, the row maps, rows and columns; fills in the rest. */
template <typename F, typename T, int INPUTS>
static fk_status fk_map_launch(fk_context *ctx, fk_map_args<INPUTS> a) {
  constexpr int N = fk_pack<T>::size;
  if (a.rows == 0 || a.columns == 0) return FK_OK;
  if (fk_map_flat(a)) a.columns *= a.rows, a.rows = 1;
  bool packed = a.rows == 1 || a.columns % N == 0;
  for (int i = 0; i < INPUTS; i++)
    packed = packed && (a.rows == 1 ? (uintptr_t)a.in[i] % 16 == 0 : fk_packs_rows<T>(a.in[i], a.in_rows[i]));
  packed = packed && (a.rows == 1 ? (uintptr_t)a.out % 16 == 0 : fk_packs_rows<T>(a.out, a.out_rows));
  if (packed && a.columns < N) packed = false;
  a.items_per_row = packed ? a.columns / N : a.columns;
  a.items = a.rows * a.items_per_row;
  if (a.rows > 1 && a.items < (int64_t)1 << 31) a.per_row = fk_divide_by(a.items_per_row);
  /* Several items per thread only where there are enough to fill the GPU all the same. */
  constexpr int U = INPUTS == 1 ? 4 : 2;
  int64_t resident = (int64_t)fk_context_cuda(ctx)->num_sms * 2048;
  if (packed && a.items >= U * resident)
    return fk_launch_early(ctx, fk_map_kernel<F, T, INPUTS, N, U>, dim3((unsigned)fk_ceil_div(a.items, 256 * U)),
                           dim3(256), 0, a);
  int64_t threads = a.items < resident ? 128 : 256, blocks = fk_ceil_div(a.items, threads);
  if (blocks > INT32_MAX) return fk_fail(FK_ERROR_UNSUPPORTED, "cuda: %lld elements are too many", (long long)a.items);
  dim3 grid((unsigned)blocks), block((unsigned)threads);
  if (packed) return fk_launch_early(ctx, fk_map_kernel<F, T, INPUTS, N, 1>, grid, block, 0, a);
  return fk_launch_early(ctx, fk_map_kernel<F, T, INPUTS, 1, 1>, grid, block, 0, a);
}

/* out = F(x). */
template <typename F>
static fk_status fk_map1(fk_context *ctx, const fk_tensor *x, const fk_tensor *out) {
  fk_map_args<1> a = {};
  a.in[0] = fk_data(x), a.in_rows[0] = fk_rows_of(x, 1);
  a.out = fk_data(out), a.out_rows = fk_rows_of(out, 1);
  a.rows = fk_rows(out), a.columns = fk_size(out, -1);
  FK_FLOAT_DISPATCH(fk_type_of(out), T, return fk_map_launch<F, T, 1>(ctx, a));
}

/* out = F(x, y). */
template <typename F>
static fk_status fk_map2(fk_context *ctx, const fk_tensor *x, const fk_tensor *y, const fk_tensor *out) {
  fk_map_args<2> a = {};
  a.in[0] = fk_data(x), a.in_rows[0] = fk_rows_of(x, 1);
  a.in[1] = fk_data(y), a.in_rows[1] = fk_rows_of(y, 1);
  a.out = fk_data(out), a.out_rows = fk_rows_of(out, 1);
  a.rows = fk_rows(out), a.columns = fk_size(out, -1);
  FK_FLOAT_DISPATCH(fk_type_of(out), T, return fk_map_launch<F, T, 2>(ctx, a));
}

/* out = F(left half of a row of x, right half). */
template <typename F>
static fk_status fk_map_halves(fk_context *ctx, const fk_tensor *x, const fk_tensor *out) {
  fk_map_args<2> a = {};
  a.rows = fk_rows(out), a.columns = fk_size(out, -1);
  a.in[0] = fk_data(x);
  a.in[1] = (const char *)fk_data(x) + a.columns * (x->dtype.bits / 8);
  a.in_rows[0] = a.in_rows[1] = fk_rows_of(x, 1);
  a.out = fk_data(out), a.out_rows = fk_rows_of(out, 1);
  FK_FLOAT_DISPATCH(fk_type_of(out), T, return fk_map_launch<F, T, 2>(ctx, a));
}
