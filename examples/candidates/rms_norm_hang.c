/* Hangs: the grader's clock ends it. */
#include "fastkernels/abi.h"

FK_EXPORT(rms_norm) {
  (void)self, (void)args, (void)num_args, (void)result;
  for (volatile int forever = 1; forever;) continue;
  return 0;
}
