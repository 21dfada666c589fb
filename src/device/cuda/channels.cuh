/* Sums over the pixels of images [batch, height, width, channels], one per image and channel: what a global pooling and
 * the first half of a grn are made of.
 *
 * A block has a slab of neighbouring channels and a range of pixels: its threads are so many channels wide and so many
 * pixels deep. The depths are added in a fixed order, in double. */
#pragma once

#include "device/cuda/kernel.cuh"

typedef struct fk_channels {
  const void *x;
  void *out;                /* as Op::store takes it */
  fk_row_map x_rows;        /* over all pixels of all images */
  int64_t pixels, channels; /* of an image */
  int64_t slabs, chunks;    /* blocks per image: slabs * chunks */
  int64_t chunk;            /* pixels of a block */
  int64_t first_image;      /* of this launch */
  int width;                /* spans of V channels that a block has, a power of two up to 32 */
  fk_row_map out_rows;
} fk_channels;

enum { FK_CHANNEL_THREADS = 256 };

/* Op::of(float) is what is summed; Op::store<T>(a, image, chunk, channel, double sum) writes it. */
template <typename Op, typename T, int V>
static __global__ void __launch_bounds__(FK_CHANNEL_THREADS) fk_channel_sums(const __grid_constant__ fk_channels a) {
  struct alignas(sizeof(T) * V) span {
    T at[V];
  };
  __shared__ float sums[FK_CHANNEL_THREADS * V];
  int across = threadIdx.x & (a.width - 1), deep = threadIdx.x / a.width, depth = FK_CHANNEL_THREADS / a.width;
  uint32_t slabs = (uint32_t)a.slabs, chunks = (uint32_t)a.chunks, rest = blockIdx.x / slabs;
  int64_t slab = blockIdx.x - rest * slabs, chunk = rest % chunks;
  int64_t image = a.first_image + rest / chunks, first = slab * a.width * V, channel = first + across * V;
  int64_t end = (chunk + 1) * a.chunk < a.pixels ? (chunk + 1) * a.chunk : a.pixels;
  float sum[V] = {};
  fk_wait_previous();
  if (channel < a.channels) {
    const T *x = (const T *)a.x + channel;
#pragma unroll 4
    for (int64_t p = chunk * a.chunk + deep; p < end; p += depth) {
      span v = *reinterpret_cast<const span *>(x + fk_row_offset(a.x_rows, image * a.pixels + p));
#pragma unroll
      for (int i = 0; i < V; i++) sum[i] += Op::of(fk_float(v.at[i]));
    }
  }
  fk_let_next_start();
#pragma unroll
  for (int i = 0; i < V; i++) sums[(deep * V + i) * a.width + across] = sum[i];
  __syncthreads();
  for (int c = threadIdx.x; c < a.width * V; c += FK_CHANNEL_THREADS) {
    if (first + c >= a.channels) break;
    double total = 0;
    for (int d = 0; d < depth; d++) total += (double)sums[(d * V + c % V) * a.width + c / V];
    Op::template store<T>(a, image, chunk, first + c, total);
  }
}

/* Takes x, out, x_rows, out_rows, pixels, channels, chunk, chunks and first_image; fills in the rest. */
template <typename Op, typename T>
static fk_status fk_channel_launch(fk_context *ctx, fk_channels a, int64_t images) {
  constexpr int N = fk_pack<T>::size;
  bool packed = a.channels % N == 0 && fk_packs_rows<T>(a.x, a.x_rows);
  int64_t spans = fk_ceil_div(a.channels, packed ? N : 1), blocks_wanted = 2 * fk_context_cuda(ctx)->num_sms;
  /* Narrower slabs where there are few blocks, but not less than two sectors of memory. */
  for (a.width = 32; a.width > 4; a.width /= 2)
    if (a.width < 2 * spans && images * a.chunks * fk_ceil_div(spans, a.width) >= blocks_wanted) break;
  a.slabs = fk_ceil_div(spans, a.width);
  int64_t blocks = images * a.chunks * a.slabs;
  if (blocks > INT32_MAX) return fk_fail(FK_ERROR_UNSUPPORTED, "cuda: %lld images are too many", (long long)images);
  return fk_launch_early(ctx, packed ? fk_channel_sums<Op, T, N> : fk_channel_sums<Op, T, 1>, dim3((unsigned)blocks),
                         dim3(FK_CHANNEL_THREADS), 0, a);
}
