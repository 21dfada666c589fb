#include "device/cuda/channels.cuh"
#include "tasks/global_avg_pool2d.h"

struct mean_of_pixels {
  static __device__ __forceinline__ bool in_range(double sum) {
    return fabs(sum) <= (double)FLT_MAX;
  }
  template <typename R>
  static __device__ __forceinline__ R of(R v) {
    return v;
  }
  template <typename T>
  static __device__ __forceinline__ void store(const fk_channels &a, int64_t image, int64_t, int64_t channel,
                                               double sum) {
    ((T *)a.out)[fk_row_offset(a.out_rows, image) + channel] = fk_from<T>((float)(sum / (double)a.pixels));
  }
};

fk_status fk_cuda_global_avg_pool2d(fk_context *ctx, const fk_global_avg_pool2d_args *t) {
  if (fk_numel(t->out) == 0) return FK_OK;
  fk_channels a = {};
  a.x = fk_data(t->x), a.x_rows = fk_rows_of(t->x, 1);
  a.out = fk_data(t->out), a.out_rows = fk_rows_of(t->out, 1);
  a.pixels = a.chunk = fk_size(t->x, 1) * fk_size(t->x, 2);
  a.channels = fk_size(t->x, 3);
  a.chunks = 1;
  FK_FLOAT_DISPATCH(fk_type_of(t->x), T, return fk_channel_launch<mean_of_pixels, T>(ctx, a, fk_size(t->x, 0)));
}
