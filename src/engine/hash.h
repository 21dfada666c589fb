/* A 128-bit running hash: what tells calls apart while they are recorded. Two calls with equal hashes are taken to be
 * the same; at 128 bits a chance collision among 2^40 calls has a probability below 1e-14. Not for untrusted keys. */
#ifndef FK_ENGINE_HASH_H
#define FK_ENGINE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct fk_hash {
  uint64_t a, b;
} fk_hash;

static inline fk_hash fk_hash_start(void) {
  return (fk_hash){0x9e3779b97f4a7c15u, 0xc2b2ae3d27d4eb4fu};
}

static inline void fk_hash_word(fk_hash *h, uint64_t word) {
  h->a = (h->a ^ word) * 0xff51afd7ed558ccdu;
  h->a ^= h->a >> 32;
  h->b = (h->b + (word ^ h->a)) * 0xd6e8feb86659fd93u;
  h->b ^= h->b >> 29;
}

static inline void fk_hash_int(fk_hash *h, int64_t value) {
  fk_hash_word(h, (uint64_t)value);
}

static inline void fk_hash_double(fk_hash *h, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  fk_hash_word(h, bits);
}

static inline void fk_hash_bytes(fk_hash *h, const void *data, size_t size) {
  const char *p = data;
  uint64_t word;
  for (; size >= sizeof word; p += sizeof word, size -= sizeof word) {
    memcpy(&word, p, sizeof word);
    fk_hash_word(h, word);
  }
  word = 0;
  memcpy(&word, p, size);
  fk_hash_word(h, word ^ (uint64_t)size << 56);
}

static inline bool fk_hash_equal(fk_hash x, fk_hash y) {
  return x.a == y.a && x.b == y.b;
}

#endif
