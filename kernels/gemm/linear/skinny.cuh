/* Few rows of x times many weights: weights go from memory straight into registers as the tensor cores want them.
 *
 * mma.m16n8k16 takes 16 weight rows as its A and 8 rows of x as its B. Which depth a lane's element stands for does not
 * matter as long as A and B agree: lane (g, t) = (lane / 4, lane % 4) loads 16 bytes, the t-th of a slice of 64 bytes
 * of depth, from weight rows g and g + 8 and from row g of x. Its elements, four at a time, are one mma's operands: no
 * shuffles, no shared memory before the end. Rows of x beyond the last, and depth beyond the end in both operands, are
 * zero. float8 becomes float16 on the way, which holds every float8 exactly.
 *
 * A block owns 16 MT features. Its WARPS warps share the depth, UNROLL slices at a time, so that the block reads each
 * weight row in long runs; their sums meet in shared memory in the order of the warps. */
#pragma once

#include <cuda_fp8.h>

#include "device/cuda/gemm.h"
#include "device/cuda/mma.cuh"

enum { FK_SKINNY_BLOCK = 128 /* depth of one scale, where there is one per block */ };

static __device__ __forceinline__ uint4 fk_skinny_load(const void *p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

/* Two float8 to two float16, the first in the low half. */
static __device__ __forceinline__ uint32_t fk_skinny_half2(uint32_t pair) {
  __half2_raw h = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)(pair & 0xffffu), __NV_E4M3);
  return (uint32_t)h.x | (uint32_t)h.y << 16;
}

/* d += the 16 bytes that each lane holds of weight rows g (lo) and g + 8 (hi), times those of x row g. */
template <typename T>
static __device__ __forceinline__ void fk_skinny_slice(float (&d)[4], const uint4 &lo, const uint4 &hi,
                                                       const uint4 &b) {
  if constexpr (sizeof(T) == 2) {
    const uint32_t first[] = {lo.x, hi.x, lo.y, hi.y}, second[] = {lo.z, hi.z, lo.w, hi.w};
    fk_mma<T>(d, first, b.x, b.y);
    fk_mma<T>(d, second, b.z, b.w);
  } else {
    const uint32_t l[4] = {lo.x, lo.y, lo.z, lo.w}, h[4] = {hi.x, hi.y, hi.z, hi.w}, x[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t a[] = {fk_skinny_half2(l[i]), fk_skinny_half2(h[i]), fk_skinny_half2(l[i] >> 16),
                            fk_skinny_half2(h[i] >> 16)};
      fk_mma<__half>(d, a, fk_skinny_half2(x[i]), fk_skinny_half2(x[i] >> 16));
    }
  }
}

/* The first bytes of each weight row into L2, and no further: right also where the previous kernel still writes them.
 * Bulk requests, where there are such, do not stand in the way of loads. */
template <typename T, int ROWS>
static __device__ __forceinline__ void fk_skinny_prefetch(const T *weight, int64_t n0, const fk_gemm_args &p, int bytes,
                                                          bool bulk) {
#if __CUDA_ARCH__ >= 900
  if (bulk) {
    int64_t n = n0 + threadIdx.x, row = p.depth * (int64_t)sizeof(T);
    uint32_t size = (uint32_t)(bytes < row ? bytes : row); /* of sixteens, as bytes and rows that are read in packs */
    if (threadIdx.x < ROWS && n < p.features)
      asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(weight + n * p.ldw), "r"(size) : "memory");
    return;
  }
#endif
  int lines = bytes / 128;
  for (int i = (int)threadIdx.x; i < ROWS * lines; i += (int)blockDim.x) {
    int64_t n = n0 + i / lines, k = (int64_t)(i % lines) * (128 / (int64_t)sizeof(T));
    if (n < p.features && k < p.depth) asm volatile("prefetch.global.L2 [%0];" ::"l"(weight + n * p.ldw + k));
  }
}

template <typename U>
static __device__ __forceinline__ void fk_skinny_store(const fk_gemm_args &p, int64_t m, int64_t n, float v) {
  if (p.bias) v += fk_float(((const U *)p.bias)[n]);
  ((U *)p.out)[m * p.ldo + n] = fk_from<U>(v);
}

/* What a sum of feature n and row m is multiplied by. */
static __device__ __forceinline__ float fk_skinny_scale(const fk_gemm_args &p, int64_t m, int64_t n) {
  if (p.scales != FK_GEMM_OUTER) return 1.0f;
  return p.x_scale[p.num_x_scales == 1 ? 0 : m] * p.weight_scale[p.num_weight_scales == 1 ? 0 : n];
}

/* T: weights and x; out and bias are of the same type, or for float8 bfloat16 or float16. MT: features in sixteens; NT:
 * rows of x in eights. BLOCKS: a scale per 128 of depth, for each row of x and each 128 features; UNROLL slices are
 * then whole blocks. */
