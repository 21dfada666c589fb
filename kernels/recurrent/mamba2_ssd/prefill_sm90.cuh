/* A chunk by the warpgroup products of compute capability 9.0, for states of 128 columns. Warpgroup g has tokens
 * [64 g, 64 g + 64) of y and columns [64 g, 64 g + 64) of the state: every product is 64 x 64, its left factor in
 * registers, its right factor a slab in shared memory. Facts from the PTX ISA manual, chapter wgmma. */
#pragma once

#include "prefill.cuh"

#if __CUDA_ARCH_FEAT_SM90_ALL

/* Describes 64 rows, or a depth of 16 rows, of a slab; 8 rows further is 1024 bytes. */
static __device__ __forceinline__ uint64_t slab_at(uint32_t address) {
  return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

static __device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Until at most `left` of the ended groups are unfinished. */
template <int LEFT>
static __device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

/* Keeps what reads or writes these registers on its side of this place: products must neither begin before their
 * factors are there nor be read before they are waited for. */
static __device__ __forceinline__ void settle(float (&d)[8][4]) {
#pragma unroll
  for (int n = 0; n < 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) asm volatile("" : "+f"(d[n][i])::"memory");
}

static __device__ __forceinline__ void settle(uint32_t (&a)[4][4]) {
#pragma unroll
  for (int n = 0; n < 4; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) asm volatile("" : "+r"(a[n][i])::"memory");
}

#define ROW(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define PRODUCT(TYPE, TURNED)                                                                                        \
  asm volatile(                                                                                                      \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                                                   \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE                                                    \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "            \
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, p, 1, 1, " TURNED ";\n}\n" \
      : ROW(0), ROW(1), ROW(2), ROW(3), ROW(4), ROW(5), ROW(6), ROW(7)                                               \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))

/* d [64, 64] = a b^T + (add ? d : 0), b [64][16] of a slab; TURNED: a b, b [16][64]. */
template <typename T, bool TURNED>
static __device__ __forceinline__ void product(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, int add) {
  if constexpr (std::is_same<T, __half>::value && TURNED)
    PRODUCT("f16", "1");
  else if constexpr (std::is_same<T, __half>::value)
    PRODUCT("f16", "0");
  else if constexpr (TURNED)
    PRODUCT("bf16", "1");
  else
    PRODUCT("bf16", "0");
}

/* d = c b^T + (add ? d : 0) over all 128 columns; slab 0 of b is at b, slab 1 some bytes further. */
template <typename T>
static __device__ __forceinline__ void products_of_c(float (&d)[8][4], const uint32_t (&c)[8][4], uint32_t b,
                                                     uint32_t slab, int add) {
#pragma unroll
  for (int k = 0; k < 8; k++) product<T, false>(d, c[k], slab_at(b + k / 4 * slab + k % 4 * 32), k > 0 || add);
}

/* Scores of 64 tokens against 64 from token s on, weighed by dt and decay, as left factors in two parts. */
template <typename T, bool DIAGONAL>
static __device__ __forceinline__ void weigh_slab(const float (&score)[8][4], const chunk_steps *steps, int s,
                                                  const float (&row)[2], float skip, int lane, uint32_t (&coarse)[4][4],
                                                  uint32_t (&fine)[4][4]) {
  int mine = threadIdx.x / 32 % 4 * 16 + lane / 4; /* of the 64 */
#pragma unroll
  for (int n = 0; n < 8; n++) {
    int column = n * 8 + lane % 4 * 2;
    float2 from = *(const float2 *)&steps->from[s + column];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float low = score[n][2 * i] * power_of_two(row[i] - from.x);
      float high = score[n][2 * i + 1] * power_of_two(row[i] - from.y);
      if (DIAGONAL) {
        int distance = mine + 8 * i - column;
        low = distance > 0 ? low : distance == 0 ? low + skip : 0;
        high = distance > 1 ? high : distance == 1 ? high + skip : 0;
      }
      in_two_parts<T>(low, high, &coarse[n / 2][n % 2 * 2 + i], &fine[n / 2][n % 2 * 2 + i]);
    }
  }
}

