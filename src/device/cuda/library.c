/* Opening shared libraries by name, in the folders of a toolkit (libraries.h). */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "device/cuda/libraries.h"

void *fk_library_open_in(const char *toolkit, const char *const *names, size_t count, int mode) {
  static const char *const folders[] = {"lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"};
  char path[1024];
  if (!toolkit || !*toolkit) return NULL;
  for (size_t f = 0; f < sizeof folders / sizeof *folders; f++)
    for (size_t n = 0; n < count; n++) {
      int length = snprintf(path, sizeof path, "%s/%s/%s", toolkit, folders[f], names[n]);
      void *library = length < (int)sizeof path ? dlopen(path, mode) : NULL;
      if (library) return library;
    }
  return NULL;
}

/* ISO C has no cast from object to function pointer; POSIX gives the bits. */
bool fk_library_find(void *library, const char *what, const char *symbol, void *function) {
  void *address = dlsym(library, symbol);
  memcpy(function, &address, sizeof address);
  if (!address) fk_fail(FK_ERROR_NOT_FOUND, "%s: the library has no %s", what, symbol);
  return address != NULL;
}
