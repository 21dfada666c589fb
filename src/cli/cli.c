#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void print_help(const cli_spec *spec, FILE *out) {
  fprintf(out, "usage: fastkernels %s%s%s [options]\n\n%s\n\noptions:\n", spec->command, *spec->arguments ? " " : "",
          spec->arguments, spec->summary);
  for (const cli_option *o = spec->options; o->name; o++) {
    char left[64];
    snprintf(left, sizeof left, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
    fprintf(out, "  %-28s %s\n", left, o->help);
  }
  fprintf(out, "  %-28s %s\n", "--help", "this text");
  if (spec->details) fprintf(out, "\n%s\n", spec->details);
}

static const cli_option *find_option(const cli_spec *spec, const char *name, size_t length) {
  for (const cli_option *o = spec->options; o->name; o++)
    if (strlen(o->name) == length && memcmp(o->name, name, length) == 0) return o;
  return NULL;
}

static bool usage_error(const cli *c, int *exit_status, const char *what, const char *subject) {
  fprintf(stderr, "fastkernels %s: %s %s (see fastkernels %s --help)\n", c->spec->command, what, subject,
          c->spec->command);
  *exit_status = 2;
  return false;
}

/* One "--name", "--name value" or "--name=value"; advances *i over a separate value. */
static bool take_option(cli *c, int argc, char **argv, int *i, int *exit_status) {
  const char *text = argv[*i] + 2, *equals = strchr(text, '=');
  const cli_option *o = find_option(c->spec, text, equals ? (size_t)(equals - text) : strlen(text));
  if (!o) return usage_error(c, exit_status, "unknown option", argv[*i]);
  if (!o->value && equals) return usage_error(c, exit_status, "this option takes no value:", argv[*i]);
  const char *value = equals ? equals + 1 : NULL;
  if (o->value && !value) {
    if (*i + 1 >= argc) return usage_error(c, exit_status, "a value is missing after", argv[*i]);
    value = argv[++*i];
  }
  if (c->num_given == CLI_MAX_VALUES) return usage_error(c, exit_status, "too many options from", argv[*i]);
  c->given[c->num_given].option = o;
  c->given[c->num_given++].value = value;
  return true;
}

bool cli_parse(cli *c, const cli_spec *spec, int argc, char **argv, int *exit_status) {
  *c = (cli){.spec = spec};
  bool options_end = false;
  for (int i = 1; i < argc; i++) {
    if (!options_end && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)) {
      print_help(spec, stdout);
      *exit_status = 0;
      return false;
    }
    if (!options_end && strcmp(argv[i], "--") == 0) {
      options_end = true;
    } else if (!options_end && strncmp(argv[i], "--", 2) == 0) {
      if (!take_option(c, argc, argv, &i, exit_status)) return false;
    } else if (!options_end && argv[i][0] == '-' && argv[i][1]) {
      return usage_error(c, exit_status, "unknown option", argv[i]);
    } else {
      if (c->num_args == CLI_MAX_VALUES || (spec->max_args >= 0 && c->num_args == spec->max_args))
        return usage_error(c, exit_status, "unexpected argument", argv[i]);
      c->args[c->num_args++] = argv[i];
    }
  }
  if (c->num_args < spec->min_args) return usage_error(c, exit_status, "missing argument:", spec->arguments);
  return true;
}

const char *cli_value(const cli *c, const char *name) {
  for (int i = c->num_given - 1; i >= 0; i--)
    if (strcmp(c->given[i].option->name, name) == 0) return c->given[i].value ? c->given[i].value : "";
  return NULL;
}

bool cli_flag(const cli *c, const char *name) {
  return cli_value(c, name) != NULL;
}

int cli_values(const cli *c, const char *name, const char **values) {
  int n = 0;
  for (int i = 0; i < c->num_given; i++)
    if (strcmp(c->given[i].option->name, name) == 0) values[n++] = c->given[i].value;
  return n;
}

bool cli_int(const cli *c, const char *name, int64_t min, int64_t max, int64_t *value) {
  const char *text = cli_value(c, name);
  if (!text) return true;
  char *end;
  errno = 0;
  long long v = strtoll(text, &end, 10);
  if (errno || end == text || *end || v < min || v > max) {
    cli_fail(c, "--%s: expected an integer from %lld to %lld, got \"%s\"", name, (long long)min, (long long)max, text);
    return false;
  }
  *value = v;
  return true;
}

bool cli_backend(const cli *c, const char *name, fk_backend *backend) {
  const char *text = cli_value(c, name);
  if (!text) return true;
  for (int b = 0; b < FK_BACKENDS; b++) {
    if (strcmp(text, fk_backend_name((fk_backend)b)) == 0) {
      *backend = (fk_backend)b;
      return true;
    }
  }
  cli_fail(c, "--%s: expected ref, cpu, cuda or meta, got \"%s\"", name, text);
  return false;
}

bool cli_type(const cli *c, const char *name, fk_type *type) {
  const char *text = cli_value(c, name);
  fk_type parsed;
  if (!text) return true;
  if (fk_type_parse(text, &parsed) && (parsed == FK_F32 || parsed == FK_BF16 || parsed == FK_F16)) {
    *type = parsed;
    return true;
  }
  cli_fail(c, "--%s: expected float32, bfloat16 or float16, got \"%s\"", name, text);
  return false;
}

int cli_fail(const cli *c, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  fprintf(stderr, "fastkernels %s: ", c->spec->command);
  vfprintf(stderr, format, ap);
  fputc('\n', stderr);
  va_end(ap);
  return 2;
}

int cli_error(const cli *c) {
  return cli_fail(c, "%s", fk_last_error());
}

bool cli_color(void) {
  return isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
}
