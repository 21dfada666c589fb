#include "engine/capture_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "io/file.h"

/* A capture may hold millions of integers: it is written as it is walked, never built in memory. */
typedef struct writer {
  fk_atomic_file file;
  fk_status status; /* the first failure; everything after it is skipped */
  size_t used;
  char buffer[1 << 16];
} writer;

static void flush(writer *w) {
  if (!w->status && w->used) w->status = fk_atomic_write(&w->file, w->buffer, w->used);
  w->used = 0;
}

static void put_bytes(writer *w, const char *data, size_t size) {
  while (size > 0 && !w->status) {
    size_t room = sizeof w->buffer - w->used, n = size < room ? size : room;
    memcpy(w->buffer + w->used, data, n);
    w->used += n;
    data += n;
    size -= n;
    if (w->used == sizeof w->buffer) flush(w);
  }
}

__attribute__((format(printf, 2, 3))) static void put(writer *w, const char *format, ...) {
  char text[256];
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  if (n > 0) put_bytes(w, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

static void put_text(writer *w, const char *s) {
  put_bytes(w, "\"", 1);
  for (; *s; s++) {
    unsigned char c = (unsigned char)*s;
    if (c == '"' || c == '\\') put_bytes(w, "\\", 1);
    if (c < 32)
      put(w, "\\u%04x", c);
    else
      put_bytes(w, s, 1);
  }
  put_bytes(w, "\"", 1);
}

/* The shortest decimal that reads back as the same double. */
static void put_number(writer *w, double x) {
  char text[40];
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, x);
    if (strtod(text, NULL) == x) break;
  }
  put(w, "%s", text);
  /* A real stays a real for readers that tell the two apart. */
  if (!strpbrk(text, ".en")) put(w, ".0");
}

static void put_key(writer *w, bool *first, const char *key) {
  put(w, *first ? "" : ", ");
  *first = false;
  put_text(w, key);
  put(w, ": ");
}

/* ---- One case -------------------------------------------------------------------------------------------- */

static int lead_symbol(const fk_task *task, int layout) {
  for (int i = 0; i < task->num_args; i++)
    if (fk_arg_is_tensor(&task->args[i]) && task->args[i].shapes[layout].ellipsis)
      return task->args[i].shapes[layout].dims[0].symbol;
  return -1;
}

static void put_axes(writer *w, const fk_task *task, const fk_record *r) {
  bool first = true;
  int lead = lead_symbol(task, r->binding.layout);
  put(w, "{\"axes\": {");
  for (int i = 0; i < task->num_symbols; i++) {
    int64_t value = r->binding.symbols[i];
    if (task->symbols[i].kind == FK_AXIS_ATTRIBUTE || value == FK_UNBOUND) continue;
    put_key(w, &first, task->symbols[i].name);
    if (i != lead || r->binding.lead_ndim == 1) {
      put(w, "%" PRId64, value);
      continue;
    }
    put(w, "[");
    for (int32_t d = 0; d < r->binding.lead_ndim; d++) put(w, "%s%" PRId64, d ? ", " : "", r->binding.lead[d]);
    put(w, "]");
  }
  put(w, "}");
  if (task->num_layouts) {
    put(w, ", \"layout\": ");
    put_text(w, task->layouts[r->binding.layout]);
  }
}

static void put_attributes(writer *w, const fk_task *task, const fk_record *r) {
  bool first = true;
  if (task->num_attributes == 0) return;
  put(w, ", \"attributes\": {");
  for (int i = 0; i < task->num_args; i++) {
    const fk_arg *arg = &task->args[i];
    if (fk_arg_is_tensor(arg)) continue;
    put_key(w, &first, arg->name);
    int64_t value = arg->symbol >= 0 ? r->binding.symbols[arg->symbol] : 0;
    if (arg->type == FK_ATTR_FLOAT)
      put_number(w, r->args[i].number);
    else if (arg->type == FK_ATTR_ENUM && arg->enum_names)
      put_text(w, arg->enum_names[value]);
    else if (arg->type == FK_ATTR_BOOL)
      put(w, value ? "true" : "false");
    else
      put(w, "%" PRId64, value);
  }
  put(w, "}");
}

