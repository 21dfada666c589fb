/* The inside of the CUDA device, for the files that speak CUDA: launch code of kernels, library wrappers.
 *
 * fk_fault is how a kernel says that an index in its input is wrong: it lies in pinned memory that the GPU writes and
 * the host reads after it has waited. The first fault of a run wins; the kernel goes on with a zero in place of what it
 * could not read, and stores nothing where it could not write. */
#ifndef FK_DEVICE_CUDA_RUNTIME_H
#define FK_DEVICE_CUDA_RUNTIME_H

#include <cuda_runtime_api.h>

#include "core/kernel.h"
#include "device/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fk_fault {
  unsigned raised;   /* 0 until the first one */
  const char *where; /* a static string of the host: "embedding: input_ids" */
  int64_t value, limit;
} fk_fault;

enum { FK_STAGING_QUARTERS = 4 };

/* What computed a part of a call (cuda.h): a name, or, where there was a choice by measurement, who can tell more. */
enum { FK_CUDA_MAX_CHOSEN = 8 };
typedef struct fk_cuda_chosen {
  const char *name; /* static, or NULL */
  void (*describe)(const void *self, char *text, size_t size);
  const void *self;
} fk_cuda_chosen;

struct fk_cuda {
  fk_memory memory; /* first: the arena's handle on this object */
  int device_id, num_sms, compute_capability;
  size_t max_shared_bytes; /* per block, opted in */
  cudaStream_t stream;
  fk_fault *fault;        /* host side of the pinned word */
  fk_fault *device_fault; /* the same as the GPU sees it */
  char *staging;          /* pinned, made when first used */
  size_t staging_used;    /* a ring of quarters */
  cudaEvent_t quarter_done[FK_STAGING_QUARTERS];
  bool capturing;
  struct fk_cublaslt *cublaslt; /* made when first used */
  struct fk_cudnn *cudnn;
  struct fk_nccl *nccl;
  bool cublaslt_tried;
  struct fk_gemm_table *gemms;               /* gemm.h: which algorithm computes which shape */
  fk_cuda_chosen chosen[FK_CUDA_MAX_CHOSEN]; /* since the reset, every one once */
  int num_chosen;
};

fk_cuda *fk_context_cuda(const fk_context *ctx);

/* Turns a CUDA error into a status that names call, file and line. */
fk_status fk_cuda_failed(cudaError_t error, const char *call, const char *file, int line);

#define FK_CUDA_TRY(call)                                                                              \
  do {                                                                                                 \
    cudaError_t fk_cuda_error = (call);                                                                \
    if (fk_cuda_error != cudaSuccess) return fk_cuda_failed(fk_cuda_error, #call, __FILE__, __LINE__); \
  } while (0)

/* Says that the kernel of this name, or what can describe itself, computes a part of the call. */
void fk_cuda_chose(fk_context *ctx, const char *name);
void fk_cuda_chose_of(fk_cuda *cuda, fk_cuda_chosen chosen);

/* A driver function by name, through the runtime; NULL when the driver has none. */
void *fk_cuda_driver_function(const char *name);

#ifdef __cplusplus
}
#endif

#endif
