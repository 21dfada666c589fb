#include "judge/page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fastkernels/fastkernels.h"
#include "io/file.h"

/* ---- Strings --------------------------------------------------------------------------------------------- */

/* Characters that turn the direction of writing: U+202A..202E and U+2066..2069, all three bytes long. */
static bool turns_direction(const unsigned char *c) {
  return c[0] == 0xe2 &&
         ((c[1] == 0x80 && c[2] >= 0xaa && c[2] <= 0xae) || (c[1] == 0x81 && c[2] >= 0xa6 && c[2] <= 0xa9));
}

void fk_page_text(FILE *out, const char *text) {
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (turns_direction(c)) {
      fprintf(out, "[U+20%02X]", c[1] == 0x80 ? c[2] - 0x80 : 0x40 + c[2] - 0x80);
      c += 2;
    } else if (*c == '&') {
      fputs("&amp;", out);
    } else if (*c == '<') {
      fputs("&lt;", out);
    } else if (*c == '>') {
      fputs("&gt;", out);
    } else if (*c == '"') {
      fputs("&quot;", out);
    } else if (*c == '\'') {
      fputs("&#39;", out);
    } else if (*c < 32 || *c == 127) {
      fputs(*c == '\n' || *c == '\t' ? " " : "\xef\xbf\xbd", out);
    } else {
      fputc(*c, out);
    }
  }
}

/* ---- Verdicts -------------------------------------------------------------------------------------------- */

static const char *color_of(fk_verdict v) {
  return v == FK_VERDICT_FASTER ? "good" : v == FK_VERDICT_SLOWER ? "warn" : fk_verdict_failed(v) ? "bad" : "";
}

/* A shape beside the colour: not everyone sees the latter. */
static const char *mark_of(fk_verdict v) {
  return v == FK_VERDICT_FASTER ? "▲" : v == FK_VERDICT_SLOWER ? "▼" : fk_verdict_failed(v) ? "✕" : "●";
}

static void badge(FILE *out, fk_verdict v, int times) {
  fprintf(out, "<span class=\"badge %s\">%s ", color_of(v), mark_of(v));
  if (times > 1) fprintf(out, "%d ", times);
  fprintf(out, "%s</span> ", fk_verdict_name(v));
}

static const char *ratio_text(double ratio, char text[32]) {
  if (!(ratio > 0) || isinf(ratio))
    snprintf(text, 32, "–");
  else
    snprintf(text, 32, ratio >= 100 ? "%.0f×" : ratio >= 10 ? "%.1f×" : ratio >= 0.1 ? "%.2f×" : "%.2g×", ratio);
  return text;
}

/* Within a thousandth of one nothing is better or worse. */
static const char *ratio_color(double ratio) {
  return ratio > 1.0005 ? "good" : ratio < 0.9995 ? "warn" : "";
}

/* ---- Head ------------------------------------------------------------------------------------------------ */

static void title(FILE *out, const fk_result *r) {
  if (*r->model)
    fk_page_text(out, r->model);
  else if (r->rows[0].task)
    fk_page_text(out, r->rows[0].task);
  else
    fputs("Candidate kernels", out);
}

static const char *string_of(const fk_json *object, const char *key) {
  const char *text = json_string_value(fk_json_member(object, key).node);
  return text ? text : "";
}

static void tile(FILE *out, const char *color, const char *big, const char *what) {
  fprintf(out, "<div class=\"card tile\"><div class=\"big %s\">%s</div><div class=\"what\">%s</div></div>", color, big,
          what);
}

