/* Tokenizer: byte-level BPE from a Hugging Face tokenizer.json.
 *
 * A tokenizer is immutable after loading and may be used by several threads. It does what `tokenizers` does with
 * add_special_tokens=False and skip_special_tokens as asked, for files of this form:
 *  - model BPE: vocab, merges ("a b" or ["a", "b"]), ignore_merges;
 *  - pre_tokenizer ByteLevel, or a Sequence of Splits by regular expression (Isolated) that ends in a ByteLevel;
 *  - decoder ByteLevel, normalizer null, truncation and padding null;
 *  - added_tokens without lstrip, rstrip, single_word.
 * Anything else is FK_ERROR_UNSUPPORTED. A post_processor only adds special tokens around the text; it is ignored.
 *
 * Text must be valid UTF-8: anything else is FK_ERROR_ARGUMENT, never repaired. Character classes follow the Unicode
 * version of the PCRE2 library. A byte that the vocabulary lacks is an error (`tokenizers` drops it silently). */
#ifndef FK_IO_TOKENIZER_H
#define FK_IO_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/arena.h"
#include "fastkernels/status.h"

typedef struct fk_tokenizer fk_tokenizer;

/* On failure *tokenizer is NULL. */
fk_status fk_tokenizer_load(const char *path, fk_tokenizer **tokenizer);
fk_status fk_tokenizer_load_memory(const char *text, size_t size, const char *where, fk_tokenizer **tokenizer);
void fk_tokenizer_destroy(fk_tokenizer *tokenizer);

/* One more than the largest id; ids between may be unused. */
int32_t fk_tokenizer_size(const fk_tokenizer *tokenizer);
/* The id of a token as the file spells it ("<|endoftext|>", "\u0120the"), or -1. */
int32_t fk_tokenizer_id(const fk_tokenizer *tokenizer, const char *token);
bool fk_tokenizer_is_special(const fk_tokenizer *tokenizer, int32_t id);

/* Text of size bytes into *count ids, allocated in the arena. */
fk_status fk_tokenizer_encode(const fk_tokenizer *tokenizer, const char *text, size_t size, fk_arena *arena,
                              int32_t **ids, size_t *count);

/* ids [count] into bytes with a NUL after them, allocated in the arena. A part of a character decodes to its bytes, so
 * the result of a prefix need not be UTF-8. An unknown id is FK_ERROR_ARGUMENT. */
fk_status fk_tokenizer_decode(const fk_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                              fk_arena *arena, char **bytes, size_t *size);

#endif
