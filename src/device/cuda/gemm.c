/* Choosing and running matrix products (gemm.h). */
#include "device/cuda/gemm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/context.h"
#include "device/cuda/choice_file.h"
#include "device/cuda/cublaslt.h"
#include "device/cuda/gemm_library.h"
#include "device/cuda/measure.h"

enum {
  EXACT_ROWS = 64, /* up to here every number of rows is measured by itself */
  PROPOSALS = 14,  /* asked of the library for one shape; half as many again without workspace */
  HASH_START = 64,
  MAX_OPTIONS = 32, /* the choice, and own kernels beside it */
  MAX_COPIES = 64,  /* of the weights, while measuring */
};
/* Below this a wrong choice costs less than the choosing. */
static const double worth_flops = 1 << 24;

/* What a choice may depend on; no gaps between the members: compared and hashed as bytes. */
typedef struct key {
  int64_t rows, features, depth, ldx, ldw, ldo;
  int32_t type, out_type, has_bias;
  int32_t scales, many_x_scales, many_weight_scales;
  uint32_t align_x, align_w, align_o, align_bias;
} key;

typedef struct choice {
  const fk_gemm_kernel *own; /* or NULL: the library */
  fk_gemm_algo algo;
  double microseconds; /* measured; 0: it was not */
} choice;

typedef struct entry {
  const fk_cuda *cuda;
  key key;
  choice choice;
  bool chosen, final; /* final: not to be measured any more */
  fk_gemm_product *product;
  choice options[MAX_OPTIONS];
  int num_options, selected;
  char report[112]; /* of the measurement */
} entry;

struct fk_gemm_table {
  entry **slots; /* open addressing; capacity is a power of two */
  size_t capacity, count;
  bool tune;
  const char *forced; /* FASTKERNELS_GEMM */
  fk_choice_file *file;
  fk_meter meter;
  unsigned *flags;
};

/* One call on its way. */
typedef struct call {
  fk_context *ctx;
  fk_cuda *cuda;
  fk_gemm_table *table;
  const fk_gemm_args *g;
  const fk_gemm_kernel *own;
  int num_own;
} call;

/* ---- The table ------------------------------------------------------------------------------------------- */

static key key_of(const fk_gemm_args *g) {
  return (key){.rows = g->rows,
               .features = g->features,
               .depth = g->depth,
               .ldx = g->ldx,
               .ldw = g->ldw,
               .ldo = g->ldo,
               .type = (int32_t)g->type,
               .out_type = (int32_t)g->out_type,
               .scales = (int32_t)g->scales,
               .many_x_scales = g->num_x_scales > 1,
               .many_weight_scales = g->num_weight_scales > 1,
               .has_bias = g->bias != NULL,
               .align_x = fk_gemm_alignment(g->x),
               .align_w = fk_gemm_alignment(g->weight),
               .align_o = fk_gemm_alignment(g->out),
               .align_bias = fk_gemm_alignment(g->bias)};
}

/* Rows up to the next quarter of a power of two. */
static int64_t bucket_rows(int64_t rows) {
  int64_t step = 1;
  if (rows <= EXACT_ROWS) return rows;
  while (step * 8 <= rows) step *= 2; /* now 4 step <= rows < 8 step */
  return (rows + step - 1) / step * step;
}

static void shape_text(const key *k, char *text, size_t size) {
  snprintf(text, size, "%s>%s m%lld n%lld k%lld ld%lld,%lld,%lld align%u,%u,%u,%u bias%d scales%d%d%d",
           fk_type_name((fk_type)k->type), fk_type_name((fk_type)k->out_type), (long long)bucket_rows(k->rows),
           (long long)k->features, (long long)k->depth, (long long)k->ldx, (long long)k->ldw, (long long)k->ldo,
           k->align_x, k->align_w, k->align_o, k->align_bias, k->has_bias, k->scales, k->many_x_scales,
           k->many_weight_scales);
}

static uint64_t hash(const key *k) {
  uint64_t h = 14695981039346656037u;
  for (size_t i = 0; i < sizeof *k; i++) h = (h ^ ((const unsigned char *)k)[i]) * 1099511628211u;
  return h ^ h >> 32;
}

static entry **slot_of(entry **slots, size_t capacity, const key *k) {
  size_t at = (size_t)hash(k) & (capacity - 1);
  while (slots[at] && memcmp(&slots[at]->key, k, sizeof *k) != 0) at = (at + 1) & (capacity - 1);
  return &slots[at];
}

