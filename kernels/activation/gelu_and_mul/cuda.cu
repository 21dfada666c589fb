#include "device/cuda/map.cuh"
#include "device/cuda/math.cuh"
#include "tasks/gelu_and_mul.h"

struct gelu_and_mul {
  template <typename T>
  static __device__ __forceinline__ float of(const float *v) {
    return fk_gelu<T>(v[0]) * v[1];
  }
};

struct gelu_tanh_and_mul {
  template <typename T>
  static __device__ __forceinline__ float of(const float *v) {
    return fk_gelu_tanh(v[0]) * v[1];
  }
};

fk_status fk_cuda_gelu_and_mul(fk_context *ctx, const fk_gelu_and_mul_args *a) {
  return a->approximate ? fk_map_halves<gelu_tanh_and_mul>(ctx, a->x, a->out)
                        : fk_map_halves<gelu_and_mul>(ctx, a->x, a->out);
}
