/* conv2d as a matrix product whose left side is never stored: a row is the window of one output pixel, a column one
 * output channel. Takes any shape, stride, dilation, group and dtype; multiplies and adds in float32. */
#include "conv.cuh"

enum { THREADS = 256, TILE = 64, DEPTH = 16, EACH = 4, PITCH = TILE + 4 };

/* Where the window of an output pixel begins in x. */
typedef struct window {
  int64_t image; /* element offset */
  int y, x;
  bool valid;
} window;

static __device__ __forceinline__ window window_of(const conv_job &j, int64_t pixel) {
  window w = {0, 0, 0, pixel < j.pixels};
  if (!w.valid) return w;
  int64_t line = pixel / j.out_width;
  w.x = (int)(pixel - line * j.out_width) * j.stride_w - j.padding_w;
  w.y = (int)(line % j.out_height) * j.stride_h - j.padding_h;
  w.image = line / j.out_height * j.x_batch;
  return w;
}

template <typename T>
static __device__ __forceinline__ void load_depth(const conv_job &j, const window w[EACH], int group, int first_feature,
                                                  int64_t k, float a[EACH], float b[EACH]) {
  int taps = j.kernel_h * j.kernel_w;
  int tap = (int)(k / j.channels), channel = (int)(k - (int64_t)tap * j.channels);
  int ky = tap / j.kernel_w, kx = tap - ky * j.kernel_w;
  bool inside = tap < taps;
  const T *weight = (const T *)j.weight + ((int64_t)group * j.features * j.channels + channel) * taps + tap;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    int y = w[i].y + ky * j.dilation_h, x = w[i].x + kx * j.dilation_w;
    bool seen = inside && w[i].valid && (unsigned)y < (unsigned)j.height && (unsigned)x < (unsigned)j.width;
    int64_t at = w[i].image + y * j.x_row + x * j.x_pixel + (int64_t)group * j.channels + channel;
    a[i] = seen ? fk_float(((const T *)j.x)[at]) : 0;
    int feature = first_feature + (int)threadIdx.x / DEPTH + i * (THREADS / DEPTH);
    b[i] = inside && feature < j.features ? fk_float(weight[(int64_t)feature * j.channels * taps]) : 0;
  }
}

template <typename T>
static __device__ __forceinline__ void store_tile(const conv_job &j, int64_t first_pixel, int group, int first_feature,
                                                  float sum[EACH][EACH]) {
#pragma unroll
  for (int p = 0; p < EACH; p++) {
    int64_t pixel = first_pixel + threadIdx.x / 16 * EACH + p;
    if (pixel >= j.pixels) return;
    int64_t line = pixel / j.out_width, image = line / j.out_height;
    T *to = (T *)j.out + image * j.out_batch + (line - image * j.out_height) * j.out_row +
            (pixel - line * j.out_width) * j.out_pixel;
#pragma unroll
    for (int f = 0; f < EACH; f++) {
      int feature = first_feature + threadIdx.x % 16 * EACH + f;
      if (feature >= j.features) break;
      int64_t channel = (int64_t)group * j.features + feature;
      float bias = j.bias ? fk_float(((const T *)j.bias)[channel]) : 0;
      to[channel] = fk_from<T>(sum[p][f] + bias);
    }
  }
}

template <typename T>
static __global__ void __launch_bounds__(THREADS)
    windows_times_kernels(conv_job j, int64_t pixel_tiles, int feature_tiles) {
  __shared__ float a_tile[DEPTH][PITCH], b_tile[DEPTH][PITCH];
  fk_wait_previous();
  int64_t block = blockIdx.x, pixel_tile = block % pixel_tiles;
  block /= pixel_tiles;
  int first_feature = (int)(block % feature_tiles) * TILE, group = (int)(block / feature_tiles);
  int64_t depth = (int64_t)j.channels * j.kernel_h * j.kernel_w;
  int mine = threadIdx.x % DEPTH, row = threadIdx.x / DEPTH;
  window w[EACH];
#pragma unroll
  for (int i = 0; i < EACH; i++) w[i] = window_of(j, pixel_tile * TILE + row + i * (THREADS / DEPTH));
  float sum[EACH][EACH] = {}, a[EACH], b[EACH];
  load_depth<T>(j, w, group, first_feature, mine, a, b);
  for (int64_t k = 0; k < depth; k += DEPTH) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      a_tile[mine][row + i * (THREADS / DEPTH)] = a[i];
      b_tile[mine][row + i * (THREADS / DEPTH)] = b[i];
    }
    __syncthreads();
    if (k + DEPTH < depth) load_depth<T>(j, w, group, first_feature, k + DEPTH + mine, a, b);
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
      float4 left = *(const float4 *)&a_tile[d][threadIdx.x / 16 * EACH];
      float4 right = *(const float4 *)&b_tile[d][threadIdx.x % 16 * EACH];
      const float l[EACH] = {left.x, left.y, left.z, left.w}, r[EACH] = {right.x, right.y, right.z, right.w};
#pragma unroll
      for (int p = 0; p < EACH; p++)
#pragma unroll
        for (int f = 0; f < EACH; f++) sum[p][f] = fmaf(l[p], r[f], sum[p][f]);
    }
  }
  store_tile<T>(j, pixel_tile * TILE, group, first_feature, sum);
}

fk_status conv_direct(fk_context *ctx, fk_type type, const conv_job &j) {
  int64_t pixel_tiles = fk_ceil_div(j.pixels, TILE), feature_tiles = fk_ceil_div(j.features, TILE);
  int64_t blocks = pixel_tiles * feature_tiles * j.groups;
  if (blocks > INT32_MAX)
    return fk_fail(FK_ERROR_UNSUPPORTED, "conv2d: cuda: %lld tiles; expected fewer than 2^31", (long long)blocks);
  FK_FLOAT_DISPATCH(type, T,
                    return fk_launch_early(ctx, windows_times_kernels<T>, dim3((unsigned)blocks), dim3(THREADS), 0, j,
                                           pixel_tiles, (int)feature_tiles));
}
