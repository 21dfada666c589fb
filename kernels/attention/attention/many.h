/* Many rows (prefill): scores and sums of values by register tiles, rows in the SIMD lanes. Both are kept transposed,
 * [key][row] and [value element][row], so that the softmax works lane by lane and keys and values stay as they lie. */
#pragma once

#include "plan.h"

static void pack_queries(const attend *t, const sequence *s, const item *it, room *w, int64_t rows) {
  for (int64_t start = 0; start < rows;) {
    int64_t width = fk_panel_vecs(start, rows) * FK_LANES;
    for (int64_t r = start; r < start + width; r += FK_LANES) {
      const float *row[FK_LANES];
      int valid = (int)(rows - r < FK_LANES ? (rows > r ? rows - r : 0) : FK_LANES);
      for (int i = 0; i < valid; i++) {
        float *x = w->raw + i * t->d;
        fk_widen(t->type, query_row(t, s, it, r + i), x, t->d);
        for (int64_t e = 0; e < t->d; e++) x[e] *= (float)t->a->scale;
        row[i] = x;
      }
      fk_pack_columns(row, valid, t->d, w->q + start * t->d + r - start, width);
    }
    start += width;
  }
}

/* c[i][row] (+)= sum over k of a_i[k * step] * b[k][row] for n rows of a, given by their first elements. */
static void product(const float *const *a, int64_t n, int64_t step, const float *b, int64_t depth, int vecs, bool add,
                    float *c) {
  fk_tile_args tile = {.a_step = step, .b = b, .ldb = vecs * FK_LANES, .depth = depth, .add = add};
  tile.ldc = tile.ldb;
  for (int64_t i = 0; i < n; i += FK_TILE_ROWS) {
    tile.rows = (int)(n - i < FK_TILE_ROWS ? n - i : FK_TILE_ROWS);
    for (int k = 0; k < FK_TILE_ROWS; k++) tile.a[k] = a[i + (k < tile.rows ? k : tile.rows - 1)];
    tile.c = c + i * tile.ldc;
    fk_tile(&tile, vecs);
  }
}

/* Whether some row of the panel does not see some key of the tile; then hides those scores. */
static bool hide_keys(const room *w, int64_t start, int64_t width, int64_t rows, int64_t j, int64_t count) {
  int32_t lo[FK_PANEL], hi[FK_PANEL];
  bool hidden = false;
  for (int64_t i = 0; i < width; i++) {
    int64_t r = start + i, first = r < rows ? w->lo[r] - j : 0, end = r < rows ? w->hi[r] - j : count;
    lo[i] = (int32_t)(first < 0 ? 0 : first > count ? count : first);
    hi[i] = (int32_t)(end < 0 ? 0 : end > count ? count : end);
    hidden |= lo[i] > 0 || hi[i] < count;
  }
  for (int32_t k = 0; hidden && k < (int32_t)count; k++) {
    float *s = w->scores + k * width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) s[i] = k >= lo[i] && k < hi[i] ? s[i] : -INFINITY;
  }
  return hidden;
}

/* Scores [key][row] become exponentials; what was summed before is brought to the new largest scores. */
static void soften_panel(const attend *t, room *w, int64_t start, int64_t width, int64_t count) {
  float largest[FK_PANEL], old[FK_PANEL], shift[FK_PANEL], sum[FK_PANEL] = {0};
  float *m = w->m + start, *l = w->l + start;
  for (int64_t i = 0; i < width; i++) largest[i] = m[i];
  for (int64_t k = 0; k < count; k++) {
    const float *s = w->scores + k * width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) largest[i] = s[i] > largest[i] ? s[i] : largest[i];
  }
  bool same = true;
  for (int64_t i = 0; i < width; i++) {
    shift[i] = shift_of(largest[i]);
    same &= largest[i] == m[i];
  }
#pragma omp simd
  for (int64_t i = 0; i < width; i++) old[i] = fk_expf(m[i] - shift[i]);
  for (int64_t k = 0; k < count; k++) {
    float *s = w->scores + k * width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
      s[i] = fk_expf(s[i] - shift[i]);
      sum[i] += s[i];
    }
  }
  for (int64_t i = 0; i < width; i++) {
    l[i] = l[i] * old[i] + sum[i];
    m[i] = largest[i];
  }
  for (int64_t e = 0; !same && e < t->dv; e++) {
    float *acc = w->acc + start * t->dv + e * width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) acc[i] *= old[i];
  }
}

