/* The page's plots, drawn in units of their viewBox, which a phone and a desktop scale by much the same factor. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "judge/page.h"

const char *fk_page_time(double ns, char text[32]) {
  if (!(ns > 0) || isinf(ns))
    snprintf(text, 32, "–");
  else if (ns < 999.5)
    snprintf(text, 32, "%.3g ns", ns);
  else if (ns < 999.5e3)
    snprintf(text, 32, "%.3g µs", ns / 1e3);
  else if (ns < 999.5e6)
    snprintf(text, 32, "%.3g ms", ns / 1e6);
  else
    snprintf(text, 32, "%.4g s", ns / 1e9);
  return text;
}

/* ---- Axes ------------------------------------------------------------------------------------------------ */

typedef struct axis {
  double low, high; /* of the values, low < high; above zero when logarithmic */
  double from, to;  /* of the drawing */
  bool log;
} axis;

static double place(const axis *a, double v) {
  double t =
      a->log ? (log(fmax(v, 1e-300)) - log(a->low)) / (log(a->high) - log(a->low)) : (v - a->low) / (a->high - a->low);
  return a->from + (a->to - a->from) * fmin(fmax(t, 0), 1);
}

enum { MAX_TICKS = 12 };

/* Round values within the axis: 1, 2, 5 times a power of ten, or on wide logarithmic axes powers alone. */
static int ticks(const axis *a, int wanted, double *out) {
  int n = 0;
  if (a->log) {
    int first = (int)floor(log10(a->low)), last = (int)ceil(log10(a->high));
    int stride = 1 + (last - first) / (MAX_TICKS / 2);
    bool fine = last - first <= 2;
    for (int e = first; e <= last && n < MAX_TICKS; e += stride)
      for (int k = 0; k < (fine ? 3 : 1) && n < MAX_TICKS; k++) {
        double v = pow(10, e) * (k == 0 ? 1 : k == 1 ? 2 : 5);
        if (v >= a->low * 0.999 && v <= a->high * 1.001) out[n++] = v;
      }
    return n;
  }
  double raw = (a->high - a->low) / wanted, unit = pow(10, floor(log10(raw)));
  double step = raw <= unit ? unit : raw <= 2 * unit ? 2 * unit : raw <= 5 * unit ? 5 * unit : 10 * unit;
  for (double v = ceil(a->low / step) * step; v <= a->high && n < MAX_TICKS; v += step) out[n++] = v;
  return n;
}

/* ---- Samples --------------------------------------------------------------------------------------------- */

static int ascending(const void *x, const void *y) {
  double a = *(const double *)x, b = *(const double *)y;
  return (a > b) - (a < b);
}

static double median(const double *values, int n) {
  double *sorted = malloc((size_t)n * sizeof *sorted);
  if (!sorted) return values[0];
  memcpy(sorted, values, (size_t)n * sizeof *sorted);
  qsort(sorted, (size_t)n, sizeof *sorted, ascending);
  double m = n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
  free(sorted);
  return m;
}

static void strip(FILE *out, const axis *x, const double *ns, int n, const char *kind, const char *label, double y) {
  char text[32];
  fprintf(out, "<text class=\"%s\" x=\"0\" y=\"%.0f\">%s</text>", kind, y + 3.5, label);
  for (int i = 0; i < n; i++) /* the jitter only keeps equal samples apart */
    fprintf(out, "<circle class=\"dot %s\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.6\"/>", kind, place(x, ns[i]),
            y + 5 * ((i * 7 % 11) / 5.0 - 1));
  double m = median(ns, n);
  fprintf(out,
          "<line class=\"median %s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.0f\" y2=\"%.0f\"><title>median %s</title></line>",
          kind, place(x, m), place(x, m), y - 10, y + 10, fk_page_time(m, text));
}

void fk_page_samples(FILE *out, const fk_result_case *c) {
  double low = INFINITY, high = 0, at[MAX_TICKS];
  int n = c->num_samples;
  bool alone = c->verdict == FK_VERDICT_BASELINE;
  if (n == 0) return;
  for (int i = 0; i < n; i++) {
    low = fmin(low, fmin(c->baseline[i], c->candidate[i]));
    high = fmax(high, fmax(c->baseline[i], c->candidate[i]));
  }
  low = fmax(low, 1);
  high = fmax(high, low);
  axis x = {.from = 70, .to = 332, .log = high > 4 * low};
  double pad = x.log ? pow(high / low, 0.04) : 1.02;
  x.low = low / pad;
  x.high = high * pad;
  fprintf(out, "<svg class=\"samples\" viewBox=\"0 0 340 82\" role=\"img\" aria-label=\"Every sample of both arms\">");
  fprintf(out, "<line class=\"axis\" x1=\"70\" x2=\"332\" y1=\"64\" y2=\"64\"/>");
  int count = ticks(&x, 3, at);
  for (int i = 0; i < count; i++) {
    char text[32];
    double p = place(&x, at[i]);
    fprintf(out, "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"6\" y2=\"68\"/>", p, p);
    if (i && p - place(&x, at[i - 1]) < 46) continue;
    fprintf(out, "<text x=\"%.1f\" y=\"79\" text-anchor=\"%s\">%s</text>", p, p > 312 ? "end" : "middle",
            fk_page_time(at[i], text));
  }
  strip(out, &x, c->baseline, n, "base", "baseline", 19);
  strip(out, &x, c->candidate, n, "cand", alone ? "again" : "candidate", 47);
  fputs("</svg>", out);
}

