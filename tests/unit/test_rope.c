/* Rotary frequencies against transformers and against the formulas in 50 digits (tests/golden/make_rope.py), read from
 * config.json in the new spelling and in the old one. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* cmocka.h wants the headers above first. */
#include <cmocka.h>

#include "engine/loader_state.h"
#include "engine/rope.h"

enum { MAX_DIM = 256 };

static json_t *fixture;

static fk_loader loader_of(const json_t *config) {
  return (fk_loader){.where = "config.json", .config = config, .backend = FK_REF};
}

static double number(const json_t *object, const char *key) {
  return json_number_value(json_object_get(object, key));
}

static void assert_close(const char *name, const json_t *want, const double *got, int64_t n, double relative,
                         double absolute) {
  assert_int_equal(json_array_size(want), n);
  for (int64_t i = 0; i < n; i++) {
    double w = json_number_value(json_array_get(want, (size_t)i));
    if (!(fabs(got[i] - w) <= relative * fabs(w) + absolute))
      fail_msg("%s, pair %d: got %.17g, expected %.17g", name, (int)i, got[i], w);
  }
}

static void check_frequencies(const json_t *c, const json_t *config) {
  double inv_freq[MAX_DIM / 2], factor;
  const char *name = json_string_value(json_object_get(c, "name"));
  int64_t dim = json_integer_value(json_object_get(c, "rotary_dim"));
  fk_loader l = loader_of(config);
  fk_rope rope;
  if (fk_rope_read(&l, dim, &rope)) fail_msg("%s: %s", name, fk_last_error());
  rope.seq_len = json_integer_value(json_object_get(c, "seq_len"));
  const json_t *exact = json_object_get(c, "exact"), *rounded = json_object_get(c, "float32");
  if (fk_rope_frequencies(&rope, inv_freq, &factor)) fail_msg("%s: %s", name, fk_last_error());
  /* The library's pow may differ from ours in the last bit of a float, and YaRN's ramp carries that on. */
  assert_close(name, json_object_get(rounded, "inv_freq"), inv_freq, dim / 2, 2.5e-7, 0);
  rope.exact = true;
  if (fk_rope_frequencies(&rope, inv_freq, &factor)) fail_msg("%s: %s", name, fk_last_error());
  assert_close(name, json_object_get(exact, "inv_freq"), inv_freq, dim / 2, 1e-12, 0);
  assert_true(fabs(factor / number(exact, "attention_factor") - 1) <= 1e-12);
  assert_true(fabs(factor / number(rounded, "attention_factor") - 1) <= 1e-6);
}

static void frequencies_match(void **state) {
  (void)state;
  size_t i;
  json_t *c;
  assert_true(json_array_size(json_object_get(fixture, "cases")) >= 10);
  json_array_foreach(json_object_get(fixture, "cases"), i, c) check_frequencies(c, json_object_get(c, "config"));
}

/* The same configurations as older checkpoints have them: theta at the top, the rest under rope_scaling, "type". */
static void old_spelling_is_read(void **state) {
  (void)state;
  size_t i;
  json_t *c;
  json_array_foreach(json_object_get(fixture, "cases"), i, c) {
    json_t *config = json_deep_copy(json_object_get(c, "config"));
    json_t *section = json_incref(json_object_get(config, "rope_parameters"));
    json_object_del(config, "rope_parameters");
    json_object_set(config, "rope_theta", json_object_get(section, "rope_theta"));
    json_object_del(section, "rope_theta");
    json_object_set(section, "type", json_object_get(section, "rope_type"));
    json_object_del(section, "rope_type");
    json_object_set_new(config, "rope_scaling", section);
    check_frequencies(c, config);
    json_decref(config);
  }
}

static void tables_match(void **state) {
  (void)state;
  size_t i, k;
  json_t *c, *row;
  json_array_foreach(json_object_get(fixture, "cases"), i, c) {
    int64_t dim = json_integer_value(json_object_get(c, "rotary_dim")), shape[] = {4096, dim};
    fk_loader l = loader_of(json_object_get(c, "config"));
    fk_rope rope;
    assert_int_equal(fk_rope_read(&l, dim, &rope), FK_OK);
    rope.seq_len = json_integer_value(json_object_get(c, "seq_len"));
    rope.exact = true;
    double *data = malloc((size_t)(4096 * dim) * sizeof *data);
    assert_non_null(data);
    fk_tensor table = {
        .data = data, .device = {FK_DL_CPU, 0}, .ndim = 2, .dtype = fk_dtype_from(FK_F64), .shape = shape};
    assert_int_equal(fk_rope_table(&rope, &table), FK_OK);
    json_array_foreach(json_object_get(c, "rows"), k, row) {
      int64_t p = json_integer_value(json_object_get(row, "position"));
      /* A frequency's last bit is worth p bits of the angle. */
      double slack = 1e-15 * (double)(p + 10);
      assert_close("cos", json_object_get(row, "cos"), data + p * dim, dim / 2, 0, slack);
      assert_close("sin", json_object_get(row, "sin"), data + p * dim + dim / 2, dim / 2, 0, slack);
    }
    free(data);
  }
}

