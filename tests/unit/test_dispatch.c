/* Calls: who computes them, what they leave behind, who watches, and how errors name the place. */
#include <math.h>
#include <stdlib.h>

#include "core_helpers.h"

#define CANDIDATE FK_BUILD_DIR "/candidates/double_norm.so"

static fk_context *make(fk_backend backend) {
  fk_context *ctx;
  assert_ok(fk_context_create(&(fk_context_options){.backend = backend}, &ctx));
  return ctx;
}

typedef struct norm {
  float x[8], weight[4], out[8];
  test_tensor tx, tw, to;
} norm;

static void norm_fill(norm *c) {
  *c = (norm){.x = {1, 2, 3, 4, 5, 6, 7, 8}, .weight = {1, 1, 2, 2}};
  TENSOR(&c->tx, c->x, FK_F32, 2, 4);
  TENSOR(&c->tw, c->weight, FK_F32, 4);
  TENSOR(&c->to, c->out, FK_F32, 2, 4);
}

static void assert_normed(const norm *c) {
  for (int r = 0; r < 2; r++) {
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += (double)c->x[4 * r + i] * c->x[4 * r + i];
    for (int i = 0; i < 4; i++)
      assert_true(fabs(c->out[4 * r + i] - c->x[4 * r + i] / sqrt(sum / 4) * c->weight[i]) < 1e-5);
  }
}

static fk_status call_norm(fk_context *ctx, norm *c, double epsilon) {
  return fk_call(ctx, "rms_norm", &c->tx.t, &c->tw.t, epsilon, &c->to.t);
}

static void test_computes(void **state) {
  (void)state;
  static const fk_backend backends[] = {FK_REF, FK_CPU};
  for (int b = 0; b < 2; b++) {
    fk_context *ctx = make(backends[b]);
    assert_int_equal(fk_context_backend(ctx), backends[b]);
    norm c;
    norm_fill(&c);
    assert_ok(call_norm(ctx, &c, 0));
    assert_normed(&c);
    fk_context_destroy(ctx);
  }
}

static void test_creation_errors(void **state) {
  (void)state;
  fk_context *ctx = (fk_context *)1;
  assert_fails(fk_context_create(&(fk_context_options){.backend = (fk_backend)9}, &ctx), FK_ERROR_ARGUMENT, "backend");
  assert_null(ctx);
  assert_fails(fk_context_create(&(fk_context_options){.backend = FK_CPU, .num_threads = -1}, &ctx), FK_ERROR_ARGUMENT,
               "thread count");
  fk_context_destroy(NULL);
}

static void test_unknown_task(void **state) {
  (void)state;
  fk_context *ctx = make(FK_CPU);
  norm c;
  norm_fill(&c);
  assert_fails(fk_call(ctx, "rmsnorm", &c.tx.t), FK_ERROR_NOT_FOUND, "\"rmsnorm\" (did you mean rms_norm?)");
  assert_fails(fk_call(ctx, "zz", 1), FK_ERROR_NOT_FOUND, "fastkernels list");
  assert_fails(fk_override(ctx, "rmsnorm", CANDIDATE), FK_ERROR_NOT_FOUND, "rms_norm");
  assert_fails(fk_call_array(ctx, NULL, NULL, 0), FK_ERROR_NOT_FOUND, "NULL");
  fk_context_destroy(ctx);
}

static void test_meta_checks_and_computes_nothing(void **state) {
  (void)state;
  fk_context *ctx = make(FK_META);
  norm c;
  norm_fill(&c);
  c.tx.t.data = c.tw.t.data = c.to.t.data = NULL;
  assert_ok(call_norm(ctx, &c, 0));
  c.tw.shape[0] = 5;
  assert_fails(call_norm(ctx, &c, 0), FK_ERROR_ARGUMENT, "rms_norm: weight: expected shape [hidden_size]");
  assert_fails(fk_override(ctx, "rms_norm", CANDIDATE), FK_ERROR_UNSUPPORTED, "meta");
  fk_context_destroy(ctx);
}

