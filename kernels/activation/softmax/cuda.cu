/* softmax on the GPU. A row of up to 32768 columns is kept in registers by part of a warp or by a block. A longer row,
 * a vocabulary, is kept by a cluster of blocks where there are clusters and it fits; else it is cut into chunks: blocks
 * find the maximum and the sum of each, then put them together, each for itself, and write; the second look finds the
 * row in the caches. */
#include "device/cuda/cluster.cuh"
#include "device/cuda/row.cuh"
#include "tasks/softmax.h"

enum { CLUSTER = 8, CLUSTER_THREADS = 512 };
enum { ELEMENTS = 32, CHUNK_THREADS = 128, CHUNK = ELEMENTS * CHUNK_THREADS };

typedef struct softmax_args {
  const void *x;
  void *out;
  fk_row_map x_rows, out_rows;
  int64_t rows, columns, chunks;
  float2 *partial; /* [rows][chunks] maximum, sum */
} softmax_args;

template <bool BLOCK>
static __device__ __forceinline__ float lanes_max(float v, const fk_lanes &l) {
  if constexpr (BLOCK) {
    return fk_block_max(v);
  } else {
    for (int d = l.count / 2; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
  }
}

/* The largest number a lane holds; NaN is passed over, the sum will meet it. */
template <typename T, int PACKS>
static __device__ __forceinline__ float kept_max(const uint4 (&p)[PACKS], const fk_lanes &l, int end) {
  float max = -INFINITY;
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    if ((k * l.count + l.lane) * fk_pack<T>::size >= end) continue;
    float v[fk_pack<T>::size];
    fk_unpack<T>(p[k], v);
#pragma unroll
    for (int i = 0; i < fk_pack<T>::size; i++) max = fmaxf(max, v[i]);
  }
  return max;
}

template <typename T, int PACKS>
static __device__ __forceinline__ float kept_sum(const uint4 (&p)[PACKS], float max, const fk_lanes &l, int end) {
  float sum = 0;
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    if ((k * l.count + l.lane) * fk_pack<T>::size >= end) continue;
    float v[fk_pack<T>::size];
    fk_unpack<T>(p[k], v);
#pragma unroll
    for (int i = 0; i < fk_pack<T>::size; i++) sum += __expf(v[i] - max);
  }
  return sum;
}

template <typename T, int PACKS>
static __device__ __forceinline__ void store_kept(const uint4 (&p)[PACKS], float max, float scale, const fk_lanes &l,
                                                  int end, T *to) {
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    int at = (k * l.count + l.lane) * fk_pack<T>::size;
    if (at >= end) continue;
    float v[fk_pack<T>::size];
    fk_unpack<T>(p[k], v);
#pragma unroll
    for (int i = 0; i < fk_pack<T>::size; i++) v[i] = __expf(v[i] - max) * scale;
    fk_store_raw(to + at, fk_repack<T>(v));
  }
}

template <typename T, bool BLOCK>
static __global__ void __launch_bounds__(BLOCK ? 1024 : 128)
    softmax_kept(const __grid_constant__ softmax_args a, int lanes) {
  constexpr int PACKS = ELEMENTS / fk_pack<T>::size;
  fk_lanes l = {BLOCK ? (int)threadIdx.x : (int)threadIdx.x & (lanes - 1), BLOCK ? (int)blockDim.x : lanes};
  int64_t row = BLOCK ? blockIdx.x : (blockIdx.x * blockDim.x + threadIdx.x) / (unsigned)lanes;
  int end = row < a.rows ? (int)a.columns : 0;
  if (end == 0) row = 0;
  uint4 kept[PACKS];
  fk_wait_previous();
  fk_load_row<T, PACKS>((const T *)a.x + fk_row_offset(a.x_rows, row), l, end, kept);
  float max = lanes_max<BLOCK>(kept_max<T, PACKS>(kept, l, end), l);
  float sum = fk_lanes_sum<BLOCK>(kept_sum<T, PACKS>(kept, max, l, end), l);
  fk_let_next_start();
  store_kept<T, PACKS>(kept, max, 1 / sum, l, end, (T *)a.out + fk_row_offset(a.out_rows, row));
}

