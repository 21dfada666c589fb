/* dot_interaction on the GPU: a warp per sample, and memory is read once.
 *
 * 16 bits: up to 32 vectors are the rows of one matrix X, and the tensor cores compute the upper tiles of X X^T. A dot
 * product does not mind in which order the elements come, as long as both sides have the same: so a thread's 16 bytes
 * of a row serve as they are, for both operands, and nothing passes through shared memory on its way in. float32: up to
 * 28 vectors in shared memory; a lane has the products of 4 vectors with 4 others. Anything else: one thread per pair.
 */
#include "device/cuda/mma.cuh"
#include "tasks/dot_interaction.h"

enum { WARPS = 4, THREADS = 32 * WARPS };

typedef struct pair_job {
  const void *dense, *sparse;
  void *out;
  int64_t batch, dense_stride, sparse_stride, feature_stride, out_stride;
  int dim, vectors, width; /* width: of a row of out */
} pair_job;

/* Vector i of a sample; 0 is dense. */
template <typename T>
static __device__ __forceinline__ const T *vector_at(const pair_job &j, int64_t sample, int i) {
  return i == 0 ? (const T *)j.dense + sample * j.dense_stride
                : (const T *)j.sparse + sample * j.sparse_stride + (i - 1) * j.feature_stride;
}

/* Place of pair (i, c), i < c, in a row of out. */
static __device__ __forceinline__ int pair_at(const pair_job &j, int i, int c) {
  return j.dim + i * j.vectors - i * (i + 1) / 2 + c - i - 1;
}

/* Rows of out of `samples` samples, staged one after the other. */
template <typename T>
static __device__ void write_rows(const pair_job &j, const T *staged, int64_t first, int samples) {
  if (j.out_stride == j.width) {
    T *to = (T *)j.out + first * j.width;
    int count = samples * j.width, each = 8 / (int)sizeof(T);
    bool wide = (uintptr_t)to % 8 == 0;
    int packs = wide ? count / each : 0;
    for (int i = threadIdx.x; i < packs; i += THREADS) ((uint2 *)to)[i] = ((const uint2 *)staged)[i];
    for (int i = packs * each + threadIdx.x; i < count; i += THREADS) to[i] = staged[i];
    return;
  }
  for (int s = 0; s < samples; s++)
    for (int i = threadIdx.x; i < j.width; i += THREADS)
      ((T *)j.out)[(first + s) * j.out_stride + i] = staged[s * j.width + i];
}

/* The tiles of rows [16 m, 16 m + 16) and columns [8 n, 8 n + 8) that meet the upper triangle: m 0 with n 0 to 3, then
 * m 1 with n 2 and 3. Entry i of left and right holds row g + 8 i: low its first two numbers of a step, high two more.
 */
template <typename T>
static __device__ __forceinline__ void multiply_tiles(float c[6][4], const uint32_t left_low[4],
                                                      const uint32_t left_high[4], const uint32_t right_low[4],
                                                      const uint32_t right_high[4]) {
  const uint32_t top[] = {left_low[0], left_low[1], left_high[0], left_high[1]};
  const uint32_t bottom[] = {left_low[2], left_low[3], left_high[2], left_high[3]};
#pragma unroll
  for (int n = 0; n < 4; n++) fk_mma<T>(c[n], top, right_low[n], right_high[n]);
#pragma unroll
  for (int n = 2; n < 4; n++) fk_mma<T>(c[n + 2], bottom, right_low[n], right_high[n]);
}

/* Products of a warp's tiles to their places in a row of out. */
template <typename T>
static __device__ __forceinline__ void place_tiles(const pair_job &j, const float c[6][4], T *line) {
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int tile = 0; tile < 6; tile++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int m = tile < 4 ? 0 : 1, n = tile < 4 ? tile : tile - 2;
      int i = 16 * m + g + 8 * (e / 2), other = 8 * n + 2 * t + e % 2;
      if (i < other && other < j.vectors) line[pair_at(j, i, other)] = fk_from<T>(c[tile][e]);
    }
}

