/* linear for few rows of 16-bit numbers (skinny.cuh). */
#include "linear.cuh"
#include "skinny.cuh"

template <typename T>
static fk_status dispatch(fk_context *ctx, const fk_gemm_args *g, int variant, int prefetch, bool bulk) {
  switch (variant) {
    case 0:
      return fk_skinny_launch<T, 1, 1, 8, 4, 3, false>(ctx, g, prefetch, bulk);
    case 1:
      return fk_skinny_launch<T, 1, 1, 4, 8, 4, false>(ctx, g, prefetch, bulk);
    case 2:
      return fk_skinny_launch<T, 1, 2, 8, 4, 2, false>(ctx, g, prefetch, bulk);
    case 3:
      return fk_skinny_launch<T, 2, 4, 8, 2, 2, false>(ctx, g, prefetch, bulk);
    default:
      return fk_skinny_launch<T, 2, 8, 4, 2, 2, false>(ctx, g, prefetch, bulk);
  }
}

int fk_linear_skinny_fit(const fk_gemm_args *g) {
  return (g->type == FK_BF16 || g->type == FK_F16) && g->rows <= 128 && fk_skinny_packs(g, 2);
}

fk_status fk_linear_skinny(fk_context *ctx, const fk_gemm_args *g, int variant, int prefetch, bool bulk) {
  return g->type == FK_BF16 ? dispatch<__nv_bfloat16>(ctx, g, variant, prefetch, bulk)
                            : dispatch<__half>(ctx, g, variant, prefetch, bulk);
}
