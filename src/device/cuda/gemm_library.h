/* Matrix products by cuBLASLt (gemm.h): descriptors of one shape, what the heuristic proposes for it, running it. */
#ifndef FK_DEVICE_CUDA_GEMM_LIBRARY_H
#define FK_DEVICE_CUDA_GEMM_LIBRARY_H

#include "device/cuda/choice_file.h"
#include "device/cuda/gemm.h"
#include "device/cuda/libraries.h"

enum { FK_GEMM_MAX_ALGORITHMS = 24 };

typedef fk_choice_algo fk_gemm_algo;

/* The library's descriptors of one shape, made when a function below first needs them; *product starts NULL. */
typedef struct fk_gemm_product fk_gemm_product;
void fk_gemm_product_free(const fk_cublaslt *lt, fk_gemm_product *product);

/* wanted 1: the heuristic's first; more: about as many, with and without workspace. None when the library is missing,
 * or has nothing. */
void fk_gemm_library_propose(fk_cuda *cuda, const fk_gemm_args *g, fk_gemm_product **product, int wanted,
                             fk_gemm_algo *list, int *count);

/* Whether an algorithm that was chosen for other rows, or by another process, computes this product. */
bool fk_gemm_library_valid(fk_cuda *cuda, const fk_gemm_args *g, fk_gemm_product **product, const fk_gemm_algo *algo);

fk_status fk_gemm_library_run(fk_context *ctx, const fk_gemm_args *g, fk_gemm_product **product,
                              const fk_gemm_algo *algo);

/* "cublaslt 66 tile 24 stages 9 splitk 1": the library's own numbers. */
void fk_gemm_library_text(const fk_cublaslt *lt, const fk_gemm_algo *algo, char *text, size_t size);

/* Bytes that an address is aligned to, at most 16. */
static inline uint32_t fk_gemm_alignment(const void *p) {
  uint32_t a = 16;
  while ((uintptr_t)p % a) a /= 2;
  return a;
}

#endif
