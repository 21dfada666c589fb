/* UTF-8 by the letter of RFC 3629: no overlong forms, no surrogates, nothing beyond U+10FFFF. */
#ifndef FK_IO_UTF8_H
#define FK_IO_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Length of the character at s (1 to 4) and its code point, or 0 when the bytes are no character. n > 0. */
static inline size_t fk_utf8_next(const char *s, size_t n, uint32_t *code) {
  const unsigned char *p = (const unsigned char *)s;
  static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  size_t length = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
  if (length == 0 || length > n) return 0;
  uint32_t c = length == 1 ? p[0] : p[0] & (0x7fu >> length);
  for (size_t i = 1; i < length; i++) {
    if ((p[i] & 0xc0) != 0x80) return 0;
    c = c << 6 | (p[i] & 0x3f);
  }
  if (c < smallest[length] || (c >= 0xd800 && c < 0xe000) || c > 0x10ffff) return 0;
  *code = c;
  return length;
}

/* Bytes before the first that is no UTF-8; n when all of it is. */
static inline size_t fk_utf8_valid(const char *s, size_t n) {
  size_t i = 0;
  uint32_t code;
  while (i < n) {
    size_t length = fk_utf8_next(s + i, n - i, &code);
    if (length == 0) return i;
    i += length;
  }
  return n;
}

#endif
