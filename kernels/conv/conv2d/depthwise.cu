/* Depthwise conv2d: a lane has one channel, a warp 32 neighbouring ones, so that pixels are read along their channels.
 * For the usual kernels a lane keeps its filter and a tile of sums in registers and goes down the rows of the tile's
 * window; the caches serve what windows share. Other kernels: one output per thread. */
#include "conv.cuh"

enum { WARPS = 4, TILE_H = 4, TILE_W = 7 };

/* Adds row r of the tile's window to the sums of the output rows that see it. */
template <int K, int S>
static __device__ __forceinline__ void add_line(float sum[TILE_H][TILE_W], const float *line, const float *filter,
                                                int r) {
#pragma unroll
  for (int y = 0; y < TILE_H; y++) {
    int ky = r - y * S;
    if (ky < 0 || ky >= K) continue;
#pragma unroll
    for (int kx = 0; kx < K; kx++)
#pragma unroll
      for (int x = 0; x < TILE_W; x++) sum[y][x] = fmaf(filter[ky * K + kx], line[x * S + kx], sum[y][x]);
  }
}

template <typename T, int K, int S>
static __device__ __forceinline__ void one_tile(const conv_job &j, const T *image, T *out, const float *filter,
                                                float bias, int oy, int ox) {
  constexpr int LINES = (TILE_H - 1) * S + K, COLUMNS = (TILE_W - 1) * S + K;
  float sum[TILE_H][TILE_W];
#pragma unroll
  for (int y = 0; y < TILE_H; y++)
#pragma unroll
    for (int x = 0; x < TILE_W; x++) sum[y][x] = bias;
  int top = oy * S - j.padding_h, left = ox * S - j.padding_w;
  unsigned seen = 0; /* columns inside the image, a bit each */
#pragma unroll
  for (int x = 0; x < COLUMNS; x++) seen |= (unsigned)(left + x) < (unsigned)j.width ? 1u << x : 0;
#pragma unroll
  for (int r = 0; r < LINES; r++) {
    float line[COLUMNS];
    bool inside = (unsigned)(top + r) < (unsigned)j.height;
    const T *from = image + (top + r) * j.x_row + left * j.x_pixel;
#pragma unroll
    for (int x = 0; x < COLUMNS; x++) line[x] = inside && (seen >> x & 1) ? fk_float(from[x * j.x_pixel]) : 0;
    add_line<K, S>(sum, line, filter, r);
  }
#pragma unroll
  for (int y = 0; y < TILE_H; y++)
#pragma unroll
    for (int x = 0; x < TILE_W; x++)
      if (oy + y < j.out_height && ox + x < j.out_width)
        out[(oy + y) * j.out_row + (ox + x) * j.out_pixel] = fk_from<T>(sum[y][x]);
}

