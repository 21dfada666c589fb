/* Decode attention: how a call is shared among thread blocks, how keys and values reach shared memory, and how partial
 * results become one. decode.cu is the kernel, decode_math.cuh what it computes.
 *
 * An item is a run of at most rows_per_tile rows of one sequence (row r is query r / group, head r % group of its
 * group) under a group of key-value heads. Its keys are cut into units: a tile of keys for each warp that shares a
 * head. All units of all items, in the order sequence, row tile, head group, keys, make one line that is cut into equal
 * shares, one for each block: whatever the lengths are, every block reads as many bytes as the others. The line is
 * never stored: every warp sums the units of the sequences before its share, then walks from segment to segment: what
 * its share has of one item.
 *
 * A block meets at most two items that are not wholly its own: the one its share begins in (slot 0) and the one it ends
 * in (slot 1). It leaves (o, m, l) of them in float32, o not yet divided, and the block in whose share an item begins
 * leaves a record. decode_combine adds the parts up in the order of the keys, so that results are the same every time.
 *
 * A call of one short sequence lasts as long as its longest chain of instructions. So what is done once avoids
 * divisions, and what is done for every tile avoids everything else: 32-bit numbers, offsets in units of 16 bytes.
 * Scores, and so m, are in units of log2. */
#pragma once

#include "cuda_attention.h"
#include "device/cuda/kernel.cuh"

enum { STAGES = 3, MAX_WARPS = 8, SEGMENTS = STAGES + 1, LONGEST = 1 << 29 };

/* n / divisor by a multiplication, for n < 2^32 / divisor. */
typedef struct decode_divisor {
  unsigned divisor, inverse; /* inverse 0: of 1 */
} decode_divisor;

static inline decode_divisor divisor_of(int64_t divisor) {
  decode_divisor d = {(unsigned)divisor, 0};
  if (divisor > 1) d.inverse = (unsigned)(((1ull << 32) + divisor - 1) / divisor);
  return d;
}

static __device__ __forceinline__ int divide(int n, const decode_divisor &d) {
  return d.inverse ? (int)__umulhi((unsigned)n, d.inverse) : n;
}

/* The item that begins in a block's share and goes on in the next ones. */
typedef struct decode_record {
  int parts; /* 0: there is none */
  int b, row0, head_group;
} decode_record;

typedef struct decode_strides {
  int64_t batch, token, head; /* elements; batch: of the paged caches, of a block */
} decode_strides;

