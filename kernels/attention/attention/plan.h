/* How a call is cut into work items, and what an item leaves behind.
 *
 * An item is one key-value head, a run of queries of one sequence with all the heads that share that key-value head
 * (its rows: row r is query r / group, head r % group of the group), and a run of keys. So keys and values are read
 * once per key-value head. Where a sequence has few queries its keys are split over several items whose partial results
 * are merged; how much is split depends on the shapes alone, so that results do not depend on the number of threads. */
#pragma once

#include <math.h>

#include "device/cpu_dot.h"
#include "device/cpu_math.h"
#include "sequences.h"

enum {
  KEY_TILE = 64,            /* keys whose scores, keys and values the nearer caches hold */
  ROW_BLOCK = 2 * FK_PANEL, /* rows of an item, unless one query's heads are more */
  FEW_KEYS = 512,           /* keys of an item whose rows go through dot products */
  MANY_KEYS = 2048          /* of one whose rows go through tiles but fit one item */
};

typedef struct item {
  int64_t b, kv_head;
  int64_t first, queries; /* queries of the sequence, from 0 */
  int64_t lo, hi;         /* keys; empty: the queries see none */
  int64_t slot;           /* place of the first row in the partial results, or -1: the only item of its rows */
  int64_t splits;         /* on the first of several items of the same rows, how many; else 0 */
} item;

/* One thread's rooms, and the results of the item at hand. */
typedef struct room {
  float *q;         /* few rows: [rows][head_size]; many: panels [head_size][panel], scaled */
  float *acc;       /* many rows: panels [head_size_v][panel], transposed sums of values */
  float *scores;    /* [KEY_TILE][FK_PANEL] or [KEY_TILE][rows] */
  float *keys;      /* [KEY_TILE][head_size]: keys that are not float32 */
  float *values;    /* [KEY_TILE][head_size_v] */
  float *raw;       /* [FK_LANES][head_size] queries as floats */
  float *o, *m, *l; /* results: [rows][head_size_v] not yet divided, largest score, sum of exponentials */
  int64_t *lo, *hi; /* visible keys of each row */
} room;

typedef struct attend {
  const fk_attention_args *a;
  layout l;
  fk_type type;
  int64_t group, kv_heads, d, dv;
  int64_t rows_max, block; /* rows of the largest item; queries per item */
  float *partial_o, *partial_m, *partial_l;
} attend;

static inline const char *at(const attend *t, const fk_tensor *x, int64_t offset) {
  return (const char *)fk_data(x) + offset * fk_width(t->type);
}

/* Offset of a query's row of heads in q or out. */
static inline int64_t query_offset(const attend *t, const sequence *s, const fk_tensor *x, int64_t i) {
  if (t->l.dense) return s->q0 / x->shape[1] * fk_stride(x, 0) + i * fk_stride(x, 1);
  return (s->q0 + i) * fk_stride(x, 0);
}

static inline int64_t head_of(const attend *t, const item *it, int64_t r) {
  return it->kv_head * t->group + r % t->group;
}

/* Row r's query in its own dtype. */
static inline const char *query_row(const attend *t, const sequence *s, const item *it, int64_t r) {
  const fk_tensor *q = t->a->q;
  int64_t offset = query_offset(t, s, q, it->first + r / t->group);
  return at(t, q, offset + head_of(t, it, r) * fk_stride(q, q->ndim - 2));
}

/* Addresses of keys (or values) [j, j + count) of the item's head; within a block they lie evenly. */
static inline void key_rows(const attend *t, const sequence *s, const item *it, const fk_tensor *k, int64_t j,
                            int64_t count, const char **rows) {
  int64_t step = fk_stride(k, k->ndim - 3) * fk_width(t->type), head = it->kv_head * fk_stride(k, k->ndim - 2);
  for (int64_t i = 0; i < count;) {
    int64_t run = count - i, left = t->l.paged ? k->shape[1] - (j + i) % k->shape[1] : run;
    const char *row = at(t, k, key_offset(t->a, &t->l, s, k, j + i) + head);
    for (int64_t end = i + (left < run ? left : run); i < end; row += step) rows[i++] = row;
  }
}

/* softcap * tanh(x / softcap) over n scores. */
static inline void cap_scores(float *x, int64_t n, float cap) {
  float inverse = 1 / cap;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float y = x[i] * inverse, magnitude = y < 0 ? -y : y, e = fk_expf(-2 * magnitude);
    float tanh = (1 - e) / (1 + e);
    x[i] = cap * (y < 0 ? -tanh : tanh);
  }
}

/* The exponent to subtract: a row that has seen only -inf so far has no largest score yet. */
static inline float shift_of(float largest) {
  return largest == -INFINITY ? 0 : largest;
}

/* What sums over scores up to m are multiplied with when the largest score becomes `largest`: nothing has been summed
 * yet, or only terms exp(-inf) = 0, where m is -inf. */
static inline float rescale(float m, float largest) {
  return fk_expf(m - shift_of(largest));
}
