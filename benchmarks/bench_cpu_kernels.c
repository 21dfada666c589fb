/* The CPU kernels against OpenBLAS and oneDNN, called directly, in one process.
 *
 *     bench_cpu_kernels ROUNDS
 *
 * prints one JSON object per line and case: {"task", "case", "who": {"ours": [seconds...], ...}, "flops", "bytes"}, one
 * sample per round and contestant, the contestants taking turns within a round. A task that the build lacks is printed
 * as {"task", "missing": true}. benchmarks/cpu.sh runs it in turn with PyTorch and makes the table. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef FK_HAVE_OPENBLAS
#include <cblas.h>
#endif
#ifdef FK_HAVE_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

#include "core/context.h"
#include "core/kernel.h"

enum { MAX_ROUNDS = 64, MAX_WHO = 4 };

typedef struct contestant {
  const char *name;
  void (*run)(void *state);
  double seconds[MAX_ROUNDS];
} contestant;

typedef struct bench {
  fk_context *ctx;
  int rounds;
} bench;

static void die(const char *what) {
  fprintf(stderr, "bench_cpu_kernels: %s: %s\n", what, fk_last_error());
  exit(1);
}

/* On a machine that is not ours alone wall time measures the others. BENCH_CLOCK=cpu measures this thread's processor
 * time instead, which says something only with OMP_NUM_THREADS=1. */
static bool busy_machine;

