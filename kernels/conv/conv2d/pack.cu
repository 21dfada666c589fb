/* The weights of conv2d with their channels last, as every matrix kernel reads them, because the pixels have their
 * channels last too: an output channel's weights are [channels / chunk][taps][chunk] and then zeros; rows one after the
 * other, or in the tiles that the multiplying units take (conv.cuh). */
#include "conv.cuh"

enum { THREADS = 256, ROOM = 8192 }; /* elements of a filter that a block turns around at a time */

template <typename T>
static __device__ __forceinline__ void copy_in(const T *from, T *room, int count) {
  constexpr int N = fk_pack<T>::size;
  int packs = (uintptr_t)from % 16 == 0 ? count / N : 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < packs; i += THREADS) fk_store_pack(room + i * N, fk_load_pack(from + i * N));
  for (int i = packs * N + threadIdx.x; i < count; i += THREADS) room[i] = from[i];
}

/* Where the weights go: rows of `pitch`, or with columns of a tile given, tiles of so many rows by FK_CONV_DEPTH. */
typedef struct pack_plan {
  int channels, chunk, taps;
  int64_t pitch;                        /* elements that are written of an output channel */
  int columns, features, feature_tiles; /* columns: 0 for rows */
} pack_plan;

static __device__ __forceinline__ int64_t place_of(const pack_plan &p, int64_t k) {
  if (!p.columns) return blockIdx.x * p.pitch + k;
  int group = blockIdx.x / p.features, feature = blockIdx.x - group * p.features, tile = feature / p.columns;
  int row = feature - tile * p.columns, piece = (int)(k % FK_CONV_DEPTH) / 8;
  int64_t steps = p.pitch / FK_CONV_DEPTH;
  int64_t stage = ((int64_t)group * p.feature_tiles + tile) * steps + k / FK_CONV_DEPTH;
  return (stage * p.columns + row) * FK_CONV_DEPTH + ((piece ^ (row & 7)) << 3) + k % 8;
}

/* A block per output channel. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) channels_last(const T *from, T *to, pack_plan p) {
  __shared__ alignas(16) T room[ROOM];
  fk_wait_previous();
  fk_let_next_start(); /* the convolution gets ready meanwhile */
  int64_t depth = (int64_t)p.channels * p.taps;
  from += blockIdx.x * depth;
  int step = ROOM / p.taps; /* channels at a time */
  for (int c0 = 0; c0 < p.channels; c0 += step) {
    int count = p.channels - c0 < step ? p.channels - c0 : step;
    __syncthreads();
    copy_in(from + (int64_t)c0 * p.taps, room, count * p.taps);
    __syncthreads();
    for (int i = threadIdx.x; i < count * p.taps; i += THREADS) {
      int tap = i / count, c = i - tap * count, part = (c0 + c) / p.chunk;
      to[place_of(p, (int64_t)(part * p.taps + tap) * p.chunk + c0 + c - part * p.chunk)] = room[c * p.taps + tap];
    }
  }
  for (int64_t i = depth + threadIdx.x; i < p.pitch; i += THREADS) to[place_of(p, i)] = fk_from<T>(0);
}

conv_job conv_joined(const conv_job &j) {
  conv_job joined = j;
  bool apart = j.kernel_w > 1 && j.stride_w == j.kernel_w && j.padding_w == 0 && j.dilation_w == 1 && j.groups == 1 &&
               j.x_pixel == j.in_channels && (int64_t)j.kernel_w * j.in_channels < INT32_MAX;
  if (!apart) return j;
  joined.joined = j.kernel_w;
  joined.width = j.out_width;
  joined.kernel_w = joined.stride_w = 1;
  joined.in_channels = joined.channels = j.kernel_w * j.in_channels;
  joined.x_pixel = joined.in_channels;
  return joined;
}

bool conv_can_pack(const conv_job &j) {
  return (int64_t)j.kernel_h * j.kernel_w * j.joined <= ROOM;
}

static fk_status pack(fk_context *ctx, fk_type type, const conv_job &j, const pack_plan &p, int64_t rows,
                      const void **packed) {
  void *to = fk_scratch(ctx, (size_t)(rows * p.pitch * (int64_t)(fk_type_bits(type) / 8)));
  if (!to) return FK_ERROR_MEMORY;
  *packed = to;
  FK_FLOAT_DISPATCH(type, T,
                    return fk_launch_early(ctx, channels_last<T>, dim3((unsigned)j.out_channels), dim3(THREADS), 0,
                                           (const T *)j.weight, (T *)to, p));
}

fk_status conv_pack(fk_context *ctx, fk_type type, const conv_job &j, int64_t pitch, const void **packed) {
  pack_plan p = {};
  p.taps = j.kernel_h * j.kernel_w * j.joined;
  p.channels = p.chunk = j.channels / j.joined;
  p.pitch = pitch;
  *packed = j.weight;
  if (p.taps == 1 && pitch == p.channels) return FK_OK;
  return pack(ctx, type, j, p, j.out_channels, packed);
}

fk_status conv_pack_tiles(fk_context *ctx, fk_type type, const conv_job &j, int chunk, int columns,
                          const void **packed) {
  pack_plan p = {};
  p.taps = j.kernel_h * j.kernel_w * j.joined;
  p.channels = j.channels / j.joined;
  p.chunk = chunk / j.joined;
  p.pitch = fk_ceil_div((int64_t)p.taps * p.channels, FK_CONV_DEPTH) * FK_CONV_DEPTH;
  p.columns = columns;
  p.features = j.features;
  p.feature_tiles = (int)fk_ceil_div(j.features, columns);
  return pack(ctx, type, j, p, (int64_t)j.groups * p.feature_tiles * columns, packed);
}
