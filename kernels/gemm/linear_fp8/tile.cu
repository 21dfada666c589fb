/* float8 products of any shape and alignment: tiles of 64 by 64 outputs, in float32. */
#include <cuda_fp8.h>

#include "fp8.cuh"

enum { TILE = 64, DEPTH = 16, THREADS = 256, EACH = 4, PITCH = TILE + 4, BLOCK = 128 };

/* What an operand of FK_GEMM_BLOCKS is scaled by as it is read: rows per scale, and the scales. */
typedef struct operand {
  const uint8_t *data;
  int64_t ld, rows;
  const float *scale; /* NULL: none */
  int64_t scale_row, rows_per_scale;
} operand;

static __device__ __forceinline__ float widen(uint8_t v) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(v, __NV_E4M3)));
}

/* A tile's slice of depth, transposed: to[k][row]; what lies outside is zero. */
static __device__ __forceinline__ void load_slice(float (*to)[PITCH], const operand &o, int64_t first, int64_t k0,
                                                  int64_t depth) {
  for (int i = (int)threadIdx.x; i < TILE * DEPTH; i += THREADS) {
    int64_t row = first + i / DEPTH, k = k0 + i % DEPTH;
    float v = 0;
    if (row < o.rows && k < depth) {
      v = widen(o.data[row * o.ld + k]);
      if (o.scale) v *= o.scale[row / o.rows_per_scale * o.scale_row + k / BLOCK];
    }
    to[i % DEPTH][i / DEPTH] = v;
  }
}

template <typename U>
static __device__ void store(const fk_gemm_args &g, int64_t m, int64_t n, float v) {
  if (g.scales == FK_GEMM_OUTER)
    v *= g.x_scale[g.num_x_scales == 1 ? 0 : m] * g.weight_scale[g.num_weight_scales == 1 ? 0 : n];
  if (g.bias) v += fk_float(((const U *)g.bias)[n]);
  ((U *)g.out)[m * g.ldo + n] = fk_from<U>(v);
}

template <typename U>
static __global__ void __launch_bounds__(THREADS) fp8_tile(fk_gemm_args g) {
  __shared__ __align__(16) float xs[DEPTH][PITCH], ws[DEPTH][PITCH];
  bool blocks = g.scales == FK_GEMM_BLOCKS;
  operand x = {(const uint8_t *)g.x, g.ldx, g.rows, blocks ? g.x_scale : nullptr, g.x_scale_row, 1};
  operand w = {(const uint8_t *)g.weight, g.ldw, g.features, blocks ? g.weight_scale : nullptr,
               g.weight_scale_row,        BLOCK};
  int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
  int64_t n0 = (int64_t)blockIdx.x * TILE;
  fk_wait_previous();
  for (int64_t m0 = (int64_t)blockIdx.y * TILE; m0 < g.rows; m0 += (int64_t)gridDim.y * TILE) {
    float sum[EACH][EACH] = {};
    for (int64_t k0 = 0; k0 < g.depth; k0 += DEPTH) {
      __syncthreads();
      load_slice(xs, x, m0, k0, g.depth);
      load_slice(ws, w, n0, k0, g.depth);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < DEPTH; k++) {
        float4 a = *(const float4 *)&xs[k][ty * EACH], b = *(const float4 *)&ws[k][tx * EACH];
        float av[EACH] = {a.x, a.y, a.z, a.w}, bv[EACH] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
          for (int j = 0; j < EACH; j++) sum[i][j] += av[i] * bv[j];
      }
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
      for (int j = 0; j < EACH; j++) {
        int64_t m = m0 + ty * EACH + i, n = n0 + tx * EACH + j;
        if (m < g.rows && n < g.features) store<U>(g, m, n, sum[i][j]);
      }
  }
}

fk_status fk_fp8_tile(fk_context *ctx, const fk_gemm_args *g) {
  int64_t down = fk_ceil_div(g->rows, TILE);
  dim3 grid((unsigned)fk_ceil_div(g->features, TILE), (unsigned)(down < 65535 ? down : 65535)), block(THREADS);
  if (g->out_type == FK_BF16) return fk_launch_early(ctx, fp8_tile<__nv_bfloat16>, grid, block, 0, *g);
  return fk_launch_early(ctx, fp8_tile<__half>, grid, block, 0, *g);
}
