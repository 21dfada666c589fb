/* What prefill.cu is made of: 16-bit tiles in shared memory, and the products of the tensor cores.
 *
 * A tile is one or two slabs of 64 columns, each [ROWS][64]: 128 bytes a row, whose 16-byte piece p lies at
 * p ^ (row % 8). So eight rows of one column, or eight columns of one row, come from different banks, and the
 * instructions of compute capability 9.0 can read it too. */
#pragma once

#include "device/cuda/mma.cuh"
#include "ssd.cuh"

enum { CHUNK = 128, DIM = 64, WARPS = 8, THREADS = 32 * WARPS };

/* What the time steps of a chunk say, totals in powers of two. */
typedef struct chunk_steps {
  float before[CHUNK]; /* decay from the state before to each token: 2^before */
  float from[CHUNK];   /* 2^(before[t] - from[s]) is dt_s times the decay from s to t */
  float after[CHUNK];  /* dt times the decay from each token to the last, times scale */
  float decay, scale;  /* of the whole chunk; scale keeps `after` in the range of float16 */
} chunk_steps;

template <int N>
struct layout {
  static constexpr int X = CHUNK * DIM * 2, BC = CHUNK * N * 2, STAGE = X + 2 * BC, H = DIM * N * 2; /* H: one part */
  static constexpr int shared(int stages) {
    return stages * STAGE + 2 * H + 2 * (int)sizeof(chunk_steps);
  }
};

/* Where 8 elements from column 8 * piece on of a row are. */
template <int ROWS>
static __device__ __forceinline__ uint32_t at_piece(int row, int piece) {
  return piece / 8 * (ROWS * 128) + row * 128 + ((piece % 8 ^ (row & 7)) << 4);
}

/* Left factor [16 rows][16 depth] from rows of depth. */
template <int ROWS>
static __device__ __forceinline__ void load_left(uint32_t (&r)[4], uint32_t tile, int row, int depth, int lane) {
  fk_load_matrices(r, tile + at_piece<ROWS>(row + lane % 16, depth / 8 + lane / 16));
}

/* The same from rows of `row`: the tile is [depth][row]. */
template <int ROWS>
static __device__ __forceinline__ void load_left_turned(uint32_t (&r)[4], uint32_t tile, int row, int depth, int lane) {
  fk_load_turned_matrices(r, tile + at_piece<ROWS>(depth + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2));
}

/* Right factor of 16 columns, two fragments, from a tile [column][depth]. */
template <int ROWS>
static __device__ __forceinline__ void load_right(uint32_t (&r)[4], uint32_t tile, int column, int depth, int lane) {
  fk_load_matrices(r, tile + at_piece<ROWS>(column + lane / 16 * 8 + lane % 8, depth / 8 + lane / 8 % 2));
}

/* The same from a tile [depth][column]. */
template <int ROWS>
static __device__ __forceinline__ void load_right_turned(uint32_t (&r)[4], uint32_t tile, int column, int depth,
                                                         int lane) {
  fk_load_turned_matrices(r, tile + at_piece<ROWS>(depth + lane % 16, column / 8 + lane / 16));
}

template <typename T>
static __device__ __forceinline__ uint32_t pack_two(float low, float high) {
  if constexpr (std::is_same<T, __half>::value) {
    __half2 v = __floats2half2_rn(low, high);
    return *(const uint32_t *)&v;
  } else {
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&v;
  }
}

template <typename T>
static __device__ __forceinline__ float2 unpack_two(uint32_t v) {
  if constexpr (std::is_same<T, __half>::value)
    return __half22float2(*(const __half2 *)&v);
  else
    return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u));
}

/* A pair as a rounded pair and what the rounding left: 16 significant bits or more. */
template <typename T>
static __device__ __forceinline__ void in_two_parts(float low, float high, uint32_t *coarse, uint32_t *fine) {
  *coarse = pack_two<T>(low, high);
  float2 c = unpack_two<T>(*coarse);
  *fine = pack_two<T>(low - c.x, high - c.y);
}

/* 2^x to a few units in the last place; 0 for -inf. */
static __device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/* 16 bytes from memory to shared memory, or zeros. */
static __device__ __forceinline__ void copy_piece(uint32_t to, const void *from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
}
static __device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

/* What a block computes: rows [row, row + DIM) of a head. */
typedef struct block_work {
  ssd_sequence q;
  int head, row;
} block_work;

/* The k-th sequence of more than `shortest` tokens, by every warp for itself. */
static __device__ __forceinline__ int long_sequence(const ssd_job &j, int k, int shortest) {
  int lane = threadIdx.x % 32;
  for (int base = 0; base < j.num_seqs; base += 32) {
    int b = base + lane;
    bool is = b < j.num_seqs && (int64_t)j.cu_seqlens_q[b + 1] - j.cu_seqlens_q[b] > shortest;
    unsigned mask = __ballot_sync(0xffffffffu, is);
    int found = __popc(mask);
    if (k < found) return base + (int)__fns(mask, 0, k + 1);
    k -= found;
  }
  return -1;
}

/* The work of this block; false when there is none. `every`: all sequences are long, as the host knows it. */
static __device__ __forceinline__ bool find_work(const ssd_job &j, int shortest, bool every, block_work *w) {
  int parts = j.dim / DIM, heads = j.heads * parts, index = blockIdx.x % heads, k = blockIdx.x / heads;
  int b = every ? k : long_sequence(j, k, shortest);
  if (b < 0) return false;
  w->head = index / parts;
  w->row = index % parts * DIM;
  if (shortest == 0 && index == 0 && threadIdx.x == 0) check_sequence(j, b);
  return sequence_at(j, b, &w->q) && w->q.tokens > shortest;
}

