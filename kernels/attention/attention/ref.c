#include <math.h>

#include "sequences.h"

typedef struct row {
  const fk_attention_args *a;
  const layout *l;
  const sequence *s;
  int64_t head, kv_head, lo, hi;
} row;

static double score(const row *r, const double *q, int64_t j) {
  int64_t d = fk_size(r->a->k, -1);
  const double *k = fk_f64(r->a->k) + key_offset(r->a, r->l, r->s, r->a->k, j) + r->kv_head * d;
  double sum = 0;
  for (int64_t i = 0; i < d; i++) sum += q[i] * k[i];
  sum *= r->a->scale;
  return r->a->softcap > 0 ? r->a->softcap * tanh(sum / r->a->softcap) : sum;
}

/* Three passes over the keys: the largest score, the denominator, the weighted sum of values. */
static void attend(const row *r, const double *q, double *out) {
  int64_t dv = fk_size(r->a->v, -1);
  for (int64_t i = 0; i < dv; i++) out[i] = 0;
  if (r->hi <= r->lo) return;
  double largest = r->a->sinks ? fk_f64(r->a->sinks)[r->head] : -INFINITY, sum = 0;
  for (int64_t j = r->lo; j < r->hi; j++) {
    double s = score(r, q, j);
    if (!(s <= largest)) largest = s; /* a NaN stays */
    if (isnan(largest)) break;
  }
  if (r->a->sinks) sum = exp(fk_f64(r->a->sinks)[r->head] - largest);
  for (int64_t j = r->lo; j < r->hi; j++) {
    double p = exp(score(r, q, j) - largest);
    const double *v = fk_f64(r->a->v) + key_offset(r->a, r->l, r->s, r->a->v, j) + r->kv_head * dv;
    sum += p;
    for (int64_t i = 0; i < dv; i++) out[i] += p * v[i];
  }
  for (int64_t i = 0; i < dv; i++) out[i] /= sum;
}

fk_status fk_ref_attention(fk_context *ctx, const fk_attention_args *a) {
  (void)ctx;
  layout l = layout_of(a);
  FK_TRY(check_sequences(a, &l));
  int64_t heads = fk_size(a->q, -2), group = heads / fk_size(a->k, -2);
  int64_t d = fk_size(a->q, -1), dv = fk_size(a->v, -1);
  for (int64_t b = 0; b < l.num_seqs; b++) {
    sequence s = sequence_of(a, &l, b);
    for (int64_t i = 0; i < s.num_q; i++) {
      row r = {.a = a, .l = &l, .s = &s};
      visible_keys(a, &s, i, &r.lo, &r.hi);
      for (r.head = 0; r.head < heads; r.head++) {
        r.kv_head = r.head / group;
        attend(&r, fk_f64(a->q) + ((s.q0 + i) * heads + r.head) * d,
               fk_f64(a->out) + ((s.q0 + i) * heads + r.head) * dv);
      }
    }
  }
  return FK_OK;
}
