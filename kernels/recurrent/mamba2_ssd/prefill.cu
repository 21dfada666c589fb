/* Long sequences: a block has 64 rows of a head's state of one sequence and goes through its chunks of 128 tokens.
 *
 * With total_t the sum of dt A up to token t of the chunk, and h the state before it,
 *   y_t = exp(total_t) h C_t + sum over s <= t of (C_t . B_s) exp(total_t - total_s) dt_s x_s,
 *   h  <- exp(total_last) h + sum over s of exp(total_last - total_s) dt_s x_s B_s^T
 * (the state-space duality of arXiv 2405.21060). All products run on the tensor cores. The state stays in float32, in
 * the registers of all warps, from the first chunk to the last. Factors that are not inputs go to the tensor cores in
 * two 16-bit parts: scaled x, whose product with B is added to the state; the state, as a factor of y; weights of the
 * sum. So the state is as exact as float32 sums are, and y is rounded once. While a chunk is computed, the next one is
 * fetched and its sums are made.
 *
 * A warp computes 16 tokens of y and 16 rows of half of the state. Early tokens see few others: tiles are dealt so that
 * two warps that share a scheduler have equal work.
 *
 * Where something is not finite, a product in a chunk spreads it to tokens that it does not concern: the block then
 * goes through its sequence once more, token by token. The state in memory is as it was until the end. */
#include "prefill.cuh"
#include "prefill.h"

/* ---- Fetching -------------------------------------------------------------------------------------------- */

/* Tokens [first, first + count) of one matrix, COLUMNS elements each, into a tile; what lies beyond count is zero. */
template <typename T, int COLUMNS>
static __device__ __forceinline__ void fetch_rows(uint32_t tile, const T *from, int64_t stride, int count) {
  constexpr int PIECES = COLUMNS / 8, STEP = THREADS / PIECES; /* a multiple of 8: pieces stay where they are in rows */
  int first = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
  const T *mine = from + first * stride + piece * 8;
  tile += at_piece<CHUNK>(first, piece);
#pragma unroll
  for (int i = 0; i < CHUNK / STEP; i++) {
    bool exists = first + i * STEP < count;
    copy_piece(tile + i * STEP * 128, exists ? mine + i * STEP * stride : from, exists);
  }
}

template <typename T, int N>
static __device__ __forceinline__ void fetch_chunk(const ssd_job &j, const block_work &w, int start, uint32_t stage) {
  int left = w.q.tokens - start, group = w.head / j.heads_per_group;
  int64_t token = w.q.first + start;
  fetch_rows<T, N>(stage + layout<N>::X, (const T *)j.B + token * j.b_token + group * j.b_group, j.b_token, left);
  fetch_rows<T, N>(stage + layout<N>::X + layout<N>::BC, (const T *)j.C + token * j.c_token + group * j.c_group,
                   j.c_token, left);
  fetch_rows<T, DIM>(stage, (const T *)j.x + token * j.x_token + w.head * j.x_head + w.row, j.x_token, left);
}

/* ---- Outputs --------------------------------------------------------------------------------------------- */

/* Scores of 16 tokens against 32, from token s on, weighed by dt and decay, as left factors of two products. */
template <typename T, int N>
static __device__ __forceinline__ void weigh(const uint32_t (&c)[N / 16][4], uint32_t b_tile, const chunk_steps *steps,
                                             int t, int s, const float (&row)[2], float skip, int lane,
                                             uint32_t (&coarse)[2][4], uint32_t (&fine)[2][4]) {
  float score[4][4] = {};
#pragma unroll
  for (int k = 0; k < N / 16; k++)
#pragma unroll
    for (int n = 0; n < 2; n++) {
      uint32_t b[4];
      load_right<CHUNK>(b, b_tile, s + n * 16, k * 16, lane);
      fk_mma<T>(score[2 * n], c[k], b[0], b[1]);
      fk_mma<T>(score[2 * n + 1], c[k], b[2], b[3]);
    }
#pragma unroll
  for (int n = 0; n < 4; n++) {
    int column = s + n * 8 + lane % 4 * 2;
    float2 from = *(const float2 *)&steps->from[column];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float low = score[n][2 * i] * power_of_two(row[i] - from.x);
      float high = score[n][2 * i + 1] * power_of_two(row[i] - from.y);
      int token = t + lane / 4 + 8 * i;
      low = column <= token ? low : 0, high = column + 1 <= token ? high : 0;
      if (column == token) low += skip;
      if (column + 1 == token) high += skip;
      in_two_parts<T>(low, high, &coarse[n / 2][n % 2 * 2 + i], &fine[n / 2][n % 2 * 2 + i]);
    }
  }
}

