/* cuBLASLt, loaded at run time (libraries.h). */
#include <stdlib.h>

#include "device/cuda/libraries.h"

fk_cublaslt *fk_cuda_cublaslt(fk_cuda *cuda) {
  return cuda->cublaslt;
}
void fk_cublaslt_destroy(fk_cublaslt *lt) {
  free(lt);
}
void fk_cublaslt_version(char *text, size_t size) {
  if (size) *text = '\0';
}
