#include "judge/result.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "fastkernels/fastkernels.h"

enum { MAX_RECORD = 1 << 29, MAX_LABEL = 160 };

/* ---- Numbers --------------------------------------------------------------------------------------------- */

/* A number, or one of the strings that stand for what JSON has no number for; NaN when it is missing. */
static fk_status number(const fk_json *object, const char *key, double *out) {
  fk_json v = fk_json_member(object, key);
  *out = NAN;
  if (!v.node || json_is_null(v.node)) return FK_OK;
  if (json_is_number(v.node)) {
    *out = json_number_value(v.node);
    return FK_OK;
  }
  const char *text = json_string_value(v.node);
  if (text && strcmp(text, "nan") == 0) return FK_OK;
  if (text && (strcmp(text, "inf") == 0 || strcmp(text, "-inf") == 0)) {
    *out = *text == '-' ? -INFINITY : INFINITY;
    return FK_OK;
  }
  return fk_json_expected(&v, "a number, \"nan\" or \"inf\"");
}

/* A required number of at least zero. */
static fk_status amount(const fk_json *object, const char *key, double *out) {
  return fk_json_float(object, key, 0, 1e300, out);
}

/* ---- Cases ----------------------------------------------------------------------------------------------- */

typedef struct text {
  char s[MAX_LABEL];
  size_t used;
} text;

__attribute__((format(printf, 2, 3))) static void add(text *t, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(t->s + t->used, sizeof t->s - t->used, format, ap);
  va_end(ap);
  if (n > 0) t->used += (size_t)n;
  if (t->used >= sizeof t->s) t->used = sizeof t->s - 1;
}

static void add_axis(text *t, const char *name, const json_t *value) {
  if (json_is_integer(value)) {
    add(t, "%s%s=%lld", t->used ? " " : "", name, (long long)json_integer_value(value));
    return;
  }
  add(t, "%s%s=", t->used ? " " : "", name);
  for (size_t i = 0; i < json_array_size(value); i++)
    add(t, "%s%lld", i ? "x" : "", (long long)json_integer_value(json_array_get(value, i)));
}

/* Cut in the middle of a character, UTF-8 is no longer UTF-8. */
static void trim(text *t) {
  while (t->used && ((unsigned char)t->s[t->used - 1] & 0xc0) == 0x80) t->used--;
  if (t->used && ((unsigned char)t->s[t->used - 1] & 0xc0) == 0xc0) t->used--;
  t->s[t->used] = '\0';
}

/* What tells cases apart at a glance: sizes, the dtypes that occur, the layout, and what is special. */
static const char *label_of(fk_arena *arena, const fk_json *c) {
  text t = {.used = 0};
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)(uintptr_t)fk_json_member(c, "axes").node, key, value) add_axis(&t, key, value);
  const char *seen[4];
  size_t num_seen = 0;
  json_object_foreach((json_t *)(uintptr_t)fk_json_member(c, "dtypes").node, key, value) {
    const char *name = json_string_value(value);
    bool known = !name || num_seen == sizeof seen / sizeof *seen;
    for (size_t i = 0; i < num_seen && !known; i++) known = strcmp(seen[i], name) == 0;
    if (known) continue;
    add(&t, "%s%s", num_seen ? "/" : " ", name);
    seen[num_seen++] = name;
  }
  static const char *const marks[] = {"layout", "special", "note"};
  for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
    const char *mark = json_string_value(fk_json_member(c, marks[i]).node);
    if (mark && *mark) add(&t, " %s", mark);
  }
  if (json_array_size(fk_json_member(c, "strided").node)) add(&t, " strided");
  if (t.used == MAX_LABEL - 1) trim(&t);
  return fk_arena_strdup(arena, t.used ? t.s : "(no axes)");
}

static fk_status verdict_of(const fk_json *c, fk_verdict *verdict) {
  const char *name;
  FK_TRY(fk_json_string(c, "verdict", &name));
  for (int v = FK_VERDICT_FASTER; v <= FK_VERDICT_BASELINE; v++)
    if (strcmp(name, fk_verdict_name((fk_verdict)v)) == 0) {
      *verdict = (fk_verdict)v;
      return FK_OK;
    }
  fk_json at = fk_json_member(c, "verdict");
  return fk_json_expected(&at, "a verdict (FASTER, SAME, SLOWER, WRONG, CRASHED, TIMEOUT, REFUSED, BASELINE)");
}

