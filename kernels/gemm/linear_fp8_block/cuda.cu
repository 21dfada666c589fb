/* linear_fp8_block on the GPU: the kernels of ../linear_fp8, or cuBLASLt on scales in its own layout. */
#include "../linear_fp8/fp8.cuh"
#include "tasks/linear_fp8_block.h"

enum { BLOCK = 128, THREADS = 256 };

/* The scales of x with the rows innermost, those of weight with rows of a multiple of four. */
static __global__ void arrange(fk_gemm_args g, float *x_scale, float *weight_scale, int64_t blocks, int64_t padded) {
  fk_wait_previous();
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, of_x = g.rows * blocks;
  if (i < of_x) {
    x_scale[i] = g.x_scale[i % g.rows * g.x_scale_row + i / g.rows];
  } else if (i - of_x < (g.features + BLOCK - 1) / BLOCK * padded) {
    int64_t j = i - of_x, k = j % padded;
    weight_scale[j] = k < blocks ? g.weight_scale[j / padded * g.weight_scale_row + k] : 0.0f;
  }
}

static fk_status prepare(fk_context *ctx, fk_gemm_args *g) {
  int64_t blocks = fk_ceil_div(g->depth, BLOCK), padded = fk_ceil_div(blocks, 4) * 4;
  int64_t of_x = g->rows * blocks, of_weight = fk_ceil_div(g->features, BLOCK) * padded;
  float *x_scale = (float *)fk_scratch(ctx, (size_t)of_x * sizeof(float));
  float *weight_scale = (float *)fk_scratch(ctx, (size_t)of_weight * sizeof(float));
  if (!x_scale || !weight_scale) return FK_ERROR_MEMORY;
  FK_TRY(fk_launch_early(ctx, arrange, dim3((unsigned)fk_ceil_div(of_x + of_weight, THREADS)), dim3(THREADS), 0, *g,
                         x_scale, weight_scale, blocks, padded));
  g->x_scale = x_scale;
  g->weight_scale = weight_scale;
  return FK_OK;
}

fk_status fk_cuda_linear_fp8_block(fk_context *ctx, const fk_linear_fp8_block_args *a) {
  fk_gemm_args g = {};
  g.type = fk_type_of(a->x);
  g.out_type = fk_type_of(a->out);
  g.rows = fk_size(a->x, 0);
  g.depth = fk_size(a->x, 1);
  g.features = fk_size(a->weight, 0);
  if (g.rows == 0 || g.features == 0) return FK_OK;
  g.ldx = g.rows == 1 ? g.depth : fk_stride(a->x, 0);
  g.ldw = g.features == 1 ? g.depth : fk_stride(a->weight, 0);
  g.ldo = g.rows == 1 ? g.features : fk_stride(a->out, 0);
  g.x = fk_data(a->x);
  g.weight = fk_data(a->weight);
  g.out = fk_data(a->out);
  g.scales = FK_GEMM_BLOCKS;
  g.x_scale = (const float *)fk_data(a->x_scale);
  g.weight_scale = (const float *)fk_data(a->weight_scale);
  g.x_scale_row = fk_stride(a->x_scale, 0);
  g.weight_scale_row = fk_stride(a->weight_scale, 0);
  g.prepare = prepare;
  return fk_fp8_gemm(ctx, &g);
}