static void tiles(FILE *out, const fk_result *r) {
  char text[64];
  int cases = 0, failed = 0;
  double best = NAN;
  for (int i = 0; i < r->num_rows; i++)
    for (int k = 0; k < r->rows[i].num_cases; k++) {
      const fk_result_case *c = &r->rows[i].cases[k];
      cases++;
      failed += fk_verdict_failed(c->verdict);
      if (!fk_verdict_failed(c->verdict)) best = fmax(isnan(best) ? 0 : best, c->limit_fraction);
    }
  fputs("<div class=\"tiles\">", out);
  if (r->num_candidates)
    fprintf(
        out,
        "<div class=\"card tile\"><div class=\"big hero %s\">%s</div><div class=\"what\">overall: the geometric mean "
        "over tasks of the best candidate that passes</div></div>",
        ratio_color(r->overall), ratio_text(r->overall, text));
  else
    fputs(
        "<div class=\"card tile\"><div class=\"big hero\">baseline</div><div class=\"what\">timed alone, against "
        "itself</div></div>",
        out);
  snprintf(text, sizeof text, "%d of %d", r->num_rows - r->num_failed, r->num_rows);
  tile(out, r->num_failed ? "bad" : "", text, r->num_candidates ? "candidates passed" : "baselines timed");
  snprintf(text, sizeof text, "%d", cases);
  char what[64];
  snprintf(what, sizeof what, failed ? "cases, %d failed" : "cases, none failed", failed);
  tile(out, "", text, what);
  if (isnan(best))
    snprintf(text, sizeof text, "–");
  else
    snprintf(text, sizeof text, best < 0.1 ? "%.1f %%" : "%.0f %%", 100 * best);
  tile(out, "", text, isnan(best) ? "limit of the machine not measured" : "of the machine's limit, at best");
  fputs("</div>", out);
}

static void head(FILE *out, const fk_result *r) {
  fputs(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      /* Whatever might slip through: nothing may be fetched and nothing may run. */
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
      "<meta name=\"referrer\" content=\"no-referrer\"><title>",
      out);
  title(out, r);
  fprintf(out, " – fastkernels bench</title><style>%s</style></head>\n<body><main>", fk_page_style);
  fputs("<header><p class=\"eyebrow\">fastkernels bench</p><h1>", out);
  title(out, r);
  fputs("</h1><p class=\"lead\">", out);
  fk_page_text(out, string_of(&r->environment, "cpu"));
  const char *date = string_of(&r->environment, "date");
  fprintf(out, "%s", *date ? ", " : "");
  fk_page_text(out, date);
  if (*r->workload) fputs(". Workload: ", out);
  fk_page_text(out, r->workload);
  if (*r->source) fputs(". Cases from ", out);
  fk_page_text(out, r->source);
  fputs("</p></header>", out);
  tiles(out, r);
}

/* ---- Scores ---------------------------------------------------------------------------------------------- */

static void count_badges(FILE *out, const fk_result_row *row) {
  for (int v = FK_VERDICT_FASTER; v <= FK_VERDICT_BASELINE; v++) {
    int n = 0;
    for (int k = 0; k < row->num_cases; k++) n += (int)row->cases[k].verdict == v;
    if (n) badge(out, (fk_verdict)v, n);
  }
  if (row->num_cases == 0) badge(out, FK_VERDICT_REFUSED, 1);
}

/* From the middle, one, to the right for faster and to the left for slower, on a logarithmic scale. */
static void score_bar(FILE *out, double score, double reach) {
  double length = fmin(fabs(log(fmax(score, 1e-9))) / log(reach), 1) * 50;
  fprintf(out, "<div class=\"bar %s\"><i style=\"left:%.1f%%;width:%.1f%%\"></i><b></b></div>", ratio_color(score),
          score >= 1 ? 50 : 50 - length, length);
}

/* A round power of two, so that an axis says a whole number. */
static double round_reach(double most) {
  return fmin(pow(2, ceil(log2(fmax(most, 2)))), 64);
}

/* All scores share one axis, and so do all cases of a candidate on a task. */
static double reach_of_scores(const fk_result *r) {
  double most = 1;
  for (int i = 0; i < r->num_rows; i++)
    if (r->rows[i].score > 0) most = fmax(most, fmax(r->rows[i].score, 1 / r->rows[i].score));
  return round_reach(most);
}

static double reach_of_cases(const fk_result_row *row) {
  double most = 1;
  for (int k = 0; k < row->num_cases; k++) {
    const fk_result_case *c = &row->cases[k];
    if (fk_verdict_failed(c->verdict) || !(c->speedup.low > 0) || !(c->speedup.high > 0)) continue;
    most = fmax(most, fmax(c->speedup.high, 1 / c->speedup.low));
  }
  return round_reach(most);
}

