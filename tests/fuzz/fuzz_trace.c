/* Any bytes as a trace of both forms and as a workload: requests in range, or an error. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/trace.h"
#include "engine/workload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static fk_status check(void *self, const fk_trace_request *r) {
  double *last = self;
  if (r->input_length < 1 || r->input_length > FK_MAX_REQUEST_LENGTH || r->output_length < 1 ||
      r->output_length > FK_MAX_REQUEST_LENGTH || !(r->time >= *last))
    abort();
  *last = r->time;
  return FK_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  for (int format = 0; format < 2; format++) {
    double last = 0;
    FILE *f = fmemopen((void *)(uintptr_t)data, size, "r");
    if (!f) return 0;
    (void)fk_trace_read_stream(f, (fk_trace_format)format, "fuzz", 1000, check, &last);
    fclose(f);
  }
  fk_workload *w;
  fk_status status = fk_workload_parse((const char *)data, size, "fuzz", 1000, &w);
  if ((status == FK_OK) != (w != NULL)) abort();
  for (int64_t i = 0; w && w->kind == FK_WORKLOAD_SEQUENCES && i < w->count; i++)
    if (w->requests[i].output_length < 1 || w->requests[i].input_length < 0) abort();
  fk_workload_close(w);
  return 0;
}
