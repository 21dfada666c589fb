#include "engine/trace.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/workload.h"

typedef struct reader {
  const char *where;
  int64_t line;
  double start, last; /* absolute seconds */
  bool started;
} reader;

#define BAD(r, ...) fk_fail_in(fk_fail(FK_ERROR_FORMAT, __VA_ARGS__), "%s:%lld", (r)->where, (long long)(r)->line)

static fk_status check_length(const reader *r, const char *name, double value) {
  if (value >= 1 && value <= FK_MAX_REQUEST_LENGTH && value == floor(value)) return FK_OK;
  return BAD(r, "%s: expected an integer from 1 to %d, got %.17g", name, FK_MAX_REQUEST_LENGTH, value);
}

/* Makes times relative to the first request. */
static fk_status set_time(reader *r, double seconds, fk_trace_request *request) {
  if (!isfinite(seconds)) return BAD(r, "timestamp: expected a time, got %g", seconds);
  if (!r->started) r->start = r->last = seconds;
  r->started = true;
  if (seconds < r->last) return BAD(r, "timestamp: lies %g s before the previous request's", r->last - seconds);
  r->last = seconds;
  request->time = seconds - r->start;
  return FK_OK;
}

/* ---- CSV ------------------------------------------------------------------------------------------------- */

/* Days since 1970-01-01 of a Gregorian date: years are counted from March, so that the leap day comes last. */
static int64_t days_of(int64_t year, int64_t month, int64_t day) {
  year -= month <= 2;
  int64_t era = (year >= 0 ? year : year - 399) / 400, of_era = year - era * 400;
  int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static bool parse_time(const char *text, double *seconds) {
  int year, month, day, hour, minute, used = 0;
  if (sscanf(text, "%4d-%2d-%2d %2d:%2d:%n", &year, &month, &day, &hour, &minute, &used) == 5 && used > 0) {
    char *end;
    if (!isdigit((unsigned char)text[used])) return false;
    double rest = strtod(text + used, &end);
    if (*end || year < 1900 || month < 1 || month > 12 || day < 1 || day > 31 || hour < 0 || hour > 23 || minute < 0 ||
        minute > 59 || !(rest >= 0 && rest < 61))
      return false;
    *seconds = (double)(days_of(year, month, day) * 86400 + hour * 3600 + minute * 60) + rest;
    return true;
  }
  char *end;
  *seconds = strtod(text, &end);
  return end != text && !*end;
}

static bool parse_count(const char *text, double *value) {
  char *end;
  errno = 0;
  long long v = strtoll(text, &end, 10);
  *value = (double)v;
  return end != text && !*end && !errno;
}

static char *trim(char *text) {
  while (isspace((unsigned char)*text)) text++;
  for (size_t n = strlen(text); n > 0 && isspace((unsigned char)text[n - 1]);) text[--n] = '\0';
  return text;
}

static fk_status parse_csv(reader *r, char *line, fk_trace_request *request) {
  static const char *const names[] = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"};
  char *fields[3], *rest = line;
  for (int i = 0; i < 3; i++) {
    char *comma = strchr(rest, ',');
    if (!comma != (i == 2)) return BAD(r, "expected 3 fields separated by commas");
    if (comma) *comma = '\0';
    fields[i] = trim(rest);
    if (comma) rest = comma + 1;
  }
  double seconds, lengths[2];
  if (!parse_time(fields[0], &seconds))
    return BAD(r, "TIMESTAMP: expected YYYY-MM-DD HH:MM:SS or seconds, got \"%.40s\"", fields[0]);
  for (int i = 0; i < 2; i++) {
    if (!parse_count(fields[i + 1], &lengths[i]))
      return BAD(r, "%s: expected an integer, got \"%.40s\"", names[i + 1], fields[i + 1]);
    FK_TRY(check_length(r, names[i + 1], lengths[i]));
  }
  request->input_length = (int64_t)lengths[0];
  request->output_length = (int64_t)lengths[1];
  return set_time(r, seconds, request);
}

static fk_status check_header(const reader *r, char *line) {
  static const char wanted[] = "TIMESTAMP,ContextTokens,GeneratedTokens";
  /* Some exports begin with a byte order mark. */
  if (strncmp(line, "\xef\xbb\xbf", 3) == 0) line += 3;
  line = trim(line);
  return strcmp(line, wanted) == 0 ? FK_OK : BAD(r, "expected the header %s, got \"%.80s\"", wanted, line);
}

/* ---- JSONL ----------------------------------------------------------------------------------------------- */

static fk_status json_number(const reader *r, const json_t *object, const char *key, double *value) {
  const json_t *v = json_object_get(object, key);
  if (!v) return BAD(r, "expected the key \"%s\"", key);
  if (!json_is_number(v)) return BAD(r, "%s: expected a number", key);
  *value = json_number_value(v);
  return FK_OK;
}

static fk_status parse_jsonl(reader *r, const char *line, fk_trace_request *request) {
  json_error_t error;
  json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, &error);
  if (!object) return BAD(r, "%s at column %d", error.text, error.column);
  double milliseconds = 0, input = 0, output = 0;
  fk_status status = json_is_object(object) ? FK_OK : BAD(r, "expected an object");
  if (!status) status = json_number(r, object, "timestamp", &milliseconds);
  if (!status) status = json_number(r, object, "input_length", &input);
  if (!status) status = json_number(r, object, "output_length", &output);
  json_decref(object);
  if (status) return status;
  FK_TRY(check_length(r, "input_length", input));
  FK_TRY(check_length(r, "output_length", output));
  request->input_length = (int64_t)input;
  request->output_length = (int64_t)output;
  return set_time(r, milliseconds / 1000, request);
}

