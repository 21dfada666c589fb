/* Every pattern of every small format, and every midpoint between two neighbours, against a decoder written from the
 * formats' definitions. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* cmocka.h wants the headers above first. */
#include <cmocka.h>

#include "core/convert.h"
#include "fastkernels/fastkernels.h"

typedef struct format {
  fk_type type;
  int bits, mantissa_bits, bias;
  unsigned largest;  /* magnitude bits of the largest finite number */
  unsigned overflow; /* what lies beyond it */
} format;

static const format formats[] = {
    {FK_F16, 16, 10, 15, 0x7bff, 0x7c00}, {FK_BF16, 16, 7, 127, 0x7f7f, 0x7f80}, {FK_F8_E4M3FN, 8, 3, 7, 0x7e, 0x7e},
    {FK_F8_E5M2, 8, 2, 15, 0x7b, 0x7c},   {FK_F4_E2M1, 4, 1, 1, 7, 7},
};
enum { NUM_FORMATS = sizeof formats / sizeof *formats };

static double decode(const format *f, unsigned mag) {
  int e = (int)(mag >> f->mantissa_bits);
  double fraction = (double)(mag & ((1u << f->mantissa_bits) - 1)) / (1 << f->mantissa_bits);
  return e ? pow(2, e - f->bias) * (1 + fraction) : pow(2, 1 - f->bias) * fraction;
}

static double load(const format *f, unsigned pattern) {
  unsigned char p[2] = {(unsigned char)pattern, (unsigned char)(pattern >> 8)};
  return fk_load_f64(f->type, p, 0);
}

static unsigned store(const format *f, double v) {
  unsigned char p[2] = {0, 0};
  fk_store_f64(f->type, p, 0, v);
  return (unsigned)(p[0] | p[1] << 8);
}

/* The same through a row, from float32. */
static unsigned store_row(const format *f, float v) {
  unsigned char p[16] = {0};
  float row[8] = {v, v, v, v, v, v, v, v};
  assert_int_equal(fk_convert_row(f->type, p, FK_F32, row, 8), FK_OK);
  if (f->bits == 4) {
    assert_int_equal(p[0] & 15, p[0] >> 4);
    return p[0] & 15;
  }
  return f->bits == 8 ? p[0] : (unsigned)(p[0] | p[1] << 8);
}

static void every_pattern_decodes(void **state) {
  (void)state;
  for (int k = 0; k < NUM_FORMATS; k++) {
    const format *f = &formats[k];
    unsigned sign = 1u << (f->bits - 1);
    for (unsigned pattern = 0; pattern < 2 * sign; pattern++) {
      unsigned mag = pattern & (sign - 1);
      double got = load(f, pattern);
      if (mag > f->largest) {
        bool infinite =
            mag == 0x7c00 || (f->type == FK_BF16 && mag == 0x7f80) || (f->type == FK_F8_E5M2 && mag == 0x7c);
        assert_true(infinite ? isinf(got) : isnan(got));
      } else {
        assert_true(got == (pattern & sign ? -1 : 1) * decode(f, mag));
      }
      assert_int_equal(!!signbit(got), !!(pattern & sign));
      if (isnan(got)) {
        assert_true(isnan(load(f, store(f, got))) && isnan(load(f, store_row(f, (float)got))));
        continue;
      }
      assert_int_equal(store(f, got), pattern);
      assert_int_equal(store_row(f, (float)got), pattern);
    }
  }
}

static void check_store(const format *f, double v, unsigned mag) {
  unsigned sign = 1u << (f->bits - 1);
  assert_int_equal(store(f, v), mag);
  assert_int_equal(store(f, -v), mag | sign);
  if ((double)(float)v == v) {
    assert_int_equal(store_row(f, (float)v), mag);
    assert_int_equal(store_row(f, -(float)v), mag | sign);
  }
}

