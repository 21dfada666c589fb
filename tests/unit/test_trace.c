/* Traces and workloads: what is accepted, what is refused and where the error says it is. */
#include <stdlib.h>

#include "core_helpers.h"
#include "engine/trace.h"
#include "engine/workload.h"
#include "temp_dir.h"

static temp_dir dir;

typedef struct seen {
  int count;
  fk_trace_request requests[8];
} seen;

static fk_status note(void *self, const fk_trace_request *r) {
  seen *s = self;
  if (s->count < 8) s->requests[s->count] = *r;
  s->count++;
  return FK_OK;
}

static fk_status read_text(const char *name, const char *text, int64_t most, seen *s) {
  *s = (seen){0};
  return fk_trace_read(temp_text(&dir, name, text), most, note, s);
}

#define HEADER "TIMESTAMP,ContextTokens,GeneratedTokens\n"

static void csv(void **state) {
  (void)state;
  seen s;
  assert_ok(read_text("a.csv",
                      "\xef\xbb\xbf" HEADER "2024-02-28 23:59:59.5000000,374,44\r\n\n2024-02-29 00:00:01,396,109\n"
                      "2024-03-01 00:00:01.25, 7 ,1",
                      0, &s));
  assert_int_equal(s.count, 3);
  assert_int_equal(s.requests[0].input_length, 374);
  assert_int_equal(s.requests[1].output_length, 109);
  assert_true(s.requests[0].time == 0 && s.requests[1].time == 1.5 && s.requests[2].time == 86401.75);
  assert_int_equal(s.requests[2].input_length, 7);
  assert_ok(read_text("a.csv", HEADER "0,1,1\n0.5,2,2\nbroken\n", 2, &s));
  assert_int_equal(s.count, 2);
}

static void jsonl(void **state) {
  (void)state;
  seen s;
  assert_ok(read_text("a.jsonl",
                      "{\"timestamp\": 1000, \"input_length\": 6758, \"output_length\": 500, \"hash_ids\": [0, 1]}\n"
                      "{\"timestamp\": 3500, \"input_length\": 1, \"output_length\": 3}\n",
                      0, &s));
  assert_int_equal(s.count, 2);
  assert_int_equal(s.requests[0].input_length, 6758);
  assert_true(s.requests[1].time == 2.5);
}

static void wrong_lines(void **state) {
  (void)state;
  static const struct {
    const char *name, *text, *message;
  } cases[] = {
      {"w.csv", "Time,In,Out\n1,2,3\n", "w.csv:1: expected the header TIMESTAMP,ContextTokens,GeneratedTokens"},
      {"w.csv", HEADER "1,2\n", "w.csv:2: expected 3 fields"},
      {"w.csv", HEADER "1,2,3,4\n", "w.csv:2: expected 3 fields"},
      {"w.csv", HEADER "0,1,1\n1,0,3\n", "w.csv:3: ContextTokens: expected an integer from 1 to 268435456, got 0"},
      {"w.csv", HEADER "1,5,-3\n", "w.csv:2: GeneratedTokens: expected an integer from 1"},
      {"w.csv", HEADER "1,5,99999999999\n", "w.csv:2: GeneratedTokens"},
      {"w.csv", HEADER "1,5.5,3\n", "w.csv:2: ContextTokens: expected an integer, got \"5.5\""},
      {"w.csv", HEADER "soon,5,3\n", "w.csv:2: TIMESTAMP: expected YYYY-MM-DD"},
      {"w.csv", HEADER "2024-13-01 00:00:00,5,3\n", "w.csv:2: TIMESTAMP"},
      {"w.csv", HEADER "inf,5,3\n", "w.csv:2: timestamp"},
      {"w.csv", HEADER "5,5,3\n4,5,3\n", "w.csv:3: timestamp: lies 1 s before"},
      {"w.csv", HEADER, "no requests"},
      {"w.jsonl", "[1]\n", "w.jsonl:1: expected an object"},
      {"w.jsonl", "{\"timestamp\": 0, \"input_length\": 3}\n", "w.jsonl:1: expected the key \"output_length\""},
      {"w.jsonl", "{\"timestamp\": 0, \"input_length\": \"3\", \"output_length\": 1}\n",
       "w.jsonl:1: input_length: expected a number"},
      {"w.jsonl", "{\"timestamp\": 0, \"input_length\": 2.5, \"output_length\": 1}\n", "w.jsonl:1: input_length"},
      {"w.jsonl", "{\"timestamp\": 0,\n", "w.jsonl:1: "},
  };
  seen s;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_fails(read_text(cases[i].name, cases[i].text, 0, &s), FK_ERROR_FORMAT, cases[i].message);
  assert_fails(fk_trace_read("x.txt", 0, note, &s), FK_ERROR_ARGUMENT, "ends in .csv or .jsonl");
  assert_fails(fk_trace_read("/nowhere/x.csv", 0, note, &s), FK_ERROR_NOT_FOUND, "/nowhere/x.csv");
}

static fk_workload *parsed(const char *json, int64_t most) {
  fk_workload *w;
  assert_ok(fk_workload_parse(json, strlen(json), "w.json", most, &w));
  return w;
}

