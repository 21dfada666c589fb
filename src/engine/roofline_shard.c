/* One rank's share of a transformer, as a configuration that the model's own loader reads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/roofline.h"
#include "io/json.h"

enum { MAX_CONFIG = 1 << 24, MAX_VALUE = 1 << 30 };

static fk_status load_config(const char *model, json_t **root) {
  struct stat st;
  char path[4096];
  *root = NULL;
  if (stat(model, &st) == 0 && S_ISDIR(st.st_mode)) {
    if ((size_t)snprintf(path, sizeof path, "%s/config.json", model) >= sizeof path)
      return fk_fail(FK_ERROR_ARGUMENT, "%s: the path is too long", model);
    return fk_json_load(path, MAX_CONFIG, root);
  }
  for (int i = 0; i < fk_preset_count; i++)
    if (strcmp(fk_presets[i].name, model) == 0)
      return fk_json_parse(fk_presets[i].config_json, strlen(fk_presets[i].config_json), model, root);
  return fk_fail(FK_ERROR_NOT_FOUND, "%s: neither a model folder nor a preset", model);
}

static fk_status divided(json_t *root, const fk_json *view, const char *key, int64_t ranks, int64_t *whole) {
  FK_TRY(fk_json_int(view, key, 1, MAX_VALUE, whole));
  if (*whole % ranks)
    return fk_fail(FK_ERROR_ARGUMENT, "tensor parallelism: expected %s to be a multiple of %lld ranks, got %lld", key,
                   (long long)ranks, (long long)*whole);
  json_object_set_new(root, key, json_integer(*whole / ranks));
  return FK_OK;
}

/* Key-value heads are divided, or, with more ranks than heads, each is held by several ranks. */
static fk_status divide_kv_heads(json_t *root, int64_t kv_heads, int64_t ranks) {
  if (kv_heads % ranks && ranks % kv_heads)
    return fk_fail(FK_ERROR_ARGUMENT,
                   "tensor parallelism: expected num_key_value_heads to be a multiple or a divisor of %lld ranks, got "
                   "%lld",
                   (long long)ranks, (long long)kv_heads);
  json_object_set_new(root, "num_key_value_heads", json_integer(kv_heads > ranks ? kv_heads / ranks : 1));
  return FK_OK;
}

static fk_status shard(json_t *root, const char *model, int64_t ranks, fk_shard *out) {
  fk_json view = fk_json_root(root, model);
  int64_t heads, kv_heads, intermediate, head_dim;
  FK_TRY(fk_json_int(&view, "num_hidden_layers", 0, MAX_VALUE, &out->num_layers));
  FK_TRY(fk_json_int(&view, "hidden_size", 1, MAX_VALUE, &out->hidden_size));
  FK_TRY(divided(root, &view, "num_attention_heads", ranks, &heads));
  FK_TRY(fk_json_int_or(&view, "num_key_value_heads", 1, MAX_VALUE, heads, &kv_heads));
  FK_TRY(fk_json_int_or(&view, "head_dim", 1, MAX_VALUE, out->hidden_size / heads, &head_dim));
  FK_TRY(divide_kv_heads(root, kv_heads, ranks));
  /* The loader would derive it from the heads, which are fewer now. */
  json_object_set_new(root, "head_dim", json_integer(head_dim));
  FK_TRY(divided(root, &view, "intermediate_size", ranks, &intermediate));
  FK_TRY(divided(root, &view, "vocab_size", ranks, &out->vocab_size));
  return fk_json_print(root, JSON_COMPACT, model, &out->json);
}

fk_status fk_shard_config(const char *model, int64_t ranks, fk_shard *out) {
  json_t *root;
  *out = (fk_shard){0};
  FK_TRY(load_config(model, &root));
  fk_status status = json_is_object(root) ? shard(root, model, ranks, out)
                                          : fk_fail(FK_ERROR_FORMAT, "%s: config.json: expected an object", model);
  json_decref(root);
  return status;
}
