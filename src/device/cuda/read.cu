/* Reads memory and keeps nothing: what fills the L2 cache with lines that are clean, so that whoever is measured next
 * finds none of its own data and has none of anybody's to write back. */
#include "device/cuda/kernel.cuh"

static __global__ void read_all(const uint4 *p, int64_t packs, unsigned *never) {
  unsigned seen = 0;
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += (int64_t)gridDim.x * blockDim.x) {
    uint4 v = p[i];
    seen |= (v.x ^ 0x9e3779b9u) & (v.y ^ 0x7f4a7c15u) & v.z & v.w;
  }
  if (seen == 0xffffffffu) *never = seen; /* the compiler must believe that the loads matter */
}

extern "C" fk_status fk_cuda_read(fk_cuda *cuda, void *from, size_t bytes) {
  FK_TRY(fk_cuda_enter(cuda));
  read_all<<<(unsigned)cuda->num_sms * 4, 512, 0, cuda->stream>>>((const uint4 *)from, (int64_t)(bytes / 16),
                                                                  (unsigned *)from);
  FK_CUDA_TRY(cudaGetLastError());
  return FK_OK;
}