typedef struct decode_call {
  const void *q, *k, *v, *sinks;
  void *out;
  const int *cu_q, *cu_k, *lens, *table;
  decode_strides qs, os;
  struct {
    unsigned batch, token, head; /* of 16 bytes */
  } ks, vs;
  int64_t table_stride;
  int num_seqs, num_q, num_k;            /* num_q, num_k: of all sequences, or (dense) of one */
  int num_blocks, max_blocks, most_keys; /* paged */
  decode_divisor block_size, group;
  int kv_heads, d_v;
  int tile_shift;                              /* rows of an item: 1 << tile_shift */
  int unit_shift;                              /* keys of a unit: 1 << unit_shift */
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

static __device__ __forceinline__ int clamp(int x, int low, int high) {
  return min(max(x, low), high);
}

/* Offsets and lengths may be anything; what is wrong is made harmless. */
static __device__ __forceinline__ decode_sequence sequence_at(const decode_call &c, int b) {
  decode_sequence s;
  if (c.dense) {
    s.q0 = s.k0 = 0;
    s.num_q = c.num_q;
    s.num_k = c.lens ? clamp(c.lens[b], 0, c.num_k) : c.num_k;
    s.shift = c.num_k - c.num_q;
    return s;
  }
  int end_q = c.cu_q[b + 1], first_k = 0, end_k;
  s.q0 = c.cu_q[b];
  if (c.table) {
    end_k = clamp(c.lens[b], 0, c.most_keys);
  } else {
    first_k = c.cu_k[b], end_k = c.cu_k[b + 1];
    first_k = clamp(first_k, 0, c.num_k);
    end_k = clamp(end_k, first_k, c.num_k);
  }
  s.q0 = clamp(s.q0, 0, c.num_q);
  s.num_q = clamp(end_q, s.q0, c.num_q) - s.q0;
  s.k0 = first_k;
  s.num_k = end_k - first_k;
  s.shift = s.num_k - s.num_q;
  return s;
}

/* Offsets rise from 0 to the number of tokens. */
static __device__ __forceinline__ void check_offsets(const fk_index_check &check, const int *offsets, int b,
                                                     int num_seqs, int tokens) {
  int first = offsets[b], end = offsets[b + 1];
  bool good =
      first >= 0 && first <= end && end <= tokens && (b > 0 || first == 0) && (b < num_seqs - 1 || end == tokens);
  if (good) return;
  if (end < first || first < 0) fk_index_ok(check, -1, tokens);
  if (b == 0) fk_index_ok(check, first, 1);
  fk_index_ok(check, end, (int64_t)tokens + 1);
  fk_index_ok(check, tokens, (int64_t)end + 1); /* tokens that belong to no sequence */
}

/* Notes what is wrong with a sequence. */
static __device__ void check_sequence(const decode_call &c, int b) {
  if (c.dense) {
    if (c.lens) fk_index_ok(c.bad_len, c.lens[b], (int64_t)c.num_k + 1);
    return;
  }
  check_offsets(c.bad_cu_q, c.cu_q, b, c.num_seqs, c.num_q);
  if (!c.table) {
    check_offsets(c.bad_cu_k, c.cu_k, b, c.num_seqs, c.num_k);
    return;
  }
  fk_index_ok(c.bad_len, c.lens[b], (int64_t)c.most_keys + 1);
  if (c.lens[b] < c.cu_q[b + 1] - c.cu_q[b]) fk_index_ok(c.bad_len, -1, (int64_t)c.most_keys + 1);
}

/* Keys [lo, hi) that query i sees; both rise with i. */
static __device__ __forceinline__ void visible_keys(const decode_call &c, int shift, int num_k, int i, int &lo,
                                                    int &hi) {
  int position = i + shift;
  lo = c.window_left >= 0 ? clamp(position - c.window_left, 0, num_k) : 0;
  hi = num_k;
  if (c.causal) hi = min(hi, position + 1);
  if (c.window_right >= 0) hi = min(hi, position + c.window_right + 1);
  hi = max(hi, lo);
}

/* ---- Shares ---------------------------------------------------------------------------------------------- */

/* Units of one item of a sequence, and its first key. */
static __device__ __forceinline__ int chunks_of(const decode_call &c, const decode_sequence &s, int &key0) {
  int lo, hi, unused;
  visible_keys(c, s.shift, s.num_k, 0, lo, unused);
  visible_keys(c, s.shift, s.num_k, s.num_q - 1, unused, hi);
  key0 = lo & ~15;
  return max((hi - key0 + (1 << c.unit_shift) - 1) >> c.unit_shift, 1); /* queries without keys are written too */
}

static __device__ __forceinline__ int items_of(const decode_call &c, const decode_sequence &s) {
  return ((s.num_q * (int)c.group.divisor + (1 << c.tile_shift) - 1) >> c.tile_shift) * c.head_groups;
}

static __device__ __forceinline__ int units_of(const decode_call &c, int b) {
  decode_sequence s = sequence_at(c, b);
  int key0;
  return s.num_q ? chunks_of(c, s, key0) * items_of(c, s) : 0;
}

/* The line of `total` units in equal shares: the first `longer` blocks have one unit more than the others. */
typedef struct decode_share {
  int blocks, least, longer;
  int first, count; /* units of this block */
} decode_share;

/* The block that has a unit. */
static __device__ __forceinline__ int block_of(const decode_share &share, int unit) {
  int edge = share.longer * (share.least + 1);
  return unit < edge ? unit / (share.least + 1) : share.longer + (unit - edge) / share.least;
}

static __device__ __forceinline__ int scan_warp(int x) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    int y = __shfl_up_sync(0xffffffffu, x, d);
    if ((int)threadIdx.x % 32 >= d) x += y;
  }
  return x;
}

/* Where the block's share begins: unit `unit` of sequence b. Each warp finds it by itself: a lane sums a run of
 * sequences, then the lanes look into the run that has it. */
