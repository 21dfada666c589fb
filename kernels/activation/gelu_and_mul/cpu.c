#include "device/cpu_math.h"
#include "device/cpu_row.h"
#include "tasks/gelu_and_mul.h"

static void gate_chunk(const float *gate, const float *up, float *out, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = fk_geluf(gate[i]) * up[i];
}

static void gate_tanh_chunk(const float *gate, const float *up, float *out, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = fk_gelu_tanhf(gate[i]) * up[i];
}

static void gate_row(fk_type type, bool approximate, const void *x, void *out, int64_t n, bool stream) {
  float gate_room[FK_CHUNK], up_room[FK_CHUNK], out_room[FK_CHUNK];
  for (int64_t i = 0; i < n; i += FK_CHUNK) {
    int64_t count = fk_chunk_at(i, n);
    const float *gate = fk_row_read(type, x, i, gate_room, count);
    const float *up = fk_row_read(type, x, n + i, up_room, count);
    float *o = fk_row_target(type, out, i, out_room, stream);
    (approximate ? gate_tanh_chunk : gate_chunk)(gate, up, o, count);
    fk_row_write(type, out, i, o, count, stream);
  }
}

fk_status fk_cpu_gelu_and_mul(fk_context *ctx, const fk_gelu_and_mul_args *a) {
  (void)ctx;
  int64_t rows = fk_rows(a->out), n = fk_size(a->out, -1);
  fk_type type = fk_type_of(a->x);
  bool stream = fk_stream_pays(3.0 * (double)rows * (double)n * (double)fk_width(type));
#pragma omp parallel if (rows > 1 && rows * n >= FK_PARALLEL_MIN)
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++)
      gate_row(type, a->approximate != 0, fk_row(a->x, r), fk_row(a->out, r), n, stream);
    if (stream) fk_stream_end();
  }
  return FK_OK;
}
