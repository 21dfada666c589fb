/* Records read back: what is in them is shown, escaped; what is wrong with them is said; bench writes both forms. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* cmocka.h needs the headers above. */
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fastkernels/fastkernels.h"
#include "judge/page.h"

#define RECORD FK_SOURCE_DIR "/tests/report/record.json"
#define PROGRAM FK_BUILD_DIR "/fastkernels"

static fk_result *load(void) {
  fk_result *r;
  if (fk_result_load(RECORD, &r) != FK_OK) fail_msg("%s", fk_last_error());
  return r;
}

typedef void (*render_fn)(const fk_result *r, FILE *out);

static void as_text(const fk_result *r, FILE *out) {
  fk_result_print(r, out, false);
}

static char *render(const fk_result *r, render_fn fn) {
  char *text = NULL;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  assert_non_null(out);
  fn(r, out);
  fclose(out);
  return text;
}

static int count(const char *text, const char *part) {
  int n = 0;
  for (; (text = strstr(text, part)); text += strlen(part)) n++;
  return n;
}

static void test_reading(void **state) {
  (void)state;
  fk_result *r = load();
  assert_int_equal(r->num_rows, 6);
  assert_int_equal(r->num_candidates, 6);
  assert_int_equal(r->num_failed, 4);
  assert_string_equal(r->rows[0].name, "rms_norm_fast.c");
  assert_string_equal(r->rows[0].task, "rms_norm");
  assert_int_equal(r->rows[0].num_cases, 3);
  assert_null(r->rows[5].task);
  assert_true(r->bytes_per_second > 0 && r->flops_per_second > 0);
  bool rows = false, type = false, strided = false;
  for (int i = 0; i < 3; i++) {
    const fk_result_case *c = &r->rows[0].cases[i];
    assert_true(c->num_samples >= 10 && c->num_samples % 2 == 0);
    assert_true(c->limit_fraction > 0 && c->baseline_ns > 0 && c->error < c->error_limit);
    double floor = 1e9 * fmax(c->bytes / r->bytes_per_second, c->flops / r->flops_per_second);
    assert_true(fabs(c->limit_fraction * c->candidate_ns / floor - 1) < 1e-5);
    rows |= strstr(c->label, "rows=33 hidden_size=500") != NULL;
    type |= strstr(c->label, "bfloat16") != NULL;
    strided |= strstr(c->label, "strided") != NULL;
  }
  assert_true(rows && type && strided);
  fk_result_free(r);
}

static void test_page(void **state) {
  (void)state;
  fk_result *r = load();
  char *page = render(r, fk_result_html);
  assert_int_equal(count(page, "<section class=\"card row\""), 6);
  assert_int_equal(count(page, "<article class=\"case\""), 15);
  assert_int_equal(count(page, "<svg class=\"samples\""), 6); /* of the cases that pass */
  assert_int_equal(count(page, "<svg class=\"interval\""), 6);
  assert_int_equal(count(page, "roofline\" viewBox"), 2);
  assert_int_equal(count(page, "class=\"solid\""), 2 * 6);
  assert_int_equal(count(page, "<section"), count(page, "</section>"));
  assert_int_equal(count(page, "<div"), count(page, "</div>"));
  assert_int_equal(count(page, "<svg"), count(page, "</svg>"));
  assert_int_equal(count(page, "<dl"), count(page, "</dl>"));
  /* Self-contained: it neither fetches nor runs anything. */
  static const char *const never[] = {"<script", "<img", "<link", "src=", "http:", "https:", "url(", "@import"};
  for (size_t i = 0; i < sizeof never / sizeof *never; i++)
    if (strstr(page, never[i]) && strcmp(never[i], "src=") != 0) fail_msg("the page has %s", never[i]);
  assert_non_null(strstr(page, "default-src 'none'"));
  assert_non_null(strstr(page, "prefers-color-scheme:dark"));
  /* What the record's strings tried. */
  assert_non_null(strstr(page, "&lt;script&gt;document.title=&quot;owned&quot;"));
  assert_non_null(strstr(page, "&lt;/style&gt;&lt;/title&gt;&lt;img src=x onerror=alert(1)&gt; &amp; more"));
  assert_non_null(strstr(page, "[U+202E]"));
  assert_null(strstr(page, "\xe2\x80\xae"));
  assert_null(strchr(page, 7));
  assert_null(strstr(page, ">nan"));
  assert_null(strstr(page, "\"nan"));
  free(page);
  fk_result_free(r);
}

static void test_text(void **state) {
  (void)state;
  fk_result *r = load();
  char *text = render(r, as_text);
  assert_non_null(strstr(text, "rms_norm_fast.c: rms_norm"));
  assert_non_null(strstr(text, "2 of 6 passed"));
  assert_non_null(strstr(text, "it imports system"));
  assert_int_equal(count(text, "CRASHED"), 3);
  assert_null(strstr(text, "\x07"));
  for (const char *c = text; *c; c++) assert_true((unsigned char)*c >= 32 || *c == '\n');
  free(text);
  fk_result_free(r);
}

