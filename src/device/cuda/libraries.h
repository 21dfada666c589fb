/* cuBLASLt and cuDNN, loaded when a kernel first asks for them. Neither is needed to build or to run: a task whose
 * library is missing uses its own kernel. Handles belong to the fk_cuda. */
#ifndef FK_DEVICE_CUDA_LIBRARIES_H
#define FK_DEVICE_CUDA_LIBRARIES_H

#include "device/cuda/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fk_cublaslt fk_cublaslt;
typedef struct fk_cudnn fk_cudnn;

/* NULL when the library cannot be had; tried once per fk_cuda. */
fk_cublaslt *fk_cuda_cublaslt(fk_cuda *cuda);
void fk_cublaslt_destroy(fk_cublaslt *lt);
void fk_cublaslt_version(char *text, size_t size); /* "" when there is none: fk_last_error says where it was sought */
int fk_cublaslt_number(const fk_cublaslt *lt);     /* 130101 is 13.1.1; 0 for NULL */

fk_cudnn *fk_cuda_cudnn(fk_cuda *cuda);
void fk_cudnn_destroy(fk_cudnn *dnn);
void fk_cudnn_version(char *text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
