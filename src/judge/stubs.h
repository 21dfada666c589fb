/* Stubs: a compilable candidate to start from, written from a task's definition: what each argument means, unpacked and
 * checked, and an error where the kernel belongs. It needs fastkernels/abi.h and nothing else. */
#ifndef FK_JUDGE_STUBS_H
#define FK_JUDGE_STUBS_H

#include <stdio.h>

#include "core/task.h"

/* include: the folder of fastkernels/abi.h that the build line names, or NULL. file: the stub's own name. */
void fk_stub_write(const fk_task *task, bool cuda, const char *file, const char *include, FILE *out);

#endif
