/* Few rows of float8 (../linear/skinny.cuh). */
#include "../linear/skinny.cuh"
#include "fp8.cuh"

template <bool BLOCKS>
static fk_status dispatch(fk_context *ctx, const fk_gemm_args *g, int variant) {
  switch (variant) {
    case 0:
      return fk_skinny_launch<__nv_fp8_e4m3, 1, 1, 8, 4, 2, BLOCKS>(ctx, g, 4096, true);
    case 1:
      return fk_skinny_launch<__nv_fp8_e4m3, 1, 2, 8, 4, 2, BLOCKS>(ctx, g, 4096, true);
    case 2:
      return fk_skinny_launch<__nv_fp8_e4m3, 2, 4, 8, 2, 1, BLOCKS>(ctx, g, 4096, true);
    default:
      return fk_skinny_launch<__nv_fp8_e4m3, 2, 8, 4, 2, 1, BLOCKS>(ctx, g, 4096, true);
  }
}

bool fk_fp8_skinny_fits(const fk_gemm_args *g, int variant) {
  return g->rows <= 4 * (8 << variant) && g->rows <= 128 && fk_skinny_packs(g, 1);
}

fk_status fk_fp8_skinny(fk_context *ctx, const fk_gemm_args *g, int variant) {
  return g->scales == FK_GEMM_BLOCKS ? dispatch<true>(ctx, g, variant) : dispatch<false>(ctx, g, variant);
}
