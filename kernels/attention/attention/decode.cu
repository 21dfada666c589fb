/* Decode attention on the GPU: few queries per sequence, keys and values read once at the speed of memory.
 *
 * Floors (bfloat16, 32 query heads over 8 key-value heads of 128, an H200 that copies at 4.22 TB/s): 4 KB per key, so
 * 64 us for 32 sequences of 2048 keys, 255 us for 64 of 4096, 8 us for one of 8192. Measured: 76, 258 and 26 us. What
 * is above the floor is a chain of waits, about 9 us long: lengths, block table, keys, merge, the second kernel, and
 * there 0.4 us for each part of a row, since its parts are loaded one after another.
 *
 * Every warp runs its own pipeline: it copies a tile of keys and values of one head asynchronously into its part of
 * shared memory, STAGES deep, and nothing but the end of an item (where warps share a head) makes warps wait for each
 * other. bfloat16 and float16 use the tensor cores: the rows of an item (queries times the heads of a group) fill the
 * 16 rows of a multiplication. float32 uses ordinary arithmetic. */
#include "decode_math.cuh"

enum { COMBINE_THREADS = 128 };

/* ---- Results --------------------------------------------------------------------------------------------- */

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

static __device__ __forceinline__ float sink_of(const decode_call &c, int head) {
  float sink = c.sinks_type == FK_F32    ? ((const float *)c.sinks)[head]
               : c.sinks_type == FK_BF16 ? fk_float(((const __nv_bfloat16 *)c.sinks)[head])
                                         : fk_float(((const __half *)c.sinks)[head]);
  return sink * 1.44269504f;
}

/* What the sum of a row's values is multiplied with at the end. */
static __device__ __forceinline__ float row_scale(const decode_call &c, int row, int kv_head, float m, float l) {
  float factor = 1;
  if (c.sinks) {
    int group = (int)c.group.divisor;
    float sink = sink_of(c, kv_head * group + row - divide(row, c.group) * group), largest = fmaxf(m, sink);
    factor = rescale(m, largest);
    l = l * factor + rescale(sink, largest);
  }
  return factor / l;
}

/* Row of partial results: block's slot, head and row of the item. */
static __device__ __forceinline__ int partial_row(const decode_call &c, int block, int slot, int head, int row) {
  return (((block * 2 + slot) * c.heads_per_block + head) << c.tile_shift) + row;
}

template <typename T>
static __device__ __forceinline__ void store_two(T *to, float a, float b) {
  if constexpr (std::is_same<T, float>::value)
    *(float2 *)to = make_float2(a, b);
  else
    *(uint32_t *)to = pack_two<T>(a, b);
}

/* A row is complete: its sums become numbers of out. */
template <typename T, typename M>
static __device__ __forceinline__ void finish_row(const decode_call &c, const decode_segment &g, int row, int kv_head,
                                                  const decode_sums<M::R, M::C> &x, int i) {
  int lo, hi;
  row_keys(c, g, row, lo, hi);
  float scale = row_scale(c, g.row0 + row, kv_head, x.m[i], x.l[i]);
  T *to = (T *)c.out + row_offset(c, c.os, g.b, g.q0, g.row0 + row, kv_head);
#pragma unroll
  for (int k = 0; k < M::C; k += M::run) {
    float first = lo < hi ? x.o[i][k] * scale : 0;
    if constexpr (M::run == 2)
      store_two(to + M::column_of(k), first, lo < hi ? x.o[i][k + 1] * scale : 0);
    else
      to[M::column_of(k)] = fk_from<T>(first);
  }
}

/* A row's sums as they are, to partial results or shared memory. */
template <typename M>
static __device__ __forceinline__ void keep_row(float *o, float2 *ml, const decode_sums<M::R, M::C> &x, int i) {
  if (threadIdx.x % M::row_lanes == 0) *ml = make_float2(x.m[i], x.l[i]);
#pragma unroll
  for (int k = 0; k < M::C; k += M::run) {
    if constexpr (M::run == 2)
      *(float2 *)(o + M::column_of(k)) = make_float2(x.o[i][k], x.o[i][k + 1]);
    else
      o[M::column_of(k)] = x.o[i][k];
  }
}

