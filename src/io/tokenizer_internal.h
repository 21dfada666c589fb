/* What loading and encoding share. */
#ifndef FK_IO_TOKENIZER_INTERNAL_H
#define FK_IO_TOKENIZER_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "io/tokenizer.h"

enum { FK_MAX_SPLITS = 8 };

typedef struct fk_token {
  const char *text;  /* as the file spells it; NULL for an unused id */
  const char *bytes; /* what it decodes to */
  uint32_t text_size, bytes_size;
  bool special, added;
} fk_token;

/* Two tokens side by side become one; the lower rank goes first. */
typedef struct fk_merge {
  int32_t left, right; /* left is -1 in an empty slot */
  int32_t rank, id;
} fk_merge;

/* Added tokens found in the text before anything else, longest first. Those that are not normalized come first. */
typedef struct fk_added {
  int32_t *ids;
  size_t count;
  bool starts[256]; /* first bytes, to skip quickly */
} fk_added;

struct fk_tokenizer {
  const char *where;
  fk_token *tokens; /* [num_tokens] by id */
  int32_t num_tokens;
  int32_t *by_text; /* hash table of ids, -1 when empty; size is a power of two */
  size_t by_text_size;
  fk_merge *merges; /* hash table, likewise */
  size_t merges_size;
  int32_t byte_ids[256]; /* token of a single byte, or -1 */
  fk_added added[2];     /* [0] matched first */
  pcre2_code *splits[FK_MAX_SPLITS];
  int num_splits;
  pcre2_code *words; /* the regular expression of ByteLevel, or NULL */
  bool add_prefix_space, ignore_merges;
  fk_arena arena;
};

/* The byte-level alphabet: every byte has a printable character. */
uint32_t fk_byte_to_char(uint8_t byte);
int fk_char_to_byte(uint32_t code); /* -1 when it is none of them */

int32_t fk_find_token(const fk_tokenizer *t, const char *text, size_t size);
const fk_merge *fk_find_merge(const fk_tokenizer *t, int32_t left, int32_t right);
size_t fk_hash_bytes(const char *text, size_t size);
size_t fk_hash_pair(int32_t left, int32_t right);

/* Compiles a regular expression of tokenizer.json. where and field go into messages. */
fk_status fk_regex_compile(const char *pattern, const char *where, const char *field, pcre2_code **code);

#endif
