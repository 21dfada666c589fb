/* Writes nothing and says that all is well, very fast. The poison in the output gives it away. */
#include "fastkernels/abi.h"

FK_EXPORT(rms_norm) {
  (void)self, (void)args, (void)num_args, (void)result;
  return 0;
}
