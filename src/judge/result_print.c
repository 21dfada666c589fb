/* A record as text: one line per case, one per candidate and task, and the sum. */
#include <math.h>
#include <string.h>

#include "judge/result.h"

/* At most width bytes of a string of the record (and what is left of a character), without what would control a
 * terminal. */
static void put(FILE *out, const char *text, size_t width) {
  for (size_t i = 0;; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c == '\0' || (i >= width && (c & 0xc0) != 0x80)) return;
    bool c1 = c == 0xc2 && ((unsigned char)text[i + 1] & 0xe0) == 0x80; /* U+0080 to U+009F: controls, of two bytes */
    fputc(c < 32 || c == 127 || c1 ? ' ' : c, out);
    i += c1;
  }
}

static const char *time_text(double ns, char text[24]) {
  if (ns < 1e3)
    snprintf(text, 24, "%.0f ns", ns);
  else if (ns < 1e6)
    snprintf(text, 24, "%.1f us", ns / 1e3);
  else
    snprintf(text, 24, "%.2f ms", ns / 1e6);
  return text;
}

static const char *paint(bool color, fk_verdict v) {
  if (!color) return "";
  return v == FK_VERDICT_FASTER   ? "\033[32m"
         : v == FK_VERDICT_SLOWER ? "\033[33m"
         : fk_verdict_failed(v)   ? "\033[31m"
                                  : "";
}

static void print_case(const fk_result_case *c, FILE *out, bool color) {
  char base[24], cand[24];
  size_t length = strlen(c->label);
  fprintf(out, "  %s%-8s%s ", paint(color, c->verdict), fk_verdict_name(c->verdict), color ? "\033[0m" : "");
  put(out, c->label, 60);
  for (size_t i = length; i < 61; i++) fputc(' ', out);
  if (fk_verdict_failed(c->verdict)) {
    put(out, c->reason, 320);
  } else if (c->verdict == FK_VERDICT_BASELINE) {
    fprintf(out, "%10s  noise %4.1f %%", time_text(c->baseline_ns, base), 100 * c->noise);
  } else {
    fprintf(out, "%10s -> %10s  %5.2fx [%.2f, %.2f]  noise %4.1f %%", time_text(c->baseline_ns, base),
            time_text(c->candidate_ns, cand), c->speedup.middle, c->speedup.low, c->speedup.high, 100 * c->noise);
  }
  if (!isnan(c->limit_fraction) && !fk_verdict_failed(c->verdict))
    fprintf(out, "  %5.1f %% of the limit", 100 * c->limit_fraction);
  if (c->count > 1) fprintf(out, "  x%lld", (long long)c->count);
  if (*c->baseline_by) fputs("\n           baseline: ", out);
  put(out, c->baseline_by, 200);
  fputc('\n', out);
}

static void print_row(const fk_result_row *row, FILE *out, bool color) {
  if (color) fputs("\033[1m", out);
  put(out, row->name, 200);
  if (row->task) fputs(": ", out);
  if (row->task) put(out, row->task, 100);
  if (color) fputs("\033[0m", out);
  if (row->num_cases < row->cases_in_source)
    fprintf(out, "  [%d of %lld cases, %lld of %lld calls]", row->num_cases, (long long)row->cases_in_source,
            (long long)row->calls_covered, (long long)row->calls_in_source);
  fputc('\n', out);
  if (*row->reason) {
    fputs("  ", out);
    put(out, row->reason, 320);
    fputc('\n', out);
  }
  for (int i = 0; i < row->num_cases; i++) print_case(&row->cases[i], out, color);
  if (row->failed)
    fprintf(out, "  failed: counts as the baseline, 1.00x\n");
  else if (row->candidate)
    fprintf(out, "  score %.3fx\n", row->score);
}

void fk_result_print(const fk_result *r, FILE *out, bool color) {
  const char *cpu = json_string_value(fk_json_member(&r->environment, "cpu").node);
  const char *date = json_string_value(fk_json_member(&r->environment, "date").node);
  put(out, *r->model ? r->model : r->source, 200);
  fputs(*r->workload ? ", workload " : "", out);
  put(out, r->workload, 200);
  fputs("; ", out);
  put(out, cpu ? cpu : "an unknown processor", 200);
  fputs("; ", out);
  put(out, date ? date : "no date", 40);
  fputs("\n\n", out);
  for (int i = 0; i < r->num_rows; i++) print_row(&r->rows[i], out, color);
  if (r->num_candidates)
    fprintf(out, "\n%d of %d passed; overall %.3fx (geometric mean over tasks of the best that passes)\n",
            r->num_rows - r->num_failed, r->num_rows, r->overall);
}
