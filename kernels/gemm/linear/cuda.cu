/* linear on the GPU: the fastest, by measurement, of cuBLASLt's algorithms and the kernels of this folder. */
#include "linear.cuh"
#include "tasks/linear.h"

/* Few rows of 16-bit numbers: a variant is worth trying up to four times the rows it holds at once. */
static int skinny_fit(const fk_gemm_args *g, int64_t rows, bool first) {
  if (!fk_linear_skinny_fit(g) || g->rows > 4 * rows) return 0;
  return first && g->rows <= rows ? 2 : 1;
}

#define SKINNY(name, variant, prefetch, rows, first)                           \
  static int skinny_fit_##name(const fk_cuda *cuda, const fk_gemm_args *g) {   \
    (void)cuda;                                                                \
    return skinny_fit(g, rows, first);                                         \
  }                                                                            \
  static fk_status skinny_run_##name(fk_context *ctx, const fk_gemm_args *g) { \
    return fk_linear_skinny(ctx, g, variant, prefetch);                        \
  }

#define STREAM(name, groups, ahead)                                            \
  static fk_status stream_run_##name(fk_context *ctx, const fk_gemm_args *g) { \
    return fk_linear_stream(ctx, g, groups, ahead);                            \
  }

SKINNY(a0, 0, 0, 8, true)
SKINNY(a1, 0, -2048, 8, false)
SKINNY(a2, 0, 2048, 8, false)
SKINNY(a3, 0, 65536, 8, false)
SKINNY(b0, 1, 0, 8, false)
SKINNY(b1, 1, -2048, 8, false)
SKINNY(b2, 1, 2048, 8, false)
SKINNY(b3, 1, 65536, 8, false)
SKINNY(c0, 2, 0, 16, true)
SKINNY(c1, 2, -2048, 16, false)
SKINNY(c2, 2, 2048, 16, false)
SKINNY(c3, 2, 65536, 16, false)
SKINNY(d1, 3, -2048, 32, false)
SKINNY(d3, 3, 65536, 32, false)
SKINNY(e1, 4, -2048, 64, false)
SKINNY(e3, 4, 65536, 64, false)
SKINNY(f0, 5, 0, 8, false)
SKINNY(f2, 5, 2048, 8, false)
SKINNY(f3, 5, 65536, 8, false)
STREAM(a, 2, 8)
STREAM(b, 2, 64)
STREAM(c, 1, 16)
STREAM(d, 1, 128)

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

#define S(name) \
  { #name, skinny_fit_##name, skinny_run_##name }
#define R(name) \
  { "st_" #name, fk_linear_stream_fit, stream_run_##name }
static const fk_gemm_kernel kernels[] = {
    S(a0),
    S(a1),
    S(a2),
    S(a3),
    S(b0),
    S(b1),
    S(b2),
    S(b3),
    S(c0),
    S(c1),
    S(c2),
    S(c3),
    S(d1),
    S(d3),
    S(e1),
    S(e3),
    S(f0),
    S(f2),
    S(f3),
    R(a),
    R(b),
    R(c),
    R(d),
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
