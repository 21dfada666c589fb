/* Command line: one table of options per command, which parses and prints its own help.
 *
 * A command is `int fk_cmd_<name>(int argc, char **argv)` in src/cli/cmd_<name>.c; main.c dispatches. It returns the
 * exit status: 0 all well, 1 a judged failure (a candidate did not pass), 2 wrong usage or a runtime error. */
#ifndef FK_CLI_CLI_H
#define FK_CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>

#include "fastkernels/fastkernels.h"

typedef struct cli_option {
  const char *name;  /* long name without dashes */
  const char *value; /* placeholder in help, NULL for a flag */
  const char *help;
} cli_option;

typedef struct cli_spec {
  const char *command;       /* "run" */
  const char *arguments;     /* "MODEL_DIR", "" */
  const char *summary;       /* one sentence */
  const char *details;       /* more help, or NULL */
  int min_args, max_args;    /* positional; max_args -1 = any number */
  const cli_option *options; /* ended by {0}; --help is added */
} cli_spec;

enum { CLI_MAX_VALUES = 64 };
typedef struct cli {
  const cli_spec *spec;
  const char *args[CLI_MAX_VALUES];
  int num_args;
  struct {
    const cli_option *option;
    const char *value;
  } given[CLI_MAX_VALUES];
  int num_given;
} cli;

/* Parses; prints help or an error itself. False means: return *exit_status now. */
bool cli_parse(cli *c, const cli_spec *spec, int argc, char **argv, int *exit_status);

bool cli_flag(const cli *c, const char *name);
const char *cli_value(const cli *c, const char *name);               /* the last one given, or NULL */
int cli_values(const cli *c, const char *name, const char **values); /* all, in order; returns the count */
/* Integer option within a range; prints the error and returns false when malformed. Absent: *value unchanged. */
bool cli_int(const cli *c, const char *name, int64_t min, int64_t max, int64_t *value);
bool cli_backend(const cli *c, const char *name, fk_backend *backend); /* --device; absent: unchanged */
bool cli_type(const cli *c, const char *name, fk_type *type);          /* --dtype; absent: unchanged */

/* Prints "fastkernels COMMAND: message" to stderr and returns 2. */
int cli_fail(const cli *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same with fk_last_error(). */
int cli_error(const cli *c);

bool cli_color(void); /* stdout is a terminal and NO_COLOR is unset */

#endif
