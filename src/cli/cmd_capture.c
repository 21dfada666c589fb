/* fastkernels capture: what a model calls under a workload. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "engine/capture_file.h"

static const cli_option options[] = {
    {"workload", "W.json|NAME", "requests to drive the model with; default: the folder's prompts.json"},
    {"trace", "FILE", "a trace instead: .csv (Azure) or .jsonl (Mooncake)"},
    {"requests", "N", "take the first N requests; of a summary, draw N"},
    {"device", "D", "meta (shapes only), cpu, cuda or ref; default: cpu for a folder with weights, else meta"},
    {"gpu", "N", "with --device cuda: which GPU (0)"},
    {"dtype", "T", "float32, bfloat16 or float16; default: the model's"},
    {"max-num-seqs", "N", "sequences in flight (default 256)"},
    {"max-num-batched-tokens", "N", "tokens per step (default 8192)"},
    {"num-blocks", "N", "cache blocks of 16 tokens; default: as needed, at most 65536 or the longest request"},
    {"arrival", "closed|trace", "all requests wait from the start (default), or each arrives at its time"},
    {"max-cases", "N", "cases per task before near ones are merged (default 64)"},
    {"threads", "N", "CPU threads"},
    {"output", "C.json", "where to write the capture; without it only the summary is printed"},
    {0}};

static const cli_spec spec = {
    .command = "capture",
    .arguments = "MODEL_DIR|PRESET",
    .summary = "Records every task call of a model under a workload: shapes, integers, counts, costs.",
    .details =
        "A block's calls contain its kernels' calls: counts and costs of different levels must not be added.\n"
        "docs/captures.md describes workloads, traces and the output.",
    .min_args = 1,
    .max_args = 1,
    .options = options};

typedef struct job {
  cli c;
  fk_backend backend;
  fk_model_options model_options;
  fk_batching_options batching;
  fk_capture_options capture_options;
  int64_t requests, threads, gpu;
  const char *source, *output;
  char prompts[PATH_MAX]; /* the folder's prompts.json, or "" */
  fk_context *ctx;
  fk_model *model;
  fk_workload *workload;
  fk_tokenizer *tokenizer;
  fk_capture *capture;
  fk_simulation simulation;
} job;

static bool has_file(const char *folder, const char *name, char *path) {
  struct stat st;
  int n = snprintf(path, PATH_MAX, "%s/%s", folder, name);
  if (n > 0 && n < PATH_MAX && stat(path, &st) == 0 && S_ISREG(st.st_mode)) return true;
  *path = '\0';
  return false;
}

static bool has_weights(const char *folder) {
  char path[PATH_MAX];
  return has_file(folder, "model.safetensors", path) || has_file(folder, "model.safetensors.index.json", path);
}

/* False after an error was printed. */
static bool read_options(job *j) {
  cli *c = &j->c;
  int64_t max_cases = 0;
  const char *arrival = cli_value(c, "arrival");
  j->source = c->args[0];
  j->output = cli_value(c, "output");
  j->backend = has_weights(j->source) ? FK_CPU : FK_META;
  if (!cli_backend(c, "device", &j->backend) || !cli_type(c, "dtype", &j->model_options.dtype) ||
      !cli_int(c, "requests", 1, 10000000, &j->requests) || !cli_int(c, "threads", 1, 4096, &j->threads) ||
      !cli_int(c, "gpu", 0, 1023, &j->gpu) || !cli_int(c, "max-num-seqs", 1, 1 << 20, &j->batching.max_num_seqs) ||
      !cli_int(c, "max-num-batched-tokens", 1, 1 << 26, &j->batching.max_num_batched_tokens) ||
      !cli_int(c, "num-blocks", 1, INT32_MAX, &j->batching.num_blocks) ||
      !cli_int(c, "max-cases", 1, 1 << 20, &max_cases))
    return false;
  if (cli_value(c, "gpu") && j->backend != FK_CUDA) {
    cli_fail(c, "--gpu: only with --device cuda");
    return false;
  }
  j->capture_options.max_cases = (int)max_cases;
  if (arrival && strcmp(arrival, "closed") != 0 && strcmp(arrival, "trace") != 0) {
    cli_fail(c, "--arrival: expected closed or trace, got \"%s\"", arrival);
    return false;
  }
  j->batching.honour_arrivals = arrival && *arrival == 't';
  bool trace = cli_value(c, "trace") != NULL, workload = cli_value(c, "workload") != NULL;
  if (trace && workload) {
    cli_fail(c, "--trace and --workload exclude each other");
    return false;
  }
  if (!trace && !workload && !has_file(j->source, "prompts.json", j->prompts)) {
    cli_fail(c, "expected --workload or --trace: %s has no prompts.json (try --workload single-request)", j->source);
    return false;
  }
  return true;
}