static void put_ints(writer *w, const fk_ints *ints) {
  put(w, "[");
  for (int64_t i = 0; i < ints->count; i++) put(w, "%s%" PRId64, i ? ", " : "", fk_ints_at(ints, i));
  put(w, "]");
}

static void put_stats(writer *w, const fk_stats *s, bool integers) {
  const struct {
    const char *key;
    double value;
  } items[] = {{"mean", s->mean},
               {"std", s->std},
               {"min", s->min},
               {"max", s->max},
               {"absmax", s->absmax},
               {"zero", s->zero},
               {"nonfinite", s->nonfinite}};
  put(w, "{");
  for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
    put(w, "\"%s\": ", items[i].key);
    put_number(w, items[i].value);
    put(w, ", ");
  }
  put(w, "\"numel\": %" PRId64 ", \"sampled\": %" PRId64 "%s}", s->numel, s->sampled,
      integers ? ", \"truncated\": true" : "");
}

static void put_strides(writer *w, const fk_record_arg *a) {
  put(w, "[");
  for (int32_t d = 0; d < a->ndim; d++) put(w, "%s%" PRId64, d ? ", " : "", a->strides[d]);
  put(w, "]");
}

typedef enum section { DTYPES, STRIDES, VALUES, STATS } section;

static void put_section(writer *w, const fk_task *task, const fk_record *r, section which, const char *name) {
  bool first = true;
  for (int i = 0; i < task->num_args; i++) {
    const fk_record_arg *a = &r->args[i];
    bool has[] = {a->present, a->strides, a->ints, a->stats};
    if (!fk_arg_is_tensor(&task->args[i]) || !has[which]) continue;
    if (first) put(w, ", \"%s\": {", name);
    put_key(w, &first, task->args[i].name);
    if (which == DTYPES) put_text(w, fk_type_name(a->type));
    if (which == STRIDES) put_strides(w, a);
    if (which == VALUES) put_ints(w, a->ints);
    if (which == STATS) put_stats(w, a->stats, !fk_type_is_float(a->type));
  }
  if (!first) put(w, "}");
}

static void put_absent(writer *w, const fk_task *task, const fk_record *r) {
  bool first = true;
  for (int i = 0; i < task->num_args; i++) {
    const fk_arg *arg = &task->args[i];
    if (!fk_arg_is_tensor(arg) || r->args[i].present || arg->shapes[r->binding.layout].absent) continue;
    put(w, first ? ", \"absent\": [" : ", ");
    first = false;
    put_text(w, arg->name);
  }
  if (!first) put(w, "]");
}

static void put_case(writer *w, const fk_task *task, const fk_record *r) {
  put_axes(w, task, r);
  put_attributes(w, task, r);
  put_absent(w, task, r);
  put_section(w, task, r, DTYPES, "dtypes");
  put_section(w, task, r, STRIDES, "strides");
  put_section(w, task, r, VALUES, "values");
  put_section(w, task, r, STATS, "stats");
  put(w, ", \"count\": %" PRIu64, r->calls);
  if (r->merged > 1) put(w, ", \"merged\": %" PRIu64, r->merged);
  put(w, ", \"cost\": {\"flops\": ");
  put_number(w, r->flops);
  put(w, ", \"bytes\": ");
  put_number(w, r->bytes);
  put(w, ", \"total_flops\": ");
  put_number(w, (double)r->all_flops);
  put(w, ", \"total_bytes\": ");
  put_number(w, (double)r->all_bytes);
  put(w, "}}");
}

/* ---- The file -------------------------------------------------------------------------------------------- */

