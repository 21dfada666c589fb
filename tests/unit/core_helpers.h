/* What the tests of src/core share: definitions from text, tensors over caller memory, and errors looked at. */
#ifndef FK_TESTS_CORE_HELPERS_H
#define FK_TESTS_CORE_HELPERS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* cmocka.h wants the headers above first. */
#include <cmocka.h>

#include "core/context.h"

/* The call fails with this status and its message holds this text. */
#define assert_fails(call, expected_status, text)                                                                 \
  do {                                                                                                            \
    fk_status got_status = (call);                                                                                \
    if (got_status != (expected_status) || !strstr(fk_last_error(), text))                                        \
      fail_msg("%s: expected \"%s\" with \"%s\", got \"%s\" with \"%s\"", #call, fk_status_name(expected_status), \
               text, fk_status_name(got_status), fk_last_error());                                                \
  } while (0)

#define assert_ok(call)                                              \
  do {                                                               \
    if ((call) != FK_OK) fail_msg("%s: %s", #call, fk_last_error()); \
  } while (0)

/* A contiguous host tensor over caller memory; shape lives in the caller, up to 8 sizes. */
typedef struct test_tensor {
  fk_tensor t;
  int64_t shape[FK_MAX_DIMS], strides[FK_MAX_DIMS];
} test_tensor;

static inline fk_tensor *tensor_of(test_tensor *box, void *data, fk_type type, const int64_t *shape, int32_t ndim) {
  *box = (test_tensor){.t = {.data = data, .device = {FK_DL_CPU, 0}, .ndim = ndim, .dtype = fk_dtype_from(type)}};
  if (ndim > 0) memcpy(box->shape, shape, (size_t)ndim * sizeof *shape);
  box->t.shape = box->shape;
  box->t.strides = box->strides;
  int64_t stride = 1;
  for (int32_t i = ndim - 1; i >= 0; i--) {
    box->strides[i] = stride;
    stride *= box->shape[i];
  }
  return &box->t;
}
#define TENSOR(box, data, type, ...) \
  tensor_of(box, data, type, (const int64_t[]){__VA_ARGS__}, (int32_t)FK_NARGS(__VA_ARGS__))

#endif
