#include "device/cpu_row.h"
#include "tasks/mul_add.h"

enum { BLOCK = 16 * FK_CHUNK }; /* elements that a thread takes at a time of contiguous tensors */

typedef struct rows {
  const char *a, *b, *c;
  char *out;
} rows;

static void one_row(fk_type type, rows r, int64_t n, bool stream) {
  float a_room[FK_CHUNK], b_room[FK_CHUNK], c_room[FK_CHUNK], out_room[FK_CHUNK];
  for (int64_t i = 0; i < n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n);
    const float *a = fk_row_read(type, r.a, i, a_room, count), *b = fk_row_read(type, r.b, i, b_room, count);
    const float *c = fk_row_read(type, r.c, i, c_room, count);
    float *o = fk_row_target(type, r.out, i, out_room, stream);
#pragma omp simd
    for (int64_t k = 0; k < count; k++) o[k] = a[k] * b[k] + c[k];
    fk_row_write(type, r.out, i, o, count, stream);
  }
}

fk_status fk_cpu_mul_add(fk_context *ctx, const fk_mul_add_args *t) {
  (void)ctx;
  fk_type type = fk_type_of(t->out);
  int64_t count = fk_rows(t->out), n = fk_size(t->out, -1), block = n;
  const void *out = fk_data(t->out);
  bool apart = out != fk_data(t->a) && out != fk_data(t->b) && out != fk_data(t->c);
  bool stream = apart && fk_stream_pays(4.0 * (double)count * (double)n * (double)fk_width(type));
  bool flat = fk_is_contiguous(t->a) && fk_is_contiguous(t->b) && fk_is_contiguous(t->c) && fk_is_contiguous(t->out);
  if (flat) { /* rows do not matter, equal blocks do */
    n *= count;
    block = BLOCK;
    count = (n + block - 1) / block;
  }
#pragma omp parallel if (count > 1 && count * block >= FK_PARALLEL_MIN)
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < count; r++) {
      int64_t start = flat ? r * block : 0, at = start * fk_width(type);
      rows from = {fk_data(t->a), fk_data(t->b), fk_data(t->c), fk_data(t->out)};
      if (flat)
        from = (rows){from.a + at, from.b + at, from.c + at, from.out + at};
      else
        from = (rows){fk_row(t->a, r), fk_row(t->b, r), fk_row(t->c, r), fk_row(t->out, r)};
      one_row(type, from, n - start < block ? n - start : block, stream);
    }
    if (stream) fk_stream_end();
  }
  return FK_OK;
}
