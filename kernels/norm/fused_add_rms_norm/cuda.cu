#include "device/cuda/row.cuh"
#include "tasks/fused_add_rms_norm.h"

/* The sum is rounded to the dtype before it is squared. Where only the rounding makes it infinite (the norm is then
 * computed in double), the norm is that of the unrounded sum. */
struct add_rms_norm {
  static constexpr bool centred = false, length = false, has_second = true, stores_second = true, gates_last = false;
  template <typename T>
  static __device__ __forceinline__ float value(float x, float residual) {
    return fk_float(fk_from<T>(x + residual));
  }
  template <typename T>
  static __device__ __forceinline__ double value(double x, double residual) {
    float rounded = value<T>((float)x, (float)residual);
    return isfinite(rounded) ? (double)rounded : x + residual;
  }
};

fk_status fk_cuda_fused_add_rms_norm(fk_context *ctx, const fk_fused_add_rms_norm_args *a) {
  if (fk_numel(a->x) == 0) return FK_OK;
  if (fk_data(a->x) == fk_data(a->residual))
    return fk_fail(FK_ERROR_ARGUMENT, "x and residual must not be the same memory");
  FK_FLOAT_DISPATCH(
      fk_type_of(a->x), T,
      return fk_norm_launch<add_rms_norm>(ctx, fk_norm_of<T>(a->x, a->residual, a->weight, NULL, a->epsilon, a->x)));
}
