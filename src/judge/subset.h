/* Subset: some rows of a large call as a call of its own, for an oracle that cannot afford all of them.
 *
 * A task whose tensors begin with an ellipsis axis ("rows...") treats each row by itself, so that the oracle's answer
 * for some rows of the inputs is its answer for those rows. Which rows is drawn after the candidate has answered. The
 * subset owns its plan and case; buffers by it belong to the caller. */
#ifndef FK_JUDGE_SUBSET_H
#define FK_JUDGE_SUBSET_H

#include "judge/synth.h"

enum { FK_MAX_SUBSET_ROWS = 64 };

typedef struct fk_subset {
  const fk_plan *of;
  fk_case c;
  fk_plan plan; /* of the rows alone, contiguous */
  int64_t rows[FK_MAX_SUBSET_ROWS];
  int64_t count;
} fk_subset;

/* Whether the task can be judged by rows; *rows is how many the plan has. */
bool fk_subset_possible(const fk_plan *plan, int64_t *rows);

/* Draws count of the plan's rows, the last one always among them. The plan must outlive the subset, which must not
 * move. */
fk_status fk_subset_make(const fk_plan *plan, int64_t count, uint64_t seed, fk_subset *subset);

/* Copies the rows' part of every tensor, and weights whole, from a buffer of the full plan to one of the subset's. */
void fk_subset_copy(const fk_subset *subset, const void *full, void *base);

#endif
