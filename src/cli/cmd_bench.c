/* fastkernels bench: judges candidate kernels against the baselines. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "core/context.h"
#include "judge/bench.h"
#include "judge/result.h"

static const cli_option options[] = {
    {"candidate", "FILE", "a kernel: .so, .c or .cu; may be repeated. Without one the baseline is timed alone"},
    {"captures", "FILE", "cases captured from a model (fastkernels capture)"},
    {"cases", "FILE|JSON", "cases in a file, or one case in JSON"},
    {"task", "NAME", "only this task; may be repeated. Needed for --cases that name none"},
    {"level", "N", "only tasks of this level"},
    {"device", "DEVICE", "cpu (default) or cuda"},
    {"gpu", "N", "with --device cuda: which GPU (0)"},
    {"gpus", "N,N...",
     "with --device cuda: GPUs that compute collectives together, a rank each; other tasks run on the first"},
    {"dtype", "DTYPE", "for tensors whose dtype a case does not name"},
    {"rounds", "N", "blocks of samples to aim for (15)"},
    {"budget", "MS", "milliseconds per case (1000); at least 5 blocks are always taken"},
    {"max-cases", "N", "of each task only the costliest (4)"},
    {"timeout", "S", "seconds that one call may take (10)"},
    {"memory", "MB", "address space of a candidate beyond its tensors (4096; 0 = no limit)"},
    {"threads", "N", "threads of candidate and baseline (all processors)"},
    {"include", "DIR", "folder of fastkernels/abi.h for .c candidates (found by itself)"},
    {"no-ceilings", NULL, "do not measure the machine's limit first (about a second)"},
    {"output", "FILE", "write the record, with every sample, as JSON"},
    {"html", "FILE", "write the record as one page for a browser (fastkernels report makes it later too)"},
    {0}};

static const cli_spec spec = {
    "bench",
    "",
    "Judge candidate kernels against the baselines, on the cases of a workload.",
    "Every timed call has fresh inputs and is checked against the oracle. Exit status: 0 when all candidates pass,\n"
    "1 when one fails, 2 when nothing could be judged.",
    0,
    0,
    options};

typedef struct settings {
  const char *tasks[CLI_MAX_VALUES], *candidates[CLI_MAX_VALUES];
  int num_tasks, num_candidates;
  int64_t level, rounds, budget, max_cases, timeout, memory, threads;
  int gpus[FK_MAX_RANKS], num_gpus;
  fk_backend backend;
  int compute_capability; /* of the GPU */
  fk_type dtype;
} settings;

/* "0,1": each number once. */
static bool read_gpus(const cli *c, settings *s) {
  const char *text = cli_value(c, "gpus");
  int64_t gpu = 0;
  if (!text) {
    if (!cli_int(c, "gpu", 0, 1023, &gpu)) return false;
    s->gpus[0] = (int)gpu;
    s->num_gpus = 1;
    return true;
  }
  for (const char *at = text;; at++) {
    char *end;
    long number = *at >= '0' && *at <= '9' ? strtol(at, &end, 10) : -1;
    if (number < 0 || number > 1023 || (*end != ',' && *end)) {
      cli_fail(c, "--gpus: expected numbers of GPUs from 0 to 1023 with commas between them, as 0,1; got \"%s\"", text);
      return false;
    }
    for (int i = 0; i < s->num_gpus; i++)
      if (s->gpus[i] == number) {
        cli_fail(c, "--gpus: %ld is named twice: every rank needs a GPU of its own", number);
        return false;
      }
    if (s->num_gpus == FK_MAX_RANKS) {
      cli_fail(c, "--gpus: expected at most %d", FK_MAX_RANKS);
      return false;
    }
    s->gpus[s->num_gpus++] = (int)number;
    at = end;
    if (!*at) return true;
  }
}

