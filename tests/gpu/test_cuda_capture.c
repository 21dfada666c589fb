/* What a capture records on the GPU is what it records elsewhere: cases, counts and costs as on meta, integers as on
 * the CPU, at every level whatever kernels are fused. Ends with 77 where there is no GPU. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/simulate.h"
#include "model_files.h"

enum { SKIPPED = 77 };

static const fk_backend device = FK_CUDA;
static int failures;

static bool ok(fk_status status, const char *what) {
  if (!status) return true;
  printf("%s: %s\n", what, fk_last_error());
  failures++;
  return false;
}

static const char *source_dir(void) {
  return access(FK_SOURCE_DIR "/tests/golden/fixtures", R_OK) == 0 ? FK_SOURCE_DIR : ".";
}

/* ---- Comparing ------------------------------------------------------------------------------------------- */

static bool same_ints(const fk_ints *a, const fk_ints *b) {
  if (!a || !b) return a == b;
  if (a->count != b->count) return false;
  for (int64_t i = 0; i < a->count; i++)
    if (fk_ints_at(a, i) != fk_ints_at(b, i)) return false;
  return true;
}

static const char *difference(const fk_task *task, const fk_record *a, const fk_record *b, bool content) {
  if (a->binding.layout != b->binding.layout || a->binding.lead_ndim != b->binding.lead_ndim) return "layout";
  for (int i = 0; i < a->binding.lead_ndim; i++)
    if (a->binding.lead[i] != b->binding.lead[i]) return "leading sizes";
  for (int i = 0; i < task->num_symbols; i++)
    if (a->binding.symbols[i] != b->binding.symbols[i]) return task->symbols[i].name;
  if (a->calls != b->calls) return "number of calls";
  if (a->all_flops != b->all_flops || a->all_bytes != b->all_bytes) return "cost";
  for (int i = 0; i < task->num_args; i++) {
    if (a->args[i].present != b->args[i].present || a->args[i].type != b->args[i].type) return task->args[i].name;
    if (content && !same_ints(a->args[i].ints, b->args[i].ints)) return task->args[i].name;
  }
  return NULL;
}

static void compare(const char *what, const fk_capture *expected, const fk_capture *got, bool content) {
  int cases = 0, before = failures;
  if (fk_capture_count(expected) != fk_capture_count(got)) {
    printf("%s: %d tasks were called, expected %d\n", what, fk_capture_count(got), fk_capture_count(expected));
    failures++;
  }
  for (int i = 0; i < fk_capture_count(expected); i++) {
    const fk_record_table *a = fk_capture_table(expected, i), *b = fk_capture_find(got, a->task->name);
    if (!b || a->count != b->count || a->calls != b->calls || a->uncosted != b->uncosted) {
      printf("%s: %s: %llu calls in %d cases, %llu without cost; expected %llu in %d, %llu\n", what, a->task->name,
             b ? (unsigned long long)b->calls : 0, b ? b->count : 0, b ? (unsigned long long)b->uncosted : 0,
             (unsigned long long)a->calls, a->count, (unsigned long long)a->uncosted);
      failures++;
      continue;
    }
    for (int k = 0; k < a->count; k++, cases++) {
      const char *where = difference(a->task, a->cases[k], b->cases[k], content);
      if (!where) continue;
      printf("%s: %s: case %d differs: %s\n", what, a->task->name, k, where);
      failures++;
    }
  }
  printf("%-28s %d tasks, %d cases: %s\n", what, fk_capture_count(expected), cases,
         failures == before ? "the same" : "DIFFERENT");
}

/* ---- Sequences ------------------------------------------------------------------------------------------- */

static const char requests[] =
    "{\"name\": \"w\", \"requests\": [{\"input_length\": 37, \"output_length\": 9}, {\"input_length\": 5, "
    "\"output_length\": 6}, {\"input_length\": 70, \"output_length\": 4}]}";