static void put_table(writer *w, const fk_record_table *t, bool last) {
  put(w, "    ");
  put_text(w, t->task->name);
  put(w, ": {\n      \"level\": %d, \"family\": ", t->task->level);
  put_text(w, t->task->family);
  put(w, ", \"calls\": %" PRIu64 ", \"flops\": ", t->calls);
  put_number(w, (double)t->flops);
  put(w, ", \"bytes\": ");
  put_number(w, (double)t->bytes);
  if (t->uncosted) put(w, ", \"calls_without_cost\": %" PRIu64, t->uncosted);
  if ((uint64_t)t->count < t->distinct)
    put(w, ", \"merged\": {\"from\": %" PRIu64 ", \"to\": %d}", t->distinct, t->count);
  put(w, ",\n      \"cases\": [");
  for (int i = 0; i < t->count; i++) {
    put(w, i ? ",\n        " : "\n        ");
    put_case(w, t->task, t->cases[i]);
  }
  put(w, "\n      ]\n    }%s\n", last ? "" : ",");
}

static void put_simulation(writer *w, const fk_capture_about *about) {
  const fk_batching_stats *s = &about->simulation->stats;
  put(w, "  \"simulation\": {\"steps\": %" PRId64 ", \"requests\": %" PRId64, s->steps, s->requests);
  if (about->simulation->kind == FK_WORKLOAD_SEQUENCES) {
    const struct {
      const char *key;
      int64_t value;
    } items[] = {{"prefill_tokens", s->prefill_tokens},
                 {"decode_tokens", s->decode_tokens},
                 {"output_tokens", s->output_tokens},
                 {"preemptions", s->preemptions},
                 {"recomputed_tokens", s->recomputed_tokens},
                 {"max_num_seqs", s->max_num_seqs},
                 {"max_num_batched_tokens", s->max_num_batched_tokens},
                 {"num_blocks", s->num_blocks},
                 {"block_size", s->block_size},
                 {"max_step_tokens", s->max_step_tokens},
                 {"max_decode_batch", s->max_decode_batch},
                 {"max_in_flight", s->max_in_flight},
                 {"max_blocks_used", s->max_blocks_used},
                 {"cache_bytes", (int64_t)about->simulation->cache_bytes}};
    for (size_t i = 0; i < sizeof items / sizeof *items; i++)
      put(w, ", \"%s\": %" PRId64, items[i].key, items[i].value);
    put(w, ", \"arrival\": ");
    put_text(w, about->arrival);
    /* A run whose sums do not hold is an error and writes no file. */
    put(w, ", \"checks\": \"passed\"");
  }
  put(w, "},\n");
}

static void put_about(writer *w, const fk_capture_about *about) {
  char now[32] = "";
  time_t t = time(NULL);
  struct tm utc;
  if (gmtime_r(&t, &utc)) strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &utc);
  const struct {
    const char *key, *value;
  } items[] = {{"format", FK_CAPTURE_FORMAT}, {"model", about->model},
               {"device", about->device},     {"dtype", about->dtype},
               {"version", FK_VERSION},       {"created", about->created ? about->created : now}};
  put(w, "{\n");
  for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
    put(w, "  \"%s\": ", items[i].key);
    put_text(w, items[i].value);
    put(w, ",\n");
  }
  put(w, "  \"workload\": {\"name\": ");
  put_text(w, about->workload->name);
  put(w, ", \"source\": ");
  put_text(w, about->workload->source);
  put(w, ", \"requests\": %" PRId64 ", \"skipped\": %" PRId64 "},\n", about->workload->count, about->workload->skipped);
  put_simulation(w, about);
}

fk_status fk_capture_write(const fk_capture *capture, const fk_capture_about *about, const char *path) {
  writer *w = calloc(1, sizeof *w);
  if (!w) return fk_fail(FK_ERROR_MEMORY, "%s: cannot allocate", path);
  fk_status status = fk_atomic_open(&w->file, path);
  if (!status) {
    put_about(w, about);
    put(w, "  \"tasks\": {\n");
    int n = fk_capture_count(capture);
    for (int i = 0; i < n; i++) put_table(w, fk_capture_table(capture, i), i + 1 == n);
    put(w, "  }\n}\n");
    flush(w);
    status = w->status;
    if (!status)
      status = fk_atomic_commit(&w->file);
    else
      fk_atomic_abandon(&w->file);
  }
  free(w);
  return status;
}
