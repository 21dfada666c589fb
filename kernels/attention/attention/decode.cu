/* Decode attention on the GPU: few queries per sequence, keys and values read once at the speed of memory.
 *
 * Floors (bfloat16, 32 query heads over 8 key-value heads of 128, an H200 that copies at 4.28 TB/s): 4 KB per key, so
 * 62.7 us for 32 sequences of 2048 keys, 251 us for 64 of 4096, 7.8 us for one of 8192; a launch, the chain of lengths,
 * block table and keys, and the second kernel add about 5 us.
 *
 * Every warp runs its own pipeline: it copies TILE keys and values of one head asynchronously into its part of shared
 * memory, STAGES deep, and nothing but the end of an item (where warps share a head) makes warps wait for each other.
 * bfloat16 and float16 use the tensor cores: the rows of an item (queries times the heads of a group) fill the 16 rows
 * of a multiplication. float32 uses ordinary arithmetic. */
#include "decode_math.cuh"

/* ---- The kernel ------------------------------------------------------------------------------------------ */

template <typename M>
static __device__ __forceinline__ void write_rows(const decode_call &c, const decode_place &p, int head, int slot,
                                                  decode_sums<M::R, M::C> &x) {
  int rows = min(M::rows, p.s.num_q * c.group - p.row0);
#pragma unroll
  for (int i = 0; i < M::R; i++) {
    int row = M::row_of(i);
    if (row >= rows) continue;
    int64_t at = partial_row(c, blockIdx.x, slot, head, row);
    if (threadIdx.x % M::row_lanes == 0) *(float2 *)(c.partial_ml + 2 * at) = make_float2(x.m[i], x.l[i]);
#pragma unroll
    for (int k = 0; k < M::C; k++) c.partial_o[at * c.d_v + M::column_of(k)] = x.o[i][k];
  }
}

/* The item is complete. */
template <typename T, typename M>
static __device__ __forceinline__ void finish_rows(const decode_call &c, const decode_place &p, int kv_head,
                                                   decode_sums<M::R, M::C> &x) {
  int rows = min(M::rows, p.s.num_q * c.group - p.row0);
#pragma unroll
  for (int i = 0; i < M::R; i++) {
    int row = M::row_of(i);
    if (row >= rows) continue;
    float scale;
    bool sees = row_scale(c, p.s, p.row0 + row, kv_head, x.m[i], x.l[i], scale);
    T *to = (T *)c.out + row_offset(c, c.os, p.s, p.b, p.row0 + row, kv_head);
#pragma unroll
    for (int k = 0; k < M::C; k++) to[M::column_of(k)] = fk_from<T>(sees ? x.o[i][k] * scale : 0);
  }
}

/* The block's share of an item has been computed: its result goes where it belongs. */
template <typename T, typename M>
static __device__ __forceinline__ void end_item(const decode_call &c, const decode_place &p, bool begins, bool ends,
                                                float *room, int room_floats, decode_sums<M::R, M::C> &x) {
  int warp = threadIdx.x / 32, head = warp % c.heads_per_block;
#pragma unroll
  for (int i = 0; i < M::R; i++)
#pragma unroll
    for (int d = 1; d < M::row_lanes; d *= 2) x.l[i] += __shfl_xor_sync(0xffffffffu, x.l[i], d);
  if (c.key_lanes > 1) merge_warps(c, x, room, room_floats);
  if (warp >= c.heads_per_block) return;
  if (begins && ends)
    finish_rows<T, M>(c, p, p.head_group * c.heads_per_block + head, x);
  else
    write_rows<M>(c, p, head, begins, x);
}

