/* The bounds that device/cpu_math.h states, against the C library in double, over floats spread evenly by bit pattern
 * and every float near the edges. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

/* cmocka.h wants the headers above first. */
#include <cmocka.h>

#include "device/cpu_math.h"

/* Distance of a float from an exact value in units of the float grid at that value; subnormals have the grid 2^-149. */
static double ulps(float got, double want) {
  int exponent;
  frexp(want, &exponent);
  double grid = ldexp(1, exponent < -125 ? -149 : exponent - 24);
  return fabs((double)got - want) / grid;
}

static double exp_error(uint32_t from, uint32_t to, uint32_t step) {
  double worst = 0;
  for (uint64_t bits = from; bits <= to; bits += step) {
    float x = fk_math_float((uint32_t)bits);
    double e = ulps(fk_expf(x), exp((double)x));
    if (isnan(e)) return INFINITY;
    worst = fmax(worst, e);
  }
  return worst;
}

static void exp_is_within_its_bound(void **state) {
  (void)state;
  /* 0x42b17217 is the last float whose exponential is finite; 0xc2cff1b5 is beyond the first that rounds to zero. */
  double positive = exp_error(0, 0x42b17217, 211), negative = exp_error(0x80000000u, 0xc2cff1b5u, 211);
  double top = exp_error(0x42b16217, 0x42b17217, 1), bottom = exp_error(0xc2cfe1b5u, 0xc2cff1b5u, 1);
  print_message("worst error of fk_expf in ulp: %.3f %.3f %.3f %.3f\n", positive, negative, top, bottom);
  assert_true(positive <= 1.1);
  assert_true(negative <= 1.1);
  assert_true(top <= 1.1);
  assert_true(bottom <= 1.1);
}

static void exp_handles_the_special_values(void **state) {
  (void)state;
  assert_true(fk_expf(0.0f) == 1 && fk_expf(-0.0f) == 1);
  assert_true(fk_expf(INFINITY) == INFINITY);
  assert_true(fk_expf(-INFINITY) == 0 && !signbit(fk_expf(-INFINITY)));
  assert_true(isnan(fk_expf(NAN)) && isnan(fk_expf(-NAN)));
  assert_true(isnan(fk_expf(fk_math_float(0x7f800001))) && isnan(fk_expf(fk_math_float(0xffffffff))));
  assert_true(fk_expf(fk_math_float(0x42b17218)) == INFINITY);
  assert_true(fk_expf(3e38f) == INFINITY && fk_expf(-3e38f) == 0 && fk_expf(-104.5f) == 0);
  assert_true(fk_expf(1e-45f) == 1 && fk_expf(-1e-45f) == 1);
}

/* Inlined into a loop the compiler vectorises it; every lane must still be the scalar result within the bound. */
static void exp_agrees_in_a_vector_loop(void **state) {
  (void)state;
  enum { N = 1003 };
  static float x[N], y[N];
  for (int i = 0; i < N; i++) x[i] = -110 + 0.21f * (float)i;
  x[17] = NAN;
  x[18] = -INFINITY;
#pragma omp simd
  for (int i = 0; i < N; i++) y[i] = fk_expf(x[i]);
  for (int i = 0; i < N; i++) {
    double want = exp((double)x[i]);
    if (isnan(want))
      assert_true(isnan(y[i]));
    else if (want > 3.4028235e38)
      assert_true(y[i] == INFINITY);
    else
      assert_true(ulps(y[i], want) <= 1.1);
  }
}

static void silu_is_within_its_bound(void **state) {
  (void)state;
  double worst = 0;
  for (uint64_t bits = 0; bits < 0x100000000ull; bits += 307) {
    float x = fk_math_float((uint32_t)bits);
    if (isnan(x)) {
      assert_true(isnan(fk_siluf(x)));
      continue;
    }
    double want = (double)x / (1 + exp(-(double)x));
    if (isinf(x))
      assert_true(isnan(want) ? isnan(fk_siluf(x)) : (double)fk_siluf(x) == want);
    else if (fabs(want) >= 0x1p-126 && exp(-fabs((double)x)) >= 0x1p-126)
      worst = fmax(worst, ulps(fk_siluf(x), want));
    else
      assert_true(fabs((double)fk_siluf(x) - want) <= 1e-36);
  }
  print_message("worst error of fk_siluf in ulp: %.3f\n", worst);
  assert_true(worst <= 4);
  assert_true(isnan(fk_siluf(-INFINITY)) && fk_siluf(INFINITY) == INFINITY && fk_siluf(-3e38f) == 0);
}