template <typename T>
static __global__ void __launch_bounds__(THREADS, 4) pairs_mma(pair_job j) {
  extern __shared__ uint4 room[];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int64_t first = (int64_t)blockIdx.x * WARPS, sample = first + warp;
  T *line = (T *)room + warp * j.width;
  fk_wait_previous();
  if (sample < j.batch) {
    float c[6][4] = {};
    const T *row[4];
#pragma unroll
    for (int i = 0; i < 4; i++) row[i] = g + 8 * i < j.vectors ? vector_at<T>(j, sample, g + 8 * i) : NULL;
    for (int k = 8 * t; k - 8 * t < j.dim; k += 128) {
      uint4 x[4][4];
#pragma unroll
      for (int q = 0; q < 4; q++)
#pragma unroll
        for (int i = 0; i < 4; i++)
          x[q][i] = row[i] && k + 32 * q < j.dim ? *(const uint4 *)(row[i] + k + 32 * q) : make_uint4(0, 0, 0, 0);
#pragma unroll
      for (int q = 0; q < 4; q++) {
        uint32_t low[4] = {x[q][0].x, x[q][1].x, x[q][2].x, x[q][3].x};
        uint32_t high[4] = {x[q][0].y, x[q][1].y, x[q][2].y, x[q][3].y};
        multiply_tiles<T>(c, low, high, low, high);
        uint32_t low2[4] = {x[q][0].z, x[q][1].z, x[q][2].z, x[q][3].z};
        uint32_t high2[4] = {x[q][0].w, x[q][1].w, x[q][2].w, x[q][3].w};
        multiply_tiles<T>(c, low2, high2, low2, high2);
      }
    }
    const T *dense = vector_at<T>(j, sample, 0);
    for (int i = lane; i < j.dim; i += 32) line[i] = dense[i];
    place_tiles(j, c, line);
  }
  __syncthreads();
  int64_t left = j.batch - first;
  write_rows(j, (const T *)room, first, (int)(left < WARPS ? left : WARPS));
}

/* Three parts of a row's four numbers: part p of the first two in low[p], of the others in high[p]. */
typedef struct parts {
  uint32_t low[3][4], high[3][4]; /* [part][row] */
} parts;

/* Cuts the upper halves of two numbers off, as two bfloat16; what is left of them is exact. */
static __device__ __forceinline__ uint32_t cut(float *a, float *b) {
  uint32_t x = __float_as_uint(*a), y = __float_as_uint(*b);
  *a -= __uint_as_float(x & 0xffff0000u);
  *b -= __uint_as_float(y & 0xffff0000u);
  return __byte_perm(x, y, 0x7632);
}

/* Main has the products of first parts; rest what the others add. */
static __device__ __forceinline__ void multiply_parts(float main[6][4], float rest[6][4], float4 x[4]) {
  parts p;
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int part = 0; part < 3; part++) {
      p.low[part][i] = cut(&x[i].x, &x[i].y);
      p.high[part][i] = cut(&x[i].z, &x[i].w);
    }
  multiply_tiles<__nv_bfloat16>(main, p.low[0], p.high[0], p.low[0], p.high[0]);
#pragma unroll
  for (int sum = 2; sum >= 1; sum--) /* the smallest first */
#pragma unroll
    for (int a = 0; a <= sum; a++)
      multiply_tiles<__nv_bfloat16>(rest, p.low[a], p.high[a], p.low[sum - a], p.high[sum - a]);
}

/* A warp's sample, pair by pair. */
static __device__ __noinline__ void pairs_slow(const pair_job &j, int64_t sample, float *line) {
  for (int i = 0; i < j.vectors; i++)
    for (int other = i + 1 + threadIdx.x % 32; other < j.vectors; other += 32) {
      const float *x = vector_at<float>(j, sample, i), *y = vector_at<float>(j, sample, other);
      float sum = 0;
      for (int k = 0; k < j.dim; k++) sum = fmaf(x[k], y[k], sum);
      line[pair_at(j, i, other)] = sum;
    }
}

