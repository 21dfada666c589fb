/* Attention's integers come from callers: offsets, lengths and block ids that lead outside a tensor are refused with
 * the place named, by the reference and by the CPU kernel, and nothing is written. */
#include "core_helpers.h"

enum { TOKENS = 4, HEADS = 2, SIZE = 4, BLOCKS = 3, BLOCK = 2, COLUMNS = 3 };

/* Two sequences: paged of 1 and 3 queries with 2 and 5 keys; packed of the same queries over 2 and 2 keys. */
typedef struct call {
  float q[TOKENS * HEADS * SIZE], k[BLOCKS * BLOCK * HEADS * SIZE], v[BLOCKS * BLOCK * HEADS * SIZE];
  float out[TOKENS * HEADS * SIZE];
  int32_t cu_q[3], cu_k[3], lens[2], table[2 * COLUMNS];
} call;

static call valid(void) {
  call c = {.cu_q = {0, 1, 4}, .cu_k = {0, 2, 6}, .lens = {2, 5}, .table = {2, -7, 99, 0, 1, 2}};
  for (int i = 0; i < TOKENS * HEADS * SIZE; i++) c.out[i] = 77;
  return c;
}

static fk_status run_paged(fk_context *ctx, call *c) {
  test_tensor q, k, v, out, cu, lens, table;
  TENSOR(&q, c->q, FK_F32, TOKENS, HEADS, SIZE);
  TENSOR(&k, c->k, FK_F32, BLOCKS, BLOCK, HEADS, SIZE);
  TENSOR(&v, c->v, FK_F32, BLOCKS, BLOCK, HEADS, SIZE);
  TENSOR(&out, c->out, FK_F32, TOKENS, HEADS, SIZE);
  TENSOR(&cu, c->cu_q, FK_I32, 3);
  TENSOR(&lens, c->lens, FK_I32, 2);
  TENSOR(&table, c->table, FK_I32, 2, COLUMNS);
  return fk_call(ctx, "attention", &q.t, &k.t, &v.t, &cu.t, NULL, &lens.t, &table.t, NULL, 0.5, true, -1, -1, 0.0,
                 &out.t);
}

static fk_status run_packed(fk_context *ctx, call *c) {
  test_tensor q, k, v, out, cu, cu_k;
  TENSOR(&q, c->q, FK_F32, TOKENS, HEADS, SIZE);
  TENSOR(&k, c->k, FK_F32, BLOCKS * BLOCK, HEADS, SIZE);
  TENSOR(&v, c->v, FK_F32, BLOCKS * BLOCK, HEADS, SIZE);
  TENSOR(&out, c->out, FK_F32, TOKENS, HEADS, SIZE);
  TENSOR(&cu, c->cu_q, FK_I32, 3);
  TENSOR(&cu_k, c->cu_k, FK_I32, 3);
  return fk_call(ctx, "attention", &q.t, &k.t, &v.t, &cu.t, &cu_k.t, NULL, NULL, NULL, 0.5, true, -1, -1, 0.0, &out.t);
}

/* Two sequences of two queries, each over three keys, with lens of them visible. */
static fk_status run_dense(fk_context *ctx, call *c) {
  test_tensor q, k, v, out, lens;
  TENSOR(&q, c->q, FK_F32, 2, TOKENS / 2, HEADS, SIZE);
  TENSOR(&k, c->k, FK_F32, 2, BLOCKS * BLOCK / 2, HEADS, SIZE);
  TENSOR(&v, c->v, FK_F32, 2, BLOCKS * BLOCK / 2, HEADS, SIZE);
  TENSOR(&out, c->out, FK_F32, 2, TOKENS / 2, HEADS, SIZE);
  TENSOR(&lens, c->lens, FK_I32, 2);
  return fk_call(ctx, "attention", &q.t, &k.t, &v.t, NULL, NULL, &lens.t, NULL, NULL, 0.5, false, -1, -1, 0.0, &out.t);
}

