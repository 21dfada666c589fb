/* attention of many queries on compute capability 9.0: bfloat16 and float16, on the tensor cores.
 *
 * A block computes tiles of 64 * CONSUMERS queries of one head. Its first warpgroup fetches: queries, keys and values,
 * by tensor loads into two stages of shared memory. Each other warpgroup owns 64 queries: scores S = Q K^T of the next
 * keys run on the tensor cores while those of the present keys become exponentials P, which stay in registers for
 * O += P V. The warpgroups take turns (named barriers) at giving work to the tensor cores, so that one's exponentials
 * run beside another's products. Formulation: FlashAttention-3 (arXiv 2407.08608).
 *
 * Keys are visited from the last one a tile sees to the first. Hidden scores are set to -inf where a step has any.
 * Shared memory that lies beyond a sequence's keys holds other keys or zeros; if those are not finite, exact_row()
 * mends it. */
#include <cuda.h>
#include <cudaTypedefs.h>
#include <stdlib.h>

#include "cuda_attention.h"
#include "cuda_call.cuh"
#include "wgmma_sm90.cuh"

typedef struct prefill_call {
  attention_call c;
  int box_rows;     /* rows of one tensor load of keys or values */
  int works, tiles; /* works: tiles x heads, and for the dense layout x sequences; tiles of one sequence or of all */
  int section;      /* dense: heads (of all sequences) whose keys and values are visited at a time */
  int *counter;     /* items taken so far, or NULL: each block has its items by number */
  float c2, cap_in; /* exponent of 2 per unit of (capped) score; tanh's argument per unit of product, 0 for no cap */
} prefill_call;

/* Sizes of a kernel: elements of a key and of a value that are computed, keys per step, consumer warpgroups. */
template <int D_, int DV_, int N_, int CONSUMERS_>
struct config {
  static constexpr int D = D_, DV = DV_, N = N_, CONSUMERS = CONSUMERS_, M = 64 * CONSUMERS_, STAGES = 2;
  static constexpr int SLABS = (D + 63) / 64, SLABS_V = (DV + 63) / 64, THREADS = 128 * (CONSUMERS + 1);
  static constexpr int Q_SLAB = M * 128, KV_SLAB = N * 128;
  static constexpr int Q_BYTES = Q_SLAB * SLABS, K_BYTES = KV_SLAB * SLABS, V_BYTES = KV_SLAB * SLABS_V;
  static constexpr int INPUT_BYTES = Q_BYTES + STAGES * (K_BYTES + V_BYTES), O_BYTES = Q_SLAB * SLABS_V;
  /* Results pass through memory of their own, where there is room, so that the next queries can be fetched early. */
  static constexpr bool OWN_O = INPUT_BYTES + O_BYTES + 2048 <= 227 * 1024;
  static constexpr int O_AT = OWN_O ? INPUT_BYTES : 0, EXCHANGE_AT = INPUT_BYTES + (OWN_O ? O_BYTES : 0);
  static constexpr int SHARED = EXCHANGE_AT + 1024 + 512; /* 1024: to begin at a multiple of it */
  static constexpr int LOW_REGISTERS = CONSUMERS == 2 ? 56 : 32, HIGH_REGISTERS = CONSUMERS == 2 ? 224 : 160;
};

#if __CUDA_ARCH_FEAT_SM90_ALL

/* One tile of one head. */
typedef struct work {
  attention_sequence s;
  int head, first, rows;     /* queries [first, first + rows); rows is 0 where there is nothing to do */
  int key_first, key_blocks; /* steps of N keys begin at key_first, the first visible one rounded down to N */
} work;

/* What the warpgroups of a block tell each other: full when something has come, empty when all have used it. */
typedef struct exchange {
  uint64_t q_full, q_empty, k_full[2], k_empty[2], v_full[2], v_empty[2], work_full[2], work_empty[2];
  work works[2]; /* tiles under way: the fetching warp is ahead; -1 rows: no more */
} exchange;

