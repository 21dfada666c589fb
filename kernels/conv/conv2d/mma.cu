/* conv2d of 16-bit images as a matrix product by mma.sync: rows are the windows of output pixels, gathered from x as
 * the product goes along (channels are contiguous, so a window is a run of channels per tap); columns are output
 * channels. Four stages of tiles in shared memory, filled by cp.async. Where channels are no multiple of 8, so that 16
 * bytes may straddle two taps, elements are gathered one by one.
 *
 * Tiles are rows of 64 bytes, four pieces of 16; piece p of row r lies at p ^ (r / 2 % 4), so that the eight rows of an
 * ldmatrix meet all banks. */
#include "conv.cuh"
#include "device/cuda/mma.cuh"

enum { BM = 128, BK = 32, THREADS = 256, STAGES = 4, PIECES = BK / 8, A_ROWS = BM / (THREADS / PIECES) };

/* 16 bytes to shared memory, zeros when not given. */
static __device__ __forceinline__ void copy_piece(uint32_t to, const void *from, bool given) {
  int bytes = given ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void copy_half_piece(uint32_t to, const void *from, bool given) {
  int bytes = given ? 8 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

static __device__ __forceinline__ uint32_t piece_address(uint32_t tile, int row, int piece) {
  return tile + row * (BK * 2) + ((piece ^ (row >> 1 & 3)) << 4);
}

/* The rows of the left tile that a thread fills, and where along the depth it is. */
typedef struct gather {
  const uint16_t *image[A_ROWS]; /* of the group's first channel */
  int y[A_ROWS], x[A_ROWS];      /* of the window's first tap; y far outside for no pixel */
  int channel, ky, kx;           /* of the thread's piece; ky is kernel_h beyond the end */
} gather;

static __device__ __forceinline__ void advance(const conv_job &j, int by, int *channel, int *ky, int *kx) {
  *channel += by;
  while (*channel >= j.channels && *ky < j.kernel_h) {
    *channel -= j.channels;
    if (++*kx == j.kernel_w) *kx = 0, ++*ky;
  }
}

static __device__ __forceinline__ void begin_gather(const conv_job &j, int64_t first_pixel, int group, gather *g) {
#pragma unroll
  for (int i = 0; i < A_ROWS; i++) {
    int64_t pixel = first_pixel + threadIdx.x / PIECES + i * (THREADS / PIECES);
    bool given = pixel < j.pixels;
    if (!given) pixel = 0;
    int64_t line = pixel / j.out_width, image = line / j.out_height;
    g->x[i] = (int)(pixel - line * j.out_width) * j.stride_w - j.padding_w;
    g->y[i] = given ? (int)(line - image * j.out_height) * j.stride_h - j.padding_h : INT32_MIN / 2;
    g->image[i] = (const uint16_t *)j.x + image * j.x_batch + (int64_t)group * j.channels;
  }
  g->channel = g->ky = g->kx = 0;
  advance(j, threadIdx.x % PIECES * 8, &g->channel, &g->ky, &g->kx);
}

/* The element of row i's window at a place along the depth; NULL for zero. */
static __device__ __forceinline__ const uint16_t *element_at(const conv_job &j, const gather &g, int i, int channel,
                                                             int ky, int kx) {
  int y = g.y[i] + ky * j.dilation_h, x = g.x[i] + kx * j.dilation_w;
  bool seen = ky < j.kernel_h && (unsigned)y < (unsigned)j.height && (unsigned)x < (unsigned)j.width;
  return seen ? g.image[i] + y * j.x_row + x * j.x_pixel + channel : NULL;
}

/* GRAIN: elements that never straddle two taps. */
template <int GRAIN>
static __device__ __forceinline__ void fill_left(const conv_job &j, gather *g, uint32_t tile) {
  int piece = threadIdx.x % PIECES;
#pragma unroll
  for (int i = 0; i < A_ROWS; i++) {
    uint32_t to = piece_address(tile, threadIdx.x / PIECES + i * (THREADS / PIECES), piece);
    int channel = g->channel, ky = g->ky, kx = g->kx;
    if constexpr (GRAIN == 8) {
      const uint16_t *from = element_at(j, *g, i, channel, ky, kx);
      copy_piece(to, from ? from : j.x, from != NULL);
    } else if constexpr (GRAIN == 4) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint16_t *from = element_at(j, *g, i, channel, ky, kx);
        copy_half_piece(to + 8 * half, from ? from : j.x, from != NULL);
        advance(j, 4, &channel, &ky, &kx);
      }
    } else {
      uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
      for (int e = 0; e < 8; e++) {
        const uint16_t *from = element_at(j, *g, i, channel, ky, kx);
        word[e / 2] |= (from ? (uint32_t)*from : 0) << (e % 2 * 16);
        advance(j, 1, &channel, &ky, &kx);
      }
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(word[0]), "r"(word[1]), "r"(word[2]),
                   "r"(word[3])
                   : "memory");
    }
  }
  advance(j, BK, &g->channel, &g->ky, &g->kx);
}