/* WRITE false: the chunk's maximum and sum; true: the chunk of out. */
template <typename T, bool WRITE>
static __global__ void __launch_bounds__(CHUNK_THREADS) softmax_chunk(const __grid_constant__ softmax_args a) {
  constexpr int PACKS = ELEMENTS / fk_pack<T>::size;
  fk_lanes l = {(int)threadIdx.x, CHUNK_THREADS};
  int64_t row = blockIdx.x / (unsigned)a.chunks, start = (blockIdx.x - row * a.chunks) * CHUNK;
  int end = (int)(a.columns - start < CHUNK ? a.columns - start : CHUNK);
  uint4 kept[PACKS];
  fk_wait_previous();
  fk_load_row<T, PACKS>((const T *)a.x + fk_row_offset(a.x_rows, row) + start, l, end, kept);
  if (!WRITE) {
    float max = fk_block_max(kept_max<T, PACKS>(kept, l, end));
    /* A chunk of nothing but -inf has the sum 0. */
    float sum = fk_block_sum(kept_sum<T, PACKS>(kept, max == -INFINITY ? 0 : max, l, end));
    if (threadIdx.x == 0) a.partial[blockIdx.x] = make_float2(max, sum);
    return;
  }
  const float2 *partial = a.partial + row * a.chunks;
  float max = -INFINITY, sum = 0;
  for (int64_t i = threadIdx.x; i < a.chunks; i += CHUNK_THREADS) max = fmaxf(max, partial[i].x);
  max = fk_block_max(max);
  for (int64_t i = threadIdx.x; i < a.chunks; i += CHUNK_THREADS) sum += partial[i].y * expf(partial[i].x - max);
  sum = fk_block_sum(sum);
  store_kept<T, PACKS>(kept, max, 1 / sum, l, end, (T *)a.out + fk_row_offset(a.out_rows, row) + start);
}

/* The maximum and the sum of several parts of a row, from their own. An empty or all -inf part has the sum 0. */
static __device__ __forceinline__ float2 join(float2 a, float2 b) {
  float max = fmaxf(a.x, b.x);
  float left = a.y == 0 ? 0 : a.y * __expf(a.x - max), right = b.y == 0 ? 0 : b.y * __expf(b.x - max);
  return make_float2(max, left + right);
}

/* A cluster per row, each block has `share` columns. */
template <typename T>
static __global__ void __launch_bounds__(CLUSTER_THREADS)
    softmax_cluster(const __grid_constant__ softmax_args a, int share) {
  constexpr int PACKS = ELEMENTS / fk_pack<T>::size;
  __shared__ uint64_t own;
  fk_lanes l = {(int)threadIdx.x, CLUSTER_THREADS};
  int64_t row = blockIdx.x / CLUSTER, start = (int64_t)(blockIdx.x % CLUSTER) * share, left = a.columns - start;
  int end = left < 0 ? 0 : left < share ? (int)left : share;
  uint4 kept[PACKS];
  fk_wait_previous();
  fk_load_row<T, PACKS>((const T *)a.x + fk_row_offset(a.x_rows, row) + start, l, end, kept);
  float max = fk_block_max(kept_max<T, PACKS>(kept, l, end));
  float sum = fk_block_sum(kept_sum<T, PACKS>(kept, max == -INFINITY ? 0 : max, l, end));
  if (threadIdx.x == 0) own = (uint64_t)__float_as_uint(sum) << 32 | __float_as_uint(max);
  fk_cluster_sync();
  float2 all = {-INFINITY, 0};
  for (int i = 0; i < CLUSTER; i++) {
    uint64_t part = fk_cluster_load(&own, i);
    all = join(all, make_float2(__uint_as_float((uint32_t)part), __uint_as_float((uint32_t)(part >> 32))));
  }
  fk_cluster_arrive(); /* nobody leaves while others read from it */
  fk_let_next_start();
  store_kept<T, PACKS>(kept, all.x, 1 / all.y, l, end, (T *)a.out + fk_row_offset(a.out_rows, row) + start);
  fk_cluster_wait();
}

