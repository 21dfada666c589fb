/* linear for up to 64 rows of 16-bit numbers on compute capability 9.0 (stream_sm90.cuh). */
#include "linear.cuh"
#include "stream_sm90.cuh"

template <typename T>
static fk_status dispatch(fk_context *ctx, const fk_gemm_args *g, int groups, int ahead) {
  if (groups == 1) {
    if (g->rows <= 8) return stream_launch<T, 8, 1, 11, false>(ctx, g, ahead);
    if (g->rows <= 16) return stream_launch<T, 16, 1, 10, false>(ctx, g, ahead);
    if (g->rows <= 32) return stream_launch<T, 32, 1, 8, false>(ctx, g, ahead);
    return stream_launch<T, 64, 1, 6, false>(ctx, g, ahead);
  }
  if (g->rows <= 8) return stream_launch<T, 8, 2, 6, false>(ctx, g, ahead);
  if (g->rows <= 16) return stream_launch<T, 16, 2, 6, false>(ctx, g, ahead);
  if (g->rows <= 32) return stream_launch<T, 32, 2, 5, false>(ctx, g, ahead);
  return stream_launch<T, 64, 2, 4, false>(ctx, g, ahead);
}

int fk_linear_stream_fit(const fk_cuda *cuda, const fk_gemm_args *g) {
  return (g->type == FK_BF16 || g->type == FK_F16) && stream_fits(cuda, g);
}

fk_status fk_linear_stream(fk_context *ctx, const fk_gemm_args *g, int groups, int ahead) {
  return g->type == FK_BF16 ? dispatch<__nv_bfloat16>(ctx, g, groups, ahead) : dispatch<__half>(ctx, g, groups, ahead);
}
