#include <math.h>

#include "documents.h"

static double dot(const double *x, const double *y, int64_t n) {
  double sum = 0;
  for (int64_t k = 0; k < n; k++) sum += x[k] * y[k];
  return sum;
}

/* The largest dot product of one query token with the visible tokens of a document; a NaN wins. */
static double best_match(const fk_max_sim_args *a, const double *q, int64_t start, int64_t end) {
  int64_t dim = fk_size(a->d, 1), seen = 0;
  double best = -INFINITY;
  for (int64_t t = start; t < end; t++) {
    if (!is_visible(a, t)) continue;
    double s = dot(q, fk_f64(a->d) + t * dim, dim);
    if (s > best || isnan(s)) best = s;
    if (isnan(best)) return best;
    seen++;
  }
  return seen ? best : MAX_SIM_NOTHING;
}

fk_status fk_ref_max_sim(fk_context *ctx, const fk_max_sim_args *a) {
  (void)ctx;
  FK_TRY(check_documents(a));
  int64_t queries = fk_size(a->q, 0), length = fk_size(a->q, 1), dim = fk_size(a->q, 2), docs = fk_size(a->scores, 1);
  for (int64_t i = 0; i < queries; i++)
    for (int64_t j = 0; j < docs; j++) {
      double sum = 0;
      for (int64_t t = 0; t < length; t++)
        sum += best_match(a, fk_f64(a->q) + (i * length + t) * dim, offset_at(a, j), offset_at(a, j + 1));
      fk_f64(a->scores)[i * docs + j] = sum;
    }
  return FK_OK;
}