static __device__ __forceinline__ decode_share find_share(const decode_call &c, int &b, int &unit) {
  int lane = threadIdx.x % 32, run = (c.num_seqs + 31) / 32, mine = 0;
#pragma unroll 2
  for (int i = lane * run; i < min((lane + 1) * run, c.num_seqs); i++) mine += units_of(c, i);
  int upto = scan_warp(mine), total = __shfl_sync(0xffffffffu, upto, 31);
  decode_share share;
  share.blocks = min((int)gridDim.x, total);
  share.least = share.count = 0;
  b = 0;
  if ((int)blockIdx.x >= share.blocks) return share;
  share.least = total / share.blocks;
  share.longer = total - share.least * share.blocks;
  share.first = blockIdx.x * share.least + min((int)blockIdx.x, share.longer);
  share.count = share.least + ((int)blockIdx.x < share.longer);
  unsigned has = __ballot_sync(0xffffffffu, upto - mine <= share.first && share.first < upto);
  int from = __ffs(has) - 1;
  unit = share.first - __shfl_sync(0xffffffffu, upto - mine, from);
  b = from * run;
  for (int i = 0; run > 1; i += 32) {
    mine = i + lane < run && b + i + lane < c.num_seqs ? units_of(c, b + i + lane) : 0;
    upto = scan_warp(mine);
    has = __ballot_sync(0xffffffffu, unit < upto);
    from = has ? __ffs(has) - 1 : 31;
    int before = __shfl_sync(0xffffffffu, has ? upto - mine : upto, from);
    unit -= before;
    if (has) {
      b += i + from;
      break;
    }
  }
  return share;
}

/* What a block's share has of one item. In shared memory: of every warp those between its fetches and its work. */
typedef struct decode_segment {
  int b, q0, num_q, num_k, shift;
  int row0, head_group;
  int units;
  int lo, hi;         /* keys that some row of the item sees */
  int all_lo, all_hi; /* keys that all rows see */
  int key;            /* first one of the first unit */
  int last;           /* unit of the line that ends the item */
  bool begins, ends;  /* the item */
} decode_segment;

/* Where a warp fetches: the unit that comes next. */
typedef struct decode_fetch {
  int b, unit;       /* segment after this one: unit of sequence b */
  int fetched, left; /* units: of all, of this segment still to be fetched */
  int key;           /* the warp's first one of the next unit */
  int lo, hi;
  unsigned k, v; /* offset of the head (and sequence), in 16 bytes */
  int block;     /* cache block of key + lane % TILE */
} decode_fetch;

/* The next segment, which exists: written to shared memory, and made the one to fetch. */
static __device__ __forceinline__ void enter_segment(const decode_call &c, const decode_share &share, decode_fetch &f,
                                                     int head, int key_lane, int tile, decode_segment *to) {
  decode_segment g;
  decode_sequence s;
  int chunks, items, key0, unused;
  for (;; f.b++, f.unit = 0) {
    s = sequence_at(c, f.b);
    if (s.num_q == 0) continue;
    chunks = chunks_of(c, s, key0);
    items = items_of(c, s);
    if (f.unit < chunks * items) break;
  }
  int item = f.unit / chunks, chunk = f.unit - item * chunks, row_tile = item;
  g.head_group = 0;
  if (c.head_groups > 1) {
    row_tile = item / c.head_groups;
    g.head_group = item - row_tile * c.head_groups;
  }
  g.b = f.b;
  g.q0 = s.q0, g.num_q = s.num_q, g.num_k = s.num_k, g.shift = s.shift;
  g.row0 = row_tile << c.tile_shift;
  int last_row = min(g.row0 + (1 << c.tile_shift), s.num_q * (int)c.group.divisor) - 1;
  visible_keys(c, s.shift, s.num_k, divide(g.row0, c.group), g.lo, g.all_hi);
  visible_keys(c, s.shift, s.num_k, divide(last_row, c.group), g.all_lo, g.hi);
  g.units = min(chunks - chunk, share.count - f.fetched);
  g.key = key0 + (chunk << c.unit_shift);
  g.begins = chunk == 0;
  g.ends = chunk + g.units == chunks;
  g.last = share.first + f.fetched + chunks - 1 - chunk;
  if (threadIdx.x % 32 == 0) *to = g;
  unused = g.head_group * c.heads_per_block + head;
  f.unit += g.units;
  f.left = g.units;
  f.key = g.key + key_lane * tile;
  f.lo = g.lo, f.hi = g.hi;
  f.k = unused * c.ks.head, f.v = unused * c.vs.head;
  if (!c.table) {
    f.k += (c.dense ? g.b * c.ks.batch : 0) + s.k0 * c.ks.token;
    f.v += (c.dense ? g.b * c.vs.batch : 0) + s.k0 * c.vs.token;
  }
}

