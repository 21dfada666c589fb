#include "device/cpu_threads.h"
#include "few.h"
#include "many.h"

/* ---- Results --------------------------------------------------------------------------------------------- */

/* Divides row r's sum by its denominator, the sink included, and rounds it into out. */
static void finish_row(const attend *t, const sequence *s, const item *it, int64_t r, float *o, float m, float l) {
  const fk_tensor *out = t->a->out;
  int64_t query = it->first + r / t->group, head = head_of(t, it, r), lo, hi;
  visible_keys(t->a, s, query, &lo, &hi);
  float scale = 0;
  if (lo < hi) {
    float factor = 1;
    if (t->a->sinks) {
      float sink = (float)fk_load_f64(fk_type_of(t->a->sinks), fk_data(t->a->sinks), head);
      float largest = sink > m ? sink : m;
      factor = rescale(m, largest);
      l = l * factor + rescale(sink, largest);
    }
    scale = factor / l;
  }
  for (int64_t i = 0; i < t->dv; i++) o[i] = lo < hi ? o[i] * scale : 0;
  int64_t offset = query_offset(t, s, out, query) + head * fk_stride(out, out->ndim - 2);
  fk_narrow(t->type, o, (char *)fk_data(out) + offset * fk_width(t->type), t->dv);
}

/* Row r of `splits` items whose partial results lie `rows` apart, merged into the first. */
static void merge_row(const attend *t, const sequence *s, const item *it, int64_t r, int64_t rows) {
  float *o = t->partial_o + (it->slot + r) * t->dv, largest = -INFINITY, sum = 0;
  const float *m = t->partial_m + it->slot + r, *l = t->partial_l + it->slot + r;
  for (int64_t i = 0; i < it->splits; i++) largest = m[i * rows] > largest ? m[i * rows] : largest;
  for (int64_t i = 0; i < it->splits; i++) {
    float factor = rescale(m[i * rows], largest);
    const float *part = o + i * rows * t->dv;
    sum += l[i * rows] * factor;
    for (int64_t e = 0; e < t->dv; e++) o[e] = i == 0 ? part[e] * factor : o[e] + part[e] * factor;
  }
  finish_row(t, s, it, r, o, largest, sum);
}

/* ---- Items ----------------------------------------------------------------------------------------------- */

/* Lists the items of one head's queries [first, first + queries); only counts them where items is NULL. */
static void list_block(const attend *t, const sequence *s, item it, item *items, int64_t *count, int64_t *slots) {
  int64_t unused, rows = it.queries * t->group, splits = 1;
  int64_t keys = rows <= FK_DOT_ROWS ? FEW_KEYS : MANY_KEYS;
  visible_keys(t->a, s, it.first, &it.lo, &unused);
  visible_keys(t->a, s, it.first + it.queries - 1, &unused, &it.hi);
  if (it.hi < it.lo) it.hi = it.lo;
  if (it.queries == s->num_q && it.hi - it.lo > keys) splits = (it.hi - it.lo + keys - 1) / keys;
  int64_t lo = it.lo, hi = it.hi, slot = *slots;
  /* Heads run innermost over split keys: they share pages of memory. Over several blocks of queries they run outermost:
   * a head's keys then stay in the cache. */
  bool alone = it.queries == s->num_q;
  int64_t place = alone ? *count - it.kv_head * splits + it.kv_head : *count;
  for (int64_t i = 0; i < splits && items; i++) {
    it.lo = splits == 1 ? lo : lo + i * keys;
    it.hi = splits == 1 || it.lo + keys > hi ? hi : it.lo + keys;
    it.slot = splits == 1 ? -1 : slot + i * rows;
    it.splits = splits > 1 && i == 0 ? splits : 0;
    items[place + i * (alone ? t->kv_heads : 1)] = it;
  }
  *count += splits;
  if (splits > 1) *slots += splits * rows;
}

static void list_items(const attend *t, item *items, int64_t *count, int64_t *slots) {
  *count = *slots = 0;
  for (int64_t b = 0; b < t->l.num_seqs; b++) {
    sequence s = sequence_of(t->a, &t->l, b);
    for (int64_t h = 0; h < t->kv_heads; h++)
      for (int64_t i = 0; i < s.num_q; i += t->block) {
        item it = {.b = b, .kv_head = h, .first = i, .queries = s.num_q - i < t->block ? s.num_q - i : t->block};
        list_block(t, &s, it, items, count, slots);
      }
  }
}

/* ---- Running --------------------------------------------------------------------------------------------- */

