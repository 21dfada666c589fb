#include "engine/records.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct fk_record_slot {
  fk_hash identity;
  int64_t number; /* plus one; 0 = free */
} slot;

/* The case that stands for an identity: its own, or the one that it was merged into. */
typedef struct fk_record_owner {
  fk_record *own;  /* NULL once merged */
  int64_t forward; /* identity number to ask instead, when own is NULL */
} owner;

static fk_status no_memory(void) {
  return fk_fail(FK_ERROR_MEMORY, "capture: cannot allocate");
}

/* ---- One case -------------------------------------------------------------------------------------------- */

fk_hash fk_record_identity(const fk_task *task, const fk_any *args, const fk_binding *b) {
  fk_hash h = fk_hash_start();
  fk_hash_int(&h, b->layout);
  fk_hash_int(&h, b->lead_ndim);
  for (int32_t i = 0; i < b->lead_ndim; i++) fk_hash_int(&h, b->lead[i]);
  for (int i = 0; i < task->num_symbols; i++) fk_hash_int(&h, b->symbols[i]);
  for (int i = 0; i < task->num_args; i++) {
    const fk_arg *arg = &task->args[i];
    if (!fk_arg_is_tensor(arg)) {
      if (arg->type == FK_ATTR_FLOAT) fk_hash_double(&h, fk_arg_float(&args[i]));
      continue;
    }
    const fk_tensor *t = fk_arg_tensor(&args[i]);
    fk_hash_int(&h, t ? (int64_t)fk_type_of(t) : -1);
    if (!t || fk_is_contiguous(t)) continue;
    for (int32_t d = 0; d < t->ndim; d++) fk_hash_int(&h, t->strides[d]);
  }
  return h;
}

fk_status fk_record_create(const fk_task *task, const fk_any *args, const fk_binding *binding, fk_record **out) {
  *out = NULL;
  fk_record *c = calloc(1, sizeof *c);
  fk_record_arg *list = calloc((size_t)task->num_args + 1, sizeof *list);
  if (!c || !list) {
    free(c);
    free(list);
    return no_memory();
  }
  /* Only what is defined: the rest of a binding is not initialised. */
  c->binding.layout = binding->layout;
  c->binding.lead_ndim = binding->lead_ndim;
  if (binding->lead_ndim > 0)
    memcpy(c->binding.lead, binding->lead, (size_t)binding->lead_ndim * sizeof *binding->lead);
  memcpy(c->binding.symbols, binding->symbols, (size_t)task->num_symbols * sizeof *binding->symbols);
  c->args = list;
  c->merged = 1;
  for (int i = 0; i < task->num_args; i++) {
    fk_record_arg *a = &list[i];
    if (!fk_arg_is_tensor(&task->args[i])) {
      if (task->args[i].type == FK_ATTR_FLOAT) a->number = fk_arg_float(&args[i]);
      continue;
    }
    const fk_tensor *t = fk_arg_tensor(&args[i]);
    if (!t) continue;
    *a = (fk_record_arg){.present = true, .type = fk_type_of(t), .ndim = t->ndim};
    if (fk_is_contiguous(t)) continue;
    a->strides = malloc((size_t)t->ndim * sizeof *a->strides);
    if (!a->strides) {
      fk_record_destroy(task, c);
      return no_memory();
    }
    memcpy(a->strides, t->strides, (size_t)t->ndim * sizeof *a->strides);
  }
  *out = c;
  return FK_OK;
}

void fk_record_destroy(const fk_task *task, fk_record *c) {
  if (!c) return;
  for (int i = 0; i < task->num_args; i++) {
    free(c->args[i].strides);
    free(c->args[i].stats);
    fk_ints_release(c->args[i].ints);
  }
  free(c->args);
  free(c);
}

/* ---- Tables ---------------------------------------------------------------------------------------------- */

void fk_record_table_init(fk_record_table *t, const fk_task *task, int limit) {
  *t = (fk_record_table){.task = task, .limit = limit, .trigger = 2 * limit};
  for (int i = 0; i < FK_MAX_SYMBOLS + 2; i++) t->width[i] = 1.0 / 16;
}

