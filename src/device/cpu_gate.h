/* Gated activations on the CPU: out = f(first half of the row) * second half, for the tasks named ..._and_mul. */
#ifndef FK_DEVICE_CPU_GATE_H
#define FK_DEVICE_CPU_GATE_H

#include "core/kernel.h"
#include "device/cpu_row.h"

/* out[i] = f(gate[i]) * up[i] for n elements. */
typedef void (*fk_gate_chunk)(const float *gate, const float *up, float *out, int64_t n);

static inline void fk_gate_row(fk_type type, fk_gate_chunk chunk, const void *x, void *out, int64_t n, bool stream) {
  float gate_room[FK_CHUNK], up_room[FK_CHUNK], out_room[FK_CHUNK];
  for (int64_t i = 0; i < n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n);
    const float *gate = fk_row_read(type, x, i, gate_room, count);
    const float *up = fk_row_read(type, x, n + i, up_room, count);
    float *o = fk_row_target(type, out, i, out_room, stream);
    chunk(gate, up, o, count);
    fk_row_write(type, out, i, o, count, stream);
  }
}

/* x [rows..., 2 n], out [rows..., n]. */
static inline void fk_gate_rows(const fk_tensor *x, const fk_tensor *out, fk_gate_chunk chunk) {
  int64_t rows = fk_rows(out), n = fk_size(out, -1);
  fk_type type = fk_type_of(x);
  bool stream = fk_stream_pays(3.0 * (double)rows * (double)n * (double)fk_width(type));
#pragma omp parallel if (rows > 1 && rows * n >= FK_PARALLEL_MIN)
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) fk_gate_row(type, chunk, fk_row(x, r), fk_row(out, r), n, stream);
    if (stream) fk_stream_end();
  }
}

#endif