static void scores(FILE *out, const fk_result *r) {
  char text[32];
  double reach = reach_of_scores(r);
  fprintf(out, "<h2>Scores</h2><div class=\"card list\">");
  for (int i = 0; i < r->num_rows; i++) {
    const fk_result_row *row = &r->rows[i];
    fprintf(out, "<div class=\"line\"><div><a href=\"#row%d\"><b>", i + 1);
    fk_page_text(out, row->name);
    fputs("</b></a>", out);
    if (row->task) {
      fputs(" <span class=\"soft\">", out);
      fk_page_text(out, row->task);
      fprintf(out, ", level %lld</span>", (long long)row->level);
    }
    fputs("</div><div class=\"verdicts\">", out);
    count_badges(out, row);
    bool scored = row->candidate && !row->failed;
    fprintf(out, "</div><div class=\"figure %s\">%s</div>",
            row->failed ? "bad"
            : scored    ? ratio_color(row->score)
                        : "soft",
            row->failed ? "failed"
            : scored    ? ratio_text(row->score, text)
                        : "–");
    if (scored)
      score_bar(out, row->score, reach);
    else
      fputs("<div></div>", out);
    fputs("</div>", out);
  }
  fputs("</div>", out);
}

/* ---- Cases ----------------------------------------------------------------------------------------------- */

static void fact(FILE *out, const char *name, const char *value) {
  fprintf(out, "<dt>%s</dt><dd>%s</dd>", name, value);
}

static const char *percent_text(double fraction, char text[64]) {
  snprintf(text, 64, fraction < 0.1 ? "%.2g %%" : "%.0f %%", 100 * fraction);
  return text;
}

static void facts(FILE *out, const fk_result_case *c) {
  char text[128], a[32], b[32];
  bool alone = c->verdict == FK_VERDICT_BASELINE;
  fputs("<dl class=\"facts\">", out);
  if (alone) {
    fact(out, "time", fk_page_time(c->baseline_ns, a));
  } else {
    snprintf(text, sizeof text, "%s → <b>%s</b>", fk_page_time(c->baseline_ns, a), fk_page_time(c->candidate_ns, b));
    fact(out, "time", text);
    snprintf(text, sizeof text, "<b class=\"%s\">%s</b> [%.3g, %.3g]", color_of(c->verdict),
             ratio_text(c->speedup.middle, a), c->speedup.low, c->speedup.high);
    fact(out, "speed-up", text);
  }
  snprintf(text, sizeof text, "%.1f %%", 100 * c->noise);
  fact(out, "noise", text);
  if (c->candidate_ns > 0) {
    snprintf(text, sizeof text, "%.3g GB/s", c->bytes / c->candidate_ns);
    fact(out, "moved", text);
    snprintf(text, sizeof text, "%.3g GFLOP/s", c->flops / c->candidate_ns);
    if (c->flops > 0) fact(out, "computed", text);
  }
  if (!isnan(c->limit_fraction)) fact(out, "of the limit", percent_text(c->limit_fraction, text));
  if (!alone && c->error_limit > 0 && isfinite(c->error)) {
    snprintf(text, sizeof text, "%.2g of %.2g allowed", c->error, c->error_limit);
    fact(out, "error", text);
  }
  if (*c->baseline_by) {
    fputs("<dt>baseline</dt><dd class=\"mono\">", out);
    fk_page_text(out, c->baseline_by);
    fputs("</dd>", out);
  }
  fputs("</dl>", out);
}

static void one_case(FILE *out, const fk_result_case *c, int number, double reach) {
  bool failed = fk_verdict_failed(c->verdict);
  fprintf(out, "<article class=\"case\" id=\"case%d\"><div class=\"head\"><span class=\"soft small\">#%d</span>",
          number, number);
  badge(out, c->verdict, 1);
  fputs("<span class=\"mono\">", out);
  fk_page_text(out, c->label);
  fputs("</span>", out);
  if (c->count > 1) fprintf(out, "<span class=\"count\">stands for %lld calls</span>", (long long)c->count);
  fputs("</div>", out);
  if (*c->reason) {
    fputs("<p class=\"reason\">", out);
    fk_page_text(out, c->reason);
    fputs("</p>", out);
  }
  if (!failed) {
    fputs("<div class=\"plots\">", out);
    facts(out, c);
    fputs("<div>", out);
    if (c->verdict != FK_VERDICT_BASELINE) {
      fputs("<p class=\"cap\">speed-up, 95 % interval; shaded: noise</p>", out);
      fk_page_interval(out, c, reach);
    }
    fputs("</div><div>", out);
    if (c->num_samples) fputs("<p class=\"cap\">every sample; strokes: medians</p>", out);
    fk_page_samples(out, c);
    fputs("</div></div>", out);
  }
  fputs("</article>\n", out);
}

