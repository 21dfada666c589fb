/* mamba2_ssd of long sequences by chunks, on the tensor cores. */
#pragma once

#include "ssd.cuh"

/* Whether ssd_prefill() can compute the job. */
bool ssd_prefill_fits(fk_context *ctx, const ssd_job *j, fk_type type);

/* The sequences of more than `shortest` tokens; the others are left alone. */
fk_status ssd_prefill(fk_context *ctx, const ssd_job *j, fk_type type, int shortest);

/* The same on compute capability 9.0, where it fits; ssd_prefill() asks. `blocks` and `every` as it found them. */
bool ssd_prefill_sm90_fits(fk_context *ctx, const ssd_job *j);
fk_status ssd_prefill_sm90(fk_context *ctx, const ssd_job *j, fk_type type, int64_t blocks, int shortest, bool every);
