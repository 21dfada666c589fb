#include "engine/workload.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/trace.h"
#include "io/json.h"

enum { MAX_FILE = 256 << 20, MAX_REQUESTS = 10000000, MAX_QUANTILES = 1024 };

static fk_status no_memory(void) {
  return fk_fail(FK_ERROR_MEMORY, "workload: cannot allocate");
}

/* Unknown keys are errors: a misspelt one would silently change what is measured. */
static fk_status only_keys(const fk_json *object, const char *const *keys) {
  const char *key;
  json_t *value;
  if (!json_is_object(object->node)) return fk_json_expected(object, "an object");
  json_object_foreach((json_t *)object->node, key, value) {
    const char *const *k = keys;
    while (*k && strcmp(*k, key) != 0) k++;
    if (!*k) return fk_json_fail(object, FK_ERROR_FORMAT, "unknown key \"%s\"", key);
  }
  return FK_OK;
}

/* ---- Lists of requests ----------------------------------------------------------------------------------- */

static fk_status parse_ids(const fk_json *object, fk_arena *arena, fk_request *r) {
  fk_json list;
  FK_TRY(fk_json_array(object, "input_ids", &list));
  size_t n = json_array_size(list.node);
  if (n == 0) return fk_json_fail(&list, FK_ERROR_FORMAT, "expected at least one id");
  int64_t *wide = malloc(n * sizeof *wide);
  int32_t *ids = fk_arena_alloc(arena, n * sizeof *ids, 4);
  fk_status status = wide && ids ? FK_OK : no_memory();
  size_t count = 0;
  if (!status) status = fk_json_ints(object, "input_ids", 0, INT32_MAX, n, wide, &count);
  for (size_t i = 0; i < count && !status; i++) ids[i] = (int32_t)wide[i];
  free(wide);
  r->input_ids = ids;
  r->input_length = (int64_t)n;
  return status;
}

static fk_status parse_request(const fk_json *object, fk_arena *arena, fk_request *r, int64_t *count) {
  static const char *const keys[] = {"input_length", "output_length",  "arrival", "text",
                                     "input_ids",    "max_new_tokens", "count",   NULL};
  *r = (fk_request){0};
  FK_TRY(only_keys(object, keys));
  bool lengths = fk_json_has(object, "input_length");
  bool content = fk_json_has(object, "text") || fk_json_has(object, "input_ids");
  if (lengths == content)
    return fk_json_fail(object, FK_ERROR_FORMAT, "expected either \"input_length\", or \"text\" or \"input_ids\"");
  const char *wanted = lengths ? "output_length" : "max_new_tokens",
             *other = lengths ? "max_new_tokens" : "output_length";
  if (fk_json_has(object, other))
    return fk_json_fail(object, FK_ERROR_FORMAT, "%s goes with %s", other,
                        lengths ? "text or input_ids" : "input_length");
  if (lengths) FK_TRY(fk_json_int(object, "input_length", 1, FK_MAX_REQUEST_LENGTH, &r->input_length));
  FK_TRY(fk_json_int(object, wanted, 1, FK_MAX_REQUEST_LENGTH, &r->output_length));
  FK_TRY(fk_json_float_or(object, "arrival", 0, 1e12, 0, &r->arrival));
  FK_TRY(fk_json_int_or(object, "count", 1, MAX_REQUESTS, 1, count));
  if (fk_json_has(object, "text")) {
    const char *text;
    FK_TRY(fk_json_string(object, "text", &text));
    if (!*text) return fk_json_fail(object, FK_ERROR_FORMAT, "text: expected at least one character");
    r->text = fk_arena_strdup(arena, text);
    if (!r->text) return FK_ERROR_MEMORY;
  }
  return fk_json_has(object, "input_ids") ? parse_ids(object, arena, r) : FK_OK;
}

static fk_status append(fk_workload *w, int64_t *room, const fk_request *r) {
  if (w->count == MAX_REQUESTS) return fk_fail(FK_ERROR_ARGUMENT, "workload: more than %d requests", MAX_REQUESTS);
  if (w->count == *room) {
    int64_t larger = *room ? 2 * *room : 64;
    fk_request *requests = realloc(w->requests, (size_t)larger * sizeof *requests);
    if (!requests) return no_memory();
    w->requests = requests;
    *room = larger;
  }
  w->requests[w->count++] = *r;
  w->has_text = w->has_text || r->text;
  return FK_OK;
}