static float normal_tail(float x) {
  return fk_normal_tailf(x);
}

/* Floats over all bit patterns, every step-th: the worst error where the exact value is normal, and NaN for NaN. */
static double worst_over(float (*f)(float), double (*exact)(double), float from, float to, uint32_t step) {
  double worst = 0;
  for (uint64_t bits = 0; bits < 0x100000000ull; bits += step) {
    float x = fk_math_float((uint32_t)bits);
    if (isnan(x) && f != normal_tail) assert_true(isnan(f(x)));
    if (!(x >= from && x <= to)) continue;
    double want = exact((double)x);
    if (fabs(want) >= 0x1p-126)
      worst = fmax(worst, ulps(f(x), want));
    else
      assert_true(fabs((double)f(x) - want) <= 1e-36);
  }
  return worst;
}

static double exact_normal_tail(double x) {
  return erfc(x * M_SQRT1_2) / 2;
}

static float gelu(float x) {
  return fk_geluf(x);
}

static double exact_gelu(double x) {
  return x * (erfc(-x * M_SQRT1_2) / 2);
}

static float gelu_tanh(float x) {
  return fk_gelu_tanhf(x);
}

static double exact_gelu_tanh(double x) {
  double u = 0.79788456080286535588 * (x + 0.044715 * x * x * x);
  return x / (1 + exp(-2 * u));
}

static float tanh_of(float x) {
  return fk_tanhf(x);
}

static void gelu_is_within_its_bound(void **state) {
  (void)state;
  double tail = worst_over(normal_tail, exact_normal_tail, 0, 13.09f, 307);
  /* Phi(-12.94) is about the last normal one. */
  double erf_worst = worst_over(gelu, exact_gelu, -12.94f, 3.4e38f, 307);
  print_message("worst error in ulp: fk_normal_tailf %.3f, fk_geluf %.3f\n", tail, erf_worst);
  assert_true(tail <= 9);
  assert_true(erf_worst <= 9);
  assert_true(fabsf(fk_geluf(-13.5f)) < 1e-37f && fk_geluf(-15.5f) == 0);
  assert_true(isnan(fk_geluf(-INFINITY)) && fk_geluf(INFINITY) == INFINITY && fk_geluf(-3e38f) == 0);
  assert_true(fk_normal_tailf(13.1f) == 0 && fk_normal_tailf(INFINITY) == 0 && fk_normal_tailf(NAN) == 0);
  assert_true(fk_geluf(0.0f) == 0 && fk_normal_tailf(0) == 0.5f && fk_geluf(3e38f) == 3e38f);
}

static void gelu_tanh_is_within_its_bound(void **state) {
  (void)state;
  double upper = worst_over(gelu_tanh, exact_gelu_tanh, -1, 3.4e38f, 307);
  /* At -9.9 the exponential is 1e-37, and soon no longer normal. */
  double lower = worst_over(gelu_tanh, exact_gelu_tanh, -9.9f, -1, 307);
  print_message("worst error of fk_gelu_tanhf in ulp: %.3f, below -1 %.3f\n", upper, lower);
  assert_true(upper <= 5);
  assert_true(lower <= 220);
  assert_true(fabsf(fk_gelu_tanhf(-10.5f)) < 1e-37f && fk_gelu_tanhf(-20) == 0);
  assert_true(isnan(fk_gelu_tanhf(-INFINITY)) && fk_gelu_tanhf(INFINITY) == INFINITY && fk_gelu_tanhf(-3e38f) == 0);
}

static void tanh_is_within_its_bound(void **state) {
  (void)state;
  double worst = worst_over(tanh_of, tanh, -INFINITY, INFINITY, 307);
  print_message("worst error of fk_tanhf in ulp: %.3f\n", worst);
  assert_true(worst <= 3);
  assert_true(fk_tanhf(INFINITY) == 1 && fk_tanhf(-INFINITY) == -1 && fk_tanhf(0.0f) == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(exp_is_within_its_bound),     cmocka_unit_test(exp_handles_the_special_values),
      cmocka_unit_test(exp_agrees_in_a_vector_loop), cmocka_unit_test(silu_is_within_its_bound),
      cmocka_unit_test(gelu_is_within_its_bound),    cmocka_unit_test(gelu_tanh_is_within_its_bound),
      cmocka_unit_test(tanh_is_within_its_bound),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
