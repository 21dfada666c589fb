/* Roofline: the least time that a machine could need for what a model computes. Of every task call the definition gives
 * the FLOPs and the least bytes; a machine gives the fastest rates of both; the larger of the two times is a floor that
 * no kernel of the task can beat. docs/roofline.md states the formulas and the source of every number.
 *
 * A roofline owns its rows and what they point to; it borrows the machine. */
#ifndef FK_ENGINE_ROOFLINE_H
#define FK_ENGINE_ROOFLINE_H

#include "engine/model.h"

/* ---- Machines -------------------------------------------------------------------------------------------- */

typedef enum fk_rate_kind { FK_RATE_FLOAT64, FK_RATE_FLOAT32, FK_RATE_HALF, FK_RATE_FLOAT8, FK_RATES } fk_rate_kind;

/* One number of a machine: what its maker states, and what was reached; 0 = not known. */
typedef struct fk_rate {
  double datasheet, measured;
} fk_rate;

typedef struct fk_machine {
  const char *name;        /* "h200" */
  const char *product;     /* "NVIDIA H200 SXM 141 GB" */
  const char *source;      /* of the datasheet numbers; NULL: there are none */
  const char *measured_by; /* how and when the measured ones were taken; NULL: there are none */
  fk_rate memory;          /* bytes per second */
  fk_rate flops[FK_RATES]; /* dense FLOPs per second, by the dtype of the operands; float32 without TF32 */
  double link;             /* bytes per second to other GPUs, each way; 0 = not known */
  const char *link_name;
} fk_machine;

/* The known GPUs; NULL-named end. */
extern const fk_machine fk_machines[];

/* NULL with the error set (listing the names) when there is none. */
const fk_machine *fk_machine_find(const char *name);

/* This machine's CPU by doctor's measurements, for about the given seconds each. */
fk_status fk_machine_measure_cpu(double seconds, fk_machine *machine);

/* A rate: the datasheet's, or what was measured where that is known and wanted; each falls back on the other. */
double fk_rate_value(const fk_rate *rate, bool measured);

fk_rate_kind fk_rate_kind_of(fk_type type); /* integers count as float32 */

/* ---- Rooflines ------------------------------------------------------------------------------------------- */

typedef struct fk_roofline_options {
  const char *workload; /* file or name; NULL with trace NULL: as fk_capture_model */
  const char *trace;
  int64_t requests;                             /* 0 = all */
  fk_type dtype;                                /* 0 = the model's */
  int64_t tensor_parallel;                      /* ranks; 0 and 1 = one GPU */
  int64_t max_num_seqs, max_num_batched_tokens; /* 0 = batching.h's */
} fk_roofline_options;

typedef struct fk_roofline_row {
  const char *name;
  int level; /* 0: communication between ranks */
  uint64_t calls, uncosted;
  double flops, bytes;    /* of all calls */
  double seconds;         /* floor by the datasheet */
  double reachable;       /* the same by measured rates where known */
  double compute_seconds; /* the part of `seconds` in cases whose FLOPs take longer than their bytes */
  double share;           /* of its level's floor */
} fk_roofline_row;

typedef struct fk_roofline {
  const fk_machine *machine;
  char dtype[16], workload[128];
  int64_t ranks, requests, steps, tokens, output_tokens; /* tokens: computed; output_tokens 0 without generation */
  int64_t skipped;                                       /* requests longer than the model's positions */
  fk_roofline_row *rows; /* level by level, within one by floor, largest first; communication last */
  int num_rows;
  fk_roofline_row levels[5]; /* sums; [0] = communication, [4] = whole steps. Levels contain each other: never add */
  double replicated; /* FLOPs of all ranks over those of one GPU, minus 1: what tensor parallelism computes twice */
  fk_arena arena;
} fk_roofline;

/* Captures the model (folder or preset) on meta and puts its calls under the machine's roof. On failure *out is
 * NULL. */
fk_status fk_roofline_make(const char *model, const fk_roofline_options *options, const fk_machine *machine,
                           fk_roofline **out);
void fk_roofline_free(fk_roofline *roofline);

/* The floor of the whole run in seconds: level 1, into which everything decomposes, and the communication, one after
 * the other. */
double fk_roofline_seconds(const fk_roofline *roofline, bool measured);

/* ---- Tensor parallelism ---------------------------------------------------------------------------------- */

/* What one of `ranks` ranks holds, as a configuration: heads, intermediate size and vocabulary divided. Fails, naming
 * the key, where they do not divide. *json is allocated by malloc. */
typedef struct fk_shard {
  char *json;
  int64_t num_layers, hidden_size, vocab_size;
} fk_shard;
fk_status fk_shard_config(const char *model, int64_t ranks, fk_shard *shard);

#endif
