/* Tensors between safetensors files and a context, for the commands that run things on files. */
#ifndef FK_CLI_TENSORS_H
#define FK_CLI_TENSORS_H

#include "cli/cli.h"
#include "io/safetensors.h"

/* A host tensor of the context with a stored tensor's content. Floats become type, unless type is 0; other dtypes stay.
 * Always a copy: it may be written, and is aligned. */
fk_status cli_tensor_read(fk_context *ctx, const fk_stored *stored, fk_type type, fk_tensor **tensor);

/* Describes a contiguous host tensor for fk_safetensors_write; it borrows name and data. */
fk_stored cli_tensor_stored(const char *name, const fk_tensor *t);

/* Creates the context that --device, --gpu and --threads ask for, which must be one that computes. 0, or the exit
 * status. */
int cli_context(const cli *c, fk_context **ctx);

/* Overrides a task by a shared object; a path without a slash is a file of the working directory. */
fk_status cli_override(fk_context *ctx, const char *task, const char *path);

#endif
