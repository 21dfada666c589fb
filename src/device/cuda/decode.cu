/* What follows a step of greedy decoding, within its graph (engine/decode_graph.h). */
#include "device/cuda/kernel.cuh"

/* One block: the batch is small, and the number of steps must be read by all before it is raised. A sequence that has
 * come to the end of its block table is a fault, and stays where it is. */
static __global__ void advance_kernel(fk_cuda_decode d, fk_index_check check) {
  int64_t step = *d.steps;
  for (int64_t b = threadIdx.x; b < d.batch_size; b += blockDim.x) {
    int32_t token = (int32_t)d.best[b];
    d.tokens[step % d.history * d.batch_size + b] = token;
    int64_t position = d.positions[b] + 1;
    if (d.block_size > 0) {
      int64_t column = position / d.block_size;
      if (!fk_index_ok(check, column, d.num_columns)) continue;
      d.slot_mapping[b] = (int64_t)d.block_table[b * d.num_columns + column] * d.block_size + position % d.block_size;
    }
    d.input_ids[b] = token;
    d.positions[b] = position;
    d.seq_lens[b]++;
  }
  __syncthreads();
  if (threadIdx.x == 0) *d.steps = step + 1;
}

extern "C" fk_status fk_cuda_advance(fk_cuda *cuda, const fk_cuda_decode *decode) {
  FK_TRY(fk_cuda_enter(cuda));
  fk_index_check check = {cuda->device_fault, "decode graph: block of the next token"};
  unsigned threads = decode->batch_size > 128 ? 512 : 128;
  advance_kernel<<<1, threads, 0, cuda->stream>>>(*decode, check);
  FK_CUDA_TRY(cudaGetLastError());
  return FK_OK;
}
