#include "device/cpu_row.h"
#include "tasks/global_avg_pool2d.h"

enum { CHANNELS = 64 }; /* per work item */

/* Sums of up to CHANNELS channels from c on. Lines are summed by themselves first, which keeps the rounding error of
 * large images small. */
static void sum_channels(const fk_tensor *x, fk_type type, int64_t n, int64_t c, int64_t count, double *total) {
  for (int64_t k = 0; k < count; k++) total[k] = 0;
  for (int64_t y = 0; y < fk_size(x, 1); y++) {
    float sum[CHANNELS] = {0}, room[CHANNELS];
    int64_t offset = n * fk_stride(x, 0) + y * fk_stride(x, 1) + c;
    const char *pixel = (const char *)fk_data(x) + offset * fk_width(type);
    for (int64_t i = 0; i < fk_size(x, 2); i++, pixel += fk_stride(x, 2) * fk_width(type)) {
      const float *p = fk_row_read(type, pixel, 0, room, count);
#pragma omp simd
      for (int64_t k = 0; k < count; k++) sum[k] += p[k];
    }
    for (int64_t k = 0; k < count; k++) total[k] += (double)sum[k];
  }
}

fk_status fk_cpu_global_avg_pool2d(fk_context *ctx, const fk_global_avg_pool2d_args *a) {
  (void)ctx;
  fk_type type = fk_type_of(a->x);
  int64_t pixels = fk_size(a->x, 1) * fk_size(a->x, 2), channels = fk_size(a->x, 3);
  int64_t blocks = (channels + CHANNELS - 1) / CHANNELS, items = fk_size(a->x, 0) * blocks;
#pragma omp parallel for schedule(static) if (fk_numel(a->x) >= FK_PARALLEL_MIN)
  for (int64_t i = 0; i < items; i++) {
    int64_t n = i / blocks, c = i % blocks * CHANNELS, count = channels - c < CHANNELS ? channels - c : CHANNELS;
    double total[CHANNELS];
    float mean[CHANNELS];
    sum_channels(a->x, type, n, c, count, total);
    for (int64_t k = 0; k < count; k++) mean[k] = (float)(total[k] / (double)pixels);
    fk_narrow(type, mean, (char *)fk_row(a->out, n) + c * fk_width(type), count);
  }
  return FK_OK;
}
