#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/context.h"

enum { MESSAGE_SIZE = 2048 };

/* One message per thread: errors are read by the thread that met them. */
static _Thread_local char message[MESSAGE_SIZE] = "no error";
static _Thread_local unsigned failures;

const char *fk_status_name(fk_status status) {
  static const char *const names[] = {"ok",           "wrong argument", "not found",   "malformed",
                                      "input/output", "out of memory",  "unsupported", "kernel failed"};
  return (unsigned)status < sizeof names / sizeof *names ? names[status] : "unknown status";
}

const char *fk_last_error(void) {
  return message;
}

unsigned fk_failures(void) {
  return failures;
}

fk_status fk_fail(fk_status status, const char *format, ...) {
  char text[MESSAGE_SIZE]; /* the arguments may point into the old message */
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  failures++;
  memcpy(message, text, strlen(text) + 1);
  return status;
}

fk_status fk_fail_in(fk_status status, const char *format, ...) {
  char text[MESSAGE_SIZE];
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  if (n < 0) n = 0;
  size_t used = (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
  int rest = snprintf(text + used, sizeof text - used, ": %s", message);
  if (rest < 0) text[used] = 0; /* a message cut at the end is still a message */
  memcpy(message, text, strlen(text) + 1);
  return status;
}