/* Item number `index` in the order of execution. */
template <typename C>
static __device__ __forceinline__ work work_at(const prefill_call &p, int index) {
  work w;
  int local, b;
  if (p.c.layout == FK_DENSE) {
    /* Longest tiles first within a section. */
    int size = p.section * p.tiles, section = index / size, rest = index - section * size;
    int units = min(p.section, p.c.heads * p.c.num_seqs - section * p.section);
    int unit = section * p.section + rest % units;
    local = p.tiles - 1 - rest / units;
    b = unit / p.c.heads;
    w.head = unit % p.c.heads;
  } else {
    w.head = index % p.c.heads;
    b = sequence_of_tile(p.c, 1, C::M, p.tiles - 1 - index / p.c.heads, &local);
  }
  w.s = sequence_at(p.c, b);
  int64_t left = (int64_t)w.s.num_q - (int64_t)local * C::M;
  w.first = left > 0 ? local * C::M : 0;
  w.rows = left <= 0 ? 0 : left < C::M ? (int)left : C::M;
  int lo = 0, hi = 0, unused;
  if (w.rows > 0) {
    keys_seen(p.c, w.s, w.first, &lo, &unused);
    keys_seen(p.c, w.s, w.first + w.rows - 1, &unused, &hi);
  }
  w.key_first = lo / C::N * C::N;
  w.key_blocks = hi > lo ? (hi - w.key_first + C::N - 1) / C::N : 0;
  return w;
}

/* The k-th item of a block: forth and back, so that blocks that get longer items in one turn get shorter ones next. */
static __device__ __forceinline__ int work_index(int k) {
  int turn = k * (int)gridDim.x;
  return turn + (k & 1 ? (int)gridDim.x - 1 - (int)blockIdx.x : (int)blockIdx.x);
}

/* ---- Fetching -------------------------------------------------------------------------------------------- */

/* N keys (or values) from key j on, [slab][N][64], by a warp: each lane fetches some of the boxes. */
template <typename C>
static __device__ __forceinline__ void fetch_keys(const prefill_call &p, const work &w, const CUtensorMap *map,
                                                  char *to, uint64_t *full, int slabs, int j, int kv_head) {
  int lane = threadIdx.x % 32, per_slab = C::N / p.box_rows;
  if (lane == 0) barrier_expect(full, (uint32_t)(slabs * C::KV_SLAB));
  __syncwarp();
  for (int box = lane; box < per_slab * slabs; box += 32) {
    int slab = box / per_slab, row = (box - slab * per_slab) * p.box_rows, y = w.s.k0 + j + row, z = w.s.batch;
    if (p.c.layout == FK_PAGED) {
      /* Past the last key: a block beyond the cache, which reads as zeros. So does a wrong block. */
      z = j + row < w.s.num_k ? block_of_key(p.c, w.s, j + row) : -1;
      if (z < 0) z = p.c.num_k;
      y = (j + row) % p.c.block_size;
    } else if (p.c.layout == FK_VARLEN) {
      z = 0;
    }
    tensor_load(to + slab * C::KV_SLAB + row * 128, map, full, slab * 64, y, kv_head, z);
  }
}

/* Keys, queries and values of a tile, in the order in which they are used. */
template <typename C>
static __device__ __forceinline__ void fetch_tile(const prefill_call &p, const work &w, const CUtensorMap *q_map,
                                                  const CUtensorMap *k_map, const CUtensorMap *v_map, char *shared,
                                                  exchange *x, uint32_t q_count, uint32_t k_count) {
  char *keys = shared + C::Q_BYTES, *values = keys + C::STAGES * C::K_BYTES;
  uint32_t v_count = k_count;
  int kv_head = w.head / p.c.group;
  for (int n = w.key_blocks; n >= 0; n--) {
    if (n > 0) { /* keys of step n - 1, and after the first the queries */
      int stage = k_count % 2;
      barrier_wait(&x->k_empty[stage], (k_count / 2 & 1) ^ 1);
      fetch_keys<C>(p, w, k_map, keys + stage * C::K_BYTES, &x->k_full[stage], C::SLABS, w.key_first + (n - 1) * C::N,
                    kv_head);
      k_count++;
    }
    if (n == w.key_blocks) {
      barrier_wait(&x->q_empty, (q_count & 1) ^ 1);
      if (threadIdx.x == 0) {
        barrier_expect(&x->q_full, C::Q_BYTES);
        for (int slab = 0; slab < C::SLABS; slab++)
          tensor_load(shared + slab * C::Q_SLAB, q_map, &x->q_full, slab * 64, w.s.q0 + w.first, w.head,
                      p.c.layout == FK_DENSE ? w.s.batch : 0);
      }
    } else { /* values of the step before */
      int stage = v_count % 2;
      barrier_wait(&x->v_empty[stage], (v_count / 2 & 1) ^ 1);
      fetch_keys<C>(p, w, v_map, values + stage * C::V_BYTES, &x->v_full[stage], C::SLABS_V, w.key_first + n * C::N,
                    kv_head);
      v_count++;
    }
  }
}

