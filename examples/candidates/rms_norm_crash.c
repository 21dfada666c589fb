/* Crashes: writes through a null pointer. Its process dies, the grader does not. */
#include "fastkernels/abi.h"

FK_EXPORT(rms_norm) {
  (void)self, (void)args, (void)result;
  volatile float *volatile nowhere = NULL;
  nowhere[num_args] = 1;
  return 0;
}
