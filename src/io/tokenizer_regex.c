/* Regular expressions of tokenizer.json, in PCRE2. */
#include <stdlib.h>
#include <string.h>

#include "io/tokenizer_internal.h"

/* Unicode's White_Space. PCRE2's own \s also takes U+180E, which left that class long ago. */
#define SPACE "\\t-\\r\\x{85}\\p{Z}"

/* Replaces \s and \S by the class above; everything else is copied. NULL and *bad set for \S within brackets. */
static char *with_spaces(const char *pattern, const char **bad) {
  char *out = malloc(strlen(pattern) * (sizeof SPACE + 4) + 1), *p = out;
  bool brackets = false;
  *bad = out ? NULL : "no memory";
  if (!out) return NULL;
  for (const char *s = pattern; *s; s++) {
    if (*s == '\\' && (s[1] == 's' || s[1] == 'S')) {
      bool negated = *++s == 'S';
      if (brackets && negated) {
        *bad = "\\S within brackets is not supported";
        free(out);
        return NULL;
      }
      p = stpcpy(p, brackets ? SPACE : negated ? "[^" SPACE "]" : "[" SPACE "]");
    } else if (*s == '\\' && s[1]) {
      *p++ = *s++;
      *p++ = *s;
    } else {
      if (*s == '[') brackets = true;
      if (*s == ']') brackets = false;
      *p++ = *s;
    }
  }
  *p = 0;
  return out;
}

fk_status fk_regex_compile(const char *pattern, const char *where, const char *field, pcre2_code **code) {
  const char *bad;
  char *text = with_spaces(pattern, &bad);
  *code = NULL;
  if (!text && strcmp(bad, "no memory") == 0) return fk_fail(FK_ERROR_MEMORY, "%s: %s: no memory", where, field);
  if (!text) return fk_fail(FK_ERROR_UNSUPPORTED, "%s: %s: %s", where, field, bad);
  int error;
  PCRE2_SIZE offset;
  uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
  *code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, options, &error, &offset, NULL);
  free(text);
  if (!*code) {
    PCRE2_UCHAR message[128];
    pcre2_get_error_message(error, message, sizeof message);
    return fk_fail(error == PCRE2_ERROR_HEAP_FAILED ? FK_ERROR_MEMORY : FK_ERROR_FORMAT, "%s: %s: %s", where, field,
                   (const char *)message);
  }
  pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE); /* where there is no JIT, matching is slower but the same */
  return FK_OK;
}
