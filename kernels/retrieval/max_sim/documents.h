/* The documents of a max_sim call, checked once for both implementations. */
#pragma once

#include "tasks/max_sim.h"

/* What a query token scores where a document shows no token: colbert-ir gives it to padding. */
#define MAX_SIM_NOTHING (-9999.0)

static inline int64_t offset_at(const fk_max_sim_args *a, int64_t i) {
  return fk_load_i64(fk_type_of(a->cu_seqlens_d), fk_data(a->cu_seqlens_d), i);
}

static inline bool is_visible(const fk_max_sim_args *a, int64_t token) {
  return !a->doc_mask || fk_load_i64(fk_type_of(a->doc_mask), fk_data(a->doc_mask), token) != 0;
}

static inline fk_status check_documents(const fk_max_sim_args *a) {
  int64_t docs = fk_size(a->cu_seqlens_d, 0) - 1, tokens = fk_size(a->d, 0), last = 0;
  for (int64_t i = 0; i <= docs; i++) {
    int64_t x = offset_at(a, i);
    if (i == 0 ? x != 0 : x < last)
      return fk_fail(FK_ERROR_ARGUMENT, "cu_seqlens_d[%lld]: expected %s%lld, got %lld", (long long)i,
                     i == 0 ? "" : "at least ", (long long)last, (long long)x);
    last = x;
  }
  if (last != tokens)
    return fk_fail(FK_ERROR_ARGUMENT, "cu_seqlens_d: expected the last offset to be %lld tokens, got %lld",
                   (long long)tokens, (long long)last);
  return FK_OK;
}
