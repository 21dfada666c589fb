/* conv2d of 16-bit images on Hopper: the product of mma.cu by wgmma. A block has a warp group that fetches and two that
 * multiply, 64 pixels each; it stays on its multiprocessor and takes tile after tile, so that fetching runs ahead
 * across tiles. Stages are handed over by barriers: `full` when all fetching threads' copies have arrived and are
 * visible to the tensor cores, `empty` when both multiplying groups are done with a stage.
 *
 * Tiles are rows of 128 bytes, eight pieces of 16; piece p of row r lies at p ^ (r % 8), as wgmma expects. */
#include "conv.cuh"
#include "wgmma.cuh"

enum {
  BM = 128,
  BK = FK_CONV_DEPTH,
  FETCHERS = 128,
  THREADS = FETCHERS + 256,
  STAGES = 4,
  BEHIND = STAGES - 2, /* stages in flight after the one that is announced; more would wait for themselves */
  PIECES = BK / 8,
  ROW_STEP = FETCHERS / PIECES,
  A_ROWS = BM / ROW_STEP,
  A_BYTES = BM * BK * 2,
  STRIP = 64,       /* columns that a warp stages at a time on their way out */
  STRIP_PITCH = 72, /* elements: rows start 4 banks apart */
  STRIP_BYTES = 16 * STRIP_PITCH * 2
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* ---- Barriers -------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void barrier_begin(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
static __device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/* Gives up after ten seconds, once and for all, and the kernel reports it: better than a GPU that hangs. */
static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity, bool *lost) {
  uint32_t done = *lost;
  uint64_t since = 0, now;
  for (int tries = 0; !done; tries++) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    if (tries < 64) continue;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (since == 0) since = now;
    if (now - since > 10000000000ull) done = *lost = true;
  }
}

/* ---- Fetching -------------------------------------------------------------------------------------------- */

