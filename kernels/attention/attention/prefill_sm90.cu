/* attention of many queries on compute capability 9.0: bfloat16 and float16, on the tensor cores.
 *
 * A block computes tiles of 64 * CONSUMERS queries of one head. Its first warpgroup fetches: queries, keys and values,
 * by tensor loads into a few stages of shared memory. Each other warpgroup owns 64 queries: scores S = Q K^T of the
 * next keys run on the tensor cores while those of the present keys become exponentials P, which stay in registers for
 * O += P V. Two warpgroups take turns (named barriers) at giving work to the tensor cores, so that one's exponentials
 * run beside the other's products; three find a rhythm by themselves. Formulation: FlashAttention-3 (arXiv 2407.08608),
 * but that exponentials do not wait for the largest score of a step (soften_next()).
 *
 * Keys are visited from the last one a tile sees to the first. Hidden scores are set to -inf where a step has any.
 * Shared memory that lies beyond a sequence's keys holds other keys or zeros; if those are not finite, exact_row()
 * mends it. */
#include <cudaTypedefs.h>

#include "cuda_attention.h"
#include "prefill_rows.cuh"

/* ---- Consuming ------------------------------------------------------------------------------------------- */

#if __CUDA_ARCH_FEAT_SM90_ALL

template <typename T, typename C>
static __device__ __forceinline__ void issue_scores(float (&s)[C::N / 2], uint64_t q, uint64_t k) {
  fk_wgmma_fence();
#pragma unroll
  for (int d = 0; d < C::D / 16; d++)
    product_rows<T, C::N>(s, matrix_plus(q, d / 4 * C::Q_SLAB + d % 4 * 32),
                          matrix_plus(k, d / 4 * C::KV_SLAB + d % 4 * 32), d > 0);
  fk_wgmma_commit();
}

template <typename T, typename C>
static __device__ __forceinline__ void issue_values(float (&o)[C::DV / 2], uint32_t (&p)[C::N / 4], uint64_t v) {
  fk_wgmma_hold(o);
  fk_wgmma_hold(p);
  fk_wgmma_fence();
#pragma unroll
  for (int k = 0; k < C::N / 16; k++)
    product_columns<T, C::DV>(o, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3], matrix_plus(v, k * 2048));
  fk_wgmma_commit();
}

template <typename T, typename C>
static __device__ __forceinline__ void scores_to_weights(const prefill_call &p, float (&s)[C::N / 2], row_state &r,
                                                         int j, int seen_from, int seen_to, float (&rescale)[2]) {
  if (p.cap_in > 0) {
#pragma unroll
    for (int i = 0; i < C::N / 2; i++) s[i] = tanh_of(s[i] * p.cap_in);
  }
  bool before = j < seen_from;
  bool after = j + C::N > seen_to;
  if (before || after) hide<C::N>(s, r, j, before, after);
  if (r.shifted)
    soften_next<T, C::N>(s, r, p.c2, rescale);
  else
    soften_first<C::N>(s, r, p.c2, rescale);
}

template <typename T, typename C>
static __device__ __forceinline__ void round_weights(const float (&s)[C::N / 2], uint32_t (&p)[C::N / 4]) {
#pragma unroll
  for (int i = 0; i < C::N / 4; i++) p[i] = pair_of<T>(s[2 * i], s[2 * i + 1]);
}

typedef struct consumer {
  char *shared;
  exchange *x;
  int group;                  /* which of the consumer warpgroups */
  uint32_t q_count, kv_count; /* tiles and steps so far */
} consumer;

template <typename C>
static __device__ __forceinline__ void take_turn(const consumer &me) {
  if (C::TURNS) named_wait(1 + me.group, 256);
}
template <typename C>
static __device__ __forceinline__ void pass_turn(const consumer &me) {
  if (C::TURNS) named_arrive(1 + (me.group + 1) % C::CONSUMERS, 256);
}

static __device__ __forceinline__ void release(uint64_t *empty) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) fk_barrier_arrive(empty);
}

/* Rows of the tile that this warpgroup has, all of whose keys lie in [*from, *to). */
static __device__ __forceinline__ void rows_begin(const prefill_call &p, const work &w, int group, row_state &r,
                                                  int *from, int *to) {
  int warp_row = group * 64 + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4, unused;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    r.shift[h] = -INFINITY;
    r.shifted = false;
    r.sum[h] = 0;
    r.lo[h] = r.hi[h] = 0;
    if (warp_row + 8 * h < w.rows) keys_seen(p.c, w.s, query_of(w, warp_row + 8 * h), &r.lo[h], &r.hi[h]);
  }
  keys_seen(p.c, w.s, query_of(w, group * 64 + 63), from, &unused);
  keys_seen(p.c, w.s, query_of(w, group * 64), &unused, to);
}

