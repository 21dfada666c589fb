/* cuDNN, loaded at run time (libraries.h), and the choice between it and own kernels. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/context.h"
#include "device/cuda/libraries.h"

#if __has_include(<cudnn.h>)
#include <cudnn.h>

#define FUNCTIONS(X)                                         \
  X(cudnnCreate, create)                                     \
  X(cudnnDestroy, destroy)                                   \
  X(cudnnGetVersion, get_version)                            \
  X(cudnnSetStream, set_stream)                              \
  X(cudnnCreateTensorDescriptor, tensor_create)              \
  X(cudnnSetTensor4dDescriptor, tensor_set)                  \
  X(cudnnDestroyTensorDescriptor, tensor_destroy)            \
  X(cudnnCreateFilterDescriptor, filter_create)              \
  X(cudnnSetFilter4dDescriptor, filter_set)                  \
  X(cudnnDestroyFilterDescriptor, filter_destroy)            \
  X(cudnnCreateConvolutionDescriptor, conv_create)           \
  X(cudnnSetConvolution2dDescriptor, conv_set)               \
  X(cudnnSetConvolutionMathType, conv_math)                  \
  X(cudnnSetConvolutionGroupCount, conv_groups)              \
  X(cudnnDestroyConvolutionDescriptor, conv_destroy)         \
  X(cudnnCreateActivationDescriptor, activation_create)      \
  X(cudnnSetActivationDescriptor, activation_set)            \
  X(cudnnDestroyActivationDescriptor, activation_destroy)    \
  X(cudnnGetConvolutionForwardWorkspaceSize, workspace_size) \
  X(cudnnConvolutionForward, forward)                        \
  X(cudnnConvolutionBiasActivationForward, forward_bias)

enum {
  WORKSPACE_BYTES = 64 << 20,
  SAMPLES = 7, /* of each candidate; odd */
  NUM_ALGORITHMS = 2
};
/* Below this a wrong choice costs less than loading the library. */
static const double worth_flops = 1 << 26;
static const cudnnConvolutionFwdAlgo_t algorithms[NUM_ALGORITHMS] = {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
                                                                     CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM};

/* What a choice depends on. */
typedef struct key {
  int type, batch, height, width, in_channels, out_channels;
  int kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups, has_bias;
} key;

typedef struct entry {
  struct entry *next;
  key key;
  int algorithm; /* of the library; -1: own, -2: own's second variant */
  bool measured;
  cudnnTensorDescriptor_t x, out, bias;
  cudnnFilterDescriptor_t filter;
  cudnnConvolutionDescriptor_t conv;
  size_t workspace[NUM_ALGORITHMS]; /* bytes; beyond WORKSPACE_BYTES: not to be used */
} entry;

struct fk_cudnn {
  void *library; /* NULL: it cannot be had */
#define POINTER(symbol, name) __typeof__(&symbol) name;
  FUNCTIONS(POINTER)
#undef POINTER
  cudnnHandle_t handle;
  cudnnActivationDescriptor_t identity;
  void *workspace;
  entry *entries;
};

/* ---- The library ----------------------------------------------------------------------------------------- */

static void *open_library(void) {
  static const char *const names[] = {"libcudnn.so.9", "libcudnn.so"};
  const char *toolkits[] = {getenv("CUDNN_PATH"), getenv("CUDA_HOME"), getenv("CUDA_PATH"), "/usr/local/cuda"};
  for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
    void *library = dlopen(names[n], RTLD_NOW | RTLD_LOCAL);
    for (size_t t = 0; t < sizeof toolkits / sizeof *toolkits && !library; t++)
      library = fk_library_open_in(toolkits[t], &names[n], 1, RTLD_NOW | RTLD_LOCAL);
    if (library) return library;
  }
  fk_fail(FK_ERROR_NOT_FOUND,
          "cuDNN: no libcudnn.so.9 where the loader looks, nor in $CUDNN_PATH, $CUDA_HOME, "
          "$CUDA_PATH or /usr/local/cuda (a wheel of PyTorch has one in nvidia/cudnn/lib)");
  return NULL;
}

