/* Few rows (decode): scores by dot products, values added up key by key. Every key and value is read once. */
#pragma once

#include "plan.h"

enum { FEW_STEP = 4 }; /* keys or values between two calls for memory */

/* o[r] += sum of p[j][r] * value[j] over keys [j0, j1) of the tile, four at a time. type is a constant here. */
static inline __attribute__((always_inline)) void add_values_of(const attend *t, fk_type type, const char *const *v,
                                                                const float *p, int rows, int r0, int r1, int64_t j0,
                                                                int64_t j1, float *o) {
  int64_t dv = t->dv, whole = dv - dv % FK_LANES;
  for (int64_t j = j0; j < j1; j += 4) {
    int n = j1 - j < 4 ? (int)(j1 - j) : 4;
    const char *w[4];
    float weight[4][FK_DOT_ROWS];
    for (int i = 0; i < 4; i++) {
      w[i] = v[i < n ? j + i : j];
      for (int r = r0; r < r1; r++) weight[i][r] = i < n ? p[(j + i) * rows + r] : 0;
    }
    for (int64_t k = 0; n == 4 && k < whole; k += FK_LANES) {
      fk_vec x0 = fk_vec_widen(type, w[0], k), x1 = fk_vec_widen(type, w[1], k);
      fk_vec x2 = fk_vec_widen(type, w[2], k), x3 = fk_vec_widen(type, w[3], k);
      for (int r = r0; r < r1; r++) {
        fk_vec sum = fk_vec_load(o + r * dv + k) + x0 * weight[0][r];
        sum += x1 * weight[1][r];
        sum += x2 * weight[2][r];
        fk_vec_store(o + r * dv + k, sum + x3 * weight[3][r]);
      }
    }
    for (int i = 0; i < n; i++) {
      float x[FK_LANES];
      for (int64_t k = n == 4 ? whole : 0; k < dv; k += FK_LANES) {
        int64_t count = dv - k < FK_LANES ? dv - k : FK_LANES;
        fk_widen(type, w[i] + k * fk_width(type), x, count);
        for (int r = r0; r < r1; r++)
          for (int64_t e = 0; e < count; e++) o[r * dv + k + e] += weight[i][r] * x[e];
      }
    }
  }
}

static __attribute__((noinline)) void add_values(const attend *t, const char *const *v, const float *p, int rows,
                                                 int r0, int r1, int64_t j0, int64_t j1, float *o) {
  if (t->type == FK_F32)
    add_values_of(t, FK_F32, v, p, rows, r0, r1, j0, j1, o);
  else if (t->type == FK_BF16)
    add_values_of(t, FK_BF16, v, p, rows, r0, r1, j0, j1, o);
  else
    add_values_of(t, FK_F16, v, p, rows, r0, r1, j0, j1, o);
}

/* Row r's scores of keys [j0, j1) become exponentials; what was summed before is brought to the new largest score. */
static void soften_row(const attend *t, room *w, int rows, int r, int64_t j0, int64_t j1) {
  float largest = w->m[r], line[KEY_TILE], sum = 0;
  for (int64_t j = j0; j < j1; j++) {
    line[j] = w->scores[j * rows + r];
    largest = line[j] > largest ? line[j] : largest;
  }
  float shift = shift_of(largest), old = fk_expf(w->m[r] - shift);
#pragma omp simd
  for (int64_t j = j0; j < j1; j++) line[j] = fk_expf(line[j] - shift);
  for (int64_t j = j0; j < j1; j++) {
    sum += line[j];
    w->scores[j * rows + r] = line[j];
  }
  w->m[r] = largest;
  w->l[r] = w->l[r] * old + sum;
  for (int64_t i = 0; old != 1 && i < t->dv; i++) w->o[r * t->dv + i] *= old;
}

/* Calls for rows ahead of their use: they are short and far apart, so the processor does not foresee them. */
static inline void fetch_rows(const char *const *rows, int64_t count, int64_t bytes) {
  for (int64_t i = 0; i < count; i++)
    for (int64_t k = 0; k < bytes; k += 64) __builtin_prefetch(rows[i] + k, 0, 2);
}

static inline int64_t at_most(int64_t n, int64_t most) {
  return n < most ? n : most;
}

/* Keys [j, j + count) of the sequence. A few rows at a time, and between them calls for as many rows of what comes
 * next, so that memory is never idle and never asked for more than it can have under way. */
static void few_tile(const attend *t, const sequence *s, const item *it, room *w, int rows, int64_t j, int64_t count) {
  const char *k[KEY_TILE], *v[KEY_TILE];
  int64_t width = fk_width(t->type);
  key_rows(t, s, it, t->a->k, j, count, k);
  key_rows(t, s, it, t->a->v, j, count, v);
  fk_dot_args dot = {w->q, t->d, t->d};
  for (int64_t i = 0; i < count; i += FEW_STEP) {
    int64_t n = at_most(count - i, FEW_STEP);
    fetch_rows(v + i, n, t->dv * width);
    fk_dot_many(&dot, t->type, rows, n, k + i, w->scores + i * rows);
  }
  if (t->a->softcap > 0) cap_scores(w->scores, count * rows, (float)t->a->softcap);
  int64_t next = at_most(it->hi - j - count, KEY_TILE);
  key_rows(t, s, it, t->a->k, j + count, next, k);
  bool all = true;
  for (int r = 0; r < rows; r++) {
    int64_t lo = w->lo[r] > j ? w->lo[r] - j : 0, hi = w->hi[r] < j + count ? w->hi[r] - j : count;
    all &= lo == 0 && hi == count;
    if (lo < hi) soften_row(t, w, rows, r, lo, hi);
  }
  for (int64_t i = 0; i < count && all; i += FEW_STEP) {
    if (i < next) fetch_rows(k + i, at_most(next - i, FEW_STEP), t->d * width);
    add_values(t, v, w->scores, rows, 0, rows, i, at_most(i + FEW_STEP, count), w->o);
  }
  for (int r = 0; r < rows && !all; r++) { /* a hidden value may be anything, also NaN: it is not touched */
    int64_t lo = w->lo[r] > j ? w->lo[r] - j : 0, hi = w->hi[r] < j + count ? w->hi[r] - j : count;
    if (lo < hi) add_values(t, v, w->scores, rows, r, r + 1, lo, hi, w->o);
  }
}

static void attend_few(const attend *t, const sequence *s, const item *it, room *w) {
  int rows = (int)(it->queries * t->group);
  for (int r = 0; r < rows; r++) {
    fk_widen(t->type, query_row(t, s, it, r), w->q + r * t->d, t->d);
    for (int64_t i = 0; i < t->d; i++) w->q[r * t->d + i] *= (float)t->a->scale;
  }
  for (int64_t j = it->lo; j < it->hi; j += KEY_TILE)
    few_tile(t, s, it, w, rows, j, it->hi - j < KEY_TILE ? it->hi - j : KEY_TILE);
}
