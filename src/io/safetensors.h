/* safetensors files: named tensors, a JSON header and one buffer.
 *
 * An fk_safetensors is an open file, mapped read-only: tensors point into the mapping, nothing is copied, and all of it
 * lives until fk_safetensors_close. Only a file that keeps every rule of the format opens: known dtypes, sizes that
 * agree with shapes, ranges that cover the buffer once.
 *
 * The format does not align: data may lie at any address. Use memcpy, fk_load_f64 and fk_convert_row (convert.h), or
 * fk_safetensors_read; dereference typed pointers only where fk_safetensors_aligned says so. */
#ifndef FK_IO_SAFETENSORS_H
#define FK_IO_SAFETENSORS_H

#include <stdbool.h>

#include "fastkernels/fastkernels.h"

typedef struct fk_safetensors fk_safetensors;

/* A tensor of a file. name and data belong to the file. */
typedef struct fk_stored {
  const char *name;
  fk_type type;
  int32_t ndim; /* 0 is a scalar of one element */
  int64_t shape[FK_MAX_DIMS];
  const void *data; /* row-major, perhaps unaligned */
  size_t bytes;     /* may be 0 */
} fk_stored;

/* On failure *file is NULL. */
fk_status fk_safetensors_open(const char *path, fk_safetensors **file);
/* The same from memory, which must outlive the file; where names it in messages. */
fk_status fk_safetensors_open_memory(const void *bytes, size_t size, const char *where, fk_safetensors **file);
void fk_safetensors_close(fk_safetensors *file);

size_t fk_safetensors_count(const fk_safetensors *file);
const fk_stored *fk_safetensors_at(const fk_safetensors *file, size_t index);       /* in the order of the data */
const fk_stored *fk_safetensors_find(const fk_safetensors *file, const char *name); /* NULL when absent; O(log n) */
/* A value of __metadata__, or NULL. */
const char *fk_safetensors_metadata(const fk_safetensors *file, const char *key);

int64_t fk_stored_numel(const fk_stored *t);
/* Whether data is aligned for its dtype. */
bool fk_safetensors_aligned(const fk_stored *t);
/* Copies all elements to dst as dtype to (fk_convert_row). */
fk_status fk_safetensors_read(const fk_stored *t, fk_type to, void *dst);

/* Writes a file atomically (file.h): an error leaves what was there before. Wider dtypes come first, so that every
 * tensor is aligned; otherwise in the order given. bytes of the items is ignored: it follows from type and shape.
 * metadata is {key, value, ..., NULL} or NULL. */
fk_status fk_safetensors_write(const char *path, const fk_stored *items, size_t count, const char *const *metadata);

#endif
