#include <math.h>

#include "sequences.h"

fk_status fk_ref_lexical_weights(fk_context *ctx, const fk_lexical_weights_args *a) {
  (void)ctx;
  FK_TRY(check_sequences(a));
  const double *w = fk_f64(a->token_weights);
  double *out = fk_f64(a->out);
  for (int64_t s = 0; s + 1 < fk_size(a->cu_seqlens, 0); s++)
    for (int64_t start = int_at(a->cu_seqlens, s), end = int_at(a->cu_seqlens, s + 1), i = start; i < end; i++) {
      int64_t id = int_at(a->input_ids, i), first = start;
      while (int_at(a->input_ids, first) != id) first++;
      out[i] = 0;
      if (is_special(a, id) || !(w[i] > 0 || isnan(w[i]))) continue;
      if (!(w[i] <= out[first]) && !isnan(out[first])) out[first] = w[i];
    }
  return FK_OK;
}
