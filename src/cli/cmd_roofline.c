/* fastkernels roofline: the least time that a machine could need for a model under a workload. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "engine/roofline.h"

static const cli_option options[] = {
    {"gpu", "NAME", "h200 (default), h100, a100, b200; or cpu: this machine's, measured now"},
    {"workload", "W.json|NAME", "requests to drive the model with; default: one request, or the model's own inputs"},
    {"trace", "FILE", "a trace instead: .csv (Azure) or .jsonl (Mooncake)"},
    {"requests", "N", "take the first N requests; of a summary, draw N"},
    {"dtype", "T", "float32, bfloat16 or float16; default: the model's"},
    {"tp", "N", "GPUs that share every layer (tensor parallelism); default 1"},
    {"max-num-seqs", "N", "sequences in flight (default 256)"},
    {"max-num-batched-tokens", "N", "tokens per step (default 8192)"},
    {"json", NULL, "print one JSON object"},
    {0}};

static const cli_spec spec = {
    .command = "roofline",
    .arguments = "PRESET|MODEL_DIR",
    .summary = "The least time a machine could need for a model: FLOPs and bytes of every task against its ceilings.",
    .details =
        "No kernel beats the floor; time above it is what kernels, launches and scheduling can still save.\n"
        "docs/roofline.md states formulas and sources.",
    .min_args = 1,
    .max_args = 1,
    .options = options};

static const char *const rate_names[FK_RATES] = {"float64", "float32", "16-bit", "8-bit"};

/* ---- Text ------------------------------------------------------------------------------------------------ */

static const char *time_text(double seconds, char text[32]) {
  if (seconds < 1e-3)
    snprintf(text, 32, "%.3g us", seconds * 1e6);
  else if (seconds < 1)
    snprintf(text, 32, "%.4g ms", seconds * 1e3);
  else
    snprintf(text, 32, "%.5g s", seconds);
  return text;
}

static void print_rate(const char *what, const fk_rate *rate, const char *unit) {
  if (rate->datasheet <= 0 && rate->measured <= 0) return;
  printf("  %-9s", what);
  if (rate->datasheet > 0) printf(" %9.4g %s datasheet", rate->datasheet / 1e12, unit);
  if (rate->datasheet > 0 && rate->measured > 0) putchar(',');
  if (rate->measured > 0) printf(" %9.4g %s measured", rate->measured / 1e12, unit);
  putchar('\n');
}

static void print_machine(const fk_machine *m, int64_t ranks) {
  printf("%s\n", m->product);
  print_rate("memory", &m->memory, "TB/s");
  for (int k = 0; k < FK_RATES; k++) print_rate(rate_names[k], &m->flops[k], "TFLOP/s");
  if (ranks > 1) printf("  %-9s %9.4g TB/s each way (%s)\n", "link", m->link / 1e12, m->link_name);
  if (m->source) printf("  datasheet: %s\n", m->source);
  if (m->measured_by) printf("  measured: %s\n", m->measured_by);
  putchar('\n');
}

static const char *bound_of(const fk_roofline_row *row) {
  return row->level == 0 ? "link" : row->compute_seconds > row->seconds / 2 ? "compute" : "memory";
}

static void print_row(const fk_roofline_row *row, const char *name, bool total) {
  char level[8] = "", intensity[32] = "-", floor[32];
  if (row->level) snprintf(level, sizeof level, "%d", row->level);
  if (row->flops > 0 && row->bytes > 0) snprintf(intensity, sizeof intensity, "%.3g", row->flops / row->bytes);
  printf("%-5s  %-28s %12llu %14.6g %12.6g %10s %12s  %-7s", level, name, (unsigned long long)row->calls,
         row->flops / 1e9, row->bytes / 1e9, intensity, time_text(row->seconds, floor), bound_of(row));
  if (!total) printf(" %5.1f %%", 100 * row->share);
  if (row->uncosted) printf("  (%llu calls of unknown cost)", (unsigned long long)row->uncosted);
  putchar('\n');
}

