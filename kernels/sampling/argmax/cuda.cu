/* argmax on the GPU: a row is cut into chunks, a block finds the best entry of one; where there are several, a warp
 * finds the best of them. Whole packs are compared first, without their columns; only lanes that hold the largest value
 * of their warp look for its column. The order of entries is total, so the winner does not depend on who compares
 * first.
 */
#include "device/cuda/order.cuh"
#include "tasks/argmax.h"

enum { THREADS = 128, ELEMENTS = 32, CHUNK = THREADS * ELEMENTS };

/* What a block works on. best holds one entry per chunk; a row of one chunk goes straight to out. */
typedef struct argmax_args {
  const void *x;
  fk_row_map x_rows;
  int64_t columns, chunks;
  fk_entry *best;
  int64_t *out;
} argmax_args;

/* e is the best entry of a warp. */
static __device__ __forceinline__ void finish_chunk(const argmax_args &a, int64_t row, fk_entry e) {
  __shared__ fk_entry partial[THREADS / 32];
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = e;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int w = 1; w < THREADS / 32; w++) e = partial[w] > e ? partial[w] : e;
  if (a.chunks > 1)
    a.best[blockIdx.x] = e;
  else
    a.out[row] = fk_entry_column(e);
}

/* The first column of value `order` among a lane's packs. */
template <typename T>
static __device__ __forceinline__ uint32_t first_of(const uint4 (&kept)[ELEMENTS / fk_pack<T>::size], int end,
                                                    uint32_t order) {
  constexpr int N = fk_pack<T>::size;
  uint32_t column = UINT32_MAX;
#pragma unroll
  for (int k = ELEMENTS / N - 1; k >= 0; k--) {
    int at = (k * THREADS + (int)threadIdx.x) * N;
    if (at >= end || fk_order_of(fk_max_of_pack<T>(kept[k])) != order) continue;
    float v[N];
    fk_unpack<T>(kept[k], v);
#pragma unroll
    for (int i = N - 1; i >= 0; i--)
      if (fk_order_of(v[i]) == order) column = (uint32_t)(at + i);
  }
  return column;
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) argmax_packed(const __grid_constant__ argmax_args a) {
  constexpr int N = fk_pack<T>::size;
  int64_t row = blockIdx.x / (unsigned)a.chunks, start = (blockIdx.x - row * a.chunks) * CHUNK;
  int end = (int)(a.columns - start < CHUNK ? a.columns - start : CHUNK);
  fk_wait_previous();
  const T *from = (const T *)a.x + fk_row_offset(a.x_rows, row) + start;
  uint4 kept[ELEMENTS / N];
#pragma unroll
  for (int k = 0; k < ELEMENTS / N; k++) {
    int at = (k * THREADS + (int)threadIdx.x) * N;
    if (at < end) kept[k] = fk_load_raw(from + at);
  }
  fk_let_next_start();
  uint32_t order = 0;
#pragma unroll
  for (int k = 0; k < ELEMENTS / N; k++) {
    if ((k * THREADS + (int)threadIdx.x) * N >= end) continue;
    uint32_t o = fk_order_of(fk_max_of_pack<T>(kept[k]));
    order = o > order ? o : order;
  }
  uint32_t best = __reduce_max_sync(0xffffffffu, order);
  uint32_t column = best && order == best ? first_of<T>(kept, end, best) : UINT32_MAX;
  column = __reduce_min_sync(0xffffffffu, column);
  finish_chunk(a, row, best ? fk_entry_of(best, start + column) : 0);
}

/* Rows that cannot be read in packs. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) argmax_any(const __grid_constant__ argmax_args a) {
  int64_t row = blockIdx.x / (unsigned)a.chunks, start = (blockIdx.x - row * a.chunks) * CHUNK;
  int64_t end = a.columns - start < CHUNK ? a.columns : start + CHUNK;
  fk_wait_previous();
  const T *x = (const T *)a.x + fk_row_offset(a.x_rows, row);
  fk_entry best = 0;
  for (int64_t i = start + threadIdx.x; i < end; i += THREADS) {
    fk_entry e = fk_entry_of(fk_order_of(fk_float(x[i])), i);
    best = e > best ? e : best;
  }
  finish_chunk(a, row, fk_warp_max_entry(best));
}

static __global__ void __launch_bounds__(32) argmax_of_chunks(const fk_entry *best, int64_t chunks, int64_t *out) {
  fk_wait_previous();
  fk_entry e = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += 32) {
    fk_entry other = best[blockIdx.x * chunks + i];
    e = other > e ? other : e;
  }
  e = fk_warp_max_entry(e);
  if (threadIdx.x == 0) out[blockIdx.x] = fk_entry_column(e);
}

template <typename T>
static fk_status launch(fk_context *ctx, const fk_argmax_args *t) {
  argmax_args a = {};
  int64_t rows = fk_rows(t->x);
  a.x = fk_data(t->x), a.x_rows = fk_rows_of(t->x, 1);
  a.columns = fk_size(t->x, -1), a.chunks = fk_ceil_div(a.columns, CHUNK);
  a.out = (int64_t *)fk_data(t->out);
  if (a.columns >> 32 || rows * a.chunks > INT32_MAX)
    return fk_fail(FK_ERROR_UNSUPPORTED, "argmax: cuda: %lld rows of %lld columns are too many", (long long)rows,
                   (long long)a.columns);
  if (a.chunks > 1) {
    a.best = (fk_entry *)fk_scratch(ctx, (size_t)(rows * a.chunks) * sizeof *a.best);
    if (!a.best) return FK_ERROR_MEMORY;
  }
  bool packed = fk_packs_rows<T>(a.x, a.x_rows) && a.columns % fk_pack<T>::size == 0;
  fk_status status = fk_launch_early(ctx, packed ? argmax_packed<T> : argmax_any<T>, dim3((unsigned)(rows * a.chunks)),
                                     dim3(THREADS), 0, a);
  if (status != FK_OK || a.chunks == 1) return status;
  return fk_launch_early(ctx, argmax_of_chunks, dim3((unsigned)rows), dim3(32), 0, a.best, a.chunks, a.out);
}

fk_status fk_cuda_argmax(fk_context *ctx, const fk_argmax_args *a) {
  if (fk_numel(a->x) == 0) return FK_OK;
  FK_FLOAT_DISPATCH(fk_type_of(a->x), T, return launch<T>(ctx, a));
}
