/* What the grader and a runner say to each other: one file of shared memory of fixed layout, one socket of fixed-size
 * messages.
 *
 * The grader writes the header before the runner starts and never reads it back: everything it judges by (shapes,
 * offsets, seeds) it keeps for itself. From the shared buffer it takes nothing but the bytes of tensors, and from the
 * socket nothing but whole messages whose nonce is the one it just sent.
 *
 * On a GPU the buffer has a twin in the GPU's memory: FLUSH copies the whole buffer there, FETCH copies it back, and
 * RUN between them is only the call. */
#ifndef FK_JUDGE_PROTOCOL_H
#define FK_JUDGE_PROTOCOL_H

#include "fastkernels/fastkernels.h"

enum { FK_RUNNER_MEMORY_FD = 3, FK_RUNNER_SOCKET_FD = 4 };

#define FK_SHARED_MAGIC 0x31656764756a6b66u

typedef struct fk_shared_tensor {
  int32_t given, type, ndim;
  int64_t shape[FK_MAX_DIMS], strides[FK_MAX_DIMS];
  uint64_t data; /* offset in the buffer */
} fk_shared_tensor;

typedef struct fk_shared_header {
  uint64_t magic, size;    /* of the whole file */
  uint64_t buffer, length; /* where the plan's buffer lies in it */
  char task[128];
  char candidate[4096]; /* path of a shared object; empty: the built-in baseline */
  int32_t num_args, threads;
  int32_t backend, device_id; /* FK_CPU or FK_CUDA; of cuda: which GPU */
  /* Of a collective on several GPUs: this runner is the rank-th of world_size that find each other by `group`, and
   * argument comm_arg takes the communicator. World_size 1: there is none. */
  int32_t rank, world_size, comm_arg;
  char group[128];
  uint64_t flush_bytes;  /* walked before each sample */
  uint64_t memory_bytes; /* address space limit, 0 = none */
  uint64_t cpu_seconds;  /* 0 = none */
  fk_any attributes[FK_MAX_ARGS];
  fk_shared_tensor tensors[FK_MAX_ARGS];
} fk_shared_header;

typedef enum fk_message_kind {
  FK_MESSAGE_READY = 1, /* runner: loaded and sandboxed; nanoseconds of an empty call; text: missing of the sandbox */
  FK_MESSAGE_REFUSED,   /* runner: cannot load; text says why */
  FK_MESSAGE_FLUSH,     /* grader: take the inputs, walk the caches out; answered by the same kind */
  FK_MESSAGE_RUN,       /* grader: one call */
  FK_MESSAGE_DONE,      /* runner: rc of the call, its nanoseconds, its error, or what computed it */
  FK_MESSAGE_FETCH      /* grader: bring the answer into the shared memory; answered by the same kind. Only of cuda */
} fk_message_kind;

typedef struct fk_message {
  uint32_t kind;
  int32_t rc;
  uint64_t nonce;
  int64_t nanoseconds;
  char text[232];
} fk_message;

/* The runner's whole life (cmd_runner.c): returns its exit status. */
int fk_runner_main(void);

#endif
