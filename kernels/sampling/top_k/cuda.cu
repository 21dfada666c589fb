/* top_k on the GPU, on entries (order.cuh) that are all different, so that the k largest are one set whoever finds
 * them:
 *  - a short row and a small k: a warp keeps the row and takes its maximum k times;
 *  - a long row and a small k: the largest of each 32 columns, and of each 1024, are found first. The k largest lie in
 *    the k groups with the largest maxima (of equals, the lower), so a block descends from 1024s to 32s to columns;
 *  - else a block narrows the row to its k largest entries, collects them in any order and sorts them: by bisection, a
 *    bit at a time from the top, when its threads can keep them; a longer row by a radix select, 11 bits at a time;
 *  - a row that is much longer than k is cut into chunks first, each gives its k largest, and the block works on those.
 */
#include "device/cuda/order.cuh"
#include "tasks/top_k.h"

enum { BINS = 2048, BITS = 11, SHORT = 512, SHORT_K = 32, SORTED_IN_SHARED = 8192 };
enum { HELD = 16 }; /* entries that a thread keeps for a bisection */
enum { GROUP = 32, DESCENT_K = 64, CANDIDATES = DESCENT_K * GROUP, MAXIMA_THREADS = 128, DESCENT_THREADS = 256 };

typedef struct top_k_args {
  const void *x;
  void *values;
  int64_t *indices;
  fk_row_map x_rows, value_rows, index_rows;
  int64_t rows, columns, k;
  int64_t chunk, chunks;    /* columns per chunk */
  const fk_entry *entries;  /* [rows][num_entries] what chunks found, or NULL: the rows themselves */
  fk_entry *found, *sorted; /* [rows][chunks][k]; [rows][padded], or NULL: in shared memory */
  int64_t num_entries, padded;
  uint32_t *groups,
      *supers; /* [rows][num_groups], [rows][num_supers]: orders of the maxima of 32 and of 1024 columns */
  int64_t num_groups, num_supers;
} top_k_args;

/* What a block selects from: columns [start, start + n) of a row, or entries. */
template <typename T>
struct source {
  const T *x;
  const fk_entry *entries;
  int64_t start, n;
};

template <typename T>
static __device__ __forceinline__ fk_entry entry_at(const source<T> &s, int64_t i) {
  return s.entries ? s.entries[i] : fk_entry_of(fk_order_of(fk_float(s.x[i])), s.start + i);
}

/* The bin in which the need-th largest element lies, how many lie above it and how many in it. */
typedef struct choice {
  uint32_t bin, above, inside;
} choice;

/* Called by the whole block, of 256 threads at least; the first 256 have 8 bins each. */
static __device__ choice choose_bin(const uint32_t *histogram, uint32_t need) {
  __shared__ uint32_t totals[8];
  __shared__ choice chosen;
  uint32_t own[8] = {}, sum = 0, above = 0;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp < 8) {
#pragma unroll
    for (int i = 0; i < 8; i++) sum += own[i] = histogram[threadIdx.x * 8 + i];
    uint32_t suffix = sum;
    for (int d = 1; d < 32; d *= 2) {
      uint32_t other = __shfl_down_sync(0xffffffffu, suffix, d);
      if (lane + d < 32) suffix += other;
    }
    if (lane == 0) totals[warp] = suffix;
    above = suffix - sum;
  }
  __syncthreads();
  if (warp < 8) {
    for (int w = warp + 1; w < 8; w++) above += totals[w];
#pragma unroll
    for (int i = 7; i >= 0; i--) {
      if (above < need && above + own[i] >= need) chosen = {threadIdx.x * 8 + i, above, own[i]};
      above += own[i];
    }
  }
  __syncthreads();
  return chosen;
}

/* The k largest entries are those with (entry >> shift) >= bound. */
typedef struct threshold {
  fk_entry bound;
  int shift;
} threshold;

