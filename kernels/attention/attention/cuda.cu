/* attention on the GPU: who serves a call, and the kernel for calls that nobody else does, of any dtype, size and
 * stride, in float32 arithmetic.
 *
 * A block computes TILE_ROWS rows of one key-value head: row r is query r / group with head r % group of the group, so
 * that heads share the keys and values that a block reads. It holds 64 or 128 columns of the output; wider values are
 * spread over several blocks, which compute the same scores. Keys come TILE_KEYS at a time, their vectors TILE_DEPTH
 * elements at a time, so that shared memory does not depend on any size. */
#include "cuda_attention.h"
#include "cuda_call.cuh"

enum {
  TILE_ROWS = 32,
  TILE_KEYS = 64,
  TILE_DEPTH = 32,
  TILE_VALUES = 32, /* values in shared memory at a time */
  THREADS = 128,    /* 8 x 16: thread (ty, tx) has rows 4 ty + i, keys 4 tx + j, columns 4 tx + j and 64 further */
  Q_PITCH = TILE_ROWS + 4,
  K_PITCH = TILE_KEYS + 4
};

typedef struct tile_rooms {
  union {
    struct {
      float q[TILE_DEPTH * Q_PITCH], k[TILE_DEPTH * K_PITCH]; /* [depth][row], [depth][key] */
    };
    float v[TILE_VALUES * 128];
  };
  float p[TILE_ROWS * K_PITCH]; /* [row][key] */
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

/* Elements [d, d + 4) of a vector of `size`, zeros beyond its end or for row -1. */
template <typename T>
static __device__ __forceinline__ float4 four_of(const char *data, int64_t row, int d, int size, bool aligned) {
  float x[4] = {0, 0, 0, 0};
  const T *from = (const T *)data + row + d;
  if (row >= 0 && aligned) {
    if (d < size) {
      struct alignas(4 * sizeof(T)) {
        T at[4];
      } v = *(const decltype(v) *)from;
#pragma unroll
      for (int e = 0; e < 4; e++) x[e] = fk_float(v.at[e]);
    }
  } else if (row >= 0) {
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (d + e < size) x[e] = fk_float(from[e]);
  }
  return make_float4(x[0], x[1], x[2], x[3]);
}

/* Elements [d, d + TILE_DEPTH) of `vectors` vectors: a thread has four of every THREADS / 8 th. */
template <typename T, int VECTORS>
static __device__ __forceinline__ void read_depth(float4 (&x)[VECTORS * 8 / THREADS], const char *data,
                                                  const int64_t *rows, int d, int size, bool aligned) {
#pragma unroll
  for (int i = 0; i < VECTORS * 8 / THREADS; i++)
    x[i] = four_of<T>(data, rows[i * (THREADS / 8) + threadIdx.x / 8], d + threadIdx.x % 8 * 4, size, aligned);
}

/* The same into [depth][vector]. */
template <int VECTORS>
static __device__ __forceinline__ void write_depth(float *to, const float4 (&x)[VECTORS * 8 / THREADS]) {
  constexpr int PITCH = VECTORS + 4;
#pragma unroll
  for (int i = 0; i < VECTORS * 8 / THREADS; i++) {
    float *at = to + threadIdx.x % 8 * 4 * PITCH + i * (THREADS / 8) + threadIdx.x / 8;
    at[0] = x[i].x, at[PITCH] = x[i].y, at[2 * PITCH] = x[i].z, at[3 * PITCH] = x[i].w;
  }
}

/* Scores of the tile's keys; x[i][j] is row 4 ty + i, key 4 tx + j. The next elements are on their way from memory
 * while the present ones are multiplied. */
template <typename T>
static __device__ __forceinline__ void tile_scores(const attention_call &c, bool aligned, tile_rooms *w,
                                                   float (&x)[4][4]) {
  int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float4 next_q[TILE_ROWS * 8 / THREADS], next_k[TILE_KEYS * 8 / THREADS];
  read_depth<T, TILE_ROWS>(next_q, c.q.data, w->q_rows, 0, c.head_size, aligned);
  read_depth<T, TILE_KEYS>(next_k, c.k.data, w->k_rows, 0, c.head_size, aligned);
  for (int d = 0; d < c.head_size; d += TILE_DEPTH) {
    __syncthreads();
    write_depth<TILE_ROWS>(w->q, next_q);
    write_depth<TILE_KEYS>(w->k, next_k);
    __syncthreads();
    if (d + TILE_DEPTH < c.head_size) {
      read_depth<T, TILE_ROWS>(next_q, c.q.data, w->q_rows, d + TILE_DEPTH, c.head_size, aligned);
      read_depth<T, TILE_KEYS>(next_k, c.k.data, w->k_rows, d + TILE_DEPTH, c.head_size, aligned);
    }
#pragma unroll 8
    for (int e = 0; e < TILE_DEPTH; e++) {
      float4 a = *(const float4 *)&w->q[e * Q_PITCH + ty * 4], b = *(const float4 *)&w->k[e * K_PITCH + tx * 4];
      float q[4] = {a.x, a.y, a.z, a.w}, k[4] = {b.x, b.y, b.z, b.w};
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
template <int COLUMNS>
static __device__ __forceinline__ void soften(const attention_call &c, tile_rooms *w, int key, float (&x)[4][4],
                                              row_state (&state)[4], float (&o)[4][COLUMNS / 16]) {
  int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    row_state *r = &state[i];
    float largest = r->largest, sum = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      int at = key + tx * 4 + j;
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
      x[i][j] = expf(x[i][j] - shift);
      sum += x[i][j];
    }
    *(float4 *)&w->p[(ty * 4 + i) * K_PITCH + tx * 4] = make_float4(x[i][0], x[i][1], x[i][2], x[i][3]);
#pragma unroll
    for (int d = 8; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    r->sum = r->sum * factor + sum;
    r->largest = largest;
#pragma unroll
    for (int e = 0; e < COLUMNS / 16; e++) o[i][e] *= factor;
  }
}

/* Column of a thread's e-th sum, within the block's columns. */
static __device__ __forceinline__ int column_of(int e) {
  return threadIdx.x % 16 * 4 + e % 4 + e / 4 * 64;
}

/* o += p v over keys [from, from + TILE_VALUES) of the tile, whose values lie in w->v. */
template <int COLUMNS>
static __device__ __forceinline__ void multiply_values(const tile_rooms *w, int from, float (&o)[4][COLUMNS / 16]) {
  int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll 2
  for (int k = 0; k < TILE_VALUES; k += 4) {
    float p[4][4];
#pragma unroll
    for (int i = 0; i < 4; i++) *(float4 *)p[i] = *(const float4 *)&w->p[(ty * 4 + i) * K_PITCH + from + k];
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
      for (int h = 0; h < COLUMNS / 64; h++) {
        float v[4];
        *(float4 *)v = *(const float4 *)&w->v[(k + n) * COLUMNS + h * 64 + tx * 4];
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int j = 0; j < 4; j++) o[i][h * 4 + j] += p[i][n] * v[j];
      }
  }
}

/* o += p v over the tile's keys. */
template <typename T, int COLUMNS>
static __device__ __forceinline__ void add_values(const attention_call &c, bool aligned, const tile &t, tile_rooms *w,
                                                  float (&o)[4][COLUMNS / 16]) {
  constexpr int EACH = TILE_VALUES * COLUMNS / 4 / THREADS, LINE = COLUMNS / 4;
  for (int from = 0; from < TILE_KEYS; from += TILE_VALUES) {
    float4 v[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int at = i * THREADS + threadIdx.x;
      v[i] = four_of<T>(c.v.data, w->v_rows[from + at / LINE], t.column + at % LINE * 4, c.head_size_v, aligned);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; i++) ((float4 *)w->v)[i * THREADS + threadIdx.x] = v[i];
    __syncthreads();
    multiply_values<COLUMNS>(w, from, o);
  }
}

/* Divides, rounds and stores; notes rows that have to be done again: finite weights, but a result that is not. */
template <typename T, int COLUMNS>
static __device__ __forceinline__ void finish_rows(const attention_call &c, const tile &t, tile_rooms *w,
                                                   const row_state (&state)[4], float (&o)[4][COLUMNS / 16]) {
  int ty = threadIdx.x / 16;
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
    for (int j = 0; j < COLUMNS / 16; j++) {
      int column = t.column + column_of(j);
      if (column >= c.head_size_v) continue;
      if (!isfinite(o[i][j]) && x->sum > 0) w->redo[r] = 1;
      out[column] = fk_from<T>(x->lo < x->hi ? o[i][j] * scale : 0);
    }
  }
}

/* False where the block has nothing to do. */
template <int COLUMNS>
static __device__ __forceinline__ bool find_tile(const attention_call &c, tile *t) {
  int chunks = (c.head_size_v + COLUMNS - 1) / COLUMNS, kv_heads = c.heads / c.group, local;
  int number = blockIdx.x / chunks;
  t->column = blockIdx.x % chunks * COLUMNS;
  t->kv_head = number % kv_heads;
  t->s = sequence_at(c, sequence_of_tile(c, c.group, TILE_ROWS, number / kv_heads, &local));
  int64_t left = (int64_t)t->s.num_q * c.group - (int64_t)local * TILE_ROWS;
  if (left <= 0) return false;
  t->first = local * TILE_ROWS;
  t->rows = left < TILE_ROWS ? (int)left : TILE_ROWS;
  return true;
}

/* aligned_k: queries and keys, aligned_v: values can be read four elements at a time. */
template <typename T, int COLUMNS>
static __global__ void __launch_bounds__(THREADS) attention_any(attention_call c, bool aligned_k, bool aligned_v) {
  __shared__ alignas(16) tile_rooms w;
  int ty = threadIdx.x / 16;
  tile t;
  fk_wait_previous();
  if (!find_tile<COLUMNS>(c, &t)) return;
  row_state state[4];
  float o[4][COLUMNS / 16] = {};
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
    __syncthreads();
    float x[4][4] = {};
    tile_scores<T>(c, aligned_k, &w, x);
    soften<COLUMNS>(c, &w, key, x, state, o);
    add_values<T, COLUMNS>(c, aligned_v, t, &w, o);
  }
  __syncthreads();
  finish_rows<T, COLUMNS>(c, t, &w, state, o);
  __syncthreads();
  for (int r = threadIdx.x / 32; r < t.rows; r += THREADS / 32)
    if (w.redo[r])
      exact_row<T>(c, t.s, (t.first + r) / c.group, head_of(c, t, r), t.column, min(t.column + COLUMNS, c.head_size_v));
}

