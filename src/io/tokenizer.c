#include "io/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "io/tokenizer_internal.h"
#include "io/utf8.h"

/* A merge that may still happen: the symbol at position and its right neighbour. */
typedef struct candidate {
  int32_t rank, id;
  size_t position;
} candidate;

/* A symbol of the word being merged, in a list that is linked both ways. */
typedef struct symbol {
  int32_t id; /* -1 once merged into its left neighbour */
  size_t prev, next;
} symbol;

enum { MATCH_LIMIT = 10 * 1000 * 1000 };
static const size_t none = SIZE_MAX;

/* Everything one encode allocates. */
typedef struct encoder {
  const fk_tokenizer *t;
  pcre2_match_context *limits;
  pcre2_match_data *found[FK_MAX_SPLITS + 1]; /* one for each level: they are in use at the same time */
  int32_t *ids;
  size_t count, capacity;
  char *text; /* a piece with its prefix, or a word in the byte-level alphabet */
  size_t text_capacity;
  char *prefixed;
  size_t prefixed_capacity;
  symbol *symbols;
  size_t symbols_capacity;
  candidate *heap;
  size_t heap_count, heap_capacity;
} encoder;

/* Makes room for n items in a growing array. */
static fk_status reserve(void *array, size_t *capacity, size_t n, size_t size) {
  void **p = array;
  if (n <= *capacity) return FK_OK;
  size_t wanted = n > 2 * *capacity ? n : 2 * *capacity, bytes;
  void *grown = __builtin_mul_overflow(wanted, size, &bytes) ? NULL : realloc(*p, bytes);
  if (!grown) return fk_fail(FK_ERROR_MEMORY, "no memory to encode %zu items", n);
  *p = grown;
  *capacity = wanted;
  return FK_OK;
}

static fk_status emit(encoder *e, int32_t id) {
  FK_TRY(reserve(&e->ids, &e->capacity, e->count + 1, sizeof *e->ids));
  e->ids[e->count++] = id;
  return FK_OK;
}

/* ---- Merging: O(n log n) ----------------------------------------------------------------------------------- */

static bool before(const candidate *a, const candidate *b) {
  return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

static void heap_down(encoder *e, size_t i) {
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= e->heap_count) return;
    if (child + 1 < e->heap_count && before(&e->heap[child + 1], &e->heap[child])) child++;
    if (!before(&e->heap[child], &e->heap[i])) return;
    candidate swap = e->heap[i];
    e->heap[i] = e->heap[child];
    e->heap[child] = swap;
    i = child;
  }
}

/* Offers the merge of a symbol with its right neighbour, if there is one. */
static fk_status heap_push(encoder *e, size_t position) {
  const symbol *s = &e->symbols[position];
  const fk_merge *m = s->next == none ? NULL : fk_find_merge(e->t, s->id, e->symbols[s->next].id);
  if (!m) return FK_OK;
  FK_TRY(reserve(&e->heap, &e->heap_capacity, e->heap_count + 1, sizeof *e->heap));
  size_t i = e->heap_count++;
  e->heap[i] = (candidate){m->rank, m->id, position};
  while (i > 0 && before(&e->heap[i], &e->heap[(i - 1) / 2])) {
    candidate swap = e->heap[i];
    e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[(i - 1) / 2] = swap;
    i = (i - 1) / 2;
  }
  return FK_OK;
}

static fk_status merge_symbols(encoder *e) {
  while (e->heap_count > 0) {
    candidate top = e->heap[0];
    e->heap[0] = e->heap[--e->heap_count];
    heap_down(e, 0);
    symbol *s = &e->symbols[top.position];
    if (s->id < 0 || s->next == none) continue;
    /* The neighbours may have changed since it was offered. */
    const fk_merge *m = fk_find_merge(e->t, s->id, e->symbols[s->next].id);
    if (!m || m->rank != top.rank) continue;
    symbol *right = &e->symbols[s->next];
    right->id = -1;
    s->id = top.id;
    s->next = right->next;
    if (s->next != none) e->symbols[s->next].prev = top.position;
    if (s->prev != none) FK_TRY(heap_push(e, s->prev));
    FK_TRY(heap_push(e, top.position));
  }
  return FK_OK;
}

/* The token of a whole word, for ignore_merges; -1 when there is none. */
static fk_status whole_word(encoder *e, const char *text, size_t size, int32_t *id) {
  FK_TRY(reserve(&e->text, &e->text_capacity, 2 * size, 1)); /* the alphabet takes one or two bytes */
  size_t used = 0;
  for (size_t i = 0; i < size; i++) {
    uint32_t code = fk_byte_to_char((uint8_t)text[i]);
    if (code >= 0x80) e->text[used++] = (char)(0xc0 | code >> 6);
    e->text[used++] = (char)(code < 0x80 ? code : 0x80 | (code & 0x3f));
  }
  *id = fk_find_token(e->t, e->text, used);
  return FK_OK;
}

