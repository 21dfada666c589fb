#include "device/cpu_row.h"
#include "tasks/all_reduce.h"

/* The sum of a stretch of all parts, one after the other, rounded once. It is read whole before it is written: out may
 * be x. */
static void sum_chunk(fk_type type, const char *x, char *out, int64_t ranks, int64_t part, int64_t i, int64_t count) {
  float sum[FK_CHUNK], room[FK_CHUNK];
  fk_widen(type, x + i * fk_width(type), sum, count);
  for (int64_t r = 1; r < ranks; r++) {
    const float *p = fk_row_read(type, x + r * part, i, room, count);
#pragma omp simd
    for (int64_t k = 0; k < count; k++) sum[k] += p[k];
  }
  for (int64_t r = 0; r < ranks; r++) fk_narrow(type, sum, out + r * part + i * fk_width(type), count);
}

fk_status fk_cpu_all_reduce(fk_context *ctx, const fk_all_reduce_args *a) {
  (void)ctx;
  if (a->comm) return fk_fail(FK_ERROR_UNSUPPORTED, "all_reduce: a communicator needs device cuda");
  fk_type type = fk_type_of(a->x);
  int64_t ranks = fk_size(a->x, 0), n = fk_size(a->x, 1) * fk_size(a->x, 2);
  const char *x = fk_data(a->x);
  char *out = fk_data(a->out);
#pragma omp parallel for schedule(static) if (ranks * n >= FK_PARALLEL_MIN)
  for (int64_t i = 0; i < n; i += FK_CHUNK) sum_chunk(type, x, out, ranks, n * fk_width(type), i, fk_chunk_at(i, n));
  return FK_OK;
}