static double now(void) {
  struct timespec t;
  clock_gettime(busy_machine ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Each sample repeats a short call until it has lasted a few milliseconds. */
static double sample(contestant *c, void *state, int *repeats) {
  for (;;) {
    double start = now();
    for (int i = 0; i < *repeats; i++) c->run(state);
    double seconds = now() - start;
    if (seconds > 5e-3 || *repeats > 1 << 20) return seconds / *repeats;
    *repeats *= 2;
  }
}

static void compete(const bench *b, const char *task, const char *label, contestant *who, int n, void *state,
                    double flops, double bytes) {
  int repeats[MAX_WHO] = {1, 1, 1, 1};
  for (int i = 0; i < n; i++) sample(&who[i], state, &repeats[i]); /* warms up */
  for (int round = 0; round < b->rounds; round++)
    for (int i = 0; i < n; i++) who[i].seconds[round] = sample(&who[i], state, &repeats[i]);
  printf("{\"task\": \"%s\", \"case\": \"%s\", \"flops\": %.0f, \"bytes\": %.0f, \"who\": {", task, label, flops,
         bytes);
  for (int i = 0; i < n; i++) {
    printf("%s\"%s\": [", i ? ", " : "", who[i].name);
    for (int round = 0; round < b->rounds; round++) printf("%s%.4g", round ? ", " : "", who[i].seconds[round]);
    printf("]");
  }
  printf("}}\n");
  fflush(stdout);
}

static bool missing(const char *task) {
  if (fk_task_find(task)) return false;
  printf("{\"task\": \"%s\", \"missing\": true}\n", task);
  return true;
}

static fk_tensor *random_tensor(const bench *b, fk_type type, const int64_t *shape, int32_t ndim) {
  fk_tensor *t = fk_empty_shape(b->ctx, type, shape, ndim);
  if (!t) die("tensor");
  uint32_t seed = 1;
  int64_t n = fk_numel(t), period = n < 65537 ? n : 65537;
  for (int64_t i = 0; i < period; i++) {
    seed = seed * 1664525u + 1013904223u;
    fk_store_f64(type, fk_data(t), i, ((double)(seed >> 8) / 8388608 - 1) * 1.7);
  }
  for (int64_t i = period; i < n; i += period) /* a period that is prime to every shape */
    memcpy((char *)fk_data(t) + fk_type_bytes(type, i), fk_data(t),
           fk_type_bytes(type, n - i < period ? n - i : period));
  return t;
}
#define RANDOM(b, type, ...) random_tensor(b, type, (const int64_t[]){__VA_ARGS__}, FK_NARGS(__VA_ARGS__))

/* ---- A task by its arguments ----------------------------------------------------------------------------- */

typedef struct call {
  fk_context *ctx;
  const char *task;
  fk_any args[16];
  int32_t n;
} call;

static void run_call(void *state) {
  call *c = state;
  if (fk_call_array(c->ctx, c->task, c->args, c->n)) die(c->task);
}

/* Times one call of a task alone; its peers run in another process. */
static void alone(const bench *b, const char *label, call *c) {
  const fk_task *task = fk_task_find(c->task);
  fk_binding binding;
  double flops, bytes;
  if (!task || fk_bind(task, FK_CPU, c->args, c->n, &binding) || fk_task_flops(task, c->args, &binding, &flops) ||
      fk_task_bytes(task, c->args, &binding, &bytes))
    die(c->task);
  contestant who[] = {{.name = "ours", .run = run_call}};
  compete(b, c->task, label, who, 1, c, flops, bytes);
}

#define ALONE(b, label, task, ...)                                                  \
  do {                                                                              \
    call one = {(b)->ctx, task, {FK_ANY_LIST(__VA_ARGS__)}, FK_NARGS(__VA_ARGS__)}; \
    alone(b, label, &one);                                                          \
  } while (0)

/* ---- Bandwidth ------------------------------------------------------------------------------------------- */

typedef struct region {
  float *from, *to;
  int64_t n;
} region;

static void run_copy(void *state) {
  region *r = state;
  int64_t part = r->n / 64;
#pragma omp parallel for schedule(static)
  for (int i = 0; i < 64; i++) memcpy(r->to + i * part, r->from + i * part, (size_t)part * 4);
}

/* Several ways to read: which is fastest depends on the processor, and only the fastest one is an honest floor.
 * Integers, because a sum of floats waits for its additions rather than for memory. */
__attribute__((target_clones("avx512f", "avx2", "default"))) static uint64_t read_part(const uint64_t *p, int64_t n,
                                                                                       int64_t streams, int64_t ahead) {
  uint64_t sum[32] = {0};
  int64_t length = n / streams;
  for (int64_t i = 0; i < length; i += 8)
    for (int64_t s = 0; s < streams; s++) {
      const uint64_t *q = p + s * length + i;
      if (ahead) __builtin_prefetch(q + ahead);
      for (int k = 0; k < 8; k++) sum[s * 8 + k] += q[k];
    }
  for (int k = 1; k < 32; k++) sum[0] += sum[k];
  return sum[0];
}

/* 128 KiB blocks, in up to four streams each, asking for words `ahead` of their use. */
static void read_as(region *r, int64_t streams, int64_t ahead) {
  enum { WORDS = 1 << 14 };
  const uint64_t *from = (const uint64_t *)(const void *)r->from;
  uint64_t all = 0;
#pragma omp parallel for schedule(static) reduction(+ : all)
  for (int64_t i = 0; i < r->n / 2 / WORDS; i++) all += read_part(from + i * WORDS, WORDS, streams, ahead);
  memcpy(r->to, &all, sizeof all);
}
static void run_read_1(void *state) {
  read_as(state, 1, 0);
}
static void run_read_1_ahead(void *state) {
  read_as(state, 1, 128);
}
static void run_read_4(void *state) {
  read_as(state, 4, 0);
}
static void run_read_4_ahead(void *state) {
  read_as(state, 4, 128);
}

/* Beyond any cache: 1 GiB each way. */
static void bandwidth(const bench *b) {
  int64_t n = 1 << 28;
  fk_tensor *from = fk_empty(b->ctx, FK_F32, n), *to = fk_empty(b->ctx, FK_F32, n);
  if (!from || !to) die("1 GiB buffers");
  memset(fk_data(from), 0, (size_t)n * 4);
  memset(fk_data(to), 0, (size_t)n * 4);
  region r = {fk_data(from), fk_data(to), n};
  contestant copy[] = {{.name = "copy", .run = run_copy}};
  contestant read[] = {{.name = "1 stream", .run = run_read_1},
                       {.name = "1 stream ahead", .run = run_read_1_ahead},
                       {.name = "4 streams", .run = run_read_4},
                       {.name = "4 streams ahead", .run = run_read_4_ahead}};
  compete(b, "bandwidth", "copy 1 GiB", copy, 1, &r, 0, 8.0 * (double)n);
  compete(b, "bandwidth", "read 1 GiB", read, 4, &r, 0, 4.0 * (double)n);
  fk_context_reset(b->ctx);
}

/* ---- linear ---------------------------------------------------------------------------------------------- */

typedef struct product {
  call ours;
  int64_t rows, features, depth;
  float *x, *w, *out;
#ifdef FK_HAVE_ONEDNN
  dnnl_stream_t stream;
  dnnl_primitive_t matmul, inner;
  dnnl_exec_arg_t args[3];
#endif
} product;

static void run_ours(void *state) {
  run_call(&((product *)state)->ours);
}

#ifdef FK_HAVE_OPENBLAS
static void run_openblas(void *state) {
  product *p = state;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)p->rows, (int)p->features, (int)p->depth, 1, p->x,
              (int)p->depth, p->w, (int)p->depth, 0, p->out, (int)p->features);
}
#endif

