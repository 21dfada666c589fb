/* Depthwise 7x7 in float32 arithmetic: rows of the image pass by once. A lane has one channel, its 49 weights and the
 * sums of 7 x 7 outputs in registers: each new row of inputs takes part in seven rows of outputs, of which the first is
 * then complete. A warp has seven columns; the rows of a block's four warps come by cp.async through a ring in shared
 * memory, several ahead. */
#include "conv.cuh"

enum {
  K = 7,
  LANES = 32,
  STRIP = 7, /* columns of outputs of a warp */
  WARPS = 4,
  THREADS = LANES * WARPS,
  WIDTH = STRIP * WARPS,
  COLUMNS = WIDTH + K - 1,
  RING = 8,  /* rows */
  AHEAD = 6, /* less than RING */
  WINDOW = STRIP + K - 1
};

/* A block's part: rows [oy, oy + rows) and columns from ox on of one image, channels from first on. */
typedef struct strip {
  int image, oy, rows, ox, first;
} strip;

static __device__ __forceinline__ void copy_piece(void *to, const void *from, bool given) {
  int bytes = given ? 16 : 0;
  uint32_t address = fk_shared_address(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

/* Row i of the block's window, if it lies in the image; the group of copies is there in any case. */
template <typename T>
static __device__ __forceinline__ void fetch_row(const conv_job &j, const strip &s, int i, T *ring) {
  constexpr int N = fk_pack<T>::size, PIECES = LANES / N;
  int y = s.oy - j.padding_h + i;
  if (i < s.rows + K - 1 && (unsigned)y < (unsigned)j.height) {
    const T *line = (const T *)j.x + s.image * j.x_batch + y * j.x_row + s.first;
#pragma unroll
    for (int p = 0; p < (COLUMNS * PIECES + THREADS - 1) / THREADS; p++) {
      int at = p * THREADS + threadIdx.x, column = at / PIECES, channel = at % PIECES * N;
      int x = s.ox - j.padding_w + column;
      if (column >= COLUMNS) break;
      bool given = (unsigned)x < (unsigned)j.width && s.first + channel < j.out_channels;
      copy_piece(ring + (i % RING * COLUMNS + column) * LANES + channel, given ? line + x * j.x_pixel + channel : j.x,
                 given);
    }
  }
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Step i = 7 b + U: adds row i to the sums of output rows i - 6 to i, whose places are their numbers modulo 7. */
template <int U>
static __device__ __forceinline__ void add_row(float sum[K][STRIP], const float filter[K * K], const float *x) {
#pragma unroll
  for (int ky = 0; ky < K; ky++)
#pragma unroll
    for (int kx = 0; kx < K; kx++)
#pragma unroll
      for (int o = 0; o < STRIP; o++)
        sum[(U - ky + K) % K][o] = fmaf(filter[ky * K + kx], x[o + kx], sum[(U - ky + K) % K][o]);
}

template <typename T, int U>
static __device__ __forceinline__ void step(const conv_job &j, const strip &s, int i, T *ring, const T *mine, T *out,
                                            float sum[K][STRIP], const float filter[K * K], float bias) {
  if (i >= s.rows + K - 1) return;
  asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD - 1) : "memory");
  __syncthreads(); /* row i is there, and everyone has left the place that is filled next */
  fetch_row(j, s, i + AHEAD, ring);
  if ((unsigned)(s.oy - j.padding_h + i) < (unsigned)j.height) {
    float x[WINDOW];
#pragma unroll
    for (int o = 0; o < WINDOW; o++) x[o] = fk_float(mine[(i % RING * COLUMNS + o) * LANES]);
    add_row<U>(sum, filter, x);
  }
  int y = i - (K - 1);
#pragma unroll
  for (int o = 0; o < STRIP; o++) {
    int column = s.ox + threadIdx.x / LANES * STRIP + o;
    if (out && y >= 0 && column < j.out_width)
      out[(s.oy + y) * j.out_row + column * j.out_pixel] = fk_from<T>(sum[(U + 1) % K][o]);
    sum[(U + 1) % K][o] = bias;
  }
}

/* Blocks: x over channels and columns and rows, y over images. */
template <typename T>
static __global__ void __launch_bounds__(THREADS, 4) depthwise_rows(conv_job j, int parts, int columns, int rows) {
  extern __shared__ uint4 room[];
  T *ring = (T *)room;
  int lane = threadIdx.x % LANES, part = blockIdx.x % parts, rest = blockIdx.x / parts;
  strip s = {(int)blockIdx.y, rest / columns * rows, rows, rest % columns * WIDTH, part * LANES};
  if (s.oy + s.rows > j.out_height) s.rows = j.out_height - s.oy;
  fk_wait_previous();
  /* The filters come in through the ring's memory. */
  float filter[K * K];
  int left = (j.out_channels - s.first) * K * K;
  const T *weight = (const T *)j.weight + (int64_t)s.first * K * K;
  for (int i = threadIdx.x; i < K * K * LANES && i < left; i += THREADS) ring[i] = weight[i];
  __syncthreads();
  bool given = s.first + lane < j.out_channels;
#pragma unroll
  for (int i = 0; i < K * K; i++) filter[i] = given ? fk_float(ring[lane * (K * K) + i]) : 0;
  float bias = given && j.bias ? fk_float(((const T *)j.bias)[s.first + lane]) : 0;
  __syncthreads();
  float sum[K][STRIP];
#pragma unroll
  for (int y = 0; y < K; y++)
#pragma unroll
    for (int o = 0; o < STRIP; o++) sum[y][o] = bias;
  for (int i = 0; i < AHEAD; i++) fetch_row(j, s, i, ring);
  const T *mine = ring + threadIdx.x / LANES * STRIP * LANES + lane;
  T *out = given ? (T *)j.out + s.image * j.out_batch + s.first + lane : NULL;
  for (int i = 0; i < s.rows + K - 1; i += K) {
    step<T, 0>(j, s, i, ring, mine, out, sum, filter, bias);
    step<T, 1>(j, s, i + 1, ring, mine, out, sum, filter, bias);
    step<T, 2>(j, s, i + 2, ring, mine, out, sum, filter, bias);
    step<T, 3>(j, s, i + 3, ring, mine, out, sum, filter, bias);
    step<T, 4>(j, s, i + 4, ring, mine, out, sum, filter, bias);
    step<T, 5>(j, s, i + 5, ring, mine, out, sum, filter, bias);
    step<T, 6>(j, s, i + 6, ring, mine, out, sum, filter, bias);
  }
}

template <typename T>
static fk_status launch(fk_context *ctx, const conv_job &j) {
  int64_t parts = fk_ceil_div(j.out_channels, LANES), columns = fk_ceil_div(j.out_width, WIDTH), tall = 1;
  int64_t sms = fk_context_cuda(ctx)->num_sms;
  /* Parts of the height, each of which reads six rows again: as few as give every multiprocessor its blocks. */
  while (parts * columns * j.batch * tall < 3 * sms && fk_ceil_div(j.out_height, 2 * tall) >= K) tall *= 2;
  int64_t rows = fk_ceil_div(j.out_height, tall);
  dim3 grid((unsigned)(parts * columns * fk_ceil_div(j.out_height, rows)), (unsigned)j.batch);
  size_t bytes = sizeof(T) * RING * COLUMNS * LANES;
  return fk_launch_early(ctx, depthwise_rows<T>, grid, dim3(THREADS), bytes, j, (int)parts, (int)columns, (int)rows);
}

template <typename T>
static bool whole_packs(const conv_job &j) {
  return fk_packs<T>(j.x, j.x_batch, j.out_channels) && fk_packs<T>(j.x, j.x_row, 0) && fk_packs<T>(j.x, j.x_pixel, 0);
}

bool conv_can_depthwise_rows(fk_type type, const conv_job &j) {
  bool usual = j.kernel_h == K && j.kernel_w == K && j.stride_h == 1 && j.stride_w == 1 && j.dilation_h == 1 &&
               j.dilation_w == 1 && j.channels == 1 && j.features == 1;
  bool whole = type == FK_F32 ? whole_packs<float>(j) : whole_packs<__half>(j);
  return usual && whole && j.batch <= 65535 && (int64_t)j.out_height * j.out_width < INT32_MAX / 64;
}

fk_status conv_depthwise_rows(fk_context *ctx, fk_type type, const conv_job &j) {
  FK_FLOAT_DISPATCH(type, T, return launch<T>(ctx, j));
}
