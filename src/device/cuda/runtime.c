/* One GPU: stream, memory, transfers, waiting (device/cuda.h). */
#include "device/cuda/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda/gemm.h"
#include "device/cuda/libraries.h"
#include "device/cuda/nccl.h"

enum { STAGING_BYTES = 64 << 20, QUARTER = STAGING_BYTES / FK_STAGING_QUARTERS, STAGING_ALIGN = 256, PIECE = 1 << 20 };

fk_status fk_cuda_failed(cudaError_t error, const char *call, const char *file, int line) {
  const char *slash = strrchr(file, '/');
  const char *parent = slash;
  while (parent && parent > file && parent[-1] != '/') parent--; /* folder/file says which kernel's cuda.cu it is */
  cudaGetLastError();                                            /* sticky errors stay, others are done with */
  fk_status status = error == cudaErrorMemoryAllocation ? FK_ERROR_MEMORY : FK_ERROR_KERNEL;
  return fk_fail(status, "%s at %s:%d: %s: %s", call, parent ? parent : file, line, cudaGetErrorName(error),
                 cudaGetErrorString(error));
}

int fk_cuda_device_count(void) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

const char *fk_cuda_architectures(void) {
  return FK_CUDA_ARCHITECTURES;
}

void *fk_cuda_driver_function(const char *name) {
  void *function = NULL;
  enum cudaDriverEntryPointQueryResult found;
  if (cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found) != cudaSuccess) {
    cudaGetLastError();
    return NULL;
  }
  return found == cudaDriverEntryPointSuccess ? function : NULL;
}

/* ---- Memory ---------------------------------------------------------------------------------------------- */

static void *device_alloc(fk_memory *self, size_t bytes) {
  const fk_cuda *cuda = (const fk_cuda *)self;
  void *block = NULL;
  if (cudaSetDevice(cuda->device_id) != cudaSuccess || cudaMalloc(&block, bytes) != cudaSuccess) {
    cudaGetLastError();
    return NULL;
  }
  return block;
}

/* cudaFree waits for the kernels that may still use the block. */
static void device_release(fk_memory *self, void *block, size_t bytes) {
  const fk_cuda *cuda = (const fk_cuda *)self;
  (void)bytes;
  cudaSetDevice(cuda->device_id);
  cudaFree(block);
}

fk_memory *fk_cuda_memory(fk_cuda *cuda) {
  return &cuda->memory;
}

/* ---- Life ------------------------------------------------------------------------------------------------ */

static fk_status open(fk_cuda *cuda) {
  struct cudaDeviceProp properties;
  FK_CUDA_TRY(cudaSetDevice(cuda->device_id));
  FK_CUDA_TRY(cudaGetDeviceProperties(&properties, cuda->device_id));
  cuda->num_sms = properties.multiProcessorCount;
  cuda->compute_capability = 10 * properties.major + properties.minor;
  cuda->max_shared_bytes = properties.sharedMemPerBlockOptin;
  if (cuda->compute_capability < 80)
    return fk_fail(FK_ERROR_UNSUPPORTED, "cuda: %s has compute capability %d.%d; expected 8.0 or later",
                   properties.name, properties.major, properties.minor);
  FK_CUDA_TRY(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking));
  FK_CUDA_TRY(cudaHostAlloc((void **)&cuda->fault, sizeof *cuda->fault, cudaHostAllocMapped));
  memset(cuda->fault, 0, sizeof *cuda->fault);
  FK_CUDA_TRY(cudaHostGetDevicePointer((void **)&cuda->device_fault, cuda->fault, 0));
  return FK_OK;
}

fk_status fk_cuda_create(int device_id, fk_cuda **out) {
  *out = NULL;
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    int driver = 0; /* 0 where there is none, which the runtime calls one that is too old */
    if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
    cudaGetLastError();
    return fk_fail(FK_ERROR_UNSUPPORTED, "cuda: there is no usable GPU: %s",
                   !error        ? "no device"
                   : driver == 0 ? "no driver (libcuda.so.1) is installed"
                                 : cudaGetErrorString(error));
  }
  if (device_id < 0 || device_id >= count)
    return fk_fail(FK_ERROR_ARGUMENT, "cuda: expected a device from 0 to %d, got %d", count - 1, device_id);
  fk_cuda *cuda = calloc(1, sizeof *cuda);
  if (!cuda) return fk_fail(FK_ERROR_MEMORY, "cuda: cannot allocate");
  cuda->memory = (fk_memory){device_alloc, device_release};
  cuda->device_id = device_id;
  fk_status status = open(cuda);
  if (status) {
    fk_cuda_destroy(cuda);
    return status;
  }
  *out = cuda;
  return FK_OK;
}

