/* fastkernels: the program. Dispatches to one function per command. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

typedef int (*command_fn)(int argc, char **argv);

#define COMMAND(name) int fk_cmd_##name(int argc, char **argv);
COMMAND(list)
COMMAND(run)
COMMAND(op)
COMMAND(capture)
COMMAND(bench)
COMMAND(stubs)
COMMAND(doctor)
COMMAND(roofline)
COMMAND(report)
COMMAND(runner)

static const struct {
  const char *name;
  command_fn fn;
  const char *summary; /* NULL: internal, not shown */
} commands[] = {{"list", fk_cmd_list, "tasks and models, and which uses which"},
                {"run", fk_cmd_run, "run a model on tensors from a file"},
                {"op", fk_cmd_op, "run one task on tensors from a file"},
                {"capture", fk_cmd_capture, "record every task call of a model under a workload"},
                {"bench", fk_cmd_bench, "judge candidate kernels against the baselines"},
                {"report", fk_cmd_report, "a record of bench as text, or as a page to read in a browser"},
                {"roofline", fk_cmd_roofline, "the least time a machine could need for a model"},
                {"stubs", fk_cmd_stubs, "write a compilable candidate to start from"},
                {"doctor", fk_cmd_doctor, "what this machine has and lacks, with measured ceilings"},
                {"__runner", fk_cmd_runner, NULL}};

static void usage(FILE *out) {
  fputs("usage: fastkernels COMMAND ...\n\nJudge, run and ship GPU and CPU kernels.\n\ncommands:\n", out);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    if (commands[i].summary) fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
  fputs("\n`fastkernels COMMAND --help` describes one. `fastkernels --version` prints the version.\n", out);
}

int main(int argc, char **argv) {
  if (argc < 2) {
    usage(stderr);
    return 2;
  }
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
    usage(stdout);
    return 0;
  }
  if (strcmp(argv[1], "--version") == 0) {
    puts("fastkernels " FK_VERSION);
    return 0;
  }
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    if (strcmp(argv[1], commands[i].name) == 0) return commands[i].fn(argc - 1, argv + 1);
  fprintf(stderr, "fastkernels: there is no command \"%s\" (see fastkernels --help)\n", argv[1]);
  return 2;
}
