/* Content of a captured tensor: the numbers themselves for integer tensors of bounded size, else their distribution.
 *
 * An fk_ints is shared by reference count: the batch's tables are arguments of calls at every level, and are kept
 * once. It is immutable after it was read. */
#ifndef FK_ENGINE_CONTENT_H
#define FK_ENGINE_CONTENT_H

#include "fastkernels/fastkernels.h"

/* A larger integer tensor is kept as statistics. */
enum { FK_MAX_KEPT_INTS = 65536, FK_MAX_SAMPLE = 16384 };

/* Over a regular sample of at most FK_MAX_SAMPLE elements; mean to absmax are over the finite ones. */
typedef struct fk_stats {
  int64_t numel, sampled;
  double mean, std, min, max, absmax;
  double zero, nonfinite; /* fractions of the sample */
} fk_stats;

typedef struct fk_ints {
  int refs;
  int32_t ndim;
  int64_t shape[FK_MAX_DIMS];
  int64_t count;   /* product of shape */
  int32_t *narrow; /* one of the two holds the numbers: int32 where they fit */
  int64_t *wide;
} fk_ints;

/* Reads a host tensor with data: any strides; floats of 16 to 64 bits, integers and bool. */
fk_status fk_stats_read(const fk_tensor *t, fk_stats *stats);

/* Reads an integer or bool host tensor with data of at most FK_MAX_KEPT_INTS elements. refs starts at 1. */
fk_status fk_ints_read(const fk_tensor *t, fk_ints **ints);
/* From numbers in row-major order. */
fk_status fk_ints_create(const int64_t *values, const int64_t *shape, int32_t ndim, fk_ints **ints);
static inline int64_t fk_ints_at(const fk_ints *ints, int64_t i) {
  return ints->wide ? ints->wide[i] : ints->narrow[i];
}
void fk_ints_release(fk_ints *ints); /* NULL is fine */

#endif
