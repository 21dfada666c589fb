#include "judge/arm.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device/cuda.h"

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- All runners at once --------------------------------------------------------------------------------- */

/* What happens to one rank ends its group, even an error that the kernel reports: the others may wait for it. */
static fk_outcome failed(fk_arm *arm, int rank, fk_outcome outcome) {
  const char *reason = arm->sessions[rank].reason;
  if (arm->calls)
    snprintf(arm->reason, sizeof arm->reason, "rank %d: %s", rank, reason);
  else
    snprintf(arm->reason, sizeof arm->reason, "%s", reason);
  for (int i = 0; i < arm->num_ranks && (arm->calls || outcome != FK_FAILED); i++) fk_session_kill(&arm->sessions[i]);
  return outcome;
}

/* Takes every runner's answer, the first that comes first: who died must be seen before who waits for it. */
static fk_outcome collect(fk_arm *arm, uint32_t kind, double seconds, fk_message *answers) {
  bool done[FK_MAX_RANKS] = {false};
  int64_t deadline = now() + (int64_t)(seconds * 1e9);
  for (int left = arm->num_ranks; left > 0;) {
    struct pollfd fds[FK_MAX_RANKS];
    int64_t remaining = deadline - now();
    for (int i = 0; i < arm->num_ranks; i++)
      fds[i] = (struct pollfd){done[i] ? -1 : arm->sessions[i].socket, POLLIN, 0};
    bool late = remaining <= 0 || poll(fds, (nfds_t)arm->num_ranks, (int)(remaining / 1000000) + 1) == 0;
    for (int i = 0; i < arm->num_ranks; i++) {
      if (done[i] || (!late && fds[i].revents == 0)) continue;
      fk_outcome outcome = fk_session_take(&arm->sessions[i], kind, late ? 0 : seconds, &answers[i]);
      if (outcome == FK_TIMED_OUT)
        snprintf(arm->sessions[i].reason, sizeof arm->sessions[i].reason, "no answer within %g s", seconds);
      if (outcome != FK_RAN) return failed(arm, i, outcome);
      done[i] = true;
      left--;
    }
  }
  /* Not before all have answered: a rank may help others after it is done itself. */
  for (int i = 0; i < arm->num_ranks; i++) fk_session_stop(&arm->sessions[i]);
  return FK_RAN;
}

static fk_outcome exchange(fk_arm *arm, uint32_t kind, uint32_t answer, fk_message *answers, int64_t *elapsed) {
  int64_t start = now();
  for (int i = 0; i < arm->num_ranks; i++) {
    fk_outcome outcome = fk_session_post(&arm->sessions[i], kind);
    if (outcome != FK_RAN) return failed(arm, i, outcome);
  }
  fk_outcome outcome = collect(arm, answer, arm->sessions[0].timeout_seconds, answers);
  *elapsed = now() - start;
  return outcome;
}

/* ---- Life ------------------------------------------------------------------------------------------------ */

static const fk_plan *plan_of(const fk_arm *arm, int rank) {
  return arm->calls ? &arm->calls[rank].plan : arm->plan;
}

static fk_outcome out_of_memory(fk_arm *arm) {
  snprintf(arm->reason, sizeof arm->reason, "no memory for a case of %llu bytes", (unsigned long long)arm->plan->bytes);
  return FK_REFUSED;
}

fk_outcome fk_arm_start(fk_arm *arm, const fk_plan *plan, const fk_rank_call *calls, const char *candidate,
                        const fk_limits *limits) {
  fk_message answers[FK_MAX_RANKS];
  fk_group group = {.world_size = calls ? limits->num_devices : 1};
  *arm = (fk_arm){.plan = plan, .calls = calls, .num_ranks = group.world_size};
  for (int i = 0; i < arm->num_ranks; i++) arm->sessions[i].socket = -1;
  arm->answer = aligned_alloc(64, (plan->bytes + 64) / 64 * 64);
  if (!arm->answer) return out_of_memory(arm);
  for (int i = 0; i < arm->num_ranks && calls; i++) {
    arm->parts[i] = aligned_alloc(64, (calls[i].plan.bytes + 64) / 64 * 64);
    if (!arm->parts[i]) return out_of_memory(arm);
  }
  if (calls && fk_cuda_unique_id(group.id) != FK_OK) {
    snprintf(arm->reason, sizeof arm->reason, "%s", fk_last_error());
    return FK_REFUSED;
  }
  for (int i = 0; i < arm->num_ranks; i++) {
    group.rank = i;
    group.comm_arg = calls ? calls[i].comm_arg : -1;
    fk_outcome outcome = fk_session_start(&arm->sessions[i], plan_of(arm, i), candidate, limits, &group);
    if (outcome != FK_RAN) return failed(arm, i, outcome);
  }
  /* A driver may take long, and so may a group to find together. */
  return collect(arm, FK_MESSAGE_READY, limits->timeout_seconds + (limits->backend == FK_CUDA ? 60 : 10), answers);
}