template <typename T>
static __device__ threshold radix_select(const source<T> &s, int64_t k) {
  __shared__ uint32_t histogram[BINS];
  fk_entry prefix = 0;
  uint32_t need = (uint32_t)k;
  for (int high = 64;;) {
    int bits = high < BITS ? high : BITS, shift = high - bits;
    for (int i = threadIdx.x; i < BINS; i += blockDim.x) histogram[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < s.n; i += blockDim.x) {
      fk_entry e = entry_at(s, i);
      if (high == 64 || e >> high == prefix) atomicAdd(&histogram[e >> shift & ((1u << bits) - 1)], 1u);
    }
    __syncthreads();
    choice c = choose_bin(histogram, need);
    need -= c.above;
    prefix = prefix << bits | c.bin;
    if (c.inside == need || shift == 0) return {prefix, shift};
    high = shift;
  }
}

/* Sum over the block; calls take the two rows of `partial` in turn, so that one barrier is enough. */
static __device__ __forceinline__ int count_in_block(int mine, int (*partial)[32], int turn) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  mine = __reduce_add_sync(0xffffffffu, mine);
  if (lane == 0) partial[turn & 1][warp] = mine;
  __syncthreads();
  return __reduce_add_sync(0xffffffffu, lane < (int)blockDim.x / 32 ? partial[turn & 1][lane] : 0);
}

/* The k largest of a source that the block's threads can keep, in any order. The k-th largest order is found bit by
 * bit, and among its equals the last low half that still counts. */
template <typename T>
static __device__ void bisect(const source<T> &s, int k, unsigned *count, fk_entry *to) {
  __shared__ int partial[2][32];
  uint32_t order[HELD], low[HELD], bound[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < HELD; i++) {
    int64_t at = i * (int)blockDim.x + (int)threadIdx.x;
    fk_entry e = at < s.n ? entry_at(s, at) : 0;
    order[i] = (uint32_t)(e >> 32), low[i] = (uint32_t)e;
  }
  int need = k, turn = 0;
  for (int half = 0; half < 2; half++) {
    bool exact = false;
    for (uint32_t bit = 0x80000000u; bit && !exact; bit >>= 1) {
      uint32_t trial = bound[half] | bit;
      int mine = 0;
#pragma unroll
      for (int i = 0; i < HELD; i++) mine += half == 0 ? order[i] >= trial : order[i] == bound[0] && low[i] >= trial;
      int found = count_in_block(mine, partial, turn++);
      if (found >= need) bound[half] = trial;
      exact = found == need;
    }
    if (half == 1 || exact) break;
    int above = 0;
#pragma unroll
    for (int i = 0; i < HELD; i++) above += order[i] > bound[0];
    need -= count_in_block(above, partial, turn++);
  }
#pragma unroll
  for (int i = 0; i < HELD; i++) {
    if (order[i] < bound[0] || (order[i] == bound[0] && low[i] < bound[1])) continue;
    unsigned at = atomicAdd(count, 1u);
    if (at < (unsigned)k) to[at] = (fk_entry)order[i] << 32 | low[i];
  }
}

/* The k largest entries of the source, in any order. */
template <typename T>
static __device__ void collect(const source<T> &s, int64_t k, fk_entry *to) {
  __shared__ unsigned count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  if (k < s.n && s.n <= HELD * (int)blockDim.x) {
    bisect(s, (int)k, &count, to);
    __syncthreads();
    return;
  }
  threshold t = {0, 0};
  if (k < s.n) t = radix_select(s, k);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < s.n; i += blockDim.x) {
    fk_entry e = entry_at(s, i);
    if (e >> t.shift < t.bound) continue;
    unsigned at = atomicAdd(&count, 1u);
    if (at < k) to[at] = e;
  }
  __syncthreads();
}

/* Bitonic, descending; n is a power of two. */
static __device__ void sort_entries(fk_entry *e, int64_t n) {
  for (int64_t size = 2; size <= n; size *= 2)
    for (int64_t step = size / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int64_t t = threadIdx.x; t < n / 2; t += blockDim.x) {
        int64_t i = 2 * t - (t & (step - 1)), j = i + step;
        fk_entry a = e[i], b = e[j];
        if ((a < b) == ((i & size) == 0)) e[i] = b, e[j] = a;
      }
    }
  __syncthreads();
}

