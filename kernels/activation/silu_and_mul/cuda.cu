#include "device/cuda/map.cuh"
#include "device/cuda/math.cuh"
#include "tasks/silu_and_mul.h"

struct silu_and_mul {
  template <typename T>
  static __device__ __forceinline__ float of(const float *v) {
    return fk_silu(v[0]) * v[1];
  }
};

fk_status fk_cuda_silu_and_mul(fk_context *ctx, const fk_silu_and_mul_args *a) {
  return fk_map_halves<silu_and_mul>(ctx, a->x, a->out);
}
