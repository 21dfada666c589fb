/* abi.h under nvcc: its layout checks, and one kernel written as a CUDA candidate is. Compiled wherever nvcc is. */
#include <cuda_runtime.h>

#include "fastkernels/abi.h"

static __global__ void scale_rows(const float *x, float factor, int64_t n, float *out) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = x[i] * factor;
}

FK_EXPORT(abi_check) {
  (void)self;
  (void)result;
  FK_REQUIRE(num_args == 3, "TypeError", "abi_check: expected x, factor, out");
  const fk_tensor *x = fk_arg_tensor(&args[0]), *out = fk_arg_tensor(&args[2]);
  FK_REQUIRE(x && out && fk_type_of(x) == FK_F32 && fk_type_of(out) == FK_F32, "TypeError", "abi_check: float32 only");
  int64_t n = fk_numel(x);
  if (n == 0) return 0;
  cudaStream_t stream = (cudaStream_t)TVMFFIEnvGetStream(x->device.type, x->device.id);
  scale_rows<<<(unsigned)((n + 255) / 256), 256, 0, stream>>>((const float *)fk_data(x), (float)fk_arg_float(&args[1]),
                                                              n, (float *)fk_data(out));
  FK_REQUIRE(cudaGetLastError() == cudaSuccess, "RuntimeError", "abi_check: the launch failed");
  return 0;
}
