/* Status codes and the thread's message. */
#include <pthread.h>

#include "core_helpers.h"

static void test_message(void **state) {
  (void)state;
  assert_int_equal(fk_fail(FK_ERROR_IO, "%s: %d", "file", 7), FK_ERROR_IO);
  assert_string_equal(fk_last_error(), "file: 7");
  assert_int_equal(fk_fail_in(FK_ERROR_FORMAT, "folder %s", "a"), FK_ERROR_FORMAT);
  assert_string_equal(fk_last_error(), "folder a: file: 7");
}

/* The old message as an argument of the new one. */
static void test_message_of_itself(void **state) {
  (void)state;
  fk_fail(FK_ERROR_IO, "inner");
  fk_fail(FK_ERROR_IO, "outer (%s)", fk_last_error());
  assert_string_equal(fk_last_error(), "outer (inner)");
}

static void test_long_messages_are_cut(void **state) {
  (void)state;
  char text[5000];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = 0;
  fk_fail(FK_ERROR_IO, "%s", text);
  size_t length = strlen(fk_last_error());
  assert_true(length > 1000 && length < 5000);
  fk_fail_in(FK_ERROR_IO, "place");
  assert_int_equal(strncmp(fk_last_error(), "place: xxx", 10), 0);
  assert_int_equal(strlen(fk_last_error()), length);
  fk_fail_in(FK_ERROR_IO, "%s", text);
  assert_int_equal(strlen(fk_last_error()), length);
}

static void test_names(void **state) {
  (void)state;
  for (int a = FK_OK; a <= FK_ERROR_KERNEL; a++)
    for (int b = FK_OK; b < a; b++) assert_string_not_equal(fk_status_name(a), fk_status_name(b));
  assert_string_equal(fk_status_name((fk_status)-1), "unknown status");
  assert_string_equal(fk_status_name((fk_status)(FK_ERROR_KERNEL + 1)), "unknown status");
}

static void *other_thread(void *unused) {
  (void)unused;
  fk_fail(FK_ERROR_IO, "other");
  return NULL;
}

static void test_one_message_per_thread(void **state) {
  (void)state;
  fk_fail(FK_ERROR_IO, "mine");
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, other_thread, NULL), 0);
  pthread_join(thread, NULL);
  assert_string_equal(fk_last_error(), "mine");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_message),
      cmocka_unit_test(test_message_of_itself),
      cmocka_unit_test(test_long_messages_are_cut),
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_one_message_per_thread),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
