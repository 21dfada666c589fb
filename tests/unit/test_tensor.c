/* Temporaries, views, slices and copies of a context. */
#include "core_helpers.h"

static fk_context *ctx;

static int set_up(void **state) {
  (void)state;
  return fk_context_create(&(fk_context_options){.backend = FK_CPU}, &ctx);
}
static int tear_down(void **state) {
  (void)state;
  fk_context_destroy(ctx);
  return 0;
}

/* The element at a flat index, whatever the strides. */
static float at(const fk_tensor *t, int64_t flat) {
  int64_t offset = 0;
  for (int32_t i = t->ndim - 1; i >= 0; i--) {
    offset += flat % t->shape[i] * fk_stride(t, i);
    flat /= t->shape[i];
  }
  return ((const float *)fk_data(t))[offset];
}

static fk_tensor *counting(int64_t rows, int64_t columns) {
  fk_tensor *t = fk_empty(ctx, FK_F32, rows, columns);
  for (int64_t i = 0; i < rows * columns; i++) ((float *)t->data)[i] = (float)i;
  return t;
}

static void assert_same_elements(const fk_tensor *a, const fk_tensor *b) {
  assert_int_equal(fk_numel(a), fk_numel(b));
  for (int64_t i = 0; i < fk_numel(a); i++) assert_true(at(a, i) == at(b, i));
}

static void expect_pending(const char *text) {
  assert_non_null(strstr(fk_last_error(), text));
  assert_int_not_equal(ctx->pending, FK_OK);
  fk_context_reset(ctx);
}

static void test_empty(void **state) {
  (void)state;
  fk_tensor *t = fk_empty(ctx, FK_BF16, 3, 0, 5);
  assert_int_equal(fk_numel(t), 0);
  assert_true(fk_is_contiguous(t));
  t = fk_empty(ctx, FK_F32, 2, 3);
  assert_int_equal((uintptr_t)t->data % 64, 0);
  assert_int_equal(t->strides[0], 3);
  fk_tensor *like = fk_empty_like(ctx, t);
  assert_int_equal(like->shape[1], 3);
  assert_ptr_not_equal(like->data, t->data);
  t = fk_empty_shape(ctx, FK_I64, NULL, 0);
  assert_int_equal(fk_numel(t), 1);
  fk_context_reset(ctx);
}

static void test_empty_errors(void **state) {
  (void)state;
  assert_null(fk_empty(ctx, FK_F32, 2, -1));
  expect_pending("dimension 1 is -1");
  assert_null(fk_empty(ctx, FK_F32, INT64_MAX, 2));
  expect_pending("too large");
  assert_null(fk_empty(ctx, FK_F32, 1, 1, 1, 1, 1, 1, 1, 1, 1));
  expect_pending("expected 0 to 8 dimensions, got 9");
  assert_null(fk_empty(ctx, (fk_type)0, 1));
  expect_pending("unknown dtype");
  assert_null(fk_empty(ctx, FK_F32, (int64_t)1 << 55));
  expect_pending("cannot allocate");
  assert_null(fk_empty_like(ctx, NULL));
  assert_null(fk_view(ctx, NULL, 1));
  assert_null(fk_slice(ctx, NULL, 0, 0, 0));
}

static void test_views_of_contiguous(void **state) {
  (void)state;
  fk_tensor *t = counting(6, 4);
  assert_same_elements(fk_view(ctx, t, 24), t);
  assert_same_elements(fk_view(ctx, t, 2, 3, 2, 2), t);
  assert_same_elements(fk_view(ctx, t, 1, 8, 1, 3), t);
  assert_null(fk_view(ctx, t, 5, 5));
  expect_pending("24 elements cannot be viewed as 25");
  t = fk_empty(ctx, FK_F32, 0, 4);
  assert_int_equal(fk_view(ctx, t, 2, 0)->ndim, 2);
  fk_context_reset(ctx);
}

static void test_views_of_slices(void **state) {
  (void)state;
  fk_tensor *wide = counting(6, 10), *t = fk_slice(ctx, wide, 1, 2, 4);
  assert_int_equal(t->strides[0], 10);
  assert_same_elements(fk_view(ctx, t, 2, 3, 4), t); /* rows split */
  assert_same_elements(fk_view(ctx, t, 6, 2, 2), t); /* columns split */
  assert_same_elements(fk_view(ctx, t, 3, 2, 1, 4, 1), t);
  assert_null(fk_view(ctx, t, 24)); /* rows do not follow each other */
  expect_pending("strides do not allow it");
}

/* A dimension of size 1 has a stride that means nothing, and must neither join nor part its neighbours. */
static void test_views_with_unit_dimensions(void **state) {
  (void)state;
  fk_tensor *wide = counting(2, 10);
  fk_tensor *t = fk_slice(ctx, fk_view(ctx, wide, 2, 1, 10), 2, 0, 3); /* strides 10, 10, 1 */
  assert_null(fk_view(ctx, t, 6));
  expect_pending("strides do not allow it");
  wide = counting(4, 3);
  t = fk_slice(ctx, wide, 1, 1, 1); /* [4, 1] of strides 3, 1 */
  assert_same_elements(fk_view(ctx, t, 4), t);
  assert_same_elements(fk_view(ctx, t, 2, 2), t);
  assert_same_elements(fk_view(ctx, t, 1, 4, 1), t);
  t = fk_slice(ctx, t, 0, 2, 1); /* one element */
  assert_same_elements(fk_view(ctx, t, 1, 1, 1), t);
  assert_true(at(fk_view(ctx, t, 1), 0) == 7);
  fk_context_reset(ctx);
}