static fk_status grow(fk_gemm_table *t) {
  size_t capacity = t->capacity ? 2 * t->capacity : HASH_START;
  entry **slots = calloc(capacity, sizeof *slots);
  if (!slots) return fk_fail(FK_ERROR_MEMORY, "gemm: cannot allocate");
  for (size_t i = 0; i < t->capacity; i++)
    if (t->slots[i]) *slot_of(slots, capacity, &t->slots[i]->key) = t->slots[i];
  free(t->slots);
  t->slots = slots;
  t->capacity = capacity;
  return FK_OK;
}

/* The entry of a shape, made if need be. */
static fk_status entry_of(fk_gemm_table *t, const key *k, entry **out) {
  if (2 * t->count >= t->capacity) FK_TRY(grow(t));
  entry **slot = slot_of(t->slots, t->capacity, k);
  if (!*slot) {
    *slot = calloc(1, sizeof **slot);
    if (!*slot) return fk_fail(FK_ERROR_MEMORY, "gemm: cannot allocate");
    (*slot)->key = *k;
    t->count++;
  }
  *out = *slot;
  return FK_OK;
}

static fk_status table_of(fk_cuda *cuda, fk_gemm_table **out) {
  *out = cuda->gemms;
  if (*out) return FK_OK;
  fk_gemm_table *t = calloc(1, sizeof *t);
  if (!t) return fk_fail(FK_ERROR_MEMORY, "gemm: cannot allocate");
  const char *tune = getenv("FASTKERNELS_TUNE");
  t->tune = !tune || strcmp(tune, "0") != 0;
  t->forced = getenv("FASTKERNELS_GEMM");
  *out = cuda->gemms = t;
  return FK_OK;
}

void fk_gemm_table_destroy(fk_gemm_table *t, struct fk_cublaslt *lt) {
  if (!t) return;
  for (size_t i = 0; i < t->capacity; i++) {
    if (!t->slots[i]) continue;
    if (t->slots[i]->product) fk_gemm_product_free(lt, t->slots[i]->product);
    free(t->slots[i]);
  }
  free(t->slots);
  fk_choice_file_close(t->file);
  fk_meter_close(&t->meter);
  if (t->flags) cudaFree(t->flags);
  free(t);
}

static fk_status make_flags(fk_cuda *cuda, fk_gemm_table *t) {
  const size_t bytes = FK_GEMM_FLAGS * sizeof *t->flags;
  if (t->flags || fk_cuda_recording(cuda)) return FK_OK;
  FK_CUDA_TRY(cudaMalloc((void **)&t->flags, bytes));
  FK_CUDA_TRY(cudaMemsetAsync(t->flags, 0, bytes, cuda->stream));
  return FK_OK;
}

unsigned *fk_gemm_flags(const fk_cuda *cuda) {
  return cuda->gemms ? cuda->gemms->flags : NULL;
}

/* ---- Running and measuring -------------------------------------------------------------------------------- */

static fk_status run_choice(const call *c, entry *e, const choice *by) {
  if (by->own) return by->own->run(c->ctx, c->g);
  return fk_gemm_library_run(c->ctx, c->g, &e->product, &by->algo);
}

typedef struct contest {
  const call *c;
  entry *e;
  choice list[FK_MEASURE_MAX];
  int count;
  int first_proposal;
  const void *weights[MAX_COPIES]; /* themselves, and copies */
  int num_weights;
} contest;

/* As many copies as there is room for. */
static fk_status copy_weights(contest *t) {
  const fk_gemm_args *g = t->c->g;
  fk_cuda *cuda = t->c->cuda;
  fk_meter *meter = &t->c->table->meter;
  size_t width = fk_type_bytes(g->type, 1), bytes = (size_t)((g->features - 1) * g->ldw + g->depth) * width;
  size_t step = (bytes + 255) / 256 * 256;
  FK_TRY(fk_meter_open(cuda, meter));
  t->weights[0] = g->weight;
  for (t->num_weights = 1; t->num_weights < MAX_COPIES; t->num_weights++) {
    size_t at = (size_t)(t->num_weights - 1) * step;
    if (at + bytes > meter->bytes) break;
    FK_CUDA_TRY(cudaMemcpyAsync(meter->memory + at, g->weight, bytes, cudaMemcpyDeviceToDevice, cuda->stream));
    t->weights[t->num_weights] = meter->memory + at;
  }
  return FK_OK;
}

