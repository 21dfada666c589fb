/* Every task on the GPU at the shapes of its folder's bench.json, against the machine's measured limits.
 *
 *     bench_cuda [--json FILE] [--seconds S] [TASK...]
 *
 * Each call is recorded as a CUDA graph. us: one replay with the L2 cache flushed before it, between two events (the
 * time of an empty graph is printed as the overhead and is part of it), the GPU idle for a while before; chain_us: one
 * call of CHAIN in one graph, caches warm, as in a decode step. floor_us: the larger of bytes / copy rate and FLOPs /
 * matrix rate, both measured in the same run (matrix rate: the linear task at 8192 cubed in bfloat16, whatever serves
 * it; float32 calls are held to bytes and to that rate too, so their ratio says little when they are bound by
 * arithmetic). Medians; raw samples go to the JSON file.
 *
 * Float inputs are normal numbers that repeat with a period longer than any cache, integers those of the judge. */
#include <math.h>
#include <time.h>

#include "core/convert.h"
#include "engine/ceilings.h"
#include "judge/ranks.h"
#include "unit/task_sweep.h"

enum { SKIPPED = 77, MAX_SAMPLES = 201, MIN_SAMPLES = 11, CHAIN = 20, WARMUP = 2 };
enum { BLOCK = 1 << 22 }; /* numbers in the host's block of normal values */
static const double HEAVY_MS = 0.05, REST = 4;
#define FLUSH_BYTES ((size_t)192 << 20)

static struct {
  fk_context *ctx;
  fk_cuda *cuda;
  fk_cuda_timer *timer;
  char *flush;
  float *normal;      /* BLOCK + some */
  void *converted;    /* the same in another dtype, scaled */
  double copy_rate;   /* bytes per second */
  double matrix_rate; /* FLOPs per second */
  double overhead;    /* milliseconds of an empty graph between two events */
  double seconds;     /* per case */
  json_t *results;
} g = {.seconds = 0.25};

static fk_status fail_on(fk_status status, const fk_case *c) {
  if (!status) return FK_OK;
  char label[200];
  fk_case_label(c, label, sizeof label);
  fprintf(stderr, "%s [%s]: %s\n", c->task->name, label, fk_last_error());
  return status;
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *samples, int n) {
  qsort(samples, (size_t)n, sizeof *samples, compare_doubles);
  return n % 2 ? samples[n / 2] : (samples[n / 2 - 1] + samples[n / 2]) / 2;
}

/* ---- Timing ---------------------------------------------------------------------------------------------- */

static fk_status time_once(fk_cuda_graph *graph, bool flush, double *milliseconds) {
  if (flush) FK_TRY(fk_cuda_read(g.cuda, g.flush, FLUSH_BYTES));
  FK_TRY(fk_cuda_timer_start(g.cuda, g.timer));
  FK_TRY(fk_cuda_graph_launch(g.cuda, graph));
  FK_TRY(fk_cuda_timer_stop(g.cuda, g.timer));
  return fk_cuda_timer_elapsed(g.cuda, g.timer, milliseconds);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The GPU rests after a heavy call, as long as benchmarks/peers.py lets it: under sustained load its clocks fall by a
 * fifth, and whoever leaves shorter gaps would look slower. */
static void rest(double milliseconds) {
  if (milliseconds < HEAVY_MS) return;
  double pause = 1e-3 * REST * milliseconds;
  nanosleep(&(struct timespec){(time_t)pause, (long)(1e9 * (pause - floor(pause)))}, NULL);
}

static fk_status time_graph(fk_cuda_graph *graph, bool flush, double *samples, int *count) {
  double ignored, start = now();
  for (int i = 0; i < WARMUP; i++) FK_TRY(time_once(graph, flush, &ignored));
  for (*count = 0; *count < MAX_SAMPLES && (*count < MIN_SAMPLES || now() - start < g.seconds); ++*count) {
    FK_TRY(time_once(graph, flush, &samples[*count]));
    if (flush) rest(samples[*count]);
  }
  return FK_OK;
}

/* A call over one copy of the plan's buffer. */
static void make_frame(const fk_plan *plan, char *base, fk_frame *frame) {
  fk_plan_frame(plan, base, frame);
  for (int i = 0; i < plan->task->num_args; i++)
    if (plan->tensors[i].given) frame->tensors[i].device = (fk_device){FK_DL_CUDA, 0};
}

static size_t copy_bytes(const fk_plan *plan) {
  return (plan->bytes + 255) / 256 * 256 + 256;
}

/* Calls in one graph, over the copies in turn. */
static fk_status record(const fk_plan *plan, char *base, int copies, int times, fk_cuda_graph **graph) {
  static fk_frame frame;
  *graph = NULL;
  FK_TRY(fk_cuda_graph_begin(g.cuda));
  fk_status status = FK_OK;
  for (int i = 0; i < times && !status; i++) {
    make_frame(plan, base + copy_bytes(plan) * (size_t)(i % copies), &frame);
    status = fk_call_task(g.ctx, plan->task, frame.args, plan->task->num_args);
  }
  fk_status ended = fk_cuda_graph_end(g.cuda, graph);
  return status ? status : ended;
}

/* ---- Inputs ---------------------------------------------------------------------------------------------- */

static void make_normal(void) {
  g.normal = malloc(BLOCK * sizeof *g.normal);
  g.converted = malloc(BLOCK * sizeof *g.normal);
  uint64_t state = 1;
  for (int i = 0; i < BLOCK; i++) {
    double sum = 0;
    for (int k = 0; k < 4; k++) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      sum += (double)(state >> 40) / (1 << 24) - 0.5;
    }
    g.normal[i] = (float)(sum * 1.7320508);
  }
}