typedef fk_status (*runner)(fk_context *ctx, call *c);

static void refused(runner run, const call *bad, const char *text) {
  static const fk_backend backends[] = {FK_REF, FK_CPU};
  for (int b = 0; b < 2; b++) {
    fk_context *ctx;
    call c = *bad;
    assert_ok(fk_context_create(&(fk_context_options){.backend = backends[b]}, &ctx));
    assert_fails(run(ctx, &c), FK_ERROR_ARGUMENT, text);
    if (backends[b] == FK_CPU) /* the reference computes in copies */
      for (int i = 0; i < TOKENS * HEADS * SIZE; i++) assert_true(c.out[i] == 77);
    fk_context_destroy(ctx);
  }
}

/* What is refused below is refused for its one wrong number: without it the calls succeed. Entries of the table beyond
 * a sequence's keys are never looked at. */
static void test_valid(void **state) {
  (void)state;
  static const fk_backend backends[] = {FK_REF, FK_CPU};
  for (int b = 0; b < 2; b++) {
    fk_context *ctx;
    assert_ok(fk_context_create(&(fk_context_options){.backend = backends[b]}, &ctx));
    call c = valid();
    assert_ok(run_paged(ctx, &c));
    for (int i = 0; i < TOKENS * HEADS * SIZE; i++) assert_true(c.out[i] == 0);
    assert_ok(run_packed(ctx, &c));
    c.lens[1] = 0;
    assert_ok(run_dense(ctx, &c));
    fk_context_destroy(ctx);
  }
}

static void test_offsets(void **state) {
  (void)state;
  static const runner runs[] = {run_paged, run_packed};
  for (int i = 0; i < 2; i++) {
    call c = valid();
    c.cu_q[0] = 1;
    refused(runs[i], &c, "cu_seqlens_q[0]");
    c = valid();
    c.cu_q[1] = -1;
    refused(runs[i], &c, "cu_seqlens_q[1]");
    c = valid();
    c.cu_q[1] = INT32_MAX; /* falls again */
    refused(runs[i], &c, "cu_seqlens_q[2]");
    c = valid();
    c.cu_q[2] = 5;
    refused(runs[i], &c, "cu_seqlens_q");
    c = valid();
    c.cu_q[2] = 3;
    refused(runs[i], &c, "cu_seqlens_q");
  }
  call c = valid();
  c.cu_k[1] = INT32_MIN;
  refused(run_packed, &c, "cu_seqlens_k[1]");
  c = valid();
  c.cu_k[2] = 7;
  refused(run_packed, &c, "cu_seqlens_k");
}

static void test_lengths(void **state) {
  (void)state;
  static const int32_t paged[] = {INT32_MIN, -1, 2 /* fewer than its queries */, BLOCK * COLUMNS + 1, INT32_MAX};
  static const int32_t dense[] = {INT32_MIN, -1, BLOCKS * BLOCK / 2 + 1, INT32_MAX};
  for (size_t i = 0; i < sizeof paged / sizeof *paged; i++) {
    call c = valid();
    c.lens[1] = paged[i];
    refused(run_paged, &c, "seq_lens[1]");
  }
  for (size_t i = 0; i < sizeof dense / sizeof *dense; i++) {
    call c = valid();
    c.lens[1] = dense[i];
    refused(run_dense, &c, "seq_lens[1]");
  }
}

static void test_block_ids(void **state) {
  (void)state;
  static const int32_t ids[] = {INT32_MIN, -1, BLOCKS, INT32_MAX};
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
    call c = valid();
    c.table[COLUMNS + 2] = ids[i]; /* the block of the last key */
    refused(run_paged, &c, "block_table[1][2]");
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_valid), cmocka_unit_test(test_offsets),
                                     cmocka_unit_test(test_lengths), cmocka_unit_test(test_block_ids)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
