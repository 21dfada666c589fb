/* grn on the GPU, in two steps: sums of squares of every channel, by chunks of pixels; and the map, whose blocks first
 * put the sums of their image together. So many images at a time that the second step finds in the L2 cache what the
 * first has read. */
#include "device/cuda/channels.cuh"
#include "device/cuda/map.cuh"
#include "tasks/grn.h"

enum { PASS_BYTES = 32 << 20, CHUNK = 256, SLICE_BYTES = 96 << 10, THREADS = 256, LOADS = 4 };

/* Norms of chunks are stored as floats times this: the largest cannot overflow. */
static constexpr double shrink = 1.0 / 65536;

struct squares {
  static __device__ __forceinline__ bool in_range(double sum) {
    return sum <= (double)FLT_MAX && sum >= 1e-30;
  }
  template <typename R>
  static __device__ __forceinline__ R of(R v) {
    return v * v;
  }
  /* out is [images][chunks][channels]. */
  template <typename T>
  static __device__ __forceinline__ void store(const fk_channels &a, int64_t image, int64_t chunk, int64_t channel,
                                               double sum) {
    ((float *)a.out)[(image * a.chunks + chunk) * a.channels + channel] = (float)(sqrt(sum) * shrink);
  }
};

typedef struct grn_args {
  const void *x, *weight, *bias;
  void *out;
  fk_row_map x_rows, out_rows;
  int64_t pixels, channels, chunks, first_image;
  int64_t slice, slices; /* pixels of a block, blocks of an image */
  float *norms;          /* [batch][chunks][channels] */
  double epsilon;
  int64_t spans; /* of V channels, per pixel */
  fk_divider by_spans, by_slices;
} grn_args;

static __device__ __forceinline__ double norm_of(const grn_args &a, int64_t image, int64_t channel) {
  const float *norm = a.norms + image * a.chunks * a.channels + channel;
  double sum = 0;
  for (int64_t i = 0; i < a.chunks; i++) sum += (double)norm[i * a.channels] * (double)norm[i * a.channels];
  return sqrt(sum) / shrink;
}

/* weight * response of every channel, to shared memory. */
template <typename T>
static __device__ void find_factors(const grn_args &a, int64_t image, float *factors) {
  __shared__ double partial[THREADS / 32];
  double mean = 0;
  for (int64_t c = threadIdx.x; c < a.channels; c += THREADS) mean += norm_of(a, image, c);
  for (int d = 16; d > 0; d /= 2) mean += __shfl_xor_sync(0xffffffffu, mean, d);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = mean;
  __syncthreads();
  mean = 0;
  for (int w = 0; w < THREADS / 32; w++) mean += partial[w];
  double factor = 1 / (mean / (double)a.channels + a.epsilon);
  for (int64_t c = threadIdx.x; c < a.channels; c += THREADS)
    factors[c] = (float)((double)fk_float(((const T *)a.weight)[c]) * (norm_of(a, image, c) * factor));
  __syncthreads();
}

/* x + x * factor + bias, for a pack or one element. */
template <typename T>
static __device__ __forceinline__ uint4 respond(const uint4 &x, const float *factor, const T *bias) {
  constexpr int N = fk_pack<T>::size;
  float v[N], b[N];
  alignas(16) float f[N];
  fk_unpack<T>(x, v);
  fk_unpack<T>(fk_load_raw(bias), b);
#pragma unroll
  for (int i = 0; i < N; i += 4) *reinterpret_cast<float4 *>(f + i) = *reinterpret_cast<const float4 *>(factor + i);
#pragma unroll
  for (int i = 0; i < N; i++) v[i] = v[i] + v[i] * f[i] + b[i];
  return fk_repack<T>(v);
}

template <typename T>
static __device__ __forceinline__ T respond(const T &x, const float *factor, const T *bias) {
  return fk_from<T>(fk_float(x) + fk_float(x) * *factor + fk_float(*bias));
}

