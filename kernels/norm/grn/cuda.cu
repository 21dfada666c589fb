/* grn on the GPU, in three steps: sums of squares of every channel, by chunks of pixels; from them a factor for every
 * channel; and the map. So many images at a time that the third step finds in the L2 cache what the first has read. */
#include <float.h>

#include "device/cuda/channels.cuh"
#include "device/cuda/map.cuh"
#include "tasks/grn.h"

enum { IMAGES_BYTES = 20 << 20, CHUNK = 256 };

struct squares {
  static __device__ __forceinline__ float of(float v) {
    return v * v;
  }
  /* out is [images][chunks][channels]. */
  template <typename T>
  static __device__ __forceinline__ void store(const fk_channels &a, int64_t image, int64_t chunk, int64_t channel,
                                               double sum) {
    ((float *)a.out)[(image * a.chunks + chunk) * a.channels + channel] = (float)sum;
  }
};

typedef struct grn_args {
  const void *x, *weight, *bias;
  void *out;
  fk_row_map x_rows, out_rows;
  int64_t pixels, channels, chunks, first_image;
  const float *squares; /* [batch][chunks][channels] */
  double *norms;        /* [batch][channels] */
  float *factors;       /* [batch][channels] weight * response */
  double epsilon;
  int64_t items, items_per_row; /* of a pass */
  fk_divider per_row, per_image;
} grn_args;

/* The norm of one channel in double, for squares that leave the range of float. */
template <typename T>
static __device__ double norm_in_double(const grn_args &a, int64_t image, int64_t channel) {
  double sum = 0;
  for (int64_t p = 0; p < a.pixels; p++) {
    double v = (double)fk_float(((const T *)a.x)[fk_row_offset(a.x_rows, image * a.pixels + p) + channel]);
    sum += v * v;
  }
  return sqrt(sum);
}

/* A block per image. */
template <typename T>
static __global__ void __launch_bounds__(1024) grn_factors(const __grid_constant__ grn_args a) {
  __shared__ double partial[32];
  int64_t image = a.first_image + blockIdx.x;
  double *norms = a.norms + image * a.channels, mean = 0;
  fk_wait_previous();
  for (int64_t c = threadIdx.x; c < a.channels; c += blockDim.x) {
    double sum = 0;
    for (int64_t i = 0; i < a.chunks; i++) sum += (double)a.squares[(image * a.chunks + i) * a.channels + c];
    double norm = sum <= (double)FLT_MAX && sum >= 1e-30 ? sqrt(sum) : norm_in_double<T>(a, image, c);
    norms[c] = norm;
    mean += norm;
  }
  for (int d = 16; d > 0; d /= 2) mean += __shfl_xor_sync(0xffffffffu, mean, d);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = mean;
  __syncthreads();
  mean = 0;
  for (int w = 0; w < (int)blockDim.x / 32; w++) mean += partial[w];
  mean /= (double)a.channels;
  for (int64_t c = threadIdx.x; c < a.channels; c += blockDim.x)
    a.factors[image * a.channels + c] =
        (float)((double)fk_float(((const T *)a.weight)[c]) * norms[c] / (mean + a.epsilon));
}

/* out = x + x * factor + bias. An item is V channels of a pixel. */
template <typename T, int V>
static __global__ void __launch_bounds__(256) grn_map(const __grid_constant__ grn_args a) {
  constexpr int U = 2;
  typedef struct alignas(sizeof(T) * V) {
    T at[V];
  } span;
  span kept[U], bias[U];
  int64_t image[U], pixel[U], channel[U];
  fk_wait_previous();
#pragma unroll
  for (int u = 0; u < U; u++) {
    int64_t item = ((int64_t)blockIdx.x * U + u) * 256 + threadIdx.x;
    if (item >= a.items) continue;
    uint32_t row = fk_divide((uint32_t)item, a.per_row), n = fk_divide(row, a.per_image);
    image[u] = a.first_image + n;
    pixel[u] = a.first_image * a.pixels + row;
    channel[u] = (item - row * a.items_per_row) * V;
    kept[u] = *reinterpret_cast<const span *>((const T *)a.x + fk_row_offset(a.x_rows, pixel[u]) + channel[u]);
    bias[u] = *reinterpret_cast<const span *>((const T *)a.bias + channel[u]);
  }
  fk_let_next_start();
#pragma unroll
  for (int u = 0; u < U; u++) {
    if (((int64_t)blockIdx.x * U + u) * 256 + threadIdx.x >= a.items) continue;
    const float *factor = a.factors + image[u] * a.channels + channel[u];
#pragma unroll
    for (int i = 0; i < V; i++) {
      float x = fk_float(kept[u].at[i]);
      kept[u].at[i] = fk_from<T>(x + x * factor[i] + fk_float(bias[u].at[i]));
    }
    *reinterpret_cast<span *>((T *)a.out + fk_row_offset(a.out_rows, pixel[u]) + channel[u]) = kept[u];
  }
}

