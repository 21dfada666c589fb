/* Checkpoints and configurations of the two encoders that are wrong in one way each: the message says what was
 * expected, what was found and where, on every device. */
#include "io/json.h"
#include "model_helpers.h"
#include "temp_dir.h"

static temp_dir dir;

static int setup(void **state) {
  (void)state;
  return temp_dir_make(&dir);
}

static int teardown(void **state) {
  (void)state;
  temp_dir_remove(&dir);
  return 0;
}

#define COLBERT FK_SOURCE_DIR "/tests/golden/fixtures/colbertv2/colbert"
#define BGE FK_SOURCE_DIR "/tests/golden/fixtures/bge_m3/heads"

/* ---- A good checkpoint, one change at a time ------------------------------------------------------------- */

typedef struct change {
  const char *without, *with, *reshaped, *integer; /* a tensor lost, added, of one row less, stored as int32 */
  const char *key, *value;                         /* of config.json; the value as JSON, NULL: removed */
} change;

enum { MOST = 128, WIDEST = 1 << 16 };

static void put_config(const char *folder, const change *c) {
  char path[512];
  json_t *config;
  snprintf(path, sizeof path, "%s/config.json", folder);
  assert_ok(fk_json_load(path, 1 << 20, &config));
  if (c->key && c->value) {
    json_t *value = json_loads(c->value, JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    assert_int_equal(json_object_set_new(config, c->key, value), 0);
  } else if (c->key) {
    assert_int_equal(json_object_del(config, c->key), 0);
  }
  char *text = json_dumps(config, 0);
  assert_non_null(text);
  temp_text(&dir, "config.json", text);
  free(text);
  json_decref(config);
}

/* Copies the folder's checkpoint with the change; its tensors must be among those that the change names. */
static void put(const char *folder, change c) {
  static const int32_t ones[WIDEST];
  char path[512];
  fk_safetensors *file;
  fk_stored items[MOST];
  size_t n = 0;
  int done = !c.without + !c.reshaped + !c.integer;
  snprintf(path, sizeof path, "%s/model.safetensors", folder);
  assert_ok(fk_safetensors_open(path, &file));
  assert_true(fk_safetensors_count(file) + 1 <= MOST);
  for (size_t i = 0; i < fk_safetensors_count(file); i++) {
    fk_stored item = *fk_safetensors_at(file, i);
    bool lost = c.without && strcmp(item.name, c.without) == 0, cut = c.reshaped && strcmp(item.name, c.reshaped) == 0;
    bool integer = c.integer && strcmp(item.name, c.integer) == 0;
    done += lost + cut + integer;
    if (cut) item.shape[0]--;
    assert_true(!integer || fk_stored_numel(&item) <= WIDEST);
    if (integer) item.type = FK_I32, item.data = ones;
    if (!lost) items[n++] = item;
  }
  assert_int_equal(done, 3);
  if (c.with) items[n++] = (fk_stored){.name = c.with, .type = FK_F32, .ndim = 1, .shape = {3}, .data = ones};
  assert_ok(fk_safetensors_write(temp_path(&dir, "model.safetensors"), items, n, NULL));
  fk_safetensors_close(file);
  put_config(folder, &c);
}

/* Opening fails on every device with the same message. */
static void refuses(fk_status expected, const char *text) {
  static const fk_backend backends[] = {FK_REF, FK_CPU, FK_META};
  for (size_t i = 0; i < 3; i++) {
    fk_context *ctx = open_context(backends[i]);
    fk_model *model = (fk_model *)&dir;
    assert_fails(fk_model_open(ctx, dir.path, &(fk_model_options){.dtype = FK_F32}, &model), expected, text);
    assert_null(model);
    assert_non_null(strstr(fk_last_error(), dir.path)); /* where */
    fk_context_destroy(ctx);
  }
}

static void opens(void) {
  static const fk_backend backends[] = {FK_REF, FK_CPU, FK_META};
  for (size_t i = 0; i < 3; i++) {
    fk_context *ctx = open_context(backends[i]);
    fk_model_close(open_model(ctx, dir.path, (fk_model_options){0}));
    fk_context_destroy(ctx);
  }
}

typedef struct wrong {
  change change;
  const char *text;
} wrong;

/* Each refused, after the unchanged checkpoint opened. */
static void check(const char *folder, fk_status expected, const wrong *list, size_t count) {
  put(folder, (change){0});
  opens();
  for (size_t i = 0; i < count; i++) {
    put(folder, list[i].change);
    refuses(expected, list[i].text);
  }
}
#define CHECK(folder, status, list) check(folder, status, list, sizeof(list) / sizeof *(list))

/* ---- Tensors --------------------------------------------------------------------------------------------- */

static void test_colbert_tensors(void **state) {
  (void)state;
  static const wrong list[] = {
      {{.without = "bert.encoder.layer.1.attention.self.key.weight"},
       "bert.encoder.layer.1.attention.self.key.weight: expected a tensor of shape [48, 48], found none"},
      {{.without = "bert.encoder.layer.0.attention.self.value.bias"},
       "bert.encoder.layer.0.attention.self.value.bias: expected a tensor of shape [48], found none"},
      {{.without = "bert.embeddings.LayerNorm.bias"},
       "bert.embeddings.LayerNorm.bias: expected a tensor of shape [48], found none"},
      {{.without = "bert.pooler.dense.bias"}, "bert.pooler.dense.bias: expected a tensor of shape [48], found none"},
      {{.without = "linear.weight"}, "linear.weight: expected a tensor of shape [128, 48], found none"},
      {{.reshaped = "bert.encoder.layer.0.intermediate.dense.weight"},
       "bert.encoder.layer.0.intermediate.dense.weight: expected shape [80, 48], found [79, 48]"},
      {{.reshaped = "bert.encoder.layer.0.attention.self.query.weight"},
       "bert.encoder.layer.0.attention.self.query.weight: expected shape [48, 48], found [47, 48]"},
      {{.reshaped = "linear.weight"}, "linear.weight: expected shape [128, 48], found [127, 48]"},
      {{.integer = "bert.embeddings.word_embeddings.weight"},
       "bert.embeddings.word_embeddings.weight: expected dtype float64, float32, bfloat16 or float16, found int32"},
      {{.integer = "linear.weight"}, "linear.weight: expected dtype"},
      {{.with = "bert.encoder.layer.2.output.dense.bias"},
       "bert.encoder.layer.2.output.dense.bias: a tensor of shape [3] that the model does not have"},
      {{.with = "linear.bias"}, "linear.bias: a tensor of shape [3] that the model does not have"},
  };
  CHECK(COLBERT, FK_ERROR_FORMAT, list);
  put(COLBERT, (change){.with = "bert.embeddings.position_ids"}); /* old versions of transformers wrote it */
  opens();
}

static void test_bge_tensors(void **state) {
  (void)state;
  static const wrong list[] = {
      {{.without = "encoder.layer.0.output.LayerNorm.weight"},
       "encoder.layer.0.output.LayerNorm.weight: expected a tensor of shape [48], found none"},
      {{.without = "sparse_linear.bias"}, "sparse_linear.bias: expected a tensor of shape [1], found none"},
      {{.without = "colbert_linear.bias"}, "colbert_linear.bias: expected a tensor of shape [48], found none"},
      {{.without = "sparse_linear.weight"}, "sparse_linear.bias: a tensor of shape [1] that the model does not have"},
      {{.reshaped = "colbert_linear.weight"}, "colbert_linear.weight: expected shape [48, 48], found [47, 48]"},
      {{.reshaped = "sparse_linear.weight"}, "sparse_linear.weight: expected shape [1, 48], found [0, 48]"},
      {{.reshaped = "embeddings.position_embeddings.weight"},
       "embeddings.position_embeddings.weight: expected shape [66, 48], found [65, 48]"},
      {{.integer = "pooler.dense.weight"}, "pooler.dense.weight: expected dtype"},
      {{.with = "lm_head.bias"}, "lm_head.bias: a tensor of shape [3] that the model does not have"},
  };
  CHECK(BGE, FK_ERROR_FORMAT, list);
  put(BGE, (change){.without = "pooler.dense.bias"});
  refuses(FK_ERROR_FORMAT, "pooler.dense.bias: expected a tensor of shape [48], found none");
}

/* A file that ends early, at any of its parts. */
static void check_cut(const char *folder) {
  char bytes[64], path[600];
  put(folder, (change){0});
  snprintf(path, sizeof path, "%s", temp_path(&dir, "model.safetensors"));
  struct stat st;
  assert_int_equal(stat(path, &st), 0);
  static const struct {
    off_t keep;
    const char *text;
  } cuts[] = {{0, "at least 8 bytes, got 0"}, {7, "at least 8 bytes, got 7"}, {64, "cut off"}, {-1, "of data"}};
  for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
    put(folder, (change){0});
    assert_int_equal(truncate(path, cuts[i].keep < 0 ? st.st_size - 1 : cuts[i].keep), 0);
    refuses(FK_ERROR_FORMAT, cuts[i].text);
  }
  memset(bytes, 'x', sizeof bytes);
  temp_write(&dir, "model.safetensors", bytes, sizeof bytes);
  refuses(FK_ERROR_FORMAT, "model.safetensors");
}

