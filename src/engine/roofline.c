#include "engine/roofline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/simulate.h"

/* Merging blurs which side of the ridge a case lies on; this many cases are rarely reached. */
enum { CASES = 512 };

typedef struct work {
  const char *model;
  const fk_roofline_options *options;
  fk_shard shard;
  fk_context *ctx;
  fk_model *instance;
  fk_workload *workload;
  fk_capture *capture;
  fk_simulation simulation;
} work;

static void release(work *w) {
  fk_simulation_free(&w->simulation);
  fk_capture_destroy(w->capture);
  fk_workload_close(w->workload);
  fk_model_close(w->instance);
  fk_context_destroy(w->ctx);
  w->capture = NULL;
  w->workload = NULL;
  w->instance = NULL;
  w->ctx = NULL;
}

/* ---- Capturing ------------------------------------------------------------------------------------------- */

static fk_status open_workload(work *w) {
  const fk_roofline_options *o = w->options;
  const fk_sequence_ops *ops = w->instance->class->sequence;
  if (o->trace)
    FK_TRY(fk_workload_open_trace(o->trace, o->requests, &w->workload));
  else
    FK_TRY(fk_workload_open(o->workload ? o->workload
                            : ops       ? "single-request"
                                        : w->instance->class->name,
                            o->requests, &w->workload));
  FK_TRY(fk_workload_encode(w->workload, NULL));
  if (ops) fk_workload_limit(w->workload, ops->max_position(w->instance->state));
  /* Ids say nothing about costs, and those of the whole vocabulary are too large for a part of it. */
  for (int64_t i = 0; w->workload->kind == FK_WORKLOAD_SEQUENCES && i < w->workload->count; i++)
    w->workload->requests[i].input_ids = NULL;
  return FK_OK;
}

/* Runs the workload on meta: on the whole model, or with ranks on one rank's part. */
static fk_status capture(work *w, bool sharded) {
  const fk_model_options options = {.dtype = w->options->dtype};
  const fk_batching_options batching = {.max_num_seqs = w->options->max_num_seqs,
                                        .max_num_batched_tokens = w->options->max_num_batched_tokens};
  FK_TRY(fk_context_create(&(fk_context_options){.backend = FK_META}, &w->ctx));
  if (sharded)
    FK_TRY(fk_model_open_config(w->ctx, w->shard.json, strlen(w->shard.json), w->model, &options, &w->instance));
  else
    FK_TRY(fk_model_open(w->ctx, w->model, &options, &w->instance));
  FK_TRY(open_workload(w));
  FK_TRY(fk_capture_create(&(fk_capture_options){.max_cases = CASES, .shapes_only = true}, &w->capture));
  return fk_simulate(w->ctx, w->instance, w->workload, &batching, w->capture, &w->simulation);
}

/* ---- Floors ---------------------------------------------------------------------------------------------- */

static bool is_float(fk_type type) {
  return type == FK_F64 || type == FK_F32 || fk_rate_kind_of(type) != FK_RATE_FLOAT32;
}

/* The fastest arithmetic that any operand of a case allows: its narrowest floating dtype. */
static fk_rate_kind kind_of(const fk_task *task, const fk_record *c) {
  int kind = -1;
  for (int i = 0; i < task->num_args; i++) {
    const fk_record_arg *a = &c->args[i];
    if (!fk_arg_is_tensor(&task->args[i]) || !a->present || !is_float(a->type)) continue;
    int this = fk_rate_kind_of(a->type);
    if (this > kind) kind = this;
  }
  return kind < 0 ? FK_RATE_FLOAT32 : (fk_rate_kind)kind;
}

/* A dtype that a machine has no rate for is computed in the next wider one; without any, in float32. */
static double flops_rate(const fk_machine *m, fk_rate_kind kind, bool measured) {
  for (int k = (int)kind; k > FK_RATE_FLOAT32; k--)
    if (fk_rate_value(&m->flops[k], measured) > 0) return fk_rate_value(&m->flops[k], measured);
  double rate = fk_rate_value(&m->flops[kind], measured);
  return rate > 0 ? rate : fk_rate_value(&m->flops[FK_RATE_FLOAT32], measured);
}