/* ---- Speed-up -------------------------------------------------------------------------------------------- */

void fk_page_interval(FILE *out, const fk_result_case *c, double reach) {
  axis x = {.low = 1 / reach, .high = reach, .from = 8, .to = 232, .log = true};
  double low = place(&x, c->speedup.low), high = place(&x, c->speedup.high), one = place(&x, 1);
  double quiet[2] = {place(&x, 1 / (1 + c->noise)), place(&x, 1 + c->noise)};
  fprintf(out,
          "<svg class=\"interval\" viewBox=\"0 0 240 82\" role=\"img\" aria-label=\"Speed-up %.2f, interval %.2f to "
          "%.2f\">",
          c->speedup.middle, c->speedup.low, c->speedup.high);
  fprintf(out,
          "<rect class=\"noise\" x=\"%.1f\" y=\"6\" width=\"%.1f\" height=\"58\" rx=\"3\"><title>noise: %.1f "
          "%%</title></rect>",
          quiet[0], fmax(quiet[1] - quiet[0], 1), 100 * c->noise);
  fprintf(out, "<line class=\"axis\" x1=\"8\" x2=\"232\" y1=\"64\" y2=\"64\"/>");
  fprintf(out, "<line class=\"one\" x1=\"%.1f\" x2=\"%.1f\" y1=\"6\" y2=\"68\"/>", one, one);
  fprintf(out, "<line class=\"whisk\" x1=\"%.1f\" x2=\"%.1f\" y1=\"34\" y2=\"34\"/>", low, high);
  fprintf(out, "<circle class=\"cand\" cx=\"%.1f\" cy=\"34\" r=\"5\"/>", place(&x, c->speedup.middle));
  fprintf(out, "<text x=\"8\" y=\"79\">%.0f× slower</text><text x=\"%.1f\" y=\"79\" text-anchor=\"middle\">1×</text>",
          reach, one);
  fprintf(out, "<text x=\"232\" y=\"79\" text-anchor=\"end\">%.0f× faster</text></svg>", reach);
}

/* ---- Roofline -------------------------------------------------------------------------------------------- */

static bool shown(const fk_result_case *c) {
  return !fk_verdict_failed(c->verdict) && c->flops > 0 && c->bytes > 0 && c->candidate_ns > 0 && c->baseline_ns > 0;
}

int fk_page_roofline_points(const fk_result *r) {
  int points = 0;
  for (int i = 0; i < r->num_rows; i++)
    for (int k = 0; k < r->rows[i].num_cases; k++) points += shown(&r->rows[i].cases[k]);
  return points;
}

typedef struct frame {
  axis x, y; /* FLOP per byte; GFLOP/s */
  int width, height;
} frame;

static void widen(axis *a, double v) {
  a->low = fmin(a->low, v);
  a->high = fmax(a->high, v);
}

/* Round to powers of ten, so that the grid is whole. */
static void round_out(axis *a) {
  a->low = pow(10, floor(log10(a->low) - 0.1));
  a->high = pow(10, ceil(log10(a->high) + 0.1));
}

static frame make_frame(const fk_result *r, bool wide) {
  frame f = {.width = wide ? 880 : 340, .height = wide ? 420 : 330};
  f.x = (axis){.low = INFINITY, .high = 0, .from = wide ? 52 : 38, .to = f.width - 10, .log = true};
  f.y = (axis){.low = INFINITY, .high = 0, .from = f.height - 40, .to = 22, .log = true};
  for (int i = 0; i < r->num_rows; i++)
    for (int k = 0; k < r->rows[i].num_cases; k++) {
      const fk_result_case *c = &r->rows[i].cases[k];
      if (!shown(c)) continue;
      widen(&f.x, c->flops / c->bytes);
      widen(&f.y, c->flops / c->candidate_ns);
      widen(&f.y, c->flops / c->baseline_ns);
    }
  if (r->ceilings.node) {
    widen(&f.x, 2 * r->flops_per_second / r->bytes_per_second);
    widen(&f.y, r->flops_per_second / 1e9);
  }
  round_out(&f.x);
  round_out(&f.y);
  return f;
}

