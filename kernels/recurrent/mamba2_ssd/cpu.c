#include "device/cpu_threads.h"
#include "scan.h"

/* LONGEST: beyond it the products inside a chunk, which grow with its square, cost more than states do. SHORTEST: below
 * it a sequence goes token by token. */
enum { LONGEST = 64, SHORTEST = 8 };

typedef struct piece { /* a chunk of a sequence */
  int64_t first, tokens;
} piece;

static double time_step(const fk_mamba2_ssd_args *a, int64_t t, int64_t head) {
  double v = number(a->dt, t * fk_stride(a->dt, 0) + head) + number(a->dt_bias, head);
  double dt = v > 20 ? v : log1p(exp(v));
  return dt < a->dt_min ? a->dt_min : dt > a->dt_max ? a->dt_max : dt;
}

static int64_t whole_vectors(int64_t n) {
  return (n + FK_LANES - 1) / FK_LANES * FK_LANES;
}

/* Places the parts of a thread's room after base and returns the bytes; with base NULL only counts. */
static size_t lay_out(const scan *s, char *base, room *w) {
  int64_t turned = s->dim_pad > s->chunk_pad ? s->dim_pad : s->chunk_pad;
  struct {
    void *field;
    int64_t bytes;
  } parts[] = {{&w->total, s->chunk * 8},           {&w->b, s->chunk * s->size_pad * 4},
               {&w->c, s->chunk * s->size_pad * 4}, {&w->x, s->chunk * s->dim_pad * 4},
               {&w->y, s->chunk * s->dim_pad * 4},  {&w->weights, s->chunk * s->chunk_pad * 4},
               {&w->turned, s->size * turned * 4},  {&w->added, s->dim * s->size_pad * 4}};
  size_t used = 0;
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    char *place = base ? base + used : NULL;
    memcpy(parts[i].field, &place, sizeof place);
    used += ((size_t)parts[i].bytes + 63) / 64 * 64;
  }
  return used;
}

/* Cuts the long sequences; chunks[b] is the first piece of sequence b. Yields how many pieces; lists may be NULL. */
static int64_t cut(const fk_recurrent *r, int64_t chunk, piece *pieces, int64_t *chunks) {
  int64_t count = 0;
  for (int64_t b = 0; b < fk_recurrent_count(r); b++) {
    fk_recurrent_sequence q = fk_recurrent_at(r, b);
    if (chunks) chunks[b] = count;
    if (chunk < SHORTEST || q.tokens < SHORTEST) continue;
    for (int64_t t = 0; t < q.tokens; t += chunk, count++)
      if (pieces) pieces[count] = (piece){q.first + t, q.tokens - t < chunk ? q.tokens - t : chunk};
  }
  return count;
}

static void run_head(const scan *s, const room *w, const fk_recurrent_sequence *q, int64_t head, int64_t chunk) {
  int64_t state = s->dim * s->size, group = head / (s->heads / s->groups);
  float *h = (float *)fk_data(s->a->ssm_state) + (q->slot * s->heads + head) * state;
  if (!q->has_initial_state) memset(h, 0, (size_t)state * sizeof *h);
  if (s->chunk < SHORTEST || q->tokens < SHORTEST) {
    for (int64_t t = 0; t < q->tokens; t++) advance_token(s, w, q->first + t, head, h);
    return;
  }
  for (int64_t t = 0; t < q->tokens; t += s->chunk, chunk++) {
    const float *scores = s->scores + (chunk * s->groups + group) * s->chunk * s->chunk_pad;
    advance_chunk(s, w, q->first + t, q->tokens - t < s->chunk ? q->tokens - t : s->chunk, head, scores, h);
  }
}

static fk_status run(fk_context *ctx, scan *s, const fk_recurrent *r) {
  int64_t tokens = fk_size(s->a->x, 0), num_seqs = fk_recurrent_count(r), count = cut(r, s->chunk, NULL, NULL);
  int64_t scores_size = s->groups * s->chunk * s->chunk_pad;
  room measure;
  size_t bytes = lay_out(s, NULL, &measure);
  double *dt = fk_scratch(ctx, (size_t)(tokens * s->heads) * sizeof *dt);
  piece *pieces = fk_scratch(ctx, (size_t)count * sizeof *pieces + 1);
  int64_t *chunks = fk_scratch(ctx, (size_t)num_seqs * sizeof *chunks);
  float *scores = fk_scratch(ctx, (size_t)(count * scores_size) * sizeof *scores + 1);
  char *rooms = fk_scratch(ctx, bytes * (size_t)fk_max_threads());
  if (!dt || !pieces || !chunks || !scores || !rooms) return FK_ERROR_MEMORY;
  s->dt = dt;
  s->scores = scores;
  cut(r, s->chunk, pieces, chunks);
#pragma omp parallel if (fk_numel(s->a->x) * s->size >= FK_PARALLEL_MIN)
  {
    room w;
    lay_out(s, rooms + bytes * (size_t)fk_thread_index(), &w);
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < tokens * s->heads; i++) dt[i] = time_step(s->a, i / s->heads, i % s->heads);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < count * s->groups; i++) {
      const piece *p = &pieces[i / s->groups];
      score_chunk(s, &w, p->first, p->tokens, i % s->groups, scores + i * s->chunk * s->chunk_pad);
    }
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < num_seqs * s->heads; i++) {
      fk_recurrent_sequence q = fk_recurrent_at(r, i / s->heads);
      if (q.tokens) run_head(s, &w, &q, i % s->heads, chunks[i / s->heads]);
    }
  }
  return FK_OK;
}

fk_status fk_cpu_mamba2_ssd(fk_context *ctx, const fk_mamba2_ssd_args *a) {
  fk_recurrent r = {a->cu_seqlens_q, a->seq_lens, a->state_slots};
  FK_TRY(fk_check_recurrent(ctx, &r, fk_size(a->x, 0), fk_size(a->ssm_state, 0)));
  scan s = {.a = a, .type = fk_type_of(a->x), .heads = fk_size(a->x, 1), .dim = fk_size(a->x, 2)};
  s.groups = fk_size(a->B, 1);
  s.size = fk_size(a->B, 2);
  if (fk_numel(a->x) == 0) return FK_OK;
  s.chunk = a->chunk_size < LONGEST ? a->chunk_size : LONGEST;
  s.dim_pad = whole_vectors(s.dim);
  s.size_pad = whole_vectors(s.size);
  s.chunk_pad = whole_vectors(s.chunk);
  return run(ctx, &s, &r);
}