void fk_record_table_destroy(fk_record_table *t) {
  for (int i = 0; i < t->count; i++) fk_record_destroy(t->task, t->cases[i]);
  free(t->cases);
  free(t->slots);
  free(t->owners);
  *t = (fk_record_table){0};
}

static slot *slot_of(slot *slots, size_t num_slots, fk_hash identity) {
  size_t i = identity.a & (num_slots - 1);
  while (slots[i].number && !fk_hash_equal(slots[i].identity, identity)) i = (i + 1) & (num_slots - 1);
  return &slots[i];
}

int64_t fk_record_table_find(const fk_record_table *t, fk_hash identity) {
  return t->num_slots ? slot_of(t->slots, t->num_slots, identity)->number - 1 : -1;
}

static fk_status grow_slots(fk_record_table *t) {
  if (2 * (t->distinct + 1) <= t->num_slots) return FK_OK;
  size_t n = t->num_slots ? 2 * t->num_slots : 64;
  slot *slots = calloc(n, sizeof *slots);
  if (!slots) return no_memory();
  for (size_t i = 0; i < t->num_slots; i++)
    if (t->slots[i].number) *slot_of(slots, n, t->slots[i].identity) = t->slots[i];
  free(t->slots);
  t->slots = slots;
  t->num_slots = n;
  return FK_OK;
}

static fk_status grow_lists(fk_record_table *t) {
  if (t->count == t->room) {
    int room = t->room ? 2 * t->room : 16;
    fk_record **cases = realloc(t->cases, (size_t)room * sizeof *cases);
    if (!cases) return no_memory();
    t->cases = cases;
    t->room = room;
  }
  if (t->distinct == t->room_owners) {
    size_t room = t->room_owners ? 2 * t->room_owners : 16;
    owner *owners = realloc(t->owners, room * sizeof *owners);
    if (!owners) return no_memory();
    t->owners = owners;
    t->room_owners = room;
  }
  return FK_OK;
}

fk_status fk_record_table_add(fk_record_table *t, fk_hash identity, fk_record *c, int64_t *number) {
  FK_TRY(grow_slots(t));
  FK_TRY(grow_lists(t));
  *number = (int64_t)t->distinct++;
  *slot_of(t->slots, t->num_slots, identity) = (slot){identity, *number + 1};
  t->owners[*number] = (owner){.own = c};
  t->cases[t->count++] = c;
  return FK_OK;
}

/* Follows merges and shortens the way for the next time. */
static int64_t root_of(fk_record_table *t, int64_t number) {
  int64_t root = number;
  while (!t->owners[root].own) root = t->owners[root].forward;
  while (number != root) {
    int64_t next = t->owners[number].forward;
    t->owners[number].forward = root;
    number = next;
  }
  return root;
}

void fk_record_table_count(fk_record_table *t, int64_t number, uint64_t calls, long double flops, long double bytes) {
  fk_record *c = t->owners[root_of(t, number)].own;
  c->calls += calls;
  c->all_flops += flops;
  c->all_bytes += bytes;
  t->calls += calls;
  t->flops += flops;
  t->bytes += bytes;
}

void fk_record_table_cost(fk_record_table *t, int64_t number, double flops, double bytes) {
  fk_record *r = t->owners[number].own;
  if (!r || r->calls) return;
  r->flops = flops;
  r->bytes = bytes;
}

/* ---- Merging --------------------------------------------------------------------------------------------- */

typedef struct bucketed {
  fk_hash fixed, bucket;
  fk_record *c;
  int64_t number; /* the identity that owns c */
  int place;      /* in the table, to keep the result independent of addresses */
} bucketed;

/* The order of strides, not their values: those may scale with the sizes that vary. */
static void hash_stride_order(fk_hash *h, const fk_record_arg *a) {
  fk_hash_int(h, a->strides ? a->ndim : -1);
  for (int32_t i = 0; a->strides && i < a->ndim; i++)
    for (int32_t j = i + 1; j < a->ndim; j++) fk_hash_int(h, a->strides[i] > a->strides[j]);
}

