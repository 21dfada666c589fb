/* Sums over the pixels of images [batch, height, width, channels], one per image and channel: what a global pooling and
 * the first half of a grn are made of.
 *
 * A block has a slab of neighbouring channels and a range of pixels: its threads are so many channels wide and so many
 * pixels deep. The depths are added in a fixed order, in double.
 *
 * An Op says what is summed, as static members: of(float) and of(double), the same function; in_range(sum), whether
 * float was wide enough, else the sum is taken again in double; store<T>(a, image, chunk, channel, double sum). */
#pragma once

#include <float.h>

#include "device/cuda/pack.cuh"

typedef struct fk_channels {
  const void *x;
  void *out; /* as Op::store takes it */
  fk_row_map x_rows, out_rows;
  int64_t pixels, channels; /* of an image; x_rows is over all pixels of all images */
  int64_t slabs, chunks;    /* blocks per image: slabs * chunks */
  int64_t chunk;            /* pixels of a block */
  int64_t first_image;      /* of this launch */
  int width;                /* packs that a block has side by side, a power of two up to 32 */
} fk_channels;

enum { FK_CHANNEL_THREADS = 256, FK_CHANNEL_LOADS = 8 };

/* N elements of a pixel: a pack, or one. */
template <typename Op, typename T, int V>
static __device__ __forceinline__ void fk_add_channels(const T *from, float (&sum)[V]) {
  if constexpr (V == 1) {
    sum[0] += Op::of(fk_float(*from));
  } else {
    float v[V];
    fk_unpack<T>(fk_load_raw(from), v);
#pragma unroll
    for (int i = 0; i < V; i++) sum[i] += Op::of(v[i]);
  }
}

/* Pixels first, first + step, ... below end. Where they lie at one stride, several travel at once. */
template <typename Op, typename T, int V>
static __device__ __forceinline__ void fk_add_pixels(const fk_channels &a, const T *x, int64_t first, int64_t end,
                                                     int step, float (&sum)[V]) {
  if (a.x_rows.ndim > 1) {
    for (int64_t p = first; p < end; p += step) fk_add_channels<Op, T, V>(x + fk_row_offset(a.x_rows, p), sum);
    return;
  }
  const T *from = x + first * a.x_rows.strides[0];
  int64_t stride = step * a.x_rows.strides[0];
  int left = first < end ? (int)((end - first + step - 1) / step) : 0;
  for (; left >= FK_CHANNEL_LOADS; left -= FK_CHANNEL_LOADS)
#pragma unroll
    for (int i = 0; i < FK_CHANNEL_LOADS; i++, from += stride) fk_add_channels<Op, T, V>(from, sum);
#pragma unroll
  for (int i = 0; i < FK_CHANNEL_LOADS - 1; i++, from += stride)
    if (i < left) fk_add_channels<Op, T, V>(from, sum);
}

template <typename Op, typename T>
static __device__ double fk_channel_in_double(const fk_channels &a, int64_t first, int64_t end, int64_t channel) {
  double sum = 0;
  for (int64_t p = first; p < end; p++)
    sum += Op::of((double)fk_float(((const T *)a.x)[fk_row_offset(a.x_rows, p) + channel]));
  return sum;
}

template <typename Op, typename T, int V>
static __global__ void __launch_bounds__(FK_CHANNEL_THREADS) fk_channel_sums(const __grid_constant__ fk_channels a) {
  __shared__ float sums[2 * FK_CHANNEL_THREADS * V];
  int across = threadIdx.x & (a.width - 1), deep = threadIdx.x / a.width, depth = FK_CHANNEL_THREADS / a.width;
  uint32_t slabs = (uint32_t)a.slabs, chunks = (uint32_t)a.chunks, rest = blockIdx.x / slabs;
  int64_t slab = blockIdx.x - rest * slabs, chunk = rest % chunks, image = a.first_image + rest / chunks;
  int64_t first = slab * a.width * V, channel = first + across * V;
  int64_t start = image * a.pixels + chunk * a.chunk, end = start + a.chunk;
  if (end > (image + 1) * a.pixels) end = (image + 1) * a.pixels;
  float sum[V] = {};
  fk_wait_previous();
  if (channel < a.channels) fk_add_pixels<Op, T, V>(a, (const T *)a.x + channel, start + deep, end, depth, sum);
  fk_let_next_start();
  int pitch = a.width + 4; /* equal elements of eight packs in different banks */
#pragma unroll
  for (int i = 0; i < V; i++) sums[(deep * V + i) * pitch + across] = sum[i];
  __syncthreads();
  for (int c = threadIdx.x; c < a.width * V; c += FK_CHANNEL_THREADS) {
    if (first + c >= a.channels) break;
    double total = 0;
    for (int d = 0; d < depth; d++) total += (double)sums[(d * V + c % V) * pitch + c / V];
    if (!Op::in_range(total)) total = fk_channel_in_double<Op, T>(a, start, end, first + c);
    Op::template store<T>(a, image, chunk, first + c, total);
  }
}

/* Takes x, out, x_rows, out_rows, pixels, channels, chunk, chunks and first_image; fills in the rest. */
template <typename Op, typename T>
static fk_status fk_channel_launch(fk_context *ctx, fk_channels a, int64_t images) {
  constexpr int N = fk_pack<T>::size;
  bool packed = a.channels % N == 0 && fk_packs_rows<T>(a.x, a.x_rows);
  int64_t spans = packed ? a.channels / N : a.channels, blocks_wanted = 2 * fk_context_cuda(ctx)->num_sms;
  /* As wide as leaves no thread idle; narrower where there are few blocks, but not less than two sectors of memory. */
  for (a.width = 32; a.width > 4 && spans % a.width != 0;) a.width /= 2;
  if (spans % a.width != 0) a.width = 32;
  while (a.width > 4 && (a.width >= 2 * spans || images * a.chunks * fk_ceil_div(spans, a.width) < blocks_wanted))
    a.width /= 2;
  a.slabs = fk_ceil_div(spans, a.width);
  int64_t blocks = images * a.chunks * a.slabs;
  if (blocks > INT32_MAX) return fk_fail(FK_ERROR_UNSUPPORTED, "cuda: %lld images are too many", (long long)images);
  return fk_launch_early(ctx, packed ? fk_channel_sums<Op, T, N> : fk_channel_sums<Op, T, 1>, dim3((unsigned)blocks),
                         dim3(FK_CHANNEL_THREADS), 0, a);
}
