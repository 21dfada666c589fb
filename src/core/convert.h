/* Numbers in and out of every dtype.
 *
 * Memory may be unaligned: everything here goes through unaligned loads and stores. An index counts elements; the
 * two elements of a float4 byte are the low nibble (even index) and the high nibble (odd index).
 *
 * Rounding is to nearest, ties to even, once: a double goes straight to the target. Beyond the largest number
 *  - float32, float16, bfloat16, float8_e5m2 give infinity;
 *  - float8_e4m3fn, which has no infinity, saturates at 448, infinity included (as PyTorch 2.15's .to() does; older
 *    ones gave NaN);
 *  - float8_e8m0fnu gives NaN (also PyTorch);
 *  - float4_e2m1fn saturates at 6 and, having no NaN, stores it as +6.
 * NaN stays NaN: it keeps its sign, becomes quiet, and keeps the leading payload bits that fit in 16, 32 and 64 bits.
 * float8_e8m0fnu has no sign (the magnitude is kept, as PyTorch does) and no zero (zero becomes 2^-127). */
#ifndef FK_CORE_CONVERT_H
#define FK_CORE_CONVERT_H

#include "fastkernels/abi.h"
#include "fastkernels/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Element of any type as double. Exact but for int64 beyond 2^53. Unknown types read as NaN. */
double fk_load_f64(fk_type type, const void *p, int64_t index);

/* Stores a double into any type. Integers: rounded to nearest even, clamped to the range, NaN becomes 0. Bool: v != 0
 * (so NaN is true). */
void fk_store_f64(fk_type type, void *p, int64_t index, double v);

/* Element of any type as int64. Floats are truncated towards zero and clamped, NaN becomes 0. */
int64_t fk_load_i64(fk_type type, const void *p, int64_t index);

/* Stores an int64. Narrower integers keep the low bits (two's complement, as PyTorch's .to() does); bool is v != 0;
 * floats are rounded once. */
void fk_store_i64(fk_type type, void *p, int64_t index, int64_t v);

/* Converts n contiguous elements. Both types are floating point, or both are integer or bool; anything else is
 * FK_ERROR_ARGUMENT and touches nothing. dst and src do not overlap, unless both types and pointers are equal. */
fk_status fk_convert_row(fk_type to, void *dst, fk_type from, const void *src, int64_t n);

#ifdef __cplusplus
}
#endif

#endif
