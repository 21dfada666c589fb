/* Ceilings: how fast this machine can move and multiply numbers at best, measured here and now. A roofline divides a
 * task's bytes and FLOPs by them. Both measurements keep the best of several repetitions, since everything that
 * disturbs one makes it slower. */
#ifndef FK_ENGINE_CEILINGS_H
#define FK_ENGINE_CEILINGS_H

#include "fastkernels/fastkernels.h"

/* Bytes of the largest cache of one package, from sysfs; 0 when the kernel does not say. */
size_t fk_last_level_cache(void);

typedef struct fk_copy_ceiling {
  double bytes_per_second; /* read plus written */
  size_t working_set;      /* bytes of source and destination together */
  size_t cache;            /* the last-level cache that it had to exceed */
  bool beyond_cache;       /* false: memory was too short, so the number is the cache's */
} fk_copy_ceiling;

/* Copies a working set of four times the last-level cache (256 MiB to 2 GiB, at most a quarter of the free memory) with
 * all threads, for about the given time. */
fk_status fk_measure_copy(double seconds, fk_copy_ceiling *ceiling);

typedef struct fk_gemm_ceiling {
  double flops_per_second;
  int64_t size;   /* of the square matrices */
  const char *by; /* what reached it: "linear" or "OpenBLAS" */
} fk_gemm_ceiling;

/* The better of the CPU baseline's float32 linear and, where linked, OpenBLAS, on square matrices. */
fk_status fk_measure_gemm(double seconds, fk_gemm_ceiling *ceiling);

typedef struct fk_cuda_ceilings {
  double bytes_per_second; /* of a copy within the GPU's memory: read plus written */
  double flops_per_second; /* of the linear task on square bfloat16 matrices of 8192 */
} fk_cuda_ceilings;

/* On a cuda context, in a few tens of milliseconds. */
fk_status fk_measure_cuda(fk_context *ctx, fk_cuda_ceilings *ceilings);

#endif
