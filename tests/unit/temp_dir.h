/* A folder for the files of one test program, under $TMPDIR or /tmp. */
#ifndef FK_TESTS_TEMP_DIR_H
#define FK_TESTS_TEMP_DIR_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct temp_dir {
  char path[256];
} temp_dir;

static inline int temp_dir_make(temp_dir *dir) {
  const char *base = getenv("TMPDIR");
  snprintf(dir->path, sizeof dir->path, "%s/fk-test-XXXXXX", base && *base ? base : "/tmp");
  return mkdtemp(dir->path) ? 0 : -1;
}

/* The path of a file in it, in a ring of static buffers. */
static inline const char *temp_path(const temp_dir *dir, const char *name) {
  static char ring[8][600];
  static int next;
  char *path = ring[next++ % 8];
  snprintf(path, 600, "%s/%s", dir->path, name);
  return path;
}

static inline const char *temp_write(const temp_dir *dir, const char *name, const void *data, size_t size) {
  const char *path = temp_path(dir, name);
  FILE *f = fopen(path, "wb");
  if (!f || fwrite(data, 1, size, f) != size || fclose(f)) abort();
  return path;
}

static inline const char *temp_text(const temp_dir *dir, const char *name, const char *text) {
  return temp_write(dir, name, text, strlen(text));
}

/* Names in it, without . and .. */
static inline int temp_count(const temp_dir *dir) {
  DIR *d = opendir(dir->path);
  int n = 0;
  if (!d) abort();
  while (readdir(d)) n++;
  closedir(d);
  return n - 2;
}

/* Removes the files in it, one level deep. */
static inline void temp_clear(const temp_dir *dir) {
  DIR *d = opendir(dir->path);
  if (!d) abort();
  for (struct dirent *e; (e = readdir(d));) {
    const char *path = temp_path(dir, e->d_name);
    if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && unlink(path)) rmdir(path);
  }
  closedir(d);
}

static inline void temp_dir_remove(const temp_dir *dir) {
  temp_clear(dir);
  rmdir(dir->path);
}

#endif
