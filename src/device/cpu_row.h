/* Rows of float32, bfloat16 and float16 as floats: what a memory-bound cpu.c is made of.
 *
 * A kernel walks a row in chunks of FK_CHUNK elements that stay in the first-level cache: fk_row_read gives the chunk
 * as floats (the row itself when it is float32, else converted into a buffer of the caller), fk_row_target says where
 * to compute the result, fk_row_write rounds it into the row. Everything is inline because a cpu.c is compiled once per
 * instruction set, and so must be what it calls. Nothing here owns memory. */
#ifndef FK_DEVICE_CPU_ROW_H
#define FK_DEVICE_CPU_ROW_H

#include <stdbool.h>
#include <string.h>
#include <unistd.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "fastkernels/abi.h"

enum {
  FK_CHUNK = 1024,         /* elements; three chunks of floats fill a quarter of a 48 KiB cache */
  FK_PARALLEL_MIN = 65536, /* elements from which waking other threads pays */
};

/* Bytes per element. */
static inline int64_t fk_width(fk_type type) {
  return (type & 255) / 8;
}

static inline uint32_t fk_float_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

static inline float fk_bits_float(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

/* ---- One element ----------------------------------------------------------------------------------------- */

static inline float fk_float_from_bf16(uint16_t h) {
  return fk_bits_float((uint32_t)h << 16);
}

/* To nearest even; NaN stays NaN and becomes quiet. */
static inline uint16_t fk_bf16_from_float(float f) {
  uint32_t u = fk_float_bits(f);
  uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
  return (uint16_t)(f != f ? u >> 16 | 0x40 : rounded);
}

/* Both directions of float16 are free of branches, so that a loop over them vectorises without F16C. */
static inline float fk_float_from_f16(uint16_t h) {
  uint32_t mag = h & 0x7fff, sign = (uint32_t)(h & 0x8000) << 16;
  uint32_t normal = (mag << 13) + (112u << 23), special = mag << 13 | 0x7f800000u;
  uint32_t subnormal = fk_float_bits((float)(int32_t)mag * 0x1p-24f);
  uint32_t finite = mag < 0x400 ? subnormal : normal;
  return fk_bits_float((mag >= 0x7c00 ? special : finite) | sign);
}

static inline uint16_t fk_f16_from_float(float f) {
  uint32_t u = fk_float_bits(f) & 0x7fffffff, sign = fk_float_bits(f) >> 16 & 0x8000;
  uint32_t normal = (u + 0xfff + (u >> 13 & 1) - (112u << 23)) >> 13; /* carries into infinity by itself */
  uint32_t special = u > 0x7f800000 ? 0x7e00 : 0x7c00;
  /* Below 2^-14 the unit in the last place of 0.5f is the smallest float16, so that adding it rounds. */
  uint32_t subnormal = fk_float_bits(fk_bits_float(u < 0x38800000 ? u : 0) + 0.5f) - 0x3f000000;
  uint32_t finite = u < 0x38800000 ? subnormal : normal;
  return (uint16_t)((u >= 0x47800000 ? special : finite) | sign);
}

/* ---- Chunks ---------------------------------------------------------------------------------------------- */

/* n elements of a row as floats. */
static inline void fk_widen(fk_type type, const void *from, float *to, int64_t n) {
  const uint16_t *h = (const uint16_t *)from;
  if (type == FK_F32) {
    memcpy(to, from, (size_t)n * 4);
  } else if (type == FK_BF16) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] = fk_float_from_bf16(h[i]);
  } else {
#if defined(__F16C__)
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(h + i))));
#else
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(h + i))));
#endif
    for (; i < n; i++) to[i] = fk_float_from_f16(h[i]);
#else
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] = fk_float_from_f16(h[i]);
#endif
  }
}

#if defined(__AVX512F__)
/* Sixteen of fk_bf16_from_float: compilers make twice the instructions of the loop. */
static inline __m256i fk_bf16_from_floats(__m512 f) {
  __m512i u = _mm512_castps_si512(f), high = _mm512_srli_epi32(u, 16);
  __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
  __mmask16 nan = _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)));
}
#endif

