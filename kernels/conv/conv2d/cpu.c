#include "depthwise.h"
#include "gemm.h"
#include "windows.h"

/* Elements from pixel to pixel when out's images and lines follow each other without gaps, else 0. */
static int64_t even_step(const fk_tensor *t) {
  int64_t step = fk_stride(t, 2);
  bool even = fk_stride(t, 1) == step * fk_size(t, 2) && fk_stride(t, 0) == fk_stride(t, 1) * fk_size(t, 1);
  return even ? step : 0;
}

fk_status fk_cpu_conv2d(fk_context *ctx, const fk_conv2d_args *a) {
  problem p = {.a = a,
               .type = fk_type_of(a->x),
               .height = fk_size(a->x, 1),
               .width = fk_size(a->x, 2),
               .in_channels = fk_size(a->x, 3),
               .out_height = fk_size(a->out, 1),
               .out_width = fk_size(a->out, 2),
               .out_channels = fk_size(a->out, 3),
               .channels = fk_size(a->weight, 1),
               .kernel_h = fk_size(a->weight, 2),
               .kernel_w = fk_size(a->weight, 3),
               .pixels = fk_rows(a->out),
               .out_step = even_step(a->out)};
  p.taps = p.kernel_h * p.kernel_w;
  p.features = p.out_channels / a->groups;
  if (p.pixels == 0 || p.out_channels == 0) return FK_OK;
  if (p.channels == 1 && p.features == 1) return conv_depthwise(ctx, &p);
  return windows_pay(&p) ? conv_windows(ctx, &p) : conv_gemm(ctx, &p);
}
