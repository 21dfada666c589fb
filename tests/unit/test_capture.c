/* Captures: exact counts whether or not composites are expanded again, the same cases on every device, sums kept by
 * merging, content of integers and floats, files that the judge reads back. */
#include <math.h>
#include <stdlib.h>

#include "engine/capture_file.h"
#include "io/file.h"
#include "io/json.h"
#include "judge/case.h"
#include "model_helpers.h"
#include "temp_dir.h"

#define TINY FK_SOURCE_DIR "/examples/tiny-llama"
enum { LAYERS = 5 };

static temp_dir dir;
static const char lengths[] =
    "{\"name\": \"w\", \"requests\": [{\"input_length\": 37, \"output_length\": 5}, {\"input_length\": 3,"
    "\"output_length\": 9, \"count\": 3}, {\"input_length\": 90, \"output_length\": 2}]}";

typedef struct result {
  fk_capture *capture;
  fk_simulation simulation;
} result;

/* Captures tiny-llama; when path is given, writes a file that does not say on which device. */
static result capture_tiny(fk_backend backend, const char *json, fk_capture_options options, const char *path) {
  result r;
  fk_workload *w;
  fk_context *ctx = open_context(backend);
  fk_model *model = open_model(ctx, TINY, (fk_model_options){.dtype = FK_F32});
  fk_batching_options batching = {.max_num_batched_tokens = 64, .max_num_seqs = 4, .num_blocks = 16};
  assert_ok(fk_workload_parse(json, strlen(json), "w.json", 0, &w));
  assert_ok(fk_capture_create(&options, &r.capture));
  assert_ok(fk_simulate(ctx, model, w, &batching, r.capture, &r.simulation));
  fk_capture_about about = {.model = "tiny",
                            .device = "any",
                            .dtype = "float32",
                            .arrival = "closed",
                            .created = "now",
                            .workload = w,
                            .simulation = &r.simulation};
  if (path) assert_ok(fk_capture_write(r.capture, &about, path));
  fk_workload_close(w);
  fk_model_close(model);
  fk_context_destroy(ctx);
  return r;
}

static void release(result *r) {
  fk_capture_destroy(r->capture);
  fk_simulation_free(&r->simulation);
}

static void assert_same_file(const char *a, const char *b) {
  char *x, *y;
  size_t n, m;
  assert_ok(fk_file_read(a, 1 << 26, &x, &n));
  assert_ok(fk_file_read(b, 1 << 26, &y, &m));
  assert_string_equal(x, y);
  free(x);
  free(y);
}

static uint64_t calls(const result *r, const char *task) {
  const fk_record_table *t = fk_capture_find(r->capture, task);
  return t ? t->calls : 0;
}

static void counts_follow_from_the_model(void **state) {
  (void)state;
  result r = capture_tiny(FK_META, lengths, (fk_capture_options){0}, NULL);
  uint64_t steps = (uint64_t)r.simulation.stats.steps;
  assert_true(steps >= 9); /* one request emits nine tokens */
  assert_int_equal(calls(&r, "llama_step"), steps);
  assert_int_equal(calls(&r, "llama_decoder_layer"), LAYERS * steps);
  assert_int_equal(calls(&r, "attention"), LAYERS * steps);
  assert_int_equal(calls(&r, "linear"), (4 * LAYERS + 1) * steps);
  assert_int_equal(calls(&r, "rms_norm"), steps);
  assert_int_equal(calls(&r, "fused_add_rms_norm"), 2 * LAYERS * steps);
  /* Of silu_and_mul: intermediate_size 384 per token and layer. */
  int64_t tokens = r.simulation.stats.prefill_tokens + r.simulation.stats.decode_tokens, seen = 0;
  const fk_record_table *t = fk_capture_find(r.capture, "silu_and_mul");
  for (int i = 0; i < t->count; i++) seen += (int64_t)t->cases[i]->calls * t->cases[i]->binding.lead[0];
  assert_int_equal(seen, LAYERS * tokens);
  /* A model costs what its direct calls cost. */
  static const char *const direct[] = {"embedding", "llama_decoder_layer"};
  double bytes = 0;
  for (size_t i = 0; i < 2; i++) bytes += (double)fk_capture_find(r.capture, direct[i])->bytes;
  const fk_record_table *step = fk_capture_find(r.capture, "llama_step");
  assert_true((double)step->bytes > bytes && step->uncosted == 0);
  release(&r);
}

