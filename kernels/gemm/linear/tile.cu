/* linear for what the fast kernels and the library cannot take: rows at any distance, any alignment, no depth. Tiles of
 * 64 by 64 outputs in float32. */
#include "linear.cuh"

enum { TILE = 64, DEPTH = 16, THREADS = 256, EACH = 4, PITCH = TILE + 4 };

/* A tile's slice of depth, transposed: to[k][row]; what lies outside is zero. */
template <typename T, typename At>
static __device__ __forceinline__ void load_slice(float (*to)[PITCH], const T *base, At offset, int64_t first,
                                                  int64_t rows, int64_t k0, int64_t depth) {
  for (int i = (int)threadIdx.x; i < TILE * DEPTH; i += THREADS) {
    int row = i / DEPTH, k = i % DEPTH;
    bool inside = first + row < rows && k0 + k < depth;
    to[k][row] = inside ? fk_float(base[offset(first + row) + k0 + k]) : 0.0f;
  }
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) linear_tile(fk_gemm_args g, fk_row_map x_rows, fk_row_map out_rows) {
  __shared__ __align__(16) float xs[DEPTH][PITCH], ws[DEPTH][PITCH];
  const T *x = (const T *)g.x, *weight = (const T *)g.weight, *bias = (const T *)g.bias;
  T *out = (T *)g.out;
  int tx = (int)threadIdx.x % 16, ty = (int)threadIdx.x / 16;
  int64_t n0 = (int64_t)blockIdx.x * TILE;
  int64_t ldw = g.ldw;
  fk_wait_previous();
  for (int64_t m0 = (int64_t)blockIdx.y * TILE; m0 < g.rows; m0 += (int64_t)gridDim.y * TILE) {
    float sum[EACH][EACH] = {};
    for (int64_t k0 = 0; k0 < g.depth; k0 += DEPTH) {
      __syncthreads();
      load_slice(
          xs, x, [&](int64_t r) { return fk_row_offset(x_rows, r); }, m0, g.rows, k0, g.depth);
      load_slice(
          ws, weight, [&](int64_t r) { return r * ldw; }, n0, g.features, k0, g.depth);
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
    for (int i = 0; i < EACH; i++) {
      int64_t m = m0 + ty * EACH + i;
      if (m >= g.rows) break;
      T *row = out + fk_row_offset(out_rows, m);
#pragma unroll
      for (int j = 0; j < EACH; j++) {
        int64_t n = n0 + tx * EACH + j;
        if (n < g.features) row[n] = fk_from<T>(sum[i][j] + (bias ? fk_float(bias[n]) : 0.0f));
      }
    }
  }
}

fk_status fk_linear_tile(fk_context *ctx, const fk_gemm_args *g, const fk_row_map *x_rows, const fk_row_map *out_rows) {
  int64_t down = fk_ceil_div(g->rows, TILE);
  dim3 grid((unsigned)fk_ceil_div(g->features, TILE), (unsigned)(down < 65535 ? down : 65535));
  FK_FLOAT_DISPATCH(g->type, T,
                    return fk_launch_early(ctx, linear_tile<T>, grid, dim3(THREADS), 0, *g, *x_rows, *out_rows));
}
