/* The batching loop against its invariants, seen from outside: a cache is filled through slot_mapping and read back
 * through block_table, so that a block given to two sequences at a time would be noticed. */
#include <stdlib.h>

#include "core_helpers.h"
#include "engine/batching.h"

enum { MAX_REQUESTS = 40, STRIDE = 4096, GENERATED = STRIDE * MAX_REQUESTS };

typedef struct scene {
  fk_request requests[MAX_REQUESTS];
  int32_t ids[MAX_REQUESTS][STRIDE];
  int64_t count, prompt_tokens, output_tokens;
} scene;

/* The id says whose token it is, where, and whether it was generated. */
static int32_t id_of(const scene *s, int64_t request, int64_t position) {
  bool generated = position >= s->requests[request].input_length;
  return (int32_t)(request * STRIDE + position + (generated ? GENERATED : 0));
}

static void add(scene *s, int64_t input, int64_t output, double arrival) {
  fk_request *r = &s->requests[s->count];
  *r = (fk_request){.input_length = input, .output_length = output, .arrival = arrival, .input_ids = s->ids[s->count]};
  for (int64_t p = 0; p < input; p++) s->ids[s->count][p] = id_of(s, s->count, p);
  s->count++;
  s->prompt_tokens += input;
  s->output_tokens += output;
}

static const int32_t *i32(const fk_tensor *t) {
  return fk_data(t);
}

static const int64_t *i64(const fk_tensor *t) {
  return fk_data(t);
}

static void check_step(const scene *s, const fk_batch *b, const fk_batching_options *o, int32_t *cache,
                       int64_t num_blocks, int32_t *tokens) {
  int64_t t = b->input_ids->shape[0], n = b->seq_lens->shape[0], width = b->block_table->shape[1], row = 0;
  assert_in_range(t, 1, o->max_num_batched_tokens);
  assert_in_range(n, 1, o->max_num_seqs);
  assert_int_equal(i32(b->cu_seqlens_q)[0], 0);
  assert_int_equal(i32(b->cu_seqlens_q)[n], t);
  for (int64_t k = 0; k < t; k++) {
    assert_in_range(i64(b->slot_mapping)[k], 0, num_blocks * FK_BLOCK_SIZE - 1);
    cache[i64(b->slot_mapping)[k]] = i32(b->input_ids)[k];
  }
  bool *slots = calloc((size_t)o->max_num_seqs, sizeof *slots);
  for (int64_t e = 0; e < n; e++) {
    int64_t start = i32(b->cu_seqlens_q)[e], end = i32(b->cu_seqlens_q)[e + 1], len = i32(b->seq_lens)[e];
    int64_t request = i32(b->input_ids)[start] % GENERATED / STRIDE;
    assert_true(end > start);
    assert_int_equal(i64(b->positions)[end - 1], len - 1);
    assert_int_equal(i64(b->positions)[start], len - (end - start));
    for (int64_t p = 0; p < len; p++) {
      int64_t slot = (int64_t)i32(b->block_table)[e * width + p / FK_BLOCK_SIZE] * FK_BLOCK_SIZE + p % FK_BLOCK_SIZE;
      assert_int_equal(cache[slot], id_of(s, request, p));
    }
    int32_t slot = i32(b->state_slots)[e];
    assert_in_range(slot, 0, o->max_num_seqs - 1);
    assert_false(slots[slot]);
    slots[slot] = true;
    if (row < b->logits_indices->shape[0] && i32(b->logits_indices)[row] == end - 1)
      tokens[row++] = id_of(s, request, len);
  }
  assert_int_equal(row, b->logits_indices->shape[0]);
  free(slots);
}

/* Runs everything; returns the statistics. */
static fk_batching_stats run(const scene *s, fk_batching_options o) {
  fk_batcher *batcher;
  o.num_embeddings = 2 * GENERATED;
  o.state_slots = true;
  assert_ok(fk_batcher_create(&o, s->requests, s->count, &batcher));
  const fk_batching_stats *stats = fk_batcher_stats(batcher);
  o.max_num_seqs = stats->max_num_seqs;
  o.max_num_batched_tokens = stats->max_num_batched_tokens;
  int32_t *cache = malloc((size_t)(stats->num_blocks * FK_BLOCK_SIZE) * sizeof *cache);
  int32_t tokens[MAX_REQUESTS];
  for (;;) {
    fk_batch *batch;
    assert_ok(fk_batcher_next(batcher, &batch));
    if (!batch) break;
    check_step(s, batch, &o, cache, stats->num_blocks, tokens);
    assert_ok(fk_batcher_commit(batcher, tokens));
  }
  assert_ok(fk_batcher_check(batcher));
  for (int64_t i = 0; i < s->count; i++) {
    int64_t count;
    const int32_t *out = fk_batcher_output(batcher, i, &count);
    assert_int_equal(count, s->requests[i].output_length);
    for (int64_t k = 0; k < count; k++) assert_int_equal(out[k], id_of(s, i, s->requests[i].input_length + k));
  }
  fk_batching_stats result = *stats;
  fk_batcher_destroy(batcher);
  free(cache);
  return result;
}

