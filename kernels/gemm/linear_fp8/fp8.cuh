/* The kernels of linear_fp8 and linear_fp8_block on the GPU, for their launch code. */
#pragma once

#include "device/cuda/gemm.h"
#include "device/cuda/kernel.cuh"

/* For few rows; variants hold 8, 16, 32 and 64 rows at once (../linear/skinny.cuh). */
bool fk_fp8_skinny_fits(const fk_gemm_args *g, int variant);
fk_status fk_fp8_skinny(fk_context *ctx, const fk_gemm_args *g, int variant);

/* Up to 64 rows on compute capability 9.0 (../linear/stream_sm90.cuh). */
bool fk_fp8_stream_fits(const fk_cuda *cuda, const fk_gemm_args *g);
fk_status fk_fp8_stream(fk_context *ctx, const fk_gemm_args *g);

/* Any rows and alignment, any depth; slow. */
fk_status fk_fp8_tile(fk_context *ctx, const fk_gemm_args *g);

/* The product by whatever is fastest. */
fk_status fk_fp8_gemm(fk_context *ctx, const fk_gemm_args *g);
