/* NCCL, loaded at run time (nccl.h). */
#include "device/cuda/nccl.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/context.h"
#include "device/cuda/libraries.h"

#if __has_include(<nccl.h>)
#include <nccl.h>

#define FUNCTIONS(X)                   \
  X(ncclGetUniqueId, get_unique_id)    \
  X(ncclCommInitRank, comm_init_rank)  \
  X(ncclCommDestroy, comm_destroy)     \
  X(ncclGetErrorString, error_string)  \
  X(ncclAllReduce, all_reduce)         \
  X(ncclAllGather, all_gather)         \
  X(ncclReduceScatter, reduce_scatter) \
  X(ncclSend, send)                    \
  X(ncclRecv, recv)                    \
  X(ncclGroupStart, group_start)       \
  X(ncclGroupEnd, group_end)

struct fk_nccl {
#define POINTER(symbol, name) __typeof__(symbol) *name;
  FUNCTIONS(POINTER)
#undef POINTER
  float *word; /* device memory that barriers sum */
};

_Static_assert(sizeof(ncclUniqueId) == FK_CUDA_ID_BYTES, "the size of NCCL's unique id");

enum { WARM_BYTES = 32 << 20 };

/* ---- The library ----------------------------------------------------------------------------------------- */

/* Changed only where it differs: other threads may be reading the environment. */
static void set(const char *name, const char *value, bool always) {
  const char *now = getenv(name);
  if (!now || (always && strcmp(now, value) != 0)) setenv(name, value, 1);
}

static void *open_library(void) {
  static const char *const name = "libnccl.so.2";
  const char *toolkits[] = {getenv("CUDA_HOME"), getenv("CUDA_PATH"), "/usr/local/cuda", "/opt/cuda"};
  set("NCCL_NVLS_ENABLE", "0", true);      /* multicast can put GPUs that others share out of service */
  set("NCCL_RUNTIME_CONNECT", "0", false); /* connect when the group is joined, not within some later call */
  set("NCCL_GRAPH_REGISTER", "0", false);  /* a recorded buffer may be freed before NCCL has let go of it */
  void *library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
  for (size_t t = 0; t < sizeof toolkits / sizeof *toolkits && !library; t++)
    library = fk_library_open_in(toolkits[t], &name, 1, RTLD_NOW | RTLD_GLOBAL);
  if (!library)
    fk_fail(FK_ERROR_NOT_FOUND,
            "NCCL: no libnccl.so.2 where the loader looks, nor in lib64, lib or targets/*/lib of $CUDA_HOME, "
            "$CUDA_PATH, /usr/local/cuda, /opt/cuda (a wheel of PyTorch has one in nvidia/nccl/lib)");
  return library;
}

static fk_status load(fk_nccl *nccl) {
  void *library = open_library();
  bool ok = library != NULL;
#define FIND(symbol, name) ok = ok && fk_library_find(library, "NCCL", #symbol, &nccl->name);
  FUNCTIONS(FIND)
#undef FIND
  return ok ? FK_OK : FK_ERROR_NOT_FOUND;
}

void fk_nccl_destroy(fk_nccl *nccl) {
  if (!nccl) return;
  if (nccl->word) cudaFree(nccl->word);
  free(nccl);
}

static fk_status failed(const fk_nccl *nccl, ncclResult_t result, const char *what) {
  if (result == ncclSuccess) return FK_OK;
  cudaGetLastError();
  return fk_fail(FK_ERROR_KERNEL, "NCCL: %s: %s", what, nccl->error_string(result));
}

/* ---- Groups ---------------------------------------------------------------------------------------------- */

fk_status fk_cuda_unique_id(char id[FK_CUDA_ID_BYTES]) {
  fk_nccl nccl = {0};
  ncclUniqueId unique;
  FK_TRY(load(&nccl));
  FK_TRY(failed(&nccl, nccl.get_unique_id(&unique), "ncclGetUniqueId"));
  memcpy(id, &unique, sizeof unique);
  return FK_OK;
}

