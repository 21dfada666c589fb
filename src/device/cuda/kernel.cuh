/* What a cuda.cu file includes after its generated tasks/<task>.h.
 *
 *   extern "C" fk_status fk_cuda_<task>(fk_context *ctx, const fk_<task>_args *a)
 *
 * queues the task on the context's stream: it neither allocates (but through fk_empty and fk_scratch, which give device
 * memory), nor waits, nor copies from or to the host, so that every call can be recorded in a graph. Tensors are as
 * task.json allows them; float32, bfloat16 and float16 are storage, arithmetic is float32. Zero elements: do nothing.
 * An index out of range is reported by fk_index and replaced by a harmless one: never read or write beyond a tensor. */
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "device/cuda/runtime.h"

/* ---- Launching ------------------------------------------------------------------------------------------- */

template <typename... P>
static fk_status fk_launch_with(bool overlap, fk_context *ctx, void (*kernel)(P...), dim3 grid, dim3 block,
                                size_t shared_bytes, P... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return FK_OK;
  if (shared_bytes > 48 * 1024)
    FK_CUDA_TRY(
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes));
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = fk_context_cuda(ctx)->stream;
  config.attrs = &attribute;
  config.numAttrs = overlap && fk_context_cuda(ctx)->compute_capability >= 90 ? 1 : 0;
  FK_CUDA_TRY(cudaLaunchKernelEx(&config, kernel, args...));
  return FK_OK;
}

template <typename T>
struct fk_same {
  typedef T type;
};

/* An ordinary launch: begins when everything before it has ended. */
template <typename... P>
static fk_status fk_launch(fk_context *ctx, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                           typename fk_same<P>::type... args) {
  return fk_launch_with<P...>(false, ctx, kernel, grid, block, shared_bytes, args...);
}

/* A launch that may begin while the kernel before it is ending. The kernel must call fk_wait_previous() before it reads
 * or writes any tensor, in every thread that does; it may call fk_let_next_start() from then on. */
template <typename... P>
static fk_status fk_launch_early(fk_context *ctx, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                                 typename fk_same<P>::type... args) {
  return fk_launch_with<P...>(true, ctx, kernel, grid, block, shared_bytes, args...);
}

