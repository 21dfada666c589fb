/* fastkernels stubs: writes compilable candidates to start from. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "core/registry.h"
#include "engine/simulate.h"
#include "judge/job_list.h"
#include "judge/stubs.h"

static const cli_option options[] = {{"output", "DIR", "folder for the files, made when it does not exist (.)"},
                                     {"language", "c|cuda", "c (default) or cuda"},
                                     {"model", "M", "one stub for every task that a model, preset or folder uses"},
                                     {"captures", "FILE", "one stub for every task of a capture"},
                                     {"include", "DIR", "folder of fastkernels/abi.h, for the build line"},
                                     {0}};

static const cli_spec spec = {"stubs",
                              "[TASK...]",
                              "Write a compilable candidate for each task: arguments documented, unpacked and checked.",
                              "Existing files are not overwritten.",
                              0,
                              CLI_MAX_VALUES,
                              options};

static int write_stub(const cli *c, const fk_task *task, bool cuda, const char *folder) {
  char path[1024], file[160];
  snprintf(file, sizeof file, "%.140s.%s", task->name, cuda ? "cu" : "c");
  if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path)
    return cli_fail(c, "%s: the path is too long", folder);
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0 && errno == EEXIST) return cli_fail(c, "%s exists: it is not overwritten", path);
  FILE *out = fd < 0 ? NULL : fdopen(fd, "w");
  if (!out) {
    if (fd >= 0) close(fd);
    return cli_fail(c, "%s: %s", path, strerror(errno));
  }
  fk_stub_write(task, cuda, file, cli_value(c, "include"), out);
  bool failed = ferror(out) != 0;
  if (fclose(out) != 0 || failed) return cli_fail(c, "%s: cannot write", path);
  puts(path);
  return 0;
}

/* One stub per task of a capture file. */
static int stubs_of_captures(const cli *c, const char *captures, bool cuda, const char *folder) {
  fk_arena arena;
  fk_job_list w = {0};
  int status = 0;
  fk_arena_init(&arena, &fk_host_memory, 0);
  if (fk_job_list_load(&arena, captures, NULL, &w) != FK_OK) status = cli_error(c);
  for (int i = 0; i < w.num_jobs && !status; i++) status = write_stub(c, w.jobs[i].task, cuda, folder);
  fk_arena_destroy(&arena);
  return status;
}

/* The first preset of a model class, or the name itself: a preset or a model folder. */
static const char *source_of(const char *model) {
  for (int i = 0; i < fk_preset_count; i++)
    if (strcmp(fk_presets[i].model, model) == 0) return fk_presets[i].name;
  return model;
}

/* One stub per task that a model calls, found by running it on shapes alone. */
static int stubs_of_model(const cli *c, const char *model, bool cuda, const char *folder) {
  fk_capture *capture;
  int status = 0;
  if (fk_capture_model(source_of(model), NULL, 0, &(fk_capture_options){.shapes_only = true}, &capture))
    return cli_error(c);
  for (int i = 0; i < fk_capture_count(capture) && !status; i++) {
    const fk_task *task = fk_capture_table(capture, i)->task;
    if (task->index >= 0) status = write_stub(c, task, cuda, folder); /* level 4 is the model itself */
  }
  fk_capture_destroy(capture);
  return status;
}

int fk_cmd_stubs(int argc, char **argv) {
  cli c;
  int status = 0;
  if (!cli_parse(&c, &spec, argc, argv, &status)) return status;
  const char *language = cli_value(&c, "language"), *folder = cli_value(&c, "output");
  const char *captures = cli_value(&c, "captures"), *model = cli_value(&c, "model");
  bool cuda = language && strcmp(language, "cuda") == 0;
  if (language && !cuda && strcmp(language, "c") != 0) return cli_fail(&c, "--language: expected c or cuda");
  if (c.num_args == 0 && !captures && !model)
    return cli_fail(&c, "name a task, or give --model or --captures (see fastkernels list)");
  for (int i = 0; i < c.num_args; i++)
    if (!fk_task_find(c.args[i])) return cli_error(&c);
  if (!folder) folder = ".";
  if (mkdir(folder, 0777) != 0 && errno != EEXIST) return cli_fail(&c, "%s: %s", folder, strerror(errno));
  for (int i = 0; i < c.num_args && !status; i++) status = write_stub(&c, fk_task_find(c.args[i]), cuda, folder);
  if (captures && !status) status = stubs_of_captures(&c, captures, cuda, folder);
  if (model && !status) status = stubs_of_model(&c, model, cuda, folder);
  return status;
}
