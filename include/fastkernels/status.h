/* Status codes and the error message of the calling thread.
 *
 * Every fallible function returns fk_status. On failure it stores NULL (or leaves untouched, where its comment
 * says so) what it would have returned through pointers, and fk_last_error() says what was expected, what came,
 * and where. The message belongs to the thread and lives until that thread's next failure. */
#ifndef FASTKERNELS_STATUS_H
#define FASTKERNELS_STATUS_H

#pragma GCC visibility push(default) /* exported by the shared library */

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fk_status {
  FK_OK = 0,
  FK_ERROR_ARGUMENT,    /* a caller's value is wrong: shape, dtype, range, missing input */
  FK_ERROR_NOT_FOUND,   /* no such task, model, file, tensor, symbol */
  FK_ERROR_FORMAT,      /* a file's content is malformed */
  FK_ERROR_IO,          /* the operating system refused a read, write, map or spawn */
  FK_ERROR_MEMORY,      /* an allocation failed */
  FK_ERROR_UNSUPPORTED, /* well-formed, but nothing here does it */
  FK_ERROR_KERNEL       /* a kernel reported an error */
} fk_status;

/* "argument", "not found", ...: one or two words for a status. */
const char *fk_status_name(fk_status status);

/* The message of this thread's last failure, never NULL. */
const char *fk_last_error(void);

/* Sets this thread's message (printf format) and returns status, so that `return fk_fail(...)` reads well. */
__attribute__((format(printf, 2, 3))) fk_status fk_fail(fk_status status, const char *format, ...);

/* Puts text and ": " before this thread's message and returns status: adds the place to a lower failure. */
__attribute__((format(printf, 2, 3))) fk_status fk_fail_in(fk_status status, const char *format, ...);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#define FK_TRY(expr)                                  \
  do {                                                \
    fk_status fk_try_status = (expr);                 \
    if (fk_try_status != FK_OK) return fk_try_status; \
  } while (0)

#endif
