#include "engine/ceilings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef FK_HAVE_OPENBLAS
#include <cblas.h>
#endif

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

size_t fk_last_level_cache(void) {
  size_t largest = 0;
  for (int i = 0; i < 8; i++) {
    char path[96], unit = 0;
    size_t size;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
    FILE *f = fopen(path, "r");
    if (!f) break;
    if (fscanf(f, "%zu%c", &size, &unit) >= 1) {
      size <<= unit == 'K' ? 10 : unit == 'M' ? 20 : 0;
      if (size > largest) largest = size;
    }
    fclose(f);
  }
  return largest;
}

/* ---- Copy ------------------------------------------------------------------------------------------------ */

enum { PIECE = 1 << 20 };

/* All threads, pieces of 1 MiB: large enough that memcpy streams, small enough to balance. */
static void copy_all(char *to, const char *from, size_t bytes) {
#pragma omp parallel for schedule(static)
  for (size_t at = 0; at < bytes; at += PIECE) memcpy(to + at, from + at, PIECE);
}

/* The first touch decides where pages live, so it is made by the threads that will copy them. */
static void touch_all(char *p, size_t bytes) {
#pragma omp parallel for schedule(static)
  for (size_t at = 0; at < bytes; at += PIECE) memset(p + at, 1, PIECE);
}

static void *map_pages(size_t bytes) {
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

fk_status fk_measure_copy(double seconds, fk_copy_ceiling *ceiling) {
  size_t cache = fk_last_level_cache(), want = 4 * cache, least = (size_t)256 << 20, most = (size_t)2 << 30;
  size_t free_bytes = (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
  if (want < least) want = least;
  if (want > most) want = most;
  if (want > free_bytes / 4) want = free_bytes / 4;
  size_t half = want / 2 / PIECE * PIECE;
  *ceiling = (fk_copy_ceiling){.working_set = 2 * half, .cache = cache, .beyond_cache = 2 * half > cache};
  char *from = half ? map_pages(half) : NULL, *to = half ? map_pages(half) : NULL;
  fk_status status = FK_OK;
  if (!from || !to) {
    status = fk_fail(FK_ERROR_MEMORY, "copy ceiling: cannot map %zu bytes", 2 * half);
    goto cleanup;
  }
  touch_all(from, half);
  touch_all(to, half);
  double best = 0, end = now() + seconds;
  for (int i = 0; i < 3 || now() < end; i++) {
    double start = now();
    copy_all(to, from, half);
    double rate = 2 * (double)half / (now() - start);
    if (rate > best) best = rate;
  }
  ceiling->bytes_per_second = best;
cleanup:
  if (from) munmap(from, half);
  if (to) munmap(to, half);
  return status;
}

/* ---- Matrix product -------------------------------------------------------------------------------------- */

enum { GEMM_SIZE = 1536 };

typedef fk_status (*product_fn)(fk_context *ctx, const fk_tensor *x, const fk_tensor *weight, const fk_tensor *out);

static fk_status by_linear(fk_context *ctx, const fk_tensor *x, const fk_tensor *weight, const fk_tensor *out) {
  return fk_call(ctx, "linear", x, weight, NULL, out);
}

#ifdef FK_HAVE_OPENBLAS
static fk_status by_openblas(fk_context *ctx, const fk_tensor *x, const fk_tensor *weight, const fk_tensor *out) {
  (void)ctx;
  int n = GEMM_SIZE;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1, fk_data(x), n, fk_data(weight), n, 0, fk_data(out),
              n);
  return FK_OK;
}
#endif

static fk_status best_rate(fk_context *ctx, product_fn product, fk_tensor *const t[3], double seconds, double *rate) {
  FK_TRY(product(ctx, t[0], t[1], t[2])); /* starts the threads, faults the pages in */
  double best = 0, end = now() + seconds;
  for (int i = 0; i < 3 || now() < end; i++) {
    double start = now();
    FK_TRY(product(ctx, t[0], t[1], t[2]));
    double got = 2.0 * GEMM_SIZE * GEMM_SIZE * GEMM_SIZE / (now() - start);
    if (got > best) best = got;
  }
  *rate = best;
  return FK_OK;
}

fk_status fk_measure_gemm(double seconds, fk_gemm_ceiling *ceiling) {
  static const struct {
    const char *name;
    product_fn product;
  } ways[] = {{"linear", by_linear},
#ifdef FK_HAVE_OPENBLAS
              {"OpenBLAS", by_openblas}
#endif
  };
  enum { WAYS = sizeof ways / sizeof *ways };
  *ceiling = (fk_gemm_ceiling){.size = GEMM_SIZE, .by = "nothing"};
  fk_context *ctx;
  FK_TRY(fk_context_create(&(fk_context_options){.backend = FK_CPU}, &ctx));
  fk_status status = FK_ERROR_MEMORY;
  fk_tensor *t[3];
  for (int i = 0; i < 3; i++) {
    t[i] = fk_empty(ctx, FK_F32, GEMM_SIZE, GEMM_SIZE);
    if (!t[i]) goto cleanup;
    /* Small numbers without a pattern: no denormals, no overflow, nothing a CPU could skip. */
    for (int64_t k = 0; k < fk_numel(t[i]); k++) ((float *)t[i]->data)[k] = (float)(k * 37 % 101 - 50) / 64;
  }
  for (int w = 0; w < WAYS; w++) {
    double rate;
    status = best_rate(ctx, ways[w].product, t, seconds / WAYS, &rate);
    if (status) goto cleanup;
    if (rate <= ceiling->flops_per_second) continue;
    ceiling->flops_per_second = rate;
    ceiling->by = ways[w].name;
  }
cleanup:
  fk_context_destroy(ctx);
  return status;
}