/* Fills a float tensor's memory with the block, again and again. */
static fk_status fill_floats(const fk_plan *plan, int i, char *base) {
  const fk_plan_tensor *t = &plan->tensors[i];
  float *scaled = malloc(BLOCK * sizeof *scaled);
  bool weight = plan->task->args[i].role == FK_WEIGHT && t->ndim > 1;
  float scale = weight ? 1 / sqrtf((float)t->shape[t->ndim - 1]) : 1, shift = 0;
  double a = plan->task->args[i].values.a, b = plan->task->args[i].values.b;
  /* The block ends at 2 sqrt(3): uniform values stay in their range, which may be what keeps a recurrence finite. */
  if (plan->task->args[i].values.kind == FK_VALUES_NORMAL) scale = (float)b, shift = (float)a;
  if (plan->task->args[i].values.kind == FK_VALUES_UNIFORM)
    scale = (float)((b - a) / 6.93), shift = (float)((a + b) / 2);
  for (int k = 0; k < BLOCK; k++) scaled[k] = g.normal[k] * scale + shift;
  fk_status status = fk_convert_row(t->type, g.converted, FK_F32, scaled, BLOCK);
  size_t block = fk_type_bytes(t->type, BLOCK) - 1024; /* no multiple of a power of two */
  for (size_t at = 0; at < t->span && !status; at += block)
    status = fk_cuda_upload(g.cuda, base + t->data + at, g.converted, t->span - at < block ? t->span - at : block);
  free(scaled);
  return status;
}

static fk_status fill(const fk_plan *plan, char *base, char *host) {
  FK_TRY(fk_plan_fill_integers(plan, host, 7));
  for (int i = 0; i < plan->task->num_args; i++) {
    const fk_plan_tensor *t = &plan->tensors[i];
    if (!fk_arg_is_tensor(&plan->task->args[i]) || !t->given || t->alias >= 0) continue;
    if (plan->task->args[i].role == FK_OUTPUT) continue;
    if (fk_type_is_float(t->type))
      FK_TRY(fill_floats(plan, i, base));
    else
      FK_TRY(fk_cuda_upload(g.cuda, base + t->data, host + t->data, t->span));
  }
  return fk_cuda_sync(g.cuda);
}

/* ---- One case -------------------------------------------------------------------------------------------- */

static fk_status cost(const fk_plan *plan, char *host, double *flops, double *bytes) {
  static fk_frame frame;
  fk_binding binding;
  *flops = *bytes = 0;
  fk_plan_frame(plan, host, &frame);
  FK_TRY(fk_bind(plan->task, FK_CPU, frame.args, plan->task->num_args, &binding));
  FK_TRY(fk_binding_finish(plan->task, frame.args, &binding));
  FK_TRY(fk_task_flops(plan->task, frame.args, &binding, flops));
  return fk_task_bytes(plan->task, frame.args, &binding, bytes);
}

