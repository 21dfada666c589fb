/* Matrix products by cuBLASLt (gemm_library.h). */
#include "device/cuda/gemm_library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda/cublaslt.h"

#ifdef FK_HAVE_CUBLASLT

/* The library counts columns first: out^T[features, rows] = weight[depth, features]^T x[depth, rows], so that its A is
 * our weight and its B our x. */
struct fk_gemm_product {
  cublasLtMatmulDesc_t desc;
  cublasLtMatrixLayout_t a, b, d;
};

static fk_status lt_failed(const fk_cublaslt *lt, cublasStatus_t status, const char *what) {
  return fk_fail(FK_ERROR_KERNEL, "cuBLASLt: %s: %s", what, lt->status_name(status));
}

#define LT_TRY(lt, call)                                                            \
  do {                                                                              \
    cublasStatus_t lt_status = (lt)->call;                                          \
    if (lt_status != CUBLAS_STATUS_SUCCESS) return lt_failed(lt, lt_status, #call); \
  } while (0)

static bool lt_type(fk_type type, cudaDataType_t *out) {
  switch (type) {
    case FK_F32:
      *out = CUDA_R_32F;
      return true;
    case FK_BF16:
      *out = CUDA_R_16BF;
      return true;
    case FK_F16:
      *out = CUDA_R_16F;
      return true;
    case FK_F8_E4M3FN:
      *out = CUDA_R_8F_E4M3;
      return true;
    default:
      return false;
  }
}

void fk_gemm_product_free(const fk_cublaslt *lt, fk_gemm_product *p) {
  if (!p) return;
  if (p->desc) lt->desc_destroy(p->desc);
  if (p->a) lt->layout_destroy(p->a);
  if (p->b) lt->layout_destroy(p->b);
  if (p->d) lt->layout_destroy(p->d);
  free(p);
}

static fk_status lt_scales(const fk_cublaslt *lt, const fk_gemm_product *p, const fk_gemm_args *g) {
#if CUBLAS_VERSION >= 120900
  int32_t a = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F, b = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
  if (g->scales == FK_GEMM_OUTER) {
    bool vectors = g->num_x_scales > 1 || g->num_weight_scales > 1;
    a = b = vectors ? CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F : CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
  }
  if (g->scales == FK_GEMM_UNSCALED) return FK_OK;
  LT_TRY(lt, desc_set(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &a, sizeof a));
  LT_TRY(lt, desc_set(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &b, sizeof b));
  return FK_OK;
#else
  (void)lt;
  (void)p;
  if (g->scales == FK_GEMM_UNSCALED || (g->num_x_scales == 1 && g->num_weight_scales == 1)) return FK_OK;
  return fk_fail(FK_ERROR_UNSUPPORTED, "cuBLASLt: compiled with a version that scales whole tensors only");
#endif
}

/* Pointers that the product reads besides its matrices. */
static fk_status lt_pointers(const fk_cublaslt *lt, const fk_gemm_product *p, const fk_gemm_args *g) {
  if (g->bias) LT_TRY(lt, desc_set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->bias, sizeof g->bias));
  if (g->scales == FK_GEMM_UNSCALED) return FK_OK;
  LT_TRY(lt, desc_set(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &g->weight_scale, sizeof g->weight_scale));
  LT_TRY(lt, desc_set(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &g->x_scale, sizeof g->x_scale));
  return FK_OK;
}