template <typename T>
static __global__ void __launch_bounds__(512) top_k_chunk(const __grid_constant__ top_k_args a) {
  fk_wait_previous();
  int64_t row = blockIdx.x / (unsigned)a.chunks, start = (blockIdx.x - row * a.chunks) * a.chunk;
  int64_t n = a.columns - start < a.chunk ? a.columns - start : a.chunk, k = n < a.k ? n : a.k;
  fk_entry *to = a.found + (int64_t)blockIdx.x * a.k;
  source<T> s = {(const T *)a.x + fk_row_offset(a.x_rows, row) + start, NULL, start, n};
  collect(s, k, to);
  for (int64_t i = k + threadIdx.x; i < a.k; i += blockDim.x) to[i] = 0; /* below every entry */
}

template <typename T>
static __device__ __forceinline__ void put(const top_k_args &a, const T *x, int64_t row, int64_t i, fk_entry e) {
  int64_t column = fk_entry_column(e);
  a.indices[fk_row_offset(a.index_rows, row) + i] = column;
  ((T *)a.values)[fk_row_offset(a.value_rows, row) + i] = x[column];
}

template <typename T>
static __global__ void __launch_bounds__(1024) top_k_row(const __grid_constant__ top_k_args a) {
  extern __shared__ fk_entry room[];
  fk_wait_previous();
  int64_t row = blockIdx.x;
  const T *x = (const T *)a.x + fk_row_offset(a.x_rows, row);
  fk_entry *sorted = a.sorted ? a.sorted + row * a.padded : room;
  source<T> s = {x, a.entries ? a.entries + row * a.num_entries : NULL, 0, a.entries ? a.num_entries : a.columns};
  collect(s, a.k, sorted);
  for (int64_t i = a.k + threadIdx.x; i < a.padded; i += blockDim.x) sorted[i] = 0;
  sort_entries(sorted, a.padded);
  for (int64_t i = threadIdx.x; i < a.k; i += blockDim.x) put(a, x, row, i, sorted[i]);
}

/* ---- Short rows -------------------------------------------------------------------------------------------- */

/* A warp per row of up to 32 * PER columns. Each lane knows the best of its own. */
template <typename T, int PER>
static __global__ void __launch_bounds__(128) top_k_short(const __grid_constant__ top_k_args a) {
  int64_t row = (int64_t)blockIdx.x * 4 + threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  fk_wait_previous();
  if (row >= a.rows) return;
  const T *x = (const T *)a.x + fk_row_offset(a.x_rows, row);
  uint32_t order[PER];
#pragma unroll
  for (int i = 0; i < PER; i++) order[i] = i * 32 + lane < a.columns ? fk_order_of(fk_float(x[i * 32 + lane])) : 0;
  fk_entry mine = 0;
  uint32_t best = 0, column = 0;
  bool look = true;
  for (int n = 0; n < (int)a.k; n++) {
    if (look) {
      best = 0;
#pragma unroll
      for (int i = 0; i < PER; i++)
        if (order[i] > best) best = order[i], column = (uint32_t)(i * 32 + lane);
    }
    uint32_t largest = __reduce_max_sync(0xffffffffu, best);
    uint32_t winner = __reduce_min_sync(0xffffffffu, best == largest ? column : UINT32_MAX);
    if (n == lane) mine = fk_entry_of(largest, winner);
    look = winner % 32 == (uint32_t)lane;
#pragma unroll
    for (int i = 0; i < PER; i++) order[i] = winner == (uint32_t)(i * 32 + lane) ? 0 : order[i];
  }
  if (lane < a.k) put(a, x, row, lane, mine);
}

/* ---- Long rows, small k ------------------------------------------------------------------------------------- */

