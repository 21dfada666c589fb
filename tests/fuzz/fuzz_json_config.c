/* Any bytes as a config: every getter yields a value within its range, or an error and an untouched result. */
#include <stdlib.h>
#include <string.h>

#include "io/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void get_all(const fk_json *object, const char *key) {
  int64_t i = -77, list[4] = {-77, -77, -77, -77};
  size_t count = 77;
  double f = -77;
  bool b;
  const char *s = NULL;
  fk_json child;
  if (fk_json_int(object, key, 1, 1 << 20, &i) == FK_OK ? i < 1 || i > 1 << 20 : i != -77) abort();
  if (fk_json_float(object, key, 0, 1e9, &f) == FK_OK ? !(f >= 0 && f <= 1e9) : f != -77) abort();
  if (fk_json_ints(object, key, 0, 100, 4, list, &count) == FK_OK ? count > 4 : count != 77 || list[0] != -77) abort();
  if (fk_json_string(object, key, &s) == FK_OK ? s == NULL : s != NULL) abort();
  fk_json_bool(object, key, &b);
  if (fk_json_int_or(object, key, 1, 9, 5, &i) == FK_OK && (i < 1 || i > 9)) abort();
  if (fk_json_float_or(object, key, 0, 1, 0.5, &f) == FK_OK && !(f >= 0 && f <= 1)) abort();
  fk_json_bool_or(object, key, true, &b);
  fk_json_string_or(object, key, "", &s);
  if (fk_json_array(object, key, &child) == FK_OK && json_array_size(child.node)) {
    fk_json item = fk_json_item(&child, 0);
    fk_json_expected(&item, "nothing of the kind");
  }
}

static void visit(const fk_json *at, int depth) {
  static const char *const keys[] = {"hidden_size", "rope_scaling", "rms_norm_eps", "eos_token_id", "model_type", ""};
  fk_json child;
  for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
    get_all(at, keys[k]);
    if (depth < 4 && fk_json_object(at, keys[k], &child) == FK_OK) visit(&child, depth + 1);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  json_t *root;
  if (fk_json_parse((const char *)data, size, "config.json", &root) != FK_OK) return 0;
  fk_json view = fk_json_root(root, "config.json");
  visit(&view, 0);
  json_decref(root);
  return 0;
}
