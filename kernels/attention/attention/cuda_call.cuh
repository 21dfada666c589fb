/* A call of attention as kernels see it: plain numbers and pointers, passed by value.
 *
 * Offsets, lengths and block ids lie in GPU memory and may be anything. sequence_at() reports what is wrong with a
 * sequence and gives one without queries in its place; key_row() reports a wrong block and gives -1. */
#pragma once

#include "device/cuda/kernel.cuh"
#include "tasks/attention.h"

enum { FK_DENSE, FK_VARLEN, FK_PAGED };

/* Strides in elements: batch (or cache block), token (or slot of a block), head; the vector itself has stride 1. */
typedef struct attention_rows {
  char *data;
  int64_t batch, token, head;
} attention_rows;

typedef struct attention_call {
  int layout, num_seqs, heads, group; /* group: query heads that share a key-value head */
  int head_size, head_size_v;
  int num_q, num_k;           /* dense: of every sequence; else q tokens and k tokens (or blocks) */
  int block_size, max_blocks; /* paged */
  attention_rows q, k, v, out;
  const int *cu_q, *cu_k, *seq_lens, *block_table; /* NULL where the layout has none */
  int64_t table_stride;
  const void *sinks;
  fk_type sinks_type;
  float scale, softcap;
  int causal, window_left, window_right; /* windows: -1 for none */
  fk_index_check check_q, check_k, check_lens, check_table;
} attention_call;

typedef struct attention_sequence {
  int batch;     /* which sequence of a dense tensor, or row of the block table; */
  int q0, num_q; /* dense: q0 is 0 */
  int k0, num_k; /* dense and paged: k0 is 0 */
  int shift;     /* query i stands at key position i + shift */
} attention_sequence;

/* Longest sequences that 32-bit positions, with windows added, can speak of. */
enum { FK_ATTENTION_LONGEST = 1 << 29 };

static inline attention_rows attention_rows_of(const fk_tensor *t) {
  int n = t->ndim;
  attention_rows r = {(char *)fk_data(t), n == 4 ? fk_stride(t, 0) : 0, fk_stride(t, n - 3), fk_stride(t, n - 2)};
  return r;
}

static inline int attention_window(int64_t window) {
  return window > FK_ATTENTION_LONGEST ? (int)FK_ATTENTION_LONGEST : (int)window;
}

static inline fk_status attention_call_of(fk_context *ctx, const fk_attention_args *a, attention_call *c) {
  attention_call x = {};
  bool dense = a->q->ndim == 4, paged = !dense && a->block_table;
  if (!dense && (!a->cu_seqlens_q || (paged ? !a->seq_lens : !a->cu_seqlens_k)))
    return fk_fail(FK_ERROR_ARGUMENT, "expected cu_seqlens_q and %s", paged ? "seq_lens" : "cu_seqlens_k");
  int64_t seqs = dense ? a->q->shape[0] : a->cu_seqlens_q->shape[0] - 1;
  if (seqs < 1) return fk_fail(FK_ERROR_ARGUMENT, "cu_seqlens_q: expected a sequence, got %lld", (long long)seqs);
  int64_t largest = seqs > a->k->shape[0] ? seqs : a->k->shape[0];
  if (a->q->shape[dense] > largest) largest = a->q->shape[dense];
  if (a->k->shape[1] > largest) largest = a->k->shape[1];
  int64_t reach = paged ? a->block_table->shape[1] * a->k->shape[1] : 0;
  if (largest > FK_ATTENTION_LONGEST || reach > FK_ATTENTION_LONGEST)
    return fk_fail(FK_ERROR_UNSUPPORTED, "attention: expected at most %d tokens, got %lld", FK_ATTENTION_LONGEST,
                   (long long)(largest > reach ? largest : reach));
  x.layout = dense ? FK_DENSE : paged ? FK_PAGED : FK_VARLEN;
  x.num_seqs = (int)seqs;
  x.heads = (int)fk_size(a->q, -2);
  x.group = x.heads / (int)fk_size(a->k, -2);
  x.head_size = (int)fk_size(a->q, -1);
  x.head_size_v = (int)fk_size(a->v, -1);
  x.num_q = (int)a->q->shape[dense];
  x.num_k = (int)a->k->shape[dense];
  x.q = attention_rows_of(a->q);
  x.k = attention_rows_of(a->k);
  x.v = attention_rows_of(a->v);
  x.out = attention_rows_of(a->out);
  x.cu_q = dense ? NULL : (const int *)fk_data(a->cu_seqlens_q);
  x.cu_k = x.layout == FK_VARLEN ? (const int *)fk_data(a->cu_seqlens_k) : NULL;
  x.seq_lens = x.layout != FK_VARLEN && a->seq_lens ? (const int *)fk_data(a->seq_lens) : NULL;
  if (paged) {
    x.block_table = (const int *)fk_data(a->block_table);
    x.table_stride = fk_stride(a->block_table, 0);
    x.block_size = (int)a->k->shape[1];
    x.max_blocks = (int)a->block_table->shape[1];
  }
  if (a->sinks) x.sinks = fk_data(a->sinks), x.sinks_type = fk_type_of(a->sinks);
  x.scale = (float)a->scale;
  x.softcap = (float)a->softcap;
  x.causal = a->causal;
  x.window_left = attention_window(a->window_left);
  x.window_right = attention_window(a->window_right);
  x.check_q = fk_index_checker(ctx, "attention: cu_seqlens_q");
  x.check_k = fk_index_checker(ctx, "attention: cu_seqlens_k");
  x.check_lens = fk_index_checker(ctx, "attention: seq_lens");
  x.check_table = fk_index_checker(ctx, "attention: block_table");
  *c = x;
  return FK_OK;
}