template <int BN>
static __device__ __forceinline__ void fill_right(const uint16_t *weight, int64_t pitch, int features, int64_t k,
                                                  uint32_t tile) {
  int piece = threadIdx.x % PIECES;
#pragma unroll
  for (int row = threadIdx.x / PIECES; row < BN; row += THREADS / PIECES) {
    bool given = row < features && k + piece * 8 < pitch;
    copy_piece(piece_address(tile, row, piece), given ? weight + row * pitch + k + piece * 8 : weight, given);
  }
}

/* A warp has 64 pixels and BN / 4 channels. */
template <typename T, int BN>
static __device__ __forceinline__ void multiply_stage(uint32_t left, uint32_t right, float c[4][BN / 32][4]) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, m0 = warp / 4 * 64, n0 = warp % 4 * (BN / 4);
#pragma unroll
  for (int k = 0; k < BK / 16; k++) {
    uint32_t a[4][4], b[BN / 64][4];
#pragma unroll
    for (int m = 0; m < 4; m++) fk_load_matrices(a[m], piece_address(left, m0 + m * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
    for (int n = 0; n < BN / 64; n++)
      fk_load_matrices(b[n], piece_address(right, n0 + n * 16 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
      for (int n = 0; n < BN / 32; n++) fk_mma<T>(c[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
  }
}

/* Sums and bias to shared memory, rounded, then to out by runs of channels. */
template <typename T, int BN>
static __device__ __forceinline__ void store_tile(const conv_job &j, T *staged, int64_t first_pixel, int64_t channel,
                                                  int features, bool packs, const float c[4][BN / 32][4]) {
  constexpr int PITCH = BN + 8;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < BN / 32; n++) {
    int column = warp % 4 * (BN / 4) + n * 8 + lane % 4 * 2;
    float bias[2] = {0, 0};
    for (int e = 0; e < 2; e++)
      if (j.bias && column + e < features) bias[e] = fk_float(((const T *)j.bias)[channel + column + e]);
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int row = warp / 4 * 64 + m * 16 + lane / 4 + e / 2 * 8;
        staged[row * PITCH + column + e % 2] = fk_from<T>(c[m][n][e] + bias[e % 2]);
      }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < BM * (BN / 8); i += THREADS) {
    int row = i / (BN / 8), column = i % (BN / 8) * 8;
    int64_t pixel = first_pixel + row;
    if (pixel >= j.pixels) return;
    int64_t line = pixel / j.out_width, image = line / j.out_height;
    T *to = (T *)j.out + image * j.out_batch + (line - image * j.out_height) * j.out_row +
            (pixel - line * j.out_width) * j.out_pixel + channel + column;
    const T *from = staged + row * PITCH + column;
    if (packs && column + 8 <= features)
      fk_store_pack(to, fk_load_pack(from));
    else
      for (int e = 0; e < 8 && column + e < features; e++) to[e] = from[e];
  }
}

template <typename T, int BN, int GRAIN>
static __global__ void __launch_bounds__(THREADS, 2)
    windows_mma(conv_job j, const T *weight, int64_t pitch, int64_t pixel_tiles, int feature_tiles, bool packs) {
  extern __shared__ uint4 room[];
  constexpr uint32_t STAGE = (BM + BN) * BK * 2;
  fk_wait_previous();
  int64_t block = blockIdx.x, feature_tile = block % feature_tiles;
  block /= feature_tiles;
  int64_t first_pixel = block % pixel_tiles * BM;
  int group = (int)(block / pixel_tiles), features = j.features - (int)feature_tile * BN;
  int64_t channel = (int64_t)group * j.features + feature_tile * BN,
          depth = (int64_t)j.channels * j.kernel_h * j.kernel_w;
  const uint16_t *right = (const uint16_t *)weight + channel * pitch;
  uint32_t base = fk_shared_address(room);
  int steps = (int)((depth + BK - 1) / BK);
  gather g;
  begin_gather(j, first_pixel, group, &g);
  float c[4][BN / 32][4] = {};
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) {
      fill_left<GRAIN>(j, &g, base + s * STAGE);
      fill_right<BN>(right, pitch, features, (int64_t)s * BK, base + s * STAGE + BM * BK * 2);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  for (int s = 0; s < steps; s++) {
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
    __syncthreads();
    uint32_t stage = base + s % STAGES * STAGE;
    int next = s + STAGES - 1;
    if (next < steps) { /* into the stage that everyone has left before this barrier */
      uint32_t to = base + next % STAGES * STAGE;
      fill_left<GRAIN>(j, &g, to);
      fill_right<BN>(right, pitch, features, (int64_t)next * BK, to + BM * BK * 2);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    multiply_stage<T, BN>(stage, stage + BM * BK * 2, c);
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();
  store_tile<T, BN>(j, (T *)room, first_pixel, channel, features, packs, c);
}

template <typename T, int BN>
static fk_status launch(fk_context *ctx, fk_type type, const conv_job &j) {
  int64_t depth = (int64_t)j.channels * j.kernel_h * j.kernel_w, pitch = fk_ceil_div(depth, 8) * 8;
  int64_t pixel_tiles = fk_ceil_div(j.pixels, BM), feature_tiles = fk_ceil_div(j.features, BN);
  int64_t blocks = pixel_tiles * feature_tiles * j.groups;
  if (blocks > INT32_MAX)
    return fk_fail(FK_ERROR_UNSUPPORTED, "conv2d: cuda: %lld tiles; expected fewer than 2^31", (long long)blocks);
  const void *weight;
  FK_TRY(conv_pack(ctx, type, j, pitch, &weight));
  int64_t together = j.channels | j.x_batch | j.x_row | j.x_pixel;
  int grain = together % 8 == 0 && (uintptr_t)j.x % 16 == 0 ? 8 : together % 4 == 0 && (uintptr_t)j.x % 8 == 0 ? 4 : 1;
  bool packs = j.features % 8 == 0 && fk_packs<T>(j.out, j.out_batch, 0) && fk_packs<T>(j.out, j.out_row, 0) &&
               fk_packs<T>(j.out, j.out_pixel, 0);
  size_t bytes = (size_t)STAGES * (BM + BN) * BK * 2;
  auto kernel = grain == 8 ? windows_mma<T, BN, 8> : grain == 4 ? windows_mma<T, BN, 4> : windows_mma<T, BN, 1>;
  return fk_launch_early(ctx, kernel, dim3((unsigned)blocks), dim3(THREADS), bytes, j, (const T *)weight, pitch,
                         pixel_tiles, (int)feature_tiles, packs);
}

/* Groups of few channels would leave most of a tile empty. The weights must be readable in 16 bytes, packed or not. */
bool conv_can_mma(fk_type type, const conv_job &j) {
  return type != FK_F32 && conv_can_pack(j) && (j.groups == 1 || j.features >= 16) && (uintptr_t)j.weight % 16 == 0;
}

fk_status conv_mma(fk_context *ctx, fk_type type, const conv_job &j) {
  if (type == FK_BF16) {
    return j.features > 64 ? launch<__nv_bfloat16, 128>(ctx, type, j) : launch<__nv_bfloat16, 64>(ctx, type, j);
  }
  return j.features > 64 ? launch<__half, 128>(ctx, type, j) : launch<__half, 64>(ctx, type, j);
}
