/* Session: the grader's end of one runner process, which computes one case with one kernel.
 *
 * A session owns the process, the shared memory and the socket. Whatever happens to the process ends in an outcome,
 * never in a hang: every exchange has a deadline, and at the end the whole process group is killed. */
#ifndef FK_JUDGE_SESSION_H
#define FK_JUDGE_SESSION_H

#include <sys/types.h>

#include "judge/protocol.h"
#include "judge/synth.h"

typedef enum fk_outcome { FK_RAN, FK_FAILED, FK_REFUSED, FK_CRASHED, FK_TIMED_OUT } fk_outcome;

typedef struct fk_limits {
  double timeout_seconds; /* of one call, by the grader's clock */
  uint64_t memory_bytes;  /* beyond the case's own tensors */
  int threads;
  uint64_t flush_bytes;
  fk_backend backend; /* FK_CPU or FK_CUDA */
  int device_id;
} fk_limits;

typedef struct fk_session {
  pid_t pid;  /* 0 when it does not run */
  int socket; /* -1 when closed */
  char *shared;
  size_t size;
  char *buffer; /* the plan's buffer, in shared memory */
  double timeout_seconds;
  bool on_gpu;
  char missing[232]; /* what the kernel refused of the sandbox */
  char reason[320];  /* of the last outcome other than FK_RAN */
  char by[232];      /* what the runner says computed its last call: to be believed of a baseline only */
  int64_t empty_ns;  /* of an empty call, measured before a candidate was loaded; 0: not on a GPU */
} fk_session;

/* Starts a runner for the plan's task: with a candidate's shared object, or with candidate NULL the baseline. FK_RAN
 * when it is ready; otherwise reason says why not. Always end it with fk_session_end. */
fk_outcome fk_session_start(fk_session *s, const fk_plan *plan, const char *candidate, const fk_limits *limits);

/* One call on what the buffer holds: nanoseconds by the runner's clock and by ours. FK_FAILED: the kernel reported an
 * error and the session goes on; every other outcome but FK_RAN ends it. */
fk_outcome fk_session_run(fk_session *s, int64_t *runner_ns, int64_t *grader_ns);

/* Walks the caches out. On a GPU it also brings the buffer there: needed before every run. */
fk_outcome fk_session_flush(fk_session *s);

/* Brings the answer back into the buffer: needed after a run on a GPU, does nothing elsewhere. */
fk_outcome fk_session_fetch(fk_session *s);

void fk_session_end(fk_session *s);

/* Bytes that a cache walk should cover: twice the last-level cache, or, where that is larger than 64 MiB (a slice of a
 * big server's), four times the second level. *what names the choice, for the record. */
uint64_t fk_flush_bytes(const char **what);

#endif
