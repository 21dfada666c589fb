/* What a thread of the prefill kernel (prefill_sm90.cu) does with its two rows: hides keys, turns scores into weights,
 * divides, and stores. */
#pragma once

#include "prefill_work.cuh"

#if __CUDA_ARCH_FEAT_SM90_ALL

/* A thread's two rows, 8 apart: of each 8 columns of a product it has columns 2 * (lane % 4) and the next, first of row
 * lane / 4 of its warp, then of row lane / 4 + 8. */
typedef struct row_state {
  float shift[2], sum[2]; /* the power of 2 that weights are relative to; sum of the weights of this thread's columns */
  int lo[2], hi[2];       /* keys seen */
  bool shifted;           /* all rows of the warp have a shift: it is not -inf */
} row_state;

static __device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

static __device__ __forceinline__ float tanh_of(float x) {
  return 1 - __fdividef(2, 1 + exp2_fast(x * 2.885390081777927f)); /* 2 / ln 2 */
}

/* Hides what the thread's rows do not see of keys [j, j + N). */
template <int N>
static __device__ __forceinline__ void hide(float (&s)[N / 2], const row_state &r, int j, bool before, bool after) {
  int column = j + threadIdx.x % 4 * 2;
  if (after) {
    int hi0 = r.hi[0] - column, hi1 = r.hi[1] - column;
#pragma unroll
    for (int i = 0; i < N / 2; i++)
      if (i / 4 * 8 + i % 2 >= (i % 4 < 2 ? hi0 : hi1)) s[i] = -INFINITY;
  }
  if (before) {
    int lo0 = r.lo[0] - column, lo1 = r.lo[1] - column;
#pragma unroll
    for (int i = 0; i < N / 2; i++)
      if (i / 4 * 8 + i % 2 < (i % 4 < 2 ? lo0 : lo1)) s[i] = -INFINITY;
  }
}

/* Weights are 2^(score - shift), relative to a power of 2 that is near the largest score, as long as it is near: any
 * common factor drops out in the end. bfloat16 weights have the range of float; float16 ones must stay below 2^15.
 * MOST: what the weights of a thread may add up to before the shift follows. */
template <typename T>
struct weight_range {
  static constexpr float MOST = std::is_same<T, __nv_bfloat16>::value ? 0x1p40f : 0x1p12f;
};

/* Scores of a row become weights; returns the sum of this thread's. */
template <int N>
static __device__ __forceinline__ float weigh(float (&s)[N / 2], int h, float c2, float shift) {
  float sum[2] = {0, 0};
#pragma unroll
  for (int i = 2 * h; i < N / 2; i += 4) {
    s[i] = exp2_fast(fmaf(s[i], c2, -shift));
    s[i + 1] = exp2_fast(fmaf(s[i + 1], c2, -shift));
    sum[0] += s[i];
    sum[1] += s[i + 1];
  }
  return sum[0] + sum[1];
}

/* Scores become weights where some row has no shift yet, or has seen nothing but -inf. rescale is what sums over
 * earlier keys are multiplied with. */
