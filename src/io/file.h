/* Whole files: read into memory, mapped, or replaced atomically.
 *
 * An fk_atomic_file is a file under construction: bytes go to a temporary file beside the target, and only a commit
 * that wrote and flushed everything renames it. A reader of the target sees the old file or the new one, never half
 * of one. */
#ifndef FK_IO_FILE_H
#define FK_IO_FILE_H

#include <stddef.h>

#include "fastkernels/status.h"

/* A NUL-terminated copy of a regular file of at most max_bytes; the caller frees *data. */
fk_status fk_file_read(const char *path, size_t max_bytes, char **data, size_t *size);

/* Maps a regular file read-only. An empty file gives NULL and size 0 with FK_OK. A file that others shorten while it
 * is mapped faults on access: that is the caller's to prevent. */
fk_status fk_file_map(const char *path, void **data, size_t *size);
void fk_file_unmap(void *data, size_t size);

typedef struct fk_atomic_file {
  int fd;
  char *path, *temp; /* the target and the file being written; owned */
} fk_atomic_file;

fk_status fk_atomic_open(fk_atomic_file *file, const char *path);
fk_status fk_atomic_write(fk_atomic_file *file, const void *data, size_t size);
/* Flushes and renames. After a failure the target is untouched. Either way the file is closed. */
fk_status fk_atomic_commit(fk_atomic_file *file);
/* Removes the temporary file of a file that is not committed; harmless after a commit or on a zeroed struct. */
void fk_atomic_abandon(fk_atomic_file *file);

#endif