/* Warps that share heads have kept their rows in their stages, idle now: [warp][row][DV], then [warp][row] of (m, l).
 * A thread takes two columns of a row, in the order of the keys. */
template <typename T, int DV>
static __device__ __forceinline__ void merge_warps(const decode_call &c, const decode_segment &g, const float *room,
                                                   int room_floats, int rows) {
#pragma unroll 1
  for (int task = threadIdx.x; task < c.heads_per_block * rows * (DV / 2); task += blockDim.x) {
    int line = task / (DV / 2), column = task % (DV / 2) * 2, head = 0, row = line;
    while (row >= rows) row -= rows, head++;
    const float *from = room + head * room_floats, *ml = from + (DV << c.tile_shift);
    int step = c.heads_per_block * room_floats;
    float largest = -INFINITY, l = 0, o[2] = {0, 0};
    for (int k = 0; k < c.key_lanes; k++) largest = fmaxf(largest, ml[k * step + 2 * row]);
#pragma unroll 2
    for (int k = 0; k < c.key_lanes; k++) {
      float2 part = *(const float2 *)(from + k * step + row * DV + column);
      float factor = rescale(ml[k * step + 2 * row], largest);
      l += ml[k * step + 2 * row + 1] * factor;
      o[0] += part.x * factor;
      o[1] += part.y * factor;
    }
    int kv_head = g.head_group * c.heads_per_block + head;
    if (g.begins && g.ends) {
      int lo, hi;
      row_keys(c, g, row, lo, hi);
      float scale = row_scale(c, g.row0 + row, kv_head, largest, l);
      T *to = (T *)c.out + row_offset(c, c.os, g.b, g.q0, g.row0 + row, kv_head) + column;
      store_two(to, lo < hi ? o[0] * scale : 0, lo < hi ? o[1] * scale : 0);
    } else {
      int at = partial_row(c, blockIdx.x, g.begins, head, row);
      *(float2 *)(c.partial_o + (int64_t)at * DV + column) = make_float2(o[0], o[1]);
      if (column == 0) *(float2 *)(c.partial_ml + 2 * at) = make_float2(largest, l);
    }
  }
}

/* The block's share of an item has been computed: its result goes where it belongs. */
template <typename T, int DV, typename M>
static __device__ __forceinline__ void end_segment(const decode_call &c, const decode_segment &g, float *room,
                                                   int room_floats, decode_sums<M::R, M::C> &x) {
  int warp = threadIdx.x / 32, kv_head = g.head_group * c.heads_per_block + warp;
  int rows = min(1 << M::tile_shift, g.num_q * (int)c.group.divisor - g.row0);
  __syncwarp(); /* the stages have been read */
#pragma unroll
  for (int i = 0; i < M::R; i++) {
    int row = M::row_of(i);
#pragma unroll
    for (int d = 1; d < M::row_lanes; d *= 2) x.l[i] += __shfl_xor_sync(0xffffffffu, x.l[i], d);
    if (row >= rows) continue;
    if (c.key_lanes > 1) {
      float *own = room + warp * room_floats;
      keep_row<M>(own + row * DV, (float2 *)(own + (DV << M::tile_shift) + 2 * row), x, i);
    } else if (g.begins && g.ends) {
      finish_row<T, M>(c, g, row, kv_head, x, i);
    } else {
      int at = partial_row(c, blockIdx.x, g.begins, warp, row);
      keep_row<M>(c.partial_o + (int64_t)at * DV, (float2 *)(c.partial_ml + 2 * at), x, i);
    }
  }
  if (c.key_lanes == 1) return;
  __syncthreads();
  merge_warps<T, DV>(c, g, room, room_floats, rows);
  __syncthreads();
}

/* Blocks (x, head) add up the item that began in block x of the computation, if others went on with it: a warp takes a
 * row of the head, a lane every 32nd column, at most eight. */
