/* usage: host CANDIDATE.so IN OUT
 * Computes rms_norm by the candidate through fk_override on rows of float32 from a file: int32 rows, int32 columns, x,
 * weight. The Python side compares the answer with its own, bit for bit. */
#include <stdio.h>
#include <stdlib.h>

#include "fastkernels/fastkernels.h"

static int die(const char *what) {
  fprintf(stderr, "%s: %s\n", what, fk_last_error());
  return 1;
}

int main(int argc, char **argv) {
  int32_t size[2];
  FILE *in = argc == 4 ? fopen(argv[2], "rb") : NULL;
  if (!in || fread(size, sizeof *size, 2, in) != 2) return die("input");
  fk_context *ctx;
  if (fk_context_create(&(fk_context_options){.backend = FK_CPU}, &ctx)) return die("context");
  if (fk_override(ctx, "rms_norm", argv[1])) return die("override");
  fk_tensor *x = fk_empty(ctx, FK_F32, size[0], size[1]), *weight = fk_empty(ctx, FK_F32, size[1]);
  fk_tensor *out = fk_empty(ctx, FK_F32, size[0], size[1]), *flat = fk_view(ctx, x, 1, size[0], size[1]);
  size_t n = (size_t)fk_numel(x);
  if (fread(fk_data(x), 4, n, in) != n || fread(fk_data(weight), 4, (size_t)size[1], in) != (size_t)size[1])
    return die("input");
  fclose(in);
  if (fk_call(ctx, "rms_norm", x, weight, 1e-6, out)) return die("call");
  FILE *to = fopen(argv[3], "wb");
  if (!to || fwrite(fk_data(out), 4, n, to) != n || fclose(to) != 0) return die("output");
  /* three dimensions are right for the task but not for this candidate: its message comes through */
  if (fk_call(ctx, "rms_norm", flat, weight, 1e-6, fk_view(ctx, out, 1, size[0], size[1])) != FK_ERROR_KERNEL)
    return die("a refused call went through");
  puts(fk_last_error());
  fk_context_destroy(ctx);
  return 0;
}