static void print_total(const fk_roofline *r, const char *what, int64_t per) {
  char floor[32], reachable[32];
  if (per == 0) return;
  double seconds = fk_roofline_seconds(r, false) / (double)per, measured = fk_roofline_seconds(r, true) / (double)per;
  printf("%-22s %12s", what, time_text(seconds, floor));
  if (measured != seconds) printf("   at measured rates %12s", time_text(measured, reachable));
  putchar('\n');
}

static void print_text(const char *model, const fk_roofline *r) {
  printf("%s, %s, workload %s: %lld requests, %lld steps", model, r->dtype, r->workload, (long long)r->requests,
         (long long)r->steps);
  if (r->tokens) printf(", %lld tokens computed, %lld generated", (long long)r->tokens, (long long)r->output_tokens);
  if (r->ranks > 1) printf(", one of %lld ranks", (long long)r->ranks);
  printf("\n\n");
  print_machine(r->machine, r->ranks);
  printf("%-5s  %-28s %12s %14s %12s %10s %12s  %-7s %7s\n", "level", "task", "calls", "GFLOP", "GB", "FLOP/byte",
         "floor", "bound", "share");
  for (int i = 0; i < r->num_rows; i++) {
    const fk_roofline_row *row = &r->rows[i];
    print_row(row, row->name, false);
    if (i + 1 < r->num_rows && r->rows[i + 1].level == row->level) continue;
    fk_roofline_row sum = r->levels[row->level];
    sum.level = row->level;
    print_row(&sum, row->level ? "  all of this level" : "  all communication", true);
  }
  printf(
      "\nLevels contain each other and must not be added. The run's floor is that of level 1, into which all calls\n"
      "decompose%s: no kernels of level 1 beat it. What a higher level's floor is lower by, fusion can save.\n",
      r->ranks > 1 ? ", then the communication" : "");
  if (r->ranks > 1) printf("All ranks together compute %.1f %% more than one GPU would.\n", 100 * r->replicated);
  putchar('\n');
  print_total(r, "floor of the run", 1);
  print_total(r, "per step", r->steps);
  print_total(r, "per generated token", r->output_tokens);
}

/* ---- JSON ------------------------------------------------------------------------------------------------ */

static json_t *rate_json(const fk_rate *rate) {
  json_t *json = json_object();
  json_object_set_new(json, "datasheet", rate->datasheet > 0 ? json_real(rate->datasheet) : json_null());
  json_object_set_new(json, "measured", rate->measured > 0 ? json_real(rate->measured) : json_null());
  return json;
}

static json_t *text_json(const char *text) {
  return text ? json_string(text) : json_null();
}

static json_t *machine_json(const fk_machine *m) {
  json_t *json = json_object(), *flops = json_object();
  json_object_set_new(json, "name", json_string(m->name));
  json_object_set_new(json, "product", json_string(m->product));
  json_object_set_new(json, "source", text_json(m->source));
  json_object_set_new(json, "measured_by", text_json(m->measured_by));
  json_object_set_new(json, "bytes_per_second", rate_json(&m->memory));
  for (int k = 0; k < FK_RATES; k++) json_object_set_new(flops, rate_names[k], rate_json(&m->flops[k]));
  json_object_set_new(json, "flops_per_second", flops);
  json_object_set_new(json, "link_bytes_per_second", m->link > 0 ? json_real(m->link) : json_null());
  return json;
}

static json_t *row_json(const fk_roofline_row *row, bool total) {
  json_t *json = json_object();
  if (!total) json_object_set_new(json, "task", json_string(row->name));
  if (!total) json_object_set_new(json, "share", json_real(row->share));
  json_object_set_new(json, "level", json_integer(row->level));
  json_object_set_new(json, "calls", json_integer((json_int_t)row->calls));
  json_object_set_new(json, "calls_without_cost", json_integer((json_int_t)row->uncosted));
  json_object_set_new(json, "flops", json_real(row->flops));
  json_object_set_new(json, "bytes", json_real(row->bytes));
  json_object_set_new(json, "floor_seconds", json_real(row->seconds));
  json_object_set_new(json, "measured_floor_seconds", json_real(row->reachable));
  json_object_set_new(json, "bound", json_string(bound_of(row)));
  return json;
}

