/* Decode attention: how a call is shared among thread blocks, how keys and values reach shared memory, and how partial
 * results become one. decode.cu computes.
 *
 * An item is a run of at most RT rows of one sequence (row r is query r / group, head r % group of its group) under a
 * group of key-value heads. Its keys are cut into units of TILE keys for each warp that shares a head. All units of all
 * items, in the order sequence, row tile, head group, keys, make one line that is cut into equal shares, one for each
 * block: whatever the lengths are, every block reads the same number of bytes. The line is never stored: a block sums
 * the units of the sequences before its share, then walks.
 *
 * A block meets at most two items that are not wholly its own: the one its share begins in (slot 0) and the one it ends
 * in (slot 1). It leaves (o, m, l) of them in float32, o not yet divided, and the block in whose share an item begins
 * leaves a record. decode_combine adds the parts up in the order of the keys, so that results are the same every time.
 *
 * Scores, and so m, are in units of log2. */
#pragma once

#include <limits.h>

#include "cuda_attention.h"
#include "device/cuda/kernel.cuh"

enum { TILE = 16, STAGES = 3, MAX_WARPS = 8 };

/* The item that begins in a block's share and goes on in the next ones. */
typedef struct decode_record {
  int parts; /* 0: there is none */
  int b, row_tile, head_group;
} decode_record;

typedef struct decode_strides {
  int64_t batch, token, head; /* batch: of the paged caches, of a block */
} decode_strides;

typedef struct decode_call {
  const void *q, *k, *v, *sinks;
  void *out;
  const int *cu_q, *cu_k, *lens, *table;
  decode_strides qs, ks, vs, os;
  int64_t table_stride;
  int num_seqs, num_q, num_k;                          /* num_q, num_k: of all sequences, or (dense) of one */
  int num_blocks, block_size, block_shift, max_blocks; /* block_shift -1: not a power of two */
  int group, kv_heads, d_v, rows_per_tile;
  int heads_per_block, head_groups, key_lanes; /* heads_per_block * key_lanes warps */
  int window_left, window_right;
  bool dense, causal;
  fk_type sinks_type;
  float scale, cap; /* score = scale * dot or, where cap > 0, cap * tanh(scale * dot) */
  float *partial_o, *partial_ml;
  decode_record *records;
  fk_index_check bad_cu_q, bad_cu_k, bad_len, bad_block;
} decode_call;

/* ---- Sequences ------------------------------------------------------------------------------------------- */

typedef struct decode_sequence {
  int q0, num_q, k0, num_k;
  int shift; /* query i stands at position i + shift */
} decode_sequence;

/* first <= end <= limit, or the fault is noted and they are made so. */
static __device__ __forceinline__ void fix_offsets(const fk_index_check &check, bool report, int limit, int &first,
                                                   int &end) {
  bool good = first >= 0 && first <= end && end <= limit;
  if (good) return;
  if (report) fk_index_ok(check, first < 0 ? first : end < first ? -1 : end, (int64_t)limit + 1);
  first = min(max(first, 0), limit);
  end = min(max(end, first), limit);
}

/* The first offset is 0, and the last one the number of tokens: none belongs to no sequence. */
static __device__ __forceinline__ void check_ends(const fk_index_check &check, int b, int num_seqs, int tokens,
                                                  int first, int end) {
  if (b == 0) fk_index_ok(check, first, 1);
  if (b == num_seqs - 1 && end < tokens) fk_index_ok(check, tokens, (int64_t)end + 1);
}

static __device__ decode_sequence sequence_at(const decode_call &c, int b, bool report) {
  decode_sequence s;
  if (c.dense) {
    s = {0, c.num_q, 0, c.num_k, c.num_k - c.num_q};
    int end = c.lens ? c.lens[b] : c.num_k, first = 0;
    fix_offsets(c.bad_len, report, c.num_k, first, end);
    s.num_k = end;
    return s;
  }
  int first = c.cu_q[b], end = c.cu_q[b + 1];
  int first_k = c.table ? 0 : c.cu_k[b], end_k = c.table ? c.lens[b] : c.cu_k[b + 1];
  if (report) check_ends(c.bad_cu_q, b, c.num_seqs, c.num_q, first, end);
  fix_offsets(c.bad_cu_q, report, c.num_q, first, end);
  if (c.table) {
    if (report && end_k < end - first) fk_index_ok(c.bad_len, -1, (int64_t)c.max_blocks * c.block_size + 1);
    fix_offsets(c.bad_len, report, (int)min((int64_t)c.max_blocks * c.block_size, (int64_t)INT_MAX), first_k, end_k);
  } else {
    if (report) check_ends(c.bad_cu_k, b, c.num_seqs, c.num_k, first_k, end_k);
    fix_offsets(c.bad_cu_k, report, c.num_k, first_k, end_k);
  }
  s.q0 = first;
  s.num_q = end - first;
  s.k0 = first_k;
  s.num_k = end_k - first_k;
  s.shift = s.num_k - s.num_q;
  return s;
}