static void test_slices(void **state) {
  (void)state;
  fk_tensor *t = counting(4, 5);
  assert_true(at(fk_slice(ctx, t, 0, 2, 1), 0) == 10);
  assert_true(at(fk_slice(ctx, t, -1, 4, 1), 3) == 19);
  assert_int_equal(fk_numel(fk_slice(ctx, t, 0, 4, 0)), 0);
  assert_true(at(fk_slice(ctx, fk_slice(ctx, t, 0, 1, 3), 1, 1, 2), 3) == 12);
  assert_null(fk_slice(ctx, t, 0, 3, 2));
  expect_pending("axis 0 of 2, got 2 elements from 3");
  t = counting(4, 5);
  assert_null(fk_slice(ctx, t, 2, 0, 1));
  expect_pending("axis 2 of 2");
  t = counting(4, 5);
  assert_null(fk_slice(ctx, t, 0, INT64_MAX, INT64_MAX));
  expect_pending("slice");
  t = fk_empty(ctx, FK_F4_E2M1, 2, 3);
  assert_null(fk_slice(ctx, t, 0, 1, 1)); /* 3 elements in: the middle of a byte */
  expect_pending("within a byte");
}

static void test_wrap(void **state) {
  (void)state;
  float data[12];
  for (int i = 0; i < 12; i++) data[i] = (float)i;
  fk_tensor *t = fk_wrap(ctx, data, FK_F32, (const int64_t[]){4, 3}, 2, (const int64_t[]){1, 4});
  assert_false(fk_is_contiguous(t));
  assert_true(at(t, 1) == 4); /* the transpose */
  assert_null(fk_view(ctx, t, 12));
  expect_pending("strides do not allow it");
}

static void test_copies(void **state) {
  (void)state;
  float data[24], out[24];
  for (int i = 0; i < 24; i++) data[i] = (float)i;
  const int64_t shape[] = {2, 3, 4}, turned[] = {1, 2, 6};
  fk_tensor *from = fk_wrap(ctx, data, FK_F32, shape, 3, NULL), *to = fk_wrap(ctx, out, FK_F32, shape, 3, turned);
  assert_ok(fk_copy(from, to));
  assert_same_elements(from, to);
  fk_tensor *half = fk_empty(ctx, FK_F16, 2, 3, 4), *back = fk_empty(ctx, FK_F32, 2, 3, 4);
  assert_ok(fk_copy(to, half));
  assert_ok(fk_copy(half, back));
  assert_same_elements(from, back);
  /* no dimensions at all, with strides given: one element */
  fk_tensor *a = fk_wrap(ctx, data + 5, FK_F32, NULL, 0, NULL), *b = fk_wrap(ctx, out, FK_F32, NULL, 0, shape);
  assert_ok(fk_copy(a, b));
  assert_true(out[0] == 5);
  assert_ok(fk_copy(fk_empty(ctx, FK_F32, 0, 3), fk_empty(ctx, FK_F64, 0, 3)));
  fk_context_reset(ctx);
}

static void test_copy_errors(void **state) {
  (void)state;
  fk_tensor *a = counting(2, 3), *ints = fk_empty(ctx, FK_I32, 2, 3);
  assert_fails(fk_copy(a, fk_empty(ctx, FK_F32, 3, 2)), FK_ERROR_ARGUMENT, "shapes differ");
  assert_fails(fk_copy(a, fk_empty(ctx, FK_F32, 6)), FK_ERROR_ARGUMENT, "shapes differ");
  assert_int_equal(fk_copy(a, ints), FK_ERROR_ARGUMENT);
  fk_tensor nothing = *a;
  nothing.data = NULL;
  assert_fails(fk_copy(a, &nothing), FK_ERROR_ARGUMENT, "with data");
  fk_tensor packed = *fk_empty(ctx, FK_F4_E2M1, 4, 4), *turned = fk_empty(ctx, FK_F32, 4, 4);
  int64_t strides[] = {1, 4};
  packed.strides = strides;
  assert_fails(fk_copy(&packed, turned), FK_ERROR_UNSUPPORTED, "sub-byte");
  fk_context_reset(ctx);
}

static void test_meta_has_no_float_data(void **state) {
  (void)state;
  fk_context *meta;
  assert_ok(fk_context_create(&(fk_context_options){.backend = FK_META}, &meta));
  assert_null(fk_empty(meta, FK_BF16, 1 << 20, 1 << 20)->data);
  fk_tensor *ints = fk_empty(meta, FK_I32, 5);
  for (int i = 0; i < 5; i++) assert_int_equal(((int32_t *)ints->data)[i], 0);
  fk_context_destroy(meta);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_empty),
      cmocka_unit_test(test_empty_errors),
      cmocka_unit_test(test_views_of_contiguous),
      cmocka_unit_test(test_views_of_slices),
      cmocka_unit_test(test_views_with_unit_dimensions),
      cmocka_unit_test(test_slices),
      cmocka_unit_test(test_wrap),
      cmocka_unit_test(test_copies),
      cmocka_unit_test(test_copy_errors),
      cmocka_unit_test(test_meta_has_no_float_data),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
