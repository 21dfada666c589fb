/* The weights of conv2d with their channels last, as every matrix kernel reads them, because the pixels have their
 * channels last too: [out_channels][channels / chunk][taps][chunk], rows padded with zeros to `pitch`. */
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

/* A block per output channel. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    channels_last(const T *from, T *to, int channels, int chunk, int taps, int64_t pitch) {
  __shared__ alignas(16) T room[ROOM];
  fk_wait_previous();
  int64_t depth = (int64_t)channels * taps;
  from += blockIdx.x * depth;
  to += blockIdx.x * pitch;
  int step = ROOM / taps; /* channels at a time */
  for (int c0 = 0; c0 < channels; c0 += step) {
    int count = channels - c0 < step ? channels - c0 : step;
    __syncthreads();
    copy_in(from + (int64_t)c0 * taps, room, count * taps);
    __syncthreads();
    for (int i = threadIdx.x; i < count * taps; i += THREADS) {
      int tap = i / count, c = i - tap * count;
      int part = (c0 + c) / chunk;
      to[(int64_t)(part * taps + tap) * chunk + c0 + c - part * chunk] = room[c * taps + tap];
    }
  }
  for (int64_t i = depth + threadIdx.x; i < pitch; i += THREADS) to[i] = fk_from<T>(0);
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

fk_status conv_pack(fk_context *ctx, fk_type type, const conv_job &j, int chunk, int64_t pitch, const void **packed) {
  int taps = j.kernel_h * j.kernel_w * j.joined, channels = j.channels / j.joined;
  int64_t depth = (int64_t)taps * channels;
  *packed = j.weight;
  if (taps == 1 && pitch == depth) return FK_OK;
  void *to = fk_scratch(ctx, (size_t)(j.out_channels * pitch * (int64_t)(fk_type_bits(type) / 8)));
  if (!to) return FK_ERROR_MEMORY;
  *packed = to;
  FK_FLOAT_DISPATCH(type, T,
                    return fk_launch_early(ctx, channels_last<T>, dim3((unsigned)j.out_channels), dim3(THREADS), 0,
                                           (const T *)j.weight, (T *)to, channels, chunk / j.joined, taps, pitch));
}