static void test_cut(void **state) {
  (void)state;
  check_cut(COLBERT);
  check_cut(BGE);
}

/* ---- Configurations -------------------------------------------------------------------------------------- */

static void test_colbert_configs(void **state) {
  (void)state;
  static const wrong bad[] = {
      {{.key = "vocab_size", .value = "98"},
       "bert.embeddings.word_embeddings.weight: expected shape [98, 48], found [97, 48]"},
      {{.key = "num_hidden_layers", .value = "3"},
       "bert.encoder.layer.2.attention.self.query.weight: expected a tensor of shape [48, 48], found none"},
      {{.key = "num_hidden_layers", .value = "1"}, "that the model does not have"},
      {{.key = "hidden_size", .value = "50"}, "hidden_size: expected a multiple of num_attention_heads, 4, got 50"},
      {{.key = "num_attention_heads", .value = "5"},
       "hidden_size: expected a multiple of num_attention_heads, 5, got 48"},
      {{.key = "num_attention_heads", .value = "0"}, "num_attention_heads: expected an integer from 1"},
      {{.key = "intermediate_size", .value = "81"}, "intermediate.dense.weight: expected shape [81, 48], found [80"},
      {{.key = "type_vocab_size", .value = "3"}, "token_type_embeddings.weight: expected shape [3, 48], found [2, 48]"},
      {{.key = "max_position_embeddings", .value = "65"}, "expected shape [65, 48], found [64, 48]"},
      {{.key = "dim", .value = "64"}, "linear.weight: expected shape [64, 48], found [128, 48]"},
      {{.key = "query_maxlen", .value = "65"}, "query_maxlen: expected an integer from 1 to 64, got 65"},
      {{.key = "mask_token_id", .value = "97"}, "mask_token_id: expected an integer from 0 to 96, got 97"},
      {{.key = "pad_token_id", .value = "-1"}, "pad_token_id: expected an integer from 0 to 96, got -1"},
      {{.key = "layer_norm_eps", .value = "-1e-12"}, "layer_norm_eps: expected a number from 0"},
      {{.key = "vocab_size"}, "vocab_size: the key is missing"},
      {{.key = "hidden_size", .value = "\"48\""}, "hidden_size: expected an integer from 1 to 1048576, got \"48\""},
      {{.key = "attend_to_mask_tokens", .value = "1"}, "attend_to_mask_tokens: expected true or false, got 1"},
  };
  static const wrong unsupported[] = {
      {{.key = "hidden_act", .value = "\"swish\""}, "hidden_act: \"swish\" is not supported"},
      {{.key = "hidden_act", .value = "\"relu\""}, "hidden_act: \"relu\" is not supported"},
      {{.key = "position_embedding_type", .value = "\"relative_key\""}, "position_embedding_type: \"relative_key\""},
      {{.key = "architectures", .value = "[\"BertForMaskedLM\"]"}, "no model here serves \"BertForMaskedLM\""},
  };
  CHECK(COLBERT, FK_ERROR_FORMAT, bad);
  CHECK(COLBERT, FK_ERROR_UNSUPPORTED, unsupported);
}

