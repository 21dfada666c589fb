/* The two symbols that a kernel's shared object expects of its host (abi.h). */
#include "fastkernels/abi.h"
#include "fastkernels/status.h"

FK_VISIBLE void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) {
  fk_fail(FK_ERROR_KERNEL, "%s: %s", kind ? kind : "RuntimeError", message ? message : "");
}

/* CPU kernels run on the calling thread: there is no stream to name. */
FK_VISIBLE void *TVMFFIEnvGetStream(int32_t device_type, int32_t device_id) {
  (void)device_type;
  (void)device_id;
  return NULL;
}