template <typename T, int D, int DV, typename M>
static __global__ void __launch_bounds__(32 * MAX_WARPS, 1) decode(const __grid_constant__ decode_call c) {
  constexpr int stage_bytes = decode_tile<T, D>::bytes + decode_tile<T, DV>::bytes;
  extern __shared__ __align__(128) unsigned char shared[];
  fk_wait_previous();
  fk_let_next_start();
  ask_table(c);
  decode_place p;
  decode_share share = find_share(c, p);
  if (threadIdx.x == 0) c.records[blockIdx.x].parts = 0;
  if ((int)blockIdx.x >= share.blocks) return;

  int warp = threadIdx.x / 32, head = warp % c.heads_per_block, key_lane = warp / c.heads_per_block;
  unsigned char *stages = shared + warp * STAGES * stage_bytes;
  unsigned char *room = shared + (blockDim.x / 32) * STAGES * stage_bytes + warp * M::warp_bytes;
  uint32_t stages_at = (uint32_t)__cvta_generic_to_shared(stages);
  decode_place ahead = p; /* the unit to be fetched next */
  int fetched = 0, into = 0, from = 0, block = ask_block(c, ahead, key_lane);
  for (int done = 0; done < share.count;) {
    int units = min(p.chunks - p.chunk, share.count - done);
    bool begins = p.chunk == 0, ends = p.chunk + units == p.chunks;
    /* Where warps share a head, an item's fetches wait for the end of the one before: its merge needs the stages. */
    int horizon = c.key_lanes > 1 ? done + units : share.count, end = done + units;
    typename M::query q;
    decode_sums<M::R, M::C> x;
    clear_sums(x);
    int all_lo, all_hi, unused;
    visible_keys(c, p.s, (min(p.row0 + M::rows, p.s.num_q * c.group) - 1) / c.group, all_lo, unused);
    visible_keys(c, p.s, p.row0 / c.group, unused, all_hi);
    int wanted = done == 0 || c.key_lanes > 1 ? STAGES - 1 : 0;
    if (wanted) into = from;
    bool loaded = false;
    while (done < end) {
      /* One commit for each unit, and STAGES - 1 ahead of the first. */
      if (wanted == 0) await_fetch();
      if (fetched < horizon) {
        fetch_unit<T, D, DV>(c, ahead, block, ahead.head_group * c.heads_per_block + head, key_lane,
                             stages_at + into * stage_bytes);
        if (++fetched < share.count) {
          advance(c, ahead);
          block = ask_block(c, ahead, key_lane);
        }
      }
      end_fetch();
      into = into + 1 == STAGES ? 0 : into + 1;
      if (wanted > 0) {
        wanted--;
        continue;
      }
      if (!loaded) {
        M::load_query(c, p, p.head_group * c.heads_per_block + head, room, q);
        loaded = true;
      }
      int j0 = first_key(c, p, key_lane);
      decode_sight sight = j0 >= all_lo && j0 + TILE <= all_hi ? SEEN_BY_ALL
                           : all_lo == p.lo && all_hi == p.hi  ? SEEN_BY_ALL_OR_NONE
                                                               : SEEN_BY_SOME;
      M::attend(c, p, j0, sight, q, room, stages_at + from * stage_bytes, x);
      from = from + 1 == STAGES ? 0 : from + 1;
      done++;
      if (done < end) p.chunk++;
    }
    if (begins && !ends && threadIdx.x == 0) {
      decode_record record = {parts_of(share, share.first + done - 1 + (p.chunks - 1 - p.chunk)), p.b, p.row_tile,
                              p.head_group};
      c.records[blockIdx.x] = record;
    }
    end_item<T, M>(c, p, begins, ends, (float *)shared, STAGES * stage_bytes / 4, x);
    if (done < share.count) advance(c, p);
  }
}

/* ---- Launching ------------------------------------------------------------------------------------------- */

enum { MOST_QUERIES = 8 }; /* per sequence, on average */

static bool aligned(const fk_tensor *t, int64_t bytes) {
  int64_t width = t->dtype.bits / 8;
  if ((uintptr_t)fk_data(t) % bytes != 0) return false;
  for (int32_t i = 0; i + 1 < t->ndim; i++)
    if (t->shape[i] > 1 && fk_stride(t, i) * width % bytes != 0) return false;
  return fk_stride(t, t->ndim - 1) == 1 || fk_size(t, -1) == 1;
}