static void test_escaping(void **state) {
  (void)state;
  static const char *const pairs[][2] = {{"a<b>&\"'", "a&lt;b&gt;&amp;&quot;&#39;"},
                                         {"\x01\x7f\x1b[2J", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd[2J"},
                                         {"a\nb\tc", "a b c"},
                                         {"\xe2\x81\xa6x\xe2\x81\xa9", "[U+2066]x[U+2069]"},
                                         {"\xc3\xa9\xe2\x82\xac", "\xc3\xa9\xe2\x82\xac"},
                                         {"", ""}};
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    fk_page_text(out, pairs[i][0]);
    fclose(out);
    assert_string_equal(text, pairs[i][1]);
    free(text);
  }
}

/* The committed record with one value replaced, by the path "rows.0.score"; text NULL deletes it. */
static void with_changed(const char *path, const char *text, const char *message) {
  json_t *root = json_load_file(RECORD, 0, NULL), *at = root;
  char copy[128], *rest = NULL;
  snprintf(copy, sizeof copy, "%s", path);
  char *key = strtok_r(copy, ".", &rest), *next;
  while ((next = strtok_r(NULL, ".", &rest))) {
    at = json_is_array(at) ? json_array_get(at, (size_t)atoi(key)) : json_object_get(at, key);
    assert_non_null(at);
    key = next;
  }
  json_t *value = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
  if (!text)
    json_object_del(at, key);
  else if (json_is_array(at))
    json_array_set_new(at, (size_t)atoi(key), value);
  else
    json_object_set_new(at, key, value);
  fk_result *r;
  fk_status status = fk_result_read(root, "record", &r);
  if (message == NULL) {
    if (status) fail_msg("%s = %s: %s", path, text, fk_last_error());
    free(render(r, fk_result_html));
    free(render(r, as_text));
  } else if (status == FK_OK || r || !strstr(fk_last_error(), message)) {
    fail_msg("%s = %s: expected an error with %s, got %s", path, text ? text : "(nothing)", message,
             status ? fk_last_error() : "success");
  }
  fk_result_free(r);
  json_decref(root);
}

static void test_malformed_records(void **state) {
  (void)state;
  with_changed("format", "\"fastkernels-bench/9\"", "fastkernels-bench/1");
  with_changed("format", NULL, "format");
  with_changed("rows", NULL, "rows");
  with_changed("rows", "[]", "at least one row");
  with_changed("rows.1", "7", "rows[1]: expected an object");
  with_changed("rows.0.score", "\"high\"", "rows[0].score");
  with_changed("rows.0.score", "-1", "rows[0].score");
  with_changed("rows.0.failed", "1", "rows[0].failed");
  with_changed("rows.0.level", "9", "rows[0].level");
  with_changed("rows.0.cases.2.verdict", "\"GREAT\"", "rows[0].cases[2].verdict: expected a verdict");
  with_changed("rows.0.cases.0.case", NULL, "rows[0].cases[0].case");
  with_changed("rows.0.cases.0.samples", "{}", "samples");
  with_changed("rows.0.cases.0.samples.1.baseline_ns", "[1]", "two times");
  with_changed("rows.0.cases.0.samples.1.candidate_ns", "[1, -2]", "candidate_ns");
  with_changed("rows.0.cases.0.samples.1", "null", "expected an object");
  with_changed("rows.0.cases.0.limit_fraction", "\"all\"", "limit_fraction");
  with_changed("ceilings.bytes_per_second", "0", "ceilings.bytes_per_second");
  with_changed("ceilings", "3", "ceilings");
  with_changed("environment", "[]", "environment");
  with_changed("overall", NULL, "overall");
}

/* Odd, but to be shown: absent, extreme and empty values. */
static void test_odd_records(void **state) {
  (void)state;
  with_changed("ceilings", NULL, NULL);
  with_changed("ceilings.bytes_per_second", "1e18", NULL);
  with_changed("environment", "{}", NULL);
  with_changed("rows.0.cases.0.samples", "[]", NULL);
  with_changed("rows.0.cases.0.speedup_low", "0", NULL);
  with_changed("rows.0.cases.0.speedup_high", "1e300", NULL);
  with_changed("rows.0.cases.0.flops", "1e300", NULL);
  with_changed("rows.0.cases.0.bytes", "1e-300", NULL);
  with_changed("rows.0.cases.0.candidate_ns", "0", NULL);
  with_changed("rows.0.cases.0.noise", "1e300", NULL);
  with_changed("rows.0.cases.0.errors.error", "\"nan\"", NULL);
  with_changed("rows.0.cases.0.errors.worst", "\"inf\"", NULL);
  with_changed("rows.0.cases.0.case", "{}", NULL);
  with_changed("rows.0.cases.0.samples.0.baseline_ns", "[0, 9223372036854775807]", NULL);
  with_changed("rows.0.score", "0", NULL);
  with_changed("rows.0.candidate", "null", NULL);
  with_changed("rows.0.candidate", "\"/\"", NULL);
  with_changed("rows.0.cases.0.case.axes", "{\"a\": {\"b\": [1]}, \"c\": [[2]], \"d\": 1.5}", NULL);
}

/* U+009B starts a terminal's command just as ESC [ does. */
static void test_terminal_controls(void **state) {
  (void)state;
  json_t *root = json_load_file(RECORD, 0, NULL);
  json_object_set_new(root, "model", json_string("a\xc2\x9b[2J\x1b[31mb\xc3\xa9"));
  fk_result *r;
  assert_int_equal(fk_result_read(root, "record", &r), FK_OK);
  char *text = render(r, as_text);
  assert_int_equal(strncmp(text, "a [2J [31mb\xc3\xa9", 13), 0);
  free(text);
  fk_result_free(r);
  json_decref(root);
}

/* A label is cut to its room, and never in the middle of a character. */
static void test_long_labels(void **state) {
  (void)state;
  for (int shift = 0; shift < 4; shift++) {
    json_t *root = json_load_file(RECORD, 0, NULL);
    char name[400] = "xxx";
    name[shift] = '\0';
    for (int i = 0; i < 80; i++) strcat(name, "\xf0\x9d\x84\x9e");
    json_t *c = json_array_get(json_object_get(json_array_get(json_object_get(root, "rows"), 0), "cases"), 0);
    json_object_set_new(json_object_get(c, "case"), "note", json_string(name));
    fk_result *r;
    assert_int_equal(fk_result_read(root, "record", &r), FK_OK);
    json_t *label = json_string(r->rows[0].cases[0].label); /* NULL when it is not UTF-8 */
    assert_non_null(label);
    assert_true(strlen(r->rows[0].cases[0].label) < 160);
    json_decref(label);
    fk_result_free(r);
    json_decref(root);
  }
}

static void test_labels(void **state) {
  (void)state;
  json_t *root = json_load_file(RECORD, 0, NULL);
  json_t *c = json_array_get(json_object_get(json_array_get(json_object_get(root, "rows"), 0), "cases"), 0);
  json_object_set_new(
      c, "case",
      json_pack("{s:{s:[i,i],s:i},s:{s:s,s:s,s:s},s:s,s:s}", "axes", "rows", 2, 33, "width", 8, "dtypes", "x",
                "float32", "i", "int64", "out", "float32", "layout", "paged", "special", "huge"));
  fk_result *r;
  assert_int_equal(fk_result_read(root, "record", &r), FK_OK);
  assert_string_equal(r->rows[0].cases[0].label, "rows=2x33 width=8 float32/int64 paged huge");
  assert_int_equal(r->rows[0].cases[0].count, 1);
  fk_result_free(r);
  json_decref(root);
}

static int run(const char *command) {
  int status = system(command);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* bench --html and report on its record write the same page; the record has the ceilings of the session. */
static void test_program(void **state) {
  (void)state;
  char folder[] = "/tmp/fastkernels-report-XXXXXX", command[2048];
  assert_non_null(mkdtemp(folder));
  snprintf(command, sizeof command,
           "cd %s && " PROGRAM
           " bench --threads 2 --budget 50 --rounds 5 --task rms_norm --cases "
           "'{\"axes\": {\"rows\": 7, \"hidden_size\": 192}}' --output r.json --html a.html >out && " PROGRAM
           " report r.json --html b.html && grep -q '%% of the limit' out && " PROGRAM
           " report r.json | grep -q BASELINE",
           folder);
  assert_int_equal(run(command), 0);
  char path[64];
  snprintf(path, sizeof path, "%s/r.json", folder);
  fk_result *r;
  assert_int_equal(fk_result_load(path, &r), FK_OK);
  assert_true(r->bytes_per_second > 1e8 && r->flops_per_second > 1e8);
  assert_true(r->rows[0].cases[0].limit_fraction > 0);
  assert_int_equal(r->num_candidates, 0);
  fk_result_free(r);
  /* The date apart, which has seconds, all comes from the record. */
  snprintf(command, sizeof command, "cd %s && sed 's/T[0-9:]*Z//g' a.html >a && sed 's/T[0-9:]*Z//g' b.html | cmp - a",
           folder);
  assert_int_equal(run(command), 0);
  snprintf(command, sizeof command, "cd %s && echo '{}' >bad.json && " PROGRAM " report bad.json --html c.html 2>err",
           folder);
  assert_int_equal(run(command), 2);
  snprintf(command, sizeof command, "cd %s && grep -q 'bad.json: format' err && ! test -e c.html", folder);
  assert_int_equal(run(command), 0);
  snprintf(command, sizeof command, "rm -r %s", folder);
  assert_int_equal(run(command), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_reading),
      cmocka_unit_test(test_page),
      cmocka_unit_test(test_text),
      cmocka_unit_test(test_escaping),
      cmocka_unit_test(test_odd_records),
      cmocka_unit_test(test_long_labels),
      cmocka_unit_test(test_labels),
      cmocka_unit_test(test_terminal_controls),
      cmocka_unit_test(test_malformed_records),
      cmocka_unit_test(test_program),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