static void test_bge_configs(void **state) {
  (void)state;
  static const wrong bad[] = {
      {{.key = "vocab_size", .value = "100"}, "word_embeddings.weight: expected shape [100, 48], found [101, 48]"},
      {{.key = "colbert_dim", .value = "32"}, "colbert_linear.weight: expected shape [32, 48], found [48, 48]"},
      {{.key = "pad_token_id", .value = "65"}, "max_position_embeddings: expected more than pad_token_id + 1 = 66"},
      {{.key = "unk_token_id", .value = "-3"}, "unk_token_id: expected an integer from 0"},
      {{.key = "hidden_size", .value = "46"}, "hidden_size: expected a multiple of num_attention_heads, 4, got 46"},
      {{.key = "num_hidden_layers", .value = "-1"}, "num_hidden_layers: expected an integer from 0 to 1024, got -1"},
  };
  static const wrong unsupported[] = {
      {{.key = "hidden_act", .value = "\"silu\""}, "hidden_act: \"silu\" is not supported"},
      {{.key = "architectures", .value = "[\"XLMRobertaForMaskedLM\"]"}, "no model here serves"},
  };
  CHECK(BGE, FK_ERROR_FORMAT, bad);
  CHECK(BGE, FK_ERROR_UNSUPPORTED, unsupported);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_colbert_tensors), cmocka_unit_test(test_bge_tensors),
                                     cmocka_unit_test(test_cut), cmocka_unit_test(test_colbert_configs),
                                     cmocka_unit_test(test_bge_configs)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