/* n floats, rounded once to the row's type. */
static inline void fk_narrow(fk_type type, const float *from, void *to, int64_t n) {
  uint16_t *h = (uint16_t *)to;
  if (type == FK_F32) {
    memcpy(to, from, (size_t)n * 4);
  } else if (type == FK_BF16) {
#if defined(__AVX512F__)
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) _mm256_storeu_si256((void *)(h + i), fk_bf16_from_floats(_mm512_loadu_ps(from + i)));
    for (; i < n; i++) h[i] = fk_bf16_from_float(from[i]);
#else
#pragma omp simd
    for (int64_t i = 0; i < n; i++) h[i] = fk_bf16_from_float(from[i]);
#endif
  } else {
#if defined(__F16C__)
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
      _mm256_storeu_si256((void *)(h + i), _mm512_cvtps_ph(_mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#else
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128((void *)(h + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++) h[i] = fk_f16_from_float(from[i]);
#else
#pragma omp simd
    for (int64_t i = 0; i < n; i++) h[i] = fk_f16_from_float(from[i]);
#endif
  }
}

/* Copies past the caches: the lines written are neither read first nor kept. fk_stream_end must follow before the
 * thread's work is handed to another. */
static inline void fk_stream(void *to, const void *from, size_t bytes) {
  char *dst = (char *)to;
  const char *src = (const char *)from;
#if defined(__SSE2__)
  size_t head = -(uintptr_t)dst & 63;
  if (head > bytes) head = bytes;
  memcpy(dst, src, head);
  dst += head;
  src += head;
  bytes -= head;
  for (; bytes >= 64; bytes -= 64, dst += 64, src += 64) {
#if defined(__AVX512F__)
    _mm512_stream_si512((void *)dst, _mm512_loadu_si512((const void *)src));
#elif defined(__AVX__)
    for (int i = 0; i < 64; i += 32)
      _mm256_stream_si256((void *)(dst + i), _mm256_loadu_si256((const void *)(src + i)));
#else
    for (int i = 0; i < 64; i += 16) _mm_stream_si128((void *)(dst + i), _mm_loadu_si128((const void *)(src + i)));
#endif
  }
#endif
  memcpy(dst, src, bytes);
}

static inline void fk_stream_end(void) {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

/* Whether a call that moves so many bytes should write past the caches: its output could not stay in them anyway. */
static inline bool fk_stream_pays(double bytes) {
  if (bytes < 4 << 20) return false;
#ifdef _SC_LEVEL3_CACHE_SIZE
  long size = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (size > 0) return bytes > (double)size;
#endif
  return bytes > 32 << 20;
}

/* Elements [i, i + n) of a row; room holds n floats and is used unless the row is float32. */
static inline const float *fk_row_read(fk_type type, const void *row, int64_t i, float *room, int64_t n) {
  if (type == FK_F32) return (const float *)row + i;
  fk_widen(type, (const uint16_t *)row + i, room, n);
  return room;
}

/* Sum of x[i]^2. Four partial sums keep four additions in flight. */
static inline float fk_sum_of_squares(const float *x, int64_t n) {
  float a = 0, b = 0, c = 0, d = 0;
  int64_t q = n / 4;
#pragma omp simd reduction(+ : a, b, c, d)
  for (int64_t i = 0; i < q; i++) {
    a += x[i] * x[i];
    b += x[i + q] * x[i + q];
    c += x[i + 2 * q] * x[i + 2 * q];
    d += x[i + 3 * q] * x[i + 3 * q];
  }
  for (int64_t i = 4 * q; i < n; i++) a += x[i] * x[i];
  return (a + b) + (c + d);
}

/* Where to compute elements [i, ...) of an output row: in place, or in room when they must be rounded or streamed. */
static inline float *fk_row_target(fk_type type, void *row, int64_t i, float *room, bool stream) {
  return type == FK_F32 && !stream ? (float *)row + i : room;
}

/* Puts n computed elements (n <= FK_CHUNK) into the row, unless fk_row_target has let them be computed there. */
static inline void fk_row_write(fk_type type, void *row, int64_t i, const float *from, int64_t n, bool stream) {
  char *to = (char *)row + i * fk_width(type);
  if ((const void *)from == (const void *)to) return;
  if (!stream) {
    fk_narrow(type, from, to, n);
  } else if (type == FK_F32) {
    fk_stream(to, from, (size_t)n * 4);
  } else {
    uint16_t rounded[FK_CHUNK];
    fk_narrow(type, from, rounded, n);
    fk_stream(to, rounded, (size_t)n * 2);
  }
}

/* The largest of n floats, -inf when there is none; NaN is passed over. Lanes are written out because a compiler may
 * not reorder a maximum over numbers that may be NaN. */
static inline float fk_chunk_max(const float *x, int64_t n) {
  enum { LANES = 32 };
  float lanes[LANES], max = -__builtin_inff();
  int64_t i = 0;
  for (int l = 0; l < LANES; l++) lanes[l] = max;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
  for (; i < n; i++) max = x[i] > max ? x[i] : max;
  for (int l = 0; l < LANES; l++) max = lanes[l] > max ? lanes[l] : max;
  return max;
}

static inline int64_t fk_chunk_at(int64_t i, int64_t n) {
  return n - i < FK_CHUNK ? n - i : FK_CHUNK;
}

#endif
