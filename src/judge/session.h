/* Session: the grader's end of one runner process, which computes one case with one kernel.
 *
 * A session owns the process, the shared memory and the socket. Whatever happens to the process ends in an outcome,
 * never in a hang: every exchange has a deadline, and at the end the whole process group is killed. */
#ifndef FK_JUDGE_SESSION_H
#define FK_JUDGE_SESSION_H

#include <sys/types.h>

#include "device/cuda.h"
#include "judge/protocol.h"
#include "judge/ranks.h"
#include "judge/synth.h"

typedef enum fk_outcome { FK_RAN, FK_FAILED, FK_REFUSED, FK_CRASHED, FK_TIMED_OUT } fk_outcome;

typedef struct fk_limits {
  double timeout_seconds; /* of one call, by the grader's clock */
  uint64_t memory_bytes;  /* beyond the case's own tensors */
  int threads;
  uint64_t flush_bytes;
  fk_backend backend;        /* FK_CPU or FK_CUDA */
  int devices[FK_MAX_RANKS]; /* GPUs: collectives run on all of them, everything else on the first */
  int num_devices;
} fk_limits;

/* A runner's place among those that compute one call together. */
typedef struct fk_group {
  int rank, world_size;      /* 0 of 1: alone */
  int comm_arg;              /* the argument that takes the communicator */
  char id[FK_CUDA_ID_BYTES]; /* by which they find each other */
} fk_group;

typedef struct fk_session {
  pid_t pid;  /* 0 when it does not run */
  int socket; /* -1 when closed */
  char *shared;
  size_t size;
  char *buffer; /* the plan's buffer, in shared memory */
  double timeout_seconds;
  bool on_gpu;
  uint64_t nonce;    /* of the question that was posted */
  char missing[232]; /* what the kernel refused of the sandbox */
  char reason[320];  /* of the last outcome other than FK_RAN */
  char by[232];      /* what the runner says computed its last call: to be believed of a baseline only */
  int64_t empty_ns;  /* of an empty call, measured before a candidate was loaded; 0: not on a GPU */
} fk_session;

/* Starts a runner for the plan's task: with a candidate's shared object, or with candidate NULL the baseline, on
 * limits->devices[group->rank]. It is ready when FK_MESSAGE_READY was taken. Always end it with fk_session_end. */
fk_outcome fk_session_start(fk_session *s, const fk_plan *plan, const char *candidate, const fk_limits *limits,
                            const fk_group *group);

/* Wakes the runner and asks for something: FK_MESSAGE_FLUSH, before every run on a GPU; FK_MESSAGE_RUN, one call on
 * what the buffer holds; FK_MESSAGE_FETCH, which on a GPU brings the answer back into the buffer. */
fk_outcome fk_session_post(fk_session *s, uint32_t kind);

/* Waits for the runner's answer of a kind. FK_FAILED: the kernel reported an error and the session goes on; every other
 * outcome but FK_RAN ends it. */
fk_outcome fk_session_take(fk_session *s, uint32_t kind, double seconds, fk_message *answer);

/* A runner is stopped whenever it has nothing to do: threads that spin while they wait for more work, or that work on
 * behind an answer, would take the processor from the other side's sample. The next post wakes it. */
void fk_session_stop(const fk_session *s);

void fk_session_kill(fk_session *s); /* the process only */
void fk_session_end(fk_session *s);

/* Bytes that a cache walk should cover: twice the last-level cache, or, where that is larger than 64 MiB (a slice of a
 * big server's), four times the second level. *what names the choice, for the record. */
uint64_t fk_flush_bytes(const char **what);

#endif
