#include "engine/rope.h"

#include <math.h>
#include <stdlib.h>

#include "core/convert.h"

const char *const fk_rope_type_names[] = {"default", "linear", "dynamic", "llama3", "yarn", NULL};

static const double pi = 3.14159265358979323846;

/* ---- Checks ---------------------------------------------------------------------------------------------- */

static fk_status need(const fk_rope *r, const char *field, double value, double above) {
  if (isfinite(value) && value > above) return FK_OK;
  return fk_fail(FK_ERROR_ARGUMENT, "rope (%s): %s: expected a number above %g, got %g", fk_rope_type_names[r->type],
                 field, above, value);
}

/* Fields where 0 means absent. */
static fk_status allow(const fk_rope *r, const char *field, double value) {
  return value == 0 ? FK_OK : need(r, field, value, 0);
}

static fk_status check_yarn(const fk_rope *r) {
  FK_TRY(need(r, "theta", r->theta, 1)); /* its logarithm divides */
  FK_TRY(need(r, "original_max_position_embeddings", (double)r->original_max_position_embeddings, 0));
  FK_TRY(allow(r, "factor", r->factor));
  if (r->factor == 0) FK_TRY(need(r, "max_position_embeddings", (double)r->max_position_embeddings, 0));
  FK_TRY(allow(r, "beta_fast", r->beta_fast));
  FK_TRY(allow(r, "beta_slow", r->beta_slow));
  FK_TRY(allow(r, "attention_factor", r->attention_factor));
  FK_TRY(allow(r, "mscale", r->mscale));
  return allow(r, "mscale_all_dim", r->mscale_all_dim);
}

static fk_status check(const fk_rope *r) {
  if ((unsigned)r->type > FK_ROPE_YARN)
    return fk_fail(FK_ERROR_ARGUMENT, "rope: type: expected 0 to %d, got %d", FK_ROPE_YARN, (int)r->type);
  if (r->rotary_dim < 2 || r->rotary_dim % 2)
    return fk_fail(FK_ERROR_ARGUMENT, "rope: rotary_dim: expected an even number of at least 2, got %lld",
                   (long long)r->rotary_dim);
  if (!(isfinite(r->theta) && r->theta >= 1))
    return fk_fail(FK_ERROR_ARGUMENT, "rope: theta: expected a number of at least 1, got %g", r->theta);
  switch (r->type) {
    case FK_ROPE_DEFAULT:
      return FK_OK;
    case FK_ROPE_LINEAR:
      return need(r, "factor", r->factor, 0);
    case FK_ROPE_DYNAMIC:
      FK_TRY(need(r, "rotary_dim", (double)r->rotary_dim, 2)); /* rotary_dim - 2 divides */
      FK_TRY(need(r, "max_position_embeddings", (double)r->max_position_embeddings, 0));
      FK_TRY(allow(r, "seq_len", (double)r->seq_len));
      return need(r, "factor", r->factor, 0);
    case FK_ROPE_LLAMA3:
      FK_TRY(need(r, "factor", r->factor, 0));
      FK_TRY(need(r, "low_freq_factor", r->low_freq_factor, 0));
      FK_TRY(need(r, "high_freq_factor", r->high_freq_factor, r->low_freq_factor));
      return need(r, "original_max_position_embeddings", (double)r->original_max_position_embeddings, 0);
    case FK_ROPE_YARN:
      return check_yarn(r);
  }
  return FK_OK;
}

/* ---- Frequencies ----------------------------------------------------------------------------------------- */

/* The result of one operation: rounded to float32, as the models were trained, unless the description is exact. A
 * double operation on floats, rounded to float, is the float operation. */
static double rounded(const fk_rope *r, double value) {
  return r->exact ? value : (double)(float)value;
}

static void plain(const fk_rope *r, double theta, double *inv_freq) {
  for (int64_t j = 0; j < r->rotary_dim / 2; j++) {
    double exponent = rounded(r, 2 * (double)j / (double)r->rotary_dim);
    inv_freq[j] = rounded(r, 1 / rounded(r, pow(theta, exponent)));
  }
}

/* NTK-aware: the base grows so that the longest wave just spans the longer sequence. */
static double dynamic_theta(const fk_rope *r) {
  double trained = (double)r->max_position_embeddings, length = fmax((double)r->seq_len, trained);
  double growth = r->factor * length / trained - (r->factor - 1);
  double dim = (double)r->rotary_dim;
  return r->theta * pow(growth, dim / (dim - 2));
}

/* One frequency of Llama 3.1, by how many of its waves fit into the original context. */
static double llama3(const fk_rope *r, double inv_freq) {
  double wavelength = rounded(r, rounded(r, 2 * pi) / inv_freq);
  double waves = rounded(r, (double)r->original_max_position_embeddings / wavelength);
  double stretched = rounded(r, inv_freq / r->factor);
  if (waves < r->low_freq_factor) return stretched;
  if (waves > r->high_freq_factor) return inv_freq;
  double span = r->high_freq_factor - r->low_freq_factor;
  double smooth = rounded(r, rounded(r, waves - r->low_freq_factor) / span);
  double low = rounded(r, rounded(r, rounded(r, 1 - smooth) * inv_freq) / r->factor);
  return rounded(r, low + rounded(r, smooth * inv_freq));
}