/* Microseconds at 4 TB/s and 500 TFLOP/s. */
static double guess(const fk_gemm_args *g) {
  double flops = 2.0 * (double)g->rows * (double)g->features * (double)g->depth;
  double bytes = (double)g->features * (double)g->depth * (double)fk_type_bytes(g->type, 1);
  return bytes / 4e6 + flops / 5e8;
}

static void gather(contest *t) {
  const call *c = t->c;
  fk_gemm_algo algos[FK_GEMM_MAX_ALGORITHMS];
  int found = 0;
  for (int i = 0; i < c->num_own && t->count < FK_MEASURE_MAX; i++)
    if (c->own[i].fit(c->cuda, c->g)) t->list[t->count++] = (choice){.own = &c->own[i]};
  fk_gemm_library_propose(c->cuda, c->g, &t->e->product, PROPOSALS, algos, &found);
  t->first_proposal = t->count;
  for (int i = 0; i < found && t->count < FK_MEASURE_MAX; i++) t->list[t->count++] = (choice){.algo = algos[i]};
}

static fk_status run_candidate(void *self, int candidate, int repetition) {
  const contest *t = self;
  fk_gemm_args g = *t->c->g;
  call c = *t->c;
  g.weight = t->weights[repetition % t->num_weights];
  c.g = &g;
  fk_context_mark mark = fk_context_save(c.ctx);
  fk_status status = run_choice(&c, t->e, &t->list[candidate]);
  fk_context_rewind(c.ctx, mark);
  return status;
}

/* What the library itself would have taken: its first proposal, unless that won. */
static void report_first(const contest *t, const fk_measured *times, int count, char *text, size_t size) {
  for (int i = 1; i < count; i++)
    if (times[i].candidate == t->first_proposal)
      snprintf(text, size, "; its first proposal %.2f us", times[i].microseconds);
}

/* "10.06 us; cublaslt 11.34 us": the fastest, and the first of the other kind, own or of the library. */
static void report(const contest *t, const fk_measured *times, int count, char *text, size_t size) {
  const fk_gemm_kernel *first = t->list[times[0].candidate].own, *own = NULL;
  int rival = 1;
  for (; rival < count; rival++) {
    own = t->list[times[rival].candidate].own;
    if (!own != !first) break;
  }
  if (rival < count)
    snprintf(text, size, "%.2f us; %s %.2f us", times[0].microseconds, own ? own->name : "cublaslt",
             times[rival].microseconds);
  else
    snprintf(text, size, "%.2f us", times[0].microseconds);
  if (!first) report_first(t, times, count, text + strlen(text), size - strlen(text));
}

static bool measure_all(const call *c, entry *e) {
  contest t = {.c = c, .e = e};
  fk_measured times[FK_MEASURE_MAX];
  gather(&t);
  if (copy_weights(&t) != FK_OK) return false;
  fk_contest contest = {run_candidate, &t, t.count, guess(c->g), false, t.first_proposal};
  int count = fk_measure(c->cuda, &c->table->meter, &contest, times);
  if (count == 0) return false;
  e->choice = t.list[times[0].candidate];
  e->choice.microseconds = times[0].microseconds;
  report(&t, times, count, e->report, sizeof e->report);
  return true;
}

/* ---- Choosing -------------------------------------------------------------------------------------------- */

static const fk_gemm_kernel *own_named(const call *c, const char *name) {
  for (int i = 0; i < c->num_own; i++)
    if (strcmp(c->own[i].name, name) == 0 && c->own[i].fit(c->cuda, c->g)) return &c->own[i];
  return NULL;
}

static bool remembered(const call *c, entry *e, const char *shape) {
  const char *by;
  choice found = {0};
  if (!fk_choice_file_get(c->table->file, shape, &by, &found.algo)) return false;
  if (strcmp(by, "cublaslt") == 0) {
    if (!fk_gemm_library_valid(c->cuda, c->g, &e->product, &found.algo)) return false;
  } else {
    found.own = own_named(c, by);
    if (!found.own) return false;
  }
  e->choice = found;
  return true;
}

/* The first choice that nothing was measured for: an own kernel made for the shape, the library, any own kernel. */
static fk_status unmeasured(const call *c, entry *e) {
  int best = 0, found = 0;
  e->choice = (choice){0};
  for (int i = 0; i < c->num_own; i++) {
    int fit = c->own[i].fit(c->cuda, c->g);
    if (fit > best) {
      best = fit;
      e->choice.own = &c->own[i];
    }
  }
  if (best == 2) return FK_OK;
  fk_gemm_library_propose(c->cuda, c->g, &e->product, 1, &e->choice.algo, &found);
  if (found) e->choice.own = NULL;
  if (found || best) return FK_OK;
  return fk_fail(FK_ERROR_UNSUPPORTED, "gemm: nothing computes %lld x %lld x %lld of %s", (long long)c->g->rows,
                 (long long)c->g->features, (long long)c->g->depth, fk_type_name(c->g->type));
}

