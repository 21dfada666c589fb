/* cuDNN, loaded at run time (libraries.h). */
#include <stdlib.h>

#include "device/cuda/libraries.h"

fk_cudnn *fk_cuda_cudnn(fk_cuda *cuda) {
  return cuda->cudnn;
}
void fk_cudnn_destroy(fk_cudnn *dnn) {
  free(dnn);
}
void fk_cudnn_version(char *text, size_t size) {
  if (size) *text = '\0';
}
