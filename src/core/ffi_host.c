/* The two symbols that a kernel's shared object expects of its host (abi.h). */
#include "core/context.h"

FK_VISIBLE void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message) {
  fk_fail(FK_ERROR_KERNEL, "%s: %s", kind ? kind : "RuntimeError", message ? message : "");
}

/* The ABI asks for the stream by a function without a context, so it has to be the thread's. */
static _Thread_local void *current_stream;

void fk_ffi_set_stream(void *stream) {
  current_stream = stream;
}

/* CPU kernels run on the calling thread: there is no stream to name. */
FK_VISIBLE void *TVMFFIEnvGetStream(int32_t device_type, int32_t device_id) {
  (void)device_id; /* a call has tensors of one device */
  return device_type == FK_DL_CUDA ? current_stream : NULL;
}