static __device__ __forceinline__ void fk_wait_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel's blocks may be scheduled; what this kernel writes is visible to it only after this kernel ends. */
static __device__ __forceinline__ void fk_let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* The address of shared memory as instructions take it. */
static __device__ __forceinline__ uint32_t fk_shared_address(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

static inline int64_t fk_ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/* Runs the statement with T as the C++ type of a float dtype. */
#define FK_FLOAT_DISPATCH(type, T, ...)                                                           \
  switch (type) {                                                                                 \
    case FK_F32: {                                                                                \
      typedef float T;                                                                            \
      __VA_ARGS__;                                                                                \
    } break;                                                                                      \
    case FK_BF16: {                                                                               \
      typedef __nv_bfloat16 T;                                                                    \
      __VA_ARGS__;                                                                                \
    } break;                                                                                      \
    case FK_F16: {                                                                                \
      typedef __half T;                                                                           \
      __VA_ARGS__;                                                                                \
    } break;                                                                                      \
    default:                                                                                      \
      return fk_fail(FK_ERROR_UNSUPPORTED, "cuda: dtype %s is not computed", fk_type_name(type)); \
  }

/* Runs the statement with I as int32_t or int64_t. */
#define FK_INDEX_DISPATCH(type, I, ...) \
  if ((type) == FK_I64) {               \
    typedef int64_t I;                  \
    __VA_ARGS__;                        \
  } else {                              \
    typedef int32_t I;                  \
    __VA_ARGS__;                        \
  }

/* ---- Numbers --------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ float fk_float(float x) {
  return x;
}
static __device__ __forceinline__ float fk_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
static __device__ __forceinline__ float fk_float(__half x) {
  return __half2float(x);
}

template <typename T>
static __device__ __forceinline__ T fk_from(float x) {
  if constexpr (std::is_same<T, float>::value)
    return x;
  else if constexpr (std::is_same<T, __nv_bfloat16>::value)
    return __float2bfloat16_rn(x);
  else
    return __float2half_rn(x);
}

/* 16 bytes of T: one load, one store. */
template <typename T>
struct alignas(16) fk_pack {
  static constexpr int size = 16 / sizeof(T);
  T at[size];
};

template <typename T>
static __device__ __forceinline__ fk_pack<T> fk_load_pack(const T *p) {
  fk_pack<T> v;
  *reinterpret_cast<uint4 *>(&v) = *reinterpret_cast<const uint4 *>(p);
  return v;
}

/* Read once, never again: does not displace what others keep in the caches. */
template <typename T>
static __device__ __forceinline__ fk_pack<T> fk_load_pack_streaming(const T *p) {
  fk_pack<T> v;
  *reinterpret_cast<uint4 *>(&v) = __ldcs(reinterpret_cast<const uint4 *>(p));
  return v;
}

template <typename T>
static __device__ __forceinline__ void fk_store_pack(T *p, const fk_pack<T> &v) {
  *reinterpret_cast<uint4 *>(p) = *reinterpret_cast<const uint4 *>(&v);
}

/* Whether rows that start at base and lie stride elements apart can be read in packs. */
template <typename T>
static inline bool fk_packs(const void *base, int64_t stride, int64_t columns) {
  return (uintptr_t)base % 16 == 0 && stride % (16 / (int64_t)sizeof(T)) == 0 &&
         columns % (16 / (int64_t)sizeof(T)) == 0;
}

/* ---- Reductions ------------------------------------------------------------------------------------------ */

static __device__ __forceinline__ float fk_warp_sum(float v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}

static __device__ __forceinline__ float fk_warp_max(float v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
  return v;
}

/* Sum over a block of whole warps, in a fixed order; every thread gets it. May be called again at once. */
static __device__ __forceinline__ float fk_block_sum(float v) {
  __shared__ float partial[32];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  v = fk_warp_sum(v);
  __syncthreads();
  if (lane == 0) partial[warp] = v;
  __syncthreads();
  return fk_warp_sum(lane < warps ? partial[lane] : 0);
}

static __device__ __forceinline__ float fk_block_max(float v) {
  __shared__ float partial[32];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  v = fk_warp_max(v);
  __syncthreads();
  if (lane == 0) partial[warp] = v;
  __syncthreads();
  return fk_warp_max(lane < warps ? partial[lane] : -INFINITY);
}

/* ---- Rows of any layout ---------------------------------------------------------------------------------- */

/* The leading dimensions of a tensor, merged as far as their strides allow: one for a contiguous or a padded tensor. */
typedef struct fk_row_map {
  int ndim;
  int64_t shape[FK_MAX_DIMS], strides[FK_MAX_DIMS];
} fk_row_map;

/* Over all dimensions but the last `inner` ones. */
static inline fk_row_map fk_rows_of(const fk_tensor *t, int inner) {
  fk_row_map m = {};
  for (int32_t i = 0; i < t->ndim - inner; i++) {
    int64_t n = t->shape[i], s = fk_stride(t, i);
    if (n == 1) continue;
    if (m.ndim && m.strides[m.ndim - 1] == n * s) {
      m.shape[m.ndim - 1] *= n;
      m.strides[m.ndim - 1] = s;
    } else {
      m.shape[m.ndim] = n;
      m.strides[m.ndim++] = s;
    }
  }
  if (!m.ndim) m.shape[m.ndim] = 1, m.strides[m.ndim++] = 0;
  return m;
}

/* Whether every row of a map can be read in packs; columns are checked once, by fk_packs. */
template <typename T>
static inline bool fk_packs_rows(const void *base, const fk_row_map &m) {
  bool packs = (uintptr_t)base % 16 == 0;
  for (int i = 0; i < m.ndim; i++) packs = packs && (m.shape[i] == 1 || m.strides[i] % (16 / (int64_t)sizeof(T)) == 0);
  return packs;
}

/* Element offset of row r. */
static __device__ __forceinline__ int64_t fk_row_offset(const fk_row_map &m, int64_t r) {
  if (m.ndim == 1) return r * m.strides[0];
  int64_t offset = 0;
  for (int i = m.ndim - 1; i > 0; i--) {
    offset += r % m.shape[i] * m.strides[i];
    r /= m.shape[i];
  }
  return offset + r * m.strides[0];
}

/* ---- Indices --------------------------------------------------------------------------------------------- */

/* Where a kernel says that an index is wrong. */
typedef struct fk_index_check {
  fk_fault *fault;
  const char *where;
} fk_index_check;

/* where is a string literal: "embedding: input_ids". */
static inline fk_index_check fk_index_checker(fk_context *ctx, const char *where) {
  fk_index_check check = {fk_context_cuda(ctx)->device_fault, where};
  return check;
}

/* True when 0 <= index < limit; otherwise the fault is noted. */
static __device__ __forceinline__ bool fk_index_ok(const fk_index_check &check, int64_t index, int64_t limit) {
  if (index >= 0 && index < limit) return true;
  if (atomicCAS_system(&check.fault->raised, 0u, 1u) == 0) {
    check.fault->where = check.where;
    check.fault->value = index;
    check.fault->limit = limit;
    __threadfence_system();
  }
  return false;
}
