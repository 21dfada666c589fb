/* Who attends to whom: the sequences of a call, read and checked once for both implementations.
 *
 * A fk_sequence is plain numbers; the key rows it speaks of are found by key_row(). check_sequences() has to succeed
 * before any other function here is used: the offsets, lengths and block ids come from the caller and may be hostile.
 */
#pragma once

#include <limits.h>

#include "tasks/attention.h"

typedef struct sequence {
  int64_t q0, num_q; /* first query (of all tokens, or of all batch * seqlen_q), and how many */
  int64_t k0, num_k; /* the same for keys; paged: k0 is the sequence's row of the block table */
  int64_t shift;     /* query i stands at key position i + shift */
} sequence;

typedef struct layout {
  bool dense, paged;
  int64_t num_seqs;
} layout;

static inline layout layout_of(const fk_attention_args *a) {
  layout l = {.dense = a->q->ndim == 4, .paged = a->block_table != NULL};
  l.num_seqs = l.dense ? a->q->shape[0] : a->cu_seqlens_q ? a->cu_seqlens_q->shape[0] - 1 : 0;
  return l;
}

static inline int64_t int_at(const fk_tensor *t, int64_t i) {
  return fk_load_i64(fk_type_of(t), fk_data(t), i);
}

static inline sequence sequence_of(const fk_attention_args *a, const layout *l, int64_t b) {
  sequence s;
  if (l->dense) {
    s = (sequence){b * a->q->shape[1], a->q->shape[1], b * a->k->shape[1], a->k->shape[1], 0};
    s.shift = s.num_k - s.num_q;
    if (a->seq_lens) s.num_k = int_at(a->seq_lens, b); /* hides keys, moves no query */
    return s;
  }
  s.q0 = int_at(a->cu_seqlens_q, b);
  s.num_q = int_at(a->cu_seqlens_q, b + 1) - s.q0;
  s.k0 = l->paged ? b : int_at(a->cu_seqlens_k, b);
  s.num_k = l->paged ? int_at(a->seq_lens, b) : int_at(a->cu_seqlens_k, b + 1) - s.k0;
  s.shift = s.num_k - s.num_q;
  return s;
}

/* The keys [*lo, *hi) that query i of a sequence sees; empty when *hi <= *lo. */
static inline void visible_keys(const fk_attention_args *a, const sequence *s, int64_t i, int64_t *lo, int64_t *hi) {
  int64_t position = i + s->shift;
  *lo = a->window_left >= 0 && position - a->window_left > 0 ? position - a->window_left : 0;
  *hi = s->num_k;
  if (a->causal && position + 1 < *hi) *hi = position + 1;
  if (a->window_right >= 0 && position + a->window_right + 1 < *hi) *hi = position + a->window_right + 1;
}

static inline fk_status check_offsets(const fk_tensor *t, const char *name, int64_t total) {
  int64_t n = t->shape[0], last = 0;
  if (n < 1) return fk_fail(FK_ERROR_ARGUMENT, "%s: expected at least one offset", name);
  for (int64_t i = 0; i < n; i++) {
    int64_t x = int_at(t, i);
    if (i == 0 ? x != 0 : x < last)
      return fk_fail(FK_ERROR_ARGUMENT, "%s[%lld]: expected %s%lld, got %lld", name, (long long)i,
                     i == 0 ? "" : "at least ", (long long)last, (long long)x);
    last = x;
  }
  if (last != total)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: expected the last offset to be %lld tokens, got %lld", name,
                   (long long)total, (long long)last);
  return FK_OK;
}

static inline fk_status check_paged(const fk_attention_args *a, int64_t b, int64_t num_q) {
  int64_t block_size = a->k->shape[1], columns = a->block_table->shape[1], keys = int_at(a->seq_lens, b);
  if (keys < num_q || keys > columns * block_size)
    return fk_fail(FK_ERROR_ARGUMENT,
                   "seq_lens[%lld]: expected %lld (its queries) to %lld (its row of the block table) keys, got %lld",
                   (long long)b, (long long)num_q, (long long)(columns * block_size), (long long)keys);
  for (int64_t i = 0; i * block_size < keys; i++) {
    int64_t id = int_at(a->block_table, b * fk_stride(a->block_table, 0) + i);
    if (id < 0 || id >= a->k->shape[0])
      return fk_fail(FK_ERROR_ARGUMENT, "block_table[%lld][%lld]: expected a block below %lld, got %lld", (long long)b,
                     (long long)i, (long long)a->k->shape[0], (long long)id);
  }
  return FK_OK;
}

static inline fk_status check_sequences(const fk_attention_args *a, const layout *l) {
  if (l->dense) {
    for (int64_t b = 0; a->seq_lens && b < l->num_seqs; b++) {
      int64_t keys = int_at(a->seq_lens, b);
      if (keys < 0 || keys > a->k->shape[1])
        return fk_fail(FK_ERROR_ARGUMENT, "seq_lens[%lld]: expected 0 to %lld keys, got %lld", (long long)b,
                       (long long)a->k->shape[1], (long long)keys);
    }
    return FK_OK;
  }
  if (!a->cu_seqlens_q || (l->paged ? !a->seq_lens : !a->cu_seqlens_k))
    return fk_fail(FK_ERROR_ARGUMENT, "expected cu_seqlens_q and %s", l->paged ? "seq_lens" : "cu_seqlens_k");
  FK_TRY(check_offsets(a->cu_seqlens_q, "cu_seqlens_q", a->q->shape[0]));
  if (!l->paged) return check_offsets(a->cu_seqlens_k, "cu_seqlens_k", a->k->shape[0]);
  for (int64_t b = 0; b < l->num_seqs; b++)
    FK_TRY(check_paged(a, b, int_at(a->cu_seqlens_q, b + 1) - int_at(a->cu_seqlens_q, b)));
  return FK_OK;
}

/* Offset in elements of head 0 of key (or value, of the same shape but for the last axis) j of a sequence. */
static inline int64_t key_offset(const fk_attention_args *a, const layout *l, const sequence *s, const fk_tensor *k,
                                 int64_t j) {
  if (l->dense) return s->k0 / k->shape[1] * fk_stride(k, 0) + j * fk_stride(k, 1);
  if (!l->paged) return (s->k0 + j) * fk_stride(k, 0);
  int64_t id = int_at(a->block_table, s->k0 * fk_stride(a->block_table, 0) + j / k->shape[1]);
  return id * fk_stride(k, 0) + j % k->shape[1] * fk_stride(k, 1);
}
