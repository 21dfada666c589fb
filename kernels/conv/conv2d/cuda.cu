/* conv2d on the GPU: chooses how (conv.cuh). */
#include "conv.cuh"

static bool fits_int(const fk_conv2d_args *a) {
  const fk_tensor *tensors[] = {a->x, a->weight, a->out};
  for (const fk_tensor *t : tensors)
    for (int i = 0; i < 4; i++)
      if (t->shape[i] > INT32_MAX / 2) return false;
  /* Where a window begins and ends, in pixels. */
  return a->out->shape[1] * a->stride_h + a->padding_h + a->weight->shape[2] * a->dilation_h < INT32_MAX &&
         a->out->shape[2] * a->stride_w + a->padding_w + a->weight->shape[3] * a->dilation_w < INT32_MAX;
}

static conv_job job_of(const fk_conv2d_args *a) {
  conv_job j = {};
  j.x = fk_data(a->x);
  j.weight = fk_data(a->weight);
  j.bias = a->bias ? fk_data(a->bias) : NULL;
  j.out = fk_data(a->out);
  j.x_batch = fk_stride(a->x, 0);
  j.x_row = fk_stride(a->x, 1);
  j.x_pixel = fk_stride(a->x, 2);
  j.out_batch = fk_stride(a->out, 0);
  j.out_row = fk_stride(a->out, 1);
  j.out_pixel = fk_stride(a->out, 2);
  j.batch = (int)fk_size(a->x, 0);
  j.height = (int)fk_size(a->x, 1);
  j.width = (int)fk_size(a->x, 2);
  j.in_channels = (int)fk_size(a->x, 3);
  j.out_height = (int)fk_size(a->out, 1);
  j.out_width = (int)fk_size(a->out, 2);
  j.out_channels = (int)fk_size(a->out, 3);
  j.channels = (int)fk_size(a->weight, 1);
  j.kernel_h = (int)fk_size(a->weight, 2);
  j.kernel_w = (int)fk_size(a->weight, 3);
  j.stride_h = (int)a->stride_h;
  j.stride_w = (int)a->stride_w;
  j.padding_h = (int)a->padding_h;
  j.padding_w = (int)a->padding_w;
  j.dilation_h = (int)a->dilation_h;
  j.dilation_w = (int)a->dilation_w;
  j.groups = (int)a->groups;
  j.features = j.out_channels / j.groups;
  j.pixels = (int64_t)j.batch * j.out_height * j.out_width;
  return j;
}

/* Pixels one after the other at one distance: rows of a matrix. */
static bool are_rows(const fk_tensor *t) {
  return fk_rows_of(t, 1).ndim == 1;
}

/* A window of one pixel: a product of pixels and weights. */
static bool is_linear(const fk_conv2d_args *a, const conv_job &j) {
  return j.kernel_h == 1 && j.kernel_w == 1 && j.stride_h == 1 && j.stride_w == 1 && !j.padding_h && !j.padding_w &&
         j.groups == 1 && are_rows(a->x) && are_rows(a->out);
}

static fk_tensor *matrix(fk_context *ctx, const fk_tensor *t, int64_t rows, int64_t columns, int64_t stride) {
  int64_t shape[2] = {rows, columns}, strides[2] = {stride, 1};
  return fk_wrap(ctx, fk_data(t), fk_type_of(t), shape, 2, strides);
}

static fk_status as_linear(fk_context *ctx, const fk_conv2d_args *a, const conv_job &j) {
  fk_row_map x = fk_rows_of(a->x, 1), out = fk_rows_of(a->out, 1);
  const fk_any args[] = {
      fk_any_tensor(matrix(ctx, a->x, j.pixels, j.in_channels, j.pixels == 1 ? j.in_channels : x.strides[0])),
      fk_any_tensor(matrix(ctx, a->weight, j.out_channels, j.in_channels, j.in_channels)), fk_any_tensor(a->bias),
      fk_any_tensor(matrix(ctx, a->out, j.pixels, j.out_channels, j.pixels == 1 ? j.out_channels : out.strides[0]))};
  return fk_call_array(ctx, "linear", args, 4);
}

fk_status fk_cuda_conv2d(fk_context *ctx, const fk_conv2d_args *a) {
  if (fk_numel(a->out) == 0) return FK_OK;
  if (!fits_int(a)) return fk_fail(FK_ERROR_UNSUPPORTED, "conv2d: cuda: expected sides below 2^30");
  conv_job j = job_of(a);
  fk_type type = fk_type_of(a->x);
  if (conv_can_depthwise_mma(type, j)) return conv_depthwise_mma(ctx, type, j);
  if (j.channels == 1 && j.features == 1) return conv_depthwise(ctx, type, j);
  if (is_linear(a, j)) return as_linear(ctx, a, j);
  if (conv_can_wgmma(fk_context_cuda(ctx), type, j)) return conv_wgmma(ctx, type, j);
  if (conv_can_mma(type, j)) return conv_mma(ctx, type, j);
  return conv_direct(ctx, type, j);
}