/* Blocks: x over groups of tiles, y over channels, z over images. */
template <typename T, int K, int S>
static __global__ void __launch_bounds__(32 * WARPS) tiles(conv_job j, int tiles_w, int num_tiles, int tiles_each) {
  __shared__ float filters[K * K * 32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.y * 32, channel = first + lane;
  fk_wait_previous();
  const T *weight = (const T *)j.weight + (int64_t)first * K * K;
  int left = (j.out_channels - first) * K * K;
  for (int i = threadIdx.x; i < K * K * 32 && i < left; i += 32 * WARPS) filters[i] = fk_float(weight[i]);
  __syncthreads();
  if (channel >= j.out_channels) return;
  float filter[K * K];
#pragma unroll
  for (int i = 0; i < K * K; i++) filter[i] = filters[lane * (K * K) + i]; /* K is odd: no two lanes share a bank */
  float bias = j.bias ? fk_float(((const T *)j.bias)[channel]) : 0;
  const T *image = (const T *)j.x + blockIdx.z * j.x_batch + channel;
  T *out = (T *)j.out + blockIdx.z * j.out_batch + channel;
  for (int i = 0; i < tiles_each; i++) {
    int tile = (blockIdx.x * tiles_each + i) * WARPS + warp;
    if (tile >= num_tiles) return;
    one_tile<T, K, S>(j, image, out, filter, bias, tile / tiles_w * TILE_H, tile % tiles_w * TILE_W);
  }
}

template <typename T>
static __global__ void __launch_bounds__(256) one_output(conv_job j) {
  fk_wait_previous();
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= j.pixels * j.out_channels) return;
  int64_t pixel = i / j.out_channels, line = pixel / j.out_width, image = line / j.out_height;
  int channel = (int)(i - pixel * j.out_channels), ox = (int)(pixel - line * j.out_width);
  int oy = (int)(line - image * j.out_height), left = ox * j.stride_w - j.padding_w;
  int top = oy * j.stride_h - j.padding_h;
  const T *weight = (const T *)j.weight + (int64_t)channel * j.kernel_h * j.kernel_w;
  const T *from = (const T *)j.x + image * j.x_batch + channel;
  float sum = j.bias ? fk_float(((const T *)j.bias)[channel]) : 0;
  for (int ky = 0; ky < j.kernel_h; ky++) {
    int y = top + ky * j.dilation_h;
    if ((unsigned)y >= (unsigned)j.height) continue;
    for (int kx = 0; kx < j.kernel_w; kx++) {
      int x = left + kx * j.dilation_w;
      if ((unsigned)x >= (unsigned)j.width) continue;
      sum = fmaf(fk_float(weight[ky * j.kernel_w + kx]), fk_float(from[y * j.x_row + x * j.x_pixel]), sum);
    }
  }
  ((T *)j.out)[image * j.out_batch + oy * j.out_row + ox * j.out_pixel + channel] = fk_from<T>(sum);
}

template <typename T, int K, int S>
static fk_status launch_tiles(fk_context *ctx, const conv_job &j) {
  int tiles_w = (int)fk_ceil_div(j.out_width, TILE_W);
  int64_t num_tiles = fk_ceil_div(j.out_height, TILE_H) * tiles_w;
  int64_t columns = fk_ceil_div(j.out_channels, 32), sms = fk_context_cuda(ctx)->num_sms;
  int each = 8; /* tiles of a warp: the more, the fewer times a filter is fetched */
  while (each > 1 && fk_ceil_div(num_tiles, WARPS * each) * columns * j.batch < 4 * sms) each--;
  dim3 grid((unsigned)fk_ceil_div(num_tiles, WARPS * each), (unsigned)columns, (unsigned)j.batch);
  return fk_launch_early(ctx, tiles<T, K, S>, grid, dim3(32 * WARPS), 0, j, tiles_w, (int)num_tiles, each);
}

template <typename T>
static fk_status launch(fk_context *ctx, const conv_job &j) {
  bool square = j.kernel_h == j.kernel_w && j.stride_h == j.stride_w && j.dilation_h == 1 && j.dilation_w == 1;
  bool fits = j.batch <= 65535 && j.out_channels <= 32 * 65535 && (int64_t)j.out_height * j.out_width < INT32_MAX;
  if (square && fits) {
    if (j.kernel_h == 7 && j.stride_h == 1) return launch_tiles<T, 7, 1>(ctx, j);
    if (j.kernel_h == 5 && j.stride_h == 1) return launch_tiles<T, 5, 1>(ctx, j);
    if (j.kernel_h == 3 && j.stride_h == 1) return launch_tiles<T, 3, 1>(ctx, j);
    if (j.kernel_h == 3 && j.stride_h == 2) return launch_tiles<T, 3, 2>(ctx, j);
  }
  int64_t blocks = fk_ceil_div(j.pixels * j.out_channels, 256);
  if (blocks > INT32_MAX)
    return fk_fail(FK_ERROR_UNSUPPORTED, "conv2d: cuda: %lld outputs; expected fewer than 2^39",
                   (long long)(j.pixels * j.out_channels));
  return fk_launch_early(ctx, one_output<T>, dim3((unsigned)blocks), dim3(256), 0, j);
}

fk_status conv_depthwise(fk_context *ctx, fk_type type, const conv_job &j) {
  FK_FLOAT_DISPATCH(type, T, return launch<T>(ctx, j));
}