template <int N>
static __device__ __forceinline__ void soften_first(float (&s)[N / 2], row_state &r, float c2, float (&rescale)[2]) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float largest = fmaxf(s[2 * h], s[2 * h + 1]);
#pragma unroll
    for (int i = 2 * h + 4; i < N / 2; i += 4) largest = fmaxf(largest, fmaxf(s[i], s[i + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    float scaled = largest * c2, old = r.shift[h];
    bool grew = scaled - old > 8; /* 2^8 times as heavy as what the shift stands for */
    if (grew) r.shift[h] = scaled;
    rescale[h] = grew ? exp2_fast(old - r.shift[h]) : 1;
    float sum = weigh<N>(s, h, c2, r.shift[h] == -INFINITY ? 0 : r.shift[h]);
    r.sum[h] = r.sum[h] * rescale[h] + sum;
  }
  r.shifted = __all_sync(0xffffffffu, r.shift[0] > -INFINITY && r.shift[1] > -INFINITY);
}

/* The same where every row has a shift: without looking for the largest score, which would hold the exponentials up.
 * The sum tells afterwards whether weights became too large, and they are brought down. A sum that overflowed says that
 * a score was 2^120 times as heavy as the first ones or more: that row is left to exact_row(). */
template <typename T, int N>
static __device__ __forceinline__ void soften_next(float (&s)[N / 2], row_state &r, float c2, float (&rescale)[2]) {
  float sum[2] = {weigh<N>(s, 0, c2, r.shift[0]), weigh<N>(s, 1, c2, r.shift[1])};
  rescale[0] = rescale[1] = 1;
  if (__any_sync(0xffffffffu, fmaxf(sum[0], sum[1]) > weight_range<T>::MOST)) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float most = fmaxf(sum[h], __shfl_xor_sync(0xffffffffu, sum[h], 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
      float rise = most > weight_range<T>::MOST ? fminf(floorf(log2f(most)), 120) : 0;
      rescale[h] = exp2_fast(-rise);
      r.shift[h] += most < INFINITY ? rise : INFINITY;
      sum[h] *= rescale[h];
#pragma unroll
      for (int i = 2 * h; i < N / 2; i += 4) s[i] *= rescale[h], s[i + 1] *= rescale[h];
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) r.sum[h] = r.sum[h] * rescale[h] + sum[h];
}

template <typename T>
static __device__ __forceinline__ uint32_t pair_of(float a, float b) {
  uint32_t pair;
  if constexpr (std::is_same<T, __nv_bfloat16>::value)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
  return pair;
}

/* Where 16-byte piece `piece` of row r of a tile lies among slabs [64 * CONSUMERS][64]. */
template <typename C>
static __device__ __forceinline__ char *piece_at(char *slabs, int r, int piece) {
  return slabs + piece / 8 * C::Q_SLAB + r * 128 + ((piece % 8) ^ (r % 8)) * 16;
}

/* The warp's 16 rows, through shared memory, to the output in 16-byte pieces. */
template <typename T, typename C>
static __device__ __forceinline__ void store_rows(const prefill_call &p, const work &w, char *room, int warp_row,
                                                  const float (&o)[C::DV / 2], const float (&scale)[2]) {
  int lane = threadIdx.x % 32, row = warp_row + lane / 4;
#pragma unroll
  for (int i = 0; i < C::DV / 8; i++) {
    *(uint32_t *)(piece_at<C>(room, row, i) + lane % 4 * 4) = pair_of<T>(o[4 * i] * scale[0], o[4 * i + 1] * scale[0]);
    *(uint32_t *)(piece_at<C>(room, row + 8, i) + lane % 4 * 4) =
        pair_of<T>(o[4 * i + 2] * scale[1], o[4 * i + 3] * scale[1]);
  }
  __syncwarp();
  constexpr int PIECES = C::DV / 8;
#pragma unroll 4
  for (int i = lane; i < 16 * PIECES; i += 32) {
    int r = warp_row + i / PIECES, piece = i % PIECES;
    if (r < w.rows && piece * 8 < p.c.head_size_v) {
      T *out = (T *)p.c.out.data + query_row(p.c, w.s, p.c.out, query_of(w, r), head_of(w, r)) + piece * 8;
      *(uint4 *)out = *(const uint4 *)piece_at<C>(room, r, piece);
    }
  }
  __syncwarp();
}

/* The factor of each row, row and row + 8, the sink in its denominator; *redo where the row has to be computed again.
 */
template <typename C>
static __device__ __forceinline__ void finish_rows(const prefill_call &p, const work &w, int row, row_state &r,
                                                   const float (&o)[C::DV / 2], float (&scale)[2], bool (&redo)[2]) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float sum = r.sum[h], factor = 1, spoiled = 0;
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
#pragma unroll
    for (int i = 2 * h; i < C::DV / 2; i += 4) spoiled += o[i] * 0 + o[i + 1] * 0;
    bool sees = r.lo[h] < r.hi[h];
    /* Beyond millions a float's spacing makes the shift wrong by more than exponents bear. */
    redo[h] = (spoiled != 0 && (sum > 0 || !sees)) || (sees && !(fabsf(r.shift[h]) <= 0x1p22f));
    redo[h] = __shfl_xor_sync(0xffffffffu, redo[h], 1) || redo[h];
    redo[h] = __shfl_xor_sync(0xffffffffu, redo[h], 2) || redo[h];
    if (p.c.sinks) {
      float sink = sink_of(p.c, head_of(w, row + 8 * h)) * 1.4426950408889634f, largest = fmaxf(sink, r.shift[h]);
      float shift = largest == -INFINITY ? 0 : largest;
      factor = exp2_fast(r.shift[h] - shift);
      sum = sum * factor + exp2_fast(sink - shift);
    }
    scale[h] = sees ? factor / sum : 0;
  }
}

template <typename T, typename C>
static __device__ __forceinline__ void mend_rows(const prefill_call &p, const work &w, int warp_row,
                                                 const bool (&redo)[2]) {
  unsigned first = __ballot_sync(0xffffffffu, redo[0]), second = __ballot_sync(0xffffffffu, redo[1]);
  if ((first | second) == 0) return;
#pragma unroll 1
  for (int i = 0; i < 16; i++) {
    unsigned bad = i < 8 ? first >> (4 * i) & 1 : second >> (4 * (i - 8)) & 1;
    if (bad && warp_row + i < w.rows)
      exact_row<T>(p.c, w.s, query_of(w, warp_row + i), head_of(w, warp_row + i), 0, p.c.head_size_v);
  }
}

#endif