static void report(const fk_plan *plan, double *cold, int num_cold, double *chain, int num_chain, double flops,
                   double bytes) {
  char label[200];
  json_t *raw = json_array(), *raw_chain = json_array();
  for (int i = 0; i < num_cold; i++) json_array_append_new(raw, json_real(1e3 * cold[i]));
  for (int i = 0; i < num_chain; i++) json_array_append_new(raw_chain, json_real(1e3 * chain[i] / CHAIN));
  double us = 1e3 * median(cold, num_cold), chained = num_chain ? 1e3 * median(chain, num_chain) / CHAIN : 0;
  double memory_us = 1e6 * bytes / g.copy_rate, matrix_us = 1e6 * flops / g.matrix_rate;
  double floor_us = memory_us > matrix_us ? memory_us : matrix_us;
  fk_case_label(plan->c, label, sizeof label);
  const char *note = *plan->c->note ? plan->c->note : label;
  char by[192];
  fk_cuda_choice(g.cuda, by, sizeof by);
  printf("%-24s %-52s %9.2f %9.2f %9.2f %6.2f %7.3f %7.1f  %s\n", plan->task->name, note, us, chained, floor_us,
         us / floor_us, 1e-6 * bytes / us, 1e-6 * flops / us, by);
  json_array_append_new(
      g.results, json_pack("{s:s, s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:o, s:o}", "task", plan->task->name, "case",
                           label, "note", plan->c->note, "by", by, "us", us, "chain_us", chained, "floor_us", floor_us,
                           "bytes", bytes, "flops", flops, "samples_us", raw, "chain_samples_us", raw_chain));
}

static fk_status measure(const fk_plan *plan, char *base, int copies, char *host) {
  static fk_frame frame;
  double cold[MAX_SAMPLES], chain[MAX_SAMPLES], flops, bytes;
  int num_cold = 0, num_chain = 0;
  FK_TRY(fill(plan, base, host));
  FK_TRY(cost(plan, host, &flops, &bytes));
  for (int i = 1; i < copies; i++) FK_TRY(fk_cuda_copy(g.cuda, base + copy_bytes(plan) * (size_t)i, base, plan->bytes));
  make_frame(plan, base, &frame);
  fk_cuda_choice_reset(g.cuda);
  /* Once directly: checked, and whoever chooses by measurement chooses now. */
  FK_TRY(fk_call_task(g.ctx, plan->task, frame.args, plan->task->num_args));
  FK_TRY(fk_cuda_sync(g.cuda));
  fk_cuda_graph *one, *many = NULL;
  FK_TRY(record(plan, base, 1, 1, &one));
  fk_status status = time_graph(one, true, cold, &num_cold);
  if (!status && cold[0] < 1) {
    status = record(plan, base, copies, CHAIN, &many);
    if (!status) status = time_graph(many, false, chain, &num_chain);
  }
  if (!status) status = fk_cuda_sync(g.cuda);
  if (!status) report(plan, cold, num_cold, chain, num_chain, flops, bytes);
  fk_cuda_graph_destroy(one);
  fk_cuda_graph_destroy(many);
  return status;
}

static fk_status run_case(fk_case *c) {
  static fk_plan plan;
  FK_TRY(fail_on(fk_plan_make(c, &plan), c));
  fk_memory *memory = fk_cuda_memory(g.cuda);
  /* Enough copies that the first is forgotten when its turn comes again. */
  size_t each = copy_bytes(&plan), wanted = FLUSH_BYTES / each + 2;
  int copies = wanted < CHAIN ? (int)wanted : CHAIN;
  char *base = memory->alloc(memory, each * (size_t)copies), *host = calloc(1, plan.bytes + 64);
  fk_status status = base && host ? measure(&plan, base, copies, host)
                                  : fk_fail(FK_ERROR_MEMORY, "%llu bytes", (unsigned long long)plan.bytes);
  if (base) memory->release(memory, base, each * (size_t)copies);
  free(host);
  fk_context_reset(g.ctx);
  return fail_on(status, c);
}

static int run_task(sweep_task *s) {
  if (fk_task_is_collective(s->task)) return 0; /* fastkernels bench --gpus times them, between GPUs */
  int failures = 0;
  for (int i = 0; i < s->count; i++) {
    fk_case_use_variant(s->cases[i].c, 0);
    failures += run_case(s->cases[i].c) != FK_OK;
  }
  return failures;
}

/* ---- The machine's limits -------------------------------------------------------------------------------- */

