/* Capture: records every task call of every level that a context makes, as cases with counts and costs.
 *
 * A capture is driven in steps (one engine step, one forward): within a step the integer tensors that the caller has
 * frozen keep their content, so on meta a composite that was seen with equal arguments is not expanded again - its
 * calls are counted through the tree of calls that the first expansion left. Counts are exact either way. After each
 * step, cases are merged as far as needed to keep memory bounded (records.h).
 *
 * Counts of different levels overlap: a block's call contains those of its kernels. Never add them up.
 *
 * On cuda, integers and statistics come from copies in host memory, so that cases are those of every other device;
 * every call waits for the GPU, and tensors above 64 MiB have no statistics.
 *
 * A capture owns its tables and copies what it needs: it may outlive the context and the model. */
#ifndef FK_ENGINE_CAPTURE_H
#define FK_ENGINE_CAPTURE_H

#include "core/context.h"
#include "engine/records.h"

typedef struct fk_capture fk_capture;

enum { FK_DEFAULT_MAX_CASES = 64 };

typedef struct fk_capture_options {
  int max_cases;    /* per task, before near cases are merged; 0 = FK_DEFAULT_MAX_CASES */
  bool expand_all;  /* on meta too: expand every composite every time (slow, same result) */
  bool shapes_only; /* keep no integers and no statistics */
} fk_capture_options;

/* On failure *capture is NULL. */
fk_status fk_capture_create(const fk_capture_options *options, fk_capture **capture);
void fk_capture_destroy(fk_capture *capture);

/* To be given to fk_context_record(); belongs to the capture. */
fk_recorder *fk_capture_recorder(fk_capture *capture);

/* Promises that the tensor's content stays as it is until the step ends. */
fk_status fk_capture_freeze(fk_capture *capture, const fk_tensor *t);

/* Ends a step: counts its calls. Fails with what recording failed with since the last step. */
fk_status fk_capture_step(fk_capture *capture);

/* Merges to the limit and sorts: tasks by level and name, cases by bytes. Nothing can be recorded afterwards. */
fk_status fk_capture_finish(fk_capture *capture);

/* The tasks seen. Level-4 entries are models: tasks that the registry does not have. Valid while the capture lives. */
int fk_capture_count(const fk_capture *capture);
const fk_record_table *fk_capture_table(const fk_capture *capture, int index);
const fk_record_table *fk_capture_find(const fk_capture *capture, const char *task); /* NULL when never called */

#endif
