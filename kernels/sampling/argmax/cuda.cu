/* argmax on the GPU: a row is cut into chunks, a block finds the best entry of one; where there are several, a warp
 * finds the best of them. The order of entries is total, so the winner does not depend on who compares first. */
#include "device/cuda/order.cuh"
#include "tasks/argmax.h"

enum { THREADS = 128, ELEMENTS = 32, CHUNK = THREADS * ELEMENTS };

/* V: elements per load. best holds one entry per chunk; a row of one chunk goes straight to out. */
template <typename T, int V>
static __global__ void __launch_bounds__(THREADS)
    argmax_chunk(const T *x, const __grid_constant__ fk_row_map x_rows, int64_t columns, int64_t chunks, fk_entry *best,
                 int64_t *out) {
  struct alignas(sizeof(T) * V) span {
    T at[V];
  };
  __shared__ fk_entry partial[THREADS / 32];
  int64_t row = blockIdx.x / (unsigned)chunks, start = (blockIdx.x - row * chunks) * CHUNK;
  int end = (int)(columns - start < CHUNK ? columns - start : CHUNK);
  fk_wait_previous();
  const T *from = x + fk_row_offset(x_rows, row) + start;
  span kept[ELEMENTS / V];
#pragma unroll
  for (int k = 0; k < ELEMENTS / V; k++) {
    int at = (k * THREADS + (int)threadIdx.x) * V;
    if (at < end) kept[k] = *reinterpret_cast<const span *>(from + at);
  }
  fk_let_next_start();
  uint32_t order = 0;
  int column = 0;
#pragma unroll
  for (int k = 0; k < ELEMENTS / V; k++) {
    int at = (k * THREADS + (int)threadIdx.x) * V;
    if (at >= end) continue;
#pragma unroll
    for (int i = 0; i < V; i++) {
      uint32_t o = fk_order_of(fk_float(kept[k].at[i]));
      if (o > order) order = o, column = at + i;
    }
  }
  fk_entry e = fk_warp_max_entry(order ? fk_entry_of(order, start + column) : 0);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = e;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  e = fk_warp_max_entry(threadIdx.x < THREADS / 32 ? partial[threadIdx.x] : 0);
  if (threadIdx.x > 0) return;
  if (chunks > 1)
    best[blockIdx.x] = e;
  else
    out[row] = fk_entry_column(e);
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
static fk_status launch(fk_context *ctx, const fk_argmax_args *a) {
  constexpr int N = fk_pack<T>::size;
  int64_t rows = fk_rows(a->x), columns = fk_size(a->x, -1), chunks = fk_ceil_div(columns, CHUNK);
  if (columns >> 32 || rows * chunks > INT32_MAX)
    return fk_fail(FK_ERROR_UNSUPPORTED, "argmax: cuda: %lld rows of %lld columns are too many", (long long)rows,
                   (long long)columns);
  const T *x = (const T *)fk_data(a->x);
  int64_t *out = (int64_t *)fk_data(a->out);
  fk_entry *best = NULL;
  if (chunks > 1) {
    best = (fk_entry *)fk_scratch(ctx, (size_t)(rows * chunks) * sizeof *best);
    if (!best) return FK_ERROR_MEMORY;
  }
  fk_row_map from = fk_rows_of(a->x, 1);
  bool packed = fk_packs_rows<T>(x, from) && columns % N == 0;
  fk_status status =
      fk_launch_early(ctx, packed ? argmax_chunk<T, N> : argmax_chunk<T, 1>, dim3((unsigned)(rows * chunks)),
                      dim3(THREADS), 0, x, from, columns, chunks, best, out);
  if (status != FK_OK || chunks == 1) return status;
  return fk_launch_early(ctx, argmax_of_chunks, dim3((unsigned)rows), dim3(32), 0, best, chunks, out);
}

fk_status fk_cuda_argmax(fk_context *ctx, const fk_argmax_args *a) {
  if (fk_numel(a->x) == 0) return FK_OK;
  FK_FLOAT_DISPATCH(fk_type_of(a->x), T, return launch<T>(ctx, a));
}