#ifdef FK_HAVE_ONEDNN
static void run_matmul(void *state) {
  product *p = state;
  if (dnnl_primitive_execute(p->matmul, p->stream, 3, p->args) || dnnl_stream_wait(p->stream)) die("oneDNN matmul");
}

static void run_inner(void *state) {
  product *p = state;
  if (dnnl_primitive_execute(p->inner, p->stream, 3, p->args) || dnnl_stream_wait(p->stream)) die("oneDNN inner");
}

/* Primitives are made once, outside the measured time. */
static void make_onednn(product *p, dnnl_data_type_t type, dnnl_engine_t engine) {
  dnnl_memory_desc_t x, w, wt, out;
  dnnl_dims_t dx = {p->rows, p->depth}, dw = {p->features, p->depth}, dt = {p->depth, p->features};
  dnnl_dims_t dout = {p->rows, p->features};
  int bad = dnnl_memory_desc_init_by_tag(&x, 2, dx, type, dnnl_ab) |
            dnnl_memory_desc_init_by_tag(&w, 2, dw, type, dnnl_ab) |
            dnnl_memory_desc_init_by_tag(&wt, 2, dt, type, dnnl_ba) |
            dnnl_memory_desc_init_by_tag(&out, 2, dout, type, dnnl_ab);
  dnnl_matmul_desc_t matmul;
  dnnl_inner_product_desc_t inner;
  dnnl_primitive_desc_t pd_matmul, pd_inner;
  bad |= dnnl_matmul_desc_init(&matmul, &x, &wt, NULL, &out);
  bad |= dnnl_inner_product_forward_desc_init(&inner, dnnl_forward_inference, &x, &w, NULL, &out);
  bad |= dnnl_primitive_desc_create(&pd_matmul, &matmul, NULL, engine, NULL);
  bad |= dnnl_primitive_desc_create(&pd_inner, &inner, NULL, engine, NULL);
  if (bad) die("oneDNN descriptors");
  bad |= dnnl_primitive_create(&p->matmul, pd_matmul) | dnnl_primitive_create(&p->inner, pd_inner);
  dnnl_memory_t mx, mw, mo;
  bad |= dnnl_memory_create(&mx, &x, engine, p->x) | dnnl_memory_create(&mw, &w, engine, p->w) |
         dnnl_memory_create(&mo, &out, engine, p->out);
  if (bad) die("oneDNN primitives");
  p->args[0] = (dnnl_exec_arg_t){DNNL_ARG_SRC, mx};
  p->args[1] = (dnnl_exec_arg_t){DNNL_ARG_WEIGHTS, mw};
  p->args[2] = (dnnl_exec_arg_t){DNNL_ARG_DST, mo};
}
#endif