template <typename T>
static __global__ void __launch_bounds__(COMBINE_THREADS) decode_combine(const __grid_constant__ decode_call c) {
  fk_wait_previous();
  fk_let_next_start();
  if (blockIdx.x == gridDim.x - 1 && blockIdx.y == 0) /* nothing begins there that goes on: it has the time */
    for (int b = threadIdx.x; b < c.num_seqs; b += blockDim.x) check_sequence(c, b);
  decode_record record = c.records[blockIdx.x];
  if (record.parts == 0) return;
  int lane = threadIdx.x % 32, columns = c.d_v / 32, head = blockIdx.y;
  decode_sequence s = sequence_at(c, record.b);
  int rows = min(1 << c.tile_shift, s.num_q * (int)c.group.divisor - record.row0);
  for (int row = threadIdx.x / 32; row < rows; row += COMBINE_THREADS / 32) {
    float largest = -INFINITY, l = 0, o[8] = {};
    for (int k = lane; k < record.parts; k += 32)
      largest = fmaxf(largest, c.partial_ml[2 * partial_row(c, blockIdx.x + k, k == 0, head, row)]);
    largest = fk_warp_max(largest);
    for (int base = 0; base < record.parts; base += 32) {
      float factor = 0, sum = 0;
      int mine = base + lane, count = min(record.parts - base, 32);
      if (mine < record.parts) {
        int at = partial_row(c, blockIdx.x + mine, mine == 0, head, row);
        float2 ml = *(const float2 *)(c.partial_ml + 2 * at);
        factor = rescale(ml.x, largest);
        sum = ml.y * factor;
      }
      l += fk_warp_sum(sum);
#pragma unroll 8
      for (int k = 0; k < count; k++) {
        int at = partial_row(c, blockIdx.x + base + k, base + k == 0, head, row);
        float by = __shfl_sync(0xffffffffu, factor, k);
#pragma unroll
        for (int i = 0; i < 8; i++)
          if (i < columns) o[i] += c.partial_o[(int64_t)at * c.d_v + i * 32 + lane] * by;
      }
    }
    int kv_head = record.head_group * c.heads_per_block + head, lo, hi;
    visible_keys(c, s.shift, s.num_k, divide(record.row0 + row, c.group), lo, hi);
    float scale = row_scale(c, record.row0 + row, kv_head, largest, l);
    T *to = (T *)c.out + row_offset(c, c.os, record.b, s.q0, record.row0 + row, kv_head);
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (i < columns) to[i * 32 + lane] = fk_from<T>(lo < hi ? o[i] * scale : 0);
  }
}

/* ---- The kernel ------------------------------------------------------------------------------------------ */

