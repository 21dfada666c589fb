/* rotary_and_cache on the GPU: a block takes one token, or a few where there are thousands. A rotated key goes back in
 * place and into the cache from registers. Positions, slots and heads lie far apart, and slots are waited for first: so
 * the rest is called nearer before. */
#include "../../../kernels/cache/reshape_and_cache/store.cuh"
#include "../../../kernels/rotary/rotary_embedding/rotate.cuh"
#include "tasks/rotary_and_cache.h"

enum { HEADS = 2 }; /* that a thread has under way */

typedef struct fused_rows {
  void *data;
  int64_t token, head; /* strides */
} fused_rows;

typedef struct fused_cache {
  void *data;
  int64_t block, slot, head; /* strides */
} fused_cache;

typedef struct fused_call {
  const int64_t *positions, *slot_mapping;
  const void *table;
  int64_t table_stride, max_position, tokens, num_slots;
  unsigned block_size;
  fused_rows query, key, value;
  fused_cache key_cache, value_cache;
  int heads, kv_heads, half, head_size, head_size_v, tokens_per_block;
  bool is_neox;
  fk_index_check bad_position, bad_slot;
} fused_call;

template <typename T>
static __device__ __forceinline__ T *head_at(const fused_call &c, int64_t token, int head) {
  const fused_rows &x = head < c.heads ? c.query : c.key;
  return (T *)x.data + token * x.token + (head < c.heads ? head : head - c.heads) * x.head;
}

/* A head of the cache; slot is not negative. */
template <typename T>
static __device__ __forceinline__ T *cached(const fused_call &c, const fused_cache &cache, int64_t slot, int head) {
  return (T *)cache.data + cache_offset(slot, c.block_size, cache.block, cache.slot) + head * cache.head;
}

/* Columns [first, width) of the heads of x into their slot, numbers of N. */
template <typename T, int N>
static __device__ __forceinline__ void copy_heads(const fused_call &c, const fused_rows &x, const fused_cache &cache,
                                                  int64_t token, int64_t slot, int first, int width) {
  int thread = threadIdx.x + threadIdx.y * blockDim.x, each = (width - first) / N;
  for (int i = thread; i < c.kv_heads * each; i += blockDim.x * blockDim.y) {
    int head = i / each, column = first + (i - head * each) * N;
    *(rotate_numbers<T, N> *)(cached<T>(c, cache, slot, head) + column) =
        *(const rotate_numbers<T, N> *)((const T *)x.data + token * x.token + head * x.head + column);
  }
}

/* One token's heads that thread (x, y) turns; slot -1: keys are not stored. */
template <typename T, typename C, int N>
static __device__ __forceinline__ void turn_heads(const fused_call &c, int64_t token, int64_t position, int64_t slot) {
  int all = c.heads + c.kv_heads;
  const C *row = (const C *)c.table + position * c.table_stride;
  for (int i = threadIdx.x; i < c.half / N; i += blockDim.x) {
    float cos[N], sin[N];
    int at, to;
    rotate_places<N>(i, c.half, c.is_neox, at, to);
    rotate_load_angles<N>(row + i * N, cos);
    rotate_load_angles<N>(row + c.half + i * N, sin);
    for (int first = threadIdx.y; first < all; first += HEADS * blockDim.y) {
      rotate_numbers<T, N> a[HEADS], b[HEADS];
#pragma unroll
      for (int k = 0; k < HEADS; k++) {
        int head = first + k * blockDim.y;
        if (head >= all) break;
        const T *x = head_at<T>(c, token, head);
        a[k] = *(const rotate_numbers<T, N> *)(x + at);
        b[k] = *(const rotate_numbers<T, N> *)(x + to);
      }
#pragma unroll
      for (int k = 0; k < HEADS; k++) {
        int head = first + k * blockDim.y;
        if (head >= all) break;
        T *x = head_at<T>(c, token, head);
        rotate_numbers_by<T, N>(a[k], b[k], cos, sin, c.is_neox);
        *(rotate_numbers<T, N> *)(x + at) = a[k];
        *(rotate_numbers<T, N> *)(x + to) = b[k];
        if (head < c.heads || slot < 0) continue;
        T *y = cached<T>(c, c.key_cache, slot, head - c.heads);
        *(rotate_numbers<T, N> *)(y + at) = a[k];
        *(rotate_numbers<T, N> *)(y + to) = b[k];
      }
    }
  }
}

/* Asks for a token's heads and row of the table. */
template <typename T, typename C>
static __device__ __forceinline__ void call_token(const fused_call &c, int64_t token, int64_t position) {
  if (threadIdx.x > 0) return;
  for (int head = threadIdx.y; head < c.heads + c.kv_heads; head += blockDim.y) {
    const T *x = head_at<T>(c, token, head);
    rotate_call(x);
    rotate_call(x + c.half);
    if (head < c.heads) continue;
    const T *v = (const T *)c.value.data + token * c.value.token + (head - c.heads) * c.value.head;
    rotate_call(v);
    rotate_call(v + c.head_size_v / 2);
  }
  if (position < 0 || position >= c.max_position) return;
  const C *row = (const C *)c.table + position * c.table_stride;
  for (int line = threadIdx.y; line * 128 < 2 * c.half * (int)sizeof(C); line += blockDim.y)
    rotate_call((const char *)row + line * 128);
}

