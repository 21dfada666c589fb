/* FastKernels ABI: the one header that a kernel needs.
 *
 * A kernel for task T is a shared object that exports
 *
 *     int __tvm_ffi_T(void *self, const fk_any *args, int32_t num_args, fk_any *result);
 *
 * which is the C calling convention of TVM-FFI 0.1 with DLPack 1.x tensors, so the same file loads in this
 * library, in PyTorch, vLLM, SGLang and JAX. The layouts below are re-declared here and checked at compile
 * time; nothing else has to be installed. The file is valid as C17, as C++17 and under nvcc.
 *
 * Arguments come in the order of the task's definition: inputs, weights, attributes, outputs and, if the
 * kernel also exports __tvm_ffi_T_workspace, one trailing one-dimensional uint8 tensor.
 *
 * Who owns what: args, the tensors they point to and their data belong to the caller and live until the call
 * returns. A kernel allocates nothing, keeps no pointer, never prints, exits, aborts or synchronises.
 * It returns 0, or -1 after fk_raise(). See docs/abi.md for every rule.
 */
#ifndef FASTKERNELS_ABI_H
#define FASTKERNELS_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define FK_EXTERN_C extern "C"
#define FK_STATIC_ASSERT(cond, text) static_assert(cond, text)
#else
#define FK_EXTERN_C
#define FK_STATIC_ASSERT(cond, text) _Static_assert(cond, text)
#endif

/* ---- DLPack ---------------------------------------------------------------------------------------------- */

enum { FK_DL_CPU = 1, FK_DL_CUDA = 2, FK_DL_CUDA_HOST = 3, FK_DL_CUDA_MANAGED = 13 };

typedef struct fk_device { /* = DLDevice */
  int32_t type;
  int32_t id;
} fk_device;

typedef struct fk_dtype { /* = DLDataType */
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} fk_dtype;

/* A tensor as DLPack lays it out. strides are in elements; NULL means contiguous in row-major order.
 * The first element lies at (char *)data + byte_offset: use fk_data(). */
typedef struct fk_tensor { /* = DLTensor */
  void *data;
  fk_device device;
  int32_t ndim;
  fk_dtype dtype;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
} fk_tensor;

/* A dtype as one integer, for switch: DLPack code in the high byte, bits in the low byte. */
#define FK_TYPE(code, bits) ((code) << 8 | (bits))
typedef enum fk_type {
  FK_I8 = FK_TYPE(0, 8),
  FK_I16 = FK_TYPE(0, 16),
  FK_I32 = FK_TYPE(0, 32),
  FK_I64 = FK_TYPE(0, 64),
  FK_U8 = FK_TYPE(1, 8),
  FK_F16 = FK_TYPE(2, 16),
  FK_F32 = FK_TYPE(2, 32),
  FK_F64 = FK_TYPE(2, 64),
  FK_BF16 = FK_TYPE(4, 16),
  FK_BOOL = FK_TYPE(6, 8),
  FK_F8_E4M3FN = FK_TYPE(10, 8),
  FK_F8_E5M2 = FK_TYPE(12, 8),
  FK_F8_E8M0 = FK_TYPE(14, 8),
  FK_F4_E2M1 = FK_TYPE(17, 4)
} fk_type;

static inline fk_type fk_type_of(const fk_tensor *t) {
  return (fk_type)FK_TYPE(t->dtype.code, t->dtype.bits);
}

static inline fk_dtype fk_dtype_from(fk_type type) {
  fk_dtype d;
  d.code = (uint8_t)(type >> 8);
  d.bits = (uint8_t)(type & 255);
  d.lanes = 1;
  return d;
}

/* ---- TVM-FFI --------------------------------------------------------------------------------------------- */

enum {
  FK_ANY_NONE = 0,
  FK_ANY_INT = 1,
  FK_ANY_BOOL = 2,
  FK_ANY_FLOAT = 3,
  FK_ANY_POINTER = 4,
  FK_ANY_DLTENSOR = 7,
  FK_ANY_TENSOR_OBJECT = 70 /* an owned tensor: a 24-byte header, then the DLTensor */
};