/* Whether vectors can be read four elements at a time. */
template <typename T>
static bool aligned_fours(const attention_rows &r, int size) {
  return (uintptr_t)r.data % (4 * sizeof(T)) == 0 && r.batch % 4 == 0 && r.token % 4 == 0 && r.head % 4 == 0 &&
         size % 4 == 0;
}

template <typename T, int COLUMNS>
static fk_status launch(fk_context *ctx, const attention_call &c) {
  int64_t blocks = attention_tiles(c, c.group, TILE_ROWS) * (c.heads / c.group) * fk_ceil_div(c.head_size_v, COLUMNS);
  if (blocks > INT32_MAX) return fk_fail(FK_ERROR_UNSUPPORTED, "attention: too many queries for one launch");
  return fk_launch_early(ctx, attention_any<T, COLUMNS>, dim3((unsigned)blocks), dim3(THREADS), 0, c,
                         aligned_fours<T>(c.q, c.head_size) && aligned_fours<T>(c.k, c.head_size),
                         aligned_fours<T>(c.v, c.head_size_v));
}

fk_status fk_cuda_attention(fk_context *ctx, const fk_attention_args *a) {
  if (fk_numel(a->out) == 0) return FK_OK;
  if (fk_attention_decode_serves(ctx, a)) {
    fk_cuda_chose(ctx, "attention decode");
    return fk_attention_decode(ctx, a);
  }
  if (fk_attention_prefill_sm90_serves(ctx, a)) {
    fk_cuda_chose(ctx, "attention prefill_sm90");
    return fk_attention_prefill_sm90(ctx, a);
  }
  fk_cuda_chose(ctx, "attention rows");
  attention_call c;
  FK_TRY(attention_call_of(ctx, a, &c));
  FK_FLOAT_DISPATCH(fk_type_of(a->q), T, return c.head_size_v <= 64 ? launch<T, 64>(ctx, c) : launch<T, 128>(ctx, c));
}
