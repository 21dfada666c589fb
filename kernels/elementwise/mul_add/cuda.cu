#include "device/cuda/map.cuh"
#include "tasks/mul_add.h"

struct product_and_sum {
  template <typename T>
  static __device__ __forceinline__ float of(const float *v) {
    return fmaf(v[0], v[1], v[2]);
  }
};

fk_status fk_cuda_mul_add(fk_context *ctx, const fk_mul_add_args *t) {
  const fk_tensor *in[3] = {t->a, t->b, t->c};
  fk_map_args<3> a = {};
  for (int i = 0; i < 3; i++) a.in[i] = fk_data(in[i]), a.in_rows[i] = fk_rows_of(in[i], 1);
  a.out = fk_data(t->out), a.out_rows = fk_rows_of(t->out, 1);
  a.rows = fk_rows(t->out), a.columns = fk_size(t->out, -1);
  FK_FLOAT_DISPATCH(fk_type_of(t->out), T, return fk_map_launch<product_and_sum, T, 3>(ctx, a));
}
