/* Comparison: is a candidate's output as good as it should be? docs/scoring.md gives the formulas and their reasons.
 *
 * The truth is y64, the oracle's double result on the very same inputs. Of a floating-point output three numbers are
 * judged, each against max(k * the baseline's own number, a floor that follows from dtype, level and tolerance class):
 *  - error: relative RMS, ||y - y64|| / ||y64||;
 *  - worst: the largest |y - y64| / (rms of its row of y64 + |y64|), where rows shorter than 16 elements are taken
 *    together, and a row counts as at least 1e-4 of the tensor's rms (so that rows of zeros are held to a scale);
 *  - gain: |sum (y - y64) y64 / sum y64^2|, the error that all elements share: rounding averages out of it, a wrong
 *    scale does not.
 * NaN must be exactly where y64 has it, and infinities where y64 is or rounds to the same infinity. Integers and bools,
 * and floats of class "exact", must be y64 rounded to the dtype. */
#ifndef FK_JUDGE_COMPARE_H
#define FK_JUDGE_COMPARE_H

#include "judge/synth.h"

typedef struct fk_tolerance {
  bool exact;
  double error, worst, gain; /* floors */
} fk_tolerance;

typedef struct fk_errors {
  double error, worst, gain;
} fk_errors;

typedef struct fk_comparison {
  bool pass;
  bool vacuous;                         /* nothing to judge: no element, or none of y64 is finite and non-zero */
  int64_t num_elements;                 /* compared */
  int64_t num_mismatched;               /* NaN or infinity in the wrong place; of exact outputs: any difference */
  int64_t first_mismatch;               /* logical index, -1 when none; else the worst element */
  fk_errors candidate, baseline, limit; /* baseline is 0 when there is none */
  char reason[224];                     /* why it does not pass; empty when it does */
} fk_comparison;

/* Floors for one written argument. Composites (level 2 and up) round their intermediates too: to the coarsest floating
 * dtype among the call's activations, and more of them the higher the level. */
fk_status fk_tolerance_of(const fk_plan *plan, int arg, fk_tolerance *tolerance);

/* The tolerance class names that task.json may use; NULL-ended. */
extern const char *const fk_tolerance_classes[];

/* y, baseline (or NULL) and y64 have equal shapes; y64 is float64 or int64 (or y's own dtype). */
void fk_compare(const fk_tolerance *tolerance, const fk_tensor *y, const fk_tensor *baseline, const fk_tensor *y64,
                fk_comparison *result);

/* Every written argument of a call at once: answer and baseline (or NULL) are frames of the same plan, wide is
 * fk_plan_oracle's. comparisons[i] is filled where the task writes argument i. The result passes when all do, and is
 * vacuous when all are; its reason names the argument. */
void fk_compare_call(const fk_plan *plan, const fk_frame *answer, const fk_frame *baseline, fk_tensor *const *wide,
                     fk_comparison comparisons[FK_MAX_ARGS], fk_comparison *all);

#endif