/* Any row, one block for each, element by element. */
template <typename T>
static __global__ void __launch_bounds__(512) softmax_any(const __grid_constant__ softmax_args a) {
  const T *x = (const T *)a.x + fk_row_offset(a.x_rows, blockIdx.x);
  T *out = (T *)a.out + fk_row_offset(a.out_rows, blockIdx.x);
  float max = -INFINITY, sum = 0;
  fk_wait_previous();
  for (int64_t i = threadIdx.x; i < a.columns; i += blockDim.x) max = fmaxf(max, fk_float(x[i]));
  max = fk_block_max(max);
  for (int64_t i = threadIdx.x; i < a.columns; i += blockDim.x) sum += __expf(fk_float(x[i]) - max);
  sum = fk_block_sum(sum);
  for (int64_t i = threadIdx.x; i < a.columns; i += blockDim.x)
    out[i] = fk_from<T>(__expf(fk_float(x[i]) - max) * (1 / sum));
}

template <typename T>
static fk_status launch(fk_context *ctx, softmax_args a) {
  constexpr int N = fk_pack<T>::size;
  a.chunks = fk_ceil_div(a.columns, CHUNK);
  if (a.rows * a.chunks > INT32_MAX)
    return fk_fail(FK_ERROR_UNSUPPORTED, "softmax: cuda: %lld rows of %lld columns are too many", (long long)a.rows,
                   (long long)a.columns);
  dim3 rows((unsigned)a.rows);
  if (a.columns % N != 0 || !fk_packs_rows<T>(a.x, a.x_rows) || !fk_packs_rows<T>(a.out, a.out_rows))
    return fk_launch_early(ctx, softmax_any<T>, rows, dim3(a.columns > 512 ? 512 : 128), 0, a);
  if (a.columns <= 32 * ELEMENTS) {
    int lanes = 1;
    while (lanes * ELEMENTS < a.columns) lanes *= 2;
    dim3 grid((unsigned)fk_ceil_div(a.rows, 128 / lanes));
    return fk_launch_early(ctx, softmax_kept<T, false>, grid, dim3(128), 0, a, lanes);
  }
  if (a.columns <= 1024 * ELEMENTS) {
    dim3 block((unsigned)(fk_ceil_div(a.columns, 32 * ELEMENTS) * 32));
    return fk_launch_early(ctx, softmax_kept<T, true>, rows, block, 0, a, 0);
  }
  int64_t share = fk_ceil_div(fk_ceil_div(a.columns, CLUSTER), 32 * N) * 32 * N;
  if (fk_has_clusters(ctx) && share <= CLUSTER_THREADS * ELEMENTS && a.rows <= INT32_MAX / CLUSTER)
    return fk_launch_clusters(ctx, CLUSTER, softmax_cluster<T>, dim3((unsigned)(a.rows * CLUSTER)),
                              dim3(CLUSTER_THREADS), a, (int)share);
  a.partial = (float2 *)fk_scratch(ctx, (size_t)(a.rows * a.chunks) * sizeof *a.partial);
  if (!a.partial) return FK_ERROR_MEMORY;
  dim3 grid((unsigned)(a.rows * a.chunks));
  fk_status status = fk_launch_early(ctx, softmax_chunk<T, false>, grid, dim3(CHUNK_THREADS), 0, a);
  if (status != FK_OK) return status;
  return fk_launch_early(ctx, softmax_chunk<T, true>, grid, dim3(CHUNK_THREADS), 0, a);
}

fk_status fk_cuda_softmax(fk_context *ctx, const fk_softmax_args *t) {
  if (fk_numel(t->x) == 0) return FK_OK;
  softmax_args a = {};
  a.x = fk_data(t->x), a.x_rows = fk_rows_of(t->x, 1);
  a.out = fk_data(t->out), a.out_rows = fk_rows_of(t->out, 1);
  a.rows = fk_rows(t->x), a.columns = fk_size(t->x, -1);
  FK_FLOAT_DISPATCH(fk_type_of(t->x), T, return launch<T>(ctx, a));
}