static void run_item(const attend *t, const item *it, room w) {
  sequence s = sequence_of(t->a, &t->l, it->b);
  int64_t rows = it->queries * t->group;
  for (int64_t r = 0; r < rows; r++) {
    visible_keys(t->a, &s, it->first + r / t->group, &w.lo[r], &w.hi[r]);
    if (w.lo[r] < it->lo) w.lo[r] = it->lo;
    if (w.hi[r] > it->hi) w.hi[r] = it->hi;
    w.m[r] = -INFINITY;
    w.l[r] = 0;
  }
  for (int64_t i = 0; i < rows * t->dv; i++) w.o[i] = 0;
  if (it->lo < it->hi) (rows <= FK_DOT_ROWS ? attend_few : attend_many)(t, &s, it, &w);
  if (it->slot < 0) {
    for (int64_t r = 0; r < rows; r++) finish_row(t, &s, it, r, w.o + r * t->dv, w.m[r], w.l[r]);
    return;
  }
  memcpy(t->partial_o + it->slot * t->dv, w.o, (size_t)(rows * t->dv) * 4);
  memcpy(t->partial_m + it->slot, w.m, (size_t)rows * 4);
  memcpy(t->partial_l + it->slot, w.l, (size_t)rows * 4);
}

/* Lays one thread's rooms out from base; base NULL only measures. */
static size_t lay_out(const attend *t, char *base, room *w) {
  size_t used = 0, rows = (size_t)t->rows_max, d = (size_t)t->d, dv = (size_t)t->dv;
  struct {
    void *field;
    size_t bytes;
  } parts[] = {{&w->q, rows * d * 4},
               {&w->acc, rows * dv * 4},
               {&w->scores, (size_t)KEY_TILE * FK_PANEL * 4},
               {&w->keys, KEY_TILE * d * 4},
               {&w->values, KEY_TILE * dv * 4},
               {&w->raw, FK_LANES * d * 4},
               {&w->o, rows * dv * 4},
               {&w->m, rows * 4},
               {&w->l, rows * 4},
               {&w->lo, rows * 8},
               {&w->hi, rows * 8}};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    char *place = base ? base + used : NULL;
    memcpy(parts[i].field, &place, sizeof place);
    used += (parts[i].bytes + 63) / 64 * 64;
  }
  return used;
}

static fk_status run_items(fk_context *ctx, attend *t, double flops) {
  int64_t count, slots;
  list_items(t, NULL, &count, &slots);
  item *items = fk_scratch(ctx, (size_t)count * sizeof *items);
  float *partial = fk_scratch(ctx, (size_t)slots * (size_t)(t->dv + 2) * 4);
  room measure;
  size_t bytes = lay_out(t, NULL, &measure);
  char *rooms = fk_scratch(ctx, bytes * (size_t)fk_max_threads());
  if (!items || !partial || !rooms) return FK_ERROR_MEMORY;
  t->partial_m = partial;
  t->partial_l = partial + slots;
  t->partial_o = partial + 2 * slots;
  list_items(t, items, &count, &slots);
#pragma omp parallel if (count > 1 && flops > 1e5)
  {
    room w;
    lay_out(t, rooms + bytes * (size_t)fk_thread_index(), &w);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < count; i++) run_item(t, &items[i], w);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < count; i++) {
      sequence s = sequence_of(t->a, &t->l, items[i].b);
      int64_t rows = items[i].queries * t->group;
      for (int64_t r = 0; r < rows && items[i].splits > 0; r++) merge_row(t, &s, &items[i], r, rows);
    }
  }
  return FK_OK;
}

fk_status fk_cpu_attention(fk_context *ctx, const fk_attention_args *a) {
  attend t = {.a = a, .l = layout_of(a), .type = fk_type_of(a->q)};
  FK_TRY(check_sequences(a, &t.l));
  if (fk_numel(a->out) == 0) return FK_OK;
  t.kv_heads = fk_size(a->k, -2);
  t.group = fk_size(a->q, -2) / t.kv_heads;
  t.d = fk_size(a->q, -1);
  t.dv = fk_size(a->v, -1);
  t.block = t.group < ROW_BLOCK ? ROW_BLOCK / t.group : 1;
  t.rows_max = (t.block * t.group + FK_PANEL - 1) / FK_PANEL * FK_PANEL;
  double pairs = (double)fk_numel(a->out) / (double)t.dv * (double)(t.l.dense ? a->k->shape[1] : KEY_TILE);
  return run_items(ctx, &t, pairs * (double)(t.d + t.dv));
}
