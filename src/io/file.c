#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static fk_status os_error(const char *path, const char *what) {
  int code = errno;
  fk_status status = code == ENOENT || code == ENOTDIR ? FK_ERROR_NOT_FOUND
                     : code == ENOMEM                  ? FK_ERROR_MEMORY
                                                       : FK_ERROR_IO;
  return fk_fail(status, "%s: cannot %s: %s", path, what, strerror(code));
}

/* Non-blocking, so that a FIFO cannot hang the caller. */
static fk_status open_regular(const char *path, int *fd, size_t *size) {
  struct stat info;
  *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (*fd < 0) return os_error(path, "open");
  fk_status status = FK_OK;
  if (fstat(*fd, &info))
    status = os_error(path, "inspect");
  else if (!S_ISREG(info.st_mode))
    status = fk_fail(FK_ERROR_IO, "%s: expected a regular file, got a %s", path,
                     S_ISDIR(info.st_mode) ? "folder" : "special file");
  if (status != FK_OK) {
    close(*fd);
    return status;
  }
  *size = (size_t)info.st_size;
  return FK_OK;
}

fk_status fk_file_read(const char *path, size_t max_bytes, char **data, size_t *size) {
  fk_status status = FK_OK;
  char *buffer = NULL;
  size_t bytes = 0, done = 0;
  int fd;
  *data = NULL;
  *size = 0;
  FK_TRY(open_regular(path, &fd, &bytes));
  if (bytes > max_bytes) {
    status = fk_fail(FK_ERROR_FORMAT, "%s: expected at most %zu bytes, got %zu", path, max_bytes, bytes);
    goto cleanup;
  }
  buffer = malloc(bytes + 1);
  if (!buffer) {
    status = fk_fail(FK_ERROR_MEMORY, "%s: cannot allocate %zu bytes", path, bytes + 1);
    goto cleanup;
  }
  while (done < bytes) {
    ssize_t got = read(fd, buffer + done, bytes - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      status = got ? os_error(path, "read") : fk_fail(FK_ERROR_IO, "%s: became shorter while it was read", path);
      goto cleanup;
    }
    done += (size_t)got;
  }
  buffer[bytes] = 0;
  *data = buffer;
  *size = bytes;
  buffer = NULL;

cleanup:
  close(fd);
  free(buffer);
  return status;
}

fk_status fk_file_map(const char *path, void **data, size_t *size) {
  int fd;
  *data = NULL;
  *size = 0;
  size_t bytes = 0;
  FK_TRY(open_regular(path, &fd, &bytes));
  fk_status status = FK_OK;
  if (bytes) {
    void *p = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
      status = os_error(path, "map");
    } else {
      *data = p;
      *size = bytes;
    }
  }
  close(fd);
  return status;
}

void fk_file_unmap(void *data, size_t size) {
  if (data) munmap(data, size);
}

/* Not mkstemp: the file shall get the permissions that the user's umask gives any other file. */
static int create_beside(fk_atomic_file *file, size_t capacity) {
  for (int attempt = 0; attempt < 1000; attempt++) {
    snprintf(file->temp, capacity, "%s.%ld-%d.tmp", file->path, (long)getpid(), attempt);
    int fd = open(file->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 || errno != EEXIST) return fd;
  }
  return -1;
}

static void release(fk_atomic_file *file) {
  free(file->path);
  free(file->temp);
  *file = (fk_atomic_file){.fd = -1};
}

fk_status fk_atomic_open(fk_atomic_file *file, const char *path) {
  size_t length = strlen(path), capacity = length + 48;
  *file = (fk_atomic_file){.fd = -1, .path = malloc(length + 1), .temp = malloc(capacity)};
  if (!file->path || !file->temp) {
    release(file);
    return fk_fail(FK_ERROR_MEMORY, "%s: no memory for the name of a temporary file", path);
  }
  memcpy(file->path, path, length + 1);
  file->fd = create_beside(file, capacity);
  if (file->fd < 0) {
    fk_status status = os_error(file->temp, "create");
    release(file);
    return status;
  }
  return FK_OK;
}

fk_status fk_atomic_write(fk_atomic_file *file, const void *data, size_t size) {
  for (const char *p = data; size > 0;) {
    size_t chunk = size < (1u << 30) ? size : 1u << 30; /* Linux writes at most 2 GiB at once */
    ssize_t n = write(file->fd, p, chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return os_error(file->temp, "write");
    p += n;
    size -= (size_t)n;
  }
  return FK_OK;
}

/* Makes the rename itself survive a crash. Some file systems refuse to sync a folder; the file is safe then too. */
static void sync_folder(char *path) {
  char *slash = strrchr(path, '/');
  if (slash) slash[slash == path] = 0;
  int fd = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

fk_status fk_atomic_commit(fk_atomic_file *file) {
  fk_status status = FK_OK;
  if (fsync(file->fd) && errno != EINVAL) status = os_error(file->temp, "flush");
  int fd = file->fd;
  file->fd = -1;
  if (close(fd) && status == FK_OK) status = os_error(file->temp, "close");
  if (status == FK_OK && rename(file->temp, file->path)) status = os_error(file->path, "replace");
  if (status == FK_OK)
    sync_folder(file->path);
  else
    unlink(file->temp);
  release(file);
  return status;
}

void fk_atomic_abandon(fk_atomic_file *file) {
  if (!file->temp) return;
  if (file->fd >= 0) close(file->fd);
  unlink(file->temp);
  release(file);
}
