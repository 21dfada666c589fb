#include "cli/tensors.h"

#include <stdio.h>
#include <string.h>

fk_status cli_tensor_read(fk_context *ctx, const fk_stored *stored, fk_type type, fk_tensor **tensor) {
  *tensor = NULL;
  if (!type || !fk_type_is_float(stored->type)) type = stored->type;
  fk_tensor *t = fk_host_shape(ctx, type, stored->shape, stored->ndim);
  if (!t) return FK_ERROR_MEMORY;
  fk_status status = fk_safetensors_read(stored, type, t->data);
  if (status) return fk_fail_in(status, "%s", stored->name);
  *tensor = t;
  return FK_OK;
}

fk_stored cli_tensor_stored(const char *name, const fk_tensor *t) {
  fk_stored s = {.name = name, .type = fk_type_of(t), .ndim = t->ndim, .data = fk_data(t)};
  memcpy(s.shape, t->shape, (size_t)t->ndim * sizeof *s.shape);
  return s;
}

int cli_context(const cli *c, fk_context **ctx) {
  fk_context_options options = {.backend = FK_CPU};
  int64_t threads = 0, gpu = 0;
  *ctx = NULL;
  if (!cli_backend(c, "device", &options.backend) || !cli_int(c, "threads", 1, 4096, &threads) ||
      !cli_int(c, "gpu", 0, 1023, &gpu))
    return 2;
  if (options.backend == FK_META) return cli_fail(c, "--device: meta computes no values; expected ref, cpu or cuda");
  if (cli_value(c, "gpu") && options.backend != FK_CUDA) return cli_fail(c, "--gpu: only with --device cuda");
  options.num_threads = (int)threads;
  options.device_id = (int)gpu;
  return fk_context_create(&options, ctx) ? cli_error(c) : 0;
}

fk_status cli_override(fk_context *ctx, const char *task, const char *path) {
  char local[4096];
  if (strchr(path, '/')) return fk_override(ctx, task, path);
  if ((size_t)snprintf(local, sizeof local, "./%s", path) >= sizeof local)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: the path is too long", path);
  return fk_override(ctx, task, local);
}
