#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"
#include "io/tokenizer_internal.h"
#include "io/utf8.h"

enum { MAX_FILE = 256 << 20, MAX_ID = (1 << 22) - 1 };

/* What ByteLevel cuts text by unless it is told not to: the pattern of GPT-2. */
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- Alphabet ---------------------------------------------------------------------------------------------- */

static bool prints(int c) {
  return (c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

/* Printable bytes stand for themselves; the 68 others are numbered from U+0100 in order. */
uint32_t fk_byte_to_char(uint8_t byte) {
  if (prints(byte)) return byte;
  uint32_t code = 256;
  for (int c = 0; c < byte; c++) code += !prints(c);
  return code;
}

int fk_char_to_byte(uint32_t code) {
  if (code < 256) return prints((int)code) ? (int)code : -1;
  for (int c = 0; c < 256; c++)
    if (!prints(c) && code-- == 256) return c;
  return -1;
}

/* ---- Tables ------------------------------------------------------------------------------------------------ */

size_t fk_hash_bytes(const char *text, size_t size) {
  uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
  for (size_t i = 0; i < size; i++) h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
  return (size_t)(h ^ h >> 29);
}

size_t fk_hash_pair(int32_t left, int32_t right) {
  uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
  return (size_t)(h ^ h >> 32);
}

static size_t table_size(size_t count) {
  size_t size = 16;
  while (size < 2 * count) size *= 2;
  return size;
}

/* The slot of a token, or the empty one where it belongs. */
static size_t token_slot(const fk_tokenizer *t, const char *text, size_t size) {
  size_t i = fk_hash_bytes(text, size) & (t->by_text_size - 1);
  for (; t->by_text[i] >= 0; i = (i + 1) & (t->by_text_size - 1)) {
    const fk_token *token = &t->tokens[t->by_text[i]];
    if (token->text_size == size && memcmp(token->text, text, size) == 0) break;
  }
  return i;
}

int32_t fk_find_token(const fk_tokenizer *t, const char *text, size_t size) {
  return t->by_text[token_slot(t, text, size)];
}

static size_t merge_slot(const fk_tokenizer *t, int32_t left, int32_t right) {
  size_t i = fk_hash_pair(left, right) & (t->merges_size - 1);
  while (t->merges[i].left >= 0 && (t->merges[i].left != left || t->merges[i].right != right))
    i = (i + 1) & (t->merges_size - 1);
  return i;
}

const fk_merge *fk_find_merge(const fk_tokenizer *t, int32_t left, int32_t right) {
  const fk_merge *m = &t->merges[merge_slot(t, left, right)];
  return m->left >= 0 ? m : NULL;
}

/* ---- Tokens ------------------------------------------------------------------------------------------------ */

/* A token outside the byte-level alphabet stands for itself. */
static fk_status decode_text(fk_tokenizer *t, fk_token *token) {
  char *bytes = fk_arena_alloc(&t->arena, token->text_size + 1, 1);
  if (!bytes) return FK_ERROR_MEMORY;
  size_t used = 0;
  for (size_t i = 0; i < token->text_size;) {
    uint32_t code;
    size_t length = fk_utf8_next(token->text + i, token->text_size - i, &code);
    int byte = length && !token->added ? fk_char_to_byte(code) : -1;
    if (byte < 0) {
      memcpy(bytes, token->text, token->text_size);
      used = token->text_size;
      break;
    }
    bytes[used++] = (char)byte;
    i += length;
  }
  token->bytes = bytes;
  token->bytes_size = (uint32_t)used;
  return FK_OK;
}

static fk_status put_token(fk_tokenizer *t, const fk_json *at, const char *text, int64_t id, bool added) {
  size_t size = strlen(text), slot = token_slot(t, text, size);
  fk_token *token = &t->tokens[id];
  if (t->by_text[slot] >= 0 && t->by_text[slot] != id)
    return fk_json_fail(at, FK_ERROR_FORMAT, "token \"%.80s\" has the ids %" PRId32 " and %" PRId64, text,
                        t->by_text[slot], id);
  if (token->text && t->by_text[slot] < 0)
    return fk_json_fail(at, FK_ERROR_FORMAT, "id %" PRId64 " belongs to \"%.80s\" and \"%.80s\"", id, token->text,
                        text);
  const char *copy = token->text ? token->text : fk_arena_strdup(&t->arena, text);
  if (!copy) return FK_ERROR_MEMORY;
  *token = (fk_token){.text = copy, .text_size = (uint32_t)size, .added = added};
  t->by_text[slot] = (int32_t)id;
  return decode_text(t, token);
}

/* Finds the largest id and makes the tables, before any token goes in. */
static fk_status make_tables(fk_tokenizer *t, const fk_json *vocab, const fk_json *added) {
  const char *key;
  json_t *value;
  int64_t largest = -1;
  json_object_foreach((json_t *)vocab->node, key, value) {
    int64_t id;
    FK_TRY(fk_json_int(vocab, key, 0, MAX_ID, &id));
    if (id > largest) largest = id;
  }
  size_t extra = added->node ? json_array_size(added->node) : 0;
  for (size_t i = 0; i < extra; i++) {
    fk_json item = fk_json_item(added, i);
    int64_t id;
    FK_TRY(fk_json_int(&item, "id", 0, MAX_ID, &id));
    if (id > largest) largest = id;
  }
  t->num_tokens = (int32_t)largest + 1;
  t->by_text_size = table_size(json_object_size(vocab->node) + extra);
  t->tokens = fk_arena_calloc(&t->arena, (size_t)t->num_tokens, sizeof *t->tokens);
  t->by_text = fk_arena_calloc(&t->arena, t->by_text_size, sizeof *t->by_text);
  if (!t->tokens || !t->by_text) return FK_ERROR_MEMORY;
  memset(t->by_text, 0xff, t->by_text_size * sizeof *t->by_text);
  return FK_OK;
}

static fk_status read_vocab(fk_tokenizer *t, const fk_json *vocab) {
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)vocab->node, key, value) {
    fk_json at = fk_json_member(vocab, key);
    if (!*key) return fk_json_fail(&at, FK_ERROR_FORMAT, "expected a token, got an empty one");
    FK_TRY(put_token(t, &at, key, json_integer_value(value), false));
  }
  for (int b = 0; b < 256; b++) {
    uint32_t code = fk_byte_to_char((uint8_t)b);
    char text[2] = {(char)(code < 0x80 ? code : 0xc0 | code >> 6), (char)(0x80 | (code & 0x3f))};
    t->byte_ids[b] = fk_find_token(t, text, code < 0x80 ? 1 : 2);
  }
  return FK_OK;
}

