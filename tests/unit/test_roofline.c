/* Rooflines: floors recomputed from a capture, rates and their fall-backs, tensor parallelism, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* cmocka.h needs the headers above. */
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/capture.h"
#include "engine/roofline.h"
#include "engine/simulate.h"

#define MODEL "llama-3.2-1b"

static fk_roofline *make(const char *model, const fk_roofline_options *options, const char *machine) {
  fk_roofline *r;
  if (fk_roofline_make(model, options, fk_machine_find(machine), &r) != FK_OK) fail_msg("%s", fk_last_error());
  return r;
}

static const fk_roofline_row *row_of(const fk_roofline *r, const char *name) {
  for (int i = 0; i < r->num_rows; i++)
    if (strcmp(r->rows[i].name, name) == 0) return &r->rows[i];
  fail_msg("there is no row %s", name);
  return NULL;
}

static void close_to(double got, double want) {
  if (fabs(got - want) > 1e-9 * fabs(want)) fail_msg("expected %.17g, got %.17g", want, got);
}

static void refuse(const char *model, fk_roofline_options options, const char *machine, const char *message) {
  fk_roofline *r = (fk_roofline *)&options;
  if (fk_roofline_make(model, &options, fk_machine_find(machine), &r) == FK_OK) fail_msg("expected: %s", message);
  assert_null(r);
  if (!strstr(fk_last_error(), message)) fail_msg("expected %s, got %s", message, fk_last_error());
}

/* One token of one request: every weight of the layers is read once, 2 FLOPs for each. */
static void test_decode_reads_the_weights(void **state) {
  (void)state;
  fk_roofline *r = make(MODEL, &(fk_roofline_options){0}, "h100");
  assert_string_equal(r->dtype, "bfloat16");
  assert_int_equal(r->steps, 128);
  assert_int_equal(r->output_tokens, 128);
  const fk_roofline_row *linear = row_of(r, "linear");
  const double weights = 1235814400 - 16 * 2 * 2048 - 2048; /* all parameters of the model are linear, norms apart */
  assert_true(linear->bytes > 2 * weights * 128 && linear->bytes < 2.02 * weights * 128);
  close_to(linear->seconds, linear->bytes / 3.35e12);
  assert_true(linear->compute_seconds == 0);
  assert_true(linear->share > 0.95 && linear->share < 1);
  fk_roofline_free(r);
}

/* The same sums from the same calls, by another way. */
static void test_floor_is_the_larger_time_case_by_case(void **state) {
  (void)state;
  const fk_capture_options options = {.max_cases = 512, .shapes_only = true};
  fk_capture *c;
  fk_roofline *r = make(MODEL, &(fk_roofline_options){.workload = "fixed-batch-32"}, "a100");
  assert_int_equal(fk_capture_model(MODEL, "fixed-batch-32", 0, &options, &c), FK_OK);
  double levels[5] = {0};
  assert_int_equal(fk_capture_count(c), r->num_rows);
  for (int i = 0; i < fk_capture_count(c); i++) {
    const fk_record_table *t = fk_capture_table(c, i);
    const fk_roofline_row *row = row_of(r, t->task->name);
    double floor = 0;
    for (int k = 0; k < t->count; k++)
      floor += fmax((double)t->cases[k]->all_flops / 312e12, (double)t->cases[k]->all_bytes / 2.039e12);
    close_to(row->seconds, floor);
    close_to(row->flops, (double)t->flops);
    close_to(row->bytes, (double)t->bytes);
    assert_int_equal(row->calls, t->calls);
    levels[t->task->level] += floor;
  }
  for (int i = 1; i < 5; i++) close_to(r->levels[i].seconds, levels[i]);
  close_to(fk_roofline_seconds(r, false), levels[1]);
  assert_true(r->levels[0].calls == 0);
  assert_true(row_of(r, "linear")->compute_seconds > 0); /* prefill of 32 requests is bound by arithmetic */
  fk_capture_destroy(c);
  fk_roofline_free(r);
}

