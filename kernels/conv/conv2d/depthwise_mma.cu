/* Depthwise 7x7 convolution of 16-bit images on the tensor cores. 49 products per output are more than the ordinary
 * units can do in the time that memory takes; on the tensor cores they are, wasteful as it looks.
 *
 * A row of 8 outputs of one channel is a row of 16 inputs times a matrix of 16 x 8 in which the 7 weights of a kernel
 * row go down the diagonal. 16 such rows make an m16n8k16 product: they may lie anywhere, here at the same row of 16
 * units of 7 x 8 outputs: 4 x 4 of one image, 2 x 2 of four, or one of each of 16. For the 7 output rows of a unit 13
 * input rows are needed, each loaded once: input row r takes part in output rows r - 6 to r.
 *
 * A block has such a tile and 16 channels: small, so that four share a multiprocessor and fetch, multiply and
 * store at different times. Channels are turned from innermost to outermost on their way into shared memory (a plane of
 * rows per channel), and back on their way out.
 *
 * Zero times infinity is no zero: one number that is not finite makes its neighbours NaN. Where a result is not finite,
 * the block computes its tile again, output by output. */
#include "conv.cuh"
#include "device/cuda/mma.cuh"

enum {
  THREADS = 128,
  CHANNELS = 16,
  PACKS = CHANNELS / 8,
  KERNEL = 7,
  TAPS = KERNEL * KERNEL,
  UNITS = 16,
  UNIT_H = 7,
  UNIT_W = 8,
  OUT_PIXEL = CHANNELS + 8 /* elements from pixel to pixel on the way out */
};

/* A tile of UY x UX units of each of some images. Distances in elements; they let the eight units of a matrix lie in
 * different banks, and the two packs of a pixel. */
template <int UY, int UX>
struct layout {
  static constexpr int images = UNITS / (UY * UX), height = UY * UNIT_H, width = UX * UNIT_W;
  static constexpr int rows = height + KERNEL - 1, pairs = (width + 8) / 2; /* of inputs; pairs of columns */
  static constexpr int pitch = UX == 4 ? 48 : UX == 2 ? 32 : 16;            /* from row to row */
  static constexpr int image = rows * pitch + (UX == 4 ? 0 : UX == 2 ? 16 : 8);
  static constexpr int plane = images * image + (UX == 4 ? 0 : 32);
  static constexpr int out_row = width + 1; /* pixels */
  static constexpr int bytes = CHANNELS * plane * 2;
  static_assert(plane / 2 % 32 == 16 && plane % 8 == 0 && image % 8 == 0, "banks, and 16 bytes");
  static_assert(images * height * out_row * OUT_PIXEL * 2 <= bytes, "outputs take the place of inputs");
};

static __device__ __forceinline__ int plane_of(int channel) {
  return channel % 8 * PACKS + channel / 8;
}

template <typename T>
static __device__ __forceinline__ uint32_t two_of(float low, float high) {
  T a = fk_from<T>(low), b = fk_from<T>(high);
  return (uint32_t) * (uint16_t *)&a | (uint32_t) * (uint16_t *)&b << 16;
}

/* Zero times two numbers, plus what there was: NaN once one of them is not finite. */
template <typename T>
static __device__ __forceinline__ void watch(uint32_t two, uint32_t *seen) {
  if constexpr (std::is_same<T, __half>::value)
    asm("fma.rn.f16x2 %0, %1, %2, %0;" : "+r"(*seen) : "r"(two), "r"(0));
  else
    asm("fma.rn.bf16x2 %0, %1, %2, %0;" : "+r"(*seen) : "r"(two), "r"(0));
}

/* A block's part of the work. */
typedef struct tile {
  int image, oy, ox, first; /* first: of its channels */
  int left;                 /* channels from first on */
} tile;