static void linear_case(const bench *b, fk_type type, int64_t rows, int64_t features, int64_t depth) {
  product p = {.rows = rows, .features = features, .depth = depth};
  fk_tensor *x = RANDOM(b, type, rows, depth), *w = RANDOM(b, type, features, depth);
  fk_tensor *out = RANDOM(b, type, rows, features);
  p.ours = (call){b->ctx, "linear", {FK_ANY_LIST(x, w, NULL, out)}, 4};
  p.x = fk_data(x);
  p.w = fk_data(w);
  p.out = fk_data(out);
  contestant who[MAX_WHO] = {{.name = "ours", .run = run_ours}};
  int n = 1;
#ifdef FK_HAVE_OPENBLAS
  if (type == FK_F32) who[n++] = (contestant){.name = "openblas", .run = run_openblas};
#endif
#ifdef FK_HAVE_ONEDNN
  static dnnl_engine_t engine;
  static dnnl_stream_t stream;
  if (!engine && (dnnl_engine_create(&engine, dnnl_cpu, 0) || dnnl_stream_create(&stream, engine, 0))) die("oneDNN");
  p.stream = stream;
  if (type != FK_F16) { /* oneDNN 2.6 has no float16 on CPUs */
    make_onednn(&p, type == FK_F32 ? dnnl_f32 : dnnl_bf16, engine);
    who[n++] = (contestant){.name = "onednn matmul", .run = run_matmul};
    who[n++] = (contestant){.name = "onednn inner product", .run = run_inner};
  }
#endif
  char label[128];
  snprintf(label, sizeof label, "%s rows=%lld out=%lld in=%lld", fk_type_name(type), (long long)rows,
           (long long)features, (long long)depth);
  double size = (double)fk_type_bits(type) / 8;
  compete(b, "linear", label, who, n, &p, 2.0 * (double)(rows * features * depth),
          size * (double)(rows * depth + features * depth + rows * features));
  fk_context_reset(b->ctx);
}

static void linear(const bench *b) {
  static const int64_t sizes[][2] = {{576, 576}, {1536, 576}, {2048, 2048}, {4096, 4096}, {65536, 4096}};
  static const int64_t rows[] = {1, 8, 64, 512};
  if (missing("linear")) return;
  for (int t = 0; t < 2; t++)
    for (int s = 0; s < 5; s++)
      for (int r = 0; r < (s == 4 ? 2 : 4); r++) /* the last: weights beyond the caches, decode only */
        linear_case(b, t ? FK_BF16 : FK_F32, rows[r], sizes[s][0], sizes[s][1]);
}

/* ---- attention and the memory-bound tasks: peers_cpu.py runs the same cases ------------------------------- */

static void attention(const bench *b) {
  if (missing("attention")) return;
  static const int64_t prefill[][4] = {{512, 32, 8, 128}, {1024, 32, 8, 128}, {2048, 32, 8, 128}, {1024, 32, 32, 64}};
  for (int i = 0; i < 4; i++) {
    int64_t s = prefill[i][0], h = prefill[i][1], kv = prefill[i][2], d = prefill[i][3];
    fk_tensor *q = RANDOM(b, FK_F32, 1, s, h, d), *k = RANDOM(b, FK_F32, 1, s, kv, d),
              *v = RANDOM(b, FK_F32, 1, s, kv, d);
    for (int causal = 1; causal >= 0; causal--) {
      char label[128];
      snprintf(label, sizeof label, "prefill s=%lld h=%lld kv=%lld d=%lld causal=%d", (long long)s, (long long)h,
               (long long)kv, (long long)d, causal);
      ALONE(b, label, "attention", q, k, v, NULL, NULL, NULL, NULL, NULL, 1 / sqrt((double)d), causal != 0, -1, -1, 0.0,
            RANDOM(b, FK_F32, 1, s, h, d));
    }
    fk_context_reset(b->ctx);
  }
  for (int t = 0; t < 2; t++) { /* 8 sequences of 16384 keys: 0.5 or 1 GiB of cache */
    fk_type type = t ? FK_BF16 : FK_F32;
    int64_t seqs = 8, keys = 16384, h = 32, kv = 8, d = 128;
    fk_tensor *q = RANDOM(b, type, seqs, 1, h, d), *out = RANDOM(b, type, seqs, 1, h, d);
    fk_tensor *k = RANDOM(b, type, seqs, keys, kv, d), *v = RANDOM(b, type, seqs, keys, kv, d);
    char label[128];
    snprintf(label, sizeof label, "decode %s b=8 keys=16384 h=32 kv=8 d=128", fk_type_name(type));
    ALONE(b, label, "attention", q, k, v, NULL, NULL, NULL, NULL, NULL, 1 / sqrt((double)d), true, -1, -1, 0.0, out);
    fk_context_reset(b->ctx);
  }
}

