/* linear_fp8 on the GPU: the fastest, by measurement, of cuBLASLt's algorithms and the kernels of this folder. */
#include "fp8.cuh"
#include "tasks/linear_fp8.h"

#define SKINNY(variant, rank)                                                     \
  static int skinny_fit_##variant(const fk_cuda *cuda, const fk_gemm_args *g) {   \
    (void)cuda;                                                                   \
    if (!fk_fp8_skinny_fits(g, variant)) return 0;                                \
    return g->rows <= 8 << variant ? rank : 1;                                    \
  }                                                                               \
  static fk_status skinny_run_##variant(fk_context *ctx, const fk_gemm_args *g) { \
    return fk_fp8_skinny(ctx, g, variant);                                        \
  }

SKINNY(0, 2)
SKINNY(1, 2)
SKINNY(2, 1)
SKINNY(3, 1)

static int stream_fit(const fk_cuda *cuda, const fk_gemm_args *g) {
  return fk_fp8_stream_fits(cuda, g);
}

/* Not worth a measurement where the product is large. */
static int tile_fit(const fk_cuda *cuda, const fk_gemm_args *g) {
  (void)cuda;
  return g->rows * g->features <= 1 << 16 || g->depth <= 64;
}

static const fk_gemm_kernel kernels[] = {
    {"fp8_skinny_8", skinny_fit_0, skinny_run_0},  {"fp8_skinny_16", skinny_fit_1, skinny_run_1},
    {"fp8_skinny_32", skinny_fit_2, skinny_run_2}, {"fp8_skinny_64", skinny_fit_3, skinny_run_3},
    {"fp8_stream", stream_fit, fk_fp8_stream},     {"fp8_tile", tile_fit, fk_fp8_tile},
};

fk_status fk_fp8_gemm(fk_context *ctx, const fk_gemm_args *g) {
  if (g->depth == 0 || g->ldx < g->depth || g->ldw < g->depth || g->ldo < g->features) return fk_fp8_tile(ctx, g);
  fk_status status = fk_gemm(ctx, g, kernels, sizeof kernels / sizeof *kernels);
  return status == FK_ERROR_UNSUPPORTED ? fk_fp8_tile(ctx, g) : status;
}

static __global__ void spread(const float *one, float *to, int64_t n) {
  fk_wait_previous();
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) to[i] = *one;
}

static fk_status spread_scale(fk_context *ctx, const float **scale, int64_t *count, int64_t wanted) {
  if (*count == wanted) return FK_OK;
  float *to = (float *)fk_scratch(ctx, (size_t)wanted * sizeof(float));
  if (!to) return FK_ERROR_MEMORY;
  FK_TRY(fk_launch_early(ctx, spread, dim3((unsigned)fk_ceil_div(wanted, 256)), dim3(256), 0, *scale, to, wanted));
  *scale = to;
  *count = wanted;
  return FK_OK;
}

/* The library wants one scale on either side, or one per row on both. */
static fk_status prepare(fk_context *ctx, fk_gemm_args *g) {
  if (g->num_x_scales == 1 && g->num_weight_scales == 1) return FK_OK;
  FK_TRY(spread_scale(ctx, &g->x_scale, &g->num_x_scales, g->rows));
  return spread_scale(ctx, &g->weight_scale, &g->num_weight_scales, g->features);
}

fk_status fk_cuda_linear_fp8(fk_context *ctx, const fk_linear_fp8_args *a) {
  fk_gemm_args g = {};
  g.type = fk_type_of(a->x);
  g.out_type = fk_type_of(a->out);
  g.rows = fk_size(a->x, 0);
  g.depth = fk_size(a->x, 1);
  g.features = fk_size(a->weight, 0);
  if (g.rows == 0 || g.features == 0) return FK_OK;
  if (a->bias && fk_type_of(a->bias) != g.out_type)
    return fk_fail(FK_ERROR_UNSUPPORTED, "linear_fp8: on cuda bias has the dtype of out, %s; got %s",
                   fk_type_name(g.out_type), fk_type_name(fk_type_of(a->bias)));
  g.ldx = g.rows == 1 ? g.depth : fk_stride(a->x, 0);
  g.ldw = g.features == 1 ? g.depth : fk_stride(a->weight, 0);
  g.ldo = g.rows == 1 ? g.features : fk_stride(a->out, 0);
  g.x = fk_data(a->x);
  g.weight = fk_data(a->weight);
  g.bias = a->bias ? fk_data(a->bias) : NULL;
  g.out = fk_data(a->out);
  g.scales = FK_GEMM_OUTER;
  g.x_scale = (const float *)fk_data(a->x_scale);
  g.weight_scale = (const float *)fk_data(a->weight_scale);
  g.num_x_scales = fk_numel(a->x_scale);
  g.num_weight_scales = fk_numel(a->weight_scale);
  g.prepare = prepare;
  return fk_fp8_gemm(ctx, &g);
}
