/* Random weights on the GPU: the numbers that the loader draws on the host (engine/loader.c), element for element. */
#include "device/cuda/kernel.cuh"

/* The finaliser of SplitMix64. */
static __device__ __forceinline__ uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

/* Sum and product are rounded apart, as the host does: one rounding would give other numbers. */
template <typename T>
static __global__ void random_kernel(T *to, int64_t n, uint64_t stream, double mean, double std) {
  int64_t step = (int64_t)gridDim.x * blockDim.x;
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
    uint64_t bits = mix(stream + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u);
    int64_t sum = (int64_t)(bits & 0xffff) + (int64_t)(bits >> 16 & 0xffff) + (int64_t)(bits >> 32 & 0xffff) +
                  (int64_t)(bits >> 48);
    double draw = __dmul_rn((double)(sum - 2 * 65535), 1.7320508075688772 / 65536);
    to[i] = fk_from<T>((float)__dadd_rn(mean, __dmul_rn(std, draw)));
  }
}

extern "C" fk_status fk_cuda_random(fk_cuda *cuda, void *to, fk_type type, int64_t n, uint64_t stream, double mean,
                                    double std) {
  FK_TRY(fk_cuda_enter(cuda));
  if (n == 0) return FK_OK;
  int64_t blocks = fk_ceil_div(n, 256), most = 32 * (int64_t)cuda->num_sms;
  unsigned grid = (unsigned)(blocks < most ? blocks : most);
  FK_FLOAT_DISPATCH(type, T, (random_kernel<T><<<grid, 256, 0, cuda->stream>>>((T *)to, n, stream, mean, std)));
  FK_CUDA_TRY(cudaGetLastError());
  return FK_OK;
}