/* The k-th item of this block, at least p.works after the last. */
static __device__ __forceinline__ int next_index(const prefill_call &p, int k) {
  if (!p.counter) return work_index(k);
  int index = 0;
  if (threadIdx.x == 0) index = atomicAdd(p.counter, 1);
  return __shfl_sync(0xffffffffu, index, 0);
}

/* The fetching warp: finds tiles, tells the consumers of them, and fetches what they need. */
template <typename C>
static __device__ __forceinline__ void produce(const prefill_call &p, const CUtensorMap *q_map,
                                               const CUtensorMap *k_map, const CUtensorMap *v_map, char *shared,
                                               exchange *x) {
  uint32_t tiles = 0, q_count = 0, kv_count = 0;
  for (int k = 0;; k++) {
    int index = next_index(p, k);
    bool last = p.counter ? index >= p.works : k * (int)gridDim.x >= p.works;
    if (index >= p.works && !last) continue;
    work w = {};
    if (last)
      w.rows = -1;
    else
      w = work_at<C>(p, index);
    if (w.rows == 0) continue;
    int slot = tiles % 2;
    barrier_wait(&x->work_empty[slot], (tiles / 2 & 1) ^ 1);
    if (threadIdx.x == 0) {
      x->works[slot] = w;
      barrier_arrive(&x->work_full[slot]);
    }
    tiles++;
    if (last) return;
    if (w.key_blocks == 0) continue;
    fetch_tile<C>(p, w, q_map, k_map, v_map, shared, x, q_count, kv_count);
    q_count++;
    kv_count += w.key_blocks;
  }
}

/* ---- Softmax --------------------------------------------------------------------------------------------- */

/* A thread's two rows, 8 apart: of each 8 columns of a product it has columns 2 * (lane % 4) and the next, first of row
 * lane / 4 of its warp, then of row lane / 4 + 8. */
typedef struct row_state {
  float largest[2], shift[2], sum[2]; /* shift: the largest score as a power of 2; sum: of this thread's columns */
  int lo[2], hi[2];                   /* keys seen */
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

/* Scores become exponentials; rescale is what sums over earlier keys are multiplied with. */
template <int N>
static __device__ __forceinline__ void soften(float (&s)[N / 2], row_state &r, float c2, float (&rescale)[2]) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float largest = r.largest[h], sum[2] = {0, 0};
#pragma unroll
    for (int i = 2 * h; i < N / 2; i += 4) largest = fmaxf(largest, fmaxf(s[i], s[i + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    float scaled = largest * c2, shift = largest == -INFINITY ? 0 : scaled;
    rescale[h] = exp2_fast(r.shift[h] - shift);
#pragma unroll
    for (int i = 2 * h; i < N / 2; i += 4) {
      s[i] = exp2_fast(fmaf(s[i], c2, -shift));
      s[i + 1] = exp2_fast(fmaf(s[i + 1], c2, -shift));
      sum[0] += s[i];
      sum[1] += s[i + 1];
    }
    r.sum[h] = r.sum[h] * rescale[h] + (sum[0] + sum[1]);
    r.largest[h] = largest;
    r.shift[h] = scaled;
  }
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

/* ---- Consuming ------------------------------------------------------------------------------------------- */

template <typename T, typename C>
static __device__ __forceinline__ void issue_scores(float (&s)[C::N / 2], uint64_t q, uint64_t k) {
  wgmma_fence();
#pragma unroll
  for (int d = 0; d < C::D / 16; d++)
    product_rows<T, C::N>(s, matrix_plus(q, d / 4 * C::Q_SLAB + d % 4 * 32),
                          matrix_plus(k, d / 4 * C::KV_SLAB + d % 4 * 32), d > 0);
  wgmma_commit();
}

template <typename T, typename C>
static __device__ __forceinline__ void issue_values(float (&o)[C::DV / 2], uint32_t (&p)[C::N / 4], uint64_t v) {
  hold(o);
  hold(p);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < C::N / 16; k++)
    product_columns<T, C::DV>(o, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3], matrix_plus(v, k * 2048));
  wgmma_commit();
}

template <typename C>
static __device__ __forceinline__ void scores_to_weights(const prefill_call &p, float (&s)[C::N / 2], row_state &r,
                                                         int j, int seen_from, int seen_to, float (&rescale)[2]) {
  if (p.cap_in > 0) {
#pragma unroll
    for (int i = 0; i < C::N / 2; i++) s[i] = tanh_of(s[i] * p.cap_in);
  }
  bool before = j<seen_from, after = j + C::N> seen_to;
  if (before || after) hide<C::N>(s, r, j, before, after);
  soften<C::N>(s, r, p.c2, rescale);
}

template <typename T, typename C>
static __device__ __forceinline__ void round_weights(const float (&s)[C::N / 2], uint32_t (&p)[C::N / 4]) {
#pragma unroll
  for (int i = 0; i < C::N / 4; i++) p[i] = pair_of<T>(s[2 * i], s[2 * i + 1]);
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
      T *out = (T *)p.c.out.data + query_row(p.c, w.s, p.c.out, w.first + r, w.head) + piece * 8;
      *(uint4 *)out = *(const uint4 *)piece_at<C>(room, r, piece);
    }
  }
  __syncwarp();
}