static fk_status parse_requests(const fk_json *root, int64_t max_requests, fk_workload *w) {
  fk_json list;
  int64_t room = 0;
  double last = 0;
  FK_TRY(fk_json_array(root, "requests", &list));
  size_t n = json_array_size(list.node);
  if (n == 0) return fk_json_fail(&list, FK_ERROR_FORMAT, "expected at least one request");
  for (size_t i = 0; i < n; i++) {
    fk_json item = fk_json_item(&list, i);
    fk_request r;
    int64_t count;
    FK_TRY(parse_request(&item, &w->arena, &r, &count));
    if (r.arrival < last) return fk_json_fail(&item, FK_ERROR_FORMAT, "arrival: lies before the previous request's");
    last = r.arrival;
    for (int64_t k = 0; k < count; k++) {
      if (max_requests && w->count == max_requests) return FK_OK;
      FK_TRY(append(w, &room, &r));
    }
  }
  return FK_OK;
}

/* ---- Summaries ------------------------------------------------------------------------------------------- */

typedef struct quantiles {
  size_t count;
  double p[MAX_QUANTILES], value[MAX_QUANTILES];
} quantiles;

static fk_status parse_quantiles(const fk_json *root, const char *key, quantiles *q) {
  static const char *const keys[] = {"quantiles", NULL};
  fk_json object, list;
  FK_TRY(fk_json_object(root, key, &object));
  FK_TRY(only_keys(&object, keys));
  FK_TRY(fk_json_array(&object, "quantiles", &list));
  q->count = json_array_size(list.node);
  if (q->count < 2 || q->count > MAX_QUANTILES)
    return fk_json_fail(&list, FK_ERROR_FORMAT, "expected 2 to %d pairs, got %zu", MAX_QUANTILES, q->count);
  for (size_t i = 0; i < q->count; i++) {
    fk_json pair = fk_json_item(&list, i);
    const json_t *p = json_array_get(pair.node, 0), *v = json_array_get(pair.node, 1);
    if (json_array_size(pair.node) != 2 || !json_is_number(p) || !json_is_number(v))
      return fk_json_expected(&pair, "[probability, tokens]");
    q->p[i] = json_number_value(p);
    q->value[i] = json_number_value(v);
    if (i > 0 && (q->p[i] <= q->p[i - 1] || q->value[i] < q->value[i - 1]))
      return fk_json_fail(&pair, FK_ERROR_FORMAT, "probabilities must rise and tokens must not fall");
    if (!(q->value[i] >= 1 && q->value[i] <= FK_MAX_REQUEST_LENGTH))
      return fk_json_fail(&pair, FK_ERROR_FORMAT, "expected 1 to %d tokens", FK_MAX_REQUEST_LENGTH);
  }
  if (q->p[0] != 0 || q->p[q->count - 1] != 1)
    return fk_json_fail(&list, FK_ERROR_FORMAT, "expected probabilities from 0 to 1");
  return FK_OK;
}

static int64_t at_quantile(const quantiles *q, double u) {
  size_t i = 1;
  while (i + 1 < q->count && u > q->p[i]) i++;
  double part = (u - q->p[i - 1]) / (q->p[i] - q->p[i - 1]);
  return llround(q->value[i - 1] + part * (q->value[i] - q->value[i - 1]));
}