static void request_lists(void **state) {
  (void)state;
  fk_workload *w = parsed(
      "{\"name\": \"n\", \"requests\": [{\"input_length\": 5, \"output_length\": 2, \"count\": 3},"
      "{\"input_ids\": [4, 7], \"max_new_tokens\": 9, \"arrival\": 1.5},"
      "{\"text\": \"hi\", \"max_new_tokens\": 1, \"arrival\": 2}]}",
      0);
  assert_int_equal(w->count, 5);
  assert_int_equal(w->requests[2].input_length, 5);
  assert_int_equal(w->requests[3].input_ids[1], 7);
  assert_int_equal(w->requests[3].output_length, 9);
  assert_string_equal(w->requests[4].text, "hi");
  assert_true(w->has_text && w->requests[4].input_length == 0);
  fk_workload_limit(w, 9);
  assert_int_equal(w->count, 4);
  assert_int_equal(w->skipped, 1);
  fk_workload_close(w);
  w = parsed("{\"name\": \"n\", \"inputs\": [{\"x\": {\"shape\": [2, 3], \"dtype\": \"float32\"}}]}", 0);
  assert_int_equal(w->kind, FK_WORKLOAD_INPUTS);
  assert_int_equal(w->items[0].specs[0].shape[1], 3);
  fk_workload_close(w);
}

static const char summary[] =
    "{\"name\": \"s\", \"requests\": 4000, \"correlation\": 0.5,"
    "\"input_length\": {\"quantiles\": [[0, 10], [0.5, 100], [1, 1000]]},"
    "\"output_length\": {\"quantiles\": [[0, 1], [1, 201]]}}";

static void summaries(void **state) {
  (void)state;
  fk_workload *w = parsed(summary, 0), *again = parsed(summary, 0), *few = parsed(summary, 7);
  assert_int_equal(w->count, 4000);
  assert_int_equal(few->count, 7);
  double below = 0, mean = 0, both = 0;
  for (int64_t i = 0; i < w->count; i++) {
    const fk_request *r = &w->requests[i];
    assert_memory_equal(r, &again->requests[i], sizeof *r);
    assert_in_range(r->input_length, 10, 1000);
    assert_in_range(r->output_length, 1, 201);
    below += r->input_length <= 100;
    mean += (double)r->output_length;
    both += r->input_length <= 100 && r->output_length <= 101;
  }
  /* Half lie below the median, the mean of the uniform part is 101; three standard errors are 0.024 and 2.7. With
   * a correlation of 1/2 both are below their medians in 1/4 + asin(1/2) / (2 pi) = 1/3 of the cases. */
  assert_true(below / 4000 > 0.476 && below / 4000 < 0.524);
  assert_true(mean / 4000 > 98.3 && mean / 4000 < 103.7);
  assert_true(both / 4000 > 0.31 && both / 4000 < 0.357);
  fk_workload_close(w);
  fk_workload_close(again);
  fk_workload_close(few);
}

static void wrong_workloads(void **state) {
  (void)state;
  static const struct {
    const char *json, *message;
  } cases[] = {
      {"[]", "expected an object"},
      {"{\"requests\": []}", "name"},
      {"{\"name\": \"n\", \"requests\": []}", "at least one request"},
      {"{\"name\": \"n\", \"request\": []}", "unknown key \"request\""},
      {"{\"name\": \"n\", \"requests\": [{\"input_length\": 0, \"output_length\": 1}]}", "input_length"},
      {"{\"name\": \"n\", \"requests\": [{\"input_length\": 1}]}", "output_length"},
      {"{\"name\": \"n\", \"requests\": [{\"input_length\": 1, \"text\": \"x\", \"output_length\": 1}]}", "either"},
      {"{\"name\": \"n\", \"requests\": [{\"text\": \"x\", \"output_length\": 1}]}", "output_length goes with"},
      {"{\"name\": \"n\", \"requests\": [{\"input_ids\": [], \"max_new_tokens\": 1}]}", "at least one id"},
      {"{\"name\": \"n\", \"requests\": [{\"input_ids\": [-1], \"max_new_tokens\": 1}]}", "input_ids"},
      {"{\"name\": \"n\", \"requests\": 5}", "input_length"},
      {"{\"name\": \"n\", \"requests\": 5, \"input_length\": {\"quantiles\": [[0, 5], [1, 4]]}}", "must not fall"},
      {"{\"name\": \"n\", \"requests\": 5, \"input_length\": {\"quantiles\": [[0, 5], [0.9, 6]]}}", "from 0 to 1"},
      {"{\"name\": \"n\", \"inputs\": [{\"x\": {\"shape\": [1], \"dtype\": \"float99\"}}]}", "float99"},
  };
  fk_workload *w;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_fails(fk_workload_parse(cases[i].json, strlen(cases[i].json), "w.json", 0, &w), FK_ERROR_FORMAT,
                 cases[i].message);
    assert_null(w);
  }
  assert_fails(fk_workload_open("azure-llm", 0, &w), FK_ERROR_NOT_FOUND, "azure-llm-2023-conv");
}

static void embedded(void **state) {
  (void)state;
  assert_true(fk_workload_count >= 4);
  for (int i = 0; i < fk_workload_count; i++) {
    fk_workload *w;
    assert_ok(fk_workload_open(fk_workloads[i].name, 0, &w));
    assert_string_equal(w->name, fk_workloads[i].name);
    assert_true(w->count > 0 && *w->source);
    fk_workload_close(w);
  }
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
  const struct CMUnitTest tests[] = {cmocka_unit_test(csv),         cmocka_unit_test(jsonl),
                                     cmocka_unit_test(wrong_lines), cmocka_unit_test(request_lists),
                                     cmocka_unit_test(summaries),   cmocka_unit_test(wrong_workloads),
                                     cmocka_unit_test(embedded)};
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