/* The (fractional) pair that makes so many rotations over the original context. */
static double pair_of(const fk_rope *r, double rotations) {
  double context = (double)r->original_max_position_embeddings;
  return (double)r->rotary_dim * log(context / (rotations * 2 * pi)) / (2 * log(r->theta));
}

/* YaRN's temperature: how much sharper attention must be after stretching by scale. */
static double magnitude(double scale, double mscale) {
  return scale <= 1 ? 1 : 0.1 * mscale * log(scale) + 1;
}

static void yarn(const fk_rope *r, double *inv_freq, double *attention_factor) {
  double factor =
      r->factor ? r->factor : (double)r->max_position_embeddings / (double)r->original_max_position_embeddings;
  double low = pair_of(r, r->beta_fast ? r->beta_fast : 32), high = pair_of(r, r->beta_slow ? r->beta_slow : 1);
  if (!r->untruncated) {
    low = floor(low);
    high = ceil(high);
  }
  low = fmax(low, 0);
  high = fmin(high, (double)r->rotary_dim - 1);
  if (low == high) high += 0.001; /* a step, without dividing by zero */
  for (int64_t j = 0; j < r->rotary_dim / 2; j++) {
    double ramp = fmin(fmax(rounded(r, rounded(r, (double)j - low) / rounded(r, high - low)), 0), 1);
    double kept = rounded(r, 1 - ramp);
    double exponent = rounded(r, 2 * (double)j / (double)r->rotary_dim);
    double stretched = rounded(r, 1 / rounded(r, factor * rounded(r, pow(r->theta, exponent))));
    inv_freq[j] = rounded(r, rounded(r, stretched * rounded(r, 1 - kept)) + rounded(r, inv_freq[j] * kept));
  }
  if (r->attention_factor)
    *attention_factor = r->attention_factor;
  else if (r->mscale && r->mscale_all_dim)
    *attention_factor = magnitude(factor, r->mscale) / magnitude(factor, r->mscale_all_dim);
  else
    *attention_factor = magnitude(factor, 1);
}

fk_status fk_rope_frequencies(const fk_rope *r, double *inv_freq, double *attention_factor) {
  FK_TRY(check(r));
  int64_t half = r->rotary_dim / 2;
  *attention_factor = 1;
  plain(r, r->type == FK_ROPE_DYNAMIC ? dynamic_theta(r) : r->theta, inv_freq);
  if (r->type == FK_ROPE_LINEAR)
    for (int64_t j = 0; j < half; j++) inv_freq[j] = rounded(r, inv_freq[j] / r->factor);
  if (r->type == FK_ROPE_LLAMA3)
    for (int64_t j = 0; j < half; j++) inv_freq[j] = llama3(r, inv_freq[j]);
  if (r->type == FK_ROPE_YARN) yarn(r, inv_freq, attention_factor);
  return FK_OK;
}

/* ---- Tables ---------------------------------------------------------------------------------------------- */

fk_status fk_rope_table(const fk_rope *r, const fk_tensor *table) {
  fk_type type = fk_type_of(table);
  if (table->ndim != 2 || table->shape[1] != r->rotary_dim || !fk_type_is_float(type) || !fk_is_contiguous(table))
    return fk_fail(FK_ERROR_ARGUMENT, "rope: expected a contiguous table [max_position, %lld] of a float dtype",
                   (long long)r->rotary_dim);
  FK_TRY(check(r)); /* before rotary_dim sizes anything */
  int64_t half = r->rotary_dim / 2;
  double attention_factor, *inv_freq = malloc((size_t)half * sizeof *inv_freq);
  if (!inv_freq) return fk_fail(FK_ERROR_MEMORY, "rope: cannot allocate %lld frequencies", (long long)half);
  fk_status status = fk_rope_frequencies(r, inv_freq, &attention_factor);
  if (status) goto cleanup;
  void *data = fk_data(table);
#pragma omp parallel for schedule(static) if (table->shape[0] * half > 65536)
  for (int64_t p = 0; p < table->shape[0]; p++) {
    int64_t row = p * r->rotary_dim;
    for (int64_t j = 0; j < half; j++) {
      double angle = rounded(r, rounded(r, (double)p) * inv_freq[j]);
      fk_store_f64(type, data, row + j, rounded(r, rounded(r, cos(angle)) * attention_factor));
      fk_store_f64(type, data, row + half + j, rounded(r, rounded(r, sin(angle)) * attention_factor));
    }
  }
cleanup:
  free(inv_freq);
  return status;
}
