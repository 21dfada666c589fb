/* Bench: candidates x tasks x cases, judged and scored. docs/scoring.md describes what it computes. */
#ifndef FK_JUDGE_BENCH_H
#define FK_JUDGE_BENCH_H

#include <stdio.h>

#include "device/cuda.h"
#include "judge/candidate.h"
#include "judge/grader.h"
#include "judge/job_list.h"

enum { FK_MAX_CANDIDATES = 64, FK_MAX_ROWS = 512 };

/* One candidate on one task; candidate NULL: the baseline alone. */
typedef struct fk_bench_row {
  const fk_candidate *candidate;
  const fk_job *job;       /* NULL: the candidate could not even be matched with a task */
  fk_case_result *results; /* job->count of them, fewer after a refusal */
  int num_results;
  bool failed;
  char reason[320];     /* of a failure without a case */
  double score;         /* sum(count * t_base) / sum(count * t_cand); 1 when it failed */
  double seconds_saved; /* per run of the workload */
} fk_bench_row;

/* What the machine reached when asked just before judging (engine/ceilings.h); 0 = not measured. */
typedef struct fk_bench_ceilings {
  double bytes_per_second, flops_per_second;
  const char *by; /* what reached the FLOPs */
  int threads;
  fk_cuda_info gpu; /* of a run on a GPU; its name is "" otherwise */
} fk_bench_ceilings;

typedef struct fk_bench {
  const fk_job_list *workload;
  fk_candidate *candidates;
  int num_candidates;
  fk_grade_options options;
  const char *flush_what;
  fk_bench_ceilings ceilings;
  fk_bench_row rows[FK_MAX_ROWS];
  int num_rows;
  double overall; /* geometric mean over tasks of the best candidate that passes */
  int num_failed;
  FILE *progress; /* where a progress line goes; NULL: nowhere */
} fk_bench;

/* Measures the ceilings of the device that the options name, for about a second. */
fk_status fk_bench_measure(fk_bench *bench);

/* The least time that the ceilings allow for a case's call, over ns; NaN when they were not measured. */
double fk_bench_limit_fraction(const fk_bench *bench, const fk_case_result *result, double ns);

/* Fills rows. FK_ERROR_ARGUMENT when nothing matches: no task of a candidate is in the workload, or no row is left. */
fk_status fk_bench_run(fk_arena *arena, fk_bench *bench);

/* The results for people; color: with terminal colours. */
void fk_bench_table(const fk_bench *bench, FILE *out, bool color);

/* The record: every sample, seed, limit, and what machine and program produced it. NULL when there is no memory. */
json_t *fk_bench_json(const fk_bench *bench);

#endif
