#include "../sequences.h"
#include "device/cpu_math.h"
#include "device/cpu_row.h"
#include "tasks/causal_conv1d.h"

/* Channels per item of work: a window of inputs and the filters, as floats, then stay in the first-level cache. */
enum { CHANNELS = 256, MAX_WIDTH = 16 };

typedef struct job {
  const fk_causal_conv1d_args *a;
  fk_type type;
  int64_t dim, width, size; /* size: bytes per element */
  bool silu;
} job;

/* n channels of one sequence, token after token, over a window of the last `width` inputs as floats. */
typedef struct window {
  float rows[MAX_WIDTH][CHANNELS], filter[MAX_WIDTH][CHANNELS], bias[CHANNELS];
} window;

static char *state_row(const job *j, int64_t slot, int64_t k, int64_t channel) {
  return (char *)fk_data(j->a->conv_state) + ((slot * (j->width - 1) + k) * j->dim + channel) * j->size;
}

static void load_filter(const job *j, window *w, int64_t channel, int64_t n) {
  float taps[CHANNELS * MAX_WIDTH];
  fk_widen(j->type, fk_row(j->a->weight, channel), taps, n * j->width);
  for (int64_t k = 0; k < j->width; k++)
    for (int64_t c = 0; c < n; c++) w->filter[k][c] = taps[c * j->width + k];
  if (j->a->bias)
    fk_widen(j->type, (const char *)fk_data(j->a->bias) + channel * j->size, w->bias, n);
  else
    memset(w->bias, 0, sizeof w->bias);
}

/* One output row; the window's rows are a ring whose newest is `at`. */
static void convolve(const job *j, const window *w, int64_t at, float *out, int64_t n) {
  float sum[CHANNELS];
  memcpy(sum, w->bias, (size_t)n * sizeof *sum);
  for (int64_t k = 0; k < j->width; k++) {
    int64_t ring = at + 1 + k;
    const float *x = w->rows[ring < j->width ? ring : ring - j->width], *f = w->filter[k];
#pragma omp simd
    for (int64_t c = 0; c < n; c++) sum[c] += x[c] * f[c];
  }
  if (j->silu) {
#pragma omp simd
    for (int64_t c = 0; c < n; c++) out[c] = fk_siluf(sum[c]);
  } else {
    memcpy(out, sum, (size_t)n * sizeof *out);
  }
}

static void run_item(const job *j, const fk_recurrent_sequence *s, int64_t channel) {
  int64_t n = j->dim - channel < CHANNELS ? j->dim - channel : CHANNELS, at = j->width - 1;
  int64_t offset = channel * j->size;
  window w;
  float out[CHANNELS];
  load_filter(j, &w, channel, n);
  for (int64_t k = 0; k + 1 < j->width; k++) {
    if (s->has_initial_state)
      fk_widen(j->type, state_row(j, s->slot, k, channel), w.rows[k], n);
    else
      memset(w.rows[k], 0, sizeof w.rows[k]);
  }
  for (int64_t t = 0; t < s->tokens; t++) {
    at = t ? at + 1 : at; /* the first token fills the last row */
    if (at == j->width) at = 0;
    fk_widen(j->type, (const char *)fk_row(j->a->x, s->first + t) + offset, w.rows[at], n);
    convolve(j, &w, at, out, n);
    fk_narrow(j->type, out, (char *)fk_row(j->a->out, s->first + t) + offset, n);
  }
  for (int64_t k = 0; k + 1 < j->width; k++)
    fk_narrow(j->type, w.rows[(at + 2 + k) % j->width], state_row(j, s->slot, k, channel), n);
}

fk_status fk_cpu_causal_conv1d(fk_context *ctx, const fk_causal_conv1d_args *a) {
  fk_recurrent r = {a->cu_seqlens_q, a->seq_lens, a->state_slots};
  FK_TRY(fk_check_recurrent(ctx, &r, fk_size(a->x, 0), fk_size(a->conv_state, 0)));
  job j = {
      a, fk_type_of(a->x), fk_size(a->x, 1), fk_size(a->weight, 1), fk_width(fk_type_of(a->x)), a->activation == 1};
  int64_t blocks = (j.dim + CHANNELS - 1) / CHANNELS, items = blocks * fk_recurrent_count(&r);
#pragma omp parallel for schedule(dynamic) if (items > 1 && fk_numel(a->x) * j.width >= FK_PARALLEL_MIN)
  for (int64_t i = 0; i < items; i++) {
    fk_recurrent_sequence s = fk_recurrent_at(&r, i / blocks);
    if (s.tokens) run_item(&j, &s, i % blocks * CHANNELS);
  }
  return FK_OK;
}
