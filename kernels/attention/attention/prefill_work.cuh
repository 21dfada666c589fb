/* What a block of the prefill kernel (prefill_sm90.cu) works on: the call, tiles and their order, and the warp that
 * finds tiles and fetches what they need. */
#pragma once

#include <cuda.h>

#include "cuda_call.cuh"
#include "wgmma_sm90.cuh"

typedef struct prefill_call {
  attention_call c;
  int box_rows;     /* rows of one tensor load of keys or values */
  int works, tiles; /* works: tiles x heads, and for the dense layout x sequences; tiles of one sequence or of all */
  int section;      /* dense: heads (of all sequences) whose keys and values are visited at a time */
  int pack;         /* 2 to this many heads share keys and can share a tile, 0: each tile is one head's */
  int *counter;     /* items taken so far, or NULL: each block has its items by number */
  float c2, cap_in; /* exponent of 2 per unit of (capped) score; tanh's argument per unit of product, 0 for no cap */
} prefill_call;

/* Sizes of a kernel: elements of a key and of a value that are computed, keys per step, consumer warpgroups, steps in
 * shared memory, whether warpgroups take turns. */
template <int D_, int DV_, int N_, int CONSUMERS_, int STAGES_ = 2, bool TURNS_ = true>
struct config {
  static constexpr int D = D_, DV = DV_, N = N_, CONSUMERS = CONSUMERS_, M = 64 * CONSUMERS_, STAGES = STAGES_;
  static constexpr bool TURNS = TURNS_;
  static constexpr int SLABS = (D + 63) / 64, SLABS_V = (DV + 63) / 64, THREADS = 128 * (CONSUMERS + 1);
  static constexpr int Q_SLAB = M * 128, KV_SLAB = N * 128;
  static constexpr int Q_BYTES = Q_SLAB * SLABS, K_BYTES = KV_SLAB * SLABS, V_BYTES = KV_SLAB * SLABS_V;
  static constexpr int INPUT_BYTES = Q_BYTES + STAGES * (K_BYTES + V_BYTES), O_BYTES = Q_SLAB * SLABS_V;
  /* Results pass through memory of their own, where there is room, so that the next queries can be fetched early. */
  static constexpr bool OWN_O = INPUT_BYTES + O_BYTES + 2048 <= 227 * 1024;
  static constexpr int O_AT = OWN_O ? INPUT_BYTES : 0, EXCHANGE_AT = INPUT_BYTES + (OWN_O ? O_BYTES : 0);
  static constexpr int SHARED = EXCHANGE_AT + 1024 + 512; /* 1024: to begin at a multiple of it */
  static constexpr int LOW_REGISTERS = CONSUMERS == 3 ? 32 : 56, HIGH_REGISTERS = CONSUMERS == 3 ? 160 : 224;
};

#if __CUDA_ARCH_FEAT_SM90_ALL

/* One tile of one head. */
typedef struct work {
  attention_sequence s;
  int first, rows;           /* first query; rows: queries x heads of each, 0 where there is nothing to do */
  int head, pack;            /* row r is query first + (r >> pack), head + r % (1 << pack) */
  int key_first, key_blocks; /* steps of N keys begin at key_first, the first visible one rounded down to N */
} work;

/* What the warpgroups of a block tell each other: full when something has come, empty when all have used it. */
typedef struct exchange {
  uint64_t q_full, q_empty, k_full[4], k_empty[4], v_full[4], v_empty[4], work_full[2], work_empty[2];
  work works[2]; /* tiles under way: the fetching warp is ahead; -1 rows: no more */
} exchange;

