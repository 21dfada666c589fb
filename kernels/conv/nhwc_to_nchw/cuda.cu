#include "device/cuda/transpose.cuh"
#include "tasks/nhwc_to_nchw.h"

fk_status fk_cuda_nhwc_to_nchw(fk_context *ctx, const fk_nhwc_to_nchw_args *a) {
  return fk_transpose_images(ctx, a->x, a->out, false);
}