/* A thread has a pack of a pair of columns, and goes down the rows of all images: pointers move by adding. */
template <typename T, typename L>
static __device__ __forceinline__ void fill_planes(const conv_job &j, const tile &t, uint16_t *room) {
  constexpr int ACROSS = L::pairs * PACKS, DOWN = THREADS / ACROSS, BATCH = 4;
  int column = threadIdx.x % ACROSS, row = threadIdx.x / ACROSS, pack = column % PACKS, image = 0;
  if (row >= DOWN) return;
  column = column / PACKS * 2;
  int x = t.ox - j.padding_w + column, top = t.oy - j.padding_h;
  bool whole = pack * 8 < t.left;
  bool left_seen = whole && (unsigned)x < (unsigned)j.width,
       right_seen = whole && (unsigned)(x + 1) < (unsigned)j.width;
  const T *from = (const T *)j.x + t.image * j.x_batch + (top + row) * j.x_row + x * j.x_pixel + t.first + pack * 8;
  uint32_t *to = (uint32_t *)(room + pack * L::plane + row * L::pitch + column);
  for (int line = row; line < L::images * L::rows; line += BATCH * DOWN) {
    uint4 left[BATCH], right[BATCH];
    uint32_t *place[BATCH];
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
      bool seen = (unsigned)(top + row) < (unsigned)j.height && t.image + image < j.batch && image < L::images;
      left[b] = seen && left_seen ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
      right[b] = seen && right_seen ? *(const uint4 *)(from + j.x_pixel) : make_uint4(0, 0, 0, 0);
      place[b] = to;
      from += DOWN * j.x_row;
      to += DOWN * (L::pitch / 2);
      row += DOWN;
      if (row >= L::rows) { /* on to the next image */
        row -= L::rows;
        image++;
        from += j.x_batch - L::rows * j.x_row;
        to += (L::image - L::rows * L::pitch) / 2;
      }
    }
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
      if (line + b * DOWN >= L::images * L::rows) break;
      const uint32_t low[4] = {left[b].x, left[b].y, left[b].z, left[b].w};
      const uint32_t high[4] = {right[b].x, right[b].y, right[b].z, right[b].w};
#pragma unroll
      for (int e = 0; e < 4; e++) {
        place[b][(2 * e) * PACKS * (L::plane / 2)] = __byte_perm(low[e], high[e], 0x5410);
        place[b][(2 * e + 1) * PACKS * (L::plane / 2)] = __byte_perm(low[e], high[e], 0x7632);
      }
    }
  }
}

/* The matrix of a kernel row: element (k, n) is weight k - n. A thread has n = g and k = 2 t, 2 t + 1, and 8 more. */
static __device__ __forceinline__ void diagonals(const uint16_t *filter, uint32_t b[KERNEL][2]) {
  int lane = threadIdx.x % 32, first = lane % 4 * 2 - lane / 4;
#pragma unroll
  for (int ky = 0; ky < KERNEL; ky++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int tap = first + 8 * half;
      uint32_t low = (unsigned)tap < KERNEL ? filter[ky * KERNEL + tap] : 0;
      uint32_t high = (unsigned)(tap + 1) < KERNEL ? filter[ky * KERNEL + tap + 1] : 0;
      b[ky][half] = low | high << 16;
    }
}

/* All outputs of a channel: sum[p] are row p of the 16 units. */
template <typename T, int PITCH>
static __device__ __forceinline__ void one_channel(uint32_t window, const uint16_t *filter, float bias,
                                                   float sum[UNIT_H][4]) {
  uint32_t b[KERNEL][2];
  diagonals(filter, b);
#pragma unroll
  for (int p = 0; p < UNIT_H; p++)
#pragma unroll
    for (int e = 0; e < 4; e++) sum[p][e] = bias;
#pragma unroll
  for (int r = 0; r < UNIT_H + KERNEL - 1; r++) {
    uint32_t a[4];
    fk_load_matrices(a, window + r * PITCH * 2);
#pragma unroll
    for (int p = 0; p < UNIT_H; p++)
      if (r - p >= 0 && r - p < KERNEL) fk_mma<T>(sum[p], a, b[r - p][0], b[r - p][1]);
  }
}

/* A warp's four channels, side by side: words[0] has the first two. True when all is finite. Unit m lies in image
 * m / (UY UX), at row m % UY and column m / UY % UX. */
