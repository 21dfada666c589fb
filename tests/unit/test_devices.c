/* What holds on devices in host memory of the functions that matter on a GPU, and what is said where there is none. */
#include "engine/decode_graph.h"
#include "model_helpers.h"

static void test_moves_cost_nothing(void **state) {
  (void)state;
  static const fk_backend backends[] = {FK_REF, FK_CPU, FK_META};
  for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
    fk_context *ctx = open_context(backends[i]);
    fk_tensor *t = fk_host(ctx, FK_I32, 3, 5), *none = NULL, *same = t;
    assert_non_null(t);
    assert_non_null(t->data);
    memset(t->data, 7, 60);
    assert_ptr_equal(fk_to_device(ctx, t), t);
    assert_ptr_equal(fk_to_host(ctx, t), t);
    assert_ok(fk_move_to_device(ctx, &same));
    assert_ok(fk_move_to_host(ctx, &same));
    assert_ptr_equal(same, t);
    assert_ok(fk_move_to_device(ctx, &none));
    assert_null(none);
    assert_ok(fk_zero(ctx, t));
    for (int k = 0; k < 15; k++) assert_int_equal(((const int32_t *)t->data)[k], 0);
    assert_ok(fk_sync(ctx));
    fk_context_destroy(ctx);
  }
}

/* A tensor that could not be moved: its error is the caller's, and not the next call's. */
static void test_failed_move(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_CPU);
  fk_tensor *t = fk_host(ctx, FK_I32, 2);
  t->device = (fk_device){FK_DL_CUDA, 0};
  assert_fails(fk_move_to_host(ctx, &t), FK_ERROR_ARGUMENT, "to_host");
  assert_null(t);
  assert_int_equal(ctx->pending, FK_OK);
  fk_context_destroy(ctx);
}

static void test_decode_graph_needs_a_gpu(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_CPU);
  fk_model *model = open_model(ctx, LLAMA_FIXTURES "plain", (fk_model_options){0});
  fk_decode_graph *graph = (fk_decode_graph *)state;
  fk_decode_options options = {.batch_size = 1, .max_blocks_per_seq = 4};
  assert_fails(fk_decode_graph_create(ctx, model, NULL, &options, &graph), FK_ERROR_ARGUMENT,
               "expected a cuda context");
  assert_null(graph);
  fk_model_close(model);
  fk_context_destroy(ctx);
}

static void test_no_gpu(void **state) {
  (void)state;
  fk_context *ctx = (fk_context *)state;
  if (fk_cuda_device_count() > 0) skip();
  assert_int_not_equal(fk_context_create(&(fk_context_options){.backend = FK_CUDA}, &ctx), FK_OK);
  assert_non_null(strstr(fk_last_error(), "cuda: "));
  assert_null(ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_moves_cost_nothing), cmocka_unit_test(test_failed_move),
                                     cmocka_unit_test(test_decode_graph_needs_a_gpu), cmocka_unit_test(test_no_gpu)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