static fk_status lt_describe(const fk_cublaslt *lt, const fk_gemm_args *g, fk_gemm_product *p) {
  cudaDataType_t type, out;
  if (!lt_type(g->type, &type) || !lt_type(g->out_type, &out))
    return fk_fail(FK_ERROR_UNSUPPORTED, "cuBLASLt: dtype %s", fk_type_name(g->type));
  /* 32F is true float32: TF32 has a compute type of its own, which is never asked for. */
  LT_TRY(lt, desc_create(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  cublasOperation_t transpose = CUBLAS_OP_T;
  LT_TRY(lt, desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose));
  if (g->bias) {
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    int32_t bias_type = (int32_t)out;
    LT_TRY(lt, desc_set(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    LT_TRY(lt, desc_set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type));
  }
  FK_TRY(lt_scales(lt, p, g));
  FK_TRY(lt_pointers(lt, p, g));
  LT_TRY(lt, layout_create(&p->a, type, (uint64_t)g->depth, (uint64_t)g->features, g->ldw));
  LT_TRY(lt, layout_create(&p->b, type, (uint64_t)g->depth, (uint64_t)g->rows, g->ldx));
  LT_TRY(lt, layout_create(&p->d, out, (uint64_t)g->features, (uint64_t)g->rows, g->ldo));
  return FK_OK;
}

static fk_status product_of(const fk_cublaslt *lt, const fk_gemm_args *g, fk_gemm_product **product) {
  if (*product) return FK_OK;
  fk_gemm_product *p = calloc(1, sizeof *p);
  if (!p) return fk_fail(FK_ERROR_MEMORY, "cuBLASLt: cannot allocate");
  fk_status status = lt_describe(lt, g, p);
  if (status) {
    fk_gemm_product_free(lt, p);
    return status;
  }
  *product = p;
  return FK_OK;
}

/* The epilogue loads the bias in vectors. */
static bool suits(const fk_gemm_args *g) {
  return !g->bias || fk_gemm_alignment(g->bias) == 16;
}

fk_status fk_gemm_library_run(fk_context *ctx, const fk_gemm_args *given, fk_gemm_product **product,
                              const fk_gemm_algo *algo) {
  fk_cuda *cuda = fk_context_cuda(ctx);
  const fk_cublaslt *lt = cuda->cublaslt;
  fk_gemm_args ready = *given;
  const fk_gemm_args *g = &ready;
  const float one = 1, zero = 0;
  cublasLtMatmulAlgo_t copy;
  memcpy(&copy, algo, sizeof copy);
  if (given->prepare) FK_TRY(given->prepare(ctx, &ready));
  FK_TRY(product_of(lt, g, product));
  const fk_gemm_product *p = *product;
  FK_TRY(lt_pointers(lt, p, g));
  LT_TRY(lt, matmul(lt->handle, p->desc, &one, g->weight, p->a, g->x, p->b, &zero, g->out, p->d, g->out, p->d, &copy,
                    lt->workspace, lt->workspace_bytes, cuda->stream));
  return FK_OK;
}

static fk_status ask(const fk_cublaslt *lt, const fk_gemm_args *g, const fk_gemm_product *p, uint64_t workspace,
                     cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t *results,
                     int *count) {
  /* Partial sums meet in float32 and in a fixed order, or not at all. */
  uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  uint32_t a = fk_gemm_alignment(g->weight), b = fk_gemm_alignment(g->x), d = fk_gemm_alignment(g->out);
  LT_TRY(lt, preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
  LT_TRY(lt, preference_set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes));
  LT_TRY(lt, preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a, sizeof a));
  LT_TRY(lt, preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b, sizeof b));
  LT_TRY(lt, preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &d, sizeof d));
  LT_TRY(lt, preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &d, sizeof d));
  LT_TRY(lt, heuristic(lt->handle, p->desc, p->a, p->b, p->d, p->d, preference, wanted, results, count));
  return FK_OK;
}

/* Adds what the heuristic proposes within a workspace to the list, without repeating. */
static void propose(const fk_cublaslt *lt, const fk_gemm_args *g, const fk_gemm_product *p, uint64_t workspace,
                    int wanted, fk_gemm_algo *list, int *count) {
  cublasLtMatmulHeuristicResult_t results[FK_GEMM_MAX_ALGORITHMS];
  cublasLtMatmulPreference_t preference;
  int found = 0;
  if (lt->preference_create(&preference) != CUBLAS_STATUS_SUCCESS) return;
  if (ask(lt, g, p, workspace, preference, wanted, results, &found) != FK_OK) found = 0;
  for (int i = 0; i < found && *count < FK_GEMM_MAX_ALGORITHMS; i++) {
    fk_gemm_algo algo;
    bool known = results[i].state != CUBLAS_STATUS_SUCCESS || results[i].workspaceSize > lt->workspace_bytes;
    memcpy(&algo, &results[i].algo, sizeof algo);
    for (int k = 0; k < *count && !known; k++) known = memcmp(&list[k], &algo, sizeof algo) == 0;
    if (!known) list[(*count)++] = algo;
  }
  lt->preference_destroy(preference);
}

