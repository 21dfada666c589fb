/* One function of one number over a whole tensor: what an activation's cpu.c is made of.
 *
 * The function comes as a loop over a chunk of floats (n <= FK_CHUNK), which vectorises; x and out may be the same
 * memory. Both tensors have one shape, and rows of any stride. */
#ifndef FK_DEVICE_CPU_MAP_H
#define FK_DEVICE_CPU_MAP_H

#include "core/kernel.h"
#include "device/cpu_row.h"

typedef void (*fk_map_fn)(const float *x, float *out, int64_t n);

static inline void fk_map_row(fk_map_fn f, fk_type type, const void *x, void *out, int64_t n, bool stream) {
  float in_room[FK_CHUNK], out_room[FK_CHUNK];
  for (int64_t i = 0; i < n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n);
    const float *p = fk_row_read(type, x, i, in_room, count);
    float *o = fk_row_target(type, out, i, out_room, stream);
    /* The next chunk comes from memory while this one is computed. */
    const char *next = (const char *)x + (i + FK_CHUNK) * fk_width(type);
    for (int64_t k = 0; stream && k < FK_CHUNK * fk_width(type); k += 64) __builtin_prefetch(next + k, 0, 2);
    f(p, o, count);
    fk_row_write(type, out, i, o, count, stream);
  }
}

static inline void fk_map(fk_map_fn f, const fk_tensor *x, const fk_tensor *out) {
  fk_type type = fk_type_of(x);
  int64_t rows = fk_rows(x), n = fk_size(x, -1), block = n;
  bool stream = fk_data(x) != fk_data(out) && fk_stream_pays(2.0 * (double)rows * (double)n * (double)fk_width(type));
  bool flat = fk_is_contiguous(x) && fk_is_contiguous(out);
  if (flat) { /* rows do not matter, equal blocks do */
    n *= rows;
    block = 16 * FK_CHUNK;
    rows = (n + block - 1) / block;
  }
#pragma omp parallel if (rows > 1 && rows * block >= FK_PARALLEL_MIN)
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
      int64_t start = flat ? r * block : 0, at = start * fk_width(type);
      const char *from = flat ? (const char *)fk_data(x) + at : fk_row(x, r);
      char *to = flat ? (char *)fk_data(out) + at : fk_row(out, r);
      fk_map_row(f, type, from, to, n - start < block ? n - start : block, stream);
    }
    if (stream) fk_stream_end();
  }
}

#endif