/* Keys [lo, hi) that query i sees; both rise with i. */
static __device__ __forceinline__ void visible_keys(const decode_call &c, const decode_sequence &s, int i, int &lo,
                                                    int &hi) {
  int64_t position = (int64_t)i + s.shift, from = 0, to = s.num_k;
  if (c.window_left >= 0) from = min(max(position - c.window_left, (int64_t)0), to);
  if (c.causal) to = min(to, position + 1);
  if (c.window_right >= 0) to = min(to, position + c.window_right + 1);
  lo = (int)from;
  hi = (int)max(to, from);
}

/* Of a tile of keys, those that any row of the item sees. */
enum decode_sight { SEEN_BY_ALL, SEEN_BY_ALL_OR_NONE, SEEN_BY_SOME };

/* ---- The line of units ----------------------------------------------------------------------------------- */

typedef struct decode_place {
  decode_sequence s;
  int b, row_tile, row_tiles, head_group, chunk, chunks;
  int key0;   /* first key of chunk 0 */
  int row0;   /* first row of the item */
  int lo, hi; /* keys that some row of the item sees */
} decode_place;

static __device__ __forceinline__ int chunks_of(const decode_call &c, const decode_sequence &s, int &key0) {
  int lo, hi, unused;
  visible_keys(c, s, 0, lo, unused);
  visible_keys(c, s, s.num_q - 1, unused, hi);
  key0 = lo / TILE * TILE;
  int keys = TILE * c.key_lanes;
  return hi > key0 ? (int)(((int64_t)hi - key0 + keys - 1) / keys) : 1; /* queries without keys are written too */
}

static __device__ __forceinline__ long long units_of(const decode_call &c, const decode_sequence &s) {
  if (s.num_q == 0) return 0;
  int key0, tiles = (s.num_q * c.group + c.rows_per_tile - 1) / c.rows_per_tile;
  return (long long)chunks_of(c, s, key0) * tiles * c.head_groups;
}

static __device__ __forceinline__ void enter_item(const decode_call &c, decode_place &p) {
  int unused, rows = p.s.num_q * c.group;
  p.row0 = p.row_tile * c.rows_per_tile;
  visible_keys(c, p.s, p.row0 / c.group, p.lo, unused);
  visible_keys(c, p.s, (min(p.row0 + c.rows_per_tile, rows) - 1) / c.group, unused, p.hi);
}

static __device__ __forceinline__ void enter_sequence(const decode_call &c, decode_place &p, int b) {
  p.b = b;
  p.s = sequence_at(c, b, false);
  p.row_tile = p.head_group = p.chunk = 0;
  p.row_tiles = (p.s.num_q * c.group + c.rows_per_tile - 1) / c.rows_per_tile;
  if (p.s.num_q) p.chunks = chunks_of(c, p.s, p.key0);
}

/* The next unit; only while there is one. */
static __device__ __forceinline__ void advance(const decode_call &c, decode_place &p) {
  if (++p.chunk < p.chunks) return;
  p.chunk = 0;
  if (++p.head_group == c.head_groups) {
    p.head_group = 0;
    p.row_tile++;
  }
  while (p.row_tile == p.row_tiles) { /* past the last item of a sequence, or in one without queries */
    if (p.b + 1 >= c.num_seqs) return;
    enter_sequence(c, p, p.b + 1);
  }
  enter_item(c, p);
}

static __device__ __forceinline__ void place_at(const decode_call &c, decode_place &p, int b, long long unit) {
  enter_sequence(c, p, b);
  int line = (int)(unit / p.chunks);
  p.chunk = (int)(unit % p.chunks);
  p.head_group = line % c.head_groups;
  p.row_tile = line / c.head_groups;
  enter_item(c, p);
}