/* 16 bytes to shared memory, zeros when not given; kept in the first-level cache for other taps. */
static __device__ __forceinline__ void copy_piece(uint32_t to, const void *from, bool given) {
  int bytes = given ? 16 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

/* Many bytes by one thread; the barrier counts them, and one arrival. */
static __device__ __forceinline__ void copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

/* The rows of the left tile that a thread fills, and where along the depth its piece is. */
typedef struct gather {
  int64_t at[A_ROWS];       /* of the window's first tap, from x */
  int y[A_ROWS], x[A_ROWS]; /* of that tap; y far outside for no pixel */
  int channel, ky, kx;      /* ky is kernel_h beyond the end */
} gather;

/* One step of depth onward. Where a step is one tap of a chunk of channels, the taps come first: they mostly read the
 * same pixels, which the first-level cache then still has. */
static __device__ __forceinline__ void advance(const conv_job &j, int by, bool taps_first, gather *g) {
  if (taps_first) {
    if (++g->kx < j.kernel_w) return;
    g->kx = 0;
    if (++g->ky < j.kernel_h) return;
    g->ky = 0;
    g->channel += BK;
    return;
  }
  g->channel += by;
  while (g->channel >= j.channels && g->ky < j.kernel_h) {
    g->channel -= j.channels;
    if (++g->kx == j.kernel_w) g->kx = 0, ++g->ky;
  }
}

static __device__ __forceinline__ void begin_gather(const conv_job &j, int64_t first_pixel, int group, bool taps_first,
                                                    gather *g) {
#pragma unroll
  for (int i = 0; i < A_ROWS; i++) {
    int64_t pixel = first_pixel + threadIdx.x / PIECES + i * ROW_STEP;
    bool given = pixel < j.pixels;
    if (!given) pixel = 0;
    int64_t line = pixel / j.out_width, image = line / j.out_height;
    int y = (int)(line - image * j.out_height) * j.stride_h - j.padding_h;
    g->x[i] = (int)(pixel - line * j.out_width) * j.stride_w - j.padding_w;
    g->y[i] = given ? y : INT32_MIN / 2;
    g->at[i] = image * j.x_batch + y * j.x_row + g->x[i] * j.x_pixel + (int64_t)group * j.channels;
  }
  g->channel = g->ky = g->kx = 0;
  if (taps_first)
    g->channel = threadIdx.x % PIECES * 8;
  else
    advance(j, threadIdx.x % PIECES * 8, false, g);
}

static __device__ __forceinline__ void fetch_left(const conv_job &j, bool taps_first, gather *g, uint32_t tile) {
  int piece = threadIdx.x % PIECES, row = threadIdx.x / PIECES;
  int dy = g->ky * j.dilation_h, dx = g->kx * j.dilation_w;
  bool inside = g->ky < j.kernel_h;
  const uint16_t *from = (const uint16_t *)j.x + dy * j.x_row + dx * j.x_pixel + g->channel;
#pragma unroll
  for (int i = 0; i < A_ROWS; i++) {
    int r = row + i * ROW_STEP;
    bool seen = inside && (unsigned)(g->y[i] + dy) < (unsigned)j.height && (unsigned)(g->x[i] + dx) < (unsigned)j.width;
    copy_piece(tile + r * 128 + ((piece ^ (r & 7)) << 4), seen ? from + g->at[i] : (const uint16_t *)j.x, seen);
  }
  advance(j, BK, taps_first, g);
}

static __device__ __forceinline__ void announce(uint32_t full) {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  barrier_arrive(full);
}

/* What a tile's number stands for. */
typedef struct place {
  int64_t first_pixel, channel; /* channel: of out */
  int group, features;          /* features: from channel to the end of the group */
  int64_t weights;              /* which tile of weights */
} place;

static __device__ __forceinline__ place place_of(const conv_job &j, int64_t tile, int64_t pixel_tiles,
                                                 int feature_tiles, int bn) {
  int64_t rest = tile / feature_tiles, group = rest / pixel_tiles;
  int first = (int)(tile - rest * feature_tiles) * bn;
  place p = {(rest - group * pixel_tiles) * BM, group * j.features + first, (int)group, j.features - first,
             group * feature_tiles + (tile - rest * feature_tiles)};
  return p;
}

/* ---- Storing --------------------------------------------------------------------------------------------- */

/* 16 pixels of a warp, N columns from channel on. */
template <typename T, int N>
static __device__ __forceinline__ void store_rows(const conv_job &j, T *strip, int64_t first_pixel, int64_t channel,
                                                  int features, bool packs, const float *c) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int n0 = 0; n0 < N; n0 += STRIP) {
    constexpr int LAST = N % STRIP ? N % STRIP : STRIP;
    const int width = n0 + STRIP <= N ? STRIP : LAST;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < width; n += 8) {
      int column = n0 + n + lane % 4 * 2;
      float bias0 = 0, bias1 = 0;
      if (j.bias && column < features) bias0 = fk_float(((const T *)j.bias)[channel + column]);
      if (j.bias && column + 1 < features) bias1 = fk_float(((const T *)j.bias)[channel + column + 1]);
      const float *v = c + (n0 + n) / 2;
      T *to = strip + lane / 4 * STRIP_PITCH + n + lane % 4 * 2;
      to[0] = fk_from<T>(v[0] + bias0);
      to[1] = fk_from<T>(v[1] + bias1);
      to[8 * STRIP_PITCH] = fk_from<T>(v[2] + bias0);
      to[8 * STRIP_PITCH + 1] = fk_from<T>(v[3] + bias1);
    }
    __syncwarp();
    for (int i = lane; i < 16 * (width / 8); i += 32) {
      int row = i / (width / 8), n = i % (width / 8) * 8, column = n0 + n;
      int64_t pixel = first_pixel + row;
      if (pixel >= j.pixels || column >= features) continue;
      int64_t line = pixel / j.out_width, image = line / j.out_height;
      T *to = (T *)j.out + image * j.out_batch + (line - image * j.out_height) * j.out_row +
              (pixel - line * j.out_width) * j.out_pixel + channel + column;
      const T *from = strip + row * STRIP_PITCH + n;
      if (packs && column + 8 <= features)
        fk_store_pack(to, fk_load_pack(from));
      else
        for (int e = 0; e < 8 && column + e < features; e++) to[e] = from[e];
    }
  }
}

