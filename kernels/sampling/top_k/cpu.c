#ifdef _OPENMP
#include <omp.h>
#endif

#include "device/cpu_row.h"
#include "tasks/top_k.h"

/* An element of a row as one integer whose order is that of the result: the float's bits made monotonic in the high
 * half, the column's complement in the low half, so that of two equal values the lower column is greater. NaN is the
 * greatest; -0 becomes 0. */
typedef uint64_t entry;

static entry entry_of(float value, int64_t column) {
  uint32_t u = fk_float_bits(value + 0.0f);
  u = u >> 31 ? ~u : u | 0x80000000u;
  if (value != value) u = UINT32_MAX;
  return (entry)u << 32 | (uint32_t) ~(uint32_t)column;
}

static int64_t column_of(entry e) {
  return (int64_t)(uint32_t) ~(uint32_t)e;
}

/* The float of an entry; some NaN for a NaN. */
static float value_of(entry e) {
  uint32_t u = (uint32_t)(e >> 32);
  return fk_bits_float(u >> 31 ? u & 0x7fffffff : ~u);
}

/* heap[0] is the smallest of the k kept; puts e in the place of heap[at] and restores the order below it. */
static void sift_down(entry *heap, int64_t k, int64_t at, entry e) {
  for (;;) {
    int64_t child = 2 * at + 1;
    if (child >= k) break;
    if (child + 1 < k && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= e) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = e;
}

enum { GROUP = 64 }; /* elements tested at once against the smallest kept */

/* A group whose elements are all at most the smallest kept changes nothing, and later columns lose ties; in a row in
 * random order nearly all groups are such. */
static void offer(entry *heap, int64_t k, const float *x, int64_t n, int64_t column) {
  for (int64_t g = 0; g < n; g += GROUP) {
    int64_t count = n - g < GROUP ? n - g : GROUP;
    float smallest = value_of(heap[0]);
    int above = 0;
#pragma omp simd reduction(| : above)
    for (int64_t i = 0; i < count; i++) above |= !(x[g + i] <= smallest);
    for (int64_t i = 0; above && i < count; i++) {
      entry e = entry_of(x[g + i], column + g + i);
      if (e > heap[0]) sift_down(heap, k, 0, e);
    }
  }
}

static void top_k_row(fk_type type, const void *x, int64_t n, entry *heap, int64_t k, void *values, int64_t *indices) {
  float room[FK_CHUNK];
  int64_t filled = 0;
  for (int64_t i = 0; i < n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n), used = 0;
    const float *p = fk_row_read(type, x, i, room, count);
    for (; filled < k && used < count; used++, filled++) heap[filled] = entry_of(p[used], i + used);
    if (filled < k) continue;
    if (used > 0) /* the heap has just become full */
      for (int64_t h = k / 2; h-- > 0;) sift_down(heap, k, h, heap[h]);
    offer(heap, k, p + used, count - used, i + used);
  }
  for (int64_t last = k; last-- > 1;) { /* the smallest goes to the end: descending */
    entry smallest = heap[0];
    sift_down(heap, last, 0, heap[last]);
    heap[last] = smallest;
  }
  int64_t width = fk_width(type);
  for (int64_t i = 0; i < k; i++) {
    indices[i] = column_of(heap[i]);
    memcpy((char *)values + i * width, (const char *)x + indices[i] * width, (size_t)width);
  }
}

fk_status fk_cpu_top_k(fk_context *ctx, const fk_top_k_args *a) {
  int64_t rows = fk_rows(a->x), n = fk_size(a->x, -1), k = a->k;
  fk_type type = fk_type_of(a->x);
  bool parallel = rows > 1 && rows * n >= FK_PARALLEL_MIN;
  int threads = 1;
#ifdef _OPENMP
  if (parallel) threads = omp_get_max_threads();
#endif
  entry *heaps = fk_scratch(ctx, (size_t)threads * (size_t)k * sizeof *heaps);
  if (!heaps) return FK_ERROR_MEMORY;
#pragma omp parallel num_threads(threads) if (parallel)
  {
    entry *heap = heaps;
#ifdef _OPENMP
    heap += omp_get_thread_num() * k;
#endif
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++)
      top_k_row(type, fk_row(a->x, r), n, heap, k, fk_row(a->values, r), fk_row(a->indices, r));
  }
  return FK_OK;
}
