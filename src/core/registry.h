/* Registry: the built-in tasks and models, found by name; built at compile time from the folders under kernels/,
 * blocks/ and models/ and immutable. It is the library's only global. */
#ifndef FK_CORE_REGISTRY_H
#define FK_CORE_REGISTRY_H

#include "core/task.h"

/* One row per task folder, generated (tools/taskc.c). An implementation that a folder lacks is NULL. */
typedef struct fk_task_entry {
  const char *json;
  size_t json_length;
  fk_kernel_fn ref;     /* ref.c: contiguous float64 and int64 tensors */
  fk_kernel_fn cpu[3];  /* cpu.c built for the baseline, AVX2 and AVX-512 instruction sets */
  fk_kernel_fn cuda;    /* cuda.cu: tensors in GPU memory; NULL also in a build without CUDA code */
  fk_kernel_fn compose; /* compose.c: calls other tasks */
} fk_task_entry;

extern const fk_task_entry fk_task_entries[];
extern const size_t fk_task_entry_count;

/* Every task, sorted by name. The first call parses all definitions; NULL with the error set when that fails. */
const fk_task *const *fk_tasks(int *count);

/* NULL with the error set (and a near name suggested) when there is none. */
const fk_task *fk_task_find(const char *name);

/* The row a registered task came from. */
const fk_task_entry *fk_task_entry_of(const fk_task *task);

/* The highest instruction set that this machine has and the build holds: 0 baseline, 1 AVX2, 2 AVX-512. The environment
 * variable FASTKERNELS_ISA (baseline, avx2, avx512) lowers it. */
int fk_cpu_isa(void);
const char *fk_cpu_isa_name(int isa);

#endif
