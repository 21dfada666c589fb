/* tokenizer.json, a NUL byte, and text: what loads encodes text or says why not, and what it encodes decodes back. */
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *end = size ? memchr(data, 0, size) : NULL;
  size_t json_size = end ? (size_t)(end - data) : size, text_size = end ? size - json_size - 1 : 0;
  /* An own copy without slack, so that a read beyond the text shows. */
  char *text = malloc(text_size ? text_size : 1), *json = malloc(json_size + 1), *bytes;
  fk_tokenizer *t = NULL;
  fk_arena arena;
  int32_t *ids;
  size_t count, decoded;
  if (!text || !json) abort();
  if (text_size) memcpy(text, end + 1, text_size);
  memcpy(json, data, json_size);
  json[json_size] = 0;
  fk_arena_init(&arena, &fk_host_memory, 0);
  if (fk_tokenizer_load_memory(json, json_size, "fuzz", &t) == FK_OK &&
      fk_tokenizer_encode(t, text, text_size, &arena, &ids, &count) == FK_OK) {
    for (size_t i = 0; i < count; i++)
      if (ids[i] < 0 || ids[i] >= fk_tokenizer_size(t)) abort();
    if (fk_tokenizer_decode(t, ids, count, false, &arena, &bytes, &decoded) != FK_OK) abort();
    /* Without a setting that is true, no prefix space is added, and decoding gives the text again. */
    if (!strstr(json, "true") && (decoded != text_size || memcmp(bytes, text, decoded))) abort();
  }
  fk_tokenizer_destroy(t);
  fk_arena_destroy(&arena);
  free(text);
  free(json);
  return 0;
}