/* ---- Keys and values to shared memory -------------------------------------------------------------------- */

/* Columns of 16 bytes are exchanged within a row so that the same column of eight rows lies in eight banks. */
template <int COLUMNS>
static __device__ __forceinline__ int swizzled(int row, int column) {
  return COLUMNS % 8 == 0 ? column ^ (row & 7) : column ^ (row >> 1 & 3);
}

template <typename T, int D, int TILE>
struct decode_tile {
  static constexpr int columns = D * (int)sizeof(T) / 16; /* of 16 bytes */
  static constexpr int bytes = TILE * D * (int)sizeof(T);
};

/* Brings the block table nearer while the shares are worked out. */
static __device__ __forceinline__ void ask_table(const decode_call &c, int most_blocks) {
  int64_t line = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, ints = (c.num_seqs - 1) * c.table_stride + most_blocks;
  if (line * 32 < ints) asm volatile("prefetch.global.L2 [%0];" ::"l"(c.table + line * 32));
}

/* The cache block of each lane's key, asked for one unit before it is used; -1 for none. */
template <int TILE>
static __device__ __forceinline__ int ask_block(const decode_call &c, const decode_fetch &f, const int *table) {
  int j = f.key + (int)threadIdx.x % TILE;
  return j >= f.lo && j < f.hi ? table[divide(j, c.block_size)] : -1;
}

/* Rows of 16-byte columns: lane r knows where row r lies; hidden rows become zeros, since nothing times zero is NaN. */
template <typename T, int D, int TILE>
static __device__ __forceinline__ void fetch_rows(const void *base, unsigned offset, unsigned seen, uint32_t to) {
  constexpr int columns = decode_tile<T, D, TILE>::columns;
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < columns * TILE / 32; i++) {
    int row = columns % 32 && 32 % columns ? (i * 32 + lane) / columns : i * 32 / columns + lane % 32 / columns;
    int column = columns % 32 && 32 % columns ? (i * 32 + lane) % columns : (i * 32 % columns + lane) % columns;
    const char *from = (const char *)base + (size_t)__shfl_sync(0xffffffffu, offset, row) * 16 + column * 16;
    uint32_t target = to + (uint32_t)(row * columns + swizzled<columns>(row, column)) * 16;
    unsigned bytes = (seen >> row & 1) * 16;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target), "l"(from), "r"(bytes)
                 : "memory");
  }
}

/* Starts the copies of a unit's keys and values of one head. */
template <typename T, int D, int DV, int TILE>
static __device__ __forceinline__ void fetch_unit(const decode_call &c, const decode_fetch &f, uint32_t to) {
  int j = f.key + (int)threadIdx.x % TILE;
  bool sees = j >= f.lo && j < f.hi;
  unsigned k = 0, v = 0;
  if (c.table) {
    if (sees && (unsigned)f.block >= (unsigned)c.num_blocks) sees = fk_index_ok(c.bad_block, f.block, c.num_blocks);
    int place = j - divide(j, c.block_size) * (int)c.block_size.divisor;
    if (sees) {
      k = f.k + f.block * c.ks.batch + place * c.ks.token;
      v = f.v + f.block * c.vs.batch + place * c.vs.token;
    }
  } else if (sees) {
    k = f.k + j * c.ks.token;
    v = f.v + j * c.vs.token;
  }
  unsigned seen = __ballot_sync(0xffffffffu, sees);
  fetch_rows<T, D, TILE>(c.k, k, seen, to);
  fetch_rows<T, DV, TILE>(c.v, v, seen, to + decode_tile<T, D, TILE>::bytes);
}

static __device__ __forceinline__ void end_fetch() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most STAGES - 2 fetches are under way; for the whole warp. */
static __device__ __forceinline__ void await_fetch() {
  asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
  __syncwarp();
}