static bool load(fk_cudnn *dnn) {
  void *library = open_library();
  bool ok = library != NULL;
#define FIND(symbol, name) ok = ok && fk_library_find(library, "cuDNN", #symbol, &dnn->name);
  FUNCTIONS(FIND)
#undef FIND
  if (ok) dnn->library = library;
  if (!ok && library) dlclose(library);
  return ok;
}

static void close_library(fk_cudnn *dnn) {
  if (dnn->identity) dnn->activation_destroy(dnn->identity);
  if (dnn->handle) dnn->destroy(dnn->handle);
  if (dnn->workspace) cudaFree(dnn->workspace);
  if (dnn->library) dlclose(dnn->library);
  dnn->identity = NULL;
  dnn->handle = NULL;
  dnn->workspace = dnn->library = NULL;
}

static bool open_handle(fk_cudnn *dnn, const fk_cuda *cuda) {
  return dnn->create(&dnn->handle) == CUDNN_STATUS_SUCCESS &&
         dnn->set_stream(dnn->handle, cuda->stream) == CUDNN_STATUS_SUCCESS &&
         dnn->activation_create(&dnn->identity) == CUDNN_STATUS_SUCCESS &&
         dnn->activation_set(dnn->identity, CUDNN_ACTIVATION_IDENTITY, CUDNN_NOT_PROPAGATE_NAN, 0) ==
             CUDNN_STATUS_SUCCESS &&
         cudaMalloc(&dnn->workspace, WORKSPACE_BYTES) == cudaSuccess;
}

static bool recording(const fk_cuda *cuda) {
  enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cuda->capturing) return true;
  if (cudaStreamIsCapturing(cuda->stream, &status) != cudaSuccess) cudaGetLastError();
  return status != cudaStreamCaptureStatusNone;
}

fk_cudnn *fk_cuda_cudnn(fk_cuda *cuda) {
  if (cuda->cudnn) return cuda->cudnn->library ? cuda->cudnn : NULL;
  if (recording(cuda)) return NULL; /* another time: nothing is allocated in a recording */
  fk_cudnn *dnn = cuda->cudnn = calloc(1, sizeof *dnn);
  if (!dnn || !load(dnn)) return NULL;
  if (open_handle(dnn, cuda)) return dnn;
  cudaGetLastError();
  close_library(dnn);
  return NULL;
}

void fk_cudnn_destroy(fk_cudnn *dnn) {
  if (!dnn) return;
  for (entry *e = dnn->entries, *next; e; e = next) {
    next = e->next;
    if (e->x) dnn->tensor_destroy(e->x);
    if (e->out) dnn->tensor_destroy(e->out);
    if (e->bias) dnn->tensor_destroy(e->bias);
    if (e->filter) dnn->filter_destroy(e->filter);
    if (e->conv) dnn->conv_destroy(e->conv);
    free(e);
  }
  close_library(dnn);
  free(dnn);
}

void fk_cudnn_version(char *text, size_t size) {
  fk_cudnn dnn = {0};
  if (size) *text = '\0';
  if (!load(&dnn)) return;
  size_t version = dnn.get_version();
  snprintf(text, size, "%zu.%zu.%zu", version / 10000, version / 100 % 100, version % 100);
  close_library(&dnn);
}

/* ---- Shapes ---------------------------------------------------------------------------------------------- */

static key key_of(const fk_cudnn_conv *c) {
  return (key){(int)c->type,  c->batch,      c->height,   c->width,       c->in_channels, c->out_channels,
               c->kernel_h,   c->kernel_w,   c->stride_h, c->stride_w,    c->padding_h,   c->padding_w,
               c->dilation_h, c->dilation_w, c->groups,   c->bias != NULL};
}

static cudnnDataType_t type_of(fk_type type) {
  return type == FK_F32 ? CUDNN_DATA_FLOAT : type == FK_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
}