/* The factor of each row, the sink in its denominator; *redo where the row has to be computed again. */
template <typename C>
static __device__ __forceinline__ void finish_rows(const prefill_call &p, const work &w, row_state &r,
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
    redo[h] =
        (spoiled != 0 && (sum > 0 || !sees)) || (sees && fabsf(r.shift[h]) > 0x1p22f && fabsf(r.shift[h]) < INFINITY);
    redo[h] = __shfl_xor_sync(0xffffffffu, redo[h], 1) || redo[h];
    redo[h] = __shfl_xor_sync(0xffffffffu, redo[h], 2) || redo[h];
    if (p.c.sinks) {
      float sink = sink_of(p.c, w.head) * 1.4426950408889634f, largest = fmaxf(sink, r.shift[h]);
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
    if (bad && warp_row + i < w.rows) exact_row<T>(p.c, w.s, w.first + warp_row + i, w.head, 0, p.c.head_size_v);
  }
}

typedef struct consumer {
  char *shared;
  exchange *x;
  int group;                  /* which of the consumer warpgroups */
  uint32_t q_count, kv_count; /* tiles and steps so far */
} consumer;

template <typename C>
static __device__ __forceinline__ void take_turn(const consumer &me) {
  named_wait(1 + me.group, 256);
}
template <typename C>
static __device__ __forceinline__ void pass_turn(const consumer &me) {
  named_arrive(1 + (me.group + 1) % C::CONSUMERS, 256);
}

static __device__ __forceinline__ void release(uint64_t *empty) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(empty);
}

/* Rows of the tile that this warpgroup has, all of whose keys lie in [*from, *to). */
static __device__ __forceinline__ void rows_begin(const prefill_call &p, const work &w, int group, row_state &r,
                                                  int *from, int *to) {
  int warp_row = group * 64 + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4, unused;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    r.largest[h] = r.shift[h] = -INFINITY;
    r.sum[h] = 0;
    r.lo[h] = r.hi[h] = 0;
    if (warp_row + 8 * h < w.rows) keys_seen(p.c, w.s, w.first + warp_row + 8 * h, &r.lo[h], &r.hi[h]);
  }
  keys_seen(p.c, w.s, w.first + group * 64 + 63, from, &unused);
  keys_seen(p.c, w.s, w.first + group * 64, &unused, to);
}