#endif

/* Tiles of N columns. */
template <typename T, int N>
static __global__ void __launch_bounds__(THREADS, 1)
    windows_wgmma(conv_job j, const T *weight, int64_t pixel_tiles, int feature_tiles, int64_t tiles, bool packs,
                  fk_index_check stuck) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int BN = N, STAGE = A_BYTES + BN * BK * 2;
  extern __shared__ uint4 room[];
  __shared__ uint64_t barriers[2 * STAGES];
  uint32_t base = (fk_shared_address(room) + 1023) / 1024 * 1024, full = fk_shared_address(barriers),
           empty = full + 8 * STAGES;
  int64_t depth = (int64_t)j.channels * j.kernel_h * j.kernel_w;
  int steps = (int)((depth + BK - 1) / BK);
  const bool taps_first = j.channels % BK == 0 && j.joined == 1;
  if (threadIdx.x == 0)
    for (int s = 0; s < STAGES; s++) {
      barrier_begin(full + 8 * s, FETCHERS + 1);
      barrier_begin(empty + 8 * s, (THREADS - FETCHERS) / 32);
    }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); /* bulk copies see the barriers */
  __syncthreads();
  fk_wait_previous();
  uint32_t at = 0; /* stages that have gone by */
  bool lost = false;
  if (threadIdx.x < FETCHERS) {
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      place p = place_of(j, tile, pixel_tiles, feature_tiles, BN);
      const T *right = weight + p.weights * steps * (BN * BK);
      gather g;
      begin_gather(j, p.first_pixel, p.group, taps_first, &g);
      for (int s = 0; s < steps; s++, at++) {
        uint32_t slot = at % STAGES, to = base + slot * STAGE;
        barrier_wait(empty + 8 * slot, (at / STAGES & 1) ^ 1, &lost); /* at once for the first round */
        if (threadIdx.x == 0) copy_bulk(to + A_BYTES, right + (int64_t)s * (BN * BK), BN * BK * 2, full + 8 * slot);
        fetch_left(j, taps_first, &g, to);
        asm volatile("cp.async.commit_group;" ::: "memory");
        if (at >= BEHIND) {
          asm volatile("cp.async.wait_group %0;" ::"n"(BEHIND + 0) : "memory");
          announce(full + 8 * ((at - BEHIND) % STAGES));
        }
      }
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    for (uint32_t s = at < BEHIND ? 0 : at - BEHIND; s < at; s++) announce(full + 8 * (s % STAGES));
    if (lost) fk_index_ok(stuck, -1, 1);
    return;
  }
  int warp = threadIdx.x / 32 - FETCHERS / 32;
  T *strip = (T *)((char *)room + (base - fk_shared_address(room)) + STAGES * STAGE + warp * STRIP_BYTES);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    float c[N / 2];
    for (int s = 0; s < steps; s++, at++) {
      uint32_t slot = at % STAGES, left = base + slot * STAGE + warp / 4 * (64 * 128),
               right = base + slot * STAGE + A_BYTES;
      barrier_wait(full + 8 * slot, at / STAGES & 1, &lost);
      fk_wgmma_fence();
#pragma unroll
      for (int k = 0; k < BK / 16; k++)
        multiply_async<T, N>(c, matrix_at(left + 32 * k), matrix_at(right + 32 * k), s + k > 0);
      fk_wgmma_commit();
      fk_wgmma_wait<1>();
      if (s > 0 && threadIdx.x % 32 == 0) barrier_arrive(empty + 8 * ((at - 1) % STAGES));
    }
    fk_wgmma_wait<0>();
    if (threadIdx.x % 32 == 0) barrier_arrive(empty + 8 * ((at - 1) % STAGES));
    place p = place_of(j, tile, pixel_tiles, feature_tiles, BN);
    store_rows<T, N>(j, strip, p.first_pixel + warp * 16, p.channel, p.features, packs, c);
  }
  if (lost) fk_index_ok(stuck, -1, 1);