/* y of tokens [t, t + 16) of the chunk into y. */
template <typename T, int N>
static __device__ __forceinline__ void compute_outputs(uint32_t stage, uint32_t h_tile, const chunk_steps *steps, int t,
                                                       float skip, int lane, float (&y)[DIM / 8][4]) {
  uint32_t b_tile = stage + layout<N>::X, c_tile = b_tile + layout<N>::BC, c[N / 16][4];
#pragma unroll
  for (int k = 0; k < N / 16; k++) load_left<CHUNK>(c[k], c_tile, t, k * 16, lane);
#pragma unroll
  for (int n = 0; n < DIM / 8; n++) y[n][0] = y[n][1] = y[n][2] = y[n][3] = 0;
#pragma unroll
  for (int k = 0; k < N / 16; k++)
#pragma unroll
    for (int n = 0; n < DIM / 16; n++) {
#pragma unroll
      for (int part = 0; part < 2; part++) {
        uint32_t h[4];
        load_right<DIM>(h, h_tile + part * layout<N>::H, n * 16, k * 16, lane);
        fk_mma<T>(y[2 * n], c[k], h[0], h[1]);
        fk_mma<T>(y[2 * n + 1], c[k], h[2], h[3]);
      }
    }
  float row[2] = {steps->before[t + lane / 4], steps->before[t + lane / 4 + 8]};
  float decay[2] = {power_of_two(row[0]), power_of_two(row[1])};
#pragma unroll
  for (int n = 0; n < DIM / 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) y[n][i] *= decay[i / 2];
  for (int s = 0; s < t + 16; s += 32) {
    uint32_t coarse[2][4], fine[2][4];
    weigh<T, N>(c, b_tile, steps, t, s, row, skip, lane, coarse, fine);
#pragma unroll
    for (int k = 0; k < 2; k++)
#pragma unroll
      for (int n = 0; n < DIM / 16; n++) {
        uint32_t x[4];
        load_right_turned<CHUNK>(x, stage, n * 16, s + k * 16, lane);
        fk_mma<T>(y[2 * n], coarse[k], x[0], x[1]);
        fk_mma<T>(y[2 * n + 1], coarse[k], x[2], x[3]);
        fk_mma<T>(y[2 * n], fine[k], x[0], x[1]);
        fk_mma<T>(y[2 * n + 1], fine[k], x[2], x[3]);
      }
  }
}

/* ---- State: warp w has rows 16 (w % 4) on, columns N / 2 (w / 4) on ------------------------------------------ */

template <typename T, int N>
static __device__ __forceinline__ void advance_state(uint32_t stage, const chunk_steps *steps, int tokens, int lane,
                                                     float (&h)[N / 16][4]) {
  int warp = threadIdx.x / 32, row = warp % 4 * 16, column = warp / 4 * (N / 2);
  float decay = steps->decay * steps->scale;
#pragma unroll
  for (int n = 0; n < N / 16; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) h[n][i] *= decay;
#pragma unroll 2
  for (int k = 0; k < tokens; k += 16) {
    uint32_t x[4], coarse[4], fine[4];
    load_left_turned<CHUNK>(x, stage, row, k, lane);
    float2 by[2] = {*(const float2 *)&steps->after[k + lane % 4 * 2],
                    *(const float2 *)&steps->after[k + 8 + lane % 4 * 2]};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float2 v = unpack_two<T>(x[i]);
      in_two_parts<T>(v.x * by[i / 2].x, v.y * by[i / 2].y, &coarse[i], &fine[i]);
    }
#pragma unroll
    for (int n = 0; n < N / 32; n++) {
      uint32_t b[4];
      load_right_turned<CHUNK>(b, stage + layout<N>::X, column + n * 16, k, lane);
      fk_mma<T>(h[2 * n], coarse, b[0], b[1]);
      fk_mma<T>(h[2 * n + 1], coarse, b[2], b[3]);
      fk_mma<T>(h[2 * n], fine, b[0], b[1]);
      fk_mma<T>(h[2 * n + 1], fine, b[2], b[3]);
    }
  }
  unscale<T, N>(steps, h);
}