template <typename T, typename C, int N>
static __global__ void __launch_bounds__(512) rotate_and_store(const __grid_constant__ fused_call c) {
  __shared__ cache_slots_room room;
  __shared__ int64_t positions[CACHE_TOKENS];
  fk_wait_previous();
  int64_t first = (int64_t)blockIdx.x * c.tokens_per_block;
  int count = (int)min((int64_t)c.tokens_per_block, c.tokens - first);
  for (int i = threadIdx.x + threadIdx.y * blockDim.x; i < count; i += blockDim.x * blockDim.y)
    positions[i] = c.positions[first + i];
  call_token<T, C>(c, first, -1);
  find_slots(c.slot_mapping, c.tokens, first, count, c.num_slots, c.bad_slot, room);
  for (int i = 0; i < count; i++) {
    int64_t token = first + i, position = positions[i], slot = room.slots[i];
    if (i + 1 < count) call_token<T, C>(c, token + 1, positions[i + 1]);
    if (position < 0 || position >= c.max_position) {
      if (threadIdx.x == 0 && threadIdx.y == 0) fk_index_ok(c.bad_position, position, c.max_position);
      continue;
    }
    turn_heads<T, C, N>(c, token, position, slot);
    if (slot < 0) continue;
    copy_heads<T, N>(c, c.value, c.value_cache, token, slot, 0, c.head_size_v);
    if (2 * c.half < c.head_size) copy_heads<T, N>(c, c.key, c.key_cache, token, slot, 2 * c.half, c.head_size);
  }
  fk_let_next_start();
}

static fused_rows rows_of(const fk_tensor *t) {
  fused_rows r = {fk_data(t), fk_stride(t, 0), fk_stride(t, 1)};
  return r;
}

static fused_cache cache_of(const fk_tensor *t) {
  fused_cache r = {fk_data(t), fk_stride(t, 0), fk_stride(t, 1), fk_stride(t, 2)};
  return r;
}

template <typename T>
static bool packs(const fk_tensor *t) {
  bool good = true;
  for (int i = 0; i + 1 < t->ndim; i++)
    good = good && fk_packs<T>(fk_data(t), t->shape[i] == 1 ? 0 : fk_stride(t, i), fk_size(t, -1));
  return good;
}

template <typename T, typename C>
static fk_status launch(fk_context *ctx, const fk_rotary_and_cache_args *a, fused_call c) {
  constexpr int N = fk_pack<T>::size;
  bool packed = packs<T>(a->query) && packs<T>(a->key) && packs<T>(a->value) && packs<T>(a->key_cache) &&
                packs<T>(a->value_cache) && fk_packs<C>(c.table, c.table_stride, c.half) && c.half % N == 0;
  int across = packed ? c.half / N : c.half, all = c.heads + c.kv_heads;
  if (across < 1) across = 32;
  if (across > 128) across = 128;
  int64_t each = fk_ceil_div(c.tokens, 4 * fk_context_cuda(ctx)->num_sms);
  /* A single token lasts as long as its longest thread; thousands want many heads under way in each. */
  int wanted = each > 1 ? (int)fk_ceil_div(all, HEADS) : all;
  int down = 512 / across < wanted ? 512 / across : wanted;
  if (down < 1) down = 1;
  c.tokens_per_block = each < CACHE_TOKENS ? (int)each : (int)CACHE_TOKENS;
  dim3 grid((unsigned)fk_ceil_div(c.tokens, c.tokens_per_block)), block((unsigned)across, (unsigned)down);
  if (packed) return fk_launch_early(ctx, rotate_and_store<T, C, N>, grid, block, 0, c);
  return fk_launch_early(ctx, rotate_and_store<T, C, 1>, grid, block, 0, c);
}

fk_status fk_cuda_rotary_and_cache(fk_context *ctx, const fk_rotary_and_cache_args *a) {
  fk_type type = fk_type_of(a->query), table = fk_type_of(a->cos_sin_cache);
  if (table != FK_F32 && table != type)
    return fk_fail(FK_ERROR_ARGUMENT, "cos_sin_cache: expected dtype float32 or the query's, %s, got %s",
                   fk_type_name(type), fk_type_name(table));
  fused_call c = {};
  c.positions = (const int64_t *)fk_data(a->positions);
  c.slot_mapping = (const int64_t *)fk_data(a->slot_mapping);
  c.table = fk_data(a->cos_sin_cache);
  c.table_stride = fk_stride(a->cos_sin_cache, 0);
  c.max_position = fk_size(a->cos_sin_cache, 0);
  c.tokens = fk_size(a->query, 0);
  c.block_size = (unsigned)fk_size(a->key_cache, 1);
  c.num_slots = fk_size(a->key_cache, 0) * fk_size(a->key_cache, 1);
  c.query = rows_of(a->query), c.key = rows_of(a->key), c.value = rows_of(a->value);
  c.key_cache = cache_of(a->key_cache), c.value_cache = cache_of(a->value_cache);
  c.heads = (int)fk_size(a->query, 1);
  c.kv_heads = (int)fk_size(a->key, 1);
  c.half = (int)(fk_size(a->cos_sin_cache, 1) / 2);
  c.head_size = (int)fk_size(a->key, 2);
  c.head_size_v = (int)fk_size(a->value, 2);
  c.is_neox = a->is_neox;
  c.bad_position = fk_index_checker(ctx, "rotary_and_cache: positions");
  c.bad_slot = fk_index_checker(ctx, "rotary_and_cache: slot_mapping");
  if (c.tokens == 0) return FK_OK;
  FK_FLOAT_DISPATCH(type, T, {
    if (table == FK_F32) return launch<T, float>(ctx, a, c);
    return launch<T, T>(ctx, a, c);
  });
}