/* A model that takes no steps has its entry too, one call per set of inputs. */
static void forward_is_level_4(void **state) {
  (void)state;
  static const struct {
    const char *preset, *workload, *task;
    uint64_t calls;
  } models[] = {{"bge-m3", NULL, "bge_m3_forward", 2},
                {"colbertv2.0", "msmarco-passages", "colbertv2_forward", 5},
                {"convnextv2-tiny-1k-224", NULL, "convnextv2_forward", 2},
                {"dlrmv2-criteo", NULL, "dlrmv2_forward", 3}};
  for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
    fk_capture *capture;
    assert_ok(fk_capture_model(models[i].preset, models[i].workload, 0, &(fk_capture_options){0}, &capture));
    const fk_record_table *t = fk_capture_find(capture, models[i].task);
    assert_non_null(t);
    assert_int_equal(t->task->level, 4);
    assert_int_equal(t->calls, models[i].calls);
    assert_int_equal(t->uncosted, 0);
    long double kernels = 0; /* what the model costs, up to how blocks count the small parts */
    for (int k = 0; k < fk_capture_count(capture); k++)
      if (fk_capture_table(capture, k)->task->level == 1) kernels += fk_capture_table(capture, k)->flops;
    assert_true(kernels > 0 && fabsl(kernels / t->flops - 1) < 0.02L);
    assert_true(t->bytes > 0);
    fk_capture_destroy(capture);
  }
}

/* Inputs that do not fit the declared ones are refused in the model's own words, and leave nothing recorded. */
static void wrong_inputs_are_the_models_to_refuse(void **state) {
  (void)state;
  fk_context *ctx;
  fk_model *model;
  fk_capture *capture;
  fk_tensors inputs = {0}, outputs;
  assert_ok(fk_context_create(&(fk_context_options){.backend = FK_META}, &ctx));
  assert_ok(fk_model_open(ctx, "convnextv2-tiny-1k-224", &(fk_model_options){0}, &model));
  assert_ok(fk_capture_create(&(fk_capture_options){0}, &capture));
  assert_ok(fk_tensors_put(&inputs, "pixel_values", fk_empty(ctx, FK_F32, 3, 224, 224)));
  fk_context_record(ctx, fk_capture_recorder(capture));
  assert_fails(fk_model_forward(ctx, model, &inputs, &outputs), FK_ERROR_ARGUMENT,
               "pixel_values: expected shape [batch, channels, height, width], got 3 dimensions");
  assert_int_equal(outputs.count, 0);
  assert_int_equal(fk_capture_count(capture), 0);
  inputs.items[0].tensor = fk_empty(ctx, FK_F32, 1, 3, 224, 224);
  /* Twice the same in one step: the second is counted without its parts, and has outputs all the same. */
  for (int i = 0; i < 2; i++) {
    assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
    assert_int_equal(fk_tensors_get(&outputs, "logits")->shape[1], 1000);
  }
  assert_ok(fk_capture_step(capture));
  assert_int_equal(fk_capture_find(capture, "convnextv2_forward")->calls, 2);
  assert_int_equal(fk_capture_find(capture, "global_avg_pool2d")->calls, 2);
  fk_context_record(ctx, NULL);
  fk_capture_destroy(capture);
  fk_model_close(model);
  fk_context_destroy(ctx);
}

static void skipping_changes_nothing(void **state) {
  (void)state;
  const char *a = temp_path(&dir, "skipped.json"), *b = temp_path(&dir, "expanded.json");
  result r = capture_tiny(FK_META, lengths, (fk_capture_options){0}, a);
  result all = capture_tiny(FK_META, lengths, (fk_capture_options){.expand_all = true}, b);
  assert_same_file(a, b);
  release(&r);
  release(&all);
}

static void devices_see_the_same_cases(void **state) {
  (void)state;
  const char *a = temp_path(&dir, "meta.json"), *b = temp_path(&dir, "cpu.json");
  result meta = capture_tiny(FK_META, lengths, (fk_capture_options){.shapes_only = true}, a);
  result cpu = capture_tiny(FK_CPU, lengths, (fk_capture_options){.shapes_only = true}, b);
  assert_same_file(a, b);
  assert_int_equal(cpu.simulation.num_first_output, 5);
  release(&meta);
  release(&cpu);
}

static void merging_keeps_sums(void **state) {
  (void)state;
  result full = capture_tiny(FK_META, lengths, (fk_capture_options){.max_cases = 1000}, NULL);
  result few = capture_tiny(FK_META, lengths, (fk_capture_options){.max_cases = 3}, NULL);
  bool merged = false;
  for (int i = 0; i < fk_capture_count(full.capture); i++) {
    const fk_record_table *a = fk_capture_table(full.capture, i), *b = fk_capture_find(few.capture, a->task->name);
    uint64_t count = 0, distinct = 0;
    long double flops = 0, bytes = 0;
    for (int k = 0; k < b->count; k++) {
      count += b->cases[k]->calls;
      distinct += b->cases[k]->merged;
      flops += b->cases[k]->all_flops;
      bytes += b->cases[k]->all_bytes;
    }
    assert_int_equal((int64_t)a->distinct, a->count);
    assert_int_equal(b->distinct, a->distinct);
    assert_int_equal(distinct, a->distinct);
    assert_int_equal(count, a->calls);
    assert_true(flops == a->flops && bytes == a->bytes && flops == b->flops);
    if (strcmp(a->task->name, "rms_norm") == 0) assert_true(b->count <= 3);
    merged = merged || b->count < a->count;
  }
  assert_true(merged);
  release(&full);
  release(&few);
}