void fk_cuda_destroy(fk_cuda *cuda) {
  if (!cuda) return;
  cudaSetDevice(cuda->device_id);
  if (cuda->stream) cudaStreamSynchronize(cuda->stream);
  fk_gemm_table_destroy(cuda->gemms, cuda->cublaslt);
  fk_cublaslt_destroy(cuda->cublaslt);
  fk_cudnn_destroy(cuda->cudnn);
  fk_nccl_destroy(cuda->nccl);
  for (int i = 0; i < FK_STAGING_QUARTERS; i++)
    if (cuda->quarter_done[i]) cudaEventDestroy(cuda->quarter_done[i]);
  if (cuda->staging) cudaFreeHost(cuda->staging);
  if (cuda->fault) cudaFreeHost(cuda->fault);
  if (cuda->stream) cudaStreamDestroy(cuda->stream);
  free(cuda);
}

static int attribute(const fk_cuda *cuda, enum cudaDeviceAttr which) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, which, cuda->device_id) != cudaSuccess) cudaGetLastError();
  return value;
}

fk_status fk_cuda_describe(fk_cuda *cuda, fk_cuda_info *info) {
  struct cudaDeviceProp properties;
  *info = (fk_cuda_info){.compute_capability = cuda->compute_capability, .num_sms = cuda->num_sms};
  FK_CUDA_TRY(cudaGetDeviceProperties(&properties, cuda->device_id));
  snprintf(info->name, sizeof info->name, "%s", properties.name);
  info->memory_bytes = properties.totalGlobalMem;
  info->l2_bytes = (size_t)properties.l2CacheSize;
  info->memory_bus_bits = properties.memoryBusWidth;
  info->clock_khz = attribute(cuda, cudaDevAttrClockRate);
  info->memory_clock_khz = attribute(cuda, cudaDevAttrMemoryClockRate);
  info->compiled_version = CUDART_VERSION;
  FK_CUDA_TRY(cudaDriverGetVersion(&info->driver_version));
  FK_CUDA_TRY(cudaRuntimeGetVersion(&info->runtime_version));
  fk_cublaslt_version(info->cublaslt, sizeof info->cublaslt);
  fk_cudnn_version(info->cudnn, sizeof info->cudnn);
  return FK_OK;
}

int fk_cuda_device_id(const fk_cuda *cuda) {
  return cuda->device_id;
}

void *fk_cuda_stream(const fk_cuda *cuda) {
  return cuda->stream;
}

fk_status fk_cuda_enter(const fk_cuda *cuda) {
  FK_CUDA_TRY(cudaSetDevice(cuda->device_id));
  return FK_OK;
}

/* ---- Transfers ------------------------------------------------------------------------------------------- */

static fk_status make_staging(fk_cuda *cuda) {
  if (cuda->staging) return FK_OK;
  for (int i = 0; i < FK_STAGING_QUARTERS; i++)
    if (!cuda->quarter_done[i]) FK_CUDA_TRY(cudaEventCreateWithFlags(&cuda->quarter_done[i], cudaEventDisableTiming));
  FK_CUDA_TRY(cudaHostAlloc((void **)&cuda->staging, STAGING_BYTES, cudaHostAllocDefault));
  return FK_OK;
}