template <typename T, int D, int DV, typename M>
static __global__ void __launch_bounds__(32 * MAX_WARPS, 1) decode(const __grid_constant__ decode_call c) {
  constexpr int TILE = M::tile;
  constexpr int stage_bytes = decode_tile<T, D, TILE>::bytes + decode_tile<T, DV, TILE>::bytes;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ decode_segment segments[MAX_WARPS][SEGMENTS];
  fk_wait_previous();
  fk_let_next_start();
  if (c.table) ask_table(c, c.max_blocks);
  int warp = threadIdx.x / 32, head = warp % c.heads_per_block, key_lane = warp / c.heads_per_block;
  decode_fetch f;
  decode_share share = find_share(c, f.b, f.unit);
  if (threadIdx.x == 0) c.records[blockIdx.x].parts = 0;
  if ((int)blockIdx.x >= share.blocks) return;

  unsigned char *room = shared + (blockDim.x / 32) * STAGES * stage_bytes + warp * M::warp_bytes;
  uint32_t stages = fk_shared_address(shared) + warp * STAGES * stage_bytes;
  typename M::query q;
  decode_sums<M::R, M::C> x;
  const decode_segment *g = segments[warp];
  const int *table = NULL;
  /* Before the first unit of a segment's fetches its place is found, then come STAGES - 1 fetches ahead of its first
   * computation. Where warps have heads of their own, only the first segment waits so. */
  int ahead = STAGES, into = 0, from = 0, entered = 0, left = 0, key = 0, all_lo = 0, all_hi = 0;
  bool some = false;
  f.fetched = f.left = 0;
  for (int done = 0; done < share.count;) {
    if (left == 0 && ahead <= 1) { /* queries come while keys are under way */
      __syncwarp();
      left = g->units;
      key = g->key + key_lane * TILE;
      all_lo = g->all_lo, all_hi = g->all_hi;
      some = all_lo != g->lo || all_hi != g->hi;
      clear_sums(x);
      M::load_query(c, *g, g->head_group * c.heads_per_block + head, room, q);
    }
    if (ahead == 0) await_fetch();
    if (ahead < STAGES) {
      if (f.left > 0) {
        fetch_unit<T, D, DV, TILE>(c, f, stages + into * stage_bytes);
        f.fetched++;
        f.left--;
        f.key += 1 << c.unit_shift;
      }
      end_fetch();
      into = into + 1 == STAGES ? 0 : into + 1;
    }
    if (f.left == 0 && f.fetched < share.count && (c.key_lanes == 1 || ahead == STAGES)) {
      enter_segment(c, share, f, head, key_lane, TILE, &segments[warp][entered]);
      table = c.table + f.b * c.table_stride;
      entered = entered + 1 == SEGMENTS ? 0 : entered + 1;
    }
    if (c.table && f.left > 0) f.block = ask_block<TILE>(c, f, table);
    if (ahead > 0) {
      ahead--;
      continue;
    }
    decode_sight sight = key >= all_lo && key + TILE <= all_hi ? SEEN_BY_ALL
                         : some                                ? SEEN_BY_SOME
                                                               : SEEN_BY_ALL_OR_NONE;
    M::attend(c, *g, key, sight, q, room, stages + from * stage_bytes, x);
    key += 1 << c.unit_shift;
    from = from + 1 == STAGES ? 0 : from + 1;
    done++;
    if (--left > 0) continue;
    end_segment<T, DV, M>(c, *g, (float *)shared, STAGES * stage_bytes / 4, x);
    if (g->begins && !g->ends && threadIdx.x == 0) {
      decode_record record = {block_of(share, g->last) - (int)blockIdx.x + 1, g->b, g->row0, g->head_group};
      c.records[blockIdx.x] = record;
    }
    g = g == &segments[warp][SEGMENTS - 1] ? segments[warp] : g + 1;
    if (c.key_lanes > 1) {
      ahead = STAGES;
      into = from;
    }
  }
}

/* ---- Launching ------------------------------------------------------------------------------------------- */

enum { MOST_QUERIES = 8 }; /* per sequence, on average */

/* Rows that start at multiples of `bytes`, in a tensor of less than 64 GB. */
static bool aligned(const fk_tensor *t, int64_t bytes) {
  int64_t width = t->dtype.bits / 8, span = 0;
  if ((uintptr_t)fk_data(t) % bytes != 0) return false;
  for (int32_t i = 0; i < t->ndim; i++) {
    if (i + 1 < t->ndim && t->shape[i] > 1 && fk_stride(t, i) * width % bytes != 0) return false;
    if (fk_stride(t, i) < 0) return false;
    span += t->shape[i] * fk_stride(t, i) * width;
  }
  return span < INT64_C(1) << 36;
}

static bool sizes_served(int64_t d, int64_t dv) {
  return (d == dv && (d == 64 || d == 96 || d == 128 || d == 256)) || (d == 192 && dv == 128);
}

extern "C" bool fk_attention_decode_serves(const fk_context *ctx, const fk_attention_args *a) {
  bool dense = a->q->ndim == 4, paged = a->block_table != NULL;
  if (fk_numel(a->q) == 0 || !sizes_served(fk_size(a->q, -1), fk_size(a->v, -1))) return false;
  if (!dense && (!a->cu_seqlens_q || (paged ? !a->seq_lens : !a->cu_seqlens_k))) return false;
  int64_t num_seqs = dense ? a->q->shape[0] : a->cu_seqlens_q->shape[0] - 1, block = paged ? a->k->shape[1] : 1;
  int64_t queries = dense ? num_seqs * a->q->shape[1] : a->q->shape[0];
  int64_t keys = dense ? a->k->shape[1] : paged ? a->block_table->shape[1] * block : a->k->shape[0];
  int64_t heads = fk_size(a->q, -2), group = heads / fk_size(a->k, -2);
  if (num_seqs < 1 || block < 1 || queries > num_seqs * MOST_QUERIES) return false;
  /* What is counted in int, or divided by a multiplication. */
  if (keys >= LONGEST || keys * block >= INT64_C(1) << 32 || queries * group * group >= INT64_C(1) << 31) return false;
  if ((keys / 16 + 1) * (num_seqs + queries) * heads >= INT64_C(1) << 31) return false;
  return fk_context_cuda(ctx)->compute_capability >= 80 && aligned(a->q, 4) && aligned(a->out, 4) &&
         aligned(a->k, 16) && aligned(a->v, 16);
}