static bool is_size(const fk_record_table *t, int symbol) {
  return t->task->symbols[symbol].kind == FK_AXIS_VAR || t->loose[symbol];
}

/* What merged cases agree in: all but sizes and what is computed from them. */
static fk_hash fixed_of(const fk_record_table *t, const fk_record *c) {
  fk_hash h = fk_hash_start();
  fk_hash_int(&h, c->binding.layout);
  fk_hash_int(&h, c->binding.lead_ndim);
  for (int i = 0; i < t->task->num_symbols; i++) {
    int64_t value = c->binding.symbols[i];
    bool fixed = !is_size(t, i) && t->task->symbols[i].kind != FK_AXIS_EXPR;
    fk_hash_int(&h, fixed ? value : value == FK_UNBOUND);
  }
  for (int i = 0; i < t->task->num_args; i++) {
    const fk_record_arg *a = &c->args[i];
    fk_hash_int(&h, a->present ? (int64_t)a->type : -1);
    fk_hash_double(&h, a->number);
    hash_stride_order(&h, a);
  }
  return h;
}

/* The cell of a size in a geometric grid; sizes of zero have their own. */
static int64_t cell(double size, double width) {
  return size > 0 ? (int64_t)floor(log2(size) / width) : INT64_MIN;
}

static fk_hash bucket_of(const fk_record_table *t, const bucketed *item) {
  const fk_record *c = item->c;
  fk_hash h = item->fixed;
  int n = t->task->num_symbols;
  for (int i = 0; i < n; i++)
    if (is_size(t, i) && c->binding.symbols[i] != FK_UNBOUND)
      fk_hash_int(&h, cell((double)c->binding.symbols[i], t->width[i]));
  fk_hash_int(&h, cell(c->flops, t->width[n]));
  fk_hash_int(&h, cell(c->bytes, t->width[n + 1]));
  return h;
}

static int by_bucket(const void *x, const void *y) {
  const bucketed *a = x, *b = y;
  if (a->bucket.a != b->bucket.a) return a->bucket.a < b->bucket.a ? -1 : 1;
  if (a->bucket.b != b->bucket.b) return a->bucket.b < b->bucket.b ? -1 : 1;
  return a->place - b->place;
}

/* Sorts the cases by bucket at the present widths; returns the number of buckets. */
static int assign(const fk_record_table *t, bucketed *list) {
  for (int i = 0; i < t->count; i++) list[i].bucket = bucket_of(t, &list[i]);
  qsort(list, (size_t)t->count, sizeof *list, by_bucket);
  int buckets = t->count > 0;
  for (int i = 1; i < t->count; i++) buckets += !fk_hash_equal(list[i].bucket, list[i - 1].bucket);
  return buckets;
}

/* Doubles the width of one dimension: buckets nest, and their number falls slowly. False when all are at their
 * widest, where a dimension no longer tells cases apart. */
static bool widen(fk_record_table *t) {
  int dims = t->task->num_symbols + 2;
  for (int tried = 0; tried < dims; tried++) {
    int d = t->next_dim;
    t->next_dim = (d + 1) % dims;
    if ((d < dims - 2 && !is_size(t, d)) || t->width[d] >= 128) continue;
    t->width[d] *= 2;
    return true;
  }
  return false;
}

/* How far a case's cost lies from the mean of a bucket, on a logarithmic scale. */
static double distance(const fk_record *c, long double flops, long double bytes) {
  return fabs(log2(1 + c->flops) - log2(1 + (double)flops)) + fabs(log2(1 + c->bytes) - log2(1 + (double)bytes));
}

