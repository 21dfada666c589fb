/* The integers of an embedding_bag call, checked once for both implementations. */
#pragma once

#include "tasks/embedding_bag.h"

static inline int64_t int_at(const fk_tensor *t, int64_t i) {
  const void *data = fk_data(t);
  return fk_type_of(t) == FK_I32 ? ((const int32_t *)data)[i] : ((const int64_t *)data)[i];
}

/* Whether offsets never fall; two loops, so that each vectorises. */
static inline bool are_ordered(const fk_tensor *offsets, int64_t bags) {
  bool bad = false;
  if (fk_type_of(offsets) == FK_I32) {
    const int32_t *o = (const int32_t *)fk_data(offsets);
    for (int64_t i = 0; i < bags; i++) bad |= o[i + 1] < o[i];
  } else {
    const int64_t *o = fk_i64(offsets);
    for (int64_t i = 0; i < bags; i++) bad |= o[i + 1] < o[i];
  }
  return !bad;
}

static inline fk_status check_offsets(const fk_embedding_bag_args *a) {
  int64_t bags = fk_size(a->offsets, 0) - 1, count = fk_size(a->values, 0), last = 0;
  if (int_at(a->offsets, 0) == 0 && are_ordered(a->offsets, bags) && int_at(a->offsets, bags) == count) return FK_OK;
  for (int64_t i = 0; i <= bags; i++) {
    int64_t x = int_at(a->offsets, i);
    if (i == 0 ? x != 0 : x < last)
      return fk_fail(FK_ERROR_ARGUMENT, "offsets[%lld]: expected %s%lld, got %lld", (long long)i,
                     i == 0 ? "" : "at least ", (long long)last, (long long)x);
    last = x;
  }
  if (last != count)
    return fk_fail(FK_ERROR_ARGUMENT, "offsets: expected the last one to be the number of values, %lld, got %lld",
                   (long long)count, (long long)last);
  return FK_OK;
}

/* Whether all values lie within the table; two loops for the same reason. */
static inline bool are_rows(const fk_tensor *values, uint64_t rows) {
  int64_t n = fk_size(values, 0);
  bool bad = false;
  if (fk_type_of(values) == FK_I32) {
    const int32_t *v = (const int32_t *)fk_data(values);
    for (int64_t i = 0; i < n; i++) bad |= (uint64_t)(int64_t)v[i] >= rows;
  } else {
    const int64_t *v = fk_i64(values);
    for (int64_t i = 0; i < n; i++) bad |= (uint64_t)v[i] >= rows;
  }
  return !bad;
}

static inline fk_status check_bags(const fk_embedding_bag_args *a) {
  int64_t rows = fk_size(a->weight, 0);
  FK_TRY(check_offsets(a));
  if (are_rows(a->values, (uint64_t)rows)) return FK_OK;
  int64_t i = 0;
  while (int_at(a->values, i) >= 0 && int_at(a->values, i) < rows) i++;
  return fk_fail(FK_ERROR_ARGUMENT, "values[%lld]: expected a row of the table, from 0 to %lld, got %lld", (long long)i,
                 (long long)rows - 1, (long long)int_at(a->values, i));
}