/* Waits until the sums over the steps before `count` are there, brings them to the scale of that step's exponentials,
 * and rounds these. */
template <typename T, typename C>
static __device__ __forceinline__ void settle(const consumer &me, uint32_t count, const float (&s)[C::N / 2],
                                              const float (&rescale)[2], float (&o)[C::DV / 2],
                                              uint32_t (&weights)[C::N / 4]) {
  fk_wgmma_wait<0>();
  fk_wgmma_hold(o);
  if (count != me.kv_count) release(&me.x->v_empty[(count - 1) % C::STAGES]);
  if (__any_sync(0xffffffffu, rescale[0] != 1 || rescale[1] != 1)) {
#pragma unroll
    for (int i = 0; i < C::DV / 2; i++) o[i] *= rescale[i / 2 % 2];
  }
  round_weights<T, C>(s, weights);
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
  barrier_wait(&x->k_full[count % C::STAGES], count / C::STAGES & 1);
  issue_scores<T, C>(s, q, matrix_plus(k, count % C::STAGES * C::K_BYTES));
  fk_wgmma_wait<0>();
  fk_wgmma_hold(s);
  release(&x->k_empty[count % C::STAGES]);
  int j = w.key_first + (w.key_blocks - 1) * C::N;
  scores_to_weights<T, C>(p, s, r, j, from, to, rescale);
  /* Each turn of the loop begins by waiting for the products that the one before left running beside its exponentials:
   * within one stretch of straight code the assembler would move that wait up, before the exponentials. */
#pragma unroll 1
  for (int n = w.key_blocks - 1; n > 0; n--) {
    uint32_t next = count + 1;
    settle<T, C>(me, count, s, rescale, o, weights);
    j -= C::N;
    barrier_wait(&x->k_full[next % C::STAGES], next / C::STAGES & 1);
    take_turn<C>(me);
    issue_scores<T, C>(s, q, matrix_plus(k, next % C::STAGES * C::K_BYTES));
    barrier_wait(&x->v_full[count % C::STAGES], count / C::STAGES & 1);
    issue_values<T, C>(o, weights, matrix_plus(v, count % C::STAGES * C::V_BYTES));
    pass_turn<C>(me);
    fk_wgmma_wait<1>();
    fk_wgmma_hold(s);
    release(&x->k_empty[next % C::STAGES]);
    scores_to_weights<T, C>(p, s, r, j, from, to, rescale);
    count = next;
  }
  settle<T, C>(me, count, s, rescale, o, weights);
  if (C::OWN_O) release(&x->q_empty);
  barrier_wait(&x->v_full[count % C::STAGES], count / C::STAGES & 1);
  issue_values<T, C>(o, weights, matrix_plus(v, count % C::STAGES * C::V_BYTES));
  fk_wgmma_wait<0>();
  fk_wgmma_hold(o);
  release(&x->v_empty[count % C::STAGES]);
  me.kv_count = count + 1;
  me.q_count++;
  float scale[2];
  bool redo[2];
  finish_rows<C>(p, w, warp_row + threadIdx.x % 32 / 4, r, o, scale, redo);
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
    T *out = (T *)p.c.out.data + query_row(p.c, w.s, p.c.out, query_of(w, i / pieces), head_of(w, i / pieces)) +
             i % pieces * 8;
    *(uint4 *)out = make_uint4(0, 0, 0, 0);
  }
}

template <typename T, typename C>
static __device__ __forceinline__ void consume(const prefill_call &p, char *shared, exchange *x) {
  /* By a shuffle, so that the compiler knows that all threads of a warp agree. */
  int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128 - 1, 0);
  consumer me = {shared, x, group, 0, 0};
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

static __device__ __forceinline__ void init_barriers(exchange *x, int consumers, int stages, int fetching) {
  fk_barrier_init(&x->q_full, 1);
  fk_barrier_init(&x->q_empty, 4 * consumers);
  for (int i = 0; i < stages; i++) {
    fk_barrier_init(&x->k_full[i], 1);
    fk_barrier_init(&x->k_empty[i], 4 * consumers);
    fk_barrier_init(&x->v_full[i], 1);
    fk_barrier_init(&x->v_empty[i], 4 * consumers);
  }
  for (int i = 0; i < 2; i++) {
    fk_barrier_init(&x->work_full[i], 1);
    fk_barrier_init(&x->work_empty[i], 4 * consumers + fetching);
  }
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  fence_async();
}

#endif

