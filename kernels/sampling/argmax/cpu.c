#include <math.h>

#include "device/cpu_row.h"
#include "tasks/argmax.h"

/* One pass finds the first chunk that holds the largest number (or the first NaN), a second look into that chunk finds
 * the place: the wide loop needs no indices. */
static int64_t argmax_row(fk_type type, const void *x, int64_t n) {
  float room[FK_CHUNK], best = -INFINITY;
  int64_t at = 0; /* start of the best chunk; of the first one when all is -inf */
  bool is_nan = false;
  for (int64_t i = 0; i < n && !is_nan; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n);
    const float *p = fk_row_read(type, x, i, room, count);
    float max = fk_chunk_max(p, count);
    int nans = 0;
#pragma omp simd reduction(| : nans)
    for (int64_t k = 0; k < count; k++) nans |= p[k] != p[k];
    is_nan = nans != 0;
    if (!is_nan && !(max > best)) continue;
    best = max;
    at = i;
  }
  int64_t count = fk_chunk_at(at, n);
  const float *p = fk_row_read(type, x, at, room, count);
  for (int64_t k = 0; k < count; k++)
    if (is_nan ? p[k] != p[k] : p[k] == best) return at + k;
  return at;
}

fk_status fk_cpu_argmax(fk_context *ctx, const fk_argmax_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1), *out = fk_data(a->out);
  fk_type type = fk_type_of(a->x);
#pragma omp parallel for schedule(static) if (rows > 1 && rows * n >= FK_PARALLEL_MIN)
  for (int64_t r = 0; r < rows; r++) out[r] = argmax_row(type, fk_row(a->x, r), n);
  return FK_OK;
}