static bool read_settings(const cli *c, settings *s) {
  *s = (settings){.backend = FK_CPU, .rounds = 15, .budget = 1000, .max_cases = 4, .timeout = 10, .memory = 4096};
  s->threads = sysconf(_SC_NPROCESSORS_ONLN);
  s->num_tasks = cli_values(c, "task", s->tasks);
  s->num_candidates = cli_values(c, "candidate", s->candidates);
  if (!cli_backend(c, "device", &s->backend) || !cli_type(c, "dtype", &s->dtype)) return false;
  if (s->backend != FK_CPU && s->backend != FK_CUDA) {
    cli_fail(c, "--device: expected cpu or cuda, got %s", fk_backend_name(s->backend));
    return false;
  }
  if ((cli_value(c, "gpu") || cli_value(c, "gpus")) && s->backend != FK_CUDA) {
    cli_fail(c, "--%s: only with --device cuda", cli_value(c, "gpu") ? "gpu" : "gpus");
    return false;
  }
  if (cli_value(c, "gpu") && cli_value(c, "gpus")) {
    cli_fail(c, "give either --gpu or --gpus");
    return false;
  }
  return cli_int(c, "level", 1, 4, &s->level) && cli_int(c, "rounds", FK_MIN_ROUNDS, FK_MAX_ROUNDS, &s->rounds) &&
         cli_int(c, "budget", 1, 3600000, &s->budget) && cli_int(c, "max-cases", 1, 100000, &s->max_cases) &&
         cli_int(c, "timeout", 1, 86400, &s->timeout) && cli_int(c, "memory", 0, 1 << 24, &s->memory) &&
         cli_int(c, "threads", 1, 1024, &s->threads) && read_gpus(c, s);
}

/* Are there such GPUs, and what are they? Asked before anything is compiled for them. */
static fk_status look_at_gpus(settings *s) {
  for (int i = 0; i < s->num_gpus && s->backend == FK_CUDA; i++) {
    fk_cuda *cuda;
    fk_cuda_info info;
    FK_TRY(fk_cuda_create(s->gpus[i], &cuda));
    fk_status status = fk_cuda_describe(cuda, &info);
    fk_cuda_destroy(cuda);
    FK_TRY(status);
    if (i > 0 && info.compute_capability != s->compute_capability)
      return fk_fail(FK_ERROR_ARGUMENT, "--gpus: expected GPUs of one kind, %d has compute capability %d and %d has %d",
                     s->gpus[0], s->compute_capability, s->gpus[i], info.compute_capability);
    s->compute_capability = info.compute_capability;
  }
  return FK_OK;
}

/* The task that nameless cases are for: the one of --task, or of the only candidate with a single task. */
static const fk_task *implied_task(const settings *s, const fk_candidate *candidates) {
  if (s->num_tasks == 1) return fk_task_find(s->tasks[0]);
  const fk_task *task = NULL;
  for (int i = 0; i < s->num_candidates; i++)
    for (int k = 0; k < candidates[i].num_tasks; k++) {
      if (task && task != candidates[i].tasks[k]) return NULL;
      task = candidates[i].tasks[k];
    }
  return task;
}

/* Drops the jobs that --task and --level exclude; the number left. */
static int filter(const settings *s, fk_job_list *w) {
  int kept = 0;
  for (int j = 0; j < w->num_jobs; j++) {
    bool named = s->num_tasks == 0;
    for (int i = 0; i < s->num_tasks; i++) named |= strcmp(s->tasks[i], w->jobs[j].task->name) == 0;
    if (named && (s->level == 0 || w->jobs[j].task->level == s->level)) w->jobs[kept++] = w->jobs[j];
  }
  return w->num_jobs = kept;
}

static bool apply_dtype(const settings *s, const fk_job_list *w) {
  bool used = s->dtype == 0;
  for (int j = 0; j < w->num_jobs && s->dtype; j++)
    for (int i = 0; i < w->jobs[j].count; i++) used |= fk_case_use_dtype(w->jobs[j].cases[i], s->dtype);
  return used;
}

/* Collectives get a rank for each GPU; false when there are several GPUs and none that could use them. */
static bool divide(const settings *s, const fk_job_list *w) {
  bool any = s->num_gpus == 1;
  for (int j = 0; j < w->num_jobs && s->num_gpus > 1; j++)
    for (int i = 0; i < w->jobs[j].count && fk_task_is_collective(w->jobs[j].task); i++) {
      fk_case_set_ranks(w->jobs[j].cases[i], s->num_gpus);
      any = true;
    }
  return any;
}

