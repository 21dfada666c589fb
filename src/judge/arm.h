/* Arm: one side of a comparison, the candidate's or the baseline's.
 *
 * A call runs in one runner, or, where a collective is judged on several GPUs, in one runner per rank: each has its
 * part of the inputs in a buffer of its own with red zones of its own, all are asked at the same time, and the slowest
 * one's time counts. What happens to one rank (a crash, a timeout) ends all. */
#ifndef FK_JUDGE_ARM_H
#define FK_JUDGE_ARM_H

#include "judge/ranks.h"
#include "judge/session.h"

typedef struct fk_arm {
  const fk_plan *plan;
  const fk_rank_call *calls; /* of the ranks; NULL: the call is not divided */
  int num_ranks;
  fk_session sessions[FK_MAX_RANKS];
  char *parts[FK_MAX_RANKS]; /* of divided calls: a rank's buffer, out of the runner's reach */
  uint64_t guards[FK_MAX_RANKS][FK_MAX_ARGS];
  char *answer; /* the whole plan's buffer after the call, likewise */
  fk_frame frame;
  char reason[360]; /* of the last outcome other than FK_RAN */
} fk_arm;

/* Starts the runners, on limits->devices. calls: one for each of them, of the plan's collective, or NULL. Always end it
 * with fk_arm_end. */
fk_outcome fk_arm_start(fk_arm *arm, const fk_plan *plan, const fk_rank_call *calls, const char *candidate,
                        const fk_limits *limits);

/* One call on the inputs, a buffer of the plan that was filled with the seed; flush: walk the caches out before. Leaves
 * the answer: nanoseconds by the slowest runner's clock and by ours. FK_FAILED: the kernel reported an error and the
 * runners live on; every other outcome but FK_RAN ends them. */
fk_outcome fk_arm_run(fk_arm *arm, const char *inputs, uint64_t seed, bool flush, int64_t *runner_ns,
                      int64_t *grader_ns);

/* Whether the last call left everything around its tensors as it was. guards: of the inputs. */
fk_status fk_arm_check_guards(const fk_arm *arm, const uint64_t *guards);

void fk_arm_end(fk_arm *arm);

#endif