/* ---- Merges ------------------------------------------------------------------------------------------------ */

static fk_status merge_parts(const fk_json *item, const char **left, size_t *left_size, const char **right) {
  if (json_is_string(item->node)) {
    *left = json_string_value(item->node);
    const char *space = strchr(*left, ' ');
    if (!space || space == *left || !space[1] || strchr(space + 1, ' '))
      return fk_json_expected(item, "two tokens with a space between");
    *left_size = (size_t)(space - *left);
    *right = space + 1;
    return FK_OK;
  }
  *left = json_string_value(json_array_get(item->node, 0));
  *right = json_string_value(json_array_get(item->node, 1));
  if (json_array_size(item->node) != 2 || !*left || !*right)
    return fk_json_expected(item, "two tokens in a string or an array");
  *left_size = strlen(*left);
  return FK_OK;
}

static fk_status put_merge(fk_tokenizer *t, const fk_json *item, int32_t rank) {
  const char *left = NULL, *right = NULL;
  size_t left_size = 0, right_size;
  FK_TRY(merge_parts(item, &left, &left_size, &right));
  right_size = strlen(right);
  char *joined = malloc(left_size + right_size + 1);
  if (!joined) return fk_json_fail(item, FK_ERROR_MEMORY, "no memory for a merge");
  memcpy(joined, left, left_size);
  memcpy(joined + left_size, right, right_size);
  fk_merge merge = {fk_find_token(t, left, left_size), fk_find_token(t, right, right_size), rank,
                    fk_find_token(t, joined, left_size + right_size)};
  free(joined);
  if (merge.left < 0 || merge.right < 0 || merge.id < 0)
    return fk_json_fail(item, FK_ERROR_FORMAT, "\"%.*s\", \"%.80s\" or both together are not in the vocabulary",
                        left_size < 80 ? (int)left_size : 80, left, right);
  fk_merge *slot = &t->merges[merge_slot(t, merge.left, merge.right)];
  if (slot->left >= 0) return fk_json_fail(item, FK_ERROR_FORMAT, "is the same as merge %" PRId32, slot->rank);
  *slot = merge;
  return FK_OK;
}

static fk_status read_merges(fk_tokenizer *t, const fk_json *merges) {
  size_t count = json_array_size(merges->node);
  if (count > INT32_MAX / 2) return fk_json_expected(merges, "fewer merges");
  t->merges_size = table_size(count);
  t->merges = fk_arena_calloc(&t->arena, t->merges_size, sizeof *t->merges);
  if (!t->merges) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < t->merges_size; i++) t->merges[i].left = -1;
  for (size_t i = 0; i < count; i++) {
    fk_json item = fk_json_item(merges, i);
    FK_TRY(put_merge(t, &item, (int32_t)i));
  }
  return FK_OK;
}

