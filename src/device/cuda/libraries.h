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

/* A convolution of dense channels-last images. The two functions get `self`: own computes it without the library in one
 * of num_own ways, the first of which is the one to take unmeasured; weights gives the filters as
 * [out_channels][kernel_h][kernel_w][in_channels / groups], in scratch if need be. */
enum { FK_CONV_MAX_OWN = 4 };
typedef struct fk_cudnn_conv {
  fk_type type;
  int batch, height, width, in_channels, out_height, out_width, out_channels;
  int kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups;
  const void *x, *bias; /* bias may be NULL */
  void *out;
  const void *self;
  int num_own;
  const char *own_names[FK_CONV_MAX_OWN]; /* static; they go into the file of choices */
  fk_status (*own)(fk_context *ctx, const void *self, int way);
  fk_status (*weights)(fk_context *ctx, const void *self, const void **weights);
} fk_cudnn_conv;

/* Computes it by own or by the library. The first call of a shape outside a graph recording measures all ways, with
 * cold caches (measure.h), and the fastest one is kept, also in a file (choice_file.h); before that, for small shapes
 * and with FASTKERNELS_TUNE=0 it is the first own way. Of the library only algorithms that multiply window by window
 * are taken: transforms spread one infinity over its neighbours. */
fk_status fk_cudnn_convolve(fk_context *ctx, const fk_cudnn_conv *c);

/* The first of the names that a toolkit's library folders have, folder by folder; NULL when there is none, or no
 * toolkit (NULL or ""). mode is dlopen's. */
void *fk_library_open_in(const char *toolkit, const char *const *names, size_t count, int mode);

/* Stores the address of a library's function at *function. False with the error set, naming what, when it has none. */
bool fk_library_find(void *library, const char *what, const char *symbol, void *function);

#ifdef __cplusplus
}
#endif

#endif