static bool describe(const fk_cudnn *dnn, entry *e, const fk_cudnn_conv *c) {
  cudnnDataType_t type = type_of(c->type);
  const cudnnTensorFormat_t last = CUDNN_TENSOR_NHWC;
  cudnnMathType_t math = c->type == FK_F32 ? CUDNN_FMA_MATH : CUDNN_TENSOR_OP_MATH;
  return !dnn->tensor_create(&e->x) && !dnn->tensor_create(&e->out) && !dnn->tensor_create(&e->bias) &&
         !dnn->filter_create(&e->filter) && !dnn->conv_create(&e->conv) &&
         !dnn->tensor_set(e->x, last, type, c->batch, c->in_channels, c->height, c->width) &&
         !dnn->tensor_set(e->out, last, type, c->batch, c->out_channels, c->out_height, c->out_width) &&
         !dnn->tensor_set(e->bias, last, type, 1, c->out_channels, 1, 1) &&
         !dnn->filter_set(e->filter, type, last, c->out_channels, c->in_channels / c->groups, c->kernel_h,
                          c->kernel_w) &&
         !dnn->conv_set(e->conv, c->padding_h, c->padding_w, c->stride_h, c->stride_w, c->dilation_h, c->dilation_w,
                        CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT) &&
         !dnn->conv_math(e->conv, math) && !dnn->conv_groups(e->conv, c->groups);
}

/* NULL when there is no memory. Descriptors that cannot be had leave the library's algorithms out. */
static entry *entry_of(fk_cudnn *dnn, const fk_cudnn_conv *c) {
  key k = key_of(c);
  for (entry *e = dnn->entries; e; e = e->next)
    if (memcmp(&e->key, &k, sizeof k) == 0) return e;
  entry *e = calloc(1, sizeof *e);
  if (!e) return NULL;
  e->key = k;
  e->algorithm = -1;
  bool described = dnn->library && describe(dnn, e, c);
  for (int i = 0; i < NUM_ALGORITHMS; i++)
    if (!described || dnn->workspace_size(dnn->handle, e->x, e->filter, e->conv, e->out, algorithms[i],
                                          &e->workspace[i]) != CUDNN_STATUS_SUCCESS)
      e->workspace[i] = SIZE_MAX;
  e->next = dnn->entries;
  return dnn->entries = e;
}

/* ---- Running and measuring ------------------------------------------------------------------------------- */

static fk_status run_library(fk_context *ctx, const fk_cudnn *dnn, const entry *e, const fk_cudnn_conv *c, int i) {
  const float one = 1, zero = 0;
  const void *weights = NULL;
  cudnnStatus_t status;
  if (e->workspace[i] > WORKSPACE_BYTES) return fk_fail(FK_ERROR_UNSUPPORTED, "cuDNN: algorithm %d", i);
  FK_TRY(c->weights(ctx, c->self, &weights));
  if (c->bias)
    status =
        dnn->forward_bias(dnn->handle, &one, e->x, c->x, e->filter, weights, e->conv, algorithms[i], dnn->workspace,
                          WORKSPACE_BYTES, &zero, e->out, c->out, e->bias, c->bias, dnn->identity, e->out, c->out);
  else
    status = dnn->forward(dnn->handle, &one, e->x, c->x, e->filter, weights, e->conv, algorithms[i], dnn->workspace,
                          WORKSPACE_BYTES, &zero, e->out, c->out);
  if (status == CUDNN_STATUS_SUCCESS) return FK_OK;
  return fk_fail(FK_ERROR_UNSUPPORTED, "cuDNN: algorithm %d failed with status %d", i, (int)status);
}

static fk_status run(fk_context *ctx, const fk_cudnn *dnn, const entry *e, const fk_cudnn_conv *c, int algorithm) {
  return algorithm < 0 ? c->own(ctx, c->self, -1 - algorithm) : run_library(ctx, dnn, e, c, algorithm);
}

typedef struct stopwatch {
  void *flush; /* device memory, twice the L2 cache */
  size_t bytes;
  cudaEvent_t start, stop;
} stopwatch;