static fk_capture *simulate(fk_backend backend, const char *folder, fk_capture_options options) {
  fk_context *ctx = NULL;
  fk_model *model = NULL;
  fk_workload *w = NULL;
  fk_capture *capture = NULL;
  fk_simulation simulation = {0};
  fk_batching_options batching = {.max_num_batched_tokens = 64, .max_num_seqs = 4, .num_blocks = 16};
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", source_dir(), folder);
  fk_status status = fk_context_create(&(fk_context_options){.backend = backend}, &ctx);
  if (!status) status = fk_model_open(ctx, path, &(fk_model_options){.dtype = FK_F32}, &model);
  if (!status) status = fk_workload_parse(requests, strlen(requests), "w.json", 0, &w);
  if (!status) status = fk_capture_create(&options, &capture);
  if (!status) status = fk_simulate(ctx, model, w, &batching, capture, &simulation);
  if (!ok(status, fk_backend_name(backend))) {
    fk_capture_destroy(capture);
    capture = NULL;
  }
  fk_simulation_free(&simulation);
  fk_workload_close(w);
  fk_model_close(model);
  fk_context_destroy(ctx);
  return capture;
}

static void check_sequences(const char *folder) {
  char what[128];
  fk_capture_options shapes = {.shapes_only = true}, all = {0};
  fk_capture *meta = simulate(FK_META, folder, shapes), *bare = simulate(device, folder, shapes);
  snprintf(what, sizeof what, "%s, as meta", strrchr(folder, '/') + 1);
  if (meta && bare) compare(what, meta, bare, false);
  fk_capture *cpu = simulate(FK_CPU, folder, all), *cuda = simulate(device, folder, all);
  snprintf(what, sizeof what, "%s, as cpu", strrchr(folder, '/') + 1);
  if (cpu && cuda) compare(what, cpu, cuda, true);
  fk_capture_destroy(meta);
  fk_capture_destroy(bare);
  fk_capture_destroy(cpu);
  fk_capture_destroy(cuda);
}

/* ---- forward() ------------------------------------------------------------------------------------------- */

static fk_status run_file(fk_context *ctx, const fk_model *model, const fk_safetensors *file) {
  fk_tensors inputs, outputs = {0};
  FK_TRY(read_model_inputs(ctx, model, file, &inputs));
  return fk_model_forward(ctx, model, &inputs, &outputs);
}

static fk_capture *forward(fk_backend backend, const char *fixture) {
  fk_context *ctx = NULL;
  fk_model *model = NULL;
  fk_safetensors *file = NULL;
  fk_capture *capture = NULL;
  char folder[1024], path[1100];
  snprintf(folder, sizeof folder, "%s/tests/golden/fixtures/%s", source_dir(), fixture);
  snprintf(path, sizeof path, "%s/io.safetensors", folder);
  fk_status status = fk_context_create(&(fk_context_options){.backend = backend}, &ctx);
  if (!status) status = fk_model_open(ctx, folder, &(fk_model_options){.dtype = FK_F32}, &model);
  if (!status) status = fk_safetensors_open(path, &file);
  if (!status) status = fk_capture_create(&(fk_capture_options){0}, &capture);
  if (!status) {
    fk_context_record(ctx, fk_capture_recorder(capture));
    status = run_file(ctx, model, file);
    if (!status) status = fk_capture_step(capture);
    if (!status) status = fk_capture_finish(capture);
    fk_context_record(ctx, NULL);
  }
  if (!ok(status, fixture)) {
    fk_capture_destroy(capture);
    capture = NULL;
  }
  fk_safetensors_close(file);
  fk_model_close(model);
  fk_context_destroy(ctx);
  return capture;
}

static void check_forward(const char *fixture) {
  fk_capture *cpu = forward(FK_CPU, fixture), *cuda = forward(device, fixture);
  if (cpu && cuda) compare(fixture, cpu, cuda, true);
  fk_capture_destroy(cpu);
  fk_capture_destroy(cuda);
}

int main(void) {
  if (fk_cuda_device_count() == 0) {
    puts("skipped: there is no GPU");
    return SKIPPED;
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  check_sequences("examples/tiny-llama");
  check_sequences("tests/golden/fixtures/mamba2/plain");
  static const char *const fixtures[] = {"bge_m3/heads", "colbertv2/colbert", "convnextv2/plain", "dlrmv2/cross",
                                         "dlrmv2/weighted_mean"};
  for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) check_forward(fixtures[i]);
  printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
