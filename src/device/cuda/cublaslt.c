/* cuBLASLt, loaded at run time (libraries.h, cublaslt.h). */
#include "device/cuda/cublaslt.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef FK_HAVE_CUBLASLT

enum { WORKSPACE_BYTES = 64 << 20 };

static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};

/* Where the dynamic loader looks, then in the toolkits of this machine. */
static void *open_library(void) {
  const char *toolkits[] = {getenv("CUDA_HOME"), getenv("CUDA_PATH"), "/usr/local/cuda", "/opt/cuda"};
  void *library = NULL;
  for (size_t n = 0; n < sizeof names / sizeof *names && !library; n++)
    library = dlopen(names[n], RTLD_NOW | RTLD_LOCAL);
  for (size_t t = 0; t < sizeof toolkits / sizeof *toolkits && !library; t++)
    library = fk_library_open_in(toolkits[t], names, sizeof names / sizeof *names, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    fk_fail(FK_ERROR_NOT_FOUND,
            "cuBLASLt: none of %s, %s, %s on LD_LIBRARY_PATH or in the loader's folders, nor in lib64, lib or "
            "targets/*/lib of $CUDA_HOME, $CUDA_PATH, /usr/local/cuda, /opt/cuda (a wheel of PyTorch has one in "
            "nvidia/cu13/lib)",
            names[0], names[1], names[2]);
  return library;
}

static fk_cublaslt *load(void) {
  fk_cublaslt *lt = calloc(1, sizeof *lt);
  if (!lt) return NULL;
  lt->library = open_library();
  bool ok = lt->library != NULL;
#define FIND(symbol, name) ok = ok && fk_library_find(lt->library, "cuBLASLt", #symbol, &lt->name);
  FK_CUBLASLT_FUNCTIONS(FIND)
#undef FIND
  if (ok) {
    lt->version = (int)lt->get_version();
    return lt;
  }
  fk_cublaslt_destroy(lt);
  return NULL;
}

void fk_cublaslt_destroy(fk_cublaslt *lt) {
  if (!lt) return;
  if (lt->workspace) cudaFree(lt->workspace);
  if (lt->handle) lt->destroy(lt->handle);
  if (lt->library) dlclose(lt->library);
  free(lt);
}

void fk_cublaslt_version(char *text, size_t size) {
  if (size) *text = '\0';
  fk_cublaslt *lt = load();
  if (lt) snprintf(text, size, "%d.%d.%d", lt->version / 10000, lt->version / 100 % 100, lt->version % 100);
  fk_cublaslt_destroy(lt);
}

int fk_cublaslt_number(const fk_cublaslt *lt) {
  return lt ? lt->version : 0;
}

fk_cublaslt *fk_cuda_cublaslt(fk_cuda *cuda) {
  enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cuda->cublaslt || cuda->cublaslt_tried || cuda->capturing) return cuda->cublaslt;
  if (cudaStreamIsCapturing(cuda->stream, &status) != cudaSuccess) cudaGetLastError();
  if (status != cudaStreamCaptureStatusNone) return NULL; /* another time: nothing is allocated in a recording */
  cuda->cublaslt_tried = true;
  fk_cublaslt *lt = load();
  if (!lt) return NULL;
  if (lt->create(&lt->handle) != CUBLAS_STATUS_SUCCESS) {
    lt->handle = NULL;
    fk_fail(FK_ERROR_KERNEL, "cuBLASLt: cannot make a handle");
  } else if (cudaMalloc(&lt->workspace, WORKSPACE_BYTES) != cudaSuccess) {
    cudaGetLastError();
    lt->workspace = NULL;
    fk_fail(FK_ERROR_MEMORY, "cuBLASLt: no memory for a workspace of %d bytes", WORKSPACE_BYTES);
  } else {
    lt->workspace_bytes = WORKSPACE_BYTES;
    return cuda->cublaslt = lt;
  }
  fk_cublaslt_destroy(lt);
  return NULL;
}

#else /* a toolkit without cuBLASLt's header */

int fk_cublaslt_number(const fk_cublaslt *lt) {
  (void)lt;
  return 0;
}

fk_cublaslt *fk_cuda_cublaslt(fk_cuda *cuda) {
  return cuda->cublaslt;
}
void fk_cublaslt_destroy(fk_cublaslt *lt) {
  free(lt);
}
void fk_cublaslt_version(char *text, size_t size) {
  if (size) *text = '\0';
  fk_fail(FK_ERROR_NOT_FOUND, "cuBLASLt: compiled without its header");
}
#endif