static void set_total(json_t *json, const char *key, const fk_roofline *r, int64_t per) {
  json_t *value = json_null();
  if (per) {
    value = json_object();
    json_object_set_new(value, "floor", json_real(fk_roofline_seconds(r, false) / (double)per));
    json_object_set_new(value, "measured_floor", json_real(fk_roofline_seconds(r, true) / (double)per));
  }
  json_object_set_new(json, key, value);
}

static int print_json(const cli *c, const fk_roofline *r) {
  json_t *json = json_object(), *rows = json_array(), *levels = json_array();
  json_object_set_new(json, "model", json_string(c->args[0]));
  json_object_set_new(json, "dtype", json_string(r->dtype));
  json_object_set_new(json, "workload", json_string(r->workload));
  json_object_set_new(json, "machine", machine_json(r->machine));
  json_object_set_new(json, "tensor_parallel", json_integer(r->ranks));
  json_object_set_new(json, "replicated_flops", json_real(r->replicated));
  json_object_set_new(json, "requests", json_integer(r->requests));
  json_object_set_new(json, "skipped_requests", json_integer(r->skipped));
  json_object_set_new(json, "steps", json_integer(r->steps));
  json_object_set_new(json, "tokens", json_integer(r->tokens));
  json_object_set_new(json, "output_tokens", json_integer(r->output_tokens));
  for (int i = 0; i < r->num_rows; i++) json_array_append_new(rows, row_json(&r->rows[i], false));
  for (int i = 0; i < 5; i++) {
    fk_roofline_row sum = r->levels[i];
    sum.level = i;
    if (sum.calls) json_array_append_new(levels, row_json(&sum, true));
  }
  json_object_set_new(json, "tasks", rows);
  json_object_set_new(json, "levels", levels);
  set_total(json, "seconds", r, 1);
  set_total(json, "seconds_per_step", r, r->steps);
  set_total(json, "seconds_per_output_token", r, r->output_tokens);
  int rc = json_dumpf(json, stdout, JSON_INDENT(1));
  json_decref(json);
  putchar('\n');
  return rc == 0 ? 0 : cli_fail(c, "cannot write");
}

int fk_cmd_roofline(int argc, char **argv) {
  cli c;
  int status = 2;
  fk_machine cpu;
  const fk_machine *machine = &cpu;
  fk_roofline_options o = {.requests = 0};
  if (!cli_parse(&c, &spec, argc, argv, &status)) return status;
  if (!cli_int(&c, "requests", 1, 10000000, &o.requests) || !cli_int(&c, "tp", 1, 1024, &o.tensor_parallel) ||
      !cli_int(&c, "max-num-seqs", 1, 1 << 20, &o.max_num_seqs) ||
      !cli_int(&c, "max-num-batched-tokens", 1, 1 << 26, &o.max_num_batched_tokens) || !cli_type(&c, "dtype", &o.dtype))
    return 2;
  o.workload = cli_value(&c, "workload");
  o.trace = cli_value(&c, "trace");
  const char *name = cli_value(&c, "gpu");
  if (!name) name = "h200";
  if (strcmp(name, "cpu") == 0) {
    if (fk_machine_measure_cpu(0.5, &cpu) != FK_OK) return cli_error(&c);
  } else {
    machine = fk_machine_find(name);
    if (!machine) return cli_fail(&c, "--gpu: %s", fk_last_error());
  }
  fk_roofline *r;
  if (fk_roofline_make(c.args[0], &o, machine, &r) != FK_OK) return cli_error(&c);
  if (r->skipped)
    fprintf(stderr, "fastkernels roofline: skipped %lld requests: longer than the model's positions\n",
            (long long)r->skipped);
  if (cli_flag(&c, "json"))
    status = print_json(&c, r);
  else
    print_text(c.args[0], r), status = 0;
  fk_roofline_free(r);
  return status;
}