/* Both samples of a block, of one arm. */
static fk_status pair(const fk_json *block, const char *key, double *out) {
  int64_t ns[2];
  size_t count = 0;
  FK_TRY(fk_json_ints(block, key, 0, INT64_MAX, 2, ns, &count));
  fk_json at = fk_json_member(block, key);
  if (count != 2) return fk_json_expected(&at, "two times");
  out[0] = (double)ns[0];
  out[1] = (double)ns[1];
  return FK_OK;
}

static fk_status read_samples(fk_arena *arena, const fk_json *c, fk_result_case *out) {
  fk_json list;
  FK_TRY(fk_json_array(c, "samples", &list));
  size_t n = json_array_size(list.node);
  double *base = fk_arena_calloc(arena, 2 * n, sizeof *base), *cand = fk_arena_calloc(arena, 2 * n, sizeof *cand);
  if (!base || !cand) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < n; i++) {
    fk_json block = fk_json_item(&list, i);
    if (!json_is_object(block.node)) return fk_json_expected(&block, "an object");
    FK_TRY(pair(&block, "baseline_ns", &base[2 * i]));
    FK_TRY(pair(&block, "candidate_ns", &cand[2 * i]));
  }
  out->baseline = base;
  out->candidate = cand;
  out->num_samples = (int)(2 * n);
  return FK_OK;
}

static fk_status read_errors(const fk_json *c, fk_result_case *out) {
  fk_json errors, limits;
  FK_TRY(fk_json_object(c, "errors", &errors));
  FK_TRY(fk_json_object(c, "limits", &limits));
  FK_TRY(number(&errors, "error", &out->error));
  FK_TRY(number(&errors, "worst", &out->worst));
  FK_TRY(number(&limits, "error", &out->error_limit));
  return number(&limits, "worst", &out->worst_limit);
}

static fk_status read_case(fk_arena *arena, const fk_json *c, fk_result_case *out) {
  fk_json definition;
  if (!json_is_object(c->node)) return fk_json_expected(c, "an object");
  FK_TRY(fk_json_object(c, "case", &definition));
  FK_TRY(verdict_of(c, &out->verdict));
  FK_TRY(fk_json_string_or(c, "reason", "", &out->reason));
  FK_TRY(fk_json_int_or(&definition, "count", 0, INT64_MAX, 1, &out->count));
  FK_TRY(amount(c, "baseline_ns", &out->baseline_ns));
  FK_TRY(amount(c, "candidate_ns", &out->candidate_ns));
  FK_TRY(amount(c, "speedup", &out->speedup.middle));
  FK_TRY(amount(c, "speedup_low", &out->speedup.low));
  FK_TRY(amount(c, "speedup_high", &out->speedup.high));
  FK_TRY(amount(c, "noise", &out->noise));
  FK_TRY(amount(c, "flops", &out->flops));
  FK_TRY(amount(c, "bytes", &out->bytes));
  FK_TRY(fk_json_string_or(c, "baseline_by", "", &out->baseline_by));
  FK_TRY(number(c, "limit_fraction", &out->limit_fraction));
  FK_TRY(number(c, "baseline_limit_fraction", &out->baseline_limit_fraction));
  FK_TRY(fk_json_int_or(c, "audits_against_oracle", 0, INT64_MAX, 0, &out->audits_against_oracle));
  FK_TRY(fk_json_int_or(c, "audits_against_baseline", 0, INT64_MAX, 0, &out->audits_against_baseline));
  FK_TRY(read_errors(c, out));
  FK_TRY(read_samples(arena, c, out));
  out->label = label_of(arena, &definition);
  return out->label ? FK_OK : FK_ERROR_MEMORY;
}

/* ---- Rows ------------------------------------------------------------------------------------------------ */

static const char *last_part(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash && slash[1] ? slash + 1 : path;
}

