/* How many threads a parallel region may have, and which one is asking; one and the first without OpenMP. */
#ifndef FK_DEVICE_CPU_THREADS_H
#define FK_DEVICE_CPU_THREADS_H

#ifdef _OPENMP
#include <omp.h>
#endif

static inline int fk_max_threads(void) {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

static inline int fk_thread_index(void) {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

#endif
