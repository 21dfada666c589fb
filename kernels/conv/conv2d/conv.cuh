/* conv2d on the GPU: what its files share.
 *
 * A conv_job is one call in plain numbers. Each of the ways to compute it says whether it can (conv_..._can) and queues
 * itself; cuda.cu chooses. Weights come as [out_channels][channels][taps]. */
#pragma once

#include "device/cuda/kernel.cuh"
#include "tasks/conv2d.h"

typedef struct conv_job {
  const void *x, *weight, *bias; /* bias may be NULL */
  void *out;
  int64_t x_batch, x_row, x_pixel;       /* strides in elements */
  int64_t out_batch, out_row, out_pixel; /* strides in elements */
  int batch, height, width, in_channels;
  int out_height, out_width, out_channels;
  int kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
  int groups, channels, features; /* channels and features: of a group */
  int joined;                     /* columns of the kernel that count as one with more channels (conv_joined) */
  int64_t pixels;                 /* of out, all images */
} conv_job;

/* Where windows do not overlap within a row of pixels, the pixels under a row of the kernel are one run of memory: the
 * same convolution with a kernel of one column and that many more channels. j itself where it is not so. */
conv_job conv_joined(const conv_job &j);

/* Everything, in float32 arithmetic; of jobs that are not joined. */
fk_status conv_direct(fk_context *ctx, fk_type type, const conv_job &j);

/* One input and one output channel per group. */
fk_status conv_depthwise(fk_context *ctx, fk_type type, const conv_job &j);

/* Weights with their channels last, in scratch unless they are so already: [out_channels][pitch], a row being
 * [taps][channels] and then zeros. */
bool conv_can_pack(const conv_job &j);
fk_status conv_pack(fk_context *ctx, fk_type type, const conv_job &j, int64_t pitch, const void **packed);

/* The same in tiles as wgmma takes them: [groups][feature tiles][steps][columns][FK_CONV_DEPTH], pieces of 8 elements
 * exchanged by their row; 16-bit types. An output channel is [channels / chunk][taps][chunk] and then zeros; rows
 * beyond the features are not written. chunk divides channels, and is channels where columns are joined. */
enum { FK_CONV_DEPTH = 64 };
fk_status conv_pack_tiles(fk_context *ctx, fk_type type, const conv_job &j, int chunk, int columns,
                          const void **packed);

/* 16-bit types by mma.sync. */
bool conv_can_mma(fk_type type, const conv_job &j);
fk_status conv_mma(fk_context *ctx, fk_type type, const conv_job &j);

/* The same by wgmma, on Hopper, where there is enough to do. */
bool conv_can_wgmma(const fk_cuda *cuda, fk_type type, const conv_job &j);
fk_status conv_wgmma(fk_context *ctx, fk_type type, const conv_job &j);

/* Depthwise 7x7 of 16-bit types by mma.sync. */
bool conv_can_depthwise_mma(fk_type type, const conv_job &j);
fk_status conv_depthwise_mma(fk_context *ctx, fk_type type, const conv_job &j);

/* Depthwise 7x7 of any type, in float32 arithmetic. */
bool conv_can_depthwise_rows(fk_type type, const conv_job &j);
fk_status conv_depthwise_rows(fk_context *ctx, fk_type type, const conv_job &j);