/* The memset clears the caches and keeps the GPU busy until everything is queued. */
static fk_status sample(fk_context *ctx, const fk_cudnn *dnn, const entry *e, const fk_cudnn_conv *c, int algorithm,
                        const stopwatch *k, float *milliseconds) {
  cudaStream_t stream = fk_context_cuda(ctx)->stream;
  fk_context_mark mark = fk_context_save(ctx);
  FK_CUDA_TRY(cudaMemsetAsync(k->flush, 0, k->bytes, stream));
  FK_CUDA_TRY(cudaEventRecord(k->start, stream));
  fk_status status = run(ctx, dnn, e, c, algorithm);
  fk_context_rewind(ctx, mark);
  FK_TRY(status);
  FK_CUDA_TRY(cudaEventRecord(k->stop, stream));
  FK_CUDA_TRY(cudaEventSynchronize(k->stop));
  FK_CUDA_TRY(cudaEventElapsedTime(milliseconds, k->start, k->stop));
  return FK_OK;
}

static const float FAILED = 1e30f;
static float measure(fk_context *ctx, const fk_cudnn *dnn, const entry *e, const fk_cudnn_conv *c, int algorithm,
                     const stopwatch *k) {
  float sorted[SAMPLES], ms = 0;
  for (int count = -1; count < SAMPLES; count++) {
    if (sample(ctx, dnn, e, c, algorithm, k, &ms) != FK_OK) {
      cudaGetLastError();
      return FAILED;
    }
    if (count < 0) continue; /* the first one loads code */
    int at = count;
    for (; at > 0 && sorted[at - 1] > ms; at--) sorted[at] = sorted[at - 1];
    sorted[at] = ms;
  }
  return sorted[SAMPLES / 2];
}

static fk_status start_clock(const fk_cuda *cuda, stopwatch *k) {
  int l2 = 0;
  FK_CUDA_TRY(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, cuda->device_id));
  k->bytes = 2 * (size_t)(l2 > 0 ? l2 : 32 << 20);
  FK_CUDA_TRY(cudaMalloc(&k->flush, k->bytes));
  FK_CUDA_TRY(cudaEventCreate(&k->start));
  FK_CUDA_TRY(cudaEventCreate(&k->stop));
  return FK_OK;
}

/* Anything that fails leaves the choice with own. */
static void choose(fk_context *ctx, const fk_cudnn *dnn, entry *e, const fk_cudnn_conv *c) {
  stopwatch k = {0};
  if (start_clock(fk_context_cuda(ctx), &k) == FK_OK) {
    float best = measure(ctx, dnn, e, c, -1, &k);
    for (int i = -2; i < NUM_ALGORITHMS; i++) {
      if (i == -1) continue;
      float ms = measure(ctx, dnn, e, c, i, &k);
      if (ms >= best) continue;
      best = ms;
      e->algorithm = i;
    }
  }
  if (k.start) cudaEventDestroy(k.start);
  if (k.stop) cudaEventDestroy(k.stop);
  if (k.flush) cudaFree(k.flush);
}

fk_status fk_cudnn_convolve(fk_context *ctx, const fk_cudnn_conv *c) {
  fk_cuda *cuda = fk_context_cuda(ctx);
  const char *tune = getenv("FASTKERNELS_TUNE");
  double flops = 2.0 * c->batch * c->out_height * c->out_width * (double)c->out_channels *
                 (double)(c->in_channels / c->groups) * c->kernel_h * c->kernel_w;
  if (flops < worth_flops || (tune && strcmp(tune, "0") == 0)) return c->own(ctx, c->self, 0);
  fk_cuda_cudnn(cuda);
  fk_cudnn *dnn = cuda->cudnn; /* holds the choices even where the library is missing */
  entry *e = dnn ? entry_of(dnn, c) : NULL;
  if (!e) return c->own(ctx, c->self, 0);
  if (!e->measured && !recording(cuda)) {
    e->measured = true;
    choose(ctx, dnn, e, c);
  }
  return run(ctx, dnn, e, c, e->algorithm);
}

#else /* a toolkit without cuDNN's header */

fk_cudnn *fk_cuda_cudnn(fk_cuda *cuda) {
  return cuda->cudnn;
}
void fk_cudnn_destroy(fk_cudnn *dnn) {
  free(dnn);
}
void fk_cudnn_version(char *text, size_t size) {
  if (size) *text = '\0';
}
fk_status fk_cudnn_convolve(fk_context *ctx, const fk_cudnn_conv *c) {
  return c->own(ctx, c->self, 0);
}
#endif