static void every_midpoint_rounds_to_even(void **state) {
  (void)state;
  for (int k = 0; k < NUM_FORMATS; k++) {
    const format *f = &formats[k];
    for (unsigned mag = 0; mag <= f->largest; mag++) {
      double low = decode(f, mag), middle = (low + decode(f, mag + 1)) / 2;
      unsigned up = mag == f->largest ? f->overflow : mag + 1;
      check_store(f, middle, mag & 1 ? up : mag);
      check_store(f, nextafter(middle, 0), mag);
      check_store(f, nextafter(middle, INFINITY), up);
      check_store(f, (double)nextafterf((float)middle, 0),
                  (float)middle == middle ? mag : store(f, nextafterf((float)middle, 0)));
      if ((double)(float)middle == middle) check_store(f, (double)nextafterf((float)middle, INFINITY), up);
    }
    check_store(f, 1e300, f->overflow);
    check_store(f, INFINITY, f->overflow);
    check_store(f, 5e-324, 0);
    check_store(f, 1e-300, 0);
  }
}

static void e8m0_is_a_power_of_two(void **state) {
  (void)state;
  for (unsigned b = 0; b < 256; b++) {
    uint8_t byte = (uint8_t)b, back = 7, row = 7;
    double v = fk_load_f64(FK_F8_E8M0, &byte, 0);
    float narrow = (float)v;
    if (b == 255)
      assert_true(isnan(v));
    else
      assert_true(v == pow(2, (int)b - 127));
    fk_store_f64(FK_F8_E8M0, &back, 0, v);
    assert_int_equal(back, b);
    assert_int_equal(fk_convert_row(FK_F8_E8M0, &row, FK_F32, &narrow, 1), FK_OK);
    assert_int_equal(row, b);
    if (b == 255 || b == 0) continue;
    fk_store_f64(FK_F8_E8M0, &back, 0, v * 1.49);
    assert_int_equal(back, b);
    fk_store_f64(FK_F8_E8M0, &back, 0, -v * 1.5); /* the sign is dropped; 1.5 goes up, as in PyTorch */
    assert_int_equal(back, b + 1);
  }
  uint8_t byte = 7;
  fk_store_f64(FK_F8_E8M0, &byte, 0, 0);
  assert_int_equal(byte, 0);
  fk_store_f64(FK_F8_E8M0, &byte, 0, INFINITY);
  assert_int_equal(byte, 255);
}

static void nan_keeps_sign_and_payload(void **state) {
  (void)state;
  /* The same bits whichever way a NaN comes: by rows, by elements, with or without the instructions for it. */
  uint32_t bits[8] = {0x7fc00000, 0xffc00000, 0x7f800001, 0xffffffff, 0x7fa56789, 0xffd12345, 0x7fbfffff, 0x7fffe000};
  for (int t = 0; t < 2; t++) {
    fk_type type = t ? FK_F16 : FK_BF16;
    uint16_t row[8], one;
    assert_int_equal(fk_convert_row(type, row, FK_F32, bits, 8), FK_OK);
    for (int i = 0; i < 8; i++) {
      unsigned expected = t ? 0x7e00 | (bits[i] >> 13 & 0x3ff) | (bits[i] >> 16 & 0x8000) : bits[i] >> 16 | 0x40;
      assert_int_equal(row[i], expected);
      fk_store_f64(type, &one, 0, fk_load_f64(FK_F32, bits, i));
      assert_int_equal(one, expected);
      assert_int_equal(fk_convert_row(type, &one, FK_F32, bits + i, 1), FK_OK);
      assert_int_equal(one, expected);
    }
  }
}

/* Odd lengths and odd addresses, every pair of float types, against the conversion of single elements. */
static void rows_agree_with_elements(void **state) {
  (void)state;
  static const fk_type floats[] = {FK_F16, FK_BF16, FK_F32, FK_F64, FK_F8_E4M3FN, FK_F8_E5M2, FK_F8_E8M0, FK_F4_E2M1};
  enum { N = 701 };
  unsigned char *src = malloc(N * 8 + 1), *dst = malloc(N * 8 + 1), *expected = malloc(N * 8 + 1);
  assert_true(src && dst && expected);
  uint64_t x = 88172645463325252u;
  for (int a = 0; a < 8; a++)
    for (int b = 0; b < 8; b++)
      for (int n = 0; n <= N; n += n < 20 ? 1 : 681) {
        memset(dst, 0, N * 8 + 1);
        memset(expected, 0, N * 8 + 1);
        for (int i = 0; i < n; i++) {
          x ^= x << 13, x ^= x >> 7, x ^= x << 17;
          fk_store_f64(floats[a], src + 1, i, ((double)(int64_t)x) * pow(2, -63 - (int)(x % 20)));
        }
        assert_int_equal(fk_convert_row(floats[b], dst + 1, floats[a], src + 1, n), FK_OK);
        for (int i = 0; i < n; i++) fk_store_f64(floats[b], expected + 1, i, fk_load_f64(floats[a], src + 1, i));
        if (n % 2 && floats[b] == FK_F4_E2M1 && a == b) dst[1 + n / 2] &= 15; /* a copy brings the unused nibble */
        assert_memory_equal(dst, expected, N * 8 + 1);
      }
  free(src), free(dst), free(expected);
}