/* The maxima of a chunk: a warp has 1024 columns, neighbouring lanes the packs of a group. */
template <typename T>
static __global__ void __launch_bounds__(MAXIMA_THREADS) top_k_maxima(const __grid_constant__ top_k_args a) {
  constexpr int N = fk_pack<T>::size, PACKS = GROUP / N, LANES = GROUP / N;
  unsigned chunks = (unsigned)a.chunks;
  int64_t row = blockIdx.x / chunks, super = (blockIdx.x - row * chunks) * (MAXIMA_THREADS / 32) + threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  int64_t start = super * 32 * GROUP, left = a.columns - start;
  fk_wait_previous();
  const T *from = (const T *)a.x + fk_row_offset(a.x_rows, row) + start;
  uint4 kept[PACKS];
#pragma unroll
  for (int k = 0; k < PACKS; k++)
    if ((k * 32 + lane) * N < left) kept[k] = fk_load_raw(from + (k * 32 + lane) * N);
  fk_let_next_start();
  uint32_t best = 0;
#pragma unroll
  for (int k = 0; k < PACKS; k++) {
    uint32_t order = (k * 32 + lane) * N < left ? fk_order_of(fk_max_of_pack<T>(kept[k])) : 0;
#pragma unroll
    for (int d = 1; d < LANES; d *= 2) {
      uint32_t other = __shfl_xor_sync(0xffffffffu, order, d);
      order = other > order ? other : order;
    }
    int64_t group = super * 32 + k * N + lane / LANES;
    if (lane % LANES == 0 && group < a.num_groups) a.groups[row * a.num_groups + group] = order;
    best = order > best ? order : best;
  }
  best = __reduce_max_sync(0xffffffffu, best);
  if (lane == 0 && super < a.num_supers) a.supers[row * a.num_supers + super] = best;
}

typedef struct descent {
  fk_entry candidates[CANDIDATES], best[DESCENT_K];
  int count;
} descent;

/* The k largest candidates, in order, to best; fewer where there are not so many. Returns how many. */
static __device__ int rank_candidates(descent *d, int k) {
  __syncthreads();
  int count = d->count < CANDIDATES ? d->count : CANDIDATES, kept = count < k ? count : k;
  __syncthreads();
  if (count <= 2 * DESCENT_THREADS) {
    for (int t = threadIdx.x; t < count; t += DESCENT_THREADS) {
      fk_entry e = d->candidates[t];
      int rank = 0;
      for (int i = 0; i < count; i++) rank += d->candidates[i] > e;
      if (rank < k) d->best[rank] = e;
    }
  } else {
    int padded = 1024;
    while (padded < count) padded *= 2;
    for (int t = count + threadIdx.x; t < padded; t += DESCENT_THREADS) d->candidates[t] = 0;
    sort_entries(d->candidates, padded);
    for (int t = threadIdx.x; t < kept; t += DESCENT_THREADS) d->best[t] = d->candidates[t];
  }
  if (threadIdx.x == 0) d->count = 0;
  __syncthreads();
  return kept;
}

static __device__ __forceinline__ void offer(descent *d, uint32_t order, uint32_t least, int64_t index) {
  if (order == 0 || order < least) return;
  int at = atomicAdd(&d->count, 1);
  if (at < CANDIDATES) d->candidates[at] = fk_entry_of(order, index);
}

/* Only what reaches the k-th maximum of the level above is a candidate: k of them do. */
static __device__ __forceinline__ uint32_t least_of(const descent *d, int kept, int k) {
  return kept < k ? 0 : (uint32_t)(d->best[k - 1] >> 32);
}

template <typename T>
static __global__ void __launch_bounds__(DESCENT_THREADS) top_k_descent(const __grid_constant__ top_k_args a) {
  __shared__ descent d;
  int64_t row = blockIdx.x;
  int k = (int)a.k;
  const T *x = (const T *)a.x + fk_row_offset(a.x_rows, row);
  if (threadIdx.x == 0) d.count = 0;
  __syncthreads();
  fk_wait_previous();
  for (int i = threadIdx.x; i < (int)a.num_supers; i += DESCENT_THREADS)
    offer(&d, a.supers[row * a.num_supers + i], 0, i);
  int kept = rank_candidates(&d, k);
  uint32_t least = least_of(&d, kept, k);
  for (int i = threadIdx.x; i < kept * 32; i += DESCENT_THREADS) {
    int64_t group = fk_entry_column(d.best[i / 32]) * 32 + i % 32;
    if (group < a.num_groups) offer(&d, a.groups[row * a.num_groups + group], least, group);
  }
  kept = rank_candidates(&d, k);
  least = least_of(&d, kept, k);
  for (int i = threadIdx.x; i < kept * GROUP; i += DESCENT_THREADS) {
    int64_t column = fk_entry_column(d.best[i / GROUP]) * GROUP + i % GROUP;
    if (column < a.columns) offer(&d, fk_order_of(fk_float(x[column])), least, column);
  }
  kept = rank_candidates(&d, k);
  for (int i = threadIdx.x; i < kept; i += DESCENT_THREADS) put(a, x, row, i, d.best[i]);
}