static fk_status encode_word(encoder *e, const char *text, size_t size) {
  if (size == 0) return FK_OK;
  if (e->t->ignore_merges) {
    int32_t id;
    FK_TRY(whole_word(e, text, size, &id));
    if (id >= 0) return emit(e, id);
  }
  FK_TRY(reserve(&e->symbols, &e->symbols_capacity, size, sizeof *e->symbols));
  for (size_t i = 0; i < size; i++) {
    int32_t id = e->t->byte_ids[(unsigned char)text[i]];
    if (id < 0)
      return fk_fail(FK_ERROR_ARGUMENT, "%s: the vocabulary has no token for the byte 0x%02x", e->t->where,
                     (unsigned char)text[i]);
    e->symbols[i] = (symbol){id, i ? i - 1 : none, i + 1 < size ? i + 1 : none};
  }
  e->heap_count = 0;
  for (size_t i = 0; i + 1 < size; i++) FK_TRY(heap_push(e, i));
  FK_TRY(merge_symbols(e));
  for (size_t i = 0; i != none; i = e->symbols[i].next) FK_TRY(emit(e, e->symbols[i].id));
  return FK_OK;
}

/* ---- Cutting text into words ------------------------------------------------------------------------------- */

static fk_status next_match(encoder *e, const pcre2_code *code, pcre2_match_data *found, const char *text, size_t size,
                            size_t from, size_t *begin, size_t *end) {
  PCRE2_SPTR subject = (PCRE2_SPTR)text;
  int rc = pcre2_match(code, subject, size, from, PCRE2_NO_UTF_CHECK, found, e->limits);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its stack on the heap */
    rc = pcre2_match(code, subject, size, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, found, e->limits);
  *begin = *end = size;
  if (rc == PCRE2_ERROR_NOMATCH) return FK_OK;
  if (rc < 0) {
    PCRE2_UCHAR message[128];
    pcre2_get_error_message(rc, message, sizeof message);
    return fk_fail(rc == PCRE2_ERROR_NOMEMORY ? FK_ERROR_MEMORY : FK_ERROR_UNSUPPORTED,
                   "%s: the regular expression fails on this text: %s", e->t->where, (const char *)message);
  }
  const PCRE2_SIZE *span = pcre2_get_ovector_pointer(found);
  *begin = span[0];
  *end = span[1];
  return FK_OK;
}

static fk_status cut(encoder *e, int level, const char *text, size_t size);

/* Below the cuts of this level: the next one, or the word itself. */
static fk_status pass_down(encoder *e, int level, const char *text, size_t size) {
  if (size == 0) return FK_OK;
  return level > e->t->num_splits ? encode_word(e, text, size) : cut(e, level, text, size);
}

/* Matches and what lies between them are pieces of their own. */
static fk_status cut_by(encoder *e, const pcre2_code *code, int level, const char *text, size_t size) {
  size_t done = 0, from = 0, begin, end;
  uint32_t ignored;
  while (from < size) {
    FK_TRY(next_match(e, code, e->found[level], text, size, from, &begin, &end));
    if (end <= begin && begin < size) { /* an empty match cuts nothing */
      from = begin > from ? begin : from;
      from += fk_utf8_next(text + from, size - from, &ignored);
      continue;
    }
    FK_TRY(pass_down(e, level + 1, text + done, begin - done));
    FK_TRY(pass_down(e, level + 1, text + begin, end - begin));
    done = from = end;
  }
  return pass_down(e, level + 1, text + done, size - done);
}

/* Levels 0 to num_splits - 1 are the Splits; level num_splits is the ByteLevel. */
static fk_status cut(encoder *e, int level, const char *text, size_t size) {
  const fk_tokenizer *t = e->t;
  if (level < t->num_splits) return cut_by(e, t->splits[level], level, text, size);
  if (t->add_prefix_space && text[0] != ' ') {
    FK_TRY(reserve(&e->prefixed, &e->prefixed_capacity, size + 1, 1));
    e->prefixed[0] = ' ';
    memcpy(e->prefixed + 1, text, size);
    text = e->prefixed;
    size++;
  }
  return t->words ? cut_by(e, t->words, level, text, size) : encode_word(e, text, size);
}

/* ---- Added tokens ------------------------------------------------------------------------------------------ */

