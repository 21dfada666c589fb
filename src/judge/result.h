/* Result: a record of bench (report_json.c writes it), read back and checked, for everything that shows it.
 *
 * Records come from anywhere: whatever is missing, of a wrong type or out of range is an error that names its place.
 * Strings in it are other people's: who prints them must escape them. A result owns everything it points to. */
#ifndef FK_JUDGE_RESULT_H
#define FK_JUDGE_RESULT_H

#include <stdio.h>

#include "core/arena.h"
#include "io/json.h"
#include "judge/score.h"

#define FK_BENCH_FORMAT "fastkernels-bench/1"

typedef struct fk_result_case {
  const char *label;       /* axes, dtypes, what is special: "rows=64 hidden_size=1024 float32" */
  const char *reason;      /* of a failure, or "" */
  const char *baseline_by; /* what computed the baseline, where there was a choice; or "" */
  fk_verdict verdict;
  int64_t count; /* calls of the workload that it stands for */
  double baseline_ns, candidate_ns;
  fk_interval speedup;
  double noise, flops, bytes;                     /* of one call */
  double limit_fraction, baseline_limit_fraction; /* of the machine's limit; NaN when not measured */
  double error, error_limit, worst, worst_limit;  /* of the audit nearest to its limit; may be infinite or NaN */
  int64_t audits_against_oracle, audits_against_baseline;
  int num_samples;                    /* per arm */
  const double *baseline, *candidate; /* ns */
} fk_result_case;

typedef struct fk_result_row {
  const char *candidate; /* path; NULL: the baseline alone */
  const char *name;      /* the path's last part */
  const char *task;      /* NULL: the candidate could not be matched with one */
  const char *build, *reason;
  int64_t level, cases_in_source, calls_covered, calls_in_source;
  bool failed;
  double score, seconds_saved;
  const fk_result_case *cases;
  int num_cases;
} fk_result_row;

typedef struct fk_result {
  const char *source, *model, *workload;
  fk_json environment, limits, ceilings;     /* objects; ceilings.node is NULL when none were measured */
  double bytes_per_second, flops_per_second; /* of the ceilings; 0 without */
  double overall;
  int num_failed, num_candidates; /* rows; rows with a candidate */
  const fk_result_row *rows;
  int num_rows;
  json_t *root;
  fk_json view; /* of root */
  fk_arena arena;
} fk_result;

/* On failure *result is NULL. where names the record in errors and must outlive the result. */
fk_status fk_result_load(const char *path, fk_result **result);
fk_status fk_result_parse(const char *text, size_t size, const char *where, fk_result **result);
/* Takes a reference of its own. */
fk_status fk_result_read(json_t *root, const char *where, fk_result **result);
void fk_result_free(fk_result *result);

/* For a terminal; color: with terminal colours. Control characters of the record are not passed on. */
void fk_result_print(const fk_result *result, FILE *out, bool color);

/* One page of HTML that needs nothing but itself: no script, no font, no image from elsewhere. */
void fk_result_html(const fk_result *result, FILE *out);
/* The same into a file, atomically. */
fk_status fk_result_write_html(const fk_result *result, const char *path);

#endif
