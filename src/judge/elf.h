/* ELF: the names that a shared object exports and imports, read from the file without loading it.
 *
 * Only what the dynamic linker itself would follow is followed (program headers, the dynamic section, its symbol and
 * string tables); section headers may say anything. Every offset is checked against the file. */
#ifndef FK_JUDGE_ELF_H
#define FK_JUDGE_ELF_H

#include "core/arena.h"
#include "fastkernels/fastkernels.h"

typedef struct fk_elf {
  const char **exports, **imports, **needed; /* NULL-ended; in the arena */
  int num_exports, num_imports, num_needed;
  bool executable_stack; /* asks for a stack that holds code */
} fk_elf;

/* FK_ERROR_FORMAT when the file is no 64-bit little-endian shared object for this machine. */
fk_status fk_elf_read(fk_arena *arena, const char *path, fk_elf *elf);

#endif