/* Where this lane's part of the state lies in memory; fragment n, half i is at n * 8 + i * 8 * N. */
template <int N>
static __device__ __forceinline__ float *state_at(const ssd_job &j, const block_work &w, int lane) {
  int warp = threadIdx.x / 32, row = w.row + warp % 4 * 16 + lane / 4, column = warp / 4 * (N / 2) + lane % 4 * 2;
  return j.state + ((w.q.slot * j.heads + w.head) * j.dim + row) * (int64_t)N + column;
}

/* ---- The kernel ------------------------------------------------------------------------------------------- */

/* Everything that a warp does with a chunk; yields 0, or NaN when something is not finite. */
typedef struct chunk_place {
  char *shared;
  uint32_t base;    /* of shared */
  int stage, state; /* offsets */
  int start;        /* its first token */
  bool more;        /* another chunk follows */
  chunk_steps *now, *next;
} chunk_place;

template <typename T, int N>
static __device__ __forceinline__ float one_chunk(const ssd_job &j, const block_work &w, const chunk_place &p,
                                                  float skip, int lane, float (&h)[N / 16][4]) {
  int warp = threadIdx.x / 32, tile = warp < 4 ? warp : 11 - warp, left = min(w.q.tokens - p.start, (int)CHUNK);
  float nothing = 0;
  T raw[4];
  if (p.more && warp == 0) fetch_steps<T, 4>(j, w, p.start + CHUNK, raw);
  if (tile * 16 < left) {
    float y[DIM / 8][4];
    compute_outputs<T, N>(p.base + p.stage, p.base + p.state, p.now, tile * 16, skip, lane, y);
    nothing =
        store_outputs<T, CHUNK>(j, w, p.shared + p.stage + layout<N>::X + layout<N>::BC, p.start, tile * 16, lane, y);
  }
  if (p.more && warp == 0) make_steps<T, 4>(j, w, p.start + CHUNK, raw, p.next);
  advance_state<T, N>(p.base + p.stage, p.now, left, lane, h);
  return nothing;
}

