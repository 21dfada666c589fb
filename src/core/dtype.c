#include <string.h>

#include "fastkernels/fastkernels.h"

/* The two spellings of every dtype: the one of task definitions, and the one of safetensors headers. */
static const struct {
  fk_type type;
  const char *name, *short_name;
} types[] = {
    {FK_F32, "float32", "F32"},
    {FK_BF16, "bfloat16", "BF16"},
    {FK_F16, "float16", "F16"},
    {FK_F64, "float64", "F64"},
    {FK_I8, "int8", "I8"},
    {FK_I16, "int16", "I16"},
    {FK_I32, "int32", "I32"},
    {FK_I64, "int64", "I64"},
    {FK_U8, "uint8", "U8"},
    {FK_BOOL, "bool", "BOOL"},
    {FK_F8_E4M3FN, "float8_e4m3fn", "F8_E4M3"},
    {FK_F8_E5M2, "float8_e5m2", "F8_E5M2"},
    {FK_F8_E8M0, "float8_e8m0fnu", "F8_E8M0"},
    {FK_F4_E2M1, "float4_e2m1fn", "F4"},
};

enum { NUM_TYPES = sizeof types / sizeof *types };

const char *fk_type_name(fk_type type) {
  for (int i = 0; i < NUM_TYPES; i++)
    if (types[i].type == type) return types[i].name;
  return "?";
}

bool fk_type_parse(const char *name, fk_type *type) {
  for (int i = 0; name && i < NUM_TYPES; i++) {
    if (strcmp(types[i].name, name) && strcmp(types[i].short_name, name)) continue;
    *type = types[i].type;
    return true;
  }
  return false;
}

size_t fk_type_bits(fk_type type) {
  return (size_t)type & 255;
}

bool fk_type_is_float(fk_type type) {
  switch (type) {
    case FK_F16:
    case FK_F32:
    case FK_F64:
    case FK_BF16:
    case FK_F8_E4M3FN:
    case FK_F8_E5M2:
    case FK_F8_E8M0:
    case FK_F4_E2M1:
      return true;
    default:
      return false;
  }
}

bool fk_type_is_int(fk_type type) {
  switch (type) {
    case FK_I8:
    case FK_I16:
    case FK_I32:
    case FK_I64:
    case FK_U8:
      return true;
    default:
      return false;
  }
}

size_t fk_type_bytes(fk_type type, int64_t n) {
  size_t bits = fk_type_bits(type);
  if (n <= 0) return 0;
  /* Whole bytes first, so that no count below 2^60 overflows on the way. */
  return bits >= 8 ? (size_t)n * (bits / 8) : ((size_t)n + 8 / bits - 1) / (8 / bits);
}