static void all_half_patterns_in_one_row(void **state) {
  (void)state;
  enum { N = 65536 };
  uint16_t *in = malloc(2 * N), *back = malloc(2 * N), *other = malloc(2 * N);
  float *wide = malloc(4 * N);
  assert_true(in && back && other && wide);
  for (int t = 0; t < 2; t++) {
    fk_type type = t ? FK_F16 : FK_BF16;
    for (int i = 0; i < N; i++) in[i] = (uint16_t)i;
    assert_int_equal(fk_convert_row(FK_F32, wide, type, in, N), FK_OK);
    assert_int_equal(fk_convert_row(type, back, FK_F32, wide, N), FK_OK);
    assert_int_equal(fk_convert_row(t ? FK_BF16 : FK_F16, other, type, in, N), FK_OK);
    for (int i = 0; i < N; i++) {
      double v = fk_load_f64(type, in, i);
      assert_true(isnan(v) ? isnan(wide[i]) : (double)wide[i] == v);
      assert_int_equal(back[i], isnan(v) ? in[i] | (t ? 0x200 : 0x40) : in[i]);
      uint16_t expected;
      fk_store_f64(t ? FK_BF16 : FK_F16, &expected, 0, v);
      assert_int_equal(other[i], expected);
    }
  }
  free(in), free(back), free(other), free(wide);
}

static void doubles_round_once(void **state) {
  (void)state;
  /* Through float32 this would become a tie and go down to 1. */
  double v = 1 + 0x1p-8 + 0x1p-40;
  uint16_t b;
  fk_store_f64(FK_BF16, &b, 0, v);
  assert_int_equal(b, 0x3f81);
  assert_int_equal(fk_convert_row(FK_BF16, &b, FK_F64, &v, 1), FK_OK);
  assert_int_equal(b, 0x3f81);
  fk_store_i64(FK_BF16, &b, 0, (1ll << 62) + (1ll << 54) + 1);
  assert_int_equal(b, 0x5e81);
  fk_store_i64(FK_BF16, &b, 0, -((1ll << 62) + (1ll << 54)));
  assert_int_equal(b, 0xde80);
  float f;
  fk_store_i64(FK_F32, &f, 0, (1ll << 62) + (1ll << 38) + 1);
  assert_true(f == 0x1.000002p62f);
}

static void integers(void **state) {
  (void)state;
  static const fk_type types[] = {FK_I8, FK_I16, FK_I32, FK_I64, FK_U8};
  static const int64_t lowest[] = {INT8_MIN, INT16_MIN, INT32_MIN, INT64_MIN, 0};
  static const int64_t highest[] = {INT8_MAX, INT16_MAX, INT32_MAX, INT64_MAX, 255};
  char p[9];
  for (int t = 0; t < 5; t++) {
    fk_store_f64(types[t], p + 1, 0, 1e30);
    assert_true(fk_load_i64(types[t], p + 1, 0) == highest[t]);
    fk_store_f64(types[t], p + 1, 0, -1e30);
    assert_true(fk_load_i64(types[t], p + 1, 0) == lowest[t]);
    fk_store_f64(types[t], p + 1, 0, NAN);
    assert_true(fk_load_i64(types[t], p + 1, 0) == 0);
    fk_store_f64(types[t], p + 1, 0, 2.5);
    assert_true(fk_load_i64(types[t], p + 1, 0) == 2);
    fk_store_f64(types[t], p + 1, 0, 3.5);
    assert_true(fk_load_f64(types[t], p + 1, 0) == 4);
  }
  double v = -2.9;
  assert_int_equal(fk_load_i64(FK_F64, &v, 0), -2);
  v = INFINITY;
  assert_true(fk_load_i64(FK_F64, &v, 0) == INT64_MAX);
  v = NAN;
  assert_int_equal(fk_load_i64(FK_F64, &v, 0), 0);
  fk_store_f64(FK_BOOL, p, 0, 0.25);
  assert_int_equal(p[0], 1);
}

