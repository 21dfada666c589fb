/* cuBLASLt as the library sees it: the functions that are used, a handle, and the workspace that every product shares.
 *
 * Loaded by dlopen, so that neither building nor running needs it; types come from <cublasLt.h> where the toolkit has
 * it. One workspace serves all products of an fk_cuda, because its stream runs them one after the other; it is
 * allocated with the handle, never while a graph is recorded. */
#ifndef FK_DEVICE_CUDA_CUBLASLT_H
#define FK_DEVICE_CUDA_CUBLASLT_H

#include "device/cuda/libraries.h"

#if __has_include(<cublasLt.h>)
#define FK_HAVE_CUBLASLT
#include <cublasLt.h>

#define FK_CUBLASLT_FUNCTIONS(X)                          \
  X(cublasLtCreate, create)                               \
  X(cublasLtDestroy, destroy)                             \
  X(cublasLtGetVersion, get_version)                      \
  X(cublasLtGetStatusName, status_name)                   \
  X(cublasLtMatmul, matmul)                               \
  X(cublasLtMatmulAlgoGetHeuristic, heuristic)            \
  X(cublasLtMatmulAlgoCheck, check)                       \
  X(cublasLtMatmulAlgoConfigGetAttribute, algo_attribute) \
  X(cublasLtMatmulDescCreate, desc_create)                \
  X(cublasLtMatmulDescDestroy, desc_destroy)              \
  X(cublasLtMatmulDescSetAttribute, desc_set)             \
  X(cublasLtMatrixLayoutCreate, layout_create)            \
  X(cublasLtMatrixLayoutDestroy, layout_destroy)          \
  X(cublasLtMatmulPreferenceCreate, preference_create)    \
  X(cublasLtMatmulPreferenceDestroy, preference_destroy)  \
  X(cublasLtMatmulPreferenceSetAttribute, preference_set)

struct fk_cublaslt {
  void *library;
#define FK_CUBLASLT_POINTER(symbol, name) __typeof__(&symbol) name;
  FK_CUBLASLT_FUNCTIONS(FK_CUBLASLT_POINTER)
#undef FK_CUBLASLT_POINTER
  cublasLtHandle_t handle;
  void *workspace; /* device memory */
  size_t workspace_bytes;
  int version; /* 130101 is 13.1.1 */
};
#endif

#endif