static __device__ __forceinline__ int query_of(const work &w, int r) {
  return w.first + (r >> w.pack);
}
static __device__ __forceinline__ int head_of(const work &w, int r) {
  return w.head + (r & ((1 << w.pack) - 1));
}

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
  int64_t row = (int64_t)local * C::M;
  w.pack = 0;
  if (p.pack > 0 && local < FK_ATTENTION_LONGEST / p.c.heads) {
    /* Heads that share keys fill a tile together where that makes fewer tiles. */
    int packed = (int)(((int64_t)w.s.num_q * p.c.group + C::M - 1) / C::M);
    if (packed < (w.s.num_q + C::M - 1) / C::M * p.c.group) {
      int number = local * p.c.heads + w.head, kv_heads = p.c.heads / p.c.group;
      w.pack = p.pack;
      w.head = number % kv_heads * p.c.group;
      row = (int64_t)(number / kv_heads) * C::M;
    }
  }
  int64_t left = ((int64_t)w.s.num_q << w.pack) - row;
  w.first = left > 0 ? (int)(row >> w.pack) : 0;
  w.rows = left <= 0 ? 0 : left < C::M ? (int)left : C::M;
  int lo = 0, hi = 0, unused;
  if (w.rows > 0) {
    keys_seen(p.c, w.s, w.first, &lo, &unused);
    keys_seen(p.c, w.s, w.first + ((w.rows - 1) >> w.pack), &unused, &hi);
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

/* Paged: where this lane's box of a step lies. */
typedef struct table_entry {
  int block, slot;
  bool used; /* has keys of the sequence */
} table_entry;

/* For N keys from key j on; the table is read long before the block is used, and the block checked only then, so that
 * nobody waits for it. */
template <typename C>
static __device__ __forceinline__ table_entry entry_at(const prefill_call &p, const work &w, int j) {
  table_entry e = {0, 0, false};
  if (p.c.layout != FK_PAGED) return e;
  int key = j + threadIdx.x % 32 * p.box_rows, number = key / p.c.block_size;
  e.used = j >= w.key_first && key < j + C::N && key < w.s.num_k;
  e.slot = key - number * p.c.block_size;
  if (e.used) e.block = p.c.block_table[w.s.batch * p.c.table_stride + number];
  return e;
}

/* Past the last key: a block beyond the cache, which reads as zeros. So does a wrong block. */
static __device__ __forceinline__ void check_entry(const prefill_call &p, table_entry &e) {
  if (!e.used || !fk_index_ok(p.c.check_table, e.block, p.c.num_k)) e.block = p.c.num_k;
}

/* N keys (or values) from key j on, [slab][N][64]. Paged: many small boxes, of which each fetching warp has some. */
template <typename C, int SLABS>
static __device__ __forceinline__ void fetch_keys(const prefill_call &p, const work &w, const CUtensorMap *map,
                                                  char *to, uint64_t *full, int j, int kv_head, const table_entry &e) {
  if (threadIdx.x == 0) fk_barrier_expect(full, (uint32_t)(SLABS * C::KV_SLAB));
  if (p.c.layout != FK_PAGED) {
    if (threadIdx.x == 0)
#pragma unroll
      for (int slab = 0; slab < SLABS; slab++)
        tensor_load(to + slab * C::KV_SLAB, map, full, slab * 64, w.s.k0 + j, kv_head,
                    p.c.layout == FK_DENSE ? w.s.batch : 0);
    return;
  }
  int row = threadIdx.x / 32 * p.box_rows;
#pragma unroll 1
  for (int part = threadIdx.x / 32; row < C::N; part += 4, row += 4 * p.box_rows) {
    int block = __shfl_sync(0xffffffffu, e.block, part), slot = __shfl_sync(0xffffffffu, e.slot, part);
    if (threadIdx.x % 32 == 0)
#pragma unroll
      for (int slab = 0; slab < SLABS; slab++)
        tensor_load(to + slab * C::KV_SLAB + row * 128, map, full, slab * 64, slot, kv_head, block);
  }
}

template <typename C>
static __device__ __forceinline__ void fetch_queries(const prefill_call &p, const work &w, const CUtensorMap *q_map,
                                                     const CUtensorMap *packed_map, char *to, uint64_t *full) {
  if (threadIdx.x != 0) return;
  int token = w.s.q0 + w.first, batch = p.c.layout == FK_DENSE ? w.s.batch : 0;
  fk_barrier_expect(full, C::Q_BYTES);
#pragma unroll
  for (int slab = 0; slab < C::SLABS; slab++)
    if (w.pack > 0)
      tensor_load(to + slab * C::Q_SLAB, packed_map, full, slab * 64, w.head, token, batch);
    else
      tensor_load(to + slab * C::Q_SLAB, q_map, full, slab * 64, token, w.head, batch);
}

/* Keys, queries and values of a tile, in the order in which they are used. */
template <typename C>
static __device__ __forceinline__ void fetch_tile(const prefill_call &p, const work &w, const CUtensorMap *q_map,
                                                  const CUtensorMap *packed_map, const CUtensorMap *k_map,
                                                  const CUtensorMap *v_map, char *shared, exchange *x, uint32_t q_count,
                                                  uint32_t k_count) {
  char *keys = shared + C::Q_BYTES, *values = keys + C::STAGES * C::K_BYTES;
  uint32_t v_count = k_count;
  int kv_head = w.head / p.c.group, steps = w.key_blocks, first = w.key_first;
  /* Of the step of the values, and of the keys. */
  table_entry entry = {}, next = entry_at<C>(p, w, first + (steps - 1) * C::N);
  for (int n = steps; n >= 0; n--) {
    if (n > 0) { /* keys of step n - 1, and after the first the queries */
      int stage = k_count % C::STAGES;
      barrier_wait(&x->k_empty[stage], (k_count / C::STAGES & 1) ^ 1);
      check_entry(p, next);
      fetch_keys<C, C::SLABS>(p, w, k_map, keys + stage * C::K_BYTES, &x->k_full[stage], first + (n - 1) * C::N,
                              kv_head, next);
      k_count++;
    }
    if (n == steps) {
      barrier_wait(&x->q_empty, (q_count & 1) ^ 1);
      fetch_queries<C>(p, w, q_map, packed_map, shared, &x->q_full);
    } else { /* values of the step before */
      int stage = v_count % C::STAGES;
      barrier_wait(&x->v_empty[stage], (v_count / C::STAGES & 1) ^ 1);
      fetch_keys<C, C::SLABS_V>(p, w, v_map, values + stage * C::V_BYTES, &x->v_full[stage], first + n * C::N, kv_head,
                                entry);
      v_count++;
    }
    entry = next;
    next = entry_at<C>(p, w, first + (n - 2) * C::N);
  }
}

/* The k-th item of this block, at least p.works after the last. */
static __device__ __forceinline__ int next_index(const prefill_call &p, int k) {
  if (!p.counter) return work_index(k);
  int index = 0;
  if (threadIdx.x == 0) index = atomicAdd(p.counter, 1);
  return __shfl_sync(0xffffffffu, index, 0);
}

/* Finds the next tile and tells the others of it; -1 rows: there are no more. */
template <typename C>
static __device__ __forceinline__ void announce(const prefill_call &p, exchange *x, uint32_t tiles, int *k) {
  work w;
  do {
    int index = next_index(p, *k);
    bool last = p.counter ? index >= p.works : *k * (int)gridDim.x >= p.works;
    ++*k;
    w.rows = last ? -1 : 0;
    if (index < p.works && !last) w = work_at<C>(p, index);
  } while (w.rows == 0);
  barrier_wait(&x->work_empty[tiles % 2], (tiles / 2 & 1) ^ 1);
  if (threadIdx.x == 0) {
    x->works[tiles % 2] = w;
    fk_barrier_arrive(&x->work_full[tiles % 2]);
  }
  __syncwarp();
}

/* The fetching warps, of which the first finds the tiles. The others only help with the boxes of a paged cache. */
template <typename C>
static __device__ __forceinline__ void produce(const prefill_call &p, const CUtensorMap *q_map,
                                               const CUtensorMap *packed_map, const CUtensorMap *k_map,
                                               const CUtensorMap *v_map, char *shared, exchange *x) {
  uint32_t q_count = 0, kv_count = 0;
  int k = 0;
  for (uint32_t tiles = 0;; tiles++) {
    if (threadIdx.x < 32) announce<C>(p, x, tiles, &k);
    barrier_wait(&x->work_full[tiles % 2], tiles / 2 & 1);
    const work w = x->works[tiles % 2];
    __syncwarp();
    if (threadIdx.x % 32 == 0) fk_barrier_arrive(&x->work_empty[tiles % 2]);
    if (w.rows < 0) return;
    if (w.key_blocks == 0) continue;
    fetch_tile<C>(p, w, q_map, packed_map, k_map, v_map, shared, x, q_count, kv_count);
    q_count++;
    kv_count += w.key_blocks;
  }
}

#endif
