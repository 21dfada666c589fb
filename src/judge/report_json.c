/* The record of a bench run: enough to check every number in the table, and to do it again. */
#include <math.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "core/registry.h"
#include "judge/bench.h"

#ifndef FK_GIT_COMMIT
#define FK_GIT_COMMIT "unknown"
#endif

static json_t *number(double v) {
  return isfinite(v) ? json_real(v) : json_string(isnan(v) ? "nan" : v > 0 ? "inf" : "-inf");
}

/* ---- Environment ----------------------------------------------------------------------------------------- */

static void read_line(const char *path, const char *key, char *text, size_t size) {
  char line[256];
  FILE *f = fopen(path, "r");
  snprintf(text, size, "unknown");
  while (f && fgets(line, sizeof line, f)) {
    if (key && strncmp(line, key, strlen(key)) != 0) continue;
    const char *value = key ? strchr(line, ':') : line;
    if (!value) continue;
    value += strspn(value, ": \t");
    snprintf(text, size, "%.*s", (int)strcspn(value, "\n"), value);
    break;
  }
  if (f) fclose(f);
}

static json_t *environment_json(void) {
  char cpu[200], governor[200], date[40];
  struct utsname os;
  time_t now = time(NULL);
  struct tm tm;
  read_line("/proc/cpuinfo", "model name", cpu, sizeof cpu);
  read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", NULL, governor, sizeof governor);
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
  if (uname(&os) != 0) memset(&os, 0, sizeof os);
#ifdef FK_HAVE_OPENBLAS
  bool openblas = true;
#else
  bool openblas = false;
#endif
  return json_pack("{s:s, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:b, s:s, s:s, s:s, s:s}", "cpu", cpu, "cores",
                   (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "l1d_bytes", (json_int_t)sysconf(_SC_LEVEL1_DCACHE_SIZE),
                   "l2_bytes", (json_int_t)sysconf(_SC_LEVEL2_CACHE_SIZE), "l3_bytes",
                   (json_int_t)sysconf(_SC_LEVEL3_CACHE_SIZE), "governor", governor, "isa",
                   fk_cpu_isa_name(fk_cpu_isa()), "compiler", __VERSION__, "openblas", openblas, "version", FK_VERSION,
                   "commit", FK_GIT_COMMIT, "kernel", os.release, "date", date);
}

static json_t *gpu_json(const fk_cuda_info *gpu) {
  return json_pack("{s:s, s:i, s:i, s:I, s:I, s:i, s:i, s:s, s:s}", "name", gpu->name, "compute_capability",
                   gpu->compute_capability, "sms", gpu->num_sms, "memory_bytes", (json_int_t)gpu->memory_bytes,
                   "l2_bytes", (json_int_t)gpu->l2_bytes, "driver", gpu->driver_version, "runtime",
                   gpu->runtime_version, "cublaslt", gpu->cublaslt, "cudnn", gpu->cudnn);
}

/* ---- Cases ----------------------------------------------------------------------------------------------- */

static json_t *errors_json(const fk_errors *e) {
  json_t *json = json_object();
  json_object_set_new(json, "error", number(e->error));
  json_object_set_new(json, "worst", number(e->worst));
  json_object_set_new(json, "gain", number(e->gain));
  return json;
}

static json_t *samples_json(const fk_case_result *r) {
  json_t *list = json_array();
  for (int i = 0; i < r->num_blocks; i++) {
    const fk_block *b = &r->blocks[i];
    char seeds[2][24];
    for (int k = 0; k < 2; k++) snprintf(seeds[k], sizeof seeds[k], "%016llx", (unsigned long long)r->seeds[i][k]);
    json_array_append_new(list, json_pack("{s:[I,I], s:[I,I], s:[s,s]}", "baseline_ns", (json_int_t)b->baseline[0],
                                          (json_int_t)b->baseline[1], "candidate_ns", (json_int_t)b->candidate[0],
                                          (json_int_t)b->candidate[1], "seeds", seeds[0], seeds[1]));
  }
  return list;
}

static json_t *clocks_json(const fk_cuda_clocks *c) {
  char slowed[128];
  fk_cuda_clocks_slowed(c, slowed, sizeof slowed);
  if (c->readings == 0) return json_null(); /* no NVML */
  return json_pack("{s:[i,i], s:[i,i], s:i, s:i, s:I, s:s}", "sm_mhz", c->sm_mhz_low, c->sm_mhz_high, "memory_mhz",
                   c->memory_mhz_low, c->memory_mhz_high, "celsius", c->celsius, "watts", c->watts, "event_reasons",
                   (json_int_t)c->reasons, "slowed_by", slowed);
}

static json_t *case_json(const fk_bench *b, const fk_case_result *r) {
  json_t *json = json_object();
  double ns = r->timing.candidate_ns;
  json_object_set_new(json, "case", fk_case_to_json(r->c));
  json_object_set_new(json, "verdict", json_string(fk_verdict_name(r->verdict)));
  if (*r->reason) json_object_set_new(json, "reason", json_string(r->reason));
  json_object_set_new(json, "baseline_ns", number(r->timing.baseline_ns));
  json_object_set_new(json, "candidate_ns", number(ns));
  json_object_set_new(json, "speedup", number(r->timing.speedup.middle));
  json_object_set_new(json, "speedup_low", number(r->timing.speedup.low));
  json_object_set_new(json, "speedup_high", number(r->timing.speedup.high));
  json_object_set_new(json, "noise", number(r->timing.noise));
  json_object_set_new(json, "flops", number(r->flops));
  json_object_set_new(json, "bytes", number(r->bytes));
  json_object_set_new(json, "gigabytes_per_second", number(ns > 0 ? r->bytes / ns : 0));
  json_object_set_new(json, "gigaflops_per_second", number(ns > 0 ? r->flops / ns : 0));
  if (b->ceilings.bytes_per_second > 0) {
    json_object_set_new(json, "limit_fraction", number(fk_bench_limit_fraction(b, r, ns)));
    json_object_set_new(json, "baseline_limit_fraction", number(fk_bench_limit_fraction(b, r, r->timing.baseline_ns)));
  }
  json_object_set_new(json, "errors", errors_json(&r->worst.candidate));
  json_object_set_new(json, "baseline_errors", errors_json(&r->worst.baseline));
  json_object_set_new(json, "limits", errors_json(&r->worst.limit));
  json_object_set_new(json, "elements", json_integer(r->worst.num_elements));
  json_object_set_new(json, "audits_against_oracle", json_integer(r->oracle_audits));
  json_object_set_new(json, "audits_against_baseline", json_integer(r->baseline_audits));
  json_object_set_new(json, "clock_gap_ns", json_integer(r->overhead_ns));
  if (*r->baseline_by) json_object_set_new(json, "baseline_by", json_string(r->baseline_by));
  if (b->options.limits.backend == FK_CUDA) {
    json_object_set_new(json, "gpus", json_integer(r->num_ranks));
    json_object_set_new(json, "empty_graph_ns", json_integer(r->empty_ns));
    json_object_set_new(json, "clocks", clocks_json(&r->clocks));
  }
  json_object_set_new(json, "sandbox_missing", json_string(r->missing));
  json_object_set_new(json, "samples", samples_json(r));
  return json;
}

static json_t *row_json(const fk_bench *b, const fk_bench_row *row) {
  json_t *json = json_object(), *cases = json_array();
  json_object_set_new(json, "candidate", row->candidate ? json_string(row->candidate->path) : json_null());
  if (row->candidate && *row->candidate->build) json_object_set_new(json, "build", json_string(row->candidate->build));
  json_object_set_new(json, "task", row->job ? json_string(row->job->task->name) : json_null());
  json_object_set_new(json, "failed", json_boolean(row->failed));
  if (*row->reason) json_object_set_new(json, "reason", json_string(row->reason));
  json_object_set_new(json, "score", number(row->score));
  json_object_set_new(json, "seconds_saved", number(row->seconds_saved));
  if (row->job) {
    json_object_set_new(json, "level", json_integer(row->job->task->level));
    json_object_set_new(json, "cases_in_source", json_integer(row->job->total));
    json_object_set_new(json, "calls_covered", json_integer(row->job->calls));
    json_object_set_new(json, "calls_in_source", json_integer(row->job->total_calls));
  }
  for (int i = 0; i < row->num_results; i++) json_array_append_new(cases, case_json(b, &row->results[i]));
  json_object_set_new(json, "cases", cases);
  return json;
}

static json_t *ceilings_json(const fk_bench_ceilings *c) {
  json_t *json = json_object();
  json_object_set_new(json, "bytes_per_second", number(c->bytes_per_second));
  json_object_set_new(json, "flops_per_second", number(c->flops_per_second));
  json_object_set_new(json, "by", json_string(c->by));
  json_object_set_new(json, "threads", json_integer(c->threads));
  return json;
}

json_t *fk_bench_json(const fk_bench *b) {
  json_t *json = json_object(), *rows = json_array(), *limits = json_object();
  const fk_limits *l = &b->options.limits;
  json_object_set_new(json, "format", json_string("fastkernels-bench/1"));
  json_t *environment = environment_json();
  if (*b->ceilings.gpu.name) json_object_set_new(environment, "gpu", gpu_json(&b->ceilings.gpu));
  json_object_set_new(json, "environment", environment);
  json_object_set_new(json, "source", json_string(b->workload->source));
  json_object_set_new(json, "model", json_string(b->workload->model));
  json_object_set_new(json, "workload", json_string(b->workload->workload));
  json_object_set_new(limits, "timeout_seconds", number(l->timeout_seconds));
  json_object_set_new(limits, "memory_bytes", json_integer((json_int_t)l->memory_bytes));
  json_object_set_new(limits, "threads", json_integer(l->threads));
  json_object_set_new(limits, "rounds", json_integer(b->options.rounds));
  json_object_set_new(limits, "budget_seconds", number(b->options.budget_seconds));
  json_object_set_new(limits, "flush_bytes", json_integer((json_int_t)l->flush_bytes));
  json_object_set_new(limits, "device", json_string(fk_backend_name(l->backend)));
  json_object_set_new(limits, "flush", json_string(b->flush_what));
  if (l->backend == FK_CUDA) {
    json_t *gpus = json_array();
    for (int i = 0; i < l->num_devices; i++) json_array_append_new(gpus, json_integer(l->devices[i]));
    json_object_set_new(limits, "gpus", gpus);
  }
  json_object_set_new(json, "limits", limits);
  if (b->ceilings.bytes_per_second > 0) json_object_set_new(json, "ceilings", ceilings_json(&b->ceilings));
  json_object_set_new(json, "overall", number(b->overall));
  json_object_set_new(json, "failed", json_integer(b->num_failed));
  for (int i = 0; i < b->num_rows; i++) json_array_append_new(rows, row_json(b, &b->rows[i]));
  json_object_set_new(json, "rows", rows);
  return json;
}
