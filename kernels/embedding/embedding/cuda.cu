/* embedding on the GPU: a gathered copy. A thread copies U packs; the ids come from the caches, as all threads of a row
 * read the same. Bits are kept: elements travel as unsigned integers. */
#include "device/cuda/map.cuh"
#include "tasks/embedding.h"

typedef struct gather {
  const void *ids, *weight;
  void *out;
  fk_row_map out_rows;
  int64_t weight_stride, vocab_size, items, items_per_row;
  fk_divider per_row;
  fk_index_check check;
} gather;

/* An item is a span of V elements of a row; V divides the row. */
template <typename E, typename I, int V, int U>
static __global__ void __launch_bounds__(256) gather_rows(const __grid_constant__ gather g) {
  typedef typename fk_span<E, V>::type span;
  span kept[U];
  int64_t to[U];
  fk_wait_previous();
#pragma unroll
  for (int u = 0; u < U; u++) {
    int64_t item = ((int64_t)blockIdx.x * U + u) * blockDim.x + threadIdx.x;
    to[u] = -1;
    if (item >= g.items) continue;
    int64_t row = g.items >> 31 ? item / g.items_per_row : (int64_t)fk_divide((uint32_t)item, g.per_row);
    int64_t at = (item - row * g.items_per_row) * V, id = ((const I *)g.ids)[row];
    if (!fk_index_ok(g.check, id, g.vocab_size)) continue;
    to[u] = fk_row_offset(g.out_rows, row) + at;
    kept[u] = *reinterpret_cast<const span *>((const E *)g.weight + id * g.weight_stride + at);
  }
  fk_let_next_start();
#pragma unroll
  for (int u = 0; u < U; u++)
    if (to[u] >= 0) *reinterpret_cast<span *>((E *)g.out + to[u]) = kept[u];
}

template <typename E, typename I>
static fk_status launch(fk_context *ctx, const fk_embedding_args *a) {
  constexpr int N = 16 / sizeof(E);
  int64_t rows = fk_numel(a->input_ids), columns = fk_size(a->weight, 1);
  gather g = {};
  g.ids = fk_data(a->input_ids), g.weight = fk_data(a->weight);
  g.out = fk_data(a->out), g.out_rows = fk_rows_of(a->out, 1);
  g.weight_stride = fk_stride(a->weight, 0);
  g.vocab_size = fk_size(a->weight, 0);
  g.check = fk_index_checker(ctx, "embedding: input_ids");
  bool packed = fk_packs<E>(g.weight, g.weight_stride, columns) && fk_packs_rows<E>(g.out, g.out_rows);
  g.items_per_row = packed ? columns / N : columns;
  g.items = rows * g.items_per_row;
  if (g.items < (int64_t)1 << 31) g.per_row = fk_divide_by(g.items_per_row);
  int64_t resident = (int64_t)fk_context_cuda(ctx)->num_sms * 2048;
  if (packed && g.items >= 4 * resident)
    return fk_launch_early(ctx, gather_rows<E, I, N, 4>, dim3((unsigned)fk_ceil_div(g.items, 1024)), dim3(256), 0, g);
  int64_t blocks = fk_ceil_div(g.items, 128);
  if (blocks > INT32_MAX) return fk_fail(FK_ERROR_UNSUPPORTED, "cuda: %lld elements are too many", (long long)g.items);
  if (packed) return fk_launch_early(ctx, gather_rows<E, I, N, 1>, dim3((unsigned)blocks), dim3(128), 0, g);
  return fk_launch_early(ctx, gather_rows<E, I, 1, 1>, dim3((unsigned)blocks), dim3(128), 0, g);
}

fk_status fk_cuda_embedding(fk_context *ctx, const fk_embedding_args *a) {
  if (fk_numel(a->out) == 0) return FK_OK;
  FK_INDEX_DISPATCH(fk_type_of(a->input_ids), I, {
    if (a->weight->dtype.bits == 32) return launch<uint32_t, I>(ctx, a);
    return launch<uint16_t, I>(ctx, a);
  });
}