static decode_strides strides_of(const fk_tensor *t) {
  decode_strides s = {t->ndim == 4 ? fk_stride(t, 0) : 0, fk_stride(t, t->ndim - 3), fk_stride(t, t->ndim - 2)};
  return s;
}

static void paged_call_of(const fk_attention_args *a, decode_call *c) {
  c->table = (const int *)fk_data(a->block_table);
  c->table_stride = fk_stride(a->block_table, 0);
  c->max_blocks = (int)a->block_table->shape[1];
  c->num_blocks = (int)a->k->shape[0];
  c->block_size = divisor_of(a->k->shape[1]);
  c->most_keys = c->max_blocks * (int)a->k->shape[1];
}

static unsigned in_16_bytes(const fk_tensor *t, int axis) {
  return (unsigned)(fk_stride(t, axis) * (t->dtype.bits / 8) / 16);
}

static decode_call call_of(fk_context *ctx, const fk_attention_args *a) {
  decode_call c = {};
  c.dense = a->q->ndim == 4;
  c.q = fk_data(a->q), c.out = fk_data(a->out);
  c.k = fk_numel(a->k) ? fk_data(a->k) : c.q, c.v = fk_numel(a->v) ? fk_data(a->v) : c.q; /* addresses to be read */
  c.qs = strides_of(a->q), c.os = strides_of(a->out);
  int n = a->k->ndim;
  if (n == 4) c.ks.batch = in_16_bytes(a->k, 0), c.vs.batch = in_16_bytes(a->v, 0);
  c.ks.token = in_16_bytes(a->k, n - 3), c.vs.token = in_16_bytes(a->v, n - 3);
  c.ks.head = in_16_bytes(a->k, n - 2), c.vs.head = in_16_bytes(a->v, n - 2);
  if (a->cu_seqlens_q) c.cu_q = (const int *)fk_data(a->cu_seqlens_q);
  if (a->cu_seqlens_k) c.cu_k = (const int *)fk_data(a->cu_seqlens_k);
  if (a->seq_lens) c.lens = (const int *)fk_data(a->seq_lens);
  if (a->sinks) c.sinks = fk_data(a->sinks), c.sinks_type = fk_type_of(a->sinks);
  c.num_seqs = (int)(c.dense ? a->q->shape[0] : a->cu_seqlens_q->shape[0] - 1);
  c.num_q = (int)(c.dense ? a->q->shape[1] : a->q->shape[0]);
  c.num_k = (int)(c.dense ? a->k->shape[1] : a->k->shape[0]);
  if (a->block_table) paged_call_of(a, &c);
  c.kv_heads = (int)fk_size(a->k, -2);
  c.group = divisor_of(fk_size(a->q, -2) / c.kv_heads);
  c.d_v = (int)fk_size(a->v, -1);
  c.causal = a->causal;
  c.window_left = a->window_left < LONGEST ? (int)a->window_left : (int)LONGEST;
  c.window_right = a->window_right < LONGEST ? (int)a->window_right : (int)LONGEST;
  double cap = a->softcap > 0 && a->softcap < 1e-30 ? 1e-30 : a->softcap, log2e = 1.4426950408889634;
  c.scale = (float)(cap > 0 ? a->scale / cap : a->scale * log2e);
  c.cap = (float)(cap * log2e);
  c.bad_cu_q = fk_index_checker(ctx, "attention: cu_seqlens_q");
  c.bad_cu_k = fk_index_checker(ctx, "attention: cu_seqlens_k");
  c.bad_len = fk_index_checker(ctx, "attention: seq_lens");
  c.bad_block = fk_index_checker(ctx, "attention: block_table");
  return c;
}

static int log2_of(int x) {
  int n = 0;
  while (1 << (n + 1) <= x) n++;
  return n;
}

