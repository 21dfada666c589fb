#include <math.h>

#include "../sequences.h"
#include "tasks/mamba2_ssd.h"

/* The time step of a token and head. */
static double time_step(const fk_mamba2_ssd_args *a, int64_t token, int64_t head) {
  double v = fk_f64(a->dt)[token * fk_size(a->dt, 1) + head] + (a->dt_bias ? fk_f64(a->dt_bias)[head] : 0);
  double dt = v > 20 ? v : log1p(exp(v));
  return dt < a->dt_min ? a->dt_min : dt > a->dt_max ? a->dt_max : dt;
}

/* One token of one head: h [dim, size] goes on, y [dim] comes out. */
static void token(const fk_mamba2_ssd_args *a, int64_t t, int64_t head, double *h) {
  int64_t heads = fk_size(a->x, 1), dim = fk_size(a->x, 2), groups = fk_size(a->B, 1), size = fk_size(a->B, 2);
  int64_t group = head / (heads / groups);
  const double *x = fk_f64(a->x) + (t * heads + head) * dim;
  const double *b = fk_f64(a->B) + (t * groups + group) * size, *c = fk_f64(a->C) + (t * groups + group) * size;
  double *y = fk_f64(a->out) + (t * heads + head) * dim;
  double dt = time_step(a, t, head), decay = exp(dt * fk_f64(a->A)[head]);
  for (int64_t p = 0; p < dim; p++, h += size) {
    double sum = 0;
    for (int64_t n = 0; n < size; n++) {
      h[n] = h[n] * decay + dt * x[p] * b[n];
      sum += h[n] * c[n];
    }
    y[p] = sum + (a->D ? fk_f64(a->D)[head] * x[p] : 0);
  }
}

fk_status fk_ref_mamba2_ssd(fk_context *ctx, const fk_mamba2_ssd_args *a) {
  fk_recurrent r = {a->cu_seqlens_q, a->seq_lens, a->state_slots};
  int64_t heads = fk_size(a->x, 1), room = fk_size(a->x, 2) * fk_size(a->B, 2);
  FK_TRY(fk_check_recurrent(ctx, &r, fk_size(a->x, 0), fk_size(a->ssm_state, 0)));
  for (int64_t b = 0; b < fk_recurrent_count(&r); b++) {
    fk_recurrent_sequence s = fk_recurrent_at(&r, b);
    for (int64_t head = 0; head < heads && s.tokens; head++) {
      double *h = fk_f64(a->ssm_state) + (s.slot * heads + head) * room;
      for (int64_t i = 0; i < room && !s.has_initial_state; i++) h[i] = 0;
      for (int64_t t = 0; t < s.tokens; t++) token(a, s.first + t, head, h);
    }
  }
  return FK_OK;
}
