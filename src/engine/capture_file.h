/* Capture files: what `fastkernels capture` writes and the judge reads (docs/captures.md is the schema). */
#ifndef FK_ENGINE_CAPTURE_FILE_H
#define FK_ENGINE_CAPTURE_FILE_H

#include "engine/simulate.h"

#define FK_CAPTURE_FORMAT "fastkernels-capture/1"

/* What a file says beside the cases. Strings are borrowed; created may be NULL: now. */
typedef struct fk_capture_about {
  const char *model;  /* folder or preset */
  const char *device; /* fk_backend_name */
  const char *dtype;
  const char *arrival; /* "closed" or "trace" */
  const char *created; /* UTC, ISO 8601 */
  const fk_workload *workload;
  const fk_simulation *simulation;
} fk_capture_about;

/* Writes a finished capture atomically. */
fk_status fk_capture_write(const fk_capture *capture, const fk_capture_about *about, const char *path);

#endif