static fk_status open_workload(job *j) {
  const char *trace = cli_value(&j->c, "trace"), *name = cli_value(&j->c, "workload");
  if (trace)
    FK_TRY(fk_workload_open_trace(trace, j->requests, &j->workload));
  else
    FK_TRY(fk_workload_open(name ? name : j->prompts, j->requests, &j->workload));
  char path[PATH_MAX];
  if (j->workload->has_text && has_file(j->source, "tokenizer.json", path))
    FK_TRY(fk_tokenizer_load(path, &j->tokenizer));
  FK_TRY(fk_workload_encode(j->workload, j->tokenizer));
  if (!j->model->class->sequence) return FK_OK;
  int64_t longest = j->model->class->sequence->max_position(j->model->state);
  fk_workload_limit(j->workload, longest);
  if (j->workload->skipped)
    fprintf(stderr, "fastkernels capture: skipped %lld of %lld requests: longer than the model's %lld positions\n",
            (long long)j->workload->skipped, (long long)(j->workload->skipped + j->workload->count),
            (long long)longest);
  return FK_OK;
}

static fk_status run(job *j) {
  fk_context_options context = {.backend = j->backend, .num_threads = (int)j->threads, .device_id = (int)j->gpu};
  FK_TRY(fk_context_create(&context, &j->ctx));
  FK_TRY(fk_model_open(j->ctx, j->source, &j->model_options, &j->model));
  FK_TRY(open_workload(j));
  FK_TRY(fk_capture_create(&j->capture_options, &j->capture));
  FK_TRY(fk_simulate(j->ctx, j->model, j->workload, &j->batching, j->capture, &j->simulation));
  if (!j->output) return FK_OK;
  fk_capture_about about = {.model = j->source,
                            .device = fk_backend_name(j->backend),
                            .dtype = fk_type_name(j->model->dtype),
                            .arrival = j->batching.honour_arrivals ? "trace" : "closed",
                            .workload = j->workload,
                            .simulation = &j->simulation};
  return fk_capture_write(j->capture, &about, j->output);
}

static void print_summary(const job *j) {
  const fk_batching_stats *s = &j->simulation.stats;
  printf("%s, %s, %s: workload %s, %lld requests, %lld steps", j->source, fk_backend_name(j->backend),
         fk_type_name(j->model->dtype), j->workload->name, (long long)s->requests, (long long)s->steps);
  if (j->simulation.kind == FK_WORKLOAD_SEQUENCES)
    printf(", %lld prefill and %lld decode tokens, %lld preemptions", (long long)s->prefill_tokens,
           (long long)s->decode_tokens, (long long)s->preemptions);
  printf("\n\n%-5s  %-28s %12s %7s %14s %12s\n", "level", "task", "calls", "cases", "GFLOP", "GB");
  for (int i = 0; i < fk_capture_count(j->capture); i++) {
    const fk_record_table *t = fk_capture_table(j->capture, i);
    printf("%-5d  %-28s %12llu %7d %14.6g %12.6g", t->task->level, t->task->name, (unsigned long long)t->calls,
           t->count, (double)t->flops / 1e9, (double)t->bytes / 1e9);
    if ((uint64_t)t->count < t->distinct) printf("  (merged from %llu)", (unsigned long long)t->distinct);
    putchar('\n');
  }
  puts("\nA higher level's calls contain those below: do not add levels up.");
  if (j->output) printf("written to %s\n", j->output);
}

/* A real model on real text: the reader can judge at a glance whether it computes. */
static fk_status print_text(const job *j) {
  const fk_request *r = j->workload->kind == FK_WORKLOAD_SEQUENCES ? &j->workload->requests[0] : NULL;
  if (!r || !r->text || !j->tokenizer || !j->simulation.first_output) return FK_OK;
  char *bytes;
  size_t size;
  FK_TRY(fk_tokenizer_decode(j->tokenizer, j->simulation.first_output, (size_t)j->simulation.num_first_output, false,
                             &j->workload->arena, &bytes, &size));
  printf("\nprompt:    %s\ngenerated: ", r->text);
  fwrite(bytes, 1, size, stdout);
  putchar('\n');
  return FK_OK;
}

int fk_cmd_capture(int argc, char **argv) {
  job *j = calloc(1, sizeof *j);
  int exit_status = 0;
  if (!j) {
    fputs("fastkernels capture: out of memory\n", stderr);
    return 2;
  }
  if (!cli_parse(&j->c, &spec, argc, argv, &exit_status)) goto cleanup;
  if (!read_options(j)) {
    exit_status = 2;
    goto cleanup;
  }
  if (run(j) != FK_OK) {
    exit_status = cli_error(&j->c);
    goto cleanup;
  }
  print_summary(j);
  if (print_text(j) != FK_OK) exit_status = cli_error(&j->c);
cleanup:
  fk_simulation_free(&j->simulation);
  fk_capture_destroy(j->capture);
  fk_tokenizer_destroy(j->tokenizer);
  fk_workload_close(j->workload);
  fk_model_close(j->model);
  fk_context_destroy(j->ctx);
  free(j);
  return exit_status;
}
