#include <string.h>

#include "device/cpu_row.h"
#include "tasks/all_gather.h"

fk_status fk_cpu_all_gather(fk_context *ctx, const fk_all_gather_args *a) {
  (void)ctx;
  if (a->comm) return fk_fail(FK_ERROR_UNSUPPORTED, "all_gather: a communicator needs device cuda");
  int64_t ranks = fk_size(a->x, 0), rows = fk_size(a->x, 1);
  int64_t row_bytes = fk_size(a->x, 2) * fk_width(fk_type_of(a->x));
  const char *x = fk_data(a->x);
  char *out = fk_data(a->out);
  if (row_bytes == 0) return FK_OK;
    /* Line r of x, which is row r % rows of rank r / rows, to its place in every rank's copy. */
#pragma omp parallel for schedule(static) if (ranks * ranks * rows * row_bytes >= 4 * FK_PARALLEL_MIN)
  for (int64_t line = 0; line < ranks * rows; line++) {
    int64_t place = a->dim == 0 ? line : line % rows * ranks + line / rows;
    for (int64_t to = 0; to < ranks; to++)
      memcpy(out + (to * ranks * rows + place) * row_bytes, x + line * row_bytes, (size_t)row_bytes);
  }
  return FK_OK;
}
