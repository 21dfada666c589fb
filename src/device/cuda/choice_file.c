/* The file of measured choices (choice_file.h). */
#include "device/cuda/choice_file.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/json.h"

enum { MAX_FILE = 16 << 20, HEX = 16 * 8 };

struct fk_choice_file {
  char path[PATH_MAX], library[32];
  json_t *choices;
};

/* Makes the folder and those above it. */
static bool make_folder(char *path) {
  for (char *at = path + 1; *at; at++) {
    if (*at != '/') continue;
    *at = '\0';
    bool made = mkdir(path, 0777) == 0 || errno == EEXIST;
    *at = '/';
    if (!made) return false;
  }
  return mkdir(path, 0777) == 0 || errno == EEXIST;
}

static bool folder(char *path, size_t size) {
  const char *own = getenv("FASTKERNELS_CACHE"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  int n = -1;
  if (own && *own)
    n = snprintf(path, size, "%s", own);
  else if (cache && *cache == '/')
    n = snprintf(path, size, "%s/fastkernels", cache);
  else if (home && *home == '/')
    n = snprintf(path, size, "%s/.cache/fastkernels", home);
  return n > 0 && (size_t)n < size && make_folder(path);
}

fk_choice_file *fk_choice_file_open(fk_cuda *cuda, const char *library, int version) {
  char at[PATH_MAX - 512], gpu[256];
  struct cudaDeviceProp properties;
  int driver = 0;
  fk_choice_file *file = NULL;
  if (!folder(at, sizeof at)) return NULL;
  if (cudaGetDeviceProperties(&properties, cuda->device_id) != cudaSuccess ||
      cudaDriverGetVersion(&driver) != cudaSuccess) {
    cudaGetLastError();
    return NULL;
  }
  snprintf(gpu, sizeof gpu, "%s", properties.name);
  for (char *c = gpu; *c; c++) *c = isalnum((unsigned char)*c) ? (char)tolower((unsigned char)*c) : '-';
  file = calloc(1, sizeof *file);
  if (!file) return NULL;
  snprintf(file->path, sizeof file->path, "%s/%s-%s-%d-%d.json", at, library, gpu, driver, version);
  snprintf(file->library, sizeof file->library, "%s", library);
  struct stat info;
  json_t *found = NULL;
  if (stat(file->path, &info) == 0 && fk_json_load(file->path, MAX_FILE, &found) != FK_OK) found = NULL;
  if (!json_is_object(found)) {
    json_decref(found);
    found = json_object();
  }
  file->choices = found;
  return file;
}

void fk_choice_file_close(fk_choice_file *file) {
  if (!file) return;
  json_decref(file->choices);
  free(file);
}

static bool read_algo(const char *hex, fk_choice_algo *algo) {
  if (!hex || strlen(hex) != HEX || strspn(hex, "0123456789abcdef") != HEX) return false;
  for (int i = 0; i < 8; i++) {
    char word[17] = {0};
    memcpy(word, hex + 16 * i, 16);
    algo->data[i] = strtoull(word, NULL, 16);
  }
  return true;
}

bool fk_choice_file_get(const fk_choice_file *file, const char *shape, const char **by, fk_choice_algo *algo) {
  const json_t *found = file ? json_object_get(file->choices, shape) : NULL;
  *by = json_string_value(json_object_get(found, "by"));
  if (algo) memset(algo, 0, sizeof *algo);
  if (!*by) return false;
  return !algo || strcmp(*by, file->library) != 0 || read_algo(json_string_value(json_object_get(found, "algo")), algo);
}

void fk_choice_file_put(fk_choice_file *file, const char *shape, const char *by, const fk_choice_algo *algo,
                        double microseconds) {
  if (!file) return;
  char hex[HEX + 1] = "";
  for (int i = 0; algo && i < 8; i++) snprintf(hex + 16 * i, 17, "%016llx", (unsigned long long)algo->data[i]);
  json_t *value = json_pack("{s:s, s:f}", "by", by, "us", microseconds);
  if (algo) json_object_set_new(value, "algo", json_string(hex));
  json_object_set_new(file->choices, shape, value);
  (void)fk_json_write(file->path, file->choices);
}