template <typename T, int UY, int UX>
static __device__ __forceinline__ bool four_channels(const uint16_t *room, const uint16_t *filters, const float *biases,
                                                     uint32_t words[2][UNIT_H][4]) {
  typedef layout<UY, UX> L;
  int lane = threadIdx.x % 32, channel = threadIdx.x / 32 * 4;
  uint32_t seen = 0;
  /* Where the lane's row of a matrix lies: matrices are units 0 to 7, 8 to 15, and again for the right half of the
   * window. */
  int m = lane % 8 + lane / 8 % 2 * 8;
  int unit = m / (UY * UX) * L::image + m % UY * UNIT_H * L::pitch + m / UY % UX * UNIT_W + lane / 16 * 8;
  uint32_t window = fk_shared_address(room) + 2 * unit;
#pragma unroll
  for (int two = 0; two < 2; two++) {
    float first[UNIT_H][4], second[UNIT_H][4];
    int c = channel + two * 2;
    one_channel<T, L::pitch>(window + plane_of(c) * L::plane * 2, filters + c * TAPS, biases[c], first);
    one_channel<T, L::pitch>(window + plane_of(c + 1) * L::plane * 2, filters + (c + 1) * TAPS, biases[c + 1], second);
#pragma unroll
    for (int p = 0; p < UNIT_H; p++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        words[two][p][e] = two_of<T>(first[p][e], second[p][e]);
        watch<T>(words[two][p][e], &seen);
      }
  }
  return (seen & 0x7fff7fffu) == 0;
}

/* To pixels of all channels in shared memory, then to out. */
template <typename T, int UY, int UX>
static __device__ __forceinline__ void write_tile(const conv_job &j, const tile &t, uint16_t *room,
                                                  const uint32_t words[2][UNIT_H][4]) {
  typedef layout<UY, UX> L;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int p = 0; p < UNIT_H; p++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int m = lane / 4 + e / 2 * 8, y = m / (UY * UX) * L::height + m % UY * UNIT_H + p;
      int x = m / UY % UX * UNIT_W + lane % 4 * 2 + e % 2;
      *(uint2 *)(room + (y * L::out_row + x) * OUT_PIXEL + warp * 4) = make_uint2(words[0][p][e], words[1][p][e]);
    }
  __syncthreads();
  constexpr int ACROSS = L::width * PACKS, FIT = THREADS / ACROSS, DOWN = FIT < L::height ? FIT : L::height;
  int part = threadIdx.x % PACKS, x = threadIdx.x % ACROSS / PACKS, row = threadIdx.x / ACROSS, image = 0;
  if (row >= DOWN || part * 8 >= t.left || t.ox + x >= j.out_width) return;
  T *out =
      (T *)j.out + t.image * j.out_batch + (t.oy + row) * j.out_row + (t.ox + x) * j.out_pixel + t.first + part * 8;
  const uint16_t *from = room + (row * L::out_row + x) * OUT_PIXEL + part * 8;
#pragma unroll 4
  for (int line = row; line < L::images * L::height; line += DOWN) {
    if (t.oy + row < j.out_height && t.image + image < j.batch) *(uint4 *)out = *(const uint4 *)from;
    from += DOWN * L::out_row * OUT_PIXEL;
    out += DOWN * j.out_row;
    row += DOWN;
    if (row >= L::height) { /* on to the next image */
      row -= L::height;
      image++;
      out += j.out_batch - L::height * j.out_row;
    }
  }
}

/* Output by output, from x. */
template <typename T, typename L>
static __device__ void slow_tile(const conv_job &j, const tile &t, const uint16_t *filters, const float *biases) {
  for (int i = threadIdx.x; i < L::images * L::height * L::width * CHANNELS; i += THREADS) {
    int channel = i % CHANNELS, pixel = i / CHANNELS, line = pixel / L::width, image = line / L::height;
    int oy = t.oy + line - image * L::height, ox = t.ox + pixel - line * L::width;
    if (oy >= j.out_height || ox >= j.out_width || channel >= t.left || t.image + image >= j.batch) continue;
    const T *from = (const T *)j.x + (t.image + image) * j.x_batch + t.first + channel;
    const T *filter = (const T *)filters + channel * TAPS;
    float sum = biases[channel];
    for (int tap = 0; tap < TAPS; tap++) {
      int y = oy - j.padding_h + tap / KERNEL, x = ox - j.padding_w + tap % KERNEL;
      if ((unsigned)y >= (unsigned)j.height || (unsigned)x >= (unsigned)j.width) continue;
      sum = fmaf(fk_float(filter[tap]), fk_float(from[y * j.x_row + x * j.x_pixel]), sum);
    }
    ((T *)j.out)[(t.image + image) * j.out_batch + oy * j.out_row + ox * j.out_pixel + t.first + channel] =
        fk_from<T>(sum);
  }
}

