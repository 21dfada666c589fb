#include "device/cpu_row.h"
#include "device/cpu_threads.h"
#include "device/cpu_tile.h"
#include "tasks/dot_interaction.h"

/* A sample's vectors lie in SIMD lanes, packed once; each panel of them meets the vectors that come before its end,
 * several at a time. The lower triangle is computed only where a tile or panel straddles the diagonal. */
typedef struct job {
  const fk_dot_interaction_args *a;
  fk_type type;
  int64_t dim, vectors; /* vectors: features and the dense one */
} job;

typedef struct room {
  float *wide;   /* [vectors][dim]: vectors of 16 bits as floats */
  float *packed; /* [dim][FK_PANEL] */
  float *line;   /* the pairs' products */
} room;

/* Vector i of a sample as floats. */
static const float *vector(const job *j, int64_t sample, int64_t i, const room *w) {
  const fk_tensor *t = i == 0 ? j->a->dense : j->a->sparse;
  int64_t at = sample * fk_stride(t, 0) + (i == 0 ? 0 : (i - 1) * fk_stride(t, 1));
  return fk_row_read(j->type, (const char *)fk_data(t) + at * fk_width(j->type), 0, w->wide + i * j->dim, j->dim);
}

/* Products of vectors [start, start + width) with those before them: pair (i, c), i < c, has its place in the upper
 * triangle's rows. */
static void one_panel(const job *j, const float *const *x, int64_t start, int vecs, const room *w) {
  float products[FK_TILE_ROWS * FK_PANEL];
  int64_t width = vecs * FK_LANES, end = start + width < j->vectors ? start + width : j->vectors;
  for (int64_t lane = 0; lane < width; lane += FK_LANES) {
    const float *row[FK_LANES];
    int64_t left = j->vectors - start - lane;
    int valid = (int)(left < FK_LANES ? left : FK_LANES);
    for (int l = 0; l < FK_LANES; l++) row[l] = l < valid ? x[start + lane + l] : NULL;
    fk_pack_columns(row, valid, j->dim, w->packed + lane, width);
  }
  fk_tile_args t = {.a_step = 1, .b = w->packed, .ldb = width, .depth = j->dim, .c = products, .ldc = FK_PANEL};
  for (int64_t i0 = 0; i0 + 1 < end; i0 += FK_TILE_ROWS) {
    t.rows = (int)(end - 1 - i0 < FK_TILE_ROWS ? end - 1 - i0 : FK_TILE_ROWS);
    for (int r = 0; r < FK_TILE_ROWS; r++) t.a[r] = x[i0 + (r < t.rows ? r : t.rows - 1)];
    fk_tile(&t, vecs);
    for (int64_t i = i0; i < i0 + t.rows; i++) {
      float *pairs = w->line + i * j->vectors - i * (i + 1) / 2 - i - 1; /* pair (i, c) is pairs[c] */
      const float *p = products + (i - i0) * FK_PANEL - start;
      for (int64_t c = i < start ? start : i + 1; c < end; c++) pairs[c] = p[c];
    }
  }
}

static void one_sample(const job *j, int64_t sample, const room *w, const float **x) {
  int64_t pairs = j->vectors * (j->vectors - 1) / 2, width = fk_width(j->type);
  const fk_tensor *dense = j->a->dense;
  char *out = (char *)fk_data(j->a->out) + sample * fk_stride(j->a->out, 0) * width;
  for (int64_t i = 0; i < j->vectors; i++) x[i] = vector(j, sample, i, w);
  for (int64_t start = 0; start < j->vectors;) {
    int vecs = fk_panel_vecs(start, j->vectors);
    one_panel(j, x, start, vecs, w);
    start += vecs * FK_LANES;
  }
  memcpy(out, (const char *)fk_data(dense) + sample * fk_stride(dense, 0) * width, (size_t)(j->dim * width));
  fk_narrow(j->type, w->line, out + j->dim * width, pairs);
}

fk_status fk_cpu_dot_interaction(fk_context *ctx, const fk_dot_interaction_args *a) {
  int64_t batch = fk_size(a->dense, 0), threads = fk_max_threads();
  job j = {.a = a, .type = fk_type_of(a->dense), .dim = fk_size(a->dense, 1), .vectors = fk_size(a->sparse, 1) + 1};
  int64_t pairs = j.vectors * (j.vectors - 1) / 2;
  int64_t wide = j.vectors * j.dim, packed = j.dim * FK_PANEL, per_thread = (wide + packed + pairs + 15) / 16 * 16;
  if (batch == 0) return FK_OK;
  float *rooms = fk_scratch(ctx, (size_t)(threads * per_thread) * sizeof *rooms);
  const float **rows = fk_scratch(ctx, (size_t)(threads * j.vectors) * sizeof *rows);
  if (!rooms || !rows) return FK_ERROR_MEMORY;
#pragma omp parallel for schedule(static) if (batch > 1 && batch * (pairs + 1) * j.dim > 1 << 17)
  for (int64_t s = 0; s < batch; s++) {
    float *mine = rooms + fk_thread_index() * per_thread;
    one_sample(&j, s, &(room){mine, mine + wide, mine + wide + packed}, rows + fk_thread_index() * j.vectors);
  }
  return FK_OK;
}