static void number_text(double v, char text[32]) {
  if (v >= 0.0005 && v < 1e4)
    snprintf(text, 32, "%g", v);
  else
    snprintf(text, 32, "1e%d", (int)lround(log10(v)));
}

static void grid(FILE *out, const frame *f) {
  double at[MAX_TICKS];
  char text[32];
  int n = ticks(&f->x, 5, at);
  for (int i = 0; i < n; i++) {
    double p = place(&f->x, at[i]);
    number_text(at[i], text);
    fprintf(out, "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.0f\" y2=\"%.0f\"/>", p, p, f->y.to, f->y.from);
    fprintf(out, "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%s</text>", p, f->y.from + 14, text);
  }
  n = ticks(&f->y, 5, at);
  for (int i = 0; i < n; i++) {
    double p = place(&f->y, at[i]);
    number_text(at[i], text);
    fprintf(out, "<line class=\"axis\" x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\"/>", f->x.from, f->x.to, p, p);
    fprintf(out, "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%s</text>", f->x.from - 5, p + 3.5, text);
  }
  fprintf(out, "<text x=\"%.0f\" y=\"%d\" text-anchor=\"end\">FLOP per byte</text>", f->x.to, f->height - 8);
  fprintf(out, "<text x=\"%.0f\" y=\"11\">GFLOP/s</text>", 0.0);
}

/* Where the memory roof enters the frame, the ridge, and the level part. */
static void roof(FILE *out, const frame *f, const fk_result *r) {
  double bandwidth = r->bytes_per_second / 1e9, peak = r->flops_per_second / 1e9, ridge = peak / bandwidth;
  double x0 = fmax(f->x.low, f->y.low / bandwidth), px0 = place(&f->x, x0), py0 = place(&f->y, x0 * bandwidth);
  double px1 = place(&f->x, ridge), py1 = place(&f->y, peak);
  fprintf(out, "<path class=\"under\" d=\"M%.1f %.1f L%.1f %.1f L%.1f %.1f L%.1f %.1f L%.1f %.1f Z\"/>", px0, py0, px1,
          py1, f->x.to, py1, f->x.to, f->y.from, px0, f->y.from);
  fprintf(out, "<path class=\"roof\" d=\"M%.1f %.1f L%.1f %.1f L%.1f %.1f\"/>", px0, py0, px1, py1, f->x.to, py1);
  double mx = px0 + 0.5 * (px1 - px0), my = py0 + 0.5 * (py1 - py0);
  fprintf(out,
          "<text class=\"ink\" text-anchor=\"middle\" transform=\"translate(%.1f %.1f) rotate(%.2f)\" dy=\"-6\">copy "
          "%.3g GB/s</text>",
          mx, my, atan2(py1 - py0, px1 - px0) * 180 / 3.14159265358979, bandwidth);
  fprintf(out, "<text class=\"ink\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">float32 product %.3g GFLOP/s</text>",
          f->x.to - 2, py1 - 6, peak);
}

static void point(FILE *out, const frame *f, const fk_result_case *c, int number, bool numbered) {
  double x = place(&f->x, c->flops / c->bytes);
  double base = place(&f->y, c->flops / c->baseline_ns), cand = place(&f->y, c->flops / c->candidate_ns);
  bool alone = c->verdict == FK_VERDICT_BASELINE;
  if (!alone) fprintf(out, "<line class=\"move\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", x, x, base, cand);
  fprintf(out,
          "<circle class=\"hollow\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"><title>#%d baseline: %.3g GFLOP/s</title></circle>",
          x, base, number, c->flops / c->baseline_ns);
  if (!alone)
    fprintf(out, "<circle class=\"solid\" cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\"><title>#%d: %.3g GFLOP/s</title></circle>",
            x, cand, number, c->flops / c->candidate_ns);
  if (numbered)
    fprintf(out, "<text class=\"ink\" x=\"%.1f\" y=\"%.1f\">%d</text>", x + 7, (alone ? base : cand) + 3.5, number);
}

void fk_page_roofline(FILE *out, const fk_result *r, bool wide) {
  frame f = make_frame(r, wide);
  int number = 0;
  bool numbered = fk_page_roofline_points(r) <= 24;
  fprintf(out,
          "<svg class=\"%s roofline\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"Roofline: rate against FLOP per "
          "byte\">",
          wide ? "wide" : "narrow", f.width, f.height);
  grid(out, &f);
  if (r->ceilings.node) roof(out, &f, r);
  for (int i = 0; i < r->num_rows; i++)
    for (int k = 0; k < r->rows[i].num_cases; k++) {
      number++;
      if (shown(&r->rows[i].cases[k])) point(out, &f, &r->rows[i].cases[k], number, numbered);
    }
  fputs("</svg>", out);
}