/* Sequence b's [first, first + count) of an array of offsets up to total. */
static __device__ __forceinline__ bool attention_run(const fk_index_check &check, const int *offsets, int b,
                                                     int num_seqs, int total, int *first, int *count) {
  int from = offsets[b], to = offsets[b + 1];
  *first = from;
  *count = to - from;
  return fk_index_ok(check, from, b == 0 ? 1 : (int64_t)total + 1) && fk_index_ok(check, to, (int64_t)total + 1) &&
         fk_index_ok(check, (int64_t)to - from, (int64_t)total + 1) &&
         (b + 1 < num_seqs || fk_index_ok(check, (int64_t)to - total, 1));
}

static __device__ __forceinline__ attention_sequence sequence_at(const attention_call &c, int b) {
  attention_sequence s = {b, 0, 0, 0, 0, 0};
  bool ok = true;
  if (c.layout == FK_DENSE) {
    s.num_q = c.num_q;
    s.num_k = c.num_k;
    s.shift = s.num_k - s.num_q;
    if (c.seq_lens) {
      s.num_k = c.seq_lens[b]; /* hides keys, moves no query */
      ok = fk_index_ok(c.check_lens, s.num_k, (int64_t)c.num_k + 1);
    }
  } else {
    ok = attention_run(c.check_q, c.cu_q, b, c.num_seqs, c.num_q, &s.q0, &s.num_q);
    if (c.layout == FK_VARLEN) {
      ok = ok && attention_run(c.check_k, c.cu_k, b, c.num_seqs, c.num_k, &s.k0, &s.num_k);
    } else if (ok) {
      s.num_k = c.seq_lens[b];
      ok = fk_index_ok(c.check_lens, s.num_k, (int64_t)c.max_blocks * c.block_size + 1) &&
           fk_index_ok(c.check_lens, (int64_t)s.num_k - s.num_q, FK_ATTENTION_LONGEST);
    }
    s.shift = s.num_k - s.num_q;
  }
  if (!ok) s.num_q = s.num_k = 0;
  return s;
}

/* Tiles of `rows` queries over all sequences, when every query counts `factor` times: sequence b's tiles begin at
 * number q0 * factor / rows + b, which leaves room for all of them without a sum over the sequences before it. */
static inline int64_t attention_tiles(const attention_call &c, int factor, int rows) {
  if (c.layout == FK_DENSE) return fk_ceil_div((int64_t)c.num_q * factor, rows) * c.num_seqs;
  return c.num_seqs ? (int64_t)c.num_q * factor / rows + c.num_seqs : 0;
}

/* Sequence of a tile, and *local, the tile's number in it, which may lie beyond its end. */
static __device__ __forceinline__ int sequence_of_tile(const attention_call &c, int factor, int rows, int tile,
                                                       int *local) {
  if (c.layout == FK_DENSE) {
    int each = (int)(((int64_t)c.num_q * factor + rows - 1) / rows);
    *local = tile % each;
    return tile / each;
  }
  int lo = 0, hi = c.num_seqs - 1;
  while (lo < hi) {
    int mid = (lo + hi + 1) / 2;
    if ((int64_t)c.cu_q[mid] * factor / rows + mid <= tile)
      lo = mid;
    else
      hi = mid - 1;
  }
  *local = (int)(tile - ((int64_t)c.cu_q[lo] * factor / rows + lo));
  if (*local < 0) *local = FK_ATTENTION_LONGEST; /* offsets that begin above 0 are reported by sequence_at() */
  return lo;
}