template <typename T, int MT, int NT, int WARPS, int UNROLL, int PER_SM, bool BLOCKS>
static __global__ void __launch_bounds__(32 * WARPS, PER_SM) fk_skinny(fk_gemm_args p, int prefetch, bool bulk) {
  constexpr int PITCH = 16 * MT + 4; /* keeps the lanes of a store in different banks */
  constexpr int LANE = 16 / (int)sizeof(T), SLICE = 4 * LANE;
  __shared__ float partial[WARPS][8 * NT][PITCH];
  const T *x = (const T *)p.x, *weight = (const T *)p.weight;
  int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int64_t n0 = (int64_t)blockIdx.x * (16 * MT), m0 = (int64_t)blockIdx.y * (8 * NT);
  const T *w[MT][2], *xr[NT];
#pragma unroll
  for (int i = 0; i < MT; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int64_t n = n0 + 16 * i + 8 * h + g;
      w[i][h] = weight + (n < p.features ? n : p.features - 1) * p.ldw + LANE * t;
    }
  bool present[NT];
#pragma unroll
  for (int j = 0; j < NT; j++) {
    present[j] = m0 + 8 * j + g < p.rows;
    xr[j] = x + (present[j] ? m0 + 8 * j + g : 0) * p.ldx + LANE * t;
  }
  fk_skinny_prefetch<T, 16 * MT>(weight, n0, p, prefetch, bulk);
  fk_wait_previous();
  fk_let_next_start();
  const uint4 zero = make_uint4(0, 0, 0, 0);
  float sum[MT][NT][4] = {};
  int depth = (int)p.depth;
  for (int k0 = warp * UNROLL * SLICE; k0 < depth; k0 += WARPS * UNROLL * SLICE) {
    uint4 a[UNROLL][MT][2];
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      int k = k0 + u * SLICE;
      bool inside = k + LANE * t < depth;
#pragma unroll
      for (int i = 0; i < MT; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) a[u][i][h] = inside ? fk_skinny_load(w[i][h] + k) : zero;
    }
    float block[MT][NT][4]; /* only where BLOCKS */
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      int k = k0 + u * SLICE;
      bool inside = k + LANE * t < depth;
      uint4 b[NT];
#pragma unroll
      for (int j = 0; j < NT; j++) b[j] = inside && present[j] ? *(const uint4 *)(xr[j] + k) : zero;
#pragma unroll
      for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++) {
          if constexpr (!BLOCKS) {
            fk_skinny_slice<T>(sum[i][j], a[u][i][0], a[u][i][1], b[j]);
          } else {
            if (u % (FK_SKINNY_BLOCK / SLICE) == 0)
#pragma unroll
              for (int c = 0; c < 4; c++) block[i][j][c] = 0;
            fk_skinny_slice<T>(block[i][j], a[u][i][0], a[u][i][1], b[j]);
          }
        }
      if constexpr (BLOCKS) {
        if (u % (FK_SKINNY_BLOCK / SLICE) != FK_SKINNY_BLOCK / SLICE - 1 ||
            k / FK_SKINNY_BLOCK * FK_SKINNY_BLOCK >= depth)
          continue;
        int at = k / FK_SKINNY_BLOCK;
#pragma unroll
        for (int i = 0; i < MT; i++) {
          int64_t n = n0 + 16 * i; /* 16 divides 128: one scale for the whole tile */
          float ws = n < p.features ? p.weight_scale[n / FK_SKINNY_BLOCK * p.weight_scale_row + at] : 0.0f;
#pragma unroll
          for (int j = 0; j < NT; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
              int64_t m = m0 + 8 * j + 2 * t + c;
              float scale = m < p.rows ? ws * p.x_scale[m * p.x_scale_row + at] : 0.0f;
              sum[i][j][c] += block[i][j][c] * scale;
              sum[i][j][c + 2] += block[i][j][c + 2] * scale;
            }
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < MT; i++)
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
      for (int c = 0; c < 4; c++) partial[warp][8 * j + 2 * t + c % 2][16 * i + 8 * (c / 2) + g] = sum[i][j][c];
  __syncthreads();
  for (int e = (int)threadIdx.x; e < 8 * NT * 16 * MT; e += 32 * WARPS) {
    int m = e / (16 * MT), n = e % (16 * MT);
    if (m0 + m >= p.rows || n0 + n >= p.features) continue;
    float v = 0;
#pragma unroll
    for (int k = 0; k < WARPS; k++) v += partial[k][m][n];
    if constexpr (sizeof(T) == 2) {
      fk_skinny_store<T>(p, m0 + m, n0 + n, v);
    } else {
      v *= fk_skinny_scale(p, m0 + m, n0 + n);
      if (p.out_type == FK_BF16)
        fk_skinny_store<__nv_bfloat16>(p, m0 + m, n0 + n, v);
      else
        fk_skinny_store<__half>(p, m0 + m, n0 + n, v);
    }
  }
}

template <typename T, int MT, int NT, int WARPS, int UNROLL, int PER_SM, bool BLOCKS>
static fk_status fk_skinny_launch(fk_context *ctx, const fk_gemm_args *p, int prefetch, bool bulk) {
  dim3 grid((unsigned)fk_ceil_div(p->features, 16 * MT), (unsigned)fk_ceil_div(p->rows, 8 * NT));
  return fk_launch_early(ctx, fk_skinny<T, MT, NT, WARPS, UNROLL, PER_SM, BLOCKS>, grid, dim3(32 * WARPS), 0, *p,
                         prefetch, bulk);
}

/* Whether rows can be read 16 bytes at a time. */
static inline bool fk_skinny_packs(const fk_gemm_args *p, int64_t bytes) {
  int64_t each = 16 / bytes;
  return (uintptr_t)p->x % 16 == 0 && (uintptr_t)p->weight % 16 == 0 && p->ldx % each == 0 && p->ldw % each == 0 &&
         p->depth % each == 0 && p->depth < 1 << 30;
}
