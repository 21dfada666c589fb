/* rotary_embedding on the GPU: a block takes a token at a time, an angle is read once for all heads that a thread
 * turns. Reading the position and then the row of the table comes before the arithmetic, so they are asked for a token
 * ahead.
 */
#include "rotate.cuh"
#include "tasks/rotary_embedding.h"

enum { HEADS = 2 }; /* that a thread has under way */

typedef struct rotary_call {
  const int64_t *positions;
  const void *table;
  int64_t table_stride, max_position, tokens;
  void *query, *key; /* key may be NULL: no heads */
  int64_t query_token, query_head, key_token, key_head;
  int heads, kv_heads, half;
  bool is_neox;
  fk_index_check check;
} rotary_call;

template <typename T>
static __device__ __forceinline__ T *head_of(const rotary_call &c, int64_t token, int head) {
  if (head < c.heads) return (T *)c.query + token * c.query_token + head * c.query_head;
  return (T *)c.key + token * c.key_token + (head - c.heads) * c.key_head;
}

/* Asks for the heads that the thread takes of a token; x == 0 does it for its neighbours. */
template <typename T, int N>
static __device__ __forceinline__ void call_heads(const rotary_call &c, int64_t token) {
  if (threadIdx.x > 0) return;
  for (int head = threadIdx.y; head < c.heads + c.kv_heads; head += blockDim.y) {
    const T *x = head_of<T>(c, token, head);
    rotate_call(x);
    rotate_call(x + c.half);
  }
}

template <typename T, typename C, int N>
static __device__ __forceinline__ void rotate_token(const rotary_call &c, int64_t token, const C *row) {
  int all = c.heads + c.kv_heads;
  for (int i = threadIdx.x; i < c.half / N; i += blockDim.x) {
    int at, to;
    rotate_places<N>(i, c.half, c.is_neox, at, to);
    for (int first = threadIdx.y; first < all; first += HEADS * blockDim.y) {
      rotate_numbers<T, N> a[HEADS], b[HEADS];
      float cos[N], sin[N];
#pragma unroll
      for (int k = 0; k < HEADS; k++) {
        int head = first + k * blockDim.y;
        if (head >= all) break;
        const T *x = head_of<T>(c, token, head);
        a[k] = *(const rotate_numbers<T, N> *)(x + at);
        b[k] = *(const rotate_numbers<T, N> *)(x + to);
      }
      rotate_load_angles<N>(row + i * N, cos);
      rotate_load_angles<N>(row + c.half + i * N, sin);
#pragma unroll
      for (int k = 0; k < HEADS; k++) {
        int head = first + k * blockDim.y;
        if (head >= all) break;
        T *x = head_of<T>(c, token, head);
        rotate_numbers_by<T, N>(a[k], b[k], cos, sin, c.is_neox);
        *(rotate_numbers<T, N> *)(x + at) = a[k];
        *(rotate_numbers<T, N> *)(x + to) = b[k];
      }
    }
  }
}

template <typename T, typename C, int N>
static __global__ void __launch_bounds__(512) rotate(const __grid_constant__ rotary_call c) {
  fk_wait_previous();
  int64_t token = blockIdx.x, position = c.positions[token], next, next_position = 0;
  if (c.tokens == 1) call_heads<T, N>(c, token); /* while the position comes */
  for (; token < c.tokens; token = next, position = next_position) {
    next = token + gridDim.x;
    if (next < c.tokens) {
      next_position = c.positions[next];
      call_heads<T, N>(c, next);
    }
    if (position >= 0 && position < c.max_position)
      rotate_token<T, C, N>(c, token, (const C *)c.table + position * c.table_stride);
    else if (threadIdx.x == 0 && threadIdx.y == 0)
      fk_index_ok(c.check, position, c.max_position);
    if (next < c.tokens && threadIdx.x == 0 && next_position >= 0 && next_position < c.max_position) {
      const C *row = (const C *)c.table + next_position * c.table_stride;
      for (int line = threadIdx.y; line * 128 < 2 * c.half * (int)sizeof(C); line += blockDim.y)
        rotate_call((const char *)row + line * 128);
    }
  }
  fk_let_next_start();
}

template <typename T>
static bool packs(const fk_tensor *t, int64_t half) {
  return !t || (fk_packs<T>(fk_data(t), fk_stride(t, 0), half) && fk_packs<T>(fk_data(t), fk_stride(t, 1), half));
}

template <typename T, typename C>
static fk_status launch(fk_context *ctx, const fk_rotary_embedding_args *a, const rotary_call &c) {
  constexpr int N = fk_pack<T>::size;
  bool packed = packs<T>(a->query, c.half) && packs<T>(a->key, c.half) &&
                fk_packs<C>(c.table, c.table_stride, c.half) && c.half % N == 0;
  int across = packed ? c.half / N : c.half, all = c.heads + c.kv_heads;
  if (across > 128) across = 128;
  /* A single token lasts as long as its longest thread; thousands want many heads under way in each. */
  int64_t blocks = 4 * fk_context_cuda(ctx)->num_sms;
  int wanted = c.tokens > blocks ? (int)fk_ceil_div(all, HEADS) : all, down = 512 / across;
  if (down > wanted) down = wanted;
  if (blocks > c.tokens) blocks = c.tokens;
  dim3 grid((unsigned)blocks), block((unsigned)across, (unsigned)down);
  if (packed) return fk_launch_early(ctx, rotate<T, C, N>, grid, block, 0, c);
  return fk_launch_early(ctx, rotate<T, C, 1>, grid, block, 0, c);
}

fk_status fk_cuda_rotary_embedding(fk_context *ctx, const fk_rotary_embedding_args *a) {
  fk_type type = fk_type_of(a->query), table = fk_type_of(a->cos_sin_cache);
  if (table != FK_F32 && table != type)
    return fk_fail(FK_ERROR_ARGUMENT, "cos_sin_cache: expected dtype float32 or the query's, %s, got %s",
                   fk_type_name(type), fk_type_name(table));
  rotary_call c = {};
  c.positions = (const int64_t *)fk_data(a->positions);
  c.table = fk_data(a->cos_sin_cache);
  c.table_stride = fk_stride(a->cos_sin_cache, 0);
  c.max_position = fk_size(a->cos_sin_cache, 0);
  c.half = (int)(fk_size(a->cos_sin_cache, 1) / 2);
  c.query = fk_data(a->query);
  c.query_token = fk_stride(a->query, 0), c.query_head = fk_stride(a->query, 1);
  c.heads = (int)fk_size(a->query, 1);
  if (a->key) {
    c.key = fk_data(a->key);
    c.key_token = fk_stride(a->key, 0), c.key_head = fk_stride(a->key, 1);
    c.kv_heads = (int)fk_size(a->key, 1);
  }
  c.is_neox = a->is_neox;
  c.tokens = fk_size(a->query, 0);
  c.check = fk_index_checker(ctx, "rotary_embedding: positions");
  if (fk_size(a->query, 0) == 0 || c.half == 0 || c.heads + c.kv_heads == 0) return FK_OK;
  FK_FLOAT_DISPATCH(type, T, {
    if (table == FK_F32) return launch<T, float>(ctx, a, c);
    return launch<T, T>(ctx, a, c);
  });
}
