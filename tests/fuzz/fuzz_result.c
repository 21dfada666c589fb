/* Any bytes as a record of bench: an error, or a page in which nothing of the record is markup. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "judge/result.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fk_result *r;
  fk_status status = fk_result_parse((const char *)data, size, "fuzz", &r);
  if ((status == FK_OK) != (r != NULL)) abort();
  if (!r) return 0;
  char *page = NULL, *text = NULL;
  size_t page_size, text_size;
  FILE *html = open_memstream(&page, &page_size), *plain = open_memstream(&text, &text_size);
  if (!html || !plain) abort();
  fk_result_html(r, html);
  fk_result_print(r, plain, false);
  fclose(html);
  fclose(plain);
  static const char *const markup[] = {"<script", "<img", "<iframe", "<object", "<link"};
  for (size_t i = 0; i < sizeof markup / sizeof *markup; i++)
    if (strstr(page, markup[i])) abort();
  for (size_t i = 0; i < text_size; i++)
    if ((unsigned char)text[i] < 32 && text[i] != '\n') abort();
  free(page);
  free(text);
  fk_result_free(r);
  return 0;
}