static void row_head(FILE *out, const fk_result_row *row) {
  char text[32];
  fputs("<header><div><h3>", out);
  fk_page_text(out, row->name);
  fputs("</h3><p class=\"soft small\">", out);
  if (row->task) {
    fputs("task ", out);
    fk_page_text(out, row->task);
    fprintf(out, ", level %lld", (long long)row->level);
    if (row->num_cases < row->cases_in_source)
      fprintf(out, "; %d of %lld cases, which cover %lld of %lld calls", row->num_cases,
              (long long)row->cases_in_source, (long long)row->calls_covered, (long long)row->calls_in_source);
  }
  if (row->candidate && strcmp(row->candidate, row->name) != 0) {
    fputs("<br><span class=\"mono\">", out);
    fk_page_text(out, row->candidate);
    fputs("</span>", out);
  }
  fputs("</p></div>", out);
  if (row->failed)
    fputs("<p class=\"bad\"><b>failed</b>: counts as the baseline, 1.00×</p>", out);
  else if (row->candidate)
    fprintf(out, "<p>score <b class=\"%s\">%s</b></p>", ratio_color(row->score), ratio_text(row->score, text));
  fputs("</header>", out);
}

static void rows(FILE *out, const fk_result *r) {
  int number = 0;
  fputs("<h2>Cases</h2>", out);
  for (int i = 0; i < r->num_rows; i++) {
    const fk_result_row *row = &r->rows[i];
    double reach = reach_of_cases(row);
    fprintf(out, "<section class=\"card row\" id=\"row%d\">", i + 1);
    row_head(out, row);
    if (*row->reason) {
      fputs("<div class=\"case\">", out);
      if (row->num_cases == 0) badge(out, FK_VERDICT_REFUSED, 1);
      fputs("<p class=\"reason\">", out);
      fk_page_text(out, row->reason);
      fputs("</p></div>", out);
    }
    for (int k = 0; k < row->num_cases; k++) one_case(out, &row->cases[k], ++number, reach);
    fputs("</section>", out);
  }
}

/* ---- The rest -------------------------------------------------------------------------------------------- */

static void roofline(FILE *out, const fk_result *r) {
  if (fk_page_roofline_points(r) == 0) return;
  fputs("<h2>Roofline</h2><figure class=\"card\">", out);
  fk_page_roofline(out, r, true);
  fk_page_roofline(out, r, false);
  fputs("<figcaption class=\"soft small\" style=\"margin-top:.6rem\">", out);
  if (r->num_candidates) fputs("Hollow: baseline. Filled: candidate, numbered as its case. ", out);
  fputs(r->ceilings.node
            ? "The line is what this machine reached in the same session: the rate of a copy, then the rate of "
              "a float32 matrix product. What runs from a cache may lie above the slope."
            : "The machine's ceilings were not measured in this run.",
        out);
  fputs("</figcaption></figure>", out);
}

static void value(FILE *out, const fk_json *object, const char *key, const char *name) {
  const json_t *v = fk_json_member(object, key).node;
  if (!v || json_is_null(v) || json_is_object(v) || json_is_array(v)) return;
  if (json_is_string(v) && !*json_string_value(v)) return;
  size_t length = strlen(key);
  bool bytes = length > 6 && strcmp(key + length - 6, "_bytes") == 0;
  fprintf(out, "<div><dt>%s</dt><dd>", name);
  double number = json_number_value(v);
  if (json_is_string(v))
    fk_page_text(out, json_string_value(v));
  else if (json_is_boolean(v))
    fputs(json_is_true(v) ? "yes" : "no", out);
  else if (bytes && number >= 1 << 20)
    fprintf(out, "%.4g MiB", number / (1 << 20));
  else if (bytes)
    fprintf(out, "%.4g KiB", number / 1024);
  else if (number >= 1e9)
    fprintf(out, "%.4g × 10<sup>9</sup>", number / 1e9);
  else
    fprintf(out, "%.6g", number);
  fputs("</dd></div>", out);
}

