/* NCCL, loaded when a group of ranks is first joined. It is not needed to build or to run anything else. The library is
 * opened for all to see (RTLD_GLOBAL), so that a candidate may call it by name, and stays open. NVLink multicast stays
 * off: NCCL_NVLS_ENABLE is set to 0. The table belongs to the fk_cuda, a communicator to whoever joined
 * (device/cuda.h).
 *
 * The calls queue a collective on the stream of the context. comm is the number that fk_cuda_join gave. Counts are
 * elements of float32, bfloat16 or float16; all ranks must make the same calls in the same order. */
#ifndef FK_DEVICE_CUDA_NCCL_H
#define FK_DEVICE_CUDA_NCCL_H

#include "device/cuda/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fk_nccl fk_nccl;
void fk_nccl_destroy(fk_nccl *nccl);

fk_status fk_nccl_all_reduce(fk_context *ctx, int64_t comm, const void *in, void *out, int64_t count, fk_type type);
/* in: count elements of this rank; out: count of each. */
fk_status fk_nccl_all_gather(fk_context *ctx, int64_t comm, const void *in, void *out, int64_t count, fk_type type);
/* in: count elements for each rank; out: count. */
fk_status fk_nccl_reduce_scatter(fk_context *ctx, int64_t comm, const void *in, void *out, int64_t count, fk_type type);

#ifdef __cplusplus
}
#endif

#endif