template <typename T>
static fk_status launch_descent(fk_context *ctx, top_k_args a) {
  a.groups = (uint32_t *)fk_scratch(ctx, (size_t)(a.rows * a.num_groups) * sizeof *a.groups);
  a.supers = (uint32_t *)fk_scratch(ctx, (size_t)(a.rows * a.num_supers) * sizeof *a.supers);
  if (!a.groups || !a.supers) return FK_ERROR_MEMORY;
  a.chunks = fk_ceil_div(a.num_supers, MAXIMA_THREADS / 32);
  fk_status status =
      fk_launch_early(ctx, top_k_maxima<T>, dim3((unsigned)(a.rows * a.chunks)), dim3(MAXIMA_THREADS), 0, a);
  if (status != FK_OK) return status;
  return fk_launch_early(ctx, top_k_descent<T>, dim3((unsigned)a.rows), dim3(DESCENT_THREADS), 0, a);
}

template <typename T>
static fk_status launch(fk_context *ctx, top_k_args a) {
  if (a.columns <= SHORT && a.k <= SHORT_K)
    return fk_launch_early(ctx, a.columns <= 256 ? top_k_short<T, 8> : top_k_short<T, SHORT / 32>,
                           dim3((unsigned)fk_ceil_div(a.rows, 4)), dim3(128), 0, a);
  a.num_groups = fk_ceil_div(a.columns, GROUP), a.num_supers = fk_ceil_div(a.num_groups, 32);
  if (a.k <= DESCENT_K && a.num_supers <= CANDIDATES && a.rows * a.num_supers <= INT32_MAX &&
      a.columns % fk_pack<T>::size == 0 && fk_packs_rows<T>(a.x, a.x_rows))
    return launch_descent<T>(ctx, a);
  a.chunk = 512 * HELD;
  while (a.chunk < 8 * a.k) a.chunk *= 2;
  a.chunks = fk_ceil_div(a.columns, a.chunk);
  a.num_entries = a.columns;
  if (a.chunks > 1 && a.rows * a.chunks <= INT32_MAX) {
    a.num_entries = a.chunks * a.k;
    a.found = (fk_entry *)fk_scratch(ctx, (size_t)(a.rows * a.num_entries) * sizeof *a.found);
    if (!a.found) return FK_ERROR_MEMORY;
    fk_status status = fk_launch_early(ctx, top_k_chunk<T>, dim3((unsigned)(a.rows * a.chunks)), dim3(512), 0, a);
    if (status != FK_OK) return status;
    a.entries = a.found;
  }
  for (a.padded = 1; a.padded < a.k;) a.padded *= 2;
  size_t shared = (size_t)a.padded * sizeof(fk_entry);
  if (a.padded > SORTED_IN_SHARED) {
    a.sorted = (fk_entry *)fk_scratch(ctx, (size_t)a.rows * shared);
    if (!a.sorted) return FK_ERROR_MEMORY;
    shared = 0;
  }
  unsigned threads = a.num_entries <= 2048 && a.k <= 512 ? 256 : 1024;
  return fk_launch_early(ctx, top_k_row<T>, dim3((unsigned)a.rows), dim3(threads), shared, a);
}

fk_status fk_cuda_top_k(fk_context *ctx, const fk_top_k_args *t) {
  if (fk_numel(t->values) == 0) return FK_OK;
  top_k_args a = {};
  a.x = fk_data(t->x), a.x_rows = fk_rows_of(t->x, 1);
  a.values = fk_data(t->values), a.value_rows = fk_rows_of(t->values, 1);
  a.indices = (int64_t *)fk_data(t->indices), a.index_rows = fk_rows_of(t->indices, 1);
  a.rows = fk_rows(t->x), a.columns = fk_size(t->x, -1), a.k = t->k;
  if (a.rows > INT32_MAX)
    return fk_fail(FK_ERROR_UNSUPPORTED, "top_k: cuda: %lld rows are too many", (long long)a.rows);
  FK_FLOAT_DISPATCH(fk_type_of(t->x), T, return launch<T>(ctx, a));
}