/* NCCL connects ranks when they first need each other, by sockets. A later user may not open any: every way of
 * talking is used once. */
static fk_status warm_up(const fk_cuda *cuda, ncclComm_t comm, int rank, int world_size) {
  const fk_nccl *nccl = cuda->nccl;
  char *room = NULL;
  FK_CUDA_TRY(cudaMalloc((void **)&room, (size_t)WARM_BYTES * 2));
  size_t sizes[] = {1, 1 << 12, 1 << 17, WARM_BYTES / sizeof(float)};
  float *in = (float *)(void *)room, *out = in + WARM_BYTES / sizeof(float);
  ncclResult_t result = ncclSuccess;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !result; i++) {
    size_t each = sizes[i] / (size_t)world_size;
    result = nccl->all_reduce(in, out, sizes[i], ncclFloat, ncclSum, comm, cuda->stream);
    if (!result) result = nccl->all_gather(in, out, each, ncclFloat, comm, cuda->stream);
    if (!result) result = nccl->reduce_scatter(in, out, each, ncclFloat, ncclSum, comm, cuda->stream);
  }
  if (!result) result = nccl->group_start();
  for (int peer = 0; peer < world_size && !result; peer++) {
    if (peer == rank) continue;
    result = nccl->send(in, 1, ncclFloat, peer, comm, cuda->stream);
    if (!result) result = nccl->recv(out + peer, 1, ncclFloat, peer, comm, cuda->stream);
  }
  if (!result) result = nccl->group_end();
  cudaError_t error = cudaStreamSynchronize(cuda->stream);
  cudaFree(room);
  FK_TRY(failed(nccl, result, "the first calls of a group"));
  FK_CUDA_TRY(error);
  return FK_OK;
}

fk_status fk_cuda_join(fk_cuda *cuda, const char *id, int rank, int world_size, int64_t *out) {
  ncclUniqueId unique;
  ncclComm_t comm = NULL;
  *out = 0;
  memcpy(&unique, id, sizeof unique);
  FK_TRY(fk_cuda_enter(cuda));
  if (!cuda->nccl) {
    fk_nccl *nccl = calloc(1, sizeof *nccl);
    if (!nccl) return fk_fail(FK_ERROR_MEMORY, "NCCL: cannot allocate");
    fk_status status = load(nccl);
    if (status) {
      free(nccl);
      return status;
    }
    cuda->nccl = nccl;
  }
  if (!cuda->nccl->word) {
    FK_CUDA_TRY(cudaMalloc((void **)&cuda->nccl->word, sizeof(float)));
    FK_CUDA_TRY(cudaMemset(cuda->nccl->word, 0, sizeof(float)));
  }
  FK_TRY(failed(cuda->nccl, cuda->nccl->comm_init_rank(&comm, world_size, unique, rank), "ncclCommInitRank"));
  fk_status status = warm_up(cuda, comm, rank, world_size);
  if (status) {
    cuda->nccl->comm_destroy(comm);
    return status;
  }
  *out = (int64_t)(intptr_t)comm;
  return FK_OK;
}

void fk_cuda_leave(fk_cuda *cuda, int64_t comm) {
  if (!comm || fk_cuda_enter(cuda) != FK_OK) return;
  cudaStreamSynchronize(cuda->stream);
  cuda->nccl->comm_destroy((ncclComm_t)(intptr_t)comm);
}

fk_status fk_cuda_barrier(fk_cuda *cuda, int64_t comm) {
  if (!comm || !cuda->nccl) return fk_fail(FK_ERROR_ARGUMENT, "NCCL: a barrier without a group");
  FK_TRY(fk_cuda_enter(cuda));
  float *word = cuda->nccl->word;
  return failed(cuda->nccl,
                cuda->nccl->all_reduce(word, word, 1, ncclFloat, ncclSum, (ncclComm_t)(intptr_t)comm, cuda->stream),
                "a barrier");
}