static void test_dtype_and_measured_rates(void **state) {
  (void)state;
  fk_roofline *half = make(MODEL, &(fk_roofline_options){0}, "h200");
  fk_roofline *full = make(MODEL, &(fk_roofline_options){.dtype = FK_F32}, "h200");
  assert_string_equal(full->dtype, "float32");
  close_to(row_of(full, "linear")->bytes, 2 * row_of(half, "linear")->bytes);
  close_to(row_of(full, "linear")->flops, row_of(half, "linear")->flops);
  /* Bound by memory throughout, so that the floors differ by the rates of a copy. */
  close_to(row_of(half, "linear")->reachable, row_of(half, "linear")->seconds * 4.8 / 4.28);
  fk_roofline_free(half);
  fk_roofline_free(full);
  assert_true(fk_rate_value(&(fk_rate){5, 4}, false) == 5 && fk_rate_value(&(fk_rate){5, 4}, true) == 4);
  assert_true(fk_rate_value(&(fk_rate){0, 4}, false) == 4 && fk_rate_value(&(fk_rate){5, 0}, true) == 5);
  assert_int_equal(fk_rate_kind_of(FK_F16), FK_RATE_HALF);
  assert_int_equal(fk_rate_kind_of(FK_F8_E4M3FN), FK_RATE_FLOAT8);
  assert_int_equal(fk_rate_kind_of(FK_I64), FK_RATE_FLOAT32);
  for (const fk_machine *m = fk_machines; m->name; m++) {
    assert_ptr_equal(fk_machine_find(m->name), m);
    assert_non_null(m->source);
    assert_true(m->memory.datasheet > m->memory.measured && m->link > 0);
  }
}

static void test_cpu_is_measured(void **state) {
  (void)state;
  fk_machine cpu;
  fk_roofline *r;
  assert_int_equal(fk_machine_measure_cpu(0.05, &cpu), FK_OK);
  assert_int_equal(fk_roofline_make(MODEL, &(fk_roofline_options){0}, &cpu, &r), FK_OK);
  const fk_roofline_row *linear = row_of(r, "linear");
  /* No 16-bit rate is known: the float32 product's stands for it. */
  double rate = cpu.flops[FK_RATE_FLOAT32].measured, bytes = cpu.memory.measured;
  assert_true(linear->seconds >= linear->bytes / bytes * (1 - 1e-9));
  assert_true(linear->seconds >= linear->flops / rate * (1 - 1e-9));
  assert_true(linear->seconds <= linear->bytes / bytes + linear->flops / rate);
  close_to(fk_roofline_seconds(r, true), fk_roofline_seconds(r, false));
  fk_roofline_free(r);
}

static void test_tensor_parallelism(void **state) {
  (void)state;
  fk_roofline_options options = {0};
  fk_roofline *one = make(MODEL, &options, "h200");
  options.tensor_parallel = 4;
  fk_roofline *four = make(MODEL, &options, "h200");
  assert_int_equal(four->ranks, 4);
  assert_int_equal(four->tokens, one->tokens);
  close_to(4 * row_of(four, "linear")->flops, row_of(one, "linear")->flops);
  close_to(4 * row_of(four, "attention")->flops, row_of(one, "attention")->flops);
  close_to(row_of(four, "fused_add_rms_norm")->bytes, row_of(one, "fused_add_rms_norm")->bytes);
  assert_true(four->replicated > 0 && four->replicated < 0.01);
  /* 16 layers, two each, and the embedding; 2048 wide, two bytes; a ring of four sends 3/2 of it. */
  const fk_roofline_row *reduce = row_of(four, "all_reduce");
  assert_int_equal(reduce->level, 0);
  assert_int_equal(reduce->calls, 33 * four->steps);
  close_to(reduce->bytes, 33.0 * (double)four->tokens * 2048 * 2 * 1.5);
  close_to(reduce->seconds, reduce->bytes / 450e9);
  close_to(row_of(four, "all_gather of logits")->bytes, 128.0 * 128256 * 2 * 3 / 4);
  close_to(fk_roofline_seconds(four, false), four->levels[1].seconds + four->levels[0].seconds);
  assert_true(fk_roofline_seconds(four, false) < fk_roofline_seconds(one, false));
  fk_roofline_free(one);
  fk_roofline_free(four);
}

static void test_refusals(void **state) {
  (void)state;
  refuse(MODEL, (fk_roofline_options){.tensor_parallel = 3}, "h200", "num_attention_heads to be a multiple of 3 ranks");
  refuse(MODEL, (fk_roofline_options){.tensor_parallel = 2000}, "h200", "1 to 1024 ranks");
  refuse("convnextv2-tiny-1k-224", (fk_roofline_options){.tensor_parallel = 2}, "h200", "takes no token sequences");
  refuse("nonsense", (fk_roofline_options){0}, "h200", "neither a model folder nor a preset");
  refuse(MODEL, (fk_roofline_options){.workload = "nonsense"}, "h200", "nonsense");
  refuse(MODEL, (fk_roofline_options){.workload = "a", .trace = "b"}, "h200", "exclude each other");
  fk_machine lone = {.name = "lone", .memory = {1, 0}, .flops = {[FK_RATE_FLOAT32] = {1, 0}}};
  fk_roofline *r;
  assert_int_equal(fk_roofline_make(MODEL, &(fk_roofline_options){.tensor_parallel = 2}, &lone, &r),
                   FK_ERROR_UNSUPPORTED);
  assert_null(fk_machine_find("tpu"));
  assert_non_null(strstr(fk_last_error(), "expected h200"));
}