/* ---- Time steps, by one warp: EACH tokens per lane -------------------------------------------------------- */

template <typename T, int EACH>
static __device__ __forceinline__ void fetch_steps(const ssd_job &j, const block_work &w, int start, T (&raw)[EACH]) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    int t = start + lane * EACH + i;
    raw[i] = t < w.q.tokens ? ((const T *)j.dt)[(w.q.first + t) * j.dt_token + w.head] : fk_from<T>(0);
  }
}

/* Decays of less than 2^-160 are zero: totals end there, so that differences of what comes later stay exact. What is
 * left of a token is summed from the end, where it is a sum of few and small numbers. */
template <typename T, int EACH>
static __device__ __forceinline__ void make_steps(const ssd_job &j, const block_work &w, int start,
                                                  const T (&raw)[EACH], chunk_steps *steps) {
  int lane = threadIdx.x % 32;
  float rate = j.A[w.head] * 1.44269504f, bias = j.dt_bias ? fk_float(((const T *)j.dt_bias)[w.head]) : 0;
  float dt[EACH], left[EACH], after = 0;
  double total[EACH], before = 0;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    dt[i] = start + lane * EACH + i < w.q.tokens ? clamped_step(j, fk_float(raw[i]) + bias) : 0;
    total[i] = before += (double)fmaxf(dt[i] * rate, -160);
  }
#pragma unroll
  for (int i = EACH - 1; i >= 0; i--) left[i] = after, after += fmaxf(dt[i] * rate, -160);
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    double lower = __shfl_up_sync(0xffffffffu, before, d);
    float upper = __shfl_down_sync(0xffffffffu, after, d);
    if (lane >= d) before += lower;
    if (lane + d < 32) after += upper;
  }
  float all = __shfl_sync(0xffffffffu, after, 0), behind = __shfl_down_sync(0xffffffffu, after, 1), most = 0, by = 1;
  double ahead = __shfl_up_sync(0xffffffffu, before, 1);
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    total[i] += lane > 0 ? ahead : 0;
    left[i] = exp2f(left[i] + (lane < 31 ? behind : 0)) * dt[i];
    most = fmaxf(most, left[i]);
  }
  if constexpr (std::is_same<T, __half>::value) {
    most = fk_warp_max(most);
    by = most > 0 ? exp2f((float)-(min(max(ilogbf(most), -25), 23) + 1)) : 1;
  }
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    int t = lane * EACH + i;
    steps->before[t] = (float)total[i];
    steps->from[t] = (float)total[i] - log2f(dt[i]);
    steps->after[t] = left[i] * by;
  }
  if (lane == 0) steps->decay = exp2f(all), steps->scale = by;
}

/* ---- Outputs and states ------------------------------------------------------------------------------------ */

/* Writes 16 tokens, through the rows of C that only this warp has read. Yields 0, or NaN when some output
 * is not finite. */
template <typename T, int ROWS>
static __device__ __forceinline__ float store_outputs(const ssd_job &j, const block_work &w, char *c_tile, int start,
                                                      int t, int lane, const float (&y)[DIM / 8][4]) {
  float nothing = 0;
#pragma unroll
  for (int n = 0; n < DIM / 8; n++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      uint32_t at = at_piece<ROWS>(t + lane / 4 + 8 * i, n) + lane % 4 * 4;
      float low = y[n][2 * i], high = y[n][2 * i + 1];
      nothing = fmaf(low, 0, fmaf(high, 0, nothing));
      *(uint32_t *)(c_tile + at) = pack_two<T>(low, high);
    }
  __syncwarp();
  T *out = (T *)j.out + w.head * j.out_head + w.row + lane % 8 * 8;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int row = t + i * 4 + lane / 8;
    uint4 v = *(const uint4 *)(c_tile + at_piece<ROWS>(row, lane % 8));
    if (start + row < w.q.tokens) *(uint4 *)(out + (w.q.first + start + row) * j.out_token) = v;
  }
  return nothing;
}

/* The state as a factor in two parts, each a tile [row][column]; yields 0, or NaN when it is not finite. */
template <typename T, int N>
static __device__ __forceinline__ float share_state(char *h_tile, int lane, const float (&h)[N / 16][4]) {
  int warp = threadIdx.x / 32;
  float nothing = 0;
#pragma unroll
  for (int n = 0; n < N / 16; n++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int row = warp % 4 * 16 + lane / 4 + 8 * i, piece = warp / 4 * (N / 16) + n;
      char *to = h_tile + at_piece<DIM>(row, piece) + lane % 4 * 4;
      nothing = fmaf(h[n][2 * i], 0, fmaf(h[n][2 * i + 1], 0, nothing));
      in_two_parts<T>(h[n][2 * i], h[n][2 * i + 1], (uint32_t *)to, (uint32_t *)(to + layout<N>::H));
    }
  return nothing;
}

/* Takes back what kept the factors in the range of float16. */
template <typename T, int N>
static __device__ __forceinline__ void unscale(const chunk_steps *steps, float (&h)[N / 16][4]) {
  if constexpr (std::is_same<T, __half>::value) {
    float back = 1 / steps->scale;
#pragma unroll
    for (int n = 0; n < N / 16; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) h[n][i] *= back;
  }
}
