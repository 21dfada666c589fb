#include "device/cuda/map.cuh"
#include "device/cuda/math.cuh"
#include "tasks/gelu.h"

struct gelu {
  template <typename T>
  static __device__ __forceinline__ float of(const float *v) {
    return fk_gelu<T>(v[0]);
  }
};

struct gelu_tanh {
  template <typename T>
  static __device__ __forceinline__ float of(const float *v) {
    return fk_gelu_tanh(v[0]);
  }
};

fk_status fk_cuda_gelu(fk_context *ctx, const fk_gelu_args *a) {
  return a->approximate ? fk_map1<gelu_tanh>(ctx, a->x, a->out) : fk_map1<gelu>(ctx, a->x, a->out);
}