/* ---- Files ----------------------------------------------------------------------------------------------- */

enum { MAX_LINE = 1 << 20 };

static fk_status read_lines(reader *r, FILE *stream, fk_trace_format format, int64_t max_requests, fk_trace_fn fn,
                            void *self, char **line, size_t *room) {
  int64_t count = 0;
  bool header = format == FK_TRACE_CSV;
  for (ssize_t n; (!max_requests || count < max_requests) && (n = getline(line, room, stream)) >= 0;) {
    r->line++;
    if (n > MAX_LINE) return BAD(r, "the line is longer than %d bytes", MAX_LINE);
    if (strlen(*line) != (size_t)n) return BAD(r, "the line contains a zero byte");
    fk_trace_request request;
    if (header) {
      FK_TRY(check_header(r, *line));
      header = false;
      continue;
    }
    char *text = trim(*line);
    if (!*text) continue;
    FK_TRY(format == FK_TRACE_CSV ? parse_csv(r, text, &request) : parse_jsonl(r, text, &request));
    FK_TRY(fn(self, &request));
    count++;
  }
  if (ferror(stream)) return fk_fail(FK_ERROR_IO, "%s: %s", r->where, strerror(errno));
  return count > 0 ? FK_OK : fk_fail(FK_ERROR_FORMAT, "%s: the trace has no requests", r->where);
}

fk_status fk_trace_read_stream(FILE *stream, fk_trace_format format, const char *where, int64_t max_requests,
                               fk_trace_fn fn, void *self) {
  reader r = {.where = where};
  char *line = NULL;
  size_t room = 0;
  fk_status status = read_lines(&r, stream, format, max_requests, fn, self, &line, &room);
  free(line);
  return status;
}

fk_status fk_trace_read(const char *path, int64_t max_requests, fk_trace_fn fn, void *self) {
  const char *dot = strrchr(path, '.');
  bool csv = dot && strcmp(dot, ".csv") == 0, jsonl = dot && strcmp(dot, ".jsonl") == 0;
  if (!csv && !jsonl) return fk_fail(FK_ERROR_ARGUMENT, "%s: expected a trace whose name ends in .csv or .jsonl", path);
  FILE *f = fopen(path, "rbe");
  if (!f) return fk_fail(errno == ENOENT ? FK_ERROR_NOT_FOUND : FK_ERROR_IO, "%s: %s", path, strerror(errno));
  fk_status status = fk_trace_read_stream(f, csv ? FK_TRACE_CSV : FK_TRACE_JSONL, path, max_requests, fn, self);
  fclose(f);
  return status;
}