static fk_status read_row(fk_arena *arena, const fk_json *r, fk_result_row *out) {
  fk_json cases;
  if (!json_is_object(r->node)) return fk_json_expected(r, "an object");
  FK_TRY(fk_json_string_or(r, "candidate", NULL, &out->candidate));
  FK_TRY(fk_json_string_or(r, "task", NULL, &out->task));
  FK_TRY(fk_json_string_or(r, "build", "", &out->build));
  FK_TRY(fk_json_string_or(r, "reason", "", &out->reason));
  FK_TRY(fk_json_bool(r, "failed", &out->failed));
  FK_TRY(amount(r, "score", &out->score));
  FK_TRY(number(r, "seconds_saved", &out->seconds_saved));
  FK_TRY(fk_json_int_or(r, "level", 1, 4, 1, &out->level));
  FK_TRY(fk_json_int_or(r, "cases_in_source", 0, INT32_MAX, 0, &out->cases_in_source));
  FK_TRY(fk_json_int_or(r, "calls_covered", 0, INT64_MAX, 0, &out->calls_covered));
  FK_TRY(fk_json_int_or(r, "calls_in_source", 0, INT64_MAX, 0, &out->calls_in_source));
  FK_TRY(fk_json_array(r, "cases", &cases));
  out->name = out->candidate ? last_part(out->candidate) : "baseline";
  size_t n = json_array_size(cases.node);
  fk_result_case *list = fk_arena_calloc(arena, n, sizeof *list);
  if (!list) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < n; i++) {
    fk_json c = fk_json_item(&cases, i);
    FK_TRY(read_case(arena, &c, &list[i]));
  }
  out->cases = list;
  out->num_cases = (int)n;
  return FK_OK;
}

static fk_status read_ceilings(fk_result *r) {
  r->ceilings = fk_json_member(&r->view, "ceilings");
  if (!r->ceilings.node || json_is_null(r->ceilings.node)) {
    r->ceilings.node = NULL;
    return FK_OK;
  }
  FK_TRY(fk_json_object(&r->view, "ceilings", &r->ceilings));
  FK_TRY(fk_json_float(&r->ceilings, "bytes_per_second", 1, 1e18, &r->bytes_per_second));
  return fk_json_float(&r->ceilings, "flops_per_second", 1, 1e21, &r->flops_per_second);
}

static fk_status read_all(fk_result *r) {
  const fk_json *root = &r->view;
  const char *format;
  fk_json rows;
  if (!json_is_object(root->node)) return fk_json_expected(root, "an object, a record of bench");
  FK_TRY(fk_json_string(root, "format", &format));
  if (strcmp(format, FK_BENCH_FORMAT) != 0) {
    fk_json at = fk_json_member(root, "format");
    return fk_json_expected(&at, "\"" FK_BENCH_FORMAT "\"");
  }
  FK_TRY(fk_json_string_or(root, "source", "", &r->source));
  FK_TRY(fk_json_string_or(root, "model", "", &r->model));
  FK_TRY(fk_json_string_or(root, "workload", "", &r->workload));
  FK_TRY(fk_json_object(root, "environment", &r->environment));
  FK_TRY(fk_json_object(root, "limits", &r->limits));
  FK_TRY(read_ceilings(r));
  FK_TRY(amount(root, "overall", &r->overall));
  FK_TRY(fk_json_array(root, "rows", &rows));
  size_t n = json_array_size(rows.node);
  if (n == 0) return fk_json_expected(&rows, "at least one row");
  fk_result_row *list = fk_arena_calloc(&r->arena, n, sizeof *list);
  if (!list) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < n; i++) {
    fk_json row = fk_json_item(&rows, i);
    FK_TRY(read_row(&r->arena, &row, &list[i]));
    r->num_failed += list[i].failed;
    r->num_candidates += list[i].candidate != NULL;
  }
  r->rows = list;
  r->num_rows = (int)n;
  return FK_OK;
}

/* ---- The whole ------------------------------------------------------------------------------------------- */

fk_status fk_result_read(json_t *root, const char *where, fk_result **out) {
  *out = NULL;
  fk_result *r = calloc(1, sizeof *r);
  if (!r) return fk_fail(FK_ERROR_MEMORY, "%s: no memory for a record", where);
  fk_arena_init(&r->arena, &fk_host_memory, 0);
  r->root = json_incref(root);
  r->view = fk_json_root(root, where);
  fk_status status = read_all(r);
  if (status) {
    fk_result_free(r);
    return status;
  }
  *out = r;
  return FK_OK;
}

fk_status fk_result_load(const char *path, fk_result **out) {
  json_t *root;
  *out = NULL;
  FK_TRY(fk_json_load(path, MAX_RECORD, &root));
  fk_status status = fk_result_read(root, path, out);
  json_decref(root);
  return status;
}

fk_status fk_result_parse(const char *json, size_t size, const char *where, fk_result **out) {
  json_t *root;
  *out = NULL;
  FK_TRY(fk_json_parse(json, size, where, &root));
  fk_status status = fk_result_read(root, where, out);
  json_decref(root);
  return status;
}

void fk_result_free(fk_result *r) {
  if (!r) return;
  fk_arena_destroy(&r->arena);
  json_decref(r->root);
  free(r);
}