/* A block per slice of an image. V: channels of a span. */
template <typename T, int V>
static __global__ void __launch_bounds__(THREADS) grn_map(const __grid_constant__ grn_args a) {
  typedef typename fk_span<T, V>::type span;
  extern __shared__ float4 room[];
  float *factors = (float *)room;
  uint32_t in_pass = fk_divide(blockIdx.x, a.by_slices);
  int64_t image = a.first_image + in_pass, start = (blockIdx.x - in_pass * a.slices) * a.slice;
  int64_t pixels = a.pixels - start < a.slice ? a.pixels - start : a.slice;
  fk_wait_previous();
  find_factors<T>(a, image, factors);
  fk_let_next_start();
  uint32_t items = (uint32_t)(pixels * a.spans);
  int64_t first = image * a.pixels + start;
  for (uint32_t base = threadIdx.x; base < items; base += THREADS * LOADS) {
    span kept[LOADS];
    int64_t row[LOADS];
    uint32_t channel[LOADS];
#pragma unroll
    for (int u = 0; u < LOADS; u++) {
      uint32_t item = base + u * THREADS, pixel = fk_divide(item, a.by_spans);
      if (item >= items) continue;
      row[u] = first + pixel;
      channel[u] = (item - pixel * (uint32_t)a.spans) * V;
      kept[u] = *reinterpret_cast<const span *>((const T *)a.x + fk_row_offset(a.x_rows, row[u]) + channel[u]);
    }
#pragma unroll
    for (int u = 0; u < LOADS; u++)
      if (base + u * THREADS < items)
        *reinterpret_cast<span *>((T *)a.out + fk_row_offset(a.out_rows, row[u]) + channel[u]) =
            respond(kept[u], factors + channel[u], (const T *)a.bias + channel[u]);
  }
}

/* One pass over `images` images. */
template <typename T>
static fk_status pass(fk_context *ctx, const grn_args &a, int64_t images, bool packed) {
  fk_channels sums = {};
  sums.x = a.x, sums.x_rows = a.x_rows;
  sums.out = a.norms;
  sums.pixels = a.pixels, sums.channels = a.channels;
  sums.chunk = CHUNK, sums.chunks = a.chunks;
  sums.first_image = a.first_image;
  fk_status status = fk_channel_launch<squares, T>(ctx, sums, images);
  if (status != FK_OK) return status;
  return fk_launch_early(ctx, packed ? grn_map<T, fk_pack<T>::size> : grn_map<T, 1>,
                         dim3((unsigned)(images * a.slices)), dim3(THREADS), (size_t)a.channels * sizeof(float), a);
}

template <typename T>
static fk_status launch(fk_context *ctx, grn_args a, int64_t batch) {
  int64_t image_bytes = a.pixels * a.channels * (int64_t)sizeof(T);
  bool packed = a.channels % fk_pack<T>::size == 0 && fk_packs_rows<T>(a.x, a.x_rows) &&
                fk_packs_rows<T>(a.out, a.out_rows) && (uintptr_t)a.bias % 16 == 0;
  a.spans = packed ? a.channels / fk_pack<T>::size : a.channels;
  /* Equal passes; slices that fill the GPU, and are worth the sums that their block starts with. */
  int64_t passes = fk_ceil_div(batch * image_bytes, PASS_BYTES);
  if (passes > batch) passes = batch;
  int64_t at_once = fk_ceil_div(batch, passes), fill = fk_ceil_div(4 * fk_context_cuda(ctx)->num_sms, at_once);
  a.slices = fk_ceil_div(image_bytes, SLICE_BYTES);
  if (a.slices < fill) a.slices = fill;
  if (a.slices > fk_ceil_div(a.pixels, 8)) a.slices = fk_ceil_div(a.pixels, 8);
  a.slice = fk_ceil_div(a.pixels, a.slices), a.slices = fk_ceil_div(a.pixels, a.slice);
  if (a.slice * a.spans >= INT32_MAX || a.slices * at_once > INT32_MAX ||
      (size_t)a.channels * sizeof(float) > fk_context_cuda(ctx)->max_shared_bytes - 1024)
    return fk_fail(FK_ERROR_UNSUPPORTED, "grn: cuda: %lld pixels of %lld channels are too many", (long long)a.pixels,
                   (long long)a.channels);
  a.by_spans = fk_divide_by(a.spans), a.by_slices = fk_divide_by(a.slices);
  for (a.first_image = 0; a.first_image < batch; a.first_image += at_once) {
    int64_t images = batch - a.first_image < at_once ? batch - a.first_image : at_once;
    fk_status status = pass<T>(ctx, a, images, packed);
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
  a.norms = (float *)fk_scratch(ctx, (size_t)(batch * a.chunks * a.channels) * sizeof *a.norms);
  if (!a.norms) return FK_ERROR_MEMORY;
  FK_FLOAT_DISPATCH(fk_type_of(t->x), T, return launch<T>(ctx, a, batch));
}