static bool sizes_served(int64_t d, int64_t dv) {
  return (d == dv && (d == 64 || d == 96 || d == 128 || d == 256)) || (d == 192 && dv == 128);
}

extern "C" bool fk_attention_decode_serves(const fk_context *ctx, const fk_attention_args *a) {
  bool dense = a->q->ndim == 4, paged = a->block_table != NULL;
  if (fk_numel(a->q) == 0 || !sizes_served(fk_size(a->q, -1), fk_size(a->v, -1))) return false;
  if (!dense && (!a->cu_seqlens_q || (paged ? !a->seq_lens : !a->cu_seqlens_k))) return false;
  int64_t num_seqs = dense ? a->q->shape[0] : a->cu_seqlens_q->shape[0] - 1;
  int64_t queries = dense ? num_seqs * a->q->shape[1] : a->q->shape[0];
  int64_t keys = dense ? a->k->shape[1] : a->k->shape[0];
  if (num_seqs < 1 || queries > num_seqs * MOST_QUERIES) return false;
  /* Counted in int. */
  if (queries * fk_size(a->q, -2) >= INT_MAX / 2 || keys >= INT_MAX / 2) return false;
  if (paged && (a->block_table->shape[1] * a->k->shape[1] >= INT_MAX / 2 || a->k->shape[1] < 1)) return false;
  return fk_context_cuda(ctx)->compute_capability >= 80 && aligned(a->q, 4) && aligned(a->out, 4) &&
         aligned(a->k, 16) && aligned(a->v, 16);
}

static decode_strides strides_of(const fk_tensor *t) {
  decode_strides s = {t->ndim == 4 ? fk_stride(t, 0) : 0, fk_stride(t, t->ndim - 3), fk_stride(t, t->ndim - 2)};
  return s;
}

static decode_call call_of(fk_context *ctx, const fk_attention_args *a) {
  decode_call c = {};
  bool paged = a->block_table != NULL;
  c.dense = a->q->ndim == 4;
  c.q = fk_data(a->q), c.k = fk_data(a->k), c.v = fk_data(a->v), c.out = fk_data(a->out);
  c.qs = strides_of(a->q), c.ks = strides_of(a->k), c.vs = strides_of(a->v), c.os = strides_of(a->out);
  if (a->cu_seqlens_q) c.cu_q = (const int *)fk_data(a->cu_seqlens_q);
  if (a->cu_seqlens_k) c.cu_k = (const int *)fk_data(a->cu_seqlens_k);
  if (a->seq_lens) c.lens = (const int *)fk_data(a->seq_lens);
  if (a->sinks) c.sinks = fk_data(a->sinks), c.sinks_type = fk_type_of(a->sinks);
  c.num_seqs = (int)(c.dense ? a->q->shape[0] : a->cu_seqlens_q->shape[0] - 1);
  c.num_q = (int)(c.dense ? a->q->shape[1] : a->q->shape[0]);
  c.num_k = (int)(c.dense ? a->k->shape[1] : a->k->shape[0]);
  if (paged) {
    c.table = (const int *)fk_data(a->block_table);
    c.table_stride = fk_stride(a->block_table, 0);
    c.max_blocks = (int)a->block_table->shape[1];
    c.num_blocks = (int)a->k->shape[0];
    c.block_size = (int)a->k->shape[1];
    c.block_shift = -1;
    for (int i = 0; i < 31; i++)
      if (c.block_size == 1 << i) c.block_shift = i;
  }
  c.kv_heads = (int)fk_size(a->k, -2);
  c.group = (int)(fk_size(a->q, -2) / c.kv_heads);
  c.d_v = (int)fk_size(a->v, -1);
  c.causal = a->causal;
  c.window_left = (int)a->window_left, c.window_right = (int)a->window_right;
  double cap = a->softcap > 0 && a->softcap < 1e-30 ? 1e-30 : a->softcap, log2e = 1.4426950408889634;
  c.scale = (float)(cap > 0 ? a->scale / cap : a->scale * log2e);
  c.cap = (float)(cap * log2e);
  c.bad_cu_q = fk_index_checker(ctx, "attention: cu_seqlens_q");
  c.bad_cu_k = fk_index_checker(ctx, "attention: cu_seqlens_k");
  c.bad_len = fk_index_checker(ctx, "attention: seq_lens");
  c.bad_block = fk_index_checker(ctx, "attention: block_table");
  return c;
}