/* How many heads the warps of a block divide among them; the other warps divide keys. All heads of a key lie side by
 * side in memory, which argues for many; few long sequences leave too few items to combine in parallel. */
static int heads_for(const decode_call &c, int warps) {
  int heads = 1;
  while (heads < warps && c.kv_heads % (2 * heads) == 0 && (int64_t)c.num_seqs * (c.kv_heads / (2 * heads)) >= 16)
    heads *= 2;
  return heads;
}

template <typename T, int D, int DV, typename M>
static fk_status launch(fk_context *ctx, decode_call c) {
  const fk_cuda *cuda = fk_context_cuda(ctx);
  size_t warp_bytes = STAGES * (decode_tile<T, D, M::tile>::bytes + decode_tile<T, DV, M::tile>::bytes) + M::warp_bytes;
  int warps = MAX_WARPS;
  while (warps > 1 && warps * warp_bytes + sizeof(decode_segment) * MAX_WARPS * SEGMENTS > cuda->max_shared_bytes)
    warps /= 2;
  c.heads_per_block = heads_for(c, warps);
  c.head_groups = c.kv_heads / c.heads_per_block;
  c.key_lanes = warps / c.heads_per_block;
  c.tile_shift = M::tile_shift;
  c.unit_shift = log2_of(M::tile * c.key_lanes);
  /* No more blocks than there can be units. */
  int64_t keys = c.table ? c.most_keys : c.num_k, queries = c.dense ? (int64_t)c.num_q * c.num_seqs : c.num_q;
  int64_t units =
      ((keys >> c.unit_shift) + 2) * c.head_groups * (c.num_seqs + (queries * c.group.divisor >> c.tile_shift));
  int64_t blocks = units < cuda->num_sms ? units : cuda->num_sms;
  int64_t rows = (blocks * 2 * c.heads_per_block) << c.tile_shift;
  c.partial_o = (float *)fk_scratch(ctx, (size_t)(rows * c.d_v) * sizeof(float));
  c.partial_ml = (float *)fk_scratch(ctx, (size_t)rows * 2 * sizeof(float));
  c.records = (decode_record *)fk_scratch(ctx, (size_t)blocks * sizeof(decode_record));
  if (!c.partial_o || !c.partial_ml || !c.records) return FK_ERROR_MEMORY;
  dim3 grid((unsigned)blocks);
  FK_TRY(fk_launch_early(ctx, decode<T, D, DV, M>, grid, dim3(32 * warps), warps * warp_bytes, c));
  return fk_launch_early(ctx, decode_combine<T>, dim3((unsigned)blocks, (unsigned)c.heads_per_block),
                         dim3(COMBINE_THREADS), 0, c);
}

/* Two groups of 16 rows where one would read the keys twice; heads of two sizes have the registers for it. */
template <typename T, int D, int DV>
static fk_status launch_rows(fk_context *ctx, const decode_call &c) {
  if constexpr (std::is_same<T, float>::value) {
    return launch<T, D, DV, decode_math_float<D, DV>>(ctx, c);
  } else {
    constexpr int TILE = D == 64 ? 32 : 16;
    int64_t rows = (c.dense ? c.num_q : fk_ceil_div(c.num_q, c.num_seqs)) * c.group.divisor;
    if constexpr (D == 64 || D == 128)
      if (rows > 16) return launch<T, D, DV, decode_math<T, D, DV, 2, TILE>>(ctx, c);
    return launch<T, D, DV, decode_math<T, D, DV, 1, TILE>>(ctx, c);
  }
}

extern "C" fk_status fk_attention_decode(fk_context *ctx, const fk_attention_args *a) {
  decode_call c = call_of(ctx, a);
  int64_t d = fk_size(a->q, -1);
  FK_FLOAT_DISPATCH(fk_type_of(a->q), T, {
    if (d == 64) return launch_rows<T, 64, 64>(ctx, c);
    if (d == 96) return launch_rows<T, 96, 96>(ctx, c);
    if (d == 192) return launch_rows<T, 192, 128>(ctx, c);
    if (d == 256) return launch_rows<T, 256, 256>(ctx, c);
    return launch_rows<T, 128, 128>(ctx, c);
  });
}