static void test_unchecked(void **state) {
  (void)state;
  fk_context *ctx;
  assert_ok(fk_context_create(&(fk_context_options){.backend = FK_CPU, .unchecked = true}, &ctx));
  norm c;
  norm_fill(&c);
  assert_ok(call_norm(ctx, &c, 0));
  assert_normed(&c);
  assert_ok(call_norm(ctx, &c, -1e-9)); /* the check would refuse a negative epsilon */
  fk_context_destroy(ctx);
  ctx = make(FK_CPU);
  assert_fails(call_norm(ctx, &c, -1e-9), FK_ERROR_ARGUMENT, "epsilon");
  fk_context_destroy(ctx);
}

/* ---- Overrides ------------------------------------------------------------------------------------------- */

static int fill_with_self(void *self, const fk_any *args, int32_t num_args, fk_any *result) {
  (void)result;
  FK_REQUIRE(num_args == 4, "TypeError", "four arguments");
  const fk_tensor *out = fk_arg_tensor(&args[3]);
  for (int64_t i = 0; i < fk_numel(out); i++) ((float *)fk_data(out))[i] = *(float *)self;
  return 0;
}

static void test_override_by_function(void **state) {
  (void)state;
  fk_context *ctx = make(FK_CPU), *other = make(FK_CPU);
  float value = 42;
  norm c;
  norm_fill(&c);
  assert_ok(fk_override_fn(ctx, "rms_norm", fill_with_self, &value));
  assert_ok(call_norm(ctx, &c, 0));
  assert_true(c.out[7] == 42);
  assert_ok(call_norm(other, &c, 0)); /* an override belongs to its context */
  assert_normed(&c);
  fk_context_destroy(ctx);
  fk_context_destroy(other);
}

static void test_override_by_file(void **state) {
  (void)state;
  static const fk_backend backends[] = {FK_REF, FK_CPU};
  for (int b = 0; b < 2; b++) {
    fk_context *ctx = make(backends[b]);
    norm c;
    norm_fill(&c);
    assert_ok(fk_override(ctx, "rms_norm", CANDIDATE));
    assert_ok(call_norm(ctx, &c, 0)); /* fails unless it gets the workspace it asks for */
    for (int i = 0; i < 8; i++) assert_true(c.out[i] == 2 * c.weight[i % 4]);
    assert_fails(call_norm(ctx, &c, 9), FK_ERROR_KERNEL, "rms_norm: ValueError: epsilon is nine");
    assert_fails(call_norm(ctx, &c, 8), FK_ERROR_KERNEL, "rms_norm: the kernel returned -1 and no error message");
    fk_context_destroy(ctx);
  }
}

static void test_override_errors(void **state) {
  (void)state;
  fk_context *ctx = make(FK_CPU);
  assert_fails(fk_override(ctx, "rms_norm", "/nowhere.so"), FK_ERROR_NOT_FOUND,
               "/nowhere.so: cannot load: No such file");
  assert_fails(fk_override(ctx, "rms_norm", FK_SOURCE_DIR "/CMakeLists.txt"), FK_ERROR_NOT_FOUND, "cannot load");
  assert_fails(fk_override(ctx, "linear", CANDIDATE), FK_ERROR_NOT_FOUND, "exports no symbol __tvm_ffi_linear");
  fk_context_destroy(ctx);
}

/* ---- Composition ----------------------------------------------------------------------------------------- */

typedef struct mlp {
  float x[2 * 4], gate_up[2 * 3 * 4], down[4 * 3], out[2 * 4];
  test_tensor tx, tgu, td, to;
} mlp;

static void mlp_fill(mlp *m) {
  *m = (mlp){0};
  for (int i = 0; i < 8; i++) m->x[i] = (float)(i - 3);
  for (int i = 0; i < 24; i++) m->gate_up[i] = (float)(i % 5) / 4;
  for (int i = 0; i < 12; i++) m->down[i] = (float)(i % 7) / 8;
  TENSOR(&m->tx, m->x, FK_F32, 2, 4);
  TENSOR(&m->tgu, m->gate_up, FK_F32, 6, 4);
  TENSOR(&m->td, m->down, FK_F32, 4, 3);
  TENSOR(&m->to, m->out, FK_F32, 2, 4);
}

