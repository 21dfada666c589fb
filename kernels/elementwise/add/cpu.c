#include "device/cpu_row.h"
#include "tasks/add.h"

enum { BLOCK = 16 * FK_CHUNK }; /* elements that a thread takes at a time of a contiguous tensor */

static void add_row(fk_type type, const void *a, const void *b, void *out, int64_t n, bool stream) {
  float a_room[FK_CHUNK], b_room[FK_CHUNK], out_room[FK_CHUNK];
  for (int64_t i = 0; i < n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n);
    const float *p = fk_row_read(type, a, i, a_room, count), *q = fk_row_read(type, b, i, b_room, count);
    float *o = fk_row_target(type, out, i, out_room, stream);
#pragma omp simd
    for (int64_t k = 0; k < count; k++) o[k] = p[k] + q[k];
    fk_row_write(type, out, i, o, count, stream);
  }
}

/* All three contiguous: rows do not matter, equal blocks do. */
static void add_flat(const fk_add_args *t, int64_t n, bool stream) {
  fk_type type = fk_type_of(t->out);
  const char *a = fk_data(t->a), *b = fk_data(t->b);
  char *out = fk_data(t->out);
#pragma omp parallel if (n >= FK_PARALLEL_MIN)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i += BLOCK) {
      int64_t at = i * fk_width(type);
      add_row(type, a + at, b + at, out + at, n - i < BLOCK ? n - i : BLOCK, stream);
    }
    if (stream) fk_stream_end();
  }
}

fk_status fk_cpu_add(fk_context *ctx, const fk_add_args *t) {
  (void)ctx;
  int64_t rows = fk_rows(t->out), n = fk_size(t->out, -1);
  fk_type type = fk_type_of(t->out);
  const void *data = fk_data(t->out);
  double bytes = 3.0 * (double)rows * (double)n * (double)fk_width(type);
  bool stream = data != fk_data(t->a) && data != fk_data(t->b) && fk_stream_pays(bytes);
  if (fk_is_contiguous(t->a) && fk_is_contiguous(t->b) && fk_is_contiguous(t->out)) {
    add_flat(t, rows * n, stream);
    return FK_OK;
  }
#pragma omp parallel if (rows > 1 && rows * n >= FK_PARALLEL_MIN)
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) add_row(type, fk_row(t->a, r), fk_row(t->b, r), fk_row(t->out, r), n, stream);
    if (stream) fk_stream_end();
  }
  return FK_OK;
}
