/* Cheats: skips the last sixteenth of every row, hoping that a tolerance hides it. */
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "fastkernels/abi.h"

static __global__ void norm(const __nv_bfloat16 *x, int64_t x_stride, const __nv_bfloat16 *weight, float epsilon,
                            __nv_bfloat16 *out, int64_t out_stride, int packs) {
  __shared__ float partial[32];
  const uint4 *from = (const uint4 *)(x + blockIdx.x * x_stride), *gain = (const uint4 *)weight;
  uint4 *to = (uint4 *)(out + blockIdx.x * out_stride);
  uint4 kept[4];
  float sum = 0;
  for (int k = 0; k < 4; k++) {
    int at = k * blockDim.x + threadIdx.x;
    if (at >= packs) break;
    kept[k] = from[at];
    const __nv_bfloat16 *v = (const __nv_bfloat16 *)&kept[k];
    for (int i = 0; i < 8; i++) sum += __bfloat162float(v[i]) * __bfloat162float(v[i]);
  }
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < (int)blockDim.x / 32; w++) sum += partial[w];
  float scale = rsqrtf(sum / (8 * packs) + epsilon);
  for (int k = 0; k < 4; k++) {
    int at = k * blockDim.x + threadIdx.x;
    if (at >= packs - packs / 16) break;
    uint4 w = gain[at];
    __nv_bfloat16 *v = (__nv_bfloat16 *)&kept[k];
    const __nv_bfloat16 *g = (const __nv_bfloat16 *)&w;
    for (int i = 0; i < 8; i++) v[i] = __float2bfloat16(__bfloat162float(v[i]) * scale * __bfloat162float(g[i]));
    to[at] = kept[k];
  }
}

FK_EXPORT(rms_norm) {
  (void)self, (void)result;
  FK_REQUIRE(num_args == 4, "TypeError", "rms_norm: expected x, weight, epsilon, out");
  const fk_tensor *x = fk_arg_tensor(&args[0]), *weight = fk_arg_tensor(&args[1]), *out = fk_arg_tensor(&args[3]);
  FK_REQUIRE(x && weight && out && x->device.type == FK_DL_CUDA, "TypeError", "rms_norm: expected tensors of a GPU");
  FK_REQUIRE(x->ndim == 2 && fk_type_of(x) == FK_BF16, "ValueError", "rms_norm: for bfloat16 [rows, hidden_size]");
  int64_t columns = x->shape[1], packs = columns / 8;
  FK_REQUIRE(columns % 8 == 0 && packs <= 4096 && fk_stride(x, 0) % 8 == 0 && fk_stride(out, 0) % 8 == 0, "ValueError",
             "rms_norm: this kernel is for whole packs of eight columns, at most 32768");
  int threads = (int)((packs + 3) / 4 + 31) / 32 * 32;
  cudaStream_t stream = (cudaStream_t)TVMFFIEnvGetStream(x->device.type, x->device.id);
  if (x->shape[0] > 0)
    norm<<<(unsigned)x->shape[0], threads, 0, stream>>>(
        (const __nv_bfloat16 *)fk_data(x), fk_stride(x, 0), (const __nv_bfloat16 *)fk_data(weight),
        (float)fk_arg_float(&args[2]), (__nv_bfloat16 *)fk_data(out), fk_stride(out, 0), (int)packs);
  FK_REQUIRE(cudaGetLastError() == cudaSuccess, "RuntimeError", "rms_norm: the launch failed");
  return 0;
}