template <typename T, typename C>
static __device__ __forceinline__ void consume_tile(const prefill_call &p, const work &w, consumer &me) {
  char *keys = me.shared + C::Q_BYTES, *values = keys + C::STAGES * C::K_BYTES;
  uint64_t q = matrix_at(me.shared + me.group * 64 * 128, C::Q_SLAB);
  uint64_t k = matrix_at(keys, C::KV_SLAB), v = matrix_at(values, C::KV_SLAB);
  exchange *x = me.x;
  row_state r;
  int from, to, warp_row = me.group * 64 + threadIdx.x / 32 % 4 * 16;
  rows_begin(p, w, me.group, r, &from, &to);
  float s[C::N / 2], o[C::DV / 2], rescale[2];
  uint32_t weights[C::N / 4];
#pragma unroll
  for (int i = 0; i < C::DV / 2; i++) o[i] = 0;
  uint32_t count = me.kv_count;
  barrier_wait(&x->q_full, me.q_count & 1);
  barrier_wait(&x->k_full[count % 2], count / 2 & 1);
  issue_scores<T, C>(s, q, matrix_plus(k, count % 2 * C::K_BYTES));
  wgmma_wait<0>();
  hold(s);
  release(&x->k_empty[count % 2]);
  int j = w.key_first + (w.key_blocks - 1) * C::N;
  scores_to_weights<C>(p, s, r, j, from, to, rescale);
  round_weights<T, C>(s, weights);
#pragma unroll 1
  for (int n = w.key_blocks - 1; n > 0; n--) {
    uint32_t next = count + 1;
    j -= C::N;
    barrier_wait(&x->k_full[next % 2], next / 2 & 1);
    take_turn<C>(me);
    issue_scores<T, C>(s, q, matrix_plus(k, next % 2 * C::K_BYTES));
    barrier_wait(&x->v_full[count % 2], count / 2 & 1);
    issue_values<T, C>(o, weights, matrix_plus(v, count % 2 * C::V_BYTES));
    pass_turn<C>(me);
    wgmma_wait<1>();
    hold(s);
    release(&x->k_empty[next % 2]);
    scores_to_weights<C>(p, s, r, j, from, to, rescale);
    wgmma_wait<0>();
    hold(o);
    release(&x->v_empty[count % 2]);
#pragma unroll
    for (int i = 0; i < C::DV / 2; i++) o[i] *= rescale[i / 2 % 2];
    round_weights<T, C>(s, weights);
    count = next;
  }
  if (C::OWN_O) release(&x->q_empty);
  barrier_wait(&x->v_full[count % 2], count / 2 & 1);
  issue_values<T, C>(o, weights, matrix_plus(v, count % 2 * C::V_BYTES));
  wgmma_wait<0>();
  hold(o);
  release(&x->v_empty[count % 2]);
  me.kv_count = count + 1;
  me.q_count++;
  float scale[2];
  bool redo[2];
  finish_rows<C>(p, w, r, o, scale, redo);
  if (!C::OWN_O) named_wait(1 + C::CONSUMERS + me.group, 128); /* all four warps have read the queries */
  store_rows<T, C>(p, w, me.shared + C::O_AT, warp_row, o, scale);
  if (!C::OWN_O) {
    fence_async();
    release(&x->q_empty);
  }
  mend_rows<T, C>(p, w, warp_row, redo);
}

/* A tile whose queries see no key. */
template <typename T, typename C>
static __device__ __forceinline__ void clear_tile(const prefill_call &p, const work &w) {
  int pieces = p.c.head_size_v / 8;
  for (int i = threadIdx.x - 128; i < w.rows * pieces; i += C::THREADS - 128) {
    T *out = (T *)p.c.out.data + query_row(p.c, w.s, p.c.out, w.first + i / pieces, w.head) + i % pieces * 8;
    *(uint4 *)out = make_uint4(0, 0, 0, 0);
  }
}

template <typename T, typename C>
static __device__ __forceinline__ void consume(const prefill_call &p, char *shared, exchange *x) {
  consumer me = {shared, x, (int)threadIdx.x / 128 - 1, 0, 0};
  if (me.group == C::CONSUMERS - 1) pass_turn<C>(me);
  for (uint32_t tiles = 0;; tiles++) {
    int slot = tiles % 2;
    barrier_wait(&x->work_full[slot], tiles / 2 & 1);
    const work &w = x->works[slot];
    if (w.rows < 0) return;
    if (w.key_blocks > 0)
      consume_tile<T, C>(p, w, me);
    else
      clear_tile<T, C>(p, w);
    release(&x->work_empty[slot]);
  }
}