/* ---- Collectives ----------------------------------------------------------------------------------------- */

static fk_status prepare(fk_context *ctx, fk_type type, const fk_nccl **nccl, ncclDataType_t *as) {
  *nccl = fk_context_cuda(ctx)->nccl;
  *as = type == FK_F32 ? ncclFloat : type == FK_BF16 ? ncclBfloat16 : ncclHalf;
  if (!*nccl) return fk_fail(FK_ERROR_ARGUMENT, "NCCL: the communicator is not one that this context joined");
  if (type != FK_F32 && type != FK_BF16 && type != FK_F16)
    return fk_fail(FK_ERROR_UNSUPPORTED, "NCCL: dtype %s is not computed", fk_type_name(type));
  return FK_OK;
}

fk_status fk_nccl_all_reduce(fk_context *ctx, int64_t comm, const void *in, void *out, int64_t count, fk_type type) {
  const fk_nccl *nccl;
  ncclDataType_t as;
  FK_TRY(prepare(ctx, type, &nccl, &as));
  return failed(
      nccl,
      nccl->all_reduce(in, out, (size_t)count, as, ncclSum, (ncclComm_t)(intptr_t)comm, fk_context_cuda(ctx)->stream),
      "ncclAllReduce");
}

fk_status fk_nccl_all_gather(fk_context *ctx, int64_t comm, const void *in, void *out, int64_t count, fk_type type) {
  const fk_nccl *nccl;
  ncclDataType_t as;
  FK_TRY(prepare(ctx, type, &nccl, &as));
  return failed(nccl,
                nccl->all_gather(in, out, (size_t)count, as, (ncclComm_t)(intptr_t)comm, fk_context_cuda(ctx)->stream),
                "ncclAllGather");
}

fk_status fk_nccl_reduce_scatter(fk_context *ctx, int64_t comm, const void *in, void *out, int64_t count,
                                 fk_type type) {
  const fk_nccl *nccl;
  ncclDataType_t as;
  FK_TRY(prepare(ctx, type, &nccl, &as));
  return failed(nccl,
                nccl->reduce_scatter(in, out, (size_t)count, as, ncclSum, (ncclComm_t)(intptr_t)comm,
                                     fk_context_cuda(ctx)->stream),
                "ncclReduceScatter");
}

#else /* a toolkit without NCCL's header */

static fk_status none(void) {
  return fk_fail(FK_ERROR_UNSUPPORTED, "NCCL: compiled without its header");
}
void fk_nccl_destroy(fk_nccl *nccl) {
  (void)nccl;
}
fk_status fk_cuda_unique_id(char id[FK_CUDA_ID_BYTES]) {
  (void)id;
  return none();
}
fk_status fk_cuda_join(fk_cuda *cuda, const char *id, int rank, int world_size, int64_t *comm) {
  (void)cuda, (void)id, (void)rank, (void)world_size;
  *comm = 0;
  return none();
}
void fk_cuda_leave(fk_cuda *cuda, int64_t comm) {
  (void)cuda, (void)comm;
}
fk_status fk_cuda_barrier(fk_cuda *cuda, int64_t comm) {
  (void)cuda, (void)comm;
  return none();
}
fk_status fk_nccl_all_reduce(fk_context *ctx, int64_t comm, const void *in, void *out, int64_t count, fk_type type) {
  (void)ctx, (void)comm, (void)in, (void)out, (void)count, (void)type;
  return none();
}
fk_status fk_nccl_all_gather(fk_context *ctx, int64_t comm, const void *in, void *out, int64_t count, fk_type type) {
  (void)ctx, (void)comm, (void)in, (void)out, (void)count, (void)type;
  return none();
}
fk_status fk_nccl_reduce_scatter(fk_context *ctx, int64_t comm, const void *in, void *out, int64_t count,
                                 fk_type type) {
  (void)ctx, (void)comm, (void)in, (void)out, (void)count, (void)type;
  return none();
}
#endif
