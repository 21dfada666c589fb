/* A checkpoint: a model folder as users have it.
 *
 * It holds config.json and either model.safetensors or model.safetensors.index.json with its shards. When both are
 * there, the single file wins, as elsewhere in the field. All files stay open, and tensors valid, until
 * fk_checkpoint_close. The index and the shards must agree exactly.
 *
 * The checkpoint remembers which tensors were used, so that a loader can refuse a file with tensors that it does not
 * know. Not thread-safe while it is being marked. */
#ifndef FK_IO_CHECKPOINT_H
#define FK_IO_CHECKPOINT_H

#include "io/json.h"
#include "io/safetensors.h"

typedef struct fk_checkpoint fk_checkpoint;

/* On failure *checkpoint is NULL. */
fk_status fk_checkpoint_open(const char *dir, fk_checkpoint **checkpoint);
void fk_checkpoint_close(fk_checkpoint *checkpoint);

const char *fk_checkpoint_dir(const fk_checkpoint *checkpoint);
/* config.json, an object. */
fk_json fk_checkpoint_config(const fk_checkpoint *checkpoint);

size_t fk_checkpoint_count(const fk_checkpoint *checkpoint);
const fk_stored *fk_checkpoint_at(const fk_checkpoint *checkpoint, size_t index);       /* sorted by name */
const fk_stored *fk_checkpoint_find(const fk_checkpoint *checkpoint, const char *name); /* NULL when absent */

/* Finds a tensor that must be there and marks it as used. */
fk_status fk_checkpoint_use(fk_checkpoint *checkpoint, const char *name, const fk_stored **tensor);
/* Marks a tensor that may be there; whether it is. */
bool fk_checkpoint_mark(fk_checkpoint *checkpoint, const char *name);
/* The next tensor that nobody used, from *cursor (start with 0); NULL after the last. */
const char *fk_checkpoint_unused(const fk_checkpoint *checkpoint, size_t *cursor);

#endif