static bool all_finite(const float *x, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += x[i] * 0; /* NaN unless finite */
  return sum == 0;
}

/* Adds values to the rows that see them, one by one: a hidden NaN times zero would not be zero. */
static void add_visible(const attend *t, room *w, int64_t start, int64_t width, int64_t rows, int64_t j,
                        int64_t count) {
  for (int64_t k = 0; k < count; k++)
    for (int64_t i = 0; i < width && start + i < rows; i++) {
      if (j + k < w->lo[start + i] || j + k >= w->hi[start + i]) continue;
      for (int64_t e = 0; e < t->dv; e++)
        w->acc[start * t->dv + e * width + i] += w->scores[k * width + i] * w->values[k * t->dv + e];
    }
}

/* One panel of rows against keys [j, j + count), whose first elements are in k; the values are in w->values. */
static void panel_tile(const attend *t, const float *const *k, room *w, int64_t start, int vecs, int64_t rows,
                       int64_t j, int64_t count) {
  int64_t width = vecs * FK_LANES;
  int64_t last = start + width < rows ? start + width - 1 : rows - 1;
  /* Visible ranges move forward with the rows. */
  if (w->hi[last] <= j || w->lo[start] >= j + count) return;
  product(k, count, 1, w->q + start * t->d, t->d, vecs, false, w->scores);
  if (t->a->softcap > 0) cap_scores(w->scores, count * width, (float)t->a->softcap);
  bool hidden = hide_keys(w, start, width, rows, j, count);
  soften_panel(t, w, start, width, count);
  if (hidden && !all_finite(w->values, count * t->dv)) {
    add_visible(t, w, start, width, rows, j, count);
    return;
  }
  float *acc = w->acc + start * t->dv;
  for (int64_t e = 0; e < t->dv; e += KEY_TILE) {
    const float *v[KEY_TILE];
    int64_t n = t->dv - e < KEY_TILE ? t->dv - e : KEY_TILE;
    for (int64_t i = 0; i < n; i++) v[i] = w->values + e + i;
    product(v, n, t->dv, w->scores, count, vecs, true, acc + e * width);
  }
}

static void attend_many(const attend *t, const sequence *s, const item *it, room *w) {
  int64_t rows = it->queries * t->group;
  pack_queries(t, s, it, w, rows);
  int64_t padded = 0;
  while (padded < rows) padded += fk_panel_vecs(padded, rows) * FK_LANES;
  for (int64_t i = 0; i < padded * t->dv; i++) w->acc[i] = 0;
  for (int64_t r = rows; r < padded; r++) w->m[r] = w->l[r] = 0;
  for (int64_t j = it->lo; j < it->hi; j += KEY_TILE) {
    int64_t count = it->hi - j < KEY_TILE ? it->hi - j : KEY_TILE;
    const char *key[KEY_TILE], *value[KEY_TILE];
    const float *k[KEY_TILE];
    key_rows(t, s, it, t->a->k, j, count, key);
    key_rows(t, s, it, t->a->v, j, count, value);
    for (int64_t i = 0; i < count; i++) {
      k[i] = fk_row_read(t->type, key[i], 0, w->keys + i * t->d, t->d);
      fk_widen(t->type, value[i], w->values + i * t->dv, t->dv);
    }
    for (int64_t start = 0; start < rows;) {
      int vecs = fk_panel_vecs(start, rows);
      panel_tile(t, k, w, start, vecs, rows, j, count);
      start += vecs * FK_LANES;
    }
  }
  for (int64_t start = 0; start < rows;) { /* back to one row after the other */
    int64_t width = fk_panel_vecs(start, rows) * FK_LANES;
    for (int64_t e = 0; e < t->dv; e++)
      for (int64_t i = 0; i < width && start + i < rows; i++)
        w->o[(start + i) * t->dv + e] = w->acc[start * t->dv + e * width + i];
    start += width;
  }
}
