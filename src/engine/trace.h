/* Traces: when requests came and how long they and their answers were, as public data sets record it.
 *
 *   CSV    header TIMESTAMP,ContextTokens,GeneratedTokens (Azure Public Dataset); the time as "2023-11-16
 *          18:15:46.6805900" or as seconds;
 *   JSONL  {"timestamp": milliseconds, "input_length": n, "output_length": m} (Mooncake); other keys are ignored.
 *
 * Read line by line: a trace of any size needs the memory of its longest line. A line that is not a request, a length
 * below 1 or beyond FK_MAX_REQUEST_LENGTH, and time running backwards are errors that name file and line. */
#ifndef FK_ENGINE_TRACE_H
#define FK_ENGINE_TRACE_H

#include <stdio.h>

#include "fastkernels/fastkernels.h"

typedef struct fk_trace_request {
  double time; /* seconds after the first request */
  int64_t input_length, output_length;
} fk_trace_request;

/* Called for each request in order; a failure ends the reading and is returned. */
typedef fk_status (*fk_trace_fn)(void *self, const fk_trace_request *request);

/* Reads at most max_requests (0 = all) of a file whose name ends in .csv or .jsonl. */
fk_status fk_trace_read(const char *path, int64_t max_requests, fk_trace_fn fn, void *self);

typedef enum fk_trace_format { FK_TRACE_CSV, FK_TRACE_JSONL } fk_trace_format;
/* The same from an open stream; where names it in errors. */
fk_status fk_trace_read_stream(FILE *stream, fk_trace_format format, const char *where, int64_t max_requests,
                               fk_trace_fn fn, void *self);

#endif
