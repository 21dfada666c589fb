/* Grader: judges one case of one task, a candidate against the baseline.
 *
 * For every sample: fresh inputs from a secret seed go into the shared memory of both runners, outputs are poisoned,
 * caches walked out, the call timed; then the answer is copied away at once and audited: guards, poison, and the
 * comparison with the oracle, which runs here, after the answer. Samples come in ABBA blocks (score.h). */
#ifndef FK_JUDGE_GRADER_H
#define FK_JUDGE_GRADER_H

#include "device/cuda.h"
#include "judge/arm.h"
#include "judge/compare.h"
#include "judge/score.h"

enum { FK_MAX_ROUNDS = 256, FK_MIN_ROUNDS = 5 };

typedef struct fk_grade_options {
  fk_limits limits;
  int rounds;            /* ABBA blocks to aim for */
  double budget_seconds; /* per case: after FK_MIN_ROUNDS no block starts beyond it */
} fk_grade_options;

typedef struct fk_case_result {
  const fk_case *c;
  fk_verdict verdict;
  char reason[360]; /* of a failure, or a note */
  fk_block blocks[FK_MAX_ROUNDS];
  uint64_t seeds[FK_MAX_ROUNDS][2]; /* of the inputs; secret until the runners are gone */
  int num_blocks;
  fk_timing timing;
  double flops, bytes;                /* of one call, by the definition */
  fk_comparison worst;                /* of the audits, the one nearest to its limit */
  int oracle_audits, baseline_audits; /* samples compared with the oracle; with the baseline's answer only */
  int64_t overhead_ns;                /* median of the grader's clock minus the runner's */
  char missing[232];                  /* of the sandbox */
  char baseline_by[232];              /* what computed the baseline, where there was a choice */
  int64_t empty_ns;                   /* of an empty graph on the GPU: a part of every time */
  fk_cuda_clocks clocks;              /* of the first GPU, read after every block */
  int num_ranks;                      /* GPUs that computed it together */
} fk_case_result;

/* object: the candidate's shared object, or NULL to time the baseline against itself. ref is a context of the ref
 * device. A status other than FK_OK means that the case cannot be judged at all: it is malformed, the baseline fails
 * on it, or there is nothing in its outputs to judge. */
fk_status fk_grade_case(const fk_case *c, const char *object, const fk_grade_options *options, fk_context *ref,
                        fk_case_result *result);

#endif