static void the_judge_reads_every_case(void **state) {
  (void)state;
  const char *path = temp_path(&dir, "judge.json");
  result r = capture_tiny(FK_CPU, lengths, (fk_capture_options){.max_cases = 4}, path);
  json_t *root, *tasks;
  assert_ok(fk_json_load(path, 1 << 26, &root));
  tasks = json_object_get(root, "tasks");
  fk_arena arena;
  fk_arena_init(&arena, &fk_host_memory, 0);
  for (int i = 0; i < fk_capture_count(r.capture); i++) {
    const fk_record_table *t = fk_capture_table(r.capture, i);
    const json_t *cases = json_object_get(json_object_get(tasks, t->task->name), "cases");
    assert_int_equal(json_array_size(cases), t->count);
    for (int k = 0; k < t->count && t->task->index >= 0; k++) {
      fk_case *c;
      assert_ok(fk_case_parse(&arena, t->task, json_array_get(cases, (size_t)k), "capture", &c));
      assert_int_equal(c->count, t->cases[k]->calls);
      assert_int_equal(c->binding.layout, t->cases[k]->binding.layout);
      assert_memory_equal(c->binding.symbols, t->cases[k]->binding.symbols,
                          (size_t)t->task->num_symbols * sizeof(int64_t));
      for (int a = 0; a < t->task->num_args; a++) {
        const fk_record_arg *arg = &t->cases[k]->args[a];
        assert_int_equal(c->tensors[a].given, arg->present);
        if (!arg->ints) continue;
        assert_int_equal(c->tensors[a].num_values, arg->ints->count);
        for (int64_t v = 0; v < arg->ints->count; v++)
          assert_true(c->tensors[a].values[v] == (double)fk_ints_at(arg->ints, v));
      }
    }
  }
  fk_arena_destroy(&arena);
  json_decref(root);
  release(&r);
}

static void content(void **state) {
  (void)state;
  test_tensor box;
  float x[6] = {1, -3, 0, 2, NAN, INFINITY};
  fk_stats s;
  assert_ok(fk_stats_read(TENSOR(&box, x, FK_F32, 2, 3), &s));
  /* Of 1, -3, 0, 2: mean 0, variance 14/4. */
  assert_true(s.mean == 0 && fabs(s.std - sqrt(3.5)) < 1e-15 && s.min == -3 && s.max == 2 && s.absmax == 3);
  assert_true(fabs(s.zero - 1 / 6.0) < 1e-15 && fabs(s.nonfinite - 2 / 6.0) < 1e-15 && s.sampled == 6);
  int64_t wide[4] = {1, (int64_t)1 << 40, 3, -4};
  fk_ints *ints;
  fk_tensor *t = TENSOR(&box, wide, FK_I64, 2, 2);
  box.strides[0] = 1;
  box.strides[1] = 2; /* transposed */
  assert_ok(fk_ints_read(t, &ints));
  assert_int_equal(fk_ints_at(ints, 1), 3);
  assert_int_equal(fk_ints_at(ints, 2), (int64_t)1 << 40);
  fk_ints_release(ints);
}

static void large_tables_become_statistics(void **state) {
  (void)state;
  static int32_t ids[FK_MAX_KEPT_INTS + 1];
  fk_capture *c;
  fk_context *ctx = open_context(FK_META);
  test_tensor boxes[2];
  assert_ok(fk_capture_create(&(fk_capture_options){0}, &c));
  fk_context_record(ctx, fk_capture_recorder(c));
  for (int64_t n = FK_MAX_KEPT_INTS; n <= FK_MAX_KEPT_INTS + 1; n++) {
    fk_tensor *out = fk_empty(ctx, FK_F32, n, 4);
    assert_ok(
        fk_call(ctx, "embedding", TENSOR(&boxes[0], ids, FK_I32, n), TENSOR(&boxes[1], NULL, FK_F32, 10, 4), out));
  }
  assert_ok(fk_capture_step(c));
  assert_ok(fk_capture_finish(c));
  const fk_record_table *t = fk_capture_find(c, "embedding");
  assert_int_equal(t->count, 2); /* the larger one first */
  assert_true(!t->cases[0]->args[0].ints && t->cases[0]->args[0].stats);
  assert_true(t->cases[1]->args[0].ints && !t->cases[1]->args[0].stats);
  fk_context_destroy(ctx);
  fk_capture_destroy(c);
}

static int make_dir(void **state) {
  (void)state;
  return temp_dir_make(&dir);
}

static int remove_dir(void **state) {
  (void)state;
  temp_dir_remove(&dir);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(counts_follow_from_the_model),
                                     cmocka_unit_test(forward_is_level_4),
                                     cmocka_unit_test(wrong_inputs_are_the_models_to_refuse),
                                     cmocka_unit_test(skipping_changes_nothing),
                                     cmocka_unit_test(devices_see_the_same_cases),
                                     cmocka_unit_test(merging_keeps_sums),
                                     cmocka_unit_test(the_judge_reads_every_case),
                                     cmocka_unit_test(content),
                                     cmocka_unit_test(large_tables_become_statistics)};
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