/* The longest added token of a group at the start of the text, or -1. */
static int32_t added_at(const fk_tokenizer *t, const fk_added *group, const char *text, size_t size) {
  if (!group->starts[(unsigned char)text[0]]) return -1;
  for (size_t i = 0; i < group->count; i++) {
    const fk_token *token = &t->tokens[group->ids[i]];
    if (token->text_size <= size && memcmp(token->text, text, token->text_size) == 0) return group->ids[i];
  }
  return -1;
}

/* Cuts out the added tokens of one group; the text between goes to the next group, then to the pre-tokenizer. */
static fk_status cut_added(encoder *e, int group, const char *text, size_t size) {
  if (size == 0) return FK_OK;
  if (group == 2) return cut(e, 0, text, size);
  size_t done = 0;
  for (size_t i = 0; i < size;) {
    int32_t id = added_at(e->t, &e->t->added[group], text + i, size - i);
    if (id < 0) {
      i++;
      continue;
    }
    FK_TRY(cut_added(e, group + 1, text + done, i - done));
    FK_TRY(emit(e, id));
    i += e->t->tokens[id].text_size;
    done = i;
  }
  return cut_added(e, group + 1, text + done, size - done);
}

/* ---- Encoding and decoding --------------------------------------------------------------------------------- */

static fk_status encoder_init(encoder *e, const fk_tokenizer *t) {
  *e = (encoder){.t = t, .limits = pcre2_match_context_create(NULL)};
  bool ok = e->limits != NULL;
  for (int i = 0; ok && i <= t->num_splits; i++) ok = (e->found[i] = pcre2_match_data_create(1, NULL)) != NULL;
  if (!ok) return fk_fail(FK_ERROR_MEMORY, "%s: no memory to match regular expressions", t->where);
  pcre2_set_match_limit(e->limits, MATCH_LIMIT);
  return FK_OK;
}

static void encoder_free(encoder *e) {
  for (int i = 0; i <= FK_MAX_SPLITS; i++) pcre2_match_data_free(e->found[i]);
  pcre2_match_context_free(e->limits);
  free(e->ids);
  free(e->text);
  free(e->prefixed);
  free(e->symbols);
  free(e->heap);
}

fk_status fk_tokenizer_encode(const fk_tokenizer *t, const char *text, size_t size, fk_arena *arena, int32_t **ids,
                              size_t *count) {
  encoder e;
  *ids = NULL;
  *count = 0;
  size_t valid = fk_utf8_valid(text, size);
  if (valid < size) return fk_fail(FK_ERROR_ARGUMENT, "the text is no UTF-8 at byte %zu", valid);
  fk_status status = encoder_init(&e, t);
  if (status == FK_OK) status = cut_added(&e, 0, text, size);
  if (status == FK_OK) {
    int32_t *copy = fk_arena_alloc(arena, e.count * sizeof *copy, sizeof *copy);
    if (copy && e.count) memcpy(copy, e.ids, e.count * sizeof *copy);
    *ids = copy;
    *count = copy ? e.count : 0;
    if (!copy) status = FK_ERROR_MEMORY;
  }
  encoder_free(&e);
  return status;
}

fk_status fk_tokenizer_decode(const fk_tokenizer *t, const int32_t *ids, size_t count, bool skip_special,
                              fk_arena *arena, char **bytes, size_t *size) {
  size_t total = 0, used = 0;
  *bytes = NULL;
  *size = 0;
  for (size_t i = 0; i < count; i++) {
    if (ids[i] < 0 || ids[i] >= t->num_tokens || !t->tokens[ids[i]].text)
      return fk_fail(FK_ERROR_ARGUMENT, "%s: id %d at index %zu is no token", t->where, (int)ids[i], i);
    total += t->tokens[ids[i]].bytes_size;
  }
  char *out = fk_arena_alloc(arena, total + 1, 1);
  if (!out) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < count; i++) {
    const fk_token *token = &t->tokens[ids[i]];
    if (skip_special && token->special) continue;
    memcpy(out + used, token->bytes, token->bytes_size);
    used += token->bytes_size;
  }
  out[used] = 0;
  *bytes = out;
  *size = used;
  return FK_OK;
}

int32_t fk_tokenizer_size(const fk_tokenizer *t) {
  return t->num_tokens;
}

int32_t fk_tokenizer_id(const fk_tokenizer *t, const char *token) {
  return fk_find_token(t, token, strlen(token));
}

bool fk_tokenizer_is_special(const fk_tokenizer *t, int32_t id) {
  return id >= 0 && id < t->num_tokens && t->tokens[id].special;
}
