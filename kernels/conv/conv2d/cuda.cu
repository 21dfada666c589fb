/* conv2d on the GPU: chooses how (conv.cuh). */
#include "conv.cuh"
#include "device/cuda/libraries.h"

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
  j.joined = 1;
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

/* Our ways to compute it, the best by default first. */
typedef enum conv_way { CONV_WGMMA, CONV_MMA, CONV_DIRECT } conv_way;
static const char *const way_names[] = {"wgmma", "mma", "direct"};

/* One call on its way to whoever computes it. */
typedef struct conv_call {
  fk_type type;
  conv_job job;
  int num_ways;
  conv_way ways[FK_CONV_MAX_OWN];
} conv_call;

static void find_ways(const fk_cuda *cuda, conv_call *c) {
  const conv_job joined = conv_joined(c->job);
  if (conv_can_wgmma(cuda, c->type, joined)) c->ways[c->num_ways++] = CONV_WGMMA;
  if (conv_can_mma(c->type, joined))
    c->ways[c->num_ways++] = CONV_MMA;
  else
    c->ways[c->num_ways++] = CONV_DIRECT;
}

static fk_status own(fk_context *ctx, const void *self, int way) {
  const conv_call *c = (const conv_call *)self;
  switch (c->ways[way]) {
    case CONV_WGMMA:
      return conv_wgmma(ctx, c->type, conv_joined(c->job));
    case CONV_MMA:
      return conv_mma(ctx, c->type, conv_joined(c->job));
    default:
      return conv_direct(ctx, c->type, c->job);
  }
}

static fk_status packed_weights(fk_context *ctx, const void *self, const void **weights) {
  const conv_call *c = (const conv_call *)self;
  return conv_pack(ctx, c->type, c->job, (int64_t)c->job.kernel_h * c->job.kernel_w * c->job.channels, weights);
}

/* The library takes dense images and, for 16-bit types, whole packs of channels. */
static bool library_can(const fk_conv2d_args *a, const conv_job &j) {
  bool whole = fk_type_of(a->x) == FK_F32 || (j.channels % 8 == 0 && j.features % 8 == 0);
  bool aligned = ((uintptr_t)j.x | (uintptr_t)j.out | (uintptr_t)j.weight) % 16 == 0;
  return whole && aligned && conv_can_pack(j) && fk_is_contiguous(a->x) && fk_is_contiguous(a->out);
}

static fk_status fastest(fk_context *ctx, const conv_call *c) {
  const conv_job &j = c->job;
  fk_cudnn_conv d = {};
  d.type = c->type;
  d.batch = j.batch;
  d.height = j.height;
  d.width = j.width;
  d.in_channels = j.in_channels;
  d.out_height = j.out_height;
  d.out_width = j.out_width;
  d.out_channels = j.out_channels;
  d.kernel_h = j.kernel_h;
  d.kernel_w = j.kernel_w;
  d.stride_h = j.stride_h;
  d.stride_w = j.stride_w;
  d.padding_h = j.padding_h;
  d.padding_w = j.padding_w;
  d.dilation_h = j.dilation_h;
  d.dilation_w = j.dilation_w;
  d.groups = j.groups;
  d.x = j.x;
  d.bias = j.bias;
  d.out = j.out;
  d.self = c;
  d.num_own = c->num_ways;
  for (int i = 0; i < c->num_ways; i++) d.own_names[i] = way_names[c->ways[i]];
  d.own = own;
  d.weights = packed_weights;
  return fk_cudnn_convolve(ctx, &d);
}

fk_status fk_cuda_conv2d(fk_context *ctx, const fk_conv2d_args *a) {
  if (fk_numel(a->out) == 0) return FK_OK;
  if (!fits_int(a)) return fk_fail(FK_ERROR_UNSUPPORTED, "conv2d: cuda: expected sides below 2^30");
  conv_call c = {fk_type_of(a->x), job_of(a)};
  if (conv_can_depthwise_mma(c.type, c.job)) {
    fk_cuda_chose(ctx, "depthwise_mma");
    return conv_depthwise_mma(ctx, c.type, c.job);
  }
  if (conv_can_depthwise_rows(c.type, c.job)) {
    fk_cuda_chose(ctx, "depthwise_rows");
    return conv_depthwise_rows(ctx, c.type, c.job);
  }
  if (c.job.channels == 1 && c.job.features == 1) {
    fk_cuda_chose(ctx, "depthwise");
    return conv_depthwise(ctx, c.type, c.job);
  }
  if (is_linear(a, c.job)) return as_linear(ctx, a, c.job);
  find_ways(fk_context_cuda(ctx), &c);
  if (library_can(a, c.job)) return fastest(ctx, &c);
  fk_cuda_chose(ctx, way_names[c.ways[0]]);
  return own(ctx, &c, 0);
}
