/* Timing candidates for one matrix product (gemm.h), in the way that a decode step runs them.
 *
 * Each candidate is recorded as a graph of several calls in a row, over copies of the weights that together do not fit
 * the caches, so that each call finds its weights in memory and may overlap with the call before it as far as its
 * kernel allows. Candidates take turns, so that clocks which fall under load fall for all. */
#ifndef FK_DEVICE_CUDA_GEMM_MEASURE_H
#define FK_DEVICE_CUDA_GEMM_MEASURE_H

#include "device/cuda/gemm.h"

enum { FK_GEMM_MAX_CANDIDATES = 48 };

/* Queues one call of a candidate. */
typedef fk_status (*fk_gemm_run_fn)(void *self, int candidate, const fk_gemm_args *g);

/* Device memory for copies, and events; starts zeroed. */
typedef struct fk_gemm_meter {
  char *copies;
  size_t bytes; /* twice the L2 cache */
  cudaEvent_t start, stop;
} fk_gemm_meter;

void fk_gemm_meter_close(fk_gemm_meter *meter);

typedef struct fk_gemm_time {
  int candidate;
  double microseconds; /* a call */
} fk_gemm_time;

/* Times count candidates and lists those that run, the fastest first; returns how many. Waits for the GPU; not while a
 * graph is recorded. */
int fk_gemm_measure(fk_cuda *cuda, fk_gemm_meter *meter, const fk_gemm_args *g, fk_gemm_run_fn run, void *self,
                    int count, fk_gemm_time *times);

#endif
