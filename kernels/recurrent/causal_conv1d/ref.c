#include <math.h>

#include "../sequences.h"
#include "tasks/causal_conv1d.h"

typedef struct channels {
  const double *x, *weight, *bias;
  double *state, *out;
  int64_t dim, width;
} channels;

/* Input of channel c at token t of a sequence that begins at first; before it, what the state holds. */
static double input(const channels *k, const fk_recurrent_sequence *s, int64_t t, int64_t c) {
  if (t >= 0) return k->x[(s->first + t) * k->dim + c];
  return s->has_initial_state ? k->state[(s->slot * (k->width - 1) + k->width - 1 + t) * k->dim + c] : 0;
}

static void sequence(const channels *k, const fk_recurrent_sequence *s, bool silu) {
  double last[16];
  int64_t keep = k->width - 1;
  for (int64_t c = 0; c < k->dim; c++) {
    for (int64_t j = 0; j < keep; j++) last[j] = input(k, s, s->tokens - keep + j, c);
    for (int64_t t = 0; t < s->tokens; t++) {
      double sum = k->bias ? k->bias[c] : 0;
      for (int64_t j = 0; j < k->width; j++) sum += k->weight[c * k->width + j] * input(k, s, t - keep + j, c);
      k->out[(s->first + t) * k->dim + c] = silu ? sum / (1 + exp(-sum)) : sum;
    }
    for (int64_t j = 0; j < keep; j++) k->state[(s->slot * keep + j) * k->dim + c] = last[j];
  }
}

fk_status fk_ref_causal_conv1d(fk_context *ctx, const fk_causal_conv1d_args *a) {
  fk_recurrent r = {a->cu_seqlens_q, a->seq_lens, a->state_slots};
  int64_t tokens = fk_size(a->x, 0), dim = fk_size(a->x, 1), width = fk_size(a->weight, 1);
  FK_TRY(fk_check_recurrent(ctx, &r, tokens, fk_size(a->conv_state, 0)));
  /* A copy, because out may be x. */
  double *x = fk_scratch(ctx, (size_t)(tokens * dim + 1) * sizeof *x);
  if (!x) return FK_ERROR_MEMORY;
  if (tokens > 0 && dim > 0) memcpy(x, fk_f64(a->x), (size_t)(tokens * dim) * sizeof *x);
  channels k = {x,    fk_f64(a->weight), a->bias ? fk_f64(a->bias) : NULL, fk_f64(a->conv_state), fk_f64(a->out), dim,
                width};
  for (int64_t b = 0; b < fk_recurrent_count(&r); b++) {
    fk_recurrent_sequence s = fk_recurrent_at(&r, b);
    if (s.tokens) sequence(&k, &s, a->activation == 1);
  }
  return FK_OK;
}
