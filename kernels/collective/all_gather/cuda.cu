/* all_gather on the GPU: NCCL among ranks, which joins along rows; columns are interleaved afterwards. Within one GPU
 * that holds the parts of all ranks, a copy for each of them. */
#include "device/cuda/kernel.cuh"
#include "device/cuda/nccl.h"
#include "tasks/all_gather.h"

enum { THREADS = 256 };

/* x [parts, rows, columns] to each of `copies` outputs, joined along rows or columns. W: what is moved at once, so that
 * columns count words of it. */
template <typename W>
static __global__ void join(const W *x, W *out, int64_t parts, int64_t rows, int64_t columns, bool by_columns,
                            int64_t copies) {
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, n = parts * rows * columns;
  if (i >= n) return;
  W value = x[i];
  int64_t line = i / columns, k = i % columns;
  int64_t place = by_columns ? line % rows * parts + line / rows : line;
  for (int64_t c = 0; c < copies; c++) out[c * n + place * columns + k] = value;
}

template <typename W>
static fk_status launch(fk_context *ctx, const void *x, void *out, int64_t parts, int64_t rows, int64_t row_bytes,
                        bool by_columns, int64_t copies) {
  int64_t columns = row_bytes / (int64_t)sizeof(W);
  return fk_launch(ctx, join<W>, dim3((unsigned)fk_ceil_div(parts * rows * columns, THREADS)), dim3(THREADS), 0,
                   (const W *)x, (W *)out, parts, rows, columns, by_columns, copies);
}

static fk_status join_parts(fk_context *ctx, const void *x, void *out, int64_t parts, int64_t rows, int64_t row_bytes,
                            bool by_columns, int64_t copies) {
  uintptr_t odd = (uintptr_t)x | (uintptr_t)out | (uintptr_t)row_bytes;
  if (odd % 16 == 0) return launch<uint4>(ctx, x, out, parts, rows, row_bytes, by_columns, copies);
  if (odd % 4 == 0) return launch<uint32_t>(ctx, x, out, parts, rows, row_bytes, by_columns, copies);
  return launch<uint16_t>(ctx, x, out, parts, rows, row_bytes, by_columns, copies);
}

fk_status fk_cuda_all_gather(fk_context *ctx, const fk_all_gather_args *a) {
  int64_t rows = fk_size(a->x, 1), columns = fk_size(a->x, 2), world = a->world_size;
  fk_type type = fk_type_of(a->x);
  int64_t row_bytes = columns * (int64_t)(fk_type_bits(type) / 8);
  bool by_columns = a->dim == 1 && rows > 1;
  if (rows == 0 || columns == 0) return FK_OK;
  if (!a->comm) return join_parts(ctx, fk_data(a->x), fk_data(a->out), world, rows, row_bytes, by_columns, world);
  if (!by_columns || world == 1)
    return fk_nccl_all_gather(ctx, a->comm, fk_data(a->x), fk_data(a->out), rows * columns, type);
  void *whole = fk_scratch(ctx, (size_t)(world * rows * row_bytes));
  if (!whole) return FK_ERROR_MEMORY;
  FK_TRY(fk_nccl_all_gather(ctx, a->comm, fk_data(a->x), whole, rows * columns, type));
  return join_parts(ctx, whole, fk_data(a->out), world, rows, row_bytes, true, 1);
}