/* Uniform in (0, 1), from a counter: the same on every machine. */
static double uniform(uint64_t counter) {
  uint64_t x = (counter + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return ((double)(x >> 11) + 0.5) / 9007199254740992.0;
}

static double normal(uint64_t counter) {
  return sqrt(-2 * log(uniform(2 * counter))) * cos(2 * acos(-1.0) * uniform(2 * counter + 1));
}

static double normal_cdf(double z) {
  return erfc(-z / sqrt(2.0)) / 2;
}

static fk_status sample_summary(const fk_json *root, int64_t max_requests, fk_workload *w) {
  int64_t count, room = 0;
  double correlation;
  FK_TRY(fk_json_int(root, "requests", 1, MAX_REQUESTS, &count));
  FK_TRY(fk_json_float_or(root, "correlation", -1, 1, 0, &correlation));
  quantiles *q = malloc(2 * sizeof *q);
  if (!q) return no_memory();
  fk_status status = parse_quantiles(root, "input_length", &q[0]);
  if (!status) status = parse_quantiles(root, "output_length", &q[1]);
  if (max_requests) count = max_requests;
  for (int64_t i = 0; i < count && !status; i++) {
    double a = normal(2 * (uint64_t)i), b = normal(2 * (uint64_t)i + 1);
    b = correlation * a + sqrt(1 - correlation * correlation) * b;
    fk_request r = {.input_length = at_quantile(&q[0], normal_cdf(a)),
                    .output_length = at_quantile(&q[1], normal_cdf(b))};
    status = append(w, &room, &r);
  }
  free(q);
  return status;
}

/* ---- Inputs of models that take no steps ------------------------------------------------------------------ */

static fk_status parse_spec(const fk_json *object, const char *name, fk_arena *arena, fk_input_spec *spec) {
  static const char *const keys[] = {"shape", "dtype", NULL};
  fk_json view = fk_json_member(object, name);
  const char *dtype;
  size_t ndim;
  int64_t shape[FK_MAX_DIMS], n = 1;
  FK_TRY(only_keys(&view, keys));
  FK_TRY(fk_json_ints(&view, "shape", 0, INT32_MAX, FK_MAX_DIMS, shape, &ndim));
  FK_TRY(fk_json_string(&view, "dtype", &dtype));
  *spec = (fk_input_spec){.name = fk_arena_strdup(arena, name), .ndim = (int32_t)ndim};
  if (!spec->name) return FK_ERROR_MEMORY;
  if (!fk_type_parse(dtype, &spec->type))
    return fk_json_fail(&view, FK_ERROR_FORMAT, "dtype: there is no dtype \"%s\"", dtype);
  for (size_t i = 0; i < ndim; i++) {
    spec->shape[i] = shape[i];
    if (__builtin_mul_overflow(n, shape[i], &n) || n > (int64_t)1 << 40)
      return fk_json_fail(&view, FK_ERROR_FORMAT, "shape: more than 2^40 elements");
  }
  return FK_OK;
}

static fk_status parse_item(const fk_json *object, fk_arena *arena, fk_input_item *item) {
  const char *name;
  json_t *value;
  if (!json_is_object(object->node)) return fk_json_expected(object, "an object of named tensors");
  size_t n = json_object_size(object->node);
  if (n == 0) return fk_json_fail(object, FK_ERROR_FORMAT, "expected at least one tensor");
  fk_input_spec *specs = fk_arena_calloc(arena, n, sizeof *specs);
  if (!specs) return FK_ERROR_MEMORY;
  json_object_foreach((json_t *)object->node, name, value)
      FK_TRY(parse_spec(object, name, arena, &specs[item->count++]));
  item->specs = specs;
  return FK_OK;
}

static fk_status parse_inputs(const fk_json *root, int64_t max_requests, fk_workload *w) {
  fk_json list;
  FK_TRY(fk_json_array(root, "inputs", &list));
  size_t n = json_array_size(list.node);
  if (n == 0) return fk_json_fail(&list, FK_ERROR_FORMAT, "expected at least one set of inputs");
  if (max_requests && n > (size_t)max_requests) n = (size_t)max_requests;
  w->kind = FK_WORKLOAD_INPUTS;
  w->items = fk_arena_calloc(&w->arena, n, sizeof *w->items);
  if (!w->items) return FK_ERROR_MEMORY;
  for (; (size_t)w->count < n; w->count++) {
    fk_json item = fk_json_item(&list, (size_t)w->count);
    FK_TRY(parse_item(&item, &w->arena, &w->items[w->count]));
  }
  return FK_OK;
}

/* ---- Workloads ------------------------------------------------------------------------------------------- */

static fk_status workload_new(fk_workload **out) {
  *out = calloc(1, sizeof **out);
  if (!*out) return no_memory();
  fk_arena_init(&(*out)->arena, &fk_host_memory, 1 << 16);
  return FK_OK;
}

static fk_status parse_root(const fk_json *root, int64_t max_requests, fk_workload *w) {
  static const char *const keys[] = {"name",          "source",      "notes",  "requests", "input_length",
                                     "output_length", "correlation", "inputs", NULL};
  static const char *const summary[] = {"input_length", "output_length", "correlation", NULL};
  const char *name, *source;
  FK_TRY(only_keys(root, keys));
  FK_TRY(fk_json_string(root, "name", &name));
  FK_TRY(fk_json_string_or(root, "source", "", &source));
  w->name = fk_arena_strdup(&w->arena, name);
  w->source = fk_arena_strdup(&w->arena, source);
  if (!w->name || !w->source) return FK_ERROR_MEMORY;
  bool inputs = fk_json_has(root, "inputs"), list = json_is_array(fk_json_member(root, "requests").node);
  if (inputs && fk_json_has(root, "requests"))
    return fk_json_fail(root, FK_ERROR_FORMAT, "expected \"requests\" or \"inputs\", not both");
  for (int i = 0; summary[i] && (inputs || list); i++)
    if (fk_json_has(root, summary[i]))
      return fk_json_fail(root, FK_ERROR_FORMAT, "%s belongs to a summary, where \"requests\" is a number", summary[i]);
  if (inputs) return parse_inputs(root, max_requests, w);
  return list ? parse_requests(root, max_requests, w) : sample_summary(root, max_requests, w);
}

fk_status fk_workload_parse(const char *json, size_t size, const char *where, int64_t max_requests, fk_workload **out) {
  json_t *node;
  fk_workload *w = NULL;
  *out = NULL;
  FK_TRY(fk_json_parse(json, size, where, &node));
  fk_json root = fk_json_root(node, where);
  fk_status status = workload_new(&w);
  if (!status) status = parse_root(&root, max_requests, w);
  json_decref(node);
  if (status) {
    fk_workload_close(w);
    return status;
  }
  *out = w;
  return FK_OK;
}

static fk_status unknown(const char *source) {
  char names[1024] = "";
  for (int i = 0; i < fk_workload_count; i++) {
    size_t used = strlen(names);
    snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", fk_workloads[i].name);
  }
  return fk_fail(FK_ERROR_NOT_FOUND, "%s: neither a file nor a built-in workload (%s)", source, names);
}

fk_status fk_workload_open(const char *source, int64_t max_requests, fk_workload **workload) {
  struct stat st;
  *workload = NULL;
  if (stat(source, &st) != 0) {
    if (errno != ENOENT || strchr(source, '/')) return fk_fail(FK_ERROR_NOT_FOUND, "%s: %s", source, strerror(errno));
    for (int i = 0; i < fk_workload_count; i++)
      if (strcmp(fk_workloads[i].name, source) == 0)
        return fk_workload_parse(fk_workloads[i].json, strlen(fk_workloads[i].json), source, max_requests, workload);
    return unknown(source);
  }
  json_t *node;
  fk_workload *w = NULL;
  FK_TRY(fk_json_load(source, MAX_FILE, &node));
  fk_json root = fk_json_root(node, source);
  fk_status status = workload_new(&w);
  if (!status) status = parse_root(&root, max_requests, w);
  json_decref(node);
  if (status) {
    fk_workload_close(w);
    return status;
  }
  *workload = w;
  return FK_OK;
}

typedef struct collector {
  fk_workload *w;
  int64_t room;
} collector;

static fk_status collect(void *self, const fk_trace_request *t) {
  collector *c = self;
  fk_request r = {.input_length = t->input_length, .output_length = t->output_length, .arrival = t->time};
  return append(c->w, &c->room, &r);
}

fk_status fk_workload_open_trace(const char *path, int64_t max_requests, fk_workload **workload) {
  collector c = {0};
  *workload = NULL;
  FK_TRY(workload_new(&c.w));
  const char *slash = strrchr(path, '/');
  c.w->name = fk_arena_strdup(&c.w->arena, slash ? slash + 1 : path);
  c.w->source = fk_arena_printf(&c.w->arena, "trace file %s", slash ? slash + 1 : path);
  fk_status status = c.w->name && c.w->source ? FK_OK : FK_ERROR_MEMORY;
  if (!status) status = fk_trace_read(path, max_requests, collect, &c);
  if (status) {
    fk_workload_close(c.w);
    return status;
  }
  *workload = c.w;
  return FK_OK;
}

void fk_workload_close(fk_workload *w) {
  if (!w) return;
  free(w->requests);
  fk_arena_destroy(&w->arena);
  free(w);
}

void fk_workload_limit(fk_workload *w, int64_t max_position) {
  int64_t kept = 0;
  if (w->kind != FK_WORKLOAD_SEQUENCES) return;
  for (int64_t i = 0; i < w->count; i++)
    if (w->requests[i].input_length + w->requests[i].output_length - 1 <= max_position)
      w->requests[kept++] = w->requests[i];
  w->skipped += w->count - kept;
  w->count = kept;
}
