#include "device/cuda/row.cuh"
#include "tasks/rms_norm_gated.h"

struct gate_then_norm {
  static constexpr bool centred = false, length = false, has_second = true, stores_second = false, gates_last = false;
  template <typename T, typename R>
  static __device__ __forceinline__ R value(R x, R gate) {
    return x * fk_silu(gate);
  }
};

struct norm_then_gate {
  static constexpr bool centred = false, length = false, has_second = true, stores_second = false, gates_last = true;
  template <typename T, typename R>
  static __device__ __forceinline__ R value(R x, R) {
    return x;
  }
};

fk_status fk_cuda_rms_norm_gated(fk_context *ctx, const fk_rms_norm_gated_args *t) {
  if (fk_numel(t->x) == 0) return FK_OK;
  FK_FLOAT_DISPATCH(fk_type_of(t->x), T, {
    fk_norm_args<T> a = fk_norm_of<T>(t->x, t->gate, t->weight, NULL, t->epsilon, t->out);
    a.columns = t->group_size;
    a.groups = fk_size(t->x, -1) / t->group_size;
    a.rows *= a.groups;
    return t->norm_before_gate ? fk_norm_launch<norm_then_gate>(ctx, a) : fk_norm_launch<gate_then_norm>(ctx, a);
  });
}