template <typename T, typename C>
static __global__ void __launch_bounds__(C::THREADS, 1)
    attention_prefill(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap packed_map,
                      const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map,
                      const __grid_constant__ prefill_call p) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ char raw[];
  char *shared = raw + (1024 - fk_shared_address(raw) % 1024) % 1024;
  exchange *x = (exchange *)(shared + C::EXCHANGE_AT);
  int fetching = p.c.layout == FK_PAGED ? 4 : 1; /* warps */
  if (threadIdx.x == 0) {
    tensor_prefetch_map(p.pack > 0 ? &packed_map : &q_map);
    tensor_prefetch_map(&k_map);
    tensor_prefetch_map(&v_map);
    init_barriers(x, C::CONSUMERS, C::STAGES, fetching);
  }
  __syncthreads();
  fk_wait_previous();
  if (threadIdx.x < 128) {
    set_registers_down<C::LOW_REGISTERS>();
    if (threadIdx.x < fetching * 32) produce<C>(p, &q_map, &packed_map, &k_map, &v_map, shared, x);
  } else {
    set_registers_up<C::HIGH_REGISTERS>();
    consume<T, C>(p, shared, x);
  }
#endif
}

/* ---- Launching ------------------------------------------------------------------------------------------- */

/* A map of vectors of `columns` elements: loads fetch boxes of heads x rows x 64 elements, zeros beyond the ends. */
static bool make_map(CUtensorMap *map, fk_type type, const attention_rows &r, int64_t columns, int64_t tokens,
                     int64_t heads, int64_t batch, int rows, int box_heads) {
  PFN_cuTensorMapEncodeTiled_v12000 encode =
      (PFN_cuTensorMapEncodeTiled_v12000)fk_cuda_driver_function("cuTensorMapEncodeTiled");
  cuuint64_t sizes[4] = {(cuuint64_t)columns, (cuuint64_t)tokens, (cuuint64_t)heads, (cuuint64_t)batch};
  /* The stride of an axis of one element says nothing, but has to be a stride. */
  cuuint64_t strides[3] = {(cuuint64_t)(tokens > 1 ? r.token : 64) * 2, (cuuint64_t)(heads > 1 ? r.head : 64) * 2,
                           (cuuint64_t)(batch > 1 ? r.batch : 64) * 2};
  cuuint32_t box[4] = {64, (cuuint32_t)rows, (cuuint32_t)box_heads, 1}, steps[4] = {1, 1, 1, 1};
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
  for (p.pack = 0; 1 << p.pack < c.group; p.pack++) continue;
  if (1 << p.pack != c.group || C::M % c.group != 0) p.pack = 0;
  p.c2 = (c.softcap > 0 ? c.softcap : c.scale) * 1.4426950408889634f;
  CUtensorMap q, packed, k, v;
  fk_type type = std::is_same<T, __half>::value ? FK_F16 : FK_BF16;
  int64_t kv_heads = c.heads / c.group, batch = dense ? c.num_seqs : paged ? c.num_k : 1;
  int64_t keys = paged ? c.block_size : c.num_k;
  attention_rows swapped = {c.q.data, c.q.batch, c.q.head, c.q.token};
  int64_t queries = dense ? c.num_seqs : 1;
  packed = (CUtensorMap){};
  if (!make_map(&q, type, c.q, c.head_size, c.num_q, c.heads, queries, C::M, 1) ||
      (p.pack > 0 &&
       !make_map(&packed, type, swapped, c.head_size, c.heads, c.num_q, queries, c.group, C::M / c.group)) ||
      !make_map(&k, type, c.k, c.head_size, keys, kv_heads, batch, p.box_rows, 1) ||
      !make_map(&v, type, c.v, c.head_size_v, keys, kv_heads, batch, p.box_rows, 1))
    return fk_fail(FK_ERROR_KERNEL, "attention: the driver refused the layout of q, k or v");
  dim3 blocks((unsigned)(p.works < fk_context_cuda(ctx)->num_sms ? p.works : fk_context_cuda(ctx)->num_sms));
  bool uneven = !dense || c.causal || c.window_left >= 0 || c.window_right >= 0;
  if (uneven && p.works > fk_context_cuda(ctx)->num_sms) {
    /* Tiles of different lengths: blocks take the next one when they are done with one. */
    p.counter = (int *)fk_scratch(ctx, sizeof *p.counter);
    if (!p.counter) return FK_ERROR_MEMORY;
    FK_CUDA_TRY(cudaMemsetAsync(p.counter, 0, sizeof *p.counter, fk_context_cuda(ctx)->stream));
    return fk_launch(ctx, attention_prefill<T, C>, blocks, dim3(C::THREADS), C::SHARED, q, packed, k, v, p);
  }
  return fk_launch_early(ctx, attention_prefill<T, C>, blocks, dim3(C::THREADS), C::SHARED, q, packed, k, v, p);
}

template <typename T>
static fk_status choose(fk_context *ctx, const attention_call &c) {
  int d = c.head_size, dv = c.head_size_v;
  if (d <= 64 && dv <= 64) return launch<T, config<64, 64, 128, 3, 4, false>>(ctx, c);
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