static __device__ __forceinline__ void init_barriers(exchange *x, int consumers) {
  barrier_init(&x->q_full, 1);
  barrier_init(&x->q_empty, 4 * consumers);
  for (int i = 0; i < 2; i++) {
    barrier_init(&x->k_full[i], 1);
    barrier_init(&x->k_empty[i], 4 * consumers);
    barrier_init(&x->v_full[i], 1);
    barrier_init(&x->v_empty[i], 4 * consumers);
    barrier_init(&x->work_full[i], 1);
    barrier_init(&x->work_empty[i], 4 * consumers);
  }
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  fence_async();
}

#endif

template <typename T, typename C>
static __global__ void __launch_bounds__(C::THREADS, 1)
    attention_prefill(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
                      const __grid_constant__ CUtensorMap v_map, const __grid_constant__ prefill_call p) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ char raw[];
  char *shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  exchange *x = (exchange *)(shared + C::EXCHANGE_AT);
  if (threadIdx.x == 0) {
    tensor_prefetch_map(&q_map);
    tensor_prefetch_map(&k_map);
    tensor_prefetch_map(&v_map);
    init_barriers(x, C::CONSUMERS);
  }
  __syncthreads();
  fk_wait_previous();
  if (threadIdx.x < 128) {
    set_registers_down<C::LOW_REGISTERS>();
    if (threadIdx.x < 32) produce<C>(p, &q_map, &k_map, &v_map, shared, x);
  } else {
    set_registers_up<C::HIGH_REGISTERS>();
    consume<T, C>(p, shared, x);
  }
#endif
}

/* ---- Launching ------------------------------------------------------------------------------------------- */