/* At most a quarter of the ring, contiguous. Entering a quarter waits until its last copies have been made. */
static fk_status stage(fk_cuda *cuda, size_t wanted, char **at, size_t *bytes) {
  size_t used = cuda->staging_used, quarter = used / QUARTER, left = QUARTER - used % QUARTER;
  bool small = wanted <= QUARTER / 2;
  if (used % QUARTER && (left < wanted && small)) { /* a small copy is not split: leave the quarter's rest */
    used += left;
    left = QUARTER;
  }
  if (used / QUARTER != quarter || (used && used % QUARTER == 0)) {
    size_t last = (used / QUARTER + FK_STAGING_QUARTERS - 1) % FK_STAGING_QUARTERS;
    FK_CUDA_TRY(cudaEventRecord(cuda->quarter_done[last], cuda->stream));
    used %= STAGING_BYTES;
    FK_CUDA_TRY(cudaEventSynchronize(cuda->quarter_done[used / QUARTER]));
  }
  *at = cuda->staging + used;
  *bytes = wanted < left ? wanted : left;
  used += (*bytes + STAGING_ALIGN - 1) / STAGING_ALIGN * STAGING_ALIGN;
  cuda->staging_used = used;
  return FK_OK;
}

fk_status fk_cuda_upload(fk_cuda *cuda, void *to, const void *from, size_t bytes) {
  FK_TRY(fk_cuda_enter(cuda));
  if (bytes) FK_TRY(make_staging(cuda));
  while (bytes) {
    char *at;
    size_t n;
    FK_TRY(stage(cuda, bytes, &at, &n));
#pragma omp parallel for if (n > 4 * PIECE) num_threads(8)
    for (size_t i = 0; i < n; i += PIECE) memcpy(at + i, (const char *)from + i, n - i < PIECE ? n - i : PIECE);
    FK_CUDA_TRY(cudaMemcpyAsync(to, at, n, cudaMemcpyHostToDevice, cuda->stream));
    to = (char *)to + n;
    from = (const char *)from + n;
    bytes -= n;
  }
  return FK_OK;
}

fk_status fk_cuda_download(fk_cuda *cuda, void *to, const void *from, size_t bytes) {
  FK_TRY(fk_cuda_enter(cuda));
  if (bytes) FK_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda->stream));
  return fk_cuda_sync(cuda);
}

fk_status fk_cuda_copy(fk_cuda *cuda, void *to, const void *from, size_t bytes) {
  FK_TRY(fk_cuda_enter(cuda));
  if (bytes) FK_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda->stream));
  return FK_OK;
}

fk_status fk_cuda_fill(fk_cuda *cuda, void *to, int byte, size_t bytes) {
  FK_TRY(fk_cuda_enter(cuda));
  if (bytes) FK_CUDA_TRY(cudaMemsetAsync(to, byte, bytes, cuda->stream));
  return FK_OK;
}

fk_status fk_cuda_sync(fk_cuda *cuda) {
  FK_TRY(fk_cuda_enter(cuda));
  FK_CUDA_TRY(cudaStreamSynchronize(cuda->stream));
  if (!cuda->fault->raised) return FK_OK;
  fk_fault fault = *cuda->fault;
  memset(cuda->fault, 0, sizeof *cuda->fault);
  return fk_fail(FK_ERROR_ARGUMENT, "%s: expected a value from 0 to %lld, got %lld", fault.where,
                 (long long)fault.limit - 1, (long long)fault.value);
}

void fk_cuda_chose_of(fk_cuda *cuda, fk_cuda_chosen chosen) {
  for (int i = 0; i < cuda->num_chosen; i++)
    if (cuda->chosen[i].name == chosen.name && cuda->chosen[i].self == chosen.self) return;
  if (cuda->num_chosen < FK_CUDA_MAX_CHOSEN) cuda->chosen[cuda->num_chosen++] = chosen;
}

void fk_cuda_chose(fk_context *ctx, const char *name) {
  fk_cuda_chose_of(fk_context_cuda(ctx), (fk_cuda_chosen){.name = name});
}

void fk_cuda_choice_reset(fk_cuda *cuda) {
  cuda->num_chosen = 0;
}

void fk_cuda_choice(const fk_cuda *cuda, char *text, size_t size) {
  size_t at = 0;
  if (size) *text = '\0';
  for (int i = 0; i < cuda->num_chosen; i++) {
    const fk_cuda_chosen *c = &cuda->chosen[i];
    if (i > 0 && at + 4 < size) at += (size_t)snprintf(text + at, size - at, " + ");
    if (at + 1 >= size) return;
    if (c->describe)
      c->describe(c->self, text + at, size - at);
    else
      snprintf(text + at, size - at, "%s", c->name);
    at += strlen(text + at);
  }
}