static void add_case(fk_roofline_row *row, const fk_machine *m, const fk_task *task, const fk_record *c) {
  fk_rate_kind kind = kind_of(task, c);
  double flops = (double)c->all_flops, bytes = (double)c->all_bytes;
  for (int measured = 0; measured < 2; measured++) {
    double compute = flops / flops_rate(m, kind, measured), memory = bytes / fk_rate_value(&m->memory, measured);
    if (measured) {
      row->reachable += fmax(compute, memory);
      continue;
    }
    row->seconds += fmax(compute, memory);
    if (compute > memory) row->compute_seconds += compute;
  }
}

static void add_row(fk_roofline_row *sum, const fk_roofline_row *row) {
  sum->calls += row->calls;
  sum->uncosted += row->uncosted;
  sum->flops += row->flops;
  sum->bytes += row->bytes;
  sum->seconds += row->seconds;
  sum->reachable += row->reachable;
  sum->compute_seconds += row->compute_seconds;
}

static int by_floor(const void *x, const void *y) {
  const fk_roofline_row *a = x, *b = y;
  if (a->level != b->level) return (a->level ? a->level : 9) - (b->level ? b->level : 9);
  if (a->seconds != b->seconds) return a->seconds > b->seconds ? -1 : 1;
  return strcmp(a->name, b->name);
}

static fk_status add_tables(fk_roofline *r, const fk_capture *captured) {
  int count = fk_capture_count(captured);
  r->rows = fk_arena_calloc(&r->arena, (size_t)count + 2, sizeof *r->rows);
  if (!r->rows) return FK_ERROR_MEMORY;
  for (int i = 0; i < count; i++) {
    const fk_record_table *t = fk_capture_table(captured, i);
    fk_roofline_row *row = &r->rows[r->num_rows++];
    /* A model's own entry dies with the model. */
    *row = (fk_roofline_row){.name = fk_arena_strdup(&r->arena, t->task->name),
                             .level = t->task->level,
                             .calls = t->calls,
                             .uncosted = t->uncosted,
                             .flops = (double)t->flops,
                             .bytes = (double)t->bytes};
    if (!row->name) return FK_ERROR_MEMORY;
    for (int k = 0; k < t->count; k++) add_case(row, r->machine, t->task, t->cases[k]);
  }
  return FK_OK;
}

/* ---- Communication --------------------------------------------------------------------------------------- */

/* bytes: what each rank sends, and as many received at the same time. */
static void add_communication(fk_roofline *r, const char *name, int64_t calls, double bytes) {
  double seconds = bytes / r->machine->link;
  r->rows[r->num_rows++] = (fk_roofline_row){
      .name = name, .calls = (uint64_t)calls, .bytes = bytes, .seconds = seconds, .reachable = seconds};
}

/* A ring: every rank sends its vector less its own part twice, 2 (n - 1) / n of it, per all-reduce. */
static void add_all_reduce(fk_roofline *r, const work *w) {
  double n = (double)r->ranks, width = (double)fk_type_bytes(w->instance->dtype, 1);
  double vector = (double)r->tokens * (double)w->shard.hidden_size * width;
  int64_t per_step = 2 * w->shard.num_layers + 1; /* after attention, after the network, after the embedding */
  add_communication(r, "all_reduce", per_step * r->steps, (double)per_step * vector * 2 * (n - 1) / n);
  if (w->instance->class->sequence->vocab_size(w->instance->state) == 0) return;
  double logits = (double)r->output_tokens * (double)w->shard.vocab_size * width;
  add_communication(r, "all_gather of logits", r->steps, logits * (n - 1) / n);
}

static double level_flops(const fk_capture *captured, int level) {
  long double sum = 0;
  for (int i = 0; i < fk_capture_count(captured); i++)
    if (fk_capture_table(captured, i)->task->level == level) sum += fk_capture_table(captured, i)->flops;
  return (double)sum;
}