static void memory_bound(const bench *b) {
  int64_t rows = 65536, n = 4096; /* 1 GiB of float32 */
  if (!missing("rms_norm")) {
    fk_tensor *x = RANDOM(b, FK_F32, rows, n), *out = RANDOM(b, FK_F32, rows, n), *w = RANDOM(b, FK_F32, n);
    ALONE(b, "rows=65536 n=4096", "rms_norm", x, w, 1e-5, out);
    fk_context_reset(b->ctx);
  }
  if (!missing("silu_and_mul")) {
    fk_tensor *x = RANDOM(b, FK_F32, rows, n), *out = RANDOM(b, FK_F32, rows, n / 2);
    ALONE(b, "rows=65536 n=2048", "silu_and_mul", x, out);
    fk_context_reset(b->ctx);
  }
  if (!missing("softmax")) {
    fk_tensor *x = RANDOM(b, FK_F32, rows, n), *out = RANDOM(b, FK_F32, rows, n);
    ALONE(b, "rows=65536 n=4096", "softmax", x, out);
    fk_context_reset(b->ctx);
  }
  if (!missing("add")) {
    fk_tensor *x = RANDOM(b, FK_F32, rows, n), *y = RANDOM(b, FK_F32, rows, n), *out = RANDOM(b, FK_F32, rows, n);
    ALONE(b, "rows=65536 n=4096", "add", x, y, out);
    fk_context_reset(b->ctx);
  }
  if (!missing("reshape_and_cache")) {
    fk_tensor *x = RANDOM(b, FK_F32, rows, 8, 128), *k = RANDOM(b, FK_F32, rows / 16, 16, 8, 128);
    fk_tensor *v = RANDOM(b, FK_F32, rows / 16, 16, 8, 128), *slots = fk_empty(b->ctx, FK_I64, rows);
    for (int64_t i = 0; i < rows; i++) fk_i64(slots)[i] = i;
    ALONE(b, "tokens=65536 kv=8 d=128", "reshape_and_cache", x, x, k, v, slots);
    fk_context_reset(b->ctx);
  }
}

int main(int argc, char **argv) {
  bench b = {.rounds = argc > 1 ? atoi(argv[1]) : 5};
  if (b.rounds < 1 || b.rounds > MAX_ROUNDS) b.rounds = 5;
  if (fk_context_create(&(fk_context_options){.backend = FK_CPU}, &b.ctx)) die("context");
  const char *clock_name = getenv("BENCH_CLOCK");
  busy_machine = clock_name && strcmp(clock_name, "cpu") == 0;
  const char *only = argc > 2 ? argv[2] : "";
  if (!*only || strcmp(only, "bandwidth") == 0) bandwidth(&b);
  if (!*only || strcmp(only, "linear") == 0) linear(&b);
  if (!*only || strcmp(only, "attention") == 0) attention(&b);
  if (!*only || strcmp(only, "memory") == 0) memory_bound(&b);
  fk_context_destroy(b.ctx);
  return 0;
}
