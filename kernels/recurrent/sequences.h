/* Packed sequences with a recurrent state each: what the kernels of this family share.
 *
 * Sequence b owns tokens [cu_seqlens_q[b], cu_seqlens_q[b + 1]) and entry state_slots[b] of the state caches. It goes
 * on from that entry when seq_lens[b] says that there were tokens before these, and starts from zeros otherwise,
 * whatever the entry holds. A sequence without tokens leaves its entry alone. All three tensors come from the caller
 * and may be hostile: fk_check_recurrent has to succeed before anything else is used. */
#ifndef FK_KERNELS_RECURRENT_SEQUENCES_H
#define FK_KERNELS_RECURRENT_SEQUENCES_H

#include <string.h>

#include "core/kernel.h"

typedef struct fk_recurrent {
  const fk_tensor *cu_seqlens_q, *seq_lens, *state_slots;
} fk_recurrent;

typedef struct fk_recurrent_sequence {
  int64_t first, tokens, slot;
  bool has_initial_state;
} fk_recurrent_sequence;

static inline int64_t fk_recurrent_int(const fk_tensor *t, int64_t i) {
  return fk_load_i64(fk_type_of(t), fk_data(t), i * fk_stride(t, 0));
}

static inline int64_t fk_recurrent_count(const fk_recurrent *r) {
  return r->state_slots->shape[0];
}

static inline fk_recurrent_sequence fk_recurrent_at(const fk_recurrent *r, int64_t b) {
  fk_recurrent_sequence s = {.first = fk_recurrent_int(r->cu_seqlens_q, b),
                             .slot = fk_recurrent_int(r->state_slots, b)};
  s.tokens = fk_recurrent_int(r->cu_seqlens_q, b + 1) - s.first;
  s.has_initial_state = fk_recurrent_int(r->seq_lens, b) > s.tokens;
  return s;
}

static inline fk_status fk_check_recurrent_sequence(const fk_recurrent *r, int64_t b, int64_t num_slots, bool *taken) {
  int64_t from = fk_recurrent_int(r->cu_seqlens_q, b), to = fk_recurrent_int(r->cu_seqlens_q, b + 1);
  int64_t length = fk_recurrent_int(r->seq_lens, b), slot = fk_recurrent_int(r->state_slots, b);
  if (to < from)
    return fk_fail(FK_ERROR_ARGUMENT, "cu_seqlens_q[%lld]: expected at least %lld, got %lld", (long long)b + 1,
                   (long long)from, (long long)to);
  if (length < to - from)
    return fk_fail(FK_ERROR_ARGUMENT, "seq_lens[%lld]: expected at least its %lld new tokens, got %lld", (long long)b,
                   (long long)(to - from), (long long)length);
  if (slot < 0 || slot >= num_slots)
    return fk_fail(FK_ERROR_ARGUMENT, "state_slots[%lld]: expected a slot from 0 to %lld, got %lld", (long long)b,
                   (long long)num_slots - 1, (long long)slot);
  if (to > from && taken[slot])
    return fk_fail(FK_ERROR_ARGUMENT, "state_slots[%lld]: slot %lld belongs to an earlier sequence", (long long)b,
                   (long long)slot);
  taken[slot] = taken[slot] || to > from;
  return FK_OK;
}

static inline fk_status fk_check_recurrent(fk_context *ctx, const fk_recurrent *r, int64_t num_tokens,
                                           int64_t num_slots) {
  int64_t count = fk_recurrent_count(r);
  if (fk_recurrent_int(r->cu_seqlens_q, 0) != 0 || fk_recurrent_int(r->cu_seqlens_q, count) != num_tokens)
    return fk_fail(FK_ERROR_ARGUMENT, "cu_seqlens_q: expected offsets from 0 to %lld tokens, got %lld to %lld",
                   (long long)num_tokens, (long long)fk_recurrent_int(r->cu_seqlens_q, 0),
                   (long long)fk_recurrent_int(r->cu_seqlens_q, count));
  bool *taken = fk_scratch(ctx, (size_t)num_slots + 1);
  if (!taken) return FK_ERROR_MEMORY;
  memset(taken, 0, (size_t)num_slots + 1);
  for (int64_t b = 0; b < count; b++) FK_TRY(fk_check_recurrent_sequence(r, b, num_slots, taken));
  return FK_OK;
}

#endif
