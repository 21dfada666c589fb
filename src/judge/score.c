#include "judge/score.h"

#include <math.h>
#include <stdlib.h>

#include "judge/random.h"

enum { RESAMPLES = 1000, MAX_BLOCKS = 512 };

static const double least_noise = 0.01; /* below one per cent nothing is claimed, however quiet the machine */

const char *fk_verdict_name(fk_verdict verdict) {
  static const char *const names[] = {"FASTER", "SAME", "SLOWER", "WRONG", "CRASHED", "TIMEOUT", "REFUSED", "BASELINE"};
  return (unsigned)verdict < sizeof names / sizeof *names ? names[verdict] : "?";
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double fk_median(double *values, int n) {
  if (n == 0) return 0;
  qsort(values, (size_t)n, sizeof *values, ascending);
  return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

/* The median of the blocks' ratios and its 2.5 % and 97.5 % bootstrap quantiles. A block is resampled whole: the four
 * samples in it share the machine's mood. */
static fk_interval bootstrap(const double *ratios, int n, uint64_t key) {
  static _Thread_local double medians[RESAMPLES], draw[MAX_BLOCKS];
  for (int r = 0; r < RESAMPLES; r++) {
    for (int i = 0; i < n; i++)
      draw[i] = ratios[fk_below(fk_random(key, (uint64_t)r * (uint64_t)n + (uint64_t)i), (uint64_t)n)];
    medians[r] = fk_median(draw, n);
  }
  qsort(medians, RESAMPLES, sizeof *medians, ascending);
  for (int i = 0; i < n; i++) draw[i] = ratios[i];
  return (fk_interval){medians[RESAMPLES / 40], fk_median(draw, n), medians[RESAMPLES - 1 - RESAMPLES / 40]};
}

static double positive(int64_t ns) {
  return ns > 0 ? (double)ns : 1;
}

fk_timing fk_score_blocks(const fk_block *blocks, int n, uint64_t seed) {
  static _Thread_local double speedups[MAX_BLOCKS], noise[MAX_BLOCKS], base[2 * MAX_BLOCKS], cand[2 * MAX_BLOCKS];
  fk_timing t = {0};
  if (n > MAX_BLOCKS) n = MAX_BLOCKS;
  if (n == 0) return t;
  for (int i = 0; i < n; i++) {
    const fk_block *b = &blocks[i];
    double b0 = positive(b->baseline[0]), b1 = positive(b->baseline[1]);
    double c0 = positive(b->candidate[0]), c1 = positive(b->candidate[1]);
    speedups[i] = (b0 + b1) / (c0 + c1);
    noise[i] = b0 / b1;
    base[2 * i] = b0, base[2 * i + 1] = b1;
    cand[2 * i] = c0, cand[2 * i + 1] = c1;
  }
  t.baseline_ns = fk_median(base, 2 * n);
  t.candidate_ns = fk_median(cand, 2 * n);
  t.speedup = bootstrap(speedups, n, fk_random_key(seed, 1));
  fk_interval aa = bootstrap(noise, n, fk_random_key(seed, 2));
  t.noise = fmax(least_noise, expm1(fmax(fabs(log(aa.low)), fabs(log(aa.high)))));
  return t;
}

fk_verdict fk_score_verdict(const fk_timing *t) {
  if (t->speedup.low > 1 + t->noise) return FK_VERDICT_FASTER;
  if (t->speedup.high < 1 / (1 + t->noise)) return FK_VERDICT_SLOWER;
  return FK_VERDICT_SAME;
}
