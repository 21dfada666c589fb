/* Candidate: a kernel file as a user hands it in, and what can be said of it without running it.
 *
 * A .c or .cu file is compiled in a private temporary folder, which fk_candidate_close removes; a .so is taken as it
 * is. Anything wrong with the file is the candidate's fault and recorded in `refused`; a status other than FK_OK is
 * ours.
 */
#ifndef FK_JUDGE_CANDIDATE_H
#define FK_JUDGE_CANDIDATE_H

#include "judge/elf.h"

enum { FK_MAX_EXPORTED_TASKS = 64 };

typedef struct fk_candidate {
  const char *path;  /* as given */
  const char *name;  /* its last component */
  char object[512];  /* absolute path of the shared object */
  char folder[256];  /* temporary, "" when there is none */
  char build[1024];  /* the compiler's command line, "" for a .so */
  char refused[320]; /* why it is not run; "" when it is */
  const fk_task *tasks[FK_MAX_EXPORTED_TASKS];
  int num_tasks;
} fk_candidate;

/* include: folder of fastkernels/abi.h, or NULL to search: beside the program, above it, above the file.
 * compute_capability: 10 * major + minor of the GPU that a .cu file is compiled for, 0 when there is none. The
 * compilers are $CC (cc) and $NVCC (nvcc, or that of $CUDA_HOME, or of /usr/local/cuda). */
fk_status fk_candidate_open(fk_arena *arena, const char *path, const char *include, int compute_capability,
                            fk_candidate *c);
void fk_candidate_close(fk_candidate *c);

/* The first imported symbol that no kernel has business with, or NULL. */
const char *fk_unsafe_import(const fk_elf *elf);

#endif
