/* An outside program: normalises one row with the installed library and checks the numbers. */
#include <fastkernels/fastkernels.h>
#include <math.h>
#include <stdio.h>

int main(void) {
  float x[4] = {1, 2, 3, 4}, weight[4] = {1, 1, 2, 2}, out[4];
  fk_context *ctx;
  if (fk_context_create(&(fk_context_options){.backend = FK_CPU}, &ctx)) return puts(fk_last_error()), 1;
  fk_tensor *tx = fk_wrap(ctx, x, FK_F32, (int64_t[]){1, 4}, 2, NULL);
  fk_tensor *tw = fk_wrap(ctx, weight, FK_F32, (int64_t[]){4}, 1, NULL);
  fk_tensor *to = fk_wrap(ctx, out, FK_F32, (int64_t[]){1, 4}, 2, NULL);
  if (fk_call(ctx, "rms_norm", tx, tw, 0.0, to)) return puts(fk_last_error()), 1;
  for (int i = 0; i < 4; i++)
    if (fabs(out[i] - x[i] / sqrt(7.5) * weight[i]) > 1e-6) return printf("out[%d] is %g\n", i, out[i]), 1;
  if (fk_call(ctx, "rms_norm", tx, tw, -1.0, to) != FK_ERROR_ARGUMENT)
    return puts("a negative epsilon went through"), 1;
  fk_context_destroy(ctx);
  puts("ok");
  return 0;
}
