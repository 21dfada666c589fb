#include "device/cpu_row.h"
#include "sequences.h"

/* Weights are compared as floats and moved as they are: nothing is rounded. A NaN is kept once it is there. */
static bool is_better(float w, float than) {
  return (w > than || w != w) && than == than;
}

/* The place of an id's first occurrence, by a table of open addresses; the table holds place + 1, 0 where it is free.
 */
static int64_t first_place(const fk_lexical_weights_args *a, int32_t *table, uint64_t mask, int64_t place) {
  int64_t id = int_at(a->input_ids, place);
  uint64_t at = (uint64_t)id * 0x9e3779b97f4a7c15u >> 20;
  for (;; at++) {
    int32_t *slot = &table[at & mask];
    if (*slot == 0) *slot = (int32_t)(place + 1);
    if (int_at(a->input_ids, *slot - 1) == id) return *slot - 1;
  }
}

static void one_sequence(const fk_lexical_weights_args *a, int64_t start, int64_t end, int32_t *table) {
  fk_type type = fk_type_of(a->token_weights);
  int64_t width = fk_width(type);
  uint64_t size = 2;
  while (size < 2 * (uint64_t)(end - start)) size *= 2;
  memset(table, 0, size * sizeof *table);
  const char *weights = fk_data(a->token_weights);
  char *out = fk_data(a->out);
  memset(out + start * width, 0, (size_t)((end - start) * width));
  for (int64_t i = start; i < end; i++) {
    int64_t first = first_place(a, table, size - 1, i);
    float w, best;
    if (is_special(a, int_at(a->input_ids, i))) continue;
    fk_widen(type, weights + i * width, &w, 1);
    fk_widen(type, out + first * width, &best, 1);
    if (is_better(w, best)) memcpy(out + first * width, weights + i * width, (size_t)width);
  }
}

fk_status fk_cpu_lexical_weights(fk_context *ctx, const fk_lexical_weights_args *a) {
  FK_TRY(check_sequences(a));
  int64_t seqs = fk_size(a->cu_seqlens, 0) - 1, tokens = fk_size(a->input_ids, 0);
  if (tokens >= INT32_MAX / 4) return fk_fail(FK_ERROR_ARGUMENT, "input_ids: more than 2^29 tokens");
  /* A table of at most 4 n slots for each sequence of n tokens, side by side. */
  int32_t *tables = fk_scratch(ctx, (size_t)(4 * tokens + 2) * sizeof *tables);
  if (!tables) return FK_ERROR_MEMORY;
#pragma omp parallel for schedule(dynamic) if (seqs > 1 && tokens > 16384)
  for (int64_t s = 0; s < seqs; s++) {
    int64_t start = int_at(a->cu_seqlens, s), end = int_at(a->cu_seqlens, s + 1);
    if (end > start) one_sequence(a, start, end, tables + 4 * start);
  }
  return FK_OK;
}