static void integer_rows_keep_low_bits(void **state) {
  (void)state;
  static const fk_type types[] = {FK_I8, FK_I16, FK_I32, FK_I64, FK_U8, FK_BOOL};
  enum { N = 301 };
  char src[N * 8 + 1], dst[N * 8 + 1], expected[N * 8 + 1];
  for (int a = 0; a < 6; a++)
    for (int b = 0; b < 6; b++) {
      memset(dst, 0, sizeof dst);
      memset(expected, 0, sizeof expected);
      for (int i = 0; i < N; i++)
        fk_store_i64(types[a], src + 1, i, (int64_t)((uint64_t)(i - 5) * 0x9e3779b97f4a7c15u));
      assert_int_equal(fk_convert_row(types[b], dst + 1, types[a], src + 1, N), FK_OK);
      for (int i = 0; i < N; i++) fk_store_i64(types[b], expected + 1, i, fk_load_i64(types[a], src + 1, i));
      assert_memory_equal(dst, expected, sizeof dst);
    }
  int32_t wide = 0x1234ff80;
  int8_t narrow;
  assert_int_equal(fk_convert_row(FK_I8, &narrow, FK_I32, &wide, 1), FK_OK);
  assert_int_equal(narrow, -128);
}

static void mixed_rows_are_refused(void **state) {
  (void)state;
  int32_t i = 5;
  float f = 3;
  assert_int_equal(fk_convert_row(FK_I32, &i, FK_F32, &f, 1), FK_ERROR_ARGUMENT);
  assert_int_equal(i, 5);
  assert_string_equal(fk_last_error(), "cannot convert float32 to int32: both must be floating point or both integer");
  assert_int_equal(fk_convert_row(FK_F32, &f, FK_BOOL, &i, 1), FK_ERROR_ARGUMENT);
  assert_int_equal(fk_convert_row(FK_F32, &f, (fk_type)0x7f08, &i, 1), FK_ERROR_ARGUMENT);
}

static void type_names(void **state) {
  (void)state;
  static const char *const names[][2] = {{"float32", "F32"},
                                         {"bfloat16", "BF16"},
                                         {"float16", "F16"},
                                         {"float64", "F64"},
                                         {"int8", "I8"},
                                         {"int16", "I16"},
                                         {"int32", "I32"},
                                         {"int64", "I64"},
                                         {"uint8", "U8"},
                                         {"bool", "BOOL"},
                                         {"float8_e4m3fn", "F8_E4M3"},
                                         {"float8_e5m2", "F8_E5M2"},
                                         {"float8_e8m0fnu", "F8_E8M0"},
                                         {"float4_e2m1fn", "F4"}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    fk_type a = 0, b = 0;
    assert_true(fk_type_parse(names[i][0], &a) && fk_type_parse(names[i][1], &b));
    assert_int_equal(a, b);
    assert_string_equal(fk_type_name(a), names[i][0]);
    assert_int_equal(fk_type_is_float(a) + fk_type_is_int(a), a != FK_BOOL);
    assert_int_equal(fk_type_is_float(a), strstr(names[i][0], "float") != NULL);
  }
  fk_type t = FK_I8;
  assert_false(fk_type_parse("complex64", &t));
  assert_false(fk_type_parse(NULL, &t));
  assert_int_equal(t, FK_I8);
  assert_string_equal(fk_type_name((fk_type)0), "?");
  assert_int_equal(fk_type_bytes(FK_F4_E2M1, 5), 3);
  assert_int_equal(fk_type_bytes(FK_F4_E2M1, 4), 2);
  assert_int_equal(fk_type_bytes(FK_F64, 3), 24);
  assert_int_equal(fk_type_bytes(FK_F64, 0), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_pattern_decodes),
      cmocka_unit_test(every_midpoint_rounds_to_even),
      cmocka_unit_test(e8m0_is_a_power_of_two),
      cmocka_unit_test(nan_keeps_sign_and_payload),
      cmocka_unit_test(rows_agree_with_elements),
      cmocka_unit_test(all_half_patterns_in_one_row),
      cmocka_unit_test(doubles_round_once),
      cmocka_unit_test(integers),
      cmocka_unit_test(integer_rows_keep_low_bits),
      cmocka_unit_test(mixed_rows_are_refused),
      cmocka_unit_test(type_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
