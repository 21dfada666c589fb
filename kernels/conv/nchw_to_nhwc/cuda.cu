#include "device/cuda/transpose.cuh"
#include "tasks/nchw_to_nhwc.h"

fk_status fk_cuda_nchw_to_nhwc(fk_context *ctx, const fk_nchw_to_nhwc_args *a) {
  return fk_transpose_images(ctx, a->x, a->out, true);
}