/* Goes through all chunks; false when something was not finite, and then the state in memory is untouched. */
template <typename T, int N>
static __device__ __forceinline__ bool scan_chunks(const ssd_job &j, const block_work &w, int stages, char *shared) {
  int warp = __shfl_sync(0xffffffffu, (int)threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  chunk_place p = {shared, fk_shared_address(shared)};
  p.state = stages * layout<N>::STAGE;
  chunk_steps *steps = (chunk_steps *)(shared + p.state + 2 * layout<N>::H);
  float h[N / 16][4], skip = j.D ? fk_float(((const T *)j.D)[w.head]) : 0;
  float *state = state_at<N>(j, w, lane);
  fetch_chunk<T, N>(j, w, 0, p.base);
#pragma unroll
  for (int n = 0; n < N / 16; n++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float2 v = w.q.has_initial_state ? *(const float2 *)(state + n * 8 + i * 8 * N) : make_float2(0, 0);
      h[n][2 * i] = v.x, h[n][2 * i + 1] = v.y;
    }
  float nothing = share_state<T, N>(shared + p.state, lane, h);
  if (warp == 0) {
    T raw[4];
    fetch_steps<T, 4>(j, w, 0, raw);
    make_steps<T, 4>(j, w, 0, raw, &steps[0]);
  }
  for (int turn = 0; p.start < w.q.tokens; p.start += CHUNK, turn ^= 1) {
    if (stages == 1 && p.start > 0) {
      __syncthreads();
      fetch_chunk<T, N>(j, w, p.start, p.base);
    }
    wait_for_copies();
    if (__syncthreads_or(nothing != 0)) return false;
    p.more = p.start + CHUNK < w.q.tokens;
    p.stage = stages == 1 ? 0 : turn * layout<N>::STAGE;
    p.now = &steps[turn], p.next = &steps[turn ^ 1];
    if (p.more && stages == 2) fetch_chunk<T, N>(j, w, p.start + CHUNK, p.base + (turn ^ 1) * layout<N>::STAGE);
    nothing = one_chunk<T, N>(j, w, p, skip, lane, h);
    if (!p.more) break;
    __syncthreads(); /* all have used the state */
    nothing += share_state<T, N>(shared + p.state, lane, h);
  }
#pragma unroll
  for (int n = 0; n < N / 16; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) nothing = fmaf(h[n][i], 0, nothing);
  if (__syncthreads_or(nothing != 0)) return false;
#pragma unroll
  for (int n = 0; n < N / 16; n++)
#pragma unroll
    for (int i = 0; i < 2; i++) *(float2 *)(state + n * 8 + i * 8 * N) = make_float2(h[n][2 * i], h[n][2 * i + 1]);
  return true;
}

template <typename T, int N>
static __global__ void __launch_bounds__(THREADS, 1)
    ssd_chunks(const __grid_constant__ ssd_job j, int shortest, bool every, int stages) {
  extern __shared__ __align__(128) char shared[];
  constexpr int LANES = N / 4, LANE_ROWS = 32 / LANES * 8;
  fk_wait_previous();
  fk_let_next_start();
  block_work w;
  if (!find_work(j, shortest, every, &w)) return;
  if (scan_chunks<T, N>(j, w, stages, shared)) return;
  int row = threadIdx.x / 32 * LANE_ROWS;
  if (row < DIM) scan_rows<T, LANES, 1, true>(j, w.q, w.head, w.row + row + threadIdx.x % 32 / LANES * 8);
}

static int stages_of(fk_context *ctx, int size) {
  size_t room = fk_context_cuda(ctx)->max_shared_bytes;
  for (int stages = 2; stages > 0; stages--)
    if ((size_t)(size == 64 ? layout<64>::shared(stages) : layout<128>::shared(stages)) <= room) return stages;
  return 0;
}

bool ssd_prefill_fits(fk_context *ctx, const ssd_job *j, fk_type type) {
  int64_t strides =
      j->x_token | j->x_head | j->b_token | j->b_group | j->c_token | j->c_group | j->out_token | j->out_head;
  uintptr_t bases = (uintptr_t)j->x | (uintptr_t)j->B | (uintptr_t)j->C | (uintptr_t)j->out | (uintptr_t)j->state;
  return (type == FK_BF16 || type == FK_F16) && (j->size == 64 || j->size == 128) && j->dim % DIM == 0 &&
         strides % 8 == 0 && bases % 16 == 0 && stages_of(ctx, j->size) > 0;
}

template <typename T>
static fk_status launch(fk_context *ctx, const ssd_job *j, int shortest) {
  int64_t most = j->num_tokens / (shortest + 1), seqs = most < j->num_seqs ? most : j->num_seqs;
  int64_t blocks = seqs * j->heads * (j->dim / DIM);
  int stages = stages_of(ctx, j->size);
  if (blocks > INT32_MAX)
    return fk_fail(FK_ERROR_UNSUPPORTED, "mamba2_ssd: cuda: %d sequences of %d heads are too many", j->num_seqs,
                   j->heads);
  dim3 grid((unsigned)blocks), block(THREADS);
  size_t shared = (size_t)(j->size == 64 ? layout<64>::shared(stages) : layout<128>::shared(stages));
  void (*kernel)(ssd_job, int, bool, int) = j->size == 64 ? ssd_chunks<T, 64> : ssd_chunks<T, 128>;
  return fk_launch_early(ctx, kernel, grid, block, shared, *j, shortest, seqs == j->num_seqs, stages);
}

fk_status ssd_prefill(fk_context *ctx, const ssd_job *j, fk_type type, int shortest) {
  return type == FK_F16 ? launch<__half>(ctx, j, shortest) : launch<__nv_bfloat16>(ctx, j, shortest);
}
