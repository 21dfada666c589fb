/* Up to 64 rows of float8 on compute capability 9.0 (../linear/stream_sm90.cuh). */
#include "../linear/stream_sm90.cuh"
#include "fp8.cuh"

template <bool BLOCKS>
static fk_status dispatch(fk_context *ctx, const fk_gemm_args *g) {
  if (g->rows <= 8) return stream_launch<__nv_fp8_e4m3, 8, 1, 11, BLOCKS>(ctx, g, 16);
  if (g->rows <= 16) return stream_launch<__nv_fp8_e4m3, 16, 1, 10, BLOCKS>(ctx, g, 16);
  if (g->rows <= 32) return stream_launch<__nv_fp8_e4m3, 32, 1, 8, BLOCKS>(ctx, g, 16);
  return stream_launch<__nv_fp8_e4m3, 64, 2, 4, BLOCKS>(ctx, g, 16);
}

bool fk_fp8_stream_fits(const fk_cuda *cuda, const fk_gemm_args *g) {
  return stream_fits(cuda, g);
}

fk_status fk_fp8_stream(fk_context *ctx, const fk_gemm_args *g) {
  return g->scales == FK_GEMM_BLOCKS ? dispatch<true>(ctx, g) : dispatch<false>(ctx, g);
}
