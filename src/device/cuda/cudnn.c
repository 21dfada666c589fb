/* cuDNN, loaded at run time (libraries.h), and the choice between it and own kernels. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/context.h"
#include "device/cuda/choice_file.h"
#include "device/cuda/libraries.h"
#include "device/cuda/measure.h"

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

enum { WORKSPACE_BYTES = 64 << 20, NUM_ALGORITHMS = 2 };
/* Below this a wrong choice costs less than loading the library. */
static const double worth_flops = 1 << 26;
static const cudnnConvolutionFwdAlgo_t algorithms[NUM_ALGORITHMS] = {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
                                                                     CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM};
static const char *const algorithm_names[NUM_ALGORITHMS] = {"cudnn implicit_precomp_gemm", "cudnn implicit_gemm"};

/* What a choice depends on. */
typedef struct key {
  int type, batch, height, width, in_channels, out_channels;
  int kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups, has_bias;
} key;

typedef struct entry {
  struct entry *next;
  key key;
  int way; /* own ones first, then the library's algorithms */
  bool measured;
  const char *name;
  char report[96]; /* of the measurement */
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
  fk_choice_file *file;
  fk_meter meter;
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

fk_cudnn *fk_cuda_cudnn(fk_cuda *cuda) {
  if (cuda->cudnn) return cuda->cudnn->library ? cuda->cudnn : NULL;
  if (fk_cuda_recording(cuda)) return NULL; /* another time: nothing is allocated in a recording */
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
  fk_choice_file_close(dnn->file);
  fk_meter_close(&dnn->meter);
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
  e->name = c->own_names[0];
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

static fk_status run(fk_context *ctx, const fk_cudnn *dnn, const entry *e, const fk_cudnn_conv *c, int way) {
  return way < c->num_own ? c->own(ctx, c->self, way) : run_library(ctx, dnn, e, c, way - c->num_own);
}

static const char *name_of(const fk_cudnn_conv *c, int way) {
  return way < c->num_own ? c->own_names[way] : algorithm_names[way - c->num_own];
}

static double flops_of(const fk_cudnn_conv *c) {
  return 2.0 * c->batch * c->out_height * c->out_width * (double)c->out_channels *
         (double)(c->in_channels / c->groups) * c->kernel_h * c->kernel_w;
}

/* ---- Choosing -------------------------------------------------------------------------------------------- */

typedef struct contest {
  fk_context *ctx;
  const fk_cudnn *dnn;
  const entry *e;
  const fk_cudnn_conv *c;
} contest;

static fk_status run_candidate(void *self, int candidate, int repetition) {
  const contest *t = self;
  (void)repetition;
  fk_context_mark mark = fk_context_save(t->ctx);
  fk_status status = run(t->ctx, t->dnn, t->e, t->c, candidate);
  fk_context_rewind(t->ctx, mark);
  return status;
}

static void shape_text(const key *k, char *text, size_t size) {
  snprintf(text, size, "conv2d %s n%d h%d w%d c%d o%d k%dx%d s%d,%d p%d,%d d%d,%d g%d bias%d",
           fk_type_name((fk_type)k->type), k->batch, k->height, k->width, k->in_channels, k->out_channels, k->kernel_h,
           k->kernel_w, k->stride_h, k->stride_w, k->padding_h, k->padding_w, k->dilation_h, k->dilation_w, k->groups,
           k->has_bias);
}

static bool remembered(const fk_cudnn *dnn, entry *e, const fk_cudnn_conv *c, const char *shape) {
  const char *by;
  if (!fk_choice_file_get(dnn->file, shape, &by, NULL)) return false;
  for (int way = 0; way < c->num_own + NUM_ALGORITHMS; way++) {
    if (strcmp(by, name_of(c, way)) != 0) continue;
    if (way >= c->num_own && e->workspace[way - c->num_own] > WORKSPACE_BYTES) return false;
    e->way = way;
    e->name = name_of(c, way);
    return true;
  }
  return false;
}

/* Anything that fails leaves the first own way. */
static void choose(fk_context *ctx, fk_cudnn *dnn, entry *e, const fk_cudnn_conv *c) {
  char shape[256];
  fk_measured times[FK_MEASURE_MAX];
  contest t = {ctx, dnn, e, c};
  /* At 300 TFLOP/s. */
  fk_contest contest = {run_candidate, &t, c->num_own + NUM_ALGORITHMS, flops_of(c) / 3e8, true, c->num_own};
  if (!dnn->file)
    dnn->file = fk_choice_file_open(fk_context_cuda(ctx), "cudnn", dnn->library ? (int)dnn->get_version() : 0);
  shape_text(&e->key, shape, sizeof shape);
  if (remembered(dnn, e, c, shape)) return;
  int count = fk_measure(fk_context_cuda(ctx), &dnn->meter, &contest, times);
  if (count == 0) return;
  e->way = times[0].candidate;
  e->name = name_of(c, e->way);
  snprintf(e->report, sizeof e->report, " %.2f us", times[0].microseconds);
  if (count > 1)
    snprintf(e->report, sizeof e->report, " %.2f us; %s %.2f us", times[0].microseconds, name_of(c, times[1].candidate),
             times[1].microseconds);
  fk_choice_file_put(dnn->file, shape, e->name, NULL, times[0].microseconds);
}

static void describe_choice(const void *self, char *text, size_t size) {
  const entry *e = self;
  snprintf(text, size, "%s%s", e->name, e->report);
}

fk_status fk_cudnn_convolve(fk_context *ctx, const fk_cudnn_conv *c) {
  fk_cuda *cuda = fk_context_cuda(ctx);
  const char *tune = getenv("FASTKERNELS_TUNE");
  entry *e = NULL;
  if (flops_of(c) >= worth_flops && !(tune && strcmp(tune, "0") == 0)) {
    fk_cuda_cudnn(cuda);
    /* It holds the choices even where the library is missing. */
    e = cuda->cudnn ? entry_of(cuda->cudnn, c) : NULL;
  }
  if (!e) {
    fk_cuda_chose(ctx, c->own_names[0]);
    return c->own(ctx, c->self, 0);
  }
  if (!e->measured && !fk_cuda_recording(cuda)) {
    e->measured = true;
    choose(ctx, cuda->cudnn, e, c);
  }
  fk_cuda_chose_of(cuda, (fk_cuda_chosen){.describe = describe_choice, .self = e});
  return run(ctx, cuda->cudnn, e, c, e->way);
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
