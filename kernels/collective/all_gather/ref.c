#include "tasks/all_gather.h"

fk_status fk_ref_all_gather(fk_context *ctx, const fk_all_gather_args *a) {
  (void)ctx;
  int64_t ranks = fk_size(a->x, 0), rows = fk_size(a->x, 1), columns = fk_size(a->x, 2);
  int64_t all_rows = fk_size(a->out, 1), all_columns = fk_size(a->out, 2);
  const double *x = fk_f64(a->x);
  double *out = fk_f64(a->out);
  if (a->comm) return fk_fail(FK_ERROR_UNSUPPORTED, "all_gather: a communicator needs device cuda");
  for (int64_t to = 0; to < ranks; to++)
    for (int64_t i = 0; i < all_rows; i++)
      for (int64_t k = 0; k < all_columns; k++) {
        /* Of the joined axis the rank is the quotient, the place in the rank's part the remainder. */
        int64_t from = a->dim == 0 ? i / rows : k / columns;
        out[(to * all_rows + i) * all_columns + k] = x[(from * rows + i % rows) * columns + k % columns];
      }
  return FK_OK;
}