/* A configuration that says it is divided need not divide the model: the FLOPs tell. */
static fk_status check_shards(fk_roofline *r, double whole, double part) {
  r->replicated = whole > 0 ? part * (double)r->ranks / whole - 1 : 0;
  if (r->replicated > -0.01 && r->replicated < 0.25) return FK_OK;
  return fk_fail(FK_ERROR_UNSUPPORTED,
                 "tensor parallelism: %lld ranks would compute %.2f times the FLOPs of one GPU: this model is not "
                 "divided by its heads, intermediate size and vocabulary",
                 (long long)r->ranks, r->replicated + 1);
}

static fk_status check_options(const fk_roofline_options *o, const fk_machine *m) {
  if (o->trace && o->workload) return fk_fail(FK_ERROR_ARGUMENT, "a trace and a workload exclude each other");
  if (o->tensor_parallel < 0 || o->tensor_parallel > 1024)
    return fk_fail(FK_ERROR_ARGUMENT, "tensor parallelism: expected 1 to 1024 ranks, got %lld",
                   (long long)o->tensor_parallel);
  if (o->tensor_parallel > 1 && m->link <= 0)
    return fk_fail(FK_ERROR_UNSUPPORTED, "tensor parallelism: %s has no link between ranks", m->name);
  return FK_OK;
}

/* ---- The whole ------------------------------------------------------------------------------------------- */

static void describe(fk_roofline *r, const work *w) {
  const fk_batching_stats *s = &w->simulation.stats;
  snprintf(r->dtype, sizeof r->dtype, "%s", fk_type_name(w->instance->dtype));
  snprintf(r->workload, sizeof r->workload, "%s", w->workload->name);
  r->requests = s->requests;
  r->steps = s->steps;
  r->tokens = s->prefill_tokens + s->decode_tokens;
  r->output_tokens = s->output_tokens;
  r->skipped = w->workload->skipped;
}

static void sum_levels(fk_roofline *r) {
  qsort(r->rows, (size_t)r->num_rows, sizeof *r->rows, by_floor);
  for (int i = 0; i < r->num_rows; i++) add_row(&r->levels[r->rows[i].level % 5], &r->rows[i]);
  for (int i = 0; i < r->num_rows; i++) {
    double sum = r->levels[r->rows[i].level % 5].seconds;
    r->rows[i].share = sum > 0 ? r->rows[i].seconds / sum : 0;
  }
}

static fk_status make(work *w, fk_roofline *r) {
  double whole = 0;
  FK_TRY(check_options(w->options, r->machine));
  FK_TRY(capture(w, false));
  if (r->ranks > 1) {
    if (!w->instance->class->sequence)
      return fk_fail(FK_ERROR_UNSUPPORTED, "tensor parallelism: %s takes no token sequences", w->model);
    whole = level_flops(w->capture, 1);
    release(w);
    FK_TRY(fk_shard_config(w->model, r->ranks, &w->shard));
    FK_TRY(capture(w, true));
    FK_TRY(check_shards(r, whole, level_flops(w->capture, 1)));
  }
  describe(r, w);
  FK_TRY(add_tables(r, w->capture));
  if (r->ranks > 1) add_all_reduce(r, w);
  sum_levels(r);
  return FK_OK;
}

fk_status fk_roofline_make(const char *model, const fk_roofline_options *options, const fk_machine *machine,
                           fk_roofline **out) {
  work w = {.model = model, .options = options};
  *out = NULL;
  fk_roofline *r = calloc(1, sizeof *r);
  if (!r) return fk_fail(FK_ERROR_MEMORY, "roofline: cannot allocate");
  fk_arena_init(&r->arena, &fk_host_memory, 0);
  r->machine = machine;
  r->ranks = options->tensor_parallel > 1 ? options->tensor_parallel : 1;
  fk_status status = make(&w, r);
  release(&w);
  free(w.shard.json);
  if (status) {
    fk_roofline_free(r);
    return status;
  }
  *out = r;
  return FK_OK;
}

void fk_roofline_free(fk_roofline *r) {
  if (!r) return;
  fk_arena_destroy(&r->arena);
  free(r);
}

double fk_roofline_seconds(const fk_roofline *r, bool measured) {
  return measured ? r->levels[1].reachable + r->levels[0].reachable : r->levels[1].seconds + r->levels[0].seconds;
}