/* Sum of one number a thread up to and with the own one; total of all. */
static __device__ long long scan_block(long long x, long long &total) {
  __shared__ long long sums[MAX_WARPS];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int d = 1; d < 32; d *= 2) {
    long long y = __shfl_up_sync(0xffffffffu, x, d);
    if (lane >= d) x += y;
  }
  __syncthreads();
  if (lane == 31) sums[warp] = x;
  __syncthreads();
  total = 0;
  for (int w = 0; w < warps; w++) {
    if (w == warp) x += total;
    total += sums[w];
  }
  return x;
}

/* The block's share of the line. */
typedef struct decode_share {
  long long total, first;
  int blocks; /* that have a share */
  int count;  /* units of this one */
} decode_share;

static __device__ __forceinline__ long long share_start(const decode_share &share, int block) {
  return share.total * block / share.blocks;
}

/* Where the block's share begins. All threads get the same. */
static __device__ decode_share find_share(const decode_call &c, decode_place &p) {
  __shared__ int found;
  __shared__ long long unit;
  int n = c.num_seqs, threads = blockDim.x;
  long long mine = 0, before = 0, sum;
  for (int b = threadIdx.x; b < n; b += threads) mine += units_of(c, sequence_at(c, b, blockIdx.x == 0));
  long long upto = scan_block(mine, sum);
  decode_share share = {sum, 0, (int)min((long long)gridDim.x, sum), 0};
  if ((int)blockIdx.x >= share.blocks) return share;
  share.first = share_start(share, blockIdx.x);
  share.count = (int)(share_start(share, blockIdx.x + 1) - share.first);
  if (threadIdx.x == 0) found = -1;
  __syncthreads();
  for (int base = 0; base < n; base += threads) {
    if (n > threads) {
      mine = base + (int)threadIdx.x < n ? units_of(c, sequence_at(c, base + threadIdx.x, false)) : 0;
      upto = scan_block(mine, sum);
    }
    long long from = before + upto - mine;
    if (mine > 0 && from <= share.first && share.first < from + mine) {
      found = base + threadIdx.x;
      unit = share.first - from;
    }
    before += sum;
    __syncthreads();
    if (found >= 0) break;
  }
  place_at(c, p, found, unit);
  return share;
}

/* How many blocks have a part of the item that `last` is the last unit of. */
static __device__ int parts_of(const decode_share &share, long long last) {
  int block = (int)(last * share.blocks / share.total);
  while (block + 1 < share.blocks && share_start(share, block + 1) <= last) block++;
  return block - (int)blockIdx.x + 1;
}

/* ---- Keys and values to shared memory -------------------------------------------------------------------- */

/* Columns of 16 bytes are exchanged within a row so that the same column of eight rows lies in eight banks. */
template <int COLUMNS>
static __device__ __forceinline__ int swizzled(int row, int column) {
  return COLUMNS % 8 == 0 ? column ^ (row & 7) : column ^ (row >> 1 & 3);
}

template <typename T, int D>
struct decode_tile {
  static constexpr int columns = D * (int)sizeof(T) / 16; /* of 16 bytes */
  static constexpr int bytes = TILE * D * (int)sizeof(T);
};

static __device__ __forceinline__ int first_key(const decode_call &c, const decode_place &p, int key_lane) {
  return p.key0 + (p.chunk * c.key_lanes + key_lane) * TILE;
}

/* The cache block of key lane % TILE of a unit, asked for one unit before it is used; -1 for none. */
static __device__ __forceinline__ int ask_block(const decode_call &c, const decode_place &p, int key_lane) {
  int j = first_key(c, p, key_lane) + (int)threadIdx.x % TILE;
  if (!c.table || j < p.lo || j >= p.hi) return -1;
  return c.table[p.b * c.table_stride + (c.block_shift >= 0 ? j >> c.block_shift : j / c.block_size)];
}

/* Brings the block table nearer while the shares are worked out. */
static __device__ __forceinline__ void ask_table(const decode_call &c) {
  int64_t line = (int64_t)blockIdx.x * blockDim.x + threadIdx.x,
          ints = (c.num_seqs - 1) * c.table_stride + c.max_blocks;
  if (c.table && line * 32 < ints) asm volatile("prefetch.global.L2 [%0];" ::"l"(c.table + line * 32));
}

