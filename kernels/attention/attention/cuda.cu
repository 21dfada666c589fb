/* attention on the GPU: who serves a call, and the kernel for calls that nobody else does, of any dtype, size and
 * stride, in float32 arithmetic.
 *
 * A block computes TILE_ROWS rows of one key-value head: row r is query r / group with head r % group of the group, so
 * that heads share the keys and values that a block reads. It holds at most TILE_COLUMNS columns of the output; wider
 * values are spread over several blocks, which compute the same scores. Keys come TILE_KEYS at a time, their vectors
 * TILE_DEPTH elements at a time, so that shared memory does not depend on any size. */
#include "cuda_attention.h"
#include "cuda_call.cuh"

enum {
  TILE_ROWS = 64,
  TILE_KEYS = 64,
  TILE_DEPTH = 32,
  TILE_VALUES = 32, /* values in shared memory at a time */
  TILE_COLUMNS = 128,
  THREADS = 256, /* 16 x 16: thread (ty, tx) has rows 4 ty + i, keys tx + 16 j and columns tx + 16 j */
  PITCH = 65
};

typedef struct tile_rooms {
  union {
    struct {
      float q[TILE_DEPTH * PITCH], k[TILE_DEPTH * PITCH]; /* [depth][row], [depth][key] */
    };
    float v[TILE_VALUES * TILE_COLUMNS];
  };
  float p[TILE_ROWS * PITCH]; /* [row][key] */
  int64_t q_rows[TILE_ROWS], k_rows[TILE_KEYS], v_rows[TILE_KEYS];
  int redo[TILE_ROWS];
} tile_rooms;

typedef struct tile {
  attention_sequence s;
  int first, rows; /* rows of the sequence, heads of the group counted */
  int kv_head, column;
} tile;

static __device__ __forceinline__ int head_of(const attention_call &c, const tile &t, int r) {
  return t.kv_head * c.group + (t.first + r) % c.group;
}

/* Elements [d, d + TILE_DEPTH) of 64 vectors into [depth][vector]; beyond the ends, zeros. */
template <typename T>
static __device__ __forceinline__ void load_depth(float *to, const char *data, const int64_t *rows, int d, int size) {
  int lane = threadIdx.x % 32;
  for (int r = threadIdx.x / 32; r < 64; r += THREADS / 32) {
    int64_t row = rows[r];
    to[lane * PITCH + r] = row >= 0 && d + lane < size ? fk_float(((const T *)data)[row + d + lane]) : 0;
  }
}

/* Scores of the tile's keys; x[i][j] is row 4 ty + i, key tx + 16 j. */
template <typename T>
static __device__ __forceinline__ void tile_scores(const attention_call &c, tile_rooms *w, float (&x)[4][4]) {
  int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  for (int d = 0; d < c.head_size; d += TILE_DEPTH) {
    __syncthreads();
    load_depth<T>(w->q, c.q.data, w->q_rows, d, c.head_size);
    load_depth<T>(w->k, c.k.data, w->k_rows, d, c.head_size);
    __syncthreads();
#pragma unroll 8
    for (int e = 0; e < TILE_DEPTH; e++) {
      float q[4], k[4];
#pragma unroll
      for (int i = 0; i < 4; i++) q[i] = w->q[e * PITCH + ty * 4 + i], k[i] = w->k[e * PITCH + tx + 16 * i];
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) x[i][j] += q[i] * k[j];
    }
  }
}

typedef struct row_state {
  float largest, sum;
  int lo, hi;
} row_state;

/* Scores become exponentials in w->p; o is brought to the new largest score. */
static __device__ __forceinline__ void soften(const attention_call &c, tile_rooms *w, int key, float (&x)[4][4],
                                              row_state (&state)[4], float (&o)[4][8]) {
  int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    row_state *r = &state[i];
    float largest = r->largest, sum = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      int at = key + tx + 16 * j;
      x[i][j] *= c.scale;
      if (c.softcap > 0) x[i][j] = c.softcap * tanhf(x[i][j] / c.softcap);
      if (at < r->lo || at >= r->hi) x[i][j] = -INFINITY;
      largest = fmaxf(largest, x[i][j]);
    }
#pragma unroll
    for (int d = 8; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
    float shift = largest == -INFINITY ? 0 : largest, factor = expf(r->largest - shift);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float p = expf(x[i][j] - shift);
      sum += p;
      w->p[(ty * 4 + i) * PITCH + tx + 16 * j] = p;
    }
#pragma unroll
    for (int d = 8; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    r->sum = r->sum * factor + sum;
    r->largest = largest;
#pragma unroll
    for (int e = 0; e < 8; e++) o[i][e] *= factor;
  }
}

/* o += p v over the tile's keys. */
template <typename T>
static __device__ __forceinline__ void add_values(const attention_call &c, const tile &t, tile_rooms *w,
                                                  float (&o)[4][8]) {
  int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  for (int from = 0; from < TILE_KEYS; from += TILE_VALUES) {
    __syncthreads();
    for (int e = threadIdx.x; e < TILE_VALUES * TILE_COLUMNS; e += THREADS) {
      int64_t row = w->v_rows[from + e / TILE_COLUMNS];
      int column = t.column + e % TILE_COLUMNS;
      w->v[e] = row >= 0 && column < c.head_size_v ? fk_float(((const T *)c.v.data)[row + column]) : 0;
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < TILE_VALUES; k++) {
      float p[4], v[8];
#pragma unroll
      for (int i = 0; i < 4; i++) p[i] = w->p[(ty * 4 + i) * PITCH + from + k];
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] = w->v[k * TILE_COLUMNS + tx + 16 * j];
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) o[i][j] += p[i] * v[j];
    }
  }
}