/* Blocks: x over channels, so that neighbours read neighbouring bytes of the same pixels, then tiles, then images. */
template <typename T, int UY, int UX>
static __global__ void __launch_bounds__(THREADS, 4) depthwise_tiles(conv_job j, int parts, int tiles_w, int tiles) {
  typedef layout<UY, UX> L;
  extern __shared__ uint4 shared_room[];
  __shared__ uint16_t filters[CHANNELS * TAPS];
  __shared__ float biases[CHANNELS];
  uint16_t *room = (uint16_t *)shared_room;
  int part = blockIdx.x % parts, rest = blockIdx.x / parts, place = rest % tiles;
  tile t = {rest / tiles * L::images, place / tiles_w * L::height, place % tiles_w * L::width, part * CHANNELS,
            j.out_channels - part * CHANNELS};
  fk_wait_previous();
  for (int i = threadIdx.x; i < CHANNELS * TAPS; i += THREADS)
    filters[i] = i < t.left * TAPS ? ((const uint16_t *)j.weight)[(int64_t)t.first * TAPS + i] : 0;
  if (threadIdx.x < CHANNELS) {
    bool given = j.bias && (int)threadIdx.x < t.left;
    biases[threadIdx.x] = given ? fk_float(((const T *)j.bias)[t.first + threadIdx.x]) : 0;
  }
  fill_planes<T, L>(j, t, room);
  __syncthreads();
  uint32_t words[2][UNIT_H][4];
  bool finite = four_channels<T, UY, UX>(room, filters, biases, words);
  if (__syncthreads_or(!finite)) { /* also: the planes are no longer needed */
    slow_tile<T, L>(j, t, filters, biases);
    return;
  }
  write_tile<T, UY, UX>(j, t, room, words);
}

bool conv_can_depthwise_mma(fk_type type, const conv_job &j) {
  bool usual = j.kernel_h == KERNEL && j.kernel_w == KERNEL && j.stride_h == 1 && j.stride_w == 1 &&
               j.dilation_h == 1 && j.dilation_w == 1 && j.channels == 1 && j.features == 1;
  bool whole = (uintptr_t)j.x % 16 == 0 && j.x_batch % 8 == 0 && j.x_row % 8 == 0 && j.x_pixel % 8 == 0 &&
               (uintptr_t)j.out % 16 == 0 && j.out_batch % 8 == 0 && j.out_row % 8 == 0 && j.out_pixel % 8 == 0;
  return type != FK_F32 && usual && whole && j.out_channels % 8 == 0;
}

template <typename T, int UY, int UX>
static fk_status launch(fk_context *ctx, const conv_job &j) {
  typedef layout<UY, UX> L;
  int64_t parts = fk_ceil_div(j.out_channels, CHANNELS), tiles_w = fk_ceil_div(j.out_width, L::width);
  int64_t tiles = fk_ceil_div(j.out_height, L::height) * tiles_w;
  int64_t blocks = parts * tiles * fk_ceil_div(j.batch, L::images);
  if (blocks > INT32_MAX)
    return fk_fail(FK_ERROR_UNSUPPORTED, "conv2d: cuda: %lld tiles; expected fewer than 2^31", (long long)blocks);
  return fk_launch_early(ctx, depthwise_tiles<T, UY, UX>, dim3((unsigned)blocks), dim3(THREADS), L::bytes, j,
                         (int)parts, (int)tiles_w, (int)tiles);
}

template <typename T>
static fk_status dispatch(fk_context *ctx, const conv_job &j) {
  int side = j.out_height > j.out_width ? j.out_height : j.out_width;
  if (side > 2 * UNIT_H) return launch<T, 4, 4>(ctx, j);
  return side > UNIT_H ? launch<T, 2, 2>(ctx, j) : launch<T, 1, 1>(ctx, j);
}

fk_status conv_depthwise_mma(fk_context *ctx, fk_type type, const conv_job &j) {
  if (type == FK_BF16) return dispatch<__nv_bfloat16>(ctx, j);
  return dispatch<__half>(ctx, j);
}
