/* Feeds files to a fuzz target without libFuzzer, so that every input that ever found a bug is a test with any
 * compiler:
 *
 *     replay_<subject> FILE_OR_FOLDER...
 *
 * Each file goes in whole, then cut at 64 places, then with single bytes changed by a fixed sequence. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CUTS = 64, CHANGES = 200 };

/* A copy of exactly the right size, so that a sanitizer sees the first byte read beyond it. */
static void feed(const uint8_t *data, size_t size) {
  uint8_t *copy = malloc(size ? size : 1);
  if (!copy) abort();
  memcpy(copy, data, size);
  LLVMFuzzerTestOneInput(copy, size);
  free(copy);
}

static int replay_file(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) {
    perror(path);
    return 1;
  }
  fseek(f, 0, SEEK_END);
  size_t size = (size_t)ftell(f);
  rewind(f);
  uint8_t *data = malloc(size + 1);
  if (!data || fread(data, 1, size, f) != size) {
    fprintf(stderr, "%s: cannot be read\n", path);
    exit(1);
  }
  fclose(f);
  feed(data, size);
  for (size_t i = 0; i < CUTS; i++) feed(data, size * i / CUTS);
  uint32_t state = 1;
  for (int i = 0; size && i < CHANGES; i++) {
    state = state * 1664525u + 1013904223u;
    uint8_t *byte = &data[(state >> 8) % size], old = *byte;
    *byte = (uint8_t)(state >> 3);
    feed(data, size);
    *byte = old;
  }
  free(data);
  return 0;
}

static int replay_folder(const char *folder, int *files) {
  DIR *dir = opendir(folder);
  if (!dir) {
    perror(folder);
    return 1;
  }
  int failed = 0;
  for (struct dirent *entry; (entry = readdir(dir));) {
    char path[4096];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode)) continue;
    failed |= replay_file(path);
    ++*files;
  }
  closedir(dir);
  return failed;
}

int main(int argc, char **argv) {
  int failed = 0, files = 0;
  for (int i = 1; i < argc; i++) {
    struct stat st;
    if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode)) {
      failed |= replay_folder(argv[i], &files);
    } else {
      failed |= replay_file(argv[i]);
      files++;
    }
  }
  printf("%d files replayed\n", files);
  return failed || files == 0;
}