typedef struct fk_any { /* = TVMFFIAny */
  int32_t type_index;
  uint32_t zero_padding;
  union {
    int64_t i;
    double f;
    void *p;
  } v;
} fk_any;

typedef int (*fk_kernel_fn)(void *self, const fk_any *args, int32_t num_args, fk_any *result);

FK_STATIC_ASSERT(sizeof(void *) == 8, "FastKernels needs a 64-bit machine");
FK_STATIC_ASSERT(sizeof(fk_device) == 8 && sizeof(fk_dtype) == 4, "DLDevice and DLDataType layouts");
FK_STATIC_ASSERT(sizeof(fk_tensor) == 48 && offsetof(fk_tensor, shape) == 24 && offsetof(fk_tensor, byte_offset) == 40,
                 "DLTensor layout");
FK_STATIC_ASSERT(sizeof(fk_any) == 16 && offsetof(fk_any, v) == 8, "TVMFFIAny layout");

/* Provided by the host that loads the kernel. Strong symbols: a loader that lacks them says so at once. */
FK_EXTERN_C void *TVMFFIEnvGetStream(int32_t device_type, int32_t device_id);
FK_EXTERN_C void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);

#if defined(__GNUC__)
#define FK_VISIBLE __attribute__((visibility("default")))
#else
#define FK_VISIBLE
#endif

/* FK_EXPORT(rms_norm) { ... } defines and exports the entry point of a task. */
#define FK_EXPORT(task)                                                                                          \
  FK_EXTERN_C FK_VISIBLE int __tvm_ffi_##task(void *self, const fk_any *args, int32_t num_args, fk_any *result); \
  FK_EXTERN_C FK_VISIBLE int __tvm_ffi_##task(void *self, const fk_any *args, int32_t num_args, fk_any *result)

/* ---- Unpacking and checking arguments -------------------------------------------------------------------- */

/* The tensor in an argument, or NULL when the argument is None or no tensor. */
static inline fk_tensor *fk_arg_tensor(const fk_any *a) {
  if (a->type_index == FK_ANY_DLTENSOR) return (fk_tensor *)a->v.p;
  if (a->type_index == FK_ANY_TENSOR_OBJECT) return (fk_tensor *)(void *)((char *)a->v.p + 24);
  return NULL;
}

/* An integer attribute: int or bool. */
static inline int64_t fk_arg_int(const fk_any *a) {
  return a->type_index == FK_ANY_FLOAT ? (int64_t)a->v.f : a->v.i;
}

/* A float attribute: float or int. */
static inline double fk_arg_float(const fk_any *a) {
  return a->type_index == FK_ANY_FLOAT ? a->v.f : (double)a->v.i;
}

static inline void *fk_data(const fk_tensor *t) {
  return (char *)t->data + t->byte_offset;
}

static inline int64_t fk_numel(const fk_tensor *t) {
  int64_t n = 1;
  for (int32_t i = 0; i < t->ndim; i++) n *= t->shape[i];
  return n;
}

/* The stride of axis i in elements, also when strides is NULL. */
static inline int64_t fk_stride(const fk_tensor *t, int32_t axis) {
  if (t->strides) return t->strides[axis];
  int64_t s = 1;
  for (int32_t i = axis + 1; i < t->ndim; i++) s *= t->shape[i];
  return s;
}

/* Sets the error of this call and yields -1. kind is a Python exception name that TVM-FFI maps:
 * RuntimeError ValueError TypeError AttributeError KeyError IndexError AssertionError MemoryError. */
static inline int fk_raise(const char *kind, const char *message) {
  TVMFFIErrorSetRaisedFromCStr(kind, message);
  return -1;
}

#define FK_REQUIRE(condition, kind, message)          \
  do {                                                \
    if (!(condition)) return fk_raise(kind, message); \
  } while (0)

#endif
