#include "bags.h"
#include "device/cpu_dot.h"
#include "device/cpu_threads.h"

/* Rows come from random places of a table that no cache holds: what counts is how many are under way at a time. */
enum {
  AHEAD = 16,      /* rows fetched before they are added */
  AHEAD_MAX = 512, /* bytes of such a row; a longer one is fetched by the processor once it is being read */
  NEAR = 1 << 20,  /* bytes of a table that the second-level cache may hold */
  BLOCK = 8        /* vectors summed in registers */
};

typedef struct job {
  const fk_embedding_bag_args *a;
  fk_type type;
  const char *table;
  int64_t stride, dim, count; /* bytes from row to row; elements of a row; values */
  bool far;                   /* the table is larger than the caches of a core: rows are worth fetching ahead */
} job;

static const char *row_of(const job *j, int64_t i) {
  return j->table + int_at(j->a->values, i) * j->stride;
}

static void fetch(const job *j, int64_t i) {
  int64_t bytes = j->dim * fk_width(j->type);
  if (!j->far || i >= j->count) return;
  const char *row = row_of(j, i);
  if (bytes > AHEAD_MAX) bytes = AHEAD_MAX;
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
  __builtin_prefetch(row + bytes - 1);
}

static float factor_at(const job *j, int64_t i) {
  float f = 1;
  if (j->a->per_sample_weights)
    fk_widen(j->type, (const char *)fk_data(j->a->per_sample_weights) + i * fk_width(j->type), &f, 1);
  return f;
}

/* Elements [k, k + vecs * FK_LANES) of the sum of values [start, end). Constants where inlined: type, weighted, vecs.
 */
static inline __attribute__((always_inline)) void sum_vecs(const job *j, fk_type type, bool weighted, int vecs,
                                                           int64_t start, int64_t end, int64_t k, float *sum) {
  fk_vec acc[BLOCK];
#pragma GCC unroll 8
  for (int v = 0; v < vecs; v++) acc[v] = (fk_vec){0};
  for (int64_t i = start; i < end; i++) {
    const char *row = row_of(j, i);
    fk_vec factor = fk_vec_all(weighted ? factor_at(j, i) : 1);
    if (k == 0) fetch(j, i + AHEAD);
#pragma GCC unroll 8
    for (int v = 0; v < vecs; v++) {
      fk_vec x = fk_vec_widen(type, row, k + v * FK_LANES);
      acc[v] += weighted ? factor * x : x;
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < vecs; v++) fk_vec_store(sum + v * FK_LANES, acc[v]);
}

/* The last elements of a row, fewer than a vector. */
static void sum_rest(const job *j, int64_t start, int64_t end, int64_t k, float *sum) {
  int64_t n = j->dim - k;
  fk_vec acc = {0};
  for (int64_t i = start; i < end; i++) {
    if (k == 0) fetch(j, i + AHEAD);
    acc += fk_vec_all(factor_at(j, i)) * fk_vec_widen_some(j->type, row_of(j, i) + k * fk_width(j->type), n);
  }
  for (int64_t l = 0; l < n; l++) sum[l] = acc[l];
}

static inline __attribute__((always_inline)) void sum_bag(const job *j, fk_type type, bool weighted, int64_t b) {
  int64_t start = int_at(j->a->offsets, b), end = int_at(j->a->offsets, b + 1);
  float room[BLOCK * FK_LANES];
  char *out = (char *)fk_data(j->a->out) + b * fk_stride(j->a->out, 0) * fk_width(type);
  for (int64_t k = 0, n; k < j->dim; k += n) {
    float *sum = fk_row_target(type, out, k, room, false);
    n = BLOCK * FK_LANES;
    if (k + n <= j->dim) {
      sum_vecs(j, type, weighted, BLOCK, start, end, k, sum);
    } else if (k + FK_LANES <= j->dim) {
      n = FK_LANES;
      sum_vecs(j, type, weighted, 1, start, end, k, sum);
    } else {
      n = j->dim - k;
      sum_rest(j, start, end, k, sum);
    }
    if (j->a->mode == 1 && end > start)
      for (int64_t l = 0; l < n; l++) sum[l] /= (float)(end - start);
    fk_row_write(type, out, k, sum, n, false);
  }
}

static inline __attribute__((always_inline)) void sum_either(const job *j, fk_type type, int64_t b) {
  /* Measured: gcc's loop over 16-bit rows is a third slower without the factor than with one of 1. */
  if (j->a->per_sample_weights || type != FK_F32)
    sum_bag(j, type, true, b);
  else
    sum_bag(j, type, false, b);
}

static void sum_f32(const job *j, int64_t b) {
  sum_either(j, FK_F32, b);
}
static void sum_bf16(const job *j, int64_t b) {
  sum_either(j, FK_BF16, b);
}
static void sum_f16(const job *j, int64_t b) {
  sum_either(j, FK_F16, b);
}

/* The first bag of part `part` of `parts`, such that all have as many values and bags to do. */
static int64_t part_start(const job *j, int64_t bags, int64_t part, int64_t parts) {
  int64_t low = 0, high = bags;
  double share = (double)(j->count + bags) * (double)part / (double)parts;
  while (low < high) {
    int64_t b = low + (high - low) / 2;
    if ((double)(int_at(j->a->offsets, b) + b) < share)
      low = b + 1;
    else
      high = b;
  }
  return low;
}

fk_status fk_cpu_embedding_bag(fk_context *ctx, const fk_embedding_bag_args *a) {
  (void)ctx;
  FK_TRY(check_bags(a)); /* before the first write: an error leaves out as it was */
  job j = {.a = a, .type = fk_type_of(a->weight), .table = fk_data(a->weight)};
  j.stride = fk_stride(a->weight, 0) * fk_width(j.type);
  j.dim = fk_size(a->weight, 1);
  j.count = fk_size(a->values, 0);
  j.far = fk_size(a->weight, 0) * j.stride > NEAR;
  int64_t bags = fk_size(a->out, 0);
  void (*sum)(const job *, int64_t) = j.type == FK_F32 ? sum_f32 : j.type == FK_BF16 ? sum_bf16 : sum_f16;
  /* A thread takes neighbouring bags, and the same in the next call of this shape: their sums stay in its cache, where
   * those that the other wrote last time would have to be fetched. */
  int64_t parts = bags > 1 && (j.count + bags) * j.dim >= FK_PARALLEL_MIN ? fk_max_threads() : 1;
#pragma omp parallel for schedule(static) if (parts > 1)
  for (int64_t part = 0; part < parts; part++)
    for (int64_t b = part_start(&j, bags, part, parts), end = part_start(&j, bags, part + 1, parts); b < end; b++)
      sum(&j, b);
  return FK_OK;
}
