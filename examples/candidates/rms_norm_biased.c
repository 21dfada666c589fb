/* Wrong everywhere by a little: it divides by n - 1, as a sample's variance would. */
#include <math.h>
#include <string.h>

#include "fastkernels/abi.h"

/* bfloat16 is the upper half of a float32; rounded to nearest even. */
static float load_bf16(uint16_t b) {
  uint32_t bits = (uint32_t)b << 16;
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

static uint16_t store_bf16(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float load_f32(float v) {
  return v;
}

static float store_f32(float v) {
  return v;
}

#define ROW(name, type, load, store)                                                         \
  static void name(const type *x, const type *weight, type *out, int64_t n, float epsilon) { \
    double sum = 0;                                                                          \
    for (int64_t i = 0; i < n; i++) sum += (double)load(x[i]) * load(x[i]);                  \
    float scale = (float)(1 / sqrt(sum / (double)(n - 1) + epsilon));                        \
    for (int64_t i = 0; i < n; i++) out[i] = store(load(x[i]) * scale * load(weight[i]));    \
  }

ROW(row_f32, float, load_f32, store_f32)
ROW(row_bf16, uint16_t, load_bf16, store_bf16)

FK_EXPORT(rms_norm) {
  (void)self, (void)result;
  FK_REQUIRE(num_args == 4, "TypeError", "rms_norm: expected x, weight, epsilon, out");
  const fk_tensor *x = fk_arg_tensor(&args[0]), *weight = fk_arg_tensor(&args[1]), *out = fk_arg_tensor(&args[3]);
  FK_REQUIRE(x && weight && out, "TypeError", "rms_norm: x, weight and out must be tensors");
  FK_REQUIRE(x->ndim == 2 && out->ndim == 2, "ValueError", "rms_norm: this kernel is for [rows, hidden_size]");
  FK_REQUIRE(fk_type_of(x) == FK_F32 || fk_type_of(x) == FK_BF16, "TypeError",
             "rms_norm: this kernel is for float32 and bfloat16");
  const char *from = fk_data(x);
  char *to = fk_data(out);
  float epsilon = (float)fk_arg_float(&args[2]);
  int64_t rows = x->shape[0], n = x->shape[1], size = x->dtype.bits / 8;
  for (int64_t r = 0; r < rows; r++) {
    const void *in = from + r * fk_stride(x, 0) * size;
    void *result_row = to + r * fk_stride(out, 0) * size;
    if (size == 4)
      row_f32(in, fk_data(weight), result_row, n, epsilon);
    else
      row_bf16(in, fk_data(weight), result_row, n, epsilon);
  }
  return 0;
}