static __global__ void __launch_bounds__(THREADS, 3) pairs_f32(const __grid_constant__ pair_job j) {
  extern __shared__ uint4 room[];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int64_t first = (int64_t)blockIdx.x * WARPS, sample = first + warp;
  float *line = (float *)room + warp * j.width;
  fk_wait_previous();
  if (sample < j.batch) {
    float main[6][4] = {}, rest[6][4] = {};
    const float *row[4];
#pragma unroll
    for (int i = 0; i < 4; i++) row[i] = g + 8 * i < j.vectors ? vector_at<float>(j, sample, g + 8 * i) : NULL;
    for (int k = 4 * t; k - 4 * t < j.dim; k += 64) {
      float4 x[4][4]; /* 16 loads under way */
#pragma unroll
      for (int q = 0; q < 4; q++)
#pragma unroll
        for (int i = 0; i < 4; i++)
          x[q][i] = row[i] && k + 16 * q < j.dim ? *(const float4 *)(row[i] + k + 16 * q) : make_float4(0, 0, 0, 0);
#pragma unroll
      for (int q = 0; q < 4; q++) multiply_parts(main, rest, x[q]);
    }
    const float *dense = vector_at<float>(j, sample, 0);
    for (int i = lane; i < j.dim; i += 32) line[i] = dense[i];
    bool lost = false;
#pragma unroll
    for (int tile = 0; tile < 6; tile++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        main[tile][e] += rest[tile][e];
        lost = lost || isnan(main[tile][e]);
      }
    if (__any_sync(0xffffffffu, lost))
      pairs_slow(j, sample, line);
    else
      place_tiles(j, main, line);
  }
  __syncthreads();
  int64_t left = j.batch - first;
  write_rows(j, (const float *)room, first, (int)(left < WARPS ? left : WARPS));
}

/* A block per sample, a warp per first vector, a lane per pair. */
template <typename T>
static __global__ void pairs_any(pair_job j) {
  fk_wait_previous();
  int64_t sample = blockIdx.x;
  const T *dense = vector_at<T>(j, sample, 0);
  T *out = (T *)j.out + sample * j.out_stride;
  for (int i = threadIdx.x; i < j.dim; i += THREADS) out[i] = dense[i];
  for (int i = threadIdx.x / 32; i < j.vectors; i += WARPS)
    for (int other = i + 1 + threadIdx.x % 32; other < j.vectors; other += 32) {
      const T *x = vector_at<T>(j, sample, i), *y = vector_at<T>(j, sample, other);
      float sum = 0;
      for (int k = 0; k < j.dim; k++) sum = fmaf(fk_float(x[k]), fk_float(y[k]), sum);
      out[pair_at(j, i, other)] = fk_from<T>(sum);
    }
}

template <typename T>
static fk_status launch(fk_context *ctx, const pair_job &j) {
  bool packs = fk_packs<T>(j.dense, j.dense_stride, j.dim) && fk_packs<T>(j.sparse, j.sparse_stride, j.dim) &&
               fk_packs<T>(j.sparse, j.feature_stride, j.dim);
  size_t lines = fk_ceil_div((int64_t)sizeof(T) * WARPS * j.width, 16) * 16;
  dim3 grid((unsigned)fk_ceil_div(j.batch, WARPS)), block(THREADS);
  if (packs && j.vectors <= 32 && lines <= 48 * 1024) {
    if constexpr (sizeof(T) == 2)
      return fk_launch_early(ctx, pairs_mma<T>, grid, block, lines, j);
    else
      return fk_launch_early(ctx, pairs_f32, grid, block, lines, j);
  }
  return fk_launch_early(ctx, pairs_any<T>, dim3((unsigned)j.batch), block, 0, j);
}

fk_status fk_cuda_dot_interaction(fk_context *ctx, const fk_dot_interaction_args *a) {
  pair_job j = {};
  j.dense = fk_data(a->dense);
  j.sparse = fk_data(a->sparse);
  j.out = fk_data(a->out);
  j.batch = fk_size(a->dense, 0);
  j.dense_stride = fk_stride(a->dense, 0);
  j.sparse_stride = fk_stride(a->sparse, 0);
  j.feature_stride = fk_stride(a->sparse, 1);
  j.out_stride = fk_stride(a->out, 0);
  j.dim = (int)fk_size(a->dense, 1);
  j.vectors = (int)fk_size(a->sparse, 1) + 1;
  j.width = (int)fk_size(a->out, 1);
  if (fk_numel(a->out) == 0) return FK_OK;
  FK_FLOAT_DISPATCH(fk_type_of(a->dense), T, return launch<T>(ctx, j));
}
