/* Matrix products on the GPU, each shape by the fastest of what is there.
 *
 *   out[rows, features] = x[rows, depth] weight[features, depth]^T (+ bias[features])
 *
 * Candidates are the own kernels that the caller lists and the algorithms that cuBLASLt's heuristic proposes. Outside a
 * graph recording, the first product of a shape times every candidate (measure.h) over copies of the weights that
 * together do not fit the caches, as a decode step finds them, and keeps the fastest; the choice is remembered in
 * memory and in a file (choice_file.h). While a graph is recorded nothing can be measured: a shape that was not met
 * before takes the first choice unmeasured. FASTKERNELS_TUNE=0 never measures and reads no file.
 * FASTKERNELS_GEMM=<name>,<name> takes the first of these own kernels, or of "cublaslt" its first proposal, that can be
 * used: for tests.
 *
 * Up to 64 rows each number of rows is a shape of its own: a decode step has a fixed batch, and one tile more or less
 * shows. Above, rows that round up to the same quarter of a power of two share a choice: prompts come in all lengths.
 */
#ifndef FK_DEVICE_CUDA_GEMM_H
#define FK_DEVICE_CUDA_GEMM_H

#include "device/cuda/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How float8 operands are scaled. */
typedef enum fk_gemm_scales {
  FK_GEMM_UNSCALED,
  FK_GEMM_OUTER, /* x_scale[1 or rows], weight_scale[1 or features] */
  FK_GEMM_BLOCKS /* x_scale[rows, depth / 128], weight_scale[features / 128, depth / 128], rounded up */
} fk_gemm_scales;

typedef struct fk_gemm_args {
  fk_type type, out_type; /* of x and weight; of out and bias */
  int64_t rows, features, depth;
  int64_t ldx, ldw, ldo; /* elements from row to row, at least a row's length */
  const void *x, *weight;
  const void *bias; /* or NULL */
  void *out;
  fk_gemm_scales scales;
  const float *x_scale, *weight_scale;
  int64_t num_x_scales, num_weight_scales; /* of FK_GEMM_OUTER */
  int64_t x_scale_row, weight_scale_row;   /* of FK_GEMM_BLOCKS: elements from row to row */
  /* Queues what the library needs the scales as (its own layout, in scratch) and points ready at them; NULL: as they
   * are. The library takes FK_GEMM_OUTER with both numbers 1, or both the number of rows and features;
   * FK_GEMM_BLOCKS with x_scale as [depth / 128, rows] and rows of weight_scale padded to a multiple of four. */
  fk_status (*prepare)(fk_context *ctx, struct fk_gemm_args *ready);
} fk_gemm_args;

/* A kernel of ours. fit: 0 when it cannot compute this product, 1 when it can, 2 when it is to be taken unmeasured,
 * before the library's first proposal. Names go into the file. */
typedef struct fk_gemm_kernel {
  const char *name;
  int (*fit)(const fk_cuda *cuda, const fk_gemm_args *g);
  fk_status (*run)(fk_context *ctx, const fk_gemm_args *g);
} fk_gemm_kernel;

/* rows, features and depth are at least 1. FK_ERROR_UNSUPPORTED when nothing can compute it. */
fk_status fk_gemm(fk_context *ctx, const fk_gemm_args *g, const fk_gemm_kernel *own, int num_own);

/* Words of device memory that are zero between kernels: blocks that wait for each other use them, and lower them again.
 * NULL before the first product outside a graph recording. */
enum { FK_GEMM_FLAGS = 1024 };
unsigned *fk_gemm_flags(const fk_cuda *cuda);

typedef struct fk_gemm_table fk_gemm_table;
void fk_gemm_table_destroy(fk_gemm_table *table, struct fk_cublaslt *lt); /* before the library's handle */

#ifdef __cplusplus
}
#endif

#endif