void fk_arm_end(fk_arm *arm) {
  for (int i = 0; i < arm->num_ranks; i++) {
    fk_session_end(&arm->sessions[i]);
    free(arm->parts[i]);
    arm->parts[i] = NULL;
  }
  free(arm->answer);
  arm->answer = NULL;
  arm->num_ranks = 0;
}

/* ---- One call -------------------------------------------------------------------------------------------- */

static fk_status hand_out(fk_arm *arm, const char *inputs, uint64_t seed) {
  if (!arm->calls) {
    memcpy(arm->sessions[0].buffer, inputs, arm->plan->bytes);
    return FK_OK;
  }
  for (int i = 0; i < arm->num_ranks; i++) {
    FK_TRY(fk_rank_scatter(arm->plan, inputs, &arm->calls[i], seed + 1 + (uint64_t)i, arm->parts[i]));
    fk_plan_guards(plan_of(arm, i), arm->parts[i], arm->guards[i]);
    memcpy(arm->sessions[i].buffer, arm->parts[i], plan_of(arm, i)->bytes);
  }
  return FK_OK;
}

/* Copies everything out of the runners' reach before anybody looks at it. */
static void bring_in(fk_arm *arm, const char *inputs) {
  if (!arm->calls) memcpy(arm->answer, arm->sessions[0].buffer, arm->plan->bytes);
  if (arm->calls) memcpy(arm->answer, inputs, arm->plan->bytes);
  for (int i = 0; i < arm->num_ranks && arm->calls; i++) {
    memcpy(arm->parts[i], arm->sessions[i].buffer, plan_of(arm, i)->bytes);
    fk_rank_gather(arm->plan, arm->answer, &arm->calls[i], arm->parts[i]);
  }
  fk_plan_frame(arm->plan, arm->answer, &arm->frame);
}

fk_outcome fk_arm_run(fk_arm *arm, const char *inputs, uint64_t seed, bool flush, int64_t *runner_ns,
                      int64_t *grader_ns) {
  fk_message answers[FK_MAX_RANKS];
  int64_t ignored;
  bool on_gpu = arm->sessions[0].on_gpu;
  *runner_ns = 0;
  if (hand_out(arm, inputs, seed) != FK_OK) {
    snprintf(arm->reason, sizeof arm->reason, "%s", fk_last_error());
    return FK_REFUSED;
  }
  fk_outcome outcome = FK_RAN;
  /* On a GPU it also brings the buffer there. */
  if (flush || on_gpu) outcome = exchange(arm, FK_MESSAGE_FLUSH, FK_MESSAGE_FLUSH, answers, &ignored);
  if (outcome == FK_RAN) outcome = exchange(arm, FK_MESSAGE_RUN, FK_MESSAGE_DONE, answers, grader_ns);
  for (int i = 0; i < arm->num_ranks && outcome == FK_RAN; i++)
    if (answers[i].nanoseconds > *runner_ns) *runner_ns = answers[i].nanoseconds;
  if (outcome == FK_RAN && on_gpu) outcome = exchange(arm, FK_MESSAGE_FETCH, FK_MESSAGE_FETCH, answers, &ignored);
  if (outcome == FK_RAN) bring_in(arm, inputs);
  return outcome;
}

fk_status fk_arm_check_guards(const fk_arm *arm, const uint64_t *guards) {
  if (!arm->calls) return fk_plan_check_guards(arm->plan, arm->answer, guards);
  for (int i = 0; i < arm->num_ranks; i++) {
    fk_status status = fk_plan_check_guards(plan_of(arm, i), arm->parts[i], arm->guards[i]);
    if (status) return fk_fail_in(status, "rank %d", i);
  }
  return FK_OK;
}