template <typename T, int D>
static __device__ __forceinline__ void fetch_rows(const T *base, const void *none, int64_t offset, int from_lane,
                                                  uint32_t to) {
  constexpr int columns = decode_tile<T, D>::columns;
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < columns * TILE / 32; i++) {
    int at = i * 32 + lane, row = at / columns, column = at % columns;
    int64_t row_offset = __shfl_sync(0xffffffffu, offset, from_lane + row);
    const char *from = row_offset < 0 ? (const char *)none : (const char *)(base + row_offset) + column * 16;
    uint32_t target = to + (uint32_t)(row * columns + swizzled<columns>(row, column)) * 16;
    int bytes = row_offset < 0 ? 0 : 16; /* hidden rows become zeros: nothing times zero is then NaN */
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target), "l"(from), "r"(bytes)
                 : "memory");
  }
}

/* Starts the copies of a unit's keys and values of one head. Lanes 0 to 15 know where the keys lie, the others the
 * values. */
template <typename T, int D, int DV>
static __device__ __forceinline__ void fetch_unit(const decode_call &c, const decode_place &p, int block, int head,
                                                  int key_lane, uint32_t to) {
  const decode_strides &st = threadIdx.x % 32 < TILE ? c.ks : c.vs;
  int j = first_key(c, p, key_lane) + (int)threadIdx.x % TILE;
  bool seen = j >= p.lo && j < p.hi;
  int64_t offset = head * st.head;
  if (c.table) {
    seen = seen && fk_index_ok(c.bad_block, block, c.num_blocks);
    int place = c.block_shift >= 0 ? j & (c.block_size - 1) : j % c.block_size;
    offset += block * st.batch + place * st.token;
  } else {
    offset += (c.dense ? p.b * st.batch : 0) + ((int64_t)p.s.k0 + j) * st.token;
  }
  if (!seen) offset = -1;
  fetch_rows<T, D>((const T *)c.k, c.q, offset, 0, to);
  fetch_rows<T, DV>((const T *)c.v, c.q, offset, TILE, to + decode_tile<T, D>::bytes);
}

static __device__ __forceinline__ void end_fetch() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most STAGES - 2 fetches are under way; for the whole warp. */
static __device__ __forceinline__ void await_fetch() {
  asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
  __syncwarp();
}

/* ---- Results --------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

static __device__ __forceinline__ float scaled_score(const decode_call &c, float dot) {
  return c.cap > 0 ? c.cap * tanhf(dot * c.scale) : dot * c.scale;
}

/* What sums over scores up to m are multiplied with when the largest becomes `largest`: -inf stands for none yet. */
static __device__ __forceinline__ float rescale(float m, float largest) {
  return exp2_of(m - (largest == -INFINITY ? 0 : largest));
}

/* A lane's part of its warp's results: R rows, C columns of each. */
template <int R, int C>
struct decode_sums {
  float o[R][C], m[R], l[R];
};

template <int R, int C>
static __device__ __forceinline__ void clear_sums(decode_sums<R, C> &x) {
#pragma unroll
  for (int r = 0; r < R; r++) {
    x.m[r] = -INFINITY;
    x.l[r] = 0;
#pragma unroll
    for (int i = 0; i < C; i++) x.o[r][i] = 0;
  }
}

/* The sums of the warps that share a head, all into the first one's; m and l must not differ between the lanes of a
 * row. Every warp's room is its own stages, idle now. */
template <int R, int C>
static __device__ void merge_warps(const decode_call &c, decode_sums<R, C> &x, float *room, int room_floats) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, key_lane = warp / c.heads_per_block;
  for (int step = c.key_lanes / 2; step > 0; step /= 2) {
    if (key_lane >= step && key_lane < 2 * step) {
      float *to = room + (size_t)warp * room_floats + lane;
#pragma unroll
      for (int r = 0; r < R; r++) {
        to[(r * (C + 2)) * 32] = x.m[r];
        to[(r * (C + 2) + 1) * 32] = x.l[r];
#pragma unroll
        for (int i = 0; i < C; i++) to[(r * (C + 2) + 2 + i) * 32] = x.o[r][i];
      }
    }
    __syncthreads();
    if (key_lane < step) {
      const float *from = room + (size_t)(warp + step * c.heads_per_block) * room_floats + lane;
#pragma unroll
      for (int r = 0; r < R; r++) {
        float m = from[(r * (C + 2)) * 32], largest = fmaxf(x.m[r], m);
        float own = rescale(x.m[r], largest), other = rescale(m, largest);
        x.m[r] = largest;
        x.l[r] = x.l[r] * own + from[(r * (C + 2) + 1) * 32] * other;
#pragma unroll
        for (int i = 0; i < C; i++) x.o[r][i] = x.o[r][i] * own + from[(r * (C + 2) + 2 + i) * 32] * other;
      }
    }
    __syncthreads();
  }
}