/* One pass over `images` images. */
template <typename T>
static fk_status pass(fk_context *ctx, grn_args a, int64_t images) {
  constexpr int N = fk_pack<T>::size;
  fk_channels sums = {};
  sums.x = a.x, sums.x_rows = a.x_rows;
  sums.out = (void *)a.squares;
  sums.pixels = a.pixels, sums.channels = a.channels;
  sums.chunk = CHUNK, sums.chunks = a.chunks;
  sums.first_image = a.first_image;
  fk_status status = fk_channel_launch<squares, T>(ctx, sums, images);
  if (status != FK_OK) return status;
  dim3 threads((unsigned)(a.channels >= 1024 ? 1024 : fk_ceil_div(a.channels, 32) * 32));
  status = fk_launch_early(ctx, grn_factors<T>, dim3((unsigned)images), threads, 0, a);
  if (status != FK_OK) return status;
  bool packed = a.channels % N == 0 && fk_packs_rows<T>(a.x, a.x_rows) && fk_packs_rows<T>(a.out, a.out_rows) &&
                fk_packs<T>(a.bias, 0, a.channels);
  a.items_per_row = packed ? a.channels / N : a.channels;
  a.items = images * a.pixels * a.items_per_row;
  if (a.items >> 31) return fk_fail(FK_ERROR_UNSUPPORTED, "grn: cuda: an image of 2^31 elements is too large");
  a.per_row = fk_divide_by(a.items_per_row), a.per_image = fk_divide_by(a.pixels);
  return fk_launch_early(ctx, packed ? grn_map<T, N> : grn_map<T, 1>, dim3((unsigned)fk_ceil_div(a.items, 512)),
                         dim3(256), 0, a);
}

template <typename T>
static fk_status launch(fk_context *ctx, grn_args a, int64_t batch) {
  int64_t at_once = IMAGES_BYTES / (a.pixels * a.channels * (int64_t)sizeof(T));
  if (at_once < 1) at_once = 1;
  for (a.first_image = 0; a.first_image < batch; a.first_image += at_once) {
    int64_t images = batch - a.first_image < at_once ? batch - a.first_image : at_once;
    fk_status status = pass<T>(ctx, a, images);
    if (status != FK_OK) return status;
  }
  return FK_OK;
}

fk_status fk_cuda_grn(fk_context *ctx, const fk_grn_args *t) {
  if (fk_numel(t->x) == 0) return FK_OK;
  int64_t batch = fk_size(t->x, 0);
  grn_args a = {};
  a.x = fk_data(t->x), a.x_rows = fk_rows_of(t->x, 1);
  a.out = fk_data(t->out), a.out_rows = fk_rows_of(t->out, 1);
  a.weight = fk_data(t->weight), a.bias = fk_data(t->bias);
  a.pixels = fk_size(t->x, 1) * fk_size(t->x, 2), a.channels = fk_size(t->x, 3);
  a.chunks = fk_ceil_div(a.pixels, CHUNK);
  a.epsilon = t->epsilon;
  a.squares = (float *)fk_scratch(ctx, (size_t)(batch * a.chunks * a.channels) * sizeof *a.squares);
  a.norms = (double *)fk_scratch(ctx, (size_t)(batch * a.channels) * sizeof *a.norms);
  a.factors = (float *)fk_scratch(ctx, (size_t)(batch * a.channels) * sizeof *a.factors);
  if (!a.squares || !a.norms || !a.factors) return FK_ERROR_MEMORY;
  FK_FLOAT_DISPATCH(fk_type_of(t->x), T, return launch<T>(ctx, a, batch));
}