/* ---- Settings ---------------------------------------------------------------------------------------------- */

/* Succeeds when the key is missing, null, false, zero or "": the value that changes nothing. */
static fk_status want_default(const fk_json *object, const char *key) {
  fk_json v = fk_json_member(object, key);
  bool off = !v.node || json_is_null(v.node) || json_is_false(v.node) ||
             (json_is_number(v.node) && json_number_value(v.node) == 0) ||
             (json_is_string(v.node) && !json_string_length(v.node));
  return off ? FK_OK : fk_json_fail(&v, FK_ERROR_UNSUPPORTED, "this setting is not supported");
}

static fk_status want_type(const fk_json *object, const char *type) {
  const char *text;
  FK_TRY(fk_json_string(object, "type", &text));
  fk_json at = fk_json_member(object, "type");
  if (strcmp(text, type))
    return fk_json_fail(&at, FK_ERROR_UNSUPPORTED, "expected \"%s\", got \"%.60s\", which is not supported", type,
                        text);
  return FK_OK;
}

static fk_status read_byte_level(fk_tokenizer *t, const fk_json *level) {
  bool use_regex;
  FK_TRY(want_type(level, "ByteLevel"));
  FK_TRY(fk_json_bool(level, "add_prefix_space", &t->add_prefix_space));
  FK_TRY(fk_json_bool_or(level, "use_regex", true, &use_regex));
  return use_regex ? fk_regex_compile(gpt2_pattern, t->where, "pre_tokenizer", &t->words) : FK_OK;
}

static fk_status read_split(fk_tokenizer *t, const fk_json *split) {
  const char *text;
  fk_json pattern;
  FK_TRY(want_type(split, "Split"));
  FK_TRY(want_default(split, "invert"));
  FK_TRY(fk_json_string(split, "behavior", &text));
  fk_json behavior = fk_json_member(split, "behavior");
  if (strcmp(text, "Isolated"))
    return fk_json_fail(&behavior, FK_ERROR_UNSUPPORTED, "expected \"Isolated\", got \"%.60s\"", text);
  FK_TRY(fk_json_object(split, "pattern", &pattern));
  if (!fk_json_has(&pattern, "Regex")) return fk_json_fail(&pattern, FK_ERROR_UNSUPPORTED, "expected a Regex");
  FK_TRY(fk_json_string(&pattern, "Regex", &text));
  fk_json regex = fk_json_member(&pattern, "Regex");
  if (!*text) return fk_json_fail(&regex, FK_ERROR_FORMAT, "expected a regular expression, got an empty one");
  FK_TRY(fk_regex_compile(text, t->where, "pre_tokenizer: Split", &t->splits[t->num_splits]));
  t->num_splits++;
  return FK_OK;
}

static fk_status read_pre_tokenizer(fk_tokenizer *t, const fk_json *root) {
  fk_json pre, list;
  const char *type;
  FK_TRY(fk_json_object(root, "pre_tokenizer", &pre));
  FK_TRY(fk_json_string(&pre, "type", &type));
  if (strcmp(type, "Sequence")) return read_byte_level(t, &pre);
  FK_TRY(fk_json_array(&pre, "pretokenizers", &list));
  size_t count = json_array_size(list.node);
  if (count < 1 || count > FK_MAX_SPLITS + 1)
    return fk_json_fail(&list, FK_ERROR_UNSUPPORTED, "expected 0 to %d Splits and a ByteLevel", FK_MAX_SPLITS);
  for (size_t i = 0; i + 1 < count; i++) {
    fk_json split = fk_json_item(&list, i);
    FK_TRY(read_split(t, &split));
  }
  fk_json level = fk_json_item(&list, count - 1);
  return read_byte_level(t, &level);
}

static fk_status read_model(fk_tokenizer *t, const fk_json *root, const fk_json *added) {
  static const char *const unsupported[] = {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                                            "byte_fallback"};
  fk_json model, vocab, merges;
  FK_TRY(fk_json_object(root, "model", &model));
  if (fk_json_has(&model, "type")) FK_TRY(want_type(&model, "BPE")); /* old files of BPE name no type */
  for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) FK_TRY(want_default(&model, unsupported[i]));
  FK_TRY(fk_json_bool_or(&model, "ignore_merges", false, &t->ignore_merges));
  FK_TRY(fk_json_object(&model, "vocab", &vocab));
  FK_TRY(fk_json_array(&model, "merges", &merges));
  FK_TRY(make_tables(t, &vocab, added));
  FK_TRY(read_vocab(t, &vocab));
  return read_merges(t, &merges);
}