/* A folder that says how a file's text is divided, for the errors of fk_shard_config. */
static void test_shards_of_a_folder(void **state) {
  (void)state;
  char folder[] = "/tmp/fastkernels-roofline-XXXXXX", path[64];
  fk_shard shard;
  assert_non_null(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/config.json", folder);
  static const struct {
    const char *json, *error; /* NULL: it divides by 8 */
  } cases[] = {
      {"{\"num_hidden_layers\":2,\"hidden_size\":64,\"num_attention_heads\":16,\"num_key_value_heads\":4,"
       "\"intermediate_size\":128,\"vocab_size\":800}",
       NULL},
      {"{\"num_hidden_layers\":2,\"hidden_size\":64,\"num_attention_heads\":16,\"num_key_value_heads\":3,"
       "\"intermediate_size\":128,\"vocab_size\":800}",
       "num_key_value_heads to be a multiple or a divisor of 8"},
      {"{\"num_hidden_layers\":2,\"hidden_size\":64,\"num_attention_heads\":16,\"intermediate_size\":129,"
       "\"vocab_size\":800}",
       "intermediate_size to be a multiple of 8"},
      {"{\"num_hidden_layers\":2,\"hidden_size\":64,\"num_attention_heads\":16,\"intermediate_size\":128,"
       "\"vocab_size\":801}",
       "vocab_size to be a multiple of 8"},
      {"{\"hidden_size\":64}", "num_hidden_layers"},
      {"[]", "expected an object"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(cases[i].json, f);
    fclose(f);
    fk_status status = fk_shard_config(folder, 8, &shard);
    if ((status == FK_OK) != (cases[i].error == NULL)) fail_msg("case %zu: %s", i, fk_last_error());
    if (cases[i].error && !strstr(fk_last_error(), cases[i].error)) fail_msg("case %zu: %s", i, fk_last_error());
    if (cases[i].error) continue;
    assert_non_null(strstr(shard.json, "\"num_key_value_heads\":1"));
    assert_non_null(strstr(shard.json, "\"num_attention_heads\":2"));
    assert_non_null(strstr(shard.json, "\"head_dim\":4")); /* as before the heads were divided */
    assert_int_equal(shard.num_layers, 2);
    assert_int_equal(shard.vocab_size, 800);
    free(shard.json);
  }
  remove(path);
  remove(folder);
}

/* The program's JSON agrees with the library. */
static void test_program(void **state) {
  (void)state;
  FILE *f = popen(FK_BUILD_DIR "/fastkernels roofline " MODEL " --gpu b200 --tp 2 --json", "r");
  assert_non_null(f);
  json_t *json = json_loadf(f, 0, NULL);
  assert_int_equal(pclose(f), 0);
  fk_roofline *r = make(MODEL, &(fk_roofline_options){.tensor_parallel = 2}, "b200");
  json_t *tasks = json_object_get(json, "tasks"), *seconds = json_object_get(json, "seconds_per_output_token");
  assert_int_equal(json_array_size(tasks), r->num_rows);
  assert_string_equal(json_string_value(json_object_get(json_array_get(tasks, 0), "task")), r->rows[0].name);
  close_to(json_number_value(json_object_get(json_array_get(tasks, 0), "floor_seconds")), r->rows[0].seconds);
  close_to(json_number_value(json_object_get(seconds, "floor")), fk_roofline_seconds(r, false) / 128);
  assert_int_equal(json_array_size(json_object_get(json, "levels")), 5);
  fk_roofline_free(r);
  json_decref(json);
  assert_int_not_equal(system(FK_BUILD_DIR "/fastkernels roofline " MODEL " --gpu tpu 2>/dev/null"), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_decode_reads_the_weights), cmocka_unit_test(test_floor_is_the_larger_time_case_by_case),
      cmocka_unit_test(test_dtype_and_measured_rates), cmocka_unit_test(test_cpu_is_measured),
      cmocka_unit_test(test_tensor_parallelism),       cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_shards_of_a_folder),       cmocka_unit_test(test_program),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