static __device__ __forceinline__ float sink_of(const decode_call &c, int head) {
  float sink = c.sinks_type == FK_F32    ? ((const float *)c.sinks)[head]
               : c.sinks_type == FK_BF16 ? fk_float(((const __nv_bfloat16 *)c.sinks)[head])
                                         : fk_float(((const __half *)c.sinks)[head]);
  return sink * 1.44269504f;
}

/* What the sum of a row's values is multiplied with at the end; false: the row sees no key and is zero. */
static __device__ __forceinline__ bool row_scale(const decode_call &c, const decode_sequence &s, int row, int kv_head,
                                                 float m, float l, float &scale) {
  int lo, hi;
  visible_keys(c, s, row / c.group, lo, hi);
  float factor = 1;
  if (c.sinks) {
    float sink = sink_of(c, kv_head * c.group + row % c.group), largest = fmaxf(m, sink);
    factor = rescale(m, largest);
    l = l * factor + rescale(sink, largest);
  }
  scale = factor / l;
  return lo < hi;
}

/* Offset in elements of a row of q or out. */
static __device__ __forceinline__ int64_t row_offset(const decode_call &c, const decode_strides &st,
                                                     const decode_sequence &s, int b, int row, int kv_head) {
  return (c.dense ? b * st.batch : 0) + ((int64_t)s.q0 + row / c.group) * st.token +
         ((int64_t)kv_head * c.group + row % c.group) * st.head;
}

/* Row of partial results: block's slot, head and row of the item. */
static __device__ __forceinline__ int64_t partial_row(const decode_call &c, int block, int slot, int head, int row) {
  return (((int64_t)block * 2 + slot) * c.heads_per_block + head) * c.rows_per_tile + row;
}

/* One block for each block of the computation: the item that began there, if others went on with it. A warp takes a
 * row; a lane every 32nd column, at most eight. */
template <typename T>
static __global__ void __launch_bounds__(256) decode_combine(const __grid_constant__ decode_call c) {
  fk_wait_previous();
  fk_let_next_start();
  decode_record record = c.records[blockIdx.x];
  if (record.parts == 0) return;
  int lane = threadIdx.x % 32, columns = c.d_v / 32;
  decode_sequence s = sequence_at(c, record.b, false);
  int row0 = record.row_tile * c.rows_per_tile, rows = min(c.rows_per_tile, s.num_q * c.group - row0);
  for (int task = threadIdx.x / 32; task < rows * c.heads_per_block; task += blockDim.x / 32) {
    int head = task / rows, row = task % rows;
    float largest = -INFINITY, l = 0, o[8] = {};
    for (int k = lane; k < record.parts; k += 32)
      largest = fmaxf(largest, c.partial_ml[2 * partial_row(c, blockIdx.x + k, k == 0, head, row)]);
    largest = fk_warp_max(largest);
#pragma unroll 4
    for (int k = 0; k < record.parts; k++) {
      int64_t at = partial_row(c, blockIdx.x + k, k == 0, head, row);
      float2 ml = *(const float2 *)(c.partial_ml + 2 * at);
      float factor = rescale(ml.x, largest);
      l += ml.y * factor;
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (i < columns) o[i] += c.partial_o[at * c.d_v + i * 32 + lane] * factor;
    }
    int kv_head = record.head_group * c.heads_per_block + head;
    float scale;
    bool sees = row_scale(c, s, row0 + row, kv_head, largest, l, scale);
    T *to = (T *)c.out + row_offset(c, c.os, s, record.b, row0 + row, kv_head);
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (i < columns) to[i * 32 + lane] = fk_from<T>(sees ? o[i] * scale : 0);
  }
}
