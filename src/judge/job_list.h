/* Job list: the cases to judge, by task: from a capture of a model, a file of cases, or JSON on the command line.
 *
 * A capture is {"format": "fastkernels-capture/1", "model": ..., "workload": ..., "device": ..., "tasks":
 * {"rms_norm": {"level": 1, "calls": N, "cases": [case, ...]}}}; see judge/case.h for a case. A job list and all it
 * refers to live in the arena. */
#ifndef FK_JUDGE_JOB_LIST_H
#define FK_JUDGE_JOB_LIST_H

#include "judge/case.h"

typedef struct fk_job {
  const fk_task *task;
  fk_case **cases; /* the costliest first: count * cost */
  int count;       /* kept */
  int total;       /* in the source */
  int64_t calls;   /* that the kept cases stand for */
  int64_t total_calls;
} fk_job;

typedef struct fk_job_list {
  const char *source;                  /* path, or "inline" */
  const char *model, *workload, *note; /* of a capture; "" else */
  fk_job *jobs;
  int num_jobs;
} fk_job_list;

/* text starts with '{' : inline JSON; else a path. task: whose cases they are, where the JSON does not say (a capture
 * does); NULL is then an error. */
fk_status fk_job_list_load(fk_arena *arena, const char *text, const fk_task *task, fk_job_list *w);

/* Keeps the max_cases costliest cases of every job. */
void fk_job_list_trim(fk_job_list *w, int max_cases);

/* What a case costs, in arbitrary units: its captured bytes and FLOPs, or the size of its tensors. */
double fk_case_cost(const fk_case *c);

#endif
