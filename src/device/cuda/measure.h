/* Timing several ways to do the same, so that the fastest can be chosen.
 *
 * Each candidate is recorded as a graph of several calls in a row, which may overlap as far as their kernels allow, or,
 * `cold`, of one call behind a walk through memory that empties the caches. Candidates take turns, so that clocks which
 * fall under load fall for all; the fastest of a first round meet again for longer, and where a call is heavy long
 * enough to reach the clocks of sustained work. */
#ifndef FK_DEVICE_CUDA_MEASURE_H
#define FK_DEVICE_CUDA_MEASURE_H

#include "device/cuda/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { FK_MEASURE_MAX = 48 };

/* Device memory twice the size of the L2 cache, and events; starts zeroed. */
typedef struct fk_meter {
  char *memory;
  size_t bytes;
  cudaEvent_t start, stop;
} fk_meter;

fk_status fk_meter_open(fk_cuda *cuda, fk_meter *meter); /* nothing when it is open */
void fk_meter_close(fk_meter *meter);

/* Queues one call of a candidate, the repetition-th in a row. */
typedef fk_status (*fk_measure_fn)(void *self, int candidate, int repetition);

typedef struct fk_contest {
  fk_measure_fn run;
  void *self;
  int count;           /* of candidates, at most FK_MEASURE_MAX */
  double microseconds; /* about what a call takes */
  bool cold;
  int seeded; /* this one meets the finalists in any case: who it loses to must win side by side. Beyond count: none */
} fk_contest;

typedef struct fk_measured {
  int candidate;
  double microseconds; /* a call */
} fk_measured;

/* Lists the candidates that run, the fastest first, and returns how many. Opens the meter. Waits for the GPU; not while
 * a graph is recorded. */
int fk_measure(fk_cuda *cuda, fk_meter *meter, const fk_contest *contest, fk_measured *measured);

/* Whether the stream is being recorded: then nothing can be measured or allocated. */
bool fk_cuda_recording(const fk_cuda *cuda);

#ifdef __cplusplus
}
#endif

#endif