/* Divides, rounds and stores; notes rows that have to be done again: finite weights, but a result that is not. */
template <typename T>
static __device__ __forceinline__ void finish_rows(const attention_call &c, const tile &t, tile_rooms *w,
                                                   const row_state (&state)[4], float (&o)[4][8]) {
  int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int r = ty * 4 + i;
    if (r >= t.rows) continue;
    const row_state *x = &state[i];
    int head = head_of(c, t, r);
    float sum = x->sum, factor = 1;
    if (c.sinks) {
      float sink = sink_of(c, head), largest = fmaxf(sink, x->largest), shift = largest == -INFINITY ? 0 : largest;
      factor = expf(x->largest - shift);
      sum = sum * factor + expf(sink - shift);
    }
    float scale = factor / sum;
    T *out = (T *)c.out.data + query_row(c, t.s, c.out, (t.first + r) / c.group, head);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      int column = t.column + tx + 16 * j;
      if (column >= c.head_size_v) continue;
      if (!isfinite(o[i][j]) && x->sum > 0) w->redo[r] = 1;
      out[column] = fk_from<T>(x->lo < x->hi ? o[i][j] * scale : 0);
    }
  }
}

/* False where the block has nothing to do. */
static __device__ bool find_tile(const attention_call &c, tile *t) {
  int chunks = (c.head_size_v + TILE_COLUMNS - 1) / TILE_COLUMNS, kv_heads = c.heads / c.group, local;
  int number = blockIdx.x / chunks;
  t->column = blockIdx.x % chunks * TILE_COLUMNS;
  t->kv_head = number % kv_heads;
  t->s = sequence_at(c, sequence_of_tile(c, c.group, TILE_ROWS, number / kv_heads, &local));
  int64_t left = (int64_t)t->s.num_q * c.group - (int64_t)local * TILE_ROWS;
  if (left <= 0) return false;
  t->first = local * TILE_ROWS;
  t->rows = left < TILE_ROWS ? (int)left : TILE_ROWS;
  return true;
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) attention_any(attention_call c) {
  __shared__ tile_rooms w;
  int ty = threadIdx.x / 16;
  tile t;
  fk_wait_previous();
  if (!find_tile(c, &t)) return;
  row_state state[4];
  float o[4][8] = {};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    state[i] = (row_state){-INFINITY, 0, 0, 0};
    if (ty * 4 + i < t.rows) keys_seen(c, t.s, (t.first + ty * 4 + i) / c.group, &state[i].lo, &state[i].hi);
  }
  if (threadIdx.x < TILE_ROWS) {
    int r = threadIdx.x;
    w.q_rows[r] = r < t.rows ? query_row(c, t.s, c.q, (t.first + r) / c.group, head_of(c, t, r)) : -1;
    w.redo[r] = 0;
  }
  int unused, from, to;
  keys_seen(c, t.s, t.first / c.group, &from, &unused);
  keys_seen(c, t.s, (t.first + t.rows - 1) / c.group, &unused, &to);
  for (int key = from; key < to; key += TILE_KEYS) {
    __syncthreads();
    if (threadIdx.x < TILE_KEYS) {
      int j = key + threadIdx.x;
      w.k_rows[threadIdx.x] = j < to ? key_row(c, t.s, c.k, j, t.kv_head) : -1;
      w.v_rows[threadIdx.x] = j < to ? key_row(c, t.s, c.v, j, t.kv_head) : -1;
    }
    float x[4][4] = {};
    tile_scores<T>(c, &w, x);
    soften(c, &w, key, x, state, o);
    add_values<T>(c, t, &w, o);
  }
  __syncthreads();
  finish_rows<T>(c, t, &w, state, o);
  __syncthreads();
  for (int r = threadIdx.x / 32; r < t.rows; r += THREADS / 32)
    if (w.redo[r])
      exact_row<T>(c, t.s, (t.first + r) / c.group, head_of(c, t, r), t.column,
                   min(t.column + TILE_COLUMNS, c.head_size_v));
}

fk_status fk_cuda_attention(fk_context *ctx, const fk_attention_args *a) {
  if (fk_numel(a->out) == 0) return FK_OK;
  if (fk_attention_decode_serves(ctx, a)) return fk_attention_decode(ctx, a);
  if (fk_attention_prefill_sm90_serves(ctx, a)) return fk_attention_prefill_sm90(ctx, a);
  attention_call c;
  FK_TRY(attention_call_of(ctx, a, &c));
  int64_t blocks =
      attention_tiles(c, c.group, TILE_ROWS) * (c.heads / c.group) * fk_ceil_div(c.head_size_v, TILE_COLUMNS);
  if (blocks > INT32_MAX) return fk_fail(FK_ERROR_UNSUPPORTED, "attention: too many queries for one launch");
  FK_FLOAT_DISPATCH(fk_type_of(a->q), T,
                    return fk_launch_early(ctx, attention_any<T>, dim3((unsigned)blocks), dim3(THREADS), 0, c));
}
