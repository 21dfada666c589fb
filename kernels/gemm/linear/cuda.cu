/* linear on the GPU: the fastest, by measurement, of cuBLASLt's algorithms and the kernels of this folder. */
#include "linear.cuh"
#include "tasks/linear.h"

/* Few rows of 16-bit numbers: a variant is worth trying up to four times the rows it holds at once. */
static int skinny_fit(const fk_gemm_args *g, int64_t rows, bool first) {
  if (!fk_linear_skinny_fit(g) || g->rows > 4 * rows) return 0;
  return first && g->rows <= rows ? 2 : 1;
}

/* bytes: of each weight row, asked for while the kernel before is ending; bulk: by one request a row. What is best
 * depends on what runs before: measured, alone and in the step. */
#define SKINNY(name, variant, bytes, bulk, rows, first)                        \
  static int skinny_fit_##name(const fk_cuda *cuda, const fk_gemm_args *g) {   \
    (void)cuda;                                                                \
    return skinny_fit(g, rows, first);                                         \
  }                                                                            \
  static fk_status skinny_run_##name(fk_context *ctx, const fk_gemm_args *g) { \
    return fk_linear_skinny(ctx, g, variant, bytes, bulk);                     \
  }

SKINNY(8x8, 0, 2048, false, 8, true)
SKINNY(8x8_2k, 0, 2048, true, 8, false)
SKINNY(8x8_4k, 0, 4096, true, 8, false)
SKINNY(8x8_row, 0, 65536, true, 8, false)
SKINNY(8x4, 1, 2048, false, 8, false)
SKINNY(8x4_4k, 1, 4096, true, 8, false)
SKINNY(16, 2, 2048, false, 16, true)
SKINNY(16_2k, 2, 2048, true, 16, false)
SKINNY(16_4k, 2, 4096, true, 16, false)
SKINNY(16_row, 2, 65536, true, 16, false)
SKINNY(32, 3, 4096, true, 32, false)
SKINNY(64, 4, 4096, true, 64, false)

/* ahead: units asked for in the same way. */
#define STREAM(name, groups, ahead)                                            \
  static fk_status stream_run_##name(fk_context *ctx, const fk_gemm_args *g) { \
    return fk_linear_stream(ctx, g, groups, ahead);                            \
  }

STREAM(128, 2, 8)
STREAM(64, 1, 16)
STREAM(64_32, 1, 32)

static int rows_fit(const fk_cuda *cuda, const fk_gemm_args *g) {
  (void)cuda;
  return fk_linear_rows_fit(g);
}

static fk_row_map plain_rows(int64_t rows, int64_t stride) {
  fk_row_map m = {};
  m.ndim = 1;
  m.shape[0] = rows;
  m.strides[0] = stride;
  return m;
}

/* Only where nothing else can: it is not worth a measurement. */
static int tile_fit(const fk_cuda *cuda, const fk_gemm_args *g) {
  (void)cuda;
  return g->rows * g->features <= 1 << 16 || g->depth <= 64;
}
static fk_status tile_run(fk_context *ctx, const fk_gemm_args *g) {
  fk_row_map x = plain_rows(g->rows, g->ldx), out = plain_rows(g->rows, g->ldo);
  return fk_linear_tile(ctx, g, &x, &out);
}

#define NAMED_SKINNY(name) \
  { "skinny_" #name, skinny_fit_##name, skinny_run_##name }
#define NAMED_STREAM(name) \
  { "stream_" #name, fk_linear_stream_fit, stream_run_##name }
static const fk_gemm_kernel kernels[] = {
    NAMED_SKINNY(8x8),
    NAMED_SKINNY(8x8_2k),
    NAMED_SKINNY(8x8_4k),
    NAMED_SKINNY(8x8_row),
    NAMED_SKINNY(8x4),
    NAMED_SKINNY(8x4_4k),
    NAMED_SKINNY(16),
    NAMED_SKINNY(16_2k),
    NAMED_SKINNY(16_4k),
    NAMED_SKINNY(16_row),
    NAMED_SKINNY(32),
    NAMED_SKINNY(64),
    NAMED_STREAM(128),
    NAMED_STREAM(64),
    NAMED_STREAM(64_32),
    {"rows_f32", rows_fit, fk_linear_rows},
    {"tile", tile_fit, tile_run},
};

/* Elements between the rows of a matrix: where there is one row any number would do, and the library wants a sane one.
 */
static int64_t distance(int64_t rows, int64_t stride, int64_t columns) {
  return rows == 1 ? columns : stride;
}

fk_status fk_cuda_linear(fk_context *ctx, const fk_linear_args *a) {
  fk_gemm_args g = {};
  g.type = g.out_type = fk_type_of(a->x);
  g.rows = fk_rows(a->x);
  g.features = fk_size(a->weight, 0);
  g.depth = fk_size(a->weight, 1);
  if (g.rows == 0 || g.features == 0) return FK_OK;
  fk_row_map x = fk_rows_of(a->x, 1), out = fk_rows_of(a->out, 1);
  g.ldx = distance(g.rows, x.strides[0], g.depth);
  g.ldw = distance(g.features, fk_stride(a->weight, 0), g.depth);
  g.ldo = distance(g.rows, out.strides[0], g.features);
  g.x = fk_data(a->x);
  g.weight = fk_data(a->weight);
  g.bias = a->bias ? fk_data(a->bias) : NULL;
  g.out = fk_data(a->out);
  bool plain = x.ndim == 1 && out.ndim == 1 && g.ldx >= g.depth && g.ldw >= g.depth && g.ldo >= g.features;
  if (!plain || g.depth == 0) return fk_linear_tile(ctx, &g, &x, &out);
  fk_status status = fk_gemm(ctx, &g, kernels, sizeof kernels / sizeof *kernels);
  if (status != FK_ERROR_UNSUPPORTED) return status;
  return fk_linear_tile(ctx, &g, &x, &out);
}