/* Joins list[from..to) into the case nearest to their mean cost; the others are destroyed. */
static void join(fk_record_table *t, const bucketed *list, int from, int to) {
  uint64_t calls = 0, merged = 0;
  long double flops = 0, bytes = 0;
  for (int i = from; i < to; i++) {
    calls += list[i].c->calls;
    merged += list[i].c->merged;
    flops += list[i].c->all_flops;
    bytes += list[i].c->all_bytes;
  }
  int best = from;
  double nearest = INFINITY;
  for (int i = from; i < to && calls; i++) {
    double d = distance(list[i].c, flops / (long double)calls, bytes / (long double)calls);
    if (d < nearest) nearest = d, best = i;
  }
  for (int i = from; i < to; i++) {
    if (i == best) continue;
    t->owners[list[i].number] = (owner){.forward = list[best].number};
    t->cases[list[i].place] = NULL;
    fk_record_destroy(t->task, list[i].c);
  }
  fk_record *c = list[best].c;
  c->calls = calls;
  c->merged = merged;
  c->all_flops = flops;
  c->all_bytes = bytes;
}

/* Pairs each case with the identity number that owns it. */
static void fill(const fk_record_table *t, bucketed *list) {
  for (int i = 0; i < t->count; i++)
    list[i] = (bucketed){.c = t->cases[i], .place = i, .fixed = fixed_of(t, t->cases[i])};
  int next = 0; /* cases stay in the order of their identities, as both are appended together */
  for (uint64_t n = 0; n < t->distinct && next < t->count; n++)
    if (t->owners[n].own == list[next].c) list[next++].number = (int64_t)n;
}

static int by_value(const void *x, const void *y) {
  int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
  return (a > b) - (a < b);
}

/* Finds constant axes with far more values than a model has layers of different shapes. */
static fk_status loosen(fk_record_table *t) {
  int64_t *values = malloc((size_t)t->count * sizeof *values);
  if (!values) return no_memory();
  for (int s = 0; s < t->task->num_symbols; s++) {
    if (t->task->symbols[s].kind != FK_AXIS_CONST || t->loose[s]) continue;
    for (int i = 0; i < t->count; i++) values[i] = t->cases[i]->binding.symbols[s];
    qsort(values, (size_t)t->count, sizeof *values, by_value);
    int distinct = 1;
    for (int i = 1; i < t->count; i++) distinct += values[i] != values[i - 1];
    t->loose[s] = distinct > 16 && distinct > t->limit / 4;
  }
  free(values);
  return FK_OK;
}

fk_status fk_record_table_merge(fk_record_table *t, int above) {
  if (t->count <= above || t->count <= t->limit) return FK_OK;
  FK_TRY(loosen(t));
  bucketed *list = malloc((size_t)t->count * sizeof *list);
  if (!list) return no_memory();
  fill(t, list);
  while (assign(t, list) > t->limit && widen(t)) continue;
  for (int from = 0, to; from < t->count; from = to) {
    for (to = from + 1; to < t->count && fk_hash_equal(list[to].bucket, list[from].bucket);) to++;
    join(t, list, from, to);
  }
  free(list);
  int kept = 0;
  for (int i = 0; i < t->count; i++)
    if (t->cases[i]) t->cases[kept++] = t->cases[i];
  t->count = kept;
  /* Cases that cannot be merged must not make every further one cost a merge. */
  t->trigger = 2 * (kept > t->limit ? kept : t->limit);
  return FK_OK;
}

static int by_bytes(const void *x, const void *y) {
  const fk_record *a = *(fk_record *const *)x, *b = *(fk_record *const *)y;
  if (a->all_bytes != b->all_bytes) return a->all_bytes > b->all_bytes ? -1 : 1;
  if (a->calls != b->calls) return a->calls > b->calls ? -1 : 1;
  int order = memcmp(&a->binding.lead_ndim, &b->binding.lead_ndim, sizeof a->binding.lead_ndim);
  for (int i = 0; !order && i < FK_MAX_SYMBOLS; i++)
    order = (a->binding.symbols[i] > b->binding.symbols[i]) - (a->binding.symbols[i] < b->binding.symbols[i]);
  return order;
}

void fk_record_table_sort(fk_record_table *t) {
  /* glibc's qsort is not stable: the comparison must order every pair that differs. */
  if (t->count) qsort(t->cases, (size_t)t->count, sizeof *t->cases, by_bytes);
}
