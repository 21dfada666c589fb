/* The results for people: one line per case, one per task, and what failed. */
#include <math.h>
#include <string.h>

#include "judge/bench.h"

static const char *paint(bool color, fk_verdict v) {
  if (!color) return "";
  return v == FK_VERDICT_FASTER   ? "\033[32m"
         : v == FK_VERDICT_SLOWER ? "\033[33m"
         : fk_verdict_failed(v)   ? "\033[31m"
                                  : "";
}

static void time_text(double ns, char *text, size_t size) {
  if (ns < 1e3)
    snprintf(text, size, "%.0f ns", ns);
  else if (ns < 1e6)
    snprintf(text, size, "%.1f us", ns / 1e3);
  else
    snprintf(text, size, "%.2f ms", ns / 1e6);
}

static void case_line(const fk_bench *b, const fk_case_result *r, FILE *out, bool color) {
  char label[96], base[24], cand[24];
  double ns = r->timing.candidate_ns > 0 ? r->timing.candidate_ns : 1;
  fk_case_label(r->c, label, sizeof label);
  fprintf(out, "  %s%-8s%s %-62.62s ", paint(color, r->verdict), fk_verdict_name(r->verdict), color ? "\033[0m" : "",
          label);
  if (fk_verdict_failed(r->verdict)) {
    fprintf(out, "%s\n", r->reason);
    return;
  }
  time_text(r->timing.baseline_ns, base, sizeof base);
  time_text(r->timing.candidate_ns, cand, sizeof cand);
  if (r->verdict == FK_VERDICT_BASELINE)
    fprintf(out, "%10s            noise %4.1f %%", base, 100 * r->timing.noise);
  else
    fprintf(out, "%10s -> %10s  %5.2fx [%.2f, %.2f]  noise %4.1f %%", base, cand, r->timing.speedup.middle,
            r->timing.speedup.low, r->timing.speedup.high, 100 * r->timing.noise);
  fprintf(out, "  %6.1f GB/s %7.1f GFLOP/s", r->bytes / ns, r->flops / ns);
  double fraction = fk_bench_limit_fraction(b, r, r->timing.candidate_ns);
  if (!isnan(fraction)) fprintf(out, "  %5.1f %% of the limit", 100 * fraction);
  if (r->c->count > 1) fprintf(out, "  x%lld", (long long)r->c->count);
  if (r->num_ranks > 1) fprintf(out, "  on %d GPUs", r->num_ranks);
  fputc('\n', out);
  if (*r->baseline_by) fprintf(out, "           baseline: %s\n", r->baseline_by);
}

static void row_lines(const fk_bench *b, const fk_bench_row *row, FILE *out, bool color) {
  const char *name = row->candidate ? row->candidate->name : "baseline";
  if (!row->job) {
    fprintf(out, "%s\n  %s%-8s%s %s\n", name, paint(color, FK_VERDICT_REFUSED), fk_verdict_name(FK_VERDICT_REFUSED),
            color ? "\033[0m" : "", row->reason);
    return;
  }
  fprintf(out, "%s%s: %s (level %d)%s", color ? "\033[1m" : "", name, row->job->task->name, row->job->task->level,
          color ? "\033[0m" : "");
  if (row->job->count < row->job->total)
    fprintf(out, "  [%d of %d cases, the costliest; %lld of %lld calls]", row->job->count, row->job->total,
            (long long)row->job->calls, (long long)row->job->total_calls);
  fputc('\n', out);
  for (int i = 0; i < row->num_results; i++) case_line(b, &row->results[i], out, color);
  if (row->failed)
    fprintf(out, "  failed: counts as the baseline, 1.00x\n");
  else if (row->candidate)
    fprintf(out, "  score %.3fx, %+.3g ms per run of the workload\n", row->score, -1e3 * row->seconds_saved);
}

/* What of the GPU's state belongs beside the times. */
static void gpu_lines(const fk_bench *b, FILE *out) {
  fk_cuda_clocks all = {0};
  int64_t empty_ns = 0;
  char slowed[128];
  for (int i = 0; i < b->num_rows; i++)
    for (int k = 0; k < b->rows[i].num_results; k++) {
      const fk_case_result *r = &b->rows[i].results[k];
      if (r->empty_ns > empty_ns) empty_ns = r->empty_ns;
      if (r->clocks.readings == 0) continue;
      if (!all.readings || r->clocks.sm_mhz_low < all.sm_mhz_low) all.sm_mhz_low = r->clocks.sm_mhz_low;
      if (r->clocks.sm_mhz_high > all.sm_mhz_high) all.sm_mhz_high = r->clocks.sm_mhz_high;
      all.reasons |= r->clocks.reasons;
      all.readings += r->clocks.readings;
    }
  if (empty_ns) fprintf(out, "an empty graph takes %.1f us, which is part of every time\n", 1e-3 * (double)empty_ns);
  fk_cuda_clocks_slowed(&all, slowed, sizeof slowed);
  if (all.readings) fprintf(out, "SM clock %d to %d MHz", all.sm_mhz_low, all.sm_mhz_high);
  if (all.readings) fprintf(out, *slowed ? ", held back by: %s\n" : "\n", slowed);
}

void fk_bench_table(const fk_bench *b, FILE *out, bool color) {
  const char *missing = "";
  for (int i = 0; i < b->num_rows; i++) {
    row_lines(b, &b->rows[i], out, color);
    for (int k = 0; k < b->rows[i].num_results; k++)
      if (*b->rows[i].results[k].missing) missing = b->rows[i].results[k].missing;
  }
  gpu_lines(b, out);
  if (*missing) fprintf(out, "the sandbox lacks: %s\n", missing);
  if (b->num_candidates == 0) return;
  fprintf(out, "%d of %d passed; overall %.3fx (geometric mean over tasks of the best that passes)\n",
          b->num_rows - b->num_failed, b->num_rows, b->overall);
}