/* The first of FASTKERNELS_GEMM's names that computes the call. */
static bool forced(const call *c, entry *e) {
  char name[64];
  int found = 0;
  for (const char *at = c->table->forced; *at && !found; at += strcspn(at, ","), at += *at == ',') {
    snprintf(name, sizeof name, "%.*s", (int)strcspn(at, ","), at);
    e->choice = (choice){.own = own_named(c, name)};
    if (!e->choice.own && strcmp(name, "cublaslt") == 0)
      fk_gemm_library_propose(c->cuda, c->g, &e->product, 1, &e->choice.algo, &found);
    found = found || e->choice.own;
  }
  return found;
}

static fk_status choose(const call *c, entry *e) {
  fk_gemm_table *t = c->table;
  char shape[320];
  double flops = 2.0 * (double)c->g->rows * (double)c->g->features * (double)c->g->depth;
  if (fk_cuda_recording(c->cuda)) return e->chosen ? FK_OK : unmeasured(c, e);
  e->final = true;
  if (t->forced && forced(c, e)) return FK_OK;
  if (!t->tune || flops < worth_flops) return unmeasured(c, e);
  const fk_cublaslt *lt = fk_cuda_cublaslt(c->cuda);
  if (!t->file) t->file = fk_choice_file_open(c->cuda, "cublaslt", fk_cublaslt_number(lt));
  shape_text(&e->key, shape, sizeof shape);
  if (remembered(c, e, shape)) return FK_OK;
  if (!measure_all(c, e)) return unmeasured(c, e);
  const choice *by = &e->choice;
  fk_choice_file_put(t->file, shape, by->own ? by->own->name : "cublaslt", by->own ? NULL : &by->algo,
                     by->microseconds);
  return FK_OK;
}

static void describe(const void *self, char *text, size_t size) {
  const entry *e = self;
  const choice *by = &e->choice;
  char algo[96] = "";
  if (!by->own) fk_gemm_library_text(e->cuda->cublaslt, &by->algo, algo, sizeof algo);
  snprintf(text, size, "%s%s%s", by->own ? by->own->name : algo, *e->report ? " " : "", e->report);
}

/* ---- Options ---------------------------------------------------------------------------------------------- */

static void list_options(const call *c, entry *e) {
  e->selected = 0;
  e->options[0] = e->choice;
  e->num_options = 1;
  if (!c->table->tune || (c->table->forced && *c->table->forced)) return;
  for (int i = 0; i < c->num_own && e->num_options < MAX_OPTIONS; i++)
    if (&c->own[i] != e->choice.own && c->own[i].fit(c->cuda, c->g))
      e->options[e->num_options++] = (choice){.own = &c->own[i]};
}

int fk_cuda_gemm_shapes(const fk_cuda *cuda) {
  return cuda->gemms ? (int)cuda->gemms->capacity : 0;
}

int fk_cuda_gemm_options(const fk_cuda *cuda, int shape, int64_t rows, int *selected) {
  const entry *e = cuda->gemms->slots[shape];
  *selected = e ? e->selected : 0;
  return e && e->key.rows == rows ? e->num_options : 0;
}

void fk_cuda_gemm_select(fk_cuda *cuda, int shape, int option) {
  entry *e = cuda->gemms->slots[shape];
  e->selected = option;
  e->choice = e->options[option];
}

fk_status fk_gemm(fk_context *ctx, const fk_gemm_args *g, const fk_gemm_kernel *own, int num_own) {
  call c = {.ctx = ctx, .cuda = fk_context_cuda(ctx), .g = g, .own = own, .num_own = num_own};
  key k = key_of(g);
  entry *e = NULL;
  FK_TRY(table_of(c.cuda, &c.table));
  FK_TRY(make_flags(c.cuda, c.table));
  FK_TRY(entry_of(c.table, &k, &e));
  if (!e->final) {
    fk_status status = choose(&c, e);
    e->final = e->final && status == FK_OK;
    FK_TRY(status);
    e->chosen = true;
    if (e->final) list_options(&c, e);
  }
  e->cuda = c.cuda;
  fk_cuda_chose_of(c.cuda, (fk_cuda_chosen){.describe = describe, .self = e});
  return run_choice(&c, e, &e->choice);
}
