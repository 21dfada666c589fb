#include <math.h>

#include "device/cpu_row.h"
#include "device/cpu_threads.h"
#include "device/cpu_tile.h"
#include "documents.h"

/* Query tokens lie in SIMD lanes, packed once; the tokens of a document pass by, a few rows at a time, and leave only
 * the running maximum of each lane. */
typedef struct job {
  const fk_max_sim_args *a;
  fk_type type;
  int64_t dim, lanes;  /* lanes: all query tokens, each query padded to whole vectors */
  int64_t query_lanes; /* of one query */
  const float *packed; /* per query, per panel: [dim][panel width] */
} job;

typedef struct room {
  float *best; /* [lanes] */
  float *rows; /* [FK_TILE_ROWS][dim]: document tokens of 16 bits as floats */
} room;

/* Row t of query i. */
static const char *query_row(const job *j, int64_t i, int64_t t) {
  const fk_tensor *q = j->a->q;
  return (const char *)fk_data(q) + (i * fk_stride(q, 0) + t * fk_stride(q, 1)) * fk_width(j->type);
}

/* The panels of query i. Rows are widened in full: a query is short. */
static void pack_query(const job *j, int64_t i, float *wide, float *to) {
  int64_t length = fk_size(j->a->q, 1);
  for (int64_t start = 0; start < length;) {
    int64_t width = fk_panel_vecs(start, length) * FK_LANES;
    for (int64_t lane = 0; lane < width; lane += FK_LANES) {
      int64_t left = length - start - lane;
      int valid = (int)(left < 0 ? 0 : left < FK_LANES ? left : FK_LANES);
      const float *row[FK_LANES];
      for (int r = 0; r < FK_LANES; r++) {
        if (r < valid) fk_widen(j->type, query_row(j, i, start + lane + r), wide + r * j->dim, j->dim);
        row[r] = wide + r * j->dim;
      }
      fk_pack_columns(row, valid, j->dim, to + lane, width);
    }
    to += width * j->dim;
    start += width;
  }
}

/* Raises the maxima of all query tokens by up to FK_TILE_ROWS document tokens. */
static void meet(const job *j, const float *const *tokens, int count, float *best) {
  float products[FK_TILE_ROWS * FK_PANEL];
  int64_t queries = fk_size(j->a->q, 0), length = fk_size(j->a->q, 1);
  const float *panel = j->packed;
  fk_tile_args t = {.a_step = 1, .depth = j->dim, .c = products, .ldc = FK_PANEL, .rows = count};
  for (int i = 0; i < FK_TILE_ROWS; i++) t.a[i] = tokens[i < count ? i : 0];
  for (int64_t i = 0; i < queries; i++)
    for (int64_t start = 0; start < length;) {
      int vecs = fk_panel_vecs(start, length);
      int64_t width = vecs * FK_LANES;
      t.b = panel;
      t.ldb = width;
      fk_tile(&t, vecs);
      for (int r = 0; r < count; r++) {
        const float *p = products + r * FK_PANEL;
        /* A NaN is kept once it is there: no number is above it. */
#pragma omp simd
        for (int64_t k = 0; k < width; k++) best[k] = p[k] > best[k] || p[k] != p[k] ? p[k] : best[k];
      }
      best += width;
      panel += width * j->dim;
      start += width;
    }
}

static void score_document(const job *j, int64_t doc, const room *w) {
  const fk_max_sim_args *a = j->a;
  int64_t end = offset_at(a, doc + 1), seen = 0, length = fk_size(a->q, 1);
  for (int64_t i = 0; i < j->lanes; i++) w->best[i] = -INFINITY;
  const float *tokens[FK_TILE_ROWS];
  int count = 0;
  for (int64_t t = offset_at(a, doc); t < end; t++) {
    if (is_visible(a, t)) {
      tokens[count] = fk_row_read(j->type, fk_row(a->d, t), 0, w->rows + count * j->dim, j->dim);
      count++;
      seen++;
    }
    if (count == FK_TILE_ROWS || (t + 1 == end && count)) {
      meet(j, tokens, count, w->best);
      count = 0;
    }
  }
  for (int64_t i = 0; i < fk_size(a->q, 0); i++) {
    double sum = seen ? 0 : MAX_SIM_NOTHING * (double)length;
    for (int64_t t = 0; seen && t < length; t++) sum += (double)w->best[i * j->query_lanes + t];
    *((float *)fk_row(a->scores, i) + doc) = (float)sum;
  }
}

fk_status fk_cpu_max_sim(fk_context *ctx, const fk_max_sim_args *a) {
  FK_TRY(check_documents(a));
  int64_t queries = fk_size(a->q, 0), length = fk_size(a->q, 1), docs = fk_size(a->scores, 1);
  int64_t threads = fk_max_threads(), tokens = fk_size(a->d, 0);
  if (queries == 0 || docs == 0) return FK_OK;
  job j = {.a = a, .type = fk_type_of(a->q), .dim = fk_size(a->d, 1)};
  j.query_lanes = (length + FK_LANES - 1) / FK_LANES * FK_LANES;
  j.lanes = queries * j.query_lanes;
  int64_t per_thread = j.lanes + FK_TILE_ROWS * j.dim;
  float *packed = fk_scratch(ctx, (size_t)(j.lanes * j.dim) * sizeof *packed);
  float *wide = fk_scratch(ctx, (size_t)(FK_LANES * j.dim) * sizeof *wide);
  float *rooms = fk_scratch(ctx, (size_t)(threads * per_thread) * sizeof *rooms);
  if (!packed || !wide || !rooms) return FK_ERROR_MEMORY;
  for (int64_t i = 0; i < queries; i++) pack_query(&j, i, wide, packed + i * j.query_lanes * j.dim);
  j.packed = packed;
#pragma omp parallel for schedule(dynamic) if (docs > 1 && j.lanes * tokens * j.dim > 1 << 18)
  for (int64_t doc = 0; doc < docs; doc++) {
    float *mine = rooms + fk_thread_index() * per_thread;
    score_document(&j, doc, &(room){mine, mine + j.lanes});
  }
  return FK_OK;
}
