/* What a call costs besides its kernel: rms_norm (4 arguments) and llama_decoder_layer (25), with a kernel that does
 * nothing, unchecked and checked. Best of several rounds, since a machine only ever adds to the time. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/registry.h"
#include "fastkernels/fastkernels.h"

enum { ROUNDS = 15, CALLS = 20000 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int nothing(void *self, const fk_any *args, int32_t num_args, fk_any *result) {
  (void)self, (void)args, (void)num_args, (void)result;
  return 0;
}

static void check(fk_status status) {
  if (!status) return;
  fprintf(stderr, "bench_dispatch: %s\n", fk_last_error());
  exit(2);
}

typedef struct layer {
  fk_tensor *positions, *hidden, *residual, *keys, *values, *slots, *cu, *lens, *table, *norm, *qkv, *o, *cos_sin,
      *gate_up, *down, *out;
} layer;

/* Shapes of Llama-3.1-8B would do, but nothing reads the content: small ones fit in the cache. */
static layer make(fk_context *ctx) {
  return (layer){.positions = fk_empty(ctx, FK_I64, 4),
                 .hidden = fk_empty(ctx, FK_F32, 4, 64),
                 .residual = fk_empty(ctx, FK_F32, 4, 64),
                 .keys = fk_empty(ctx, FK_F32, 8, 16, 2, 16),
                 .values = fk_empty(ctx, FK_F32, 8, 16, 2, 16),
                 .slots = fk_empty(ctx, FK_I64, 4),
                 .cu = fk_empty(ctx, FK_I32, 5),
                 .lens = fk_empty(ctx, FK_I32, 4),
                 .table = fk_empty(ctx, FK_I32, 4, 2),
                 .norm = fk_empty(ctx, FK_F32, 64),
                 .qkv = fk_empty(ctx, FK_F32, 128, 64),
                 .o = fk_empty(ctx, FK_F32, 64, 64),
                 .cos_sin = fk_empty(ctx, FK_F32, 32, 16),
                 .gate_up = fk_empty(ctx, FK_F32, 192, 64),
                 .down = fk_empty(ctx, FK_F32, 64, 96),
                 .out = fk_empty(ctx, FK_F32, 4, 64)};
}

static fk_status call_norm(fk_context *ctx, const layer *y) {
  return fk_call(ctx, "rms_norm", y->hidden, y->norm, 1e-5, y->out);
}

static fk_status call_layer(fk_context *ctx, const layer *y) {
  return fk_call(ctx, "llama_decoder_layer", y->positions, y->hidden, y->residual, y->keys, y->values, y->slots, y->cu,
                 y->lens, y->table, y->norm, y->qkv, NULL, y->o, NULL, y->cos_sin, y->norm, y->gate_up, NULL, y->down,
                 NULL, 4, 0.25, true, 1e-5, false);
}

static double measure(fk_status (*call)(fk_context *, const layer *), bool unchecked) {
  fk_context *ctx;
  check(fk_context_create(&(fk_context_options){.backend = FK_CPU, .unchecked = unchecked}, &ctx));
  check(fk_override_fn(ctx, "rms_norm", nothing, NULL));
  check(fk_override_fn(ctx, "llama_decoder_layer", nothing, NULL));
  layer y = make(ctx);
  double best = 1;
  for (int r = 0; r < ROUNDS; r++) {
    double start = now();
    for (int i = 0; i < CALLS; i++) check(call(ctx, &y));
    double seconds = (now() - start) / CALLS;
    if (seconds < best) best = seconds;
  }
  fk_context_destroy(ctx);
  return best * 1e9;
}

int main(void) {
  static const struct {
    const char *name;
    fk_status (*call)(fk_context *, const layer *);
    bool unchecked;
    double target; /* ns */
  } rows[] = {{"rms_norm", call_norm, true, 150},
              {"rms_norm", call_norm, false, 1000},
              {"llama_decoder_layer", call_layer, true, 150},
              {"llama_decoder_layer", call_layer, false, 1000}};
  int missed = 0;
  printf("%-22s %-10s %10s %10s\n", "task", "arguments", "ns/call", "target");
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    double ns = measure(rows[i].call, rows[i].unchecked);
    bool met = ns <= rows[i].target;
    missed += !met;
    printf("%-22s %-10s %10.1f %10.0f%s\n", rows[i].name, rows[i].unchecked ? "unchecked" : "checked", ns,
           rows[i].target, met ? "" : "  MISSED");
  }
  return missed ? 1 : 0;
}