/* Scaled x of 64 tokens from t on as left factors, in two parts. */
template <typename T, int ROWS>
static __device__ __forceinline__ void scale_inputs(uint32_t stage, const chunk_steps *steps, int t, int lane,
                                                    uint32_t (&coarse)[4][4], uint32_t (&fine)[4][4]) {
#pragma unroll
  for (int k = 0; k < 4; k++) {
    uint32_t x[4];
    load_left_turned<ROWS>(x, stage, threadIdx.x / 32 % 4 * 16, t + k * 16, lane);
    float2 by[2] = {*(const float2 *)&steps->after[t + k * 16 + lane % 4 * 2],
                    *(const float2 *)&steps->after[t + k * 16 + 8 + lane % 4 * 2]};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float2 v = unpack_two<T>(x[i]);
      in_two_parts<T>(v.x * by[i / 2].x, v.y * by[i / 2].y, &coarse[k][i], &fine[k][i]);
    }
  }
}

/* d += (coarse + fine) b: 64 rows of a slab. */
template <typename T>
static __device__ __forceinline__ void products_of_parts(float (&d)[8][4], const uint32_t (&coarse)[4][4],
                                                         const uint32_t (&fine)[4][4], uint32_t b) {
#pragma unroll
  for (int k = 0; k < 4; k++) {
    product<T, true>(d, coarse[k], slab_at(b + k * 2048), 1);
    product<T, true>(d, fine[k], slab_at(b + k * 2048), 1);
  }
}

/* One chunk of warpgroup GROUP: y of its tokens, and its part of the state after the chunk but for the factor
 * 1 / scale. The products that end the state still run when it returns. */
template <typename T, int GROUP>
static __device__ __forceinline__ void compute_chunk(uint32_t stage, uint32_t h_tile, const chunk_steps *steps,
                                                     float skip, int lane, float (&h)[8][4], float (&y)[8][4]) {
  constexpr uint32_t SLAB = CHUNK * 128, HALF = 64 * 128;
  uint32_t b = stage + layout<128>::X, c_tile = b + layout<128>::BC, c[8][4], coarse[4][4], fine[4][4];
  float score[8][4], all = steps->decay * steps->scale;
  int row = GROUP * 64 + threadIdx.x / 32 % 4 * 16;
#pragma unroll
  for (int k = 0; k < 8; k++) load_left<CHUNK>(c[k], c_tile, row, k * 16, lane);
#pragma unroll
  for (int n = 0; n < 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) h[n][i] *= all;
  begin_products();
  products_of_c<T>(score, c, b, SLAB, 0);
  end_products();
  products_of_c<T>(y, c, h_tile, HALF, 0);
  products_of_c<T>(y, c, h_tile + layout<128>::H, HALF, 1);
  end_products();
  float before[2] = {steps->before[row + lane / 4], steps->before[row + lane / 4 + 8]};
  float decay[2] = {power_of_two(before[0]), power_of_two(before[1])};
  wait_products<1>();
  settle(score);
  weigh_slab<T, GROUP == 0>(score, steps, 0, before, skip, lane, coarse, fine);
  wait_products<0>();
  settle(y);
#pragma unroll
  for (int n = 0; n < 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) y[n][i] *= decay[i / 2];
  settle(y), settle(h), settle(coarse), settle(fine);
  begin_products();
  if (GROUP == 1) products_of_c<T>(score, c, b + HALF, SLAB, 0);
  products_of_parts<T>(y, coarse, fine, stage);
  end_products();
  uint32_t x_coarse[4][4], x_fine[4][4];
  scale_inputs<T, CHUNK>(stage, steps, 0, lane, x_coarse, x_fine);
  settle(x_coarse), settle(x_fine);
  begin_products();
  products_of_parts<T>(h, x_coarse, x_fine, b + GROUP * SLAB);
  end_products();
  wait_products<1>();
  settle(y);
  if (GROUP == 1) {
    settle(score);
    weigh_slab<T, true>(score, steps, 64, before, skip, lane, coarse, fine);
    settle(y), settle(coarse), settle(fine);
    begin_products();
    products_of_parts<T>(y, coarse, fine, stage + HALF);
    end_products();
    wait_products<1>();
  } else {
    wait_products<0>();
  }
  scale_inputs<T, CHUNK>(stage, steps, 64, lane, x_coarse, x_fine);
  settle(x_coarse), settle(x_fine);
  begin_products();
  products_of_parts<T>(h, x_coarse, x_fine, b + GROUP * SLAB + HALF);
  end_products();
  if (GROUP == 1) {
    wait_products<1>();
    settle(y);
  }
}

#undef PRODUCT
#undef ROW

#endif