static fk_status measure_overhead(void) {
  double samples[MAX_SAMPLES];
  int count;
  fk_cuda_graph *graph;
  FK_TRY(fk_cuda_graph_begin(g.cuda));
  fk_status status = fk_cuda_fill(g.cuda, g.flush, 0, 16);
  FK_TRY(fk_cuda_graph_end(g.cuda, &graph));
  if (!status) status = time_graph(graph, true, samples, &count);
  if (!status) g.overhead = median(samples, count);
  fk_cuda_graph_destroy(graph);
  return status;
}

static fk_status open_device(void) {
  fk_context_options options = {.backend = FK_CUDA};
  FK_TRY(fk_context_create(&options, &g.ctx));
  g.cuda = g.ctx->cuda;
  FK_TRY(fk_cuda_timer_create(g.cuda, &g.timer));
  fk_memory *memory = fk_cuda_memory(g.cuda);
  g.flush = memory->alloc(memory, FLUSH_BYTES);
  if (!g.flush) return fk_fail(FK_ERROR_MEMORY, "no memory for the flush");
  FK_TRY(fk_cuda_fill(g.cuda, g.flush, 1, FLUSH_BYTES));
  make_normal();
  fk_cuda_ceilings ceilings;
  FK_TRY(fk_measure_cuda(g.ctx, &ceilings));
  g.copy_rate = ceilings.bytes_per_second;
  g.matrix_rate = ceilings.flops_per_second;
  return measure_overhead();
}

static json_t *environment(const fk_cuda_info *info) {
  char date[32];
  time_t t = time(NULL);
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime(&t));
  const char *commit = getenv("FASTKERNELS_COMMIT");
  return json_pack("{s:s, s:i, s:i, s:s, s:s, s:s, s:s, s:f, s:f, s:f}", "gpu", info->name, "driver",
                   info->driver_version, "runtime", info->runtime_version, "cublaslt", info->cublaslt, "cudnn",
                   info->cudnn, "date", date, "commit", commit ? commit : "", "copy_bytes_per_second", g.copy_rate,
                   "matrix_flops_per_second", g.matrix_rate, "overhead_us", 1e3 * g.overhead);
}

static int run_tasks(char **names, int count) {
  int tasks, failures = 0;
  printf("%-24s %-52s %9s %9s %9s %6s %7s %7s\n", "task", "case", "us", "chain_us", "floor_us", "ratio", "TB/s",
         "TFLOP/s");
  if (count == 0) return sweep_files("bench.json", run_task, &tasks);
  for (int i = 0; i < count; i++) {
    setenv("FASTKERNELS_TASK", names[i], 1);
    failures += sweep_files("bench.json", run_task, &tasks);
    if (tasks == 0) fprintf(stderr, "%s: no task of this name has a bench.json\n", names[i]);
    failures += tasks == 0;
  }
  return failures;
}

int main(int argc, char **argv) {
  const char *path = NULL;
  fk_cuda_info info;
  int at = 1;
  for (; at + 1 < argc && strncmp(argv[at], "--", 2) == 0; at += 2) {
    if (strcmp(argv[at], "--json") == 0) path = argv[at + 1];
    if (strcmp(argv[at], "--seconds") == 0) g.seconds = atof(argv[at + 1]);
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (fk_cuda_device_count() == 0) {
    printf("skipped: there is no GPU\n");
    return SKIPPED;
  }
  if (open_device() != FK_OK || fk_cuda_describe(g.cuda, &info) != FK_OK) {
    fprintf(stderr, "%s\n", fk_last_error());
    return 2;
  }
  g.results = json_array();
  printf("%s, driver %d, cuBLASLt %s, cuDNN %s: copy %.3f TB/s, matrix %.0f TFLOP/s, overhead %.2f us\n", info.name,
         info.driver_version, info.cublaslt, info.cudnn, 1e-12 * g.copy_rate, 1e-12 * g.matrix_rate, 1e3 * g.overhead);
  int failures = run_tasks(argv + at, argc - at);
  json_t *root = json_pack("{s:o, s:o}", "environment", environment(&info), "results", g.results);
  if (path && json_dump_file(root, path, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) != 0) failures++;
  json_decref(root);
  fk_cuda_timer_destroy(g.timer);
  fk_memory *memory = fk_cuda_memory(g.cuda);
  memory->release(memory, g.flush, FLUSH_BYTES);
  fk_context_destroy(g.ctx);
  free(g.normal);
  free(g.converted);
  return failures ? 1 : 0;
}