static int load(const cli *c, fk_arena *arena, const settings *s, fk_bench *b, fk_job_list *w) {
  const char *captures = cli_value(c, "captures"), *cases = cli_value(c, "cases");
  for (int i = 0; i < s->num_tasks; i++)
    if (!fk_task_find(s->tasks[i])) return cli_error(c);
  for (int i = 0; i < s->num_candidates; i++, b->num_candidates++)
    if (fk_candidate_open(arena, s->candidates[i], cli_value(c, "include"), s->compute_capability, &b->candidates[i]) !=
        FK_OK)
      return cli_error(c);
  const fk_task *task = implied_task(s, b->candidates);
  if (fk_job_list_load(arena, captures ? captures : cases, task, w) != FK_OK) return cli_error(c);
  if (filter(s, w) == 0) return cli_fail(c, "%s holds no case of the tasks asked for", w->source);
  fk_job_list_trim(w, (int)s->max_cases);
  if (!apply_dtype(s, w)) return cli_fail(c, "--dtype: no case can take %s", fk_type_name(s->dtype));
  if (!divide(s, w))
    return cli_fail(c, "--gpus: %s holds no collective task, and others run on one GPU (--gpu)", w->source);
  return 0;
}

static int write_page(const cli *c, const fk_bench *b, const char *path) {
  fk_result *result;
  json_t *json = fk_bench_json(b);
  if (!json) return cli_fail(c, "--html: no memory for the record");
  fk_status status = fk_result_read(json, "the record", &result);
  json_decref(json);
  if (!status) {
    status = fk_result_write_html(result, path);
    fk_result_free(result);
  }
  return status ? cli_error(c) : 0;
}

static int write_record(const cli *c, const fk_bench *b, const char *path) {
  json_t *json = fk_bench_json(b);
  int rc = json ? json_dump_file(json, path, JSON_INDENT(1)) : -1;
  json_decref(json);
  return rc == 0 ? 0 : cli_fail(c, "--output: cannot write %s", path);
}

static int judge(const cli *c, const settings *s, fk_arena *arena, fk_job_list *w, fk_bench *b) {
  int status = load(c, arena, s, b, w);
  if (status) return status;
  b->workload = w;
  b->options = (fk_grade_options){.rounds = (int)s->rounds,
                                  .budget_seconds = (double)s->budget / 1000,
                                  .limits = {.timeout_seconds = (double)s->timeout,
                                             .memory_bytes = (uint64_t)s->memory << 20,
                                             .threads = (int)s->threads,
                                             .flush_bytes = fk_flush_bytes(&b->flush_what),
                                             .backend = s->backend,
                                             .num_devices = s->num_gpus}};
  memcpy(b->options.limits.devices, s->gpus, sizeof s->gpus);
  if (s->backend == FK_CUDA) b->flush_what = "3 x L2 of the GPU";
  if (!cli_flag(c, "no-ceilings") && fk_bench_measure(b) != FK_OK) return cli_error(c);
  b->progress = isatty(STDERR_FILENO) ? stderr : NULL;
  if (fk_bench_run(arena, b) != FK_OK) return cli_error(c);
  fk_bench_table(b, stdout, cli_color());
  const char *output = cli_value(c, "output"), *html = cli_value(c, "html");
  status = output ? write_record(c, b, output) : 0;
  if (!status && html) status = write_page(c, b, html);
  return status ? status : b->num_failed > 0;
}

int fk_cmd_bench(int argc, char **argv) {
  cli c;
  int status = 2;
  settings s;
  fk_arena arena;
  fk_job_list w;
  if (!cli_parse(&c, &spec, argc, argv, &status)) return status;
  if (!read_settings(&c, &s)) return 2;
  if (!cli_value(&c, "captures") == !cli_value(&c, "cases")) return cli_fail(&c, "give either --captures or --cases");
  if (look_at_gpus(&s) != FK_OK) return cli_error(&c);
  fk_arena_init(&arena, &fk_host_memory, 0);
  fk_bench *b = calloc(1, sizeof *b);
  if (b) b->candidates = calloc(CLI_MAX_VALUES, sizeof *b->candidates);
  if (b && b->candidates) {
    status = judge(&c, &s, &arena, &w, b);
    for (int i = 0; i < b->num_candidates; i++) fk_candidate_close(&b->candidates[i]);
  }
  if (b) free(b->candidates);
  free(b);
  fk_arena_destroy(&arena);
  return status;
}
