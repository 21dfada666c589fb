/* Workload: the requests that a model is driven with.
 *
 *   {"name": "...", "source": "...", "requests": [{"input_length": 374, "output_length": 44, "arrival": 0.5},
 *                                                 {"input_ids": [1, 2], "max_new_tokens": 16},
 *                                                 {"text": "Once", "max_new_tokens": 16, "count": 2}]}
 *   {"name": "...", "source": "...", "requests": 1000, "input_length": {"quantiles": [[0, 3], [0.5, 800], [1, 4000]]},
 *    "output_length": {"quantiles": [...]}, "correlation": 0.4}
 *   {"name": "...", "source": "...", "inputs": [{"pixel_values": {"shape": [8, 3, 224, 224], "dtype": "float32"}}]}
 *
 * The second form is a summary: lengths are drawn by inverse transform from a fixed seed, joined by a Gaussian copula
 * of the given correlation. The third is for models that map tensors to tensors. docs/captures.md describes all.
 *
 * A workload owns everything it points to. */
#ifndef FK_ENGINE_WORKLOAD_H
#define FK_ENGINE_WORKLOAD_H

#include "core/arena.h"
#include "fastkernels/fastkernels.h"

/* Beyond this a length is taken for a damaged file: no model comes near. */
enum { FK_MAX_REQUEST_LENGTH = 1 << 28 };

typedef struct fk_request {
  int64_t input_length, output_length; /* tokens; input_length 0 = text that is yet to be encoded */
  double arrival;                      /* seconds after the first; 0 when the workload does not say */
  const int32_t *input_ids;            /* input_length of them, or NULL: any ids will do */
  const char *text;                    /* or NULL */
} fk_request;

typedef struct fk_input_spec { /* one tensor of an "inputs" item */
  const char *name;
  fk_type type;
  int32_t ndim;
  int64_t shape[FK_MAX_DIMS];
} fk_input_spec;

typedef struct fk_input_item {
  int count;
  const fk_input_spec *specs;
} fk_input_item;

typedef enum fk_workload_kind { FK_WORKLOAD_SEQUENCES, FK_WORKLOAD_INPUTS } fk_workload_kind;

typedef struct fk_workload {
  fk_workload_kind kind;
  const char *name, *source;
  fk_request *requests; /* FK_WORKLOAD_SEQUENCES */
  fk_input_item *items; /* FK_WORKLOAD_INPUTS */
  int64_t count;        /* of the one or the other */
  int64_t skipped;      /* requests left out because the model is too short for them */
  bool has_text;
  fk_arena arena;
} fk_workload;

typedef struct fk_named_workload { /* workloads/<name>.json, embedded by the build */
  const char *name, *json;
} fk_named_workload;
extern const fk_named_workload fk_workloads[];
extern const int fk_workload_count;

/* source is the path of a JSON file or, where no such file exists, the name of an embedded workload. At most
 * max_requests (0 = all) are taken; a summary yields exactly that many. On failure *workload is NULL. */
fk_status fk_workload_open(const char *source, int64_t max_requests, fk_workload **workload);
fk_status fk_workload_parse(const char *json, size_t size, const char *where, int64_t max_requests,
                            fk_workload **workload);
/* From a trace file (trace.h). */
fk_status fk_workload_open_trace(const char *path, int64_t max_requests, fk_workload **workload);
void fk_workload_close(fk_workload *workload);

/* Removes requests of more than max_position tokens (input and output together, the last output token apart: it is
 * never fed back) and adds their number to skipped. */
void fk_workload_limit(fk_workload *workload, int64_t max_position);

#endif