void fk_gemm_library_propose(fk_cuda *cuda, const fk_gemm_args *g, fk_gemm_product **product, int wanted,
                             fk_gemm_algo *list, int *count) {
  *count = 0;
  const fk_cublaslt *lt = fk_cuda_cublaslt(cuda);
  if (!lt || !suits(g) || product_of(lt, g, product) != FK_OK) return;
  propose(lt, g, *product, lt->workspace_bytes, wanted, list, count);
  if (wanted > 1) propose(lt, g, *product, 0, wanted / 2, list, count);
}

bool fk_gemm_library_valid(fk_cuda *cuda, const fk_gemm_args *g, fk_gemm_product **product, const fk_gemm_algo *algo) {
  cublasLtMatmulAlgo_t copy;
  cublasLtMatmulHeuristicResult_t result;
  const fk_cublaslt *lt = fk_cuda_cublaslt(cuda);
  if (!lt || !suits(g) || product_of(lt, g, product) != FK_OK) return false;
  memcpy(&copy, algo, sizeof copy);
  const fk_gemm_product *p = *product;
  return lt->check(lt->handle, p->desc, p->a, p->b, p->d, p->d, &copy, &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= lt->workspace_bytes;
}

static int lt_number(const fk_cublaslt *lt, const cublasLtMatmulAlgo_t *algo,
                     cublasLtMatmulAlgoConfigAttributes_t what) {
  int32_t value = 0;
  size_t written;
  if (lt->algo_attribute(algo, what, &value, sizeof value, &written) != CUBLAS_STATUS_SUCCESS) return -1;
  return (int)value;
}

void fk_gemm_library_text(const fk_cublaslt *lt, const fk_gemm_algo *algo, char *text, size_t size) {
  cublasLtMatmulAlgo_t copy;
  memcpy(&copy, algo, sizeof copy);
  snprintf(text, size, "cublaslt %d tile %d stages %d splitk %d", lt_number(lt, &copy, CUBLASLT_ALGO_CONFIG_ID),
           lt_number(lt, &copy, CUBLASLT_ALGO_CONFIG_TILE_ID), lt_number(lt, &copy, CUBLASLT_ALGO_CONFIG_STAGES_ID),
           lt_number(lt, &copy, CUBLASLT_ALGO_CONFIG_SPLITK_NUM));
}

#else /* a toolkit without cuBLASLt's header: there is nothing to propose, so nothing else is called */

void fk_gemm_product_free(const fk_cublaslt *lt, fk_gemm_product *product) {
  (void)lt;
  (void)product;
}
void fk_gemm_library_propose(fk_cuda *cuda, const fk_gemm_args *g, fk_gemm_product **product, int wanted,
                             fk_gemm_algo *list, int *count) {
  (void)cuda;
  (void)g;
  (void)product;
  (void)wanted;
  (void)list;
  *count = 0;
}
bool fk_gemm_library_valid(fk_cuda *cuda, const fk_gemm_args *g, fk_gemm_product **product, const fk_gemm_algo *algo) {
  (void)cuda;
  (void)g;
  (void)product;
  (void)algo;
  return false;
}
fk_status fk_gemm_library_run(fk_context *ctx, const fk_gemm_args *g, fk_gemm_product **product,
                              const fk_gemm_algo *algo) {
  (void)ctx;
  (void)g;
  (void)product;
  (void)algo;
  return fk_fail(FK_ERROR_UNSUPPORTED, "cuBLASLt: not compiled in");
}
void fk_gemm_library_text(const fk_cublaslt *lt, const fk_gemm_algo *algo, char *text, size_t size) {
  (void)lt;
  (void)algo;
  if (size) *text = '\0';
}
#endif