/* The keys [*lo, *hi) that query i of a sequence sees; empty when *hi <= *lo. */
static __device__ __forceinline__ void keys_seen(const attention_call &c, const attention_sequence &s, int i, int *lo,
                                                 int *hi) {
  int position = i + s.shift;
  *lo = c.window_left >= 0 ? max(position - c.window_left, 0) : 0;
  *hi = s.num_k;
  if (c.causal) *hi = min(*hi, position + 1);
  if (c.window_right >= 0) *hi = min(*hi, position + c.window_right + 1);
}

/* Cache block of key j, -1 for a wrong one. */
static __device__ __forceinline__ int block_of_key(const attention_call &c, const attention_sequence &s, int j) {
  int id = c.block_table[s.batch * c.table_stride + j / c.block_size];
  return fk_index_ok(c.check_table, id, c.num_k) ? id : -1;
}

/* Element offset of key (or value) j's vector, or -1. */
static __device__ __forceinline__ int64_t key_row(const attention_call &c, const attention_sequence &s,
                                                  const attention_rows &k, int j, int kv_head) {
  if (c.layout == FK_DENSE) return s.batch * k.batch + j * k.token + kv_head * k.head;
  if (c.layout == FK_VARLEN) return (int64_t)(s.k0 + j) * k.token + kv_head * k.head;
  int id = block_of_key(c, s, j);
  return id < 0 ? -1 : id * k.batch + j % c.block_size * k.token + kv_head * k.head;
}

/* Element offset of query i's vector in q or out. */
static __device__ __forceinline__ int64_t query_row(const attention_call &c, const attention_sequence &s,
                                                    const attention_rows &q, int i, int head) {
  return (c.layout == FK_DENSE ? s.batch * q.batch : 0) + (int64_t)(s.q0 + i) * q.token + head * q.head;
}

static __device__ __forceinline__ float sink_of(const attention_call &c, int head) {
  if (c.sinks_type == FK_F32) return ((const float *)c.sinks)[head];
  if (c.sinks_type == FK_BF16) return fk_float(((const __nv_bfloat16 *)c.sinks)[head]);
  return fk_float(((const __half *)c.sinks)[head]);
}

/* ---- One row, exactly ------------------------------------------------------------------------------------ */

template <typename T>
static __device__ __forceinline__ float exact_score(const attention_call &c, const T *q, const T *k) {
  float sum = 0;
  for (int d = threadIdx.x % 32; d < c.head_size; d += 32) sum += fk_float(q[d]) * fk_float(k[d]);
  sum = fk_warp_sum(sum) * c.scale;
  return c.softcap > 0 ? c.softcap * tanhf(sum / c.softcap) : sum;
}

/* Columns [first, last) of one query's row, at most 256, by one warp, touching visible keys and values only. The tiles
 * multiply hidden values by zero, which is wrong for values that are not finite; and they spare an operation per score
 * that scores beyond millions need. Rows where that shows are done again here. */
template <typename T>
static __device__ __forceinline__ void exact_row(const attention_call &c, const attention_sequence &s, int i, int head,
                                                 int first, int last) {
  int lo, hi, lane = threadIdx.x % 32, kv_head = head / c.group;
  keys_seen(c, s, i, &lo, &hi);
  const T *q = (const T *)c.q.data + query_row(c, s, c.q, i, head);
  T *out = (T *)c.out.data + query_row(c, s, c.out, i, head);
  float largest = c.sinks ? sink_of(c, head) : -INFINITY, sum = 0, o[8] = {};
  for (int j = lo; j < hi; j++) {
    int64_t row = key_row(c, s, c.k, j, kv_head);
    if (row < 0) continue;
    float x = exact_score(c, q, (const T *)c.k.data + row);
    if (!(x <= largest)) largest = x; /* a NaN stays */
    if (isnan(largest)) break;
  }
  if (c.sinks) sum = expf(sink_of(c, head) - largest);
  if (isnan(largest)) sum = largest;
  for (int j = lo; j < hi && !isnan(largest); j++) {
    int64_t row = key_row(c, s, c.k, j, kv_head);
    if (row < 0) continue;
    float p = expf(exact_score(c, q, (const T *)c.k.data + row) - largest);
    const T *v = (const T *)c.v.data + key_row(c, s, c.v, j, kv_head);
    sum += p;
#pragma unroll
    for (int e = 0; e < 8; e++) {
      int column = first + e * 32 + lane;
      if (column < last) o[e] += p * fk_float(v[column]);
    }
  }
#pragma unroll
  for (int e = 0; e < 8; e++) {
    int column = first + e * 32 + lane;
    if (column < last) out[column] = fk_from<T>(hi > lo ? o[e] / sum : 0);
  }
}