static void environment(FILE *out, const fk_result *r) {
  static const char *const machine[][2] = {{"cpu", "Processor"},
                                           {"cores", "Logical processors"},
                                           {"isa", "Instruction set"},
                                           {"governor", "Frequency governor"},
                                           {"l1d_bytes", "L1 data"},
                                           {"l2_bytes", "L2"},
                                           {"l3_bytes", "L3"},
                                           {"kernel", "Kernel"},
                                           {"compiler", "Compiler"},
                                           {"openblas", "OpenBLAS"},
                                           {"version", "fastkernels"},
                                           {"commit", "Commit"},
                                           {"date", "Date"}};
  static const char *const limits[][2] = {{"threads", "Threads"},
                                          {"rounds", "Blocks aimed for"},
                                          {"budget_seconds", "Seconds per case"},
                                          {"timeout_seconds", "Seconds per call at most"},
                                          {"memory_bytes", "Memory of a candidate"},
                                          {"flush_bytes", "Flushed before a sample"},
                                          {"flush", "Which is"}};
  static const char *const ceilings[][2] = {{"bytes_per_second", "Copy, bytes per second"},
                                            {"flops_per_second", "Product, FLOPs per second"},
                                            {"by", "Product by"}};
  fputs("<h2>Environment</h2><dl class=\"card env\">", out);
  for (size_t i = 0; i < sizeof machine / sizeof *machine; i++)
    value(out, &r->environment, machine[i][0], machine[i][1]);
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) value(out, &r->limits, limits[i][0], limits[i][1]);
  for (size_t i = 0; r->ceilings.node && i < sizeof ceilings / sizeof *ceilings; i++)
    value(out, &r->ceilings, ceilings[i][0], ceilings[i][1]);
  fputs("</dl>", out);
}

static void how_to_read(FILE *out) {
  fputs(
      "<h2>How to read this</h2><div class=\"card read\">"
      "<p><b>Speed-up</b> is the baseline's time over the candidate's. Both run in turns, on the same fresh inputs, in "
      "blocks of four samples; the number is the median over blocks, and the interval holds 95 % of the medians that "
      "resampling the blocks gives.</p>"
      "<p><b>Noise</b> is what the baseline shows against itself in the same run. <b>FASTER</b> and <b>SLOWER</b> are "
      "said only when the whole interval lies outside it; everything else is <b>SAME</b>.</p>"
      "<p><b>WRONG, CRASHED, TIMEOUT, REFUSED</b> are failures. A candidate that fails one case of a task scores "
      "exactly 1 on it: its user keeps the baseline.</p>"
      "<p><b>Error</b> is the relative root mean square distance from a result computed in double precision, beside "
      "the limit that holds for this case. Every timed answer was checked.</p>"
      "<p><b>Score</b> weighs each case by the time that its calls take in the workload. <b>Overall</b> is the "
      "geometric mean over tasks.</p>"
      "<p><b>Of the limit</b>: the least time that the measured copy and product rates allow for this call, over the "
      "time it took. Bytes and FLOPs are the definition's, the least that must move and be computed.</p>"
      "</div>",
      out);
}

void fk_result_html(const fk_result *r, FILE *out) {
  head(out, r);
  scores(out, r);
  rows(out, r);
  roofline(out, r);
  environment(out, r);
  how_to_read(out);
  fputs("<footer>Written by fastkernels " FK_VERSION
        ". The formulas are in docs/scoring.md.</footer></main></body></html>\n",
        out);
}

fk_status fk_result_write_html(const fk_result *r, const char *path) {
  char *text = NULL;
  size_t size = 0;
  fk_atomic_file file = {0};
  FILE *memory = open_memstream(&text, &size);
  if (!memory) return fk_fail(FK_ERROR_MEMORY, "%s: no memory for the page", path);
  fk_result_html(r, memory);
  bool failed = ferror(memory) != 0;
  failed |= fclose(memory) != 0;
  fk_status status =
      failed ? fk_fail(FK_ERROR_MEMORY, "%s: no memory for the page", path) : fk_atomic_open(&file, path);
  if (!status) status = fk_atomic_write(&file, text, size);
  if (!status) status = fk_atomic_commit(&file);
  fk_atomic_abandon(&file);
  free(text);
  return status;
}
