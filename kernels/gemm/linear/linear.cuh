/* The kernels of linear on the GPU, for its launch code.
 *
 * All of them: weights and x in rows, any distance between rows that the fit functions allow; partial sums in float32,
 * added in a fixed order; one rounding, after the bias. */
#pragma once

#include "device/cuda/gemm.h"
#include "device/cuda/kernel.cuh"

/* Weights straight from memory into tensor-core operands, for few rows of 16-bit x (skinny.cu). */
int fk_linear_skinny_fit(const fk_gemm_args *g);
fk_status fk_linear_skinny(fk_context *ctx, const fk_gemm_args *g, int variant, int prefetch, bool bulk);

/* One to eight rows of float32 x (rows.cu). */
int fk_linear_rows_fit(const fk_gemm_args *g);
fk_status fk_linear_rows(fk_context *ctx, const fk_gemm_args *g);

/* Up to 64 rows of 16-bit x on compute capability 9.0 (stream_sm90.cu). */
int fk_linear_stream_fit(const fk_cuda *cuda, const fk_gemm_args *g);
fk_status fk_linear_stream(fk_context *ctx, const fk_gemm_args *g, int groups, int ahead);

/* Anything (tile.cu): plain tiles in shared memory, any strides between rows. Slow. */
fk_status fk_linear_tile(fk_context *ctx, const fk_gemm_args *g, const fk_row_map *x_rows, const fk_row_map *out_rows);
