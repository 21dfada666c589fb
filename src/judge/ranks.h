/* Ranks: a collective's call, cut into the calls that the ranks of a group make.
 *
 * A collective task (docs/abi.md) has an axis `ranks` and the attributes world_size, rank and comm. Its case holds the
 * parts of all ranks: the axis is world_size, comm is 0, and the oracle computes it like any other. The call of rank r
 * has the r-th slice of every tensor that the axis leads, and all of every other. Its plan is one of its own, with its
 * own red zones, so that whatever a rank writes outside its tensors shows. */
#ifndef FK_JUDGE_RANKS_H
#define FK_JUDGE_RANKS_H

#include "judge/synth.h"

enum { FK_MAX_RANKS = 16 };

typedef struct fk_rank_call {
  fk_case c;
  fk_plan plan; /* refers to c: do not move it */
  int rank;
  int comm_arg; /* the index of attribute comm, which whoever calls sets to the communicator */
} fk_rank_call;

bool fk_task_is_collective(const fk_task *task);

/* Ranks of a collective's case, 0 of any other. */
int64_t fk_case_ranks(const fk_case *c);

/* Makes it a case of n ranks, all else unchanged. Only of a collective. */
void fk_case_set_ranks(fk_case *c, int64_t n);

/* whole: the plan of a collective's case. */
fk_status fk_rank_make(const fk_plan *whole, int rank, fk_rank_call *call);

/* Fills the call's buffer: its part of what is at from, by the whole plan (inputs, and outputs with their poison), and
 * noise from the seed around it. */
fk_status fk_rank_scatter(const fk_plan *whole, const void *from, const fk_rank_call *call, uint64_t seed, void *base);

/* What the call may write, to its place in the whole. */
void fk_rank_gather(const fk_plan *whole, void *to, const fk_rank_call *call, const void *base);

#endif