/* How many heads the warps of a block divide among them; the other warps divide keys. All heads of a key lie side by
 * side in memory, which argues for many; few long sequences leave too few items to combine in parallel. */
static int heads_for(const decode_call &c, int warps) {
  int heads = 1;
  while (heads < warps && c.kv_heads % (2 * heads) == 0 && (int64_t)c.num_seqs * (c.kv_heads / (2 * heads)) >= 64)
    heads *= 2;
  return heads;
}

template <typename T, int D, int DV, typename M>
static fk_status launch(fk_context *ctx, decode_call c) {
  const fk_cuda *cuda = fk_context_cuda(ctx);
  size_t warp_bytes = STAGES * (decode_tile<T, D>::bytes + decode_tile<T, DV>::bytes) + M::warp_bytes;
  int warps = MAX_WARPS;
  while (warps > 1 && warps * warp_bytes + 1024 > cuda->max_shared_bytes) warps /= 2;
  c.rows_per_tile = M::rows;
  c.heads_per_block = heads_for(c, warps);
  c.head_groups = c.kv_heads / c.heads_per_block;
  c.key_lanes = warps / c.heads_per_block;
  /* No more blocks than there can be units. */
  int64_t keys = c.table ? (int64_t)c.max_blocks * c.block_size : c.num_k;
  int64_t queries = c.dense ? (int64_t)c.num_q * c.num_seqs : c.num_q;
  int64_t units =
      fk_ceil_div(keys + TILE, TILE * c.key_lanes) * c.head_groups * (c.num_seqs + queries * c.group / c.rows_per_tile);
  int64_t blocks = units < cuda->num_sms ? units : cuda->num_sms;
  int64_t rows = blocks * 2 * c.heads_per_block * c.rows_per_tile;
  c.partial_o = (float *)fk_scratch(ctx, (size_t)(rows * c.d_v) * sizeof(float));
  c.partial_ml = (float *)fk_scratch(ctx, (size_t)rows * 2 * sizeof(float));
  c.records = (decode_record *)fk_scratch(ctx, (size_t)blocks * sizeof(decode_record));
  if (!c.partial_o || !c.partial_ml || !c.records) return FK_ERROR_MEMORY;
  dim3 grid((unsigned)blocks);
  FK_TRY(fk_launch_early(ctx, decode<T, D, DV, M>, grid, dim3(32 * warps), warps * warp_bytes, c));
  return fk_launch_early(ctx, decode_combine<T>, grid, dim3(256), 0, c);
}

/* Two groups of 16 rows where one would read the keys twice; three heads' sizes have the registers for it. */
template <typename T, int D, int DV>
static fk_status launch_rows(fk_context *ctx, const decode_call &c) {
  if constexpr (std::is_same<T, float>::value) {
    return launch<T, D, DV, decode_math_float<D, DV>>(ctx, c);
  } else {
    int64_t rows = (c.dense ? c.num_q : fk_ceil_div(c.num_q, c.num_seqs)) * c.group;
    if constexpr (D == 64 || D == 128)
      if (rows > 16) return launch<T, D, DV, decode_math<T, D, DV, 2>>(ctx, c);
    return launch<T, D, DV, decode_math<T, D, DV, 1>>(ctx, c);
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
