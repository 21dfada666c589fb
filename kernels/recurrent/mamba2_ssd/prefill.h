/* mamba2_ssd of long sequences by chunks, on the tensor cores. */
#pragma once

#include "ssd.cuh"

/* Whether ssd_prefill() can compute the job. */
bool ssd_prefill_fits(fk_context *ctx, const ssd_job *j, fk_type type);

/* The sequences of more than `shortest` tokens; the others are left alone. */
fk_status ssd_prefill(fk_context *ctx, const ssd_job *j, fk_type type, int shortest);
