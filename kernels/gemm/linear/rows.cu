/* linear for one to eight rows of float32: a block of eight warps computes R features, the warps share the depth. */
#include "linear.cuh"

enum { WARPS = 8, R = 4, UNROLL = 2, STEP = 32 * 4, MOST_ROWS = 8 };

static __device__ __forceinline__ float4 load_weights(const float *p) {
  float4 v;
  asm volatile("ld.global.L1::no_allocate.L2::256B.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(p));
  return v;
}

/* M: rows, rounded up to a power of two. */
template <int M>
static __global__ void __launch_bounds__(32 * WARPS) linear_rows(fk_gemm_args g) {
  __shared__ float partial[WARPS][R * M];
  const float *x = (const float *)g.x, *weight = (const float *)g.weight, *bias = (const float *)g.bias;
  int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, rows = (int)g.rows;
  int64_t n0 = (int64_t)blockIdx.x * R;
  const float *w[R];
#pragma unroll
  for (int r = 0; r < R; r++) w[r] = weight + (n0 + r < g.features ? n0 + r : g.features - 1) * g.ldw;
  float sum[R][M] = {};
  fk_wait_previous();
  fk_let_next_start();
  for (int64_t k0 = (int64_t)warp * UNROLL * STEP; k0 < g.depth; k0 += WARPS * UNROLL * STEP) {
    float4 a[UNROLL][R];
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      int64_t k = k0 + u * STEP + lane * 4;
#pragma unroll
      for (int r = 0; r < R; r++) a[u][r] = k < g.depth ? load_weights(w[r] + k) : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      int64_t k = k0 + u * STEP + lane * 4;
#pragma unroll
      for (int m = 0; m < M; m++) {
        float4 b = k < g.depth && m < rows ? *(const float4 *)(x + m * g.ldx + k) : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int r = 0; r < R; r++) sum[r][m] += a[u][r].x * b.x + a[u][r].y * b.y + a[u][r].z * b.z + a[u][r].w * b.w;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int m = 0; m < M; m++) {
      float v = fk_warp_sum(sum[r][m]);
      if (lane == 0) partial[warp][m * R + r] = v;
    }
  __syncthreads();
  int i = (int)threadIdx.x, m = i / R;
  int64_t n = n0 + i % R;
  if (m >= rows || n >= g.features) return; /* i < R * M follows */
  float v = 0;
#pragma unroll
  for (int k = 0; k < WARPS; k++) v += partial[k][i];
  ((float *)g.out)[m * g.ldo + n] = v + (bias ? bias[n] : 0.0f);
}

int fk_linear_rows_fit(const fk_gemm_args *g) {
  bool packed = (uintptr_t)g->x % 16 == 0 && (uintptr_t)g->weight % 16 == 0 && g->ldx % 4 == 0 && g->ldw % 4 == 0 &&
                g->depth % 4 == 0;
  return g->type == FK_F32 && g->rows <= MOST_ROWS && packed ? 2 : 0;
}

fk_status fk_linear_rows(fk_context *ctx, const fk_gemm_args *g) {
  dim3 grid((unsigned)fk_ceil_div(g->features, R)), block(32 * WARPS);
  if (g->rows == 1) return fk_launch_early(ctx, linear_rows<1>, grid, block, 0, *g);
  if (g->rows == 2) return fk_launch_early(ctx, linear_rows<2>, grid, block, 0, *g);
  if (g->rows <= 4) return fk_launch_early(ctx, linear_rows<4>, grid, block, 0, *g);
  return fk_launch_early(ctx, linear_rows<8>, grid, block, 0, *g);
}
