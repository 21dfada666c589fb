/* The integers of a lexical_weights call, checked once for both implementations. */
#pragma once

#include "tasks/lexical_weights.h"

static inline int64_t int_at(const fk_tensor *t, int64_t i) {
  return fk_load_i64(fk_type_of(t), fk_data(t), i);
}

static inline bool is_special(const fk_lexical_weights_args *a, int64_t id) {
  for (int64_t i = 0; a->special_ids && i < fk_size(a->special_ids, 0); i++)
    if (int_at(a->special_ids, i) == id) return true;
  return false;
}

static inline fk_status check_sequences(const fk_lexical_weights_args *a) {
  int64_t seqs = fk_size(a->cu_seqlens, 0) - 1, tokens = fk_size(a->input_ids, 0), last = 0;
  for (int64_t i = 0; i <= seqs; i++) {
    int64_t x = int_at(a->cu_seqlens, i);
    if (i == 0 ? x != 0 : x < last)
      return fk_fail(FK_ERROR_ARGUMENT, "cu_seqlens[%lld]: expected %s%lld, got %lld", (long long)i,
                     i == 0 ? "" : "at least ", (long long)last, (long long)x);
    last = x;
  }
  if (last != tokens)
    return fk_fail(FK_ERROR_ARGUMENT, "cu_seqlens: expected the last offset to be %lld tokens, got %lld",
                   (long long)tokens, (long long)last);
  for (int64_t i = 0; i < tokens; i++)
    if (int_at(a->input_ids, i) < 0)
      return fk_fail(FK_ERROR_ARGUMENT, "input_ids[%lld]: expected an id that is not negative, got %lld", (long long)i,
                     (long long)int_at(a->input_ids, i));
  return FK_OK;
}