/* A map of vectors of `columns` elements: loads fetch boxes of rows x 64 elements, zeros beyond the ends. */
static bool make_map(CUtensorMap *map, fk_type type, const attention_rows &r, int64_t columns, int64_t tokens,
                     int64_t heads, int64_t batch, int rows) {
  PFN_cuTensorMapEncodeTiled_v12000 encode =
      (PFN_cuTensorMapEncodeTiled_v12000)fk_cuda_driver_function("cuTensorMapEncodeTiled");
  cuuint64_t sizes[4] = {(cuuint64_t)columns, (cuuint64_t)tokens, (cuuint64_t)heads, (cuuint64_t)batch};
  /* The stride of an axis of one element says nothing, but has to be a stride. */
  cuuint64_t strides[3] = {(cuuint64_t)(tokens > 1 ? r.token : 64) * 2, (cuuint64_t)(heads > 1 ? r.head : 64) * 2,
                           (cuuint64_t)(batch > 1 ? r.batch : 64) * 2};
  cuuint32_t box[4] = {64, (cuuint32_t)rows, 1, 1}, steps[4] = {1, 1, 1, 1};
  return encode && encode(map, type == FK_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4,
                          r.data, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                          CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

static int common_divisor(int a, int b) {
  return b == 0 ? a : common_divisor(b, a % b);
}

/* Heads (of all sequences) whose keys and values fit half of the L2 cache together: whole groups, all where few. */
static int section_of(const attention_call &c) {
  int64_t bytes = (int64_t)c.num_k * (c.head_size + c.head_size_v) * 2, units = c.heads * (int64_t)c.num_seqs;
  int64_t groups = bytes > 0 ? 24 * 1024 * 1024 / bytes : units;
  if (groups < 1) groups = 1;
  return (int)(groups * c.group < units ? groups * c.group : units);
}

template <typename T, typename C>
static fk_status launch(fk_context *ctx, const attention_call &c) {
  prefill_call p = {};
  bool dense = c.layout == FK_DENSE, paged = c.layout == FK_PAGED;
  p.c = c;
  p.box_rows = paged ? common_divisor(c.block_size, C::N) : C::N;
  p.tiles = (int)(dense ? fk_ceil_div(c.num_q, C::M) : attention_tiles(c, 1, C::M));
  int64_t works = (int64_t)p.tiles * c.heads * (dense ? c.num_seqs : 1);
  if (works > INT32_MAX / 2) return fk_fail(FK_ERROR_UNSUPPORTED, "attention: too many queries for one launch");
  p.works = (int)works;
  p.section = dense ? section_of(c) : 1;
  p.cap_in = c.softcap > 0 ? c.scale / c.softcap : 0;
  p.c2 = (c.softcap > 0 ? c.softcap : c.scale) * 1.4426950408889634f;
  CUtensorMap q, k, v;
  fk_type type = std::is_same<T, __half>::value ? FK_F16 : FK_BF16;
  int64_t kv_heads = c.heads / c.group, batch = dense ? c.num_seqs : paged ? c.num_k : 1;
  int64_t keys = paged ? c.block_size : c.num_k;
  if (!make_map(&q, type, c.q, c.head_size, c.num_q, c.heads, dense ? c.num_seqs : 1, C::M) ||
      !make_map(&k, type, c.k, c.head_size, keys, kv_heads, batch, p.box_rows) ||
      !make_map(&v, type, c.v, c.head_size_v, keys, kv_heads, batch, p.box_rows))
    return fk_fail(FK_ERROR_KERNEL, "attention: the driver refused the layout of q, k or v");
  dim3 blocks((unsigned)(p.works < fk_context_cuda(ctx)->num_sms ? p.works : fk_context_cuda(ctx)->num_sms));
  const char *trial = getenv("FK_TRY");
  if ((!dense || (trial && *trial == '1')) && p.works > fk_context_cuda(ctx)->num_sms) {
    /* Lengths that only the GPU knows: blocks take the next tile when they are done with one. */
    p.counter = (int *)fk_scratch(ctx, sizeof *p.counter);
    if (!p.counter) return FK_ERROR_MEMORY;
    FK_CUDA_TRY(cudaMemsetAsync(p.counter, 0, sizeof *p.counter, fk_context_cuda(ctx)->stream));
    return fk_launch(ctx, attention_prefill<T, C>, blocks, dim3(C::THREADS), C::SHARED, q, k, v, p);
  }
  return fk_launch_early(ctx, attention_prefill<T, C>, blocks, dim3(C::THREADS), C::SHARED, q, k, v, p);
}

template <typename T>
static fk_status choose(fk_context *ctx, const attention_call &c) {
  int d = c.head_size, dv = c.head_size_v;
  if (d <= 64 && dv <= 64) return launch<T, config<64, 64, 128, 3>>(ctx, c);
  if (d <= 96 && dv <= 96) return launch<T, config<96, 96, 128, 2>>(ctx, c);
  if (d <= 128 && dv <= 128) return launch<T, config<128, 128, 128, 2>>(ctx, c);
  if (d <= 192 && dv <= 128) return launch<T, config<192, 128, 128, 2>>(ctx, c);
  return launch<T, config<256, 256, 80, 2>>(ctx, c);
}

/* Whether vectors lie as tensor loads and 16-byte stores need them. */
static bool aligned_rows(const fk_tensor *t) {
  bool ok = (uintptr_t)fk_data(t) % 16 == 0 && fk_size(t, -1) % 8 == 0 && fk_size(t, -1) > 0 && fk_size(t, -1) <= 256;
  for (int i = 0; i < t->ndim - 1; i++)
    ok = ok && t->shape[i] > 0 &&
         (t->shape[i] == 1 || (fk_stride(t, i) > 0 && fk_stride(t, i) % 8 == 0 && fk_stride(t, i) < (int64_t)1 << 38));
  return ok;
}

extern "C" bool fk_attention_prefill_sm90_serves(const fk_context *ctx, const fk_attention_args *a) {
  fk_type type = fk_type_of(a->q);
  bool paged = a->q->ndim == 3 && a->block_table;
  return fk_context_cuda(ctx)->compute_capability == 90 && (type == FK_BF16 || type == FK_F16) && aligned_rows(a->q) &&
         aligned_rows(a->k) && aligned_rows(a->v) && aligned_rows(a->out) && a->scale > 1e-20 && a->scale < 1e20 &&
         (a->softcap == 0 || (a->softcap > 1e-6 && a->softcap < 1e6)) && (!paged || a->k->shape[1] % 8 == 0);
}

extern "C" fk_status fk_attention_prefill_sm90(fk_context *ctx, const fk_attention_args *a) {
  attention_call c;
  FK_TRY(attention_call_of(ctx, a, &c));
  if (fk_type_of(a->q) == FK_F16) return choose<__half>(ctx, c);
  return choose<__nv_bfloat16>(ctx, c);
}
