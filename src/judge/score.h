/* Scores: from samples to verdicts and from cases to one number. docs/scoring.md states every formula and why. */
#ifndef FK_JUDGE_SCORE_H
#define FK_JUDGE_SCORE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum fk_verdict {
  FK_VERDICT_FASTER,
  FK_VERDICT_SAME,
  FK_VERDICT_SLOWER,
  FK_VERDICT_WRONG,
  FK_VERDICT_CRASHED,
  FK_VERDICT_TIMEOUT,
  FK_VERDICT_REFUSED,
  FK_VERDICT_BASELINE /* timed alone, without a candidate */
} fk_verdict;

const char *fk_verdict_name(fk_verdict verdict);
static inline bool fk_verdict_failed(fk_verdict v) {
  return v >= FK_VERDICT_WRONG && v <= FK_VERDICT_REFUSED;
}

/* One ABBA block: baseline and candidate on the first inputs, candidate and baseline on the second; nanoseconds. */
typedef struct fk_block {
  int64_t baseline[2], candidate[2];
} fk_block;

typedef struct fk_interval {
  double low, middle, high;
} fk_interval;

typedef struct fk_timing {
  double baseline_ns, candidate_ns; /* medians of all samples */
  fk_interval speedup;              /* median over blocks of baseline / candidate, 95 % bootstrap interval */
  double noise;                     /* the A/A interval's distance from 1: a ratio within 1 + noise says nothing */
} fk_timing;

double fk_median(double *values, int n); /* sorts values; 0 when n is 0 */

/* seed makes the bootstrap repeatable. */
fk_timing fk_score_blocks(const fk_block *blocks, int n, uint64_t seed);

fk_verdict fk_score_verdict(const fk_timing *timing);

#endif
