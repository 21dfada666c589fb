#include "device/cuda/map.cuh"
#include "device/cuda/math.cuh"
#include "tasks/tanh.h"

struct hyperbolic_tangent {
  template <typename T>
  static __device__ __forceinline__ float of(const float *v) {
    return fk_tanh<T>(v[0]);
  }
};

fk_status fk_cuda_tanh(fk_context *ctx, const fk_tanh_args *a) {
  return fk_map1<hyperbolic_tangent>(ctx, a->x, a->out);
}