static void tables_round_once(void **state) {
  (void)state;
  enum { POSITIONS = 50, DIM = 16 };
  int64_t shape[] = {POSITIONS, DIM};
  static double wide[POSITIONS * DIM];
  static float narrow[POSITIONS * DIM];
  fk_rope rope = {.rotary_dim = DIM, .theta = 10000};
  fk_tensor table = {.data = wide, .device = {FK_DL_CPU, 0}, .ndim = 2, .dtype = fk_dtype_from(FK_F64), .shape = shape};
  assert_int_equal(fk_rope_table(&rope, &table), FK_OK);
  table.data = narrow;
  table.dtype = fk_dtype_from(FK_F32);
  assert_int_equal(fk_rope_table(&rope, &table), FK_OK);
  for (int i = 0; i < POSITIONS * DIM; i++) assert_true(narrow[i] == (float)wide[i]);
}

static void refuses(fk_rope rope, const char *word) {
  double inv_freq[MAX_DIM / 2], factor;
  assert_int_equal(fk_rope_frequencies(&rope, inv_freq, &factor), FK_ERROR_ARGUMENT);
  if (!strstr(fk_last_error(), word)) fail_msg("\"%s\" does not mention %s", fk_last_error(), word);
}

static void bad_descriptions_are_refused(void **state) {
  (void)state;
  refuses((fk_rope){.rotary_dim = 0, .theta = 1e4}, "rotary_dim");
  refuses((fk_rope){.rotary_dim = 7, .theta = 1e4}, "rotary_dim");
  refuses((fk_rope){.rotary_dim = 8}, "theta");
  refuses((fk_rope){.rotary_dim = 8, .theta = NAN}, "theta");
  refuses((fk_rope){.type = 17, .rotary_dim = 8, .theta = 1e4}, "type");
  refuses((fk_rope){.type = FK_ROPE_LINEAR, .rotary_dim = 8, .theta = 1e4}, "factor");
  refuses((fk_rope){.type = FK_ROPE_DYNAMIC, .rotary_dim = 2, .theta = 1e4, .factor = 2, .max_position_embeddings = 9},
          "rotary_dim");
  refuses((fk_rope){.type = FK_ROPE_LLAMA3,
                    .rotary_dim = 8,
                    .theta = 1e4,
                    .factor = 8,
                    .low_freq_factor = 4,
                    .high_freq_factor = 4,
                    .original_max_position_embeddings = 8192},
          "high_freq_factor");
  refuses((fk_rope){.type = FK_ROPE_YARN, .rotary_dim = 8, .theta = 1e4, .factor = 8}, "original_max_position");
  refuses((fk_rope){.type = FK_ROPE_YARN, .rotary_dim = 8, .theta = 1, .original_max_position_embeddings = 9}, "theta");
}

static void refuses_config(const char *text, const char *word) {
  json_t *config = json_loads(text, 0, NULL);
  assert_non_null(config);
  fk_loader l = loader_of(config);
  fk_rope rope;
  assert_int_not_equal(fk_rope_read(&l, 64, &rope), FK_OK);
  if (!strstr(fk_last_error(), word)) fail_msg("\"%s\" does not mention %s", fk_last_error(), word);
  json_decref(config);
}

static void bad_configurations_are_refused(void **state) {
  (void)state;
  refuses_config("{\"rope_theta\": \"big\"}", "rope_theta");
  refuses_config("{\"rope_scaling\": {\"rope_type\": \"longrope\", \"factor\": 2}}", "longrope");
  refuses_config("{\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": -2}}", "rope_scaling.factor");
  refuses_config("{\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"default\"}}}", "rope_parameters");
  refuses_config("{\"rope_scaling\": 8}", "rope_scaling");
}

static void an_absent_section_is_the_default(void **state) {
  (void)state;
  json_t *config = json_loads("{\"rope_scaling\": null}", 0, NULL);
  fk_loader l = loader_of(config);
  fk_rope rope;
  assert_int_equal(fk_rope_read(&l, 64, &rope), FK_OK);
  assert_true(rope.type == FK_ROPE_DEFAULT && rope.theta == 10000 && rope.rotary_dim == 64);
  json_decref(config);
}

static int setup(void **state) {
  (void)state;
  fixture = json_load_file(FK_SOURCE_DIR "/tests/golden/fixtures/rope/rope.json", 0, NULL);
  return fixture ? 0 : -1;
}

static int teardown(void **state) {
  (void)state;
  json_decref(fixture);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(frequencies_match),
      cmocka_unit_test(old_spelling_is_read),
      cmocka_unit_test(tables_match),
      cmocka_unit_test(tables_round_once),
      cmocka_unit_test(bad_descriptions_are_refused),
      cmocka_unit_test(bad_configurations_are_refused),
      cmocka_unit_test(an_absent_section_is_the_default),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