static fk_status call_mlp(fk_context *ctx, mlp *m) {
  return fk_call(ctx, "llama_mlp", &m->tx.t, &m->tgu.t, NULL, &m->td.t, NULL, &m->to.t);
}

static int failing(void *self, const fk_any *args, int32_t num_args, fk_any *result) {
  (void)self, (void)args, (void)num_args, (void)result;
  return fk_raise("ValueError", "on purpose");
}

static void test_composition(void **state) {
  (void)state;
  mlp on_ref, on_cpu;
  fk_context *ref = make(FK_REF), *cpu = make(FK_CPU);
  mlp_fill(&on_ref);
  mlp_fill(&on_cpu);
  assert_ok(call_mlp(ref, &on_ref));
  assert_ok(call_mlp(cpu, &on_cpu));
  for (int i = 0; i < 8; i++) {
    double sum = 0; /* by hand */
    for (int k = 0; k < 3; k++) {
      double gate = 0, up = 0;
      for (int j = 0; j < 4; j++) {
        gate += on_ref.x[i / 4 * 4 + j] * on_ref.gate_up[k * 4 + j];
        up += on_ref.x[i / 4 * 4 + j] * on_ref.gate_up[(3 + k) * 4 + j];
      }
      sum += gate / (1 + exp(-gate)) * up * on_ref.down[i % 4 * 3 + k];
    }
    assert_true(fabs(on_ref.out[i] - sum) < 1e-4);
    assert_true(fabs(on_cpu.out[i] - sum) < 1e-4);
  }
  /* whoever calls a task follows its override, and errors name the way down */
  assert_ok(fk_override_fn(cpu, "silu_and_mul", failing, NULL));
  assert_fails(call_mlp(cpu, &on_cpu), FK_ERROR_KERNEL, "llama_mlp: silu_and_mul: ValueError: on purpose");
  fk_context_destroy(ref);
  fk_context_destroy(cpu);
}

static void test_temporaries_are_rewound(void **state) {
  (void)state;
  fk_context *ctx = make(FK_CPU);
  mlp m;
  mlp_fill(&m);
  fk_tensor *kept = fk_empty(ctx, FK_F32, 4);
  for (int i = 0; i < 4; i++) ((float *)kept->data)[i] = 3;
  size_t before = ctx->host.in_use;
  for (int i = 0; i < 10; i++) assert_ok(call_mlp(ctx, &m));
  assert_int_equal(ctx->host.in_use, before);
  size_t peak = ctx->host.peak;
  assert_true(peak > before);
  for (int i = 0; i < 10; i++) assert_ok(call_mlp(ctx, &m));
  assert_int_equal(ctx->host.peak, peak);
  assert_ok(fk_override_fn(ctx, "silu_and_mul", failing, NULL));
  assert_int_equal(call_mlp(ctx, &m), FK_ERROR_KERNEL);
  assert_int_equal(ctx->host.in_use, before); /* after a failure too */
  for (int i = 0; i < 4; i++) assert_true(((float *)kept->data)[i] == 3);
  fk_context_reset(ctx);
  assert_int_equal(ctx->host.in_use, 0);
  fk_context_destroy(ctx);
}

static void test_pending_failure(void **state) {
  (void)state;
  fk_context *ctx = make(FK_CPU);
  norm c;
  norm_fill(&c);
  fk_tensor *bad = fk_empty(ctx, FK_F32, 2, -4);
  assert_null(bad);
  assert_fails(fk_call(ctx, "rms_norm", bad, &c.tw.t, 1e-6, bad), FK_ERROR_ARGUMENT,
               "rms_norm: tensor: dimension 1 is -4");
  assert_ok(call_norm(ctx, &c, 0)); /* reported once */
  fk_context_destroy(ctx);
}

