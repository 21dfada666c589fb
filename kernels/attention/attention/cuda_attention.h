/* The parts of the CUDA attention: cuda.cu asks each of them, in this order, whether it serves a call, and takes its
 * own general kernel when none does. A part that serves a call computes all of it, for every value of the offsets and
 * lengths: these lie in GPU memory and are seen by kernels only. */
#pragma once

#include "tasks/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Few queries per sequence, keys split over many blocks (decode.cu). */
bool fk_attention_decode_serves(const fk_context *ctx, const fk_attention_args *a);
fk_status fk_attention_decode(fk_context *ctx, const fk_attention_args *a);

/* Many queries on the tensor cores of compute capability 9.0, bfloat16 and float16 (prefill_sm90.cu). */
bool fk_attention_prefill_sm90_serves(const fk_context *ctx, const fk_attention_args *a);
fk_status fk_attention_prefill_sm90(fk_context *ctx, const fk_attention_args *a);

#ifdef __cplusplus
}
#endif