#endif
}

/* Channels whose taps lie together. */
static int chunk_of(const conv_job &j) {
  return j.channels % BK == 0 && j.joined == 1 ? BK : j.channels;
}

template <typename T, int N>
static fk_status launch(fk_context *ctx, fk_type type, const conv_job &j) {
  constexpr int BN = N;
  const void *weight;
  FK_TRY(conv_pack_tiles(ctx, type, j, chunk_of(j), BN, &weight));
  int64_t pixel_tiles = fk_ceil_div(j.pixels, BM), feature_tiles = fk_ceil_div(j.features, BN);
  int64_t tiles = pixel_tiles * feature_tiles * j.groups, sms = fk_context_cuda(ctx)->num_sms;
  bool packs = j.features % 8 == 0 && fk_packs<T>(j.out, j.out_batch, 0) && fk_packs<T>(j.out, j.out_row, 0) &&
               fk_packs<T>(j.out, j.out_pixel, 0);
  size_t bytes = 1024 + (size_t)STAGES * (A_BYTES + BN * BK * 2) + 8 * STRIP_BYTES;
  return fk_launch_early(ctx, windows_wgmma<T, N>, dim3((unsigned)(tiles < sms ? tiles : sms)), dim3(THREADS), bytes, j,
                         (const T *)weight, pixel_tiles, (int)feature_tiles, tiles, packs,
                         fk_index_checker(ctx, "conv2d: a barrier that was never reached"));
}

/* Columns of a tile, so that the last round of tiles and the last columns waste the least. */
static int columns_of(const conv_job &j, int64_t sms) {
  static const int widths[] = {256, 192, 128, 96, 64};
  int best = 0;
  int64_t least = 0;
  for (int width : widths) {
    int64_t tiles = fk_ceil_div(j.pixels, BM) * fk_ceil_div(j.features, width) * j.groups;
    int64_t cost = fk_ceil_div(tiles, sms) * (width + 32);
    if (!best || cost < least) best = width, least = cost;
  }
  return best;
}

template <typename T>
static fk_status dispatch(fk_context *ctx, fk_type type, const conv_job &j) {
  switch (columns_of(j, fk_context_cuda(ctx)->num_sms)) {
    case 256:
      return launch<T, 256>(ctx, type, j);
    case 192:
      return launch<T, 192>(ctx, type, j);
    case 128:
      return launch<T, 128>(ctx, type, j);
    case 96:
      return launch<T, 96>(ctx, type, j);
    default:
      return launch<T, 64>(ctx, type, j);
  }
}

/* Few tiles leave most multiprocessors idle: the smaller ones of mma.cu then serve better. */
bool conv_can_wgmma(const fk_cuda *cuda, fk_type type, const conv_job &j) {
  bool whole =
      j.channels % 8 == 0 && (uintptr_t)j.x % 16 == 0 && j.x_batch % 8 == 0 && j.x_row % 8 == 0 && j.x_pixel % 8 == 0;
  return cuda->compute_capability == 90 && whole && conv_can_mma(type, j) && j.features >= 48 &&
         fk_ceil_div(j.pixels, BM) * fk_ceil_div(j.features, 64) * j.groups >= cuda->num_sms / 2;
}

fk_status conv_wgmma(fk_context *ctx, fk_type type, const conv_job &j) {
  if (type == FK_BF16) return dispatch<__nv_bfloat16>(ctx, type, j);
  return dispatch<__half>(ctx, type, j);
}