/* ---- Added tokens ------------------------------------------------------------------------------------------ */

static fk_status read_added_token(fk_tokenizer *t, const fk_json *item) {
  const char *content;
  bool special, normalized;
  int64_t id;
  FK_TRY(fk_json_string(item, "content", &content));
  FK_TRY(fk_json_int(item, "id", 0, MAX_ID, &id));
  FK_TRY(fk_json_bool_or(item, "special", false, &special));
  FK_TRY(fk_json_bool_or(item, "normalized", !special, &normalized));
  FK_TRY(want_default(item, "lstrip"));
  FK_TRY(want_default(item, "rstrip"));
  FK_TRY(want_default(item, "single_word"));
  if (!*content) return fk_json_fail(item, FK_ERROR_FORMAT, "expected a token, got an empty one");
  bool listed = t->tokens[id].added;
  FK_TRY(put_token(t, item, content, id, true));
  if (listed) return fk_json_fail(item, FK_ERROR_FORMAT, "token \"%.80s\" is listed twice", content);
  t->tokens[id].special = special;
  fk_added *group = &t->added[normalized];
  group->ids[group->count++] = (int32_t)id;
  group->starts[(unsigned char)content[0]] = true;
  return FK_OK;
}

static int longest_first(const void *a, const void *b, void *tokens) {
  const fk_token *all = tokens;
  uint32_t x = all[*(const int32_t *)a].text_size, y = all[*(const int32_t *)b].text_size;
  return x > y ? -1 : x < y;
}

static fk_status read_added(fk_tokenizer *t, const fk_json *added) {
  size_t count = added->node ? json_array_size(added->node) : 0;
  for (int g = 0; g < 2; g++) {
    t->added[g].ids = fk_arena_calloc(&t->arena, count, sizeof(int32_t));
    if (!t->added[g].ids) return FK_ERROR_MEMORY;
  }
  for (size_t i = 0; i < count; i++) {
    fk_json item = fk_json_item(added, i);
    FK_TRY(read_added_token(t, &item));
  }
  for (int g = 0; g < 2; g++) qsort_r(t->added[g].ids, t->added[g].count, sizeof(int32_t), longest_first, t->tokens);
  return FK_OK;
}

/* ---- Files ------------------------------------------------------------------------------------------------- */

static fk_status read_root(fk_tokenizer *t, const fk_json *root) {
  static const char *const unsupported[] = {"normalizer", "truncation", "padding"};
  fk_json decoder, added = {0};
  for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) FK_TRY(want_default(root, unsupported[i]));
  if (fk_json_has(root, "added_tokens")) FK_TRY(fk_json_array(root, "added_tokens", &added));
  FK_TRY(read_pre_tokenizer(t, root));
  FK_TRY(fk_json_object(root, "decoder", &decoder));
  FK_TRY(want_type(&decoder, "ByteLevel"));
  FK_TRY(read_model(t, root, &added));
  return read_added(t, &added);
}

fk_status fk_tokenizer_load_memory(const char *text, size_t size, const char *where, fk_tokenizer **tokenizer) {
  json_t *root = NULL;
  *tokenizer = NULL;
  fk_tokenizer *t = calloc(1, sizeof *t);
  if (!t) return fk_fail(FK_ERROR_MEMORY, "%s: no memory for a tokenizer", where);
  fk_arena_init(&t->arena, &fk_host_memory, 1 << 16);
  t->where = fk_arena_strdup(&t->arena, where);
  fk_status status = t->where ? fk_json_parse(text, size, where, &root) : FK_ERROR_MEMORY;
  if (status == FK_OK) {
    fk_json view = fk_json_root(root, where);
    status = read_root(t, &view);
  }
  json_decref(root);
  if (status == FK_OK)
    *tokenizer = t;
  else
    fk_tokenizer_destroy(t);
  return status;
}

fk_status fk_tokenizer_load(const char *path, fk_tokenizer **tokenizer) {
  char *text;
  size_t size;
  *tokenizer = NULL;
  FK_TRY(fk_file_read(path, MAX_FILE, &text, &size));
  fk_status status = fk_tokenizer_load_memory(text, size, path, tokenizer);
  free(text);
  return status;
}

void fk_tokenizer_destroy(fk_tokenizer *t) {
  if (!t) return;
  for (int i = 0; i < t->num_splits; i++) pcre2_code_free(t->splits[i]);
  pcre2_code_free(t->words);
  fk_arena_destroy(&t->arena);
  free(t);
}
