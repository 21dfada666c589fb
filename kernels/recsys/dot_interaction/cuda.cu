/* dot_interaction on the GPU: a warp per sample, and memory is read once.
 *
 * 16 bits: up to 32 vectors are the rows of one matrix X, and the tensor cores compute the upper tiles of X X^T. A dot
 * product does not mind in which order the elements come, as long as both sides have the same: so a thread's 16 bytes
 * of a row serve as they are, for both operands, and nothing passes through shared memory on its way in. float32: up to
 * 28 vectors in shared memory; a lane has the products of 4 vectors with 4 others. Anything else: one thread per pair.
 */
#include "device/cuda/kernel.cuh"
#include "tasks/dot_interaction.h"

enum { WARPS = 4, THREADS = 32 * WARPS, CLASSES = 7, PER_CLASS = 4, SMALL = CLASSES * PER_CLASS };

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

template <typename T>
static __device__ __forceinline__ void multiply(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                                uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same<T, __half>::value)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* The tiles of rows [16 m, 16 m + 16) and columns [8 n, 8 n + 8) that meet the upper triangle: m 0 with n 0 to 3, then
 * m 1 with n 2 and 3. rows[i] holds row g + 8 i. */
template <typename T>
static __device__ __forceinline__ void multiply_tiles(float c[6][4], const uint32_t low[4], const uint32_t high[4]) {
#pragma unroll
  for (int n = 0; n < 4; n++) multiply<T>(c[n], low[0], low[1], high[0], high[1], low[n], high[n]);
#pragma unroll
  for (int n = 2; n < 4; n++) multiply<T>(c[n + 2], low[2], low[3], high[2], high[3], low[n], high[n]);
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
        multiply_tiles<T>(c, low, high);
        uint32_t low2[4] = {x[q][0].z, x[q][1].z, x[q][2].z, x[q][3].z};
        uint32_t high2[4] = {x[q][0].w, x[q][1].w, x[q][2].w, x[q][3].w};
        multiply_tiles<T>(c, low2, high2);
      }
    }
    const T *dense = vector_at<T>(j, sample, 0);
    for (int i = lane; i < j.dim; i += 32) line[i] = dense[i];
#pragma unroll
    for (int tile = 0; tile < 6; tile++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int m = tile < 4 ? 0 : 1, n = tile < 4 ? tile : tile - 2;
        int i = 16 * m + g + 8 * (e / 2), other = 8 * n + 2 * t + e % 2;
        if (i < other && other < j.vectors) line[pair_at(j, i, other)] = fk_from<T>(c[tile][e]);
      }
  }
  __syncthreads();
  int64_t left = j.batch - first;
  write_rows(j, (const T *)room, first, (int)(left < WARPS ? left : WARPS));
}

static __device__ __forceinline__ void add_products(float c[PER_CLASS][PER_CLASS], const float *a, const float *b,
                                                    int step) {
  float4 x[PER_CLASS], y[PER_CLASS];
#pragma unroll
  for (int p = 0; p < PER_CLASS; p++) x[p] = *(const float4 *)(a + p * step);
#pragma unroll
  for (int p = 0; p < PER_CLASS; p++) y[p] = *(const float4 *)(b + p * step);
#pragma unroll
  for (int p = 0; p < PER_CLASS; p++)
#pragma unroll
    for (int q = 0; q < PER_CLASS; q++) {
      c[p][q] = fmaf(x[p].x, y[q].x, c[p][q]);
      c[p][q] = fmaf(x[p].y, y[q].y, c[p][q]);
      c[p][q] = fmaf(x[p].z, y[q].z, c[p][q]);
      c[p][q] = fmaf(x[p].w, y[q].w, c[p][q]);
    }
}

/* A lane has two classes of vectors, equal modulo 7: neighbours in a class are 7 rows apart, so that lanes that read
 * different classes read different banks. */
static __global__ void __launch_bounds__(THREADS) pairs_f32(pair_job j) {
  extern __shared__ uint4 room[];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pitch = j.dim + 4;
  int64_t first = (int64_t)blockIdx.x * WARPS, sample = first + warp;
  float *line = (float *)room + warp * j.width;
  float *mine = (float *)room + (WARPS * j.width + 3) / 4 * 4 + warp * SMALL * pitch;
  fk_wait_previous();
  if (sample < j.batch) {
    for (int i = 0; i < SMALL; i++) {
      const float *from = i < j.vectors ? vector_at<float>(j, sample, i) : NULL;
      for (int k = lane * 4; k < j.dim; k += 128)
        *(float4 *)(mine + i * pitch + k) = from ? *(const float4 *)(from + k) : make_float4(0, 0, 0, 0);
    }
    __syncwarp();
    int a = 0, b = lane;
    while (a < CLASSES && b >= CLASSES - a) b -= CLASSES - a, a++;
    b += a;
    if (a < CLASSES) {
      float c[PER_CLASS][PER_CLASS] = {};
      for (int k = 0; k < j.dim; k += 4) add_products(c, mine + a * pitch + k, mine + b * pitch + k, CLASSES * pitch);
#pragma unroll
      for (int p = 0; p < PER_CLASS; p++)
#pragma unroll
        for (int q = 0; q < PER_CLASS; q++) {
          int i = a + CLASSES * p, o = b + CLASSES * q, low = i < o ? i : o, high = i < o ? o : i;
          /* Of a class with itself, each pair comes twice: the same number. */
          if (low < high && high < j.vectors && (a != b || p < q)) line[pair_at(j, low, high)] = c[p][q];
        }
    }
    for (int i = lane; i < j.dim; i += 32) line[i] = mine[i];
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
  if constexpr (sizeof(T) == 2) {
    if (packs && j.vectors <= 32 && lines <= 48 * 1024)
      return fk_launch_early(ctx, pairs_mma<T>, grid, block, lines, j);
  } else {
    size_t bytes = lines + sizeof(float) * WARPS * SMALL * (size_t)(j.dim + 4);
    if (packs && j.vectors <= SMALL && bytes <= 96 * 1024)
      return fk_launch_early(ctx, pairs_f32, grid, block, bytes, j);
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