static void worked_by_hand(void **state) {
  (void)state;
  static scene s;
  add(&s, 10, 2, 0);
  add(&s, 3, 2, 0);
  /* Step 1: 8 tokens of the first. Step 2: its last 2 and all 3 of the second; both emit. Step 3: both decode. */
  fk_batching_stats r = run(&s, (fk_batching_options){.max_num_batched_tokens = 8});
  assert_int_equal(r.steps, 3);
  assert_int_equal(r.prefill_tokens, 13);
  assert_int_equal(r.decode_tokens, 2);
  assert_int_equal(r.max_step_tokens, 8);
  assert_int_equal(r.max_decode_batch, 2);
  assert_int_equal(r.preemptions, 0);
}

static void fill(scene *s, uint32_t seed) {
  for (int i = 0; i < MAX_REQUESTS; i++) {
    seed = seed * 1664525u + 1013904223u;
    add(s, 1 + (seed >> 8) % 300, 1 + (seed >> 20) % 90, 0);
  }
}

static void random_loads(void **state) {
  (void)state;
  static scene s;
  for (uint32_t seed = 1; seed <= 6; seed++) {
    s.count = s.prompt_tokens = s.output_tokens = 0;
    fill(&s, seed);
    for (int64_t seqs = 1; seqs <= 64; seqs *= 4)
      for (int64_t tokens = 1; tokens <= 1024; tokens *= 32) {
        fk_batching_stats r = run(&s, (fk_batching_options){.max_num_seqs = seqs, .max_num_batched_tokens = tokens});
        assert_int_equal(r.output_tokens, s.output_tokens);
        assert_true(r.max_step_tokens <= tokens && r.max_in_flight <= seqs);
        if (r.preemptions) continue;
        assert_int_equal(r.prefill_tokens, s.prompt_tokens);
        assert_int_equal(r.decode_tokens, s.output_tokens - s.count);
      }
  }
}

static void preemption_recomputes(void **state) {
  (void)state;
  static scene s;
  s.count = s.prompt_tokens = s.output_tokens = 0;
  int64_t total = 0;
  fill(&s, 7);
  for (int64_t blocks = 27; blocks <= 60; blocks += 3) {
    fk_batching_stats r = run(&s, (fk_batching_options){.num_blocks = blocks, .max_num_batched_tokens = 64});
    total += r.preemptions;
    assert_true(r.max_blocks_used <= blocks);
    assert_int_equal(r.prefill_tokens + r.decode_tokens,
                     s.prompt_tokens + s.output_tokens - s.count + r.recomputed_tokens);
  }
  assert_true(total > 0);
}

static void arrivals(void **state) {
  (void)state;
  static scene s;
  for (int i = 0; i < 5; i++) add(&s, 20, 5, 100.0 * i);
  assert_int_equal(run(&s, (fk_batching_options){.honour_arrivals = true}).max_in_flight, 1);
  assert_int_equal(run(&s, (fk_batching_options){0}).max_in_flight, 5);
}

static void refusals(void **state) {
  (void)state;
  fk_batcher *b;
  fk_batch *batch;
  fk_request r = {.input_length = 100, .output_length = 100}, none = {.input_length = 0, .output_length = 1};
  fk_batching_options o = {.num_blocks = 12, .num_embeddings = 10};
  assert_fails(fk_batcher_create(&o, &r, 1, &b), FK_ERROR_ARGUMENT, "request 0 needs 13 blocks of 16 tokens");
  assert_null(b);
  o.num_blocks = 14;
  assert_ok(fk_batcher_create(&o, &r, 1, &b));
  assert_fails(fk_batcher_commit(b, NULL), FK_ERROR_ARGUMENT, "no step to commit");
  assert_ok(fk_batcher_next(b, &batch));
  assert_fails(fk_batcher_next(b, &batch), FK_ERROR_ARGUMENT, "not committed");
  fk_batcher_destroy(b);
  assert_fails(fk_batcher_create(&o, &none, 1, &b), FK_ERROR_ARGUMENT, "request 0: expected lengths from 1");
  o.max_num_seqs = -1;
  assert_fails(fk_batcher_create(&o, &r, 1, &b), FK_ERROR_ARGUMENT, "max_num_seqs: expected 1");
  o = (fk_batching_options){0};
  assert_fails(fk_batcher_create(&o, &r, 1, &b), FK_ERROR_ARGUMENT, "num_embeddings");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(worked_by_hand), cmocka_unit_test(random_loads),
                                     cmocka_unit_test(preemption_recomputes), cmocka_unit_test(arrivals),
                                     cmocka_unit_test(refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