static int forgets_a_temporary(void *self, const fk_any *args, int32_t num_args, fk_any *result) {
  (void)args, (void)num_args, (void)result;
  (void)fk_empty((fk_context *)self, FK_F32, -1);
  return 0;
}

static void test_unnoticed_failure(void **state) {
  (void)state;
  fk_context *ctx = make(FK_CPU);
  norm c;
  norm_fill(&c);
  assert_ok(fk_override_fn(ctx, "rms_norm", forgets_a_temporary, ctx));
  assert_fails(call_norm(ctx, &c, 0), FK_ERROR_ARGUMENT, "rms_norm: tensor: dimension 0 is -1");
  fk_context_destroy(ctx);
}

/* ---- The recorder ---------------------------------------------------------------------------------------- */

typedef struct journal {
  fk_recorder recorder;
  char text[512];
  bool skip_mlp;
  int64_t rows;
} journal;

static bool enter(fk_recorder *self, fk_context *ctx, const fk_task *task, const fk_any *args, const fk_binding *b) {
  (void)ctx, (void)args;
  journal *j = (journal *)self;
  strcat(strcat(j->text, task->name), "( ");
  int rows = fk_task_symbol(task, "rows");
  if (rows >= 0) j->rows = b->symbols[rows];
  return !(j->skip_mlp && strcmp(task->name, "llama_mlp") == 0);
}

static void leave(fk_recorder *self, fk_context *ctx, const fk_task *task, const fk_any *args, fk_status status) {
  (void)ctx, (void)task, (void)args;
  strcat(((journal *)self)->text, status ? "! " : ") ");
}

static void test_recorder(void **state) {
  (void)state;
  static const fk_backend backends[] = {FK_REF, FK_CPU, FK_META};
  for (int b = 0; b < 3; b++) {
    fk_context *ctx = make(backends[b]);
    journal j = {.recorder = {enter, leave}};
    mlp m;
    mlp_fill(&m);
    fk_context_record(ctx, &j.recorder);
    assert_ok(call_mlp(ctx, &m));
    assert_string_equal(j.text, "llama_mlp( linear( ) silu_and_mul( ) linear( ) ) ");
    assert_int_equal(j.rows, 2);
    fk_context_record(ctx, NULL);
    assert_ok(call_mlp(ctx, &m));
    assert_int_equal(strlen(j.text), strlen("llama_mlp( linear( ) silu_and_mul( ) linear( ) ) "));
    fk_context_destroy(ctx);
  }
}

static void test_recorder_skips_and_sees_failures(void **state) {
  (void)state;
  mlp m;
  mlp_fill(&m);
  fk_context *meta = make(FK_META), *cpu = make(FK_CPU);
  journal skipping = {.recorder = {enter, leave}, .skip_mlp = true}, failed = {.recorder = {enter, leave}};
  fk_context_record(meta, &skipping.recorder);
  assert_ok(call_mlp(meta, &m));
  assert_string_equal(skipping.text, "llama_mlp( ) ");
  fk_context_record(cpu, &failed.recorder);
  assert_ok(fk_override_fn(cpu, "silu_and_mul", failing, NULL));
  assert_int_equal(call_mlp(cpu, &m), FK_ERROR_KERNEL);
  assert_string_equal(failed.text, "llama_mlp( linear( ) silu_and_mul( ! ! ");
  fk_context_destroy(meta);
  fk_context_destroy(cpu);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_computes),         cmocka_unit_test(test_creation_errors),
      cmocka_unit_test(test_unknown_task),     cmocka_unit_test(test_meta_checks_and_computes_nothing),
      cmocka_unit_test(test_unchecked),        cmocka_unit_test(test_override_by_function),
      cmocka_unit_test(test_override_by_file), cmocka_unit_test(test_override_errors),
      cmocka_unit_test(test_composition),      cmocka_unit_test(test_temporaries_are_rewound),
      cmocka_unit_test(test_pending_failure),  cmocka_unit_test(test_unnoticed_failure),
      cmocka_unit_test(test_recorder),         cmocka_unit_test(test_recorder_skips_and_sees_failures),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
