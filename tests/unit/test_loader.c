/* Checkpoints and configurations, right and wrong: what loads, and which message the others get. */
#include "engine/step.h"
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

static int clear(void **state) {
  (void)state;
  temp_clear(&dir);
  return 0;
}

/* ---- A tiny checkpoint, one change at a time ------------------------------------------------------------- */

#define SIZES                                                                                   \
  "\"vocab_size\": 5, \"hidden_size\": 4, \"intermediate_size\": 6, \"num_hidden_layers\": 1, " \
  "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"max_position_embeddings\": 32, \"rms_norm_eps\": 1e-5"
#define CAUSAL "\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "
#define CONFIG "{" CAUSAL SIZES "}"

typedef struct entry {
  const char *name;
  int32_t ndim;
  int64_t shape[2];
} entry;

static const entry llama[] = {{"model.embed_tokens.weight", 2, {5, 4}},
                              {"model.layers.0.input_layernorm.weight", 1, {4}},
                              {"model.layers.0.self_attn.q_proj.weight", 2, {4, 4}},
                              {"model.layers.0.self_attn.k_proj.weight", 2, {2, 4}},
                              {"model.layers.0.self_attn.v_proj.weight", 2, {2, 4}},
                              {"model.layers.0.self_attn.o_proj.weight", 2, {4, 4}},
                              {"model.layers.0.post_attention_layernorm.weight", 1, {4}},
                              {"model.layers.0.mlp.gate_proj.weight", 2, {6, 4}},
                              {"model.layers.0.mlp.up_proj.weight", 2, {6, 4}},
                              {"model.layers.0.mlp.down_proj.weight", 2, {4, 6}},
                              {"model.norm.weight", 1, {4}},
                              {"lm_head.weight", 2, {5, 4}}};
enum { COUNT = sizeof llama / sizeof *llama };

typedef struct change {
  const char *without, *with; /* a tensor left out, a tensor added */
  const char *reshaped;       /* transposed, or for vectors one longer */
  fk_type type;               /* of all tensors; 0 = float32 */
  const char *integer;        /* stored as int32 */
  bool no_prefix;
} change;

/* Element i of the k-th tensor; the added one repeats the embedding. */
static float value(size_t k, int64_t i) {
  return (float)(((int64_t)k * 37 + i * 11) % 23 - 11) / 16;
}

static void put_checkpoint(const char *config, change c) {
  fk_stored items[COUNT + 1];
  static float storage[COUNT + 1][64];
  size_t n = 0;
  for (size_t k = 0; k < COUNT + 1; k++) {
    entry e = k < COUNT ? llama[k] : (entry){c.with, 2, {5, 4}};
    if (!e.name || (k < COUNT && c.without && strcmp(e.name, c.without) == 0)) continue;
    if (c.reshaped && strcmp(e.name, c.reshaped) == 0) {
      int64_t first = e.shape[0];
      e.shape[0] = e.ndim == 1 ? first + 1 : e.shape[1];
      e.shape[1] = first;
    }
    fk_type type = c.integer && strcmp(e.name, c.integer) == 0 ? FK_I32 : c.type ? c.type : FK_F32;
    for (int64_t i = 0; i < 30; i++)
      if (type == FK_I32)
        ((int32_t *)storage[k])[i] = 1;
      else
        fk_store_f64(type, storage[k], i, value(k < COUNT ? k : 0, i));
    const char *name = c.no_prefix && strncmp(e.name, "model.", 6) == 0 ? e.name + 6 : e.name;
    items[n++] =
        (fk_stored){.name = name, .type = type, .ndim = e.ndim, .shape = {e.shape[0], e.shape[1]}, .data = storage[k]};
  }
  temp_text(&dir, "config.json", config);
  assert_ok(fk_safetensors_write(temp_path(&dir, "model.safetensors"), items, n, NULL));
}

static void opens(fk_backend backend, fk_type dtype) {
  fk_context *ctx = open_context(backend);
  fk_model_close(open_model(ctx, dir.path, (fk_model_options){.dtype = dtype}));
  fk_context_destroy(ctx);
}

/* Opening fails on every device with the same message, which holds every text (NULL-ended). */
static void refuses(fk_status expected, const char *const *texts) {
  for (fk_backend backend = FK_REF; backend <= FK_META; backend++) {
    if (backend == FK_CUDA) continue;
    fk_context *ctx = open_context(backend);
    fk_model *model = (fk_model *)&dir;
    fk_status status = fk_model_open(ctx, dir.path, &(fk_model_options){.dtype = FK_F32}, &model);
    assert_null(model);
    for (const char *const *t = texts; *t; t++)
      if (status != expected || !strstr(fk_last_error(), *t))
        fail_msg("%s: expected \"%s\" with \"%s\", got \"%s\" with \"%s\"", fk_backend_name(backend),
                 fk_status_name(expected), *t, fk_status_name(status), fk_last_error());
    fk_context_destroy(ctx);
  }
}
#define REFUSES(status, ...) refuses(status, (const char *const[]){__VA_ARGS__, NULL})

/* ---- Tensors --------------------------------------------------------------------------------------------- */

static void test_good(void **state) {
  (void)state;
  static const fk_type types[] = {FK_F32, FK_BF16, FK_F16, FK_F64};
  for (size_t i = 0; i < 4; i++) {
    put_checkpoint(CONFIG, (change){.type = types[i]});
    opens(FK_REF, 0);
    opens(FK_META, 0);
    opens(FK_CPU, FK_F32);
    opens(FK_CPU, FK_BF16);
    opens(FK_CPU, FK_F16);
    opens(FK_CPU, 0);
  }
}

static void test_missing(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT; i++) {
    put_checkpoint(CONFIG, (change){.without = llama[i].name});
    REFUSES(FK_ERROR_FORMAT, dir.path, llama[i].name, "expected a tensor of shape [", "found none");
  }
}

static void test_misshapen(void **state) {
  (void)state;
  put_checkpoint(CONFIG, (change){.reshaped = "model.layers.0.mlp.down_proj.weight"});
  REFUSES(FK_ERROR_FORMAT, "model.layers.0.mlp.down_proj.weight: expected shape [4, 6], found [6, 4]");
  put_checkpoint(CONFIG, (change){.reshaped = "model.layers.0.self_attn.k_proj.weight"});
  REFUSES(FK_ERROR_FORMAT, "model.layers.0.self_attn.k_proj.weight: expected shape [2, 4], found [4, 2]");
  put_checkpoint(CONFIG, (change){.reshaped = "model.norm.weight"});
  REFUSES(FK_ERROR_FORMAT, "model.norm.weight: expected shape [4], found [5]");
  put_checkpoint(CONFIG, (change){.integer = "model.norm.weight"});
  REFUSES(FK_ERROR_FORMAT, "model.norm.weight: expected dtype float64, float32, bfloat16 or float16, found int32");
}

static void test_extra(void **state) {
  (void)state;
  put_checkpoint(CONFIG, (change){.with = "model.layers.1.mlp.up_proj.weight"});
  REFUSES(FK_ERROR_FORMAT, "model.layers.1.mlp.up_proj.weight: a tensor of shape [5, 4] that the model does not have");
  put_checkpoint(CONFIG, (change){.with = "model.layers.0.self_attn.q_proj.bias"});
  REFUSES(FK_ERROR_FORMAT, "model.layers.0.self_attn.q_proj.bias");
  /* Old files carry the rotary frequencies. */
  put_checkpoint(CONFIG, (change){.with = "model.layers.0.self_attn.rotary_emb.inv_freq"});
  opens(FK_CPU, FK_F32);
}

/* The first wrong tensor is named, the others are counted. */
static void test_several(void **state) {
  (void)state;
  put_checkpoint(CONFIG, (change){.without = "lm_head.weight", .with = "extra", .reshaped = "model.norm.weight"});
  REFUSES(FK_ERROR_FORMAT, "model.norm.weight", "(and 2 more wrong tensors)");
  put_checkpoint(CONFIG, (change){.with = "extra", .reshaped = "model.norm.weight"});
  REFUSES(FK_ERROR_FORMAT, "model.norm.weight", "(and 1 more wrong tensor)");
}

static void test_tied(void **state) {
  (void)state;
  static const char tied[] = "{" CAUSAL "\"tie_word_embeddings\": true, " SIZES "}";
  put_checkpoint(tied, (change){.without = "lm_head.weight"});
  opens(FK_REF, 0);
  put_checkpoint(tied, (change){0}); /* a head that differs from the embedding: which of them is meant? */
  REFUSES(FK_ERROR_FORMAT, "lm_head.weight: expected the same content as model.embed_tokens.weight");
  put_checkpoint(tied, (change){.without = "lm_head.weight", .with = "lm_head.weight"}); /* stored, and equal */
  opens(FK_CPU, FK_F32);
}

static void test_base_model(void **state) {
  (void)state;
  static const char base[] = "{\"architectures\": [\"LlamaModel\"], " SIZES "}";
  fk_context *ctx = open_context(FK_REF);
  for (int prefix = 0; prefix < 2; prefix++) {
    put_checkpoint(base, (change){.no_prefix = !prefix, .without = prefix ? NULL : "lm_head.weight"});
    fk_model *model = open_model(ctx, dir.path, (fk_model_options){0});
    assert_int_equal(model->class->sequence->vocab_size(model->state), 0);
    assert_int_equal(model->class->sequence->output_size(model->state), 4);
    fk_model_close(model);
  }
  put_checkpoint(CONFIG, (change){.no_prefix = true}); /* a head beside names without prefix */
  fk_model_close(open_model(ctx, dir.path, (fk_model_options){0}));
  fk_context_destroy(ctx);
}

/* ---- Configurations -------------------------------------------------------------------------------------- */

static void test_bad_configs(void **state) {
  (void)state;
#define WITH(text) "{" CAUSAL text ", " SIZES "}"
  static const struct {
    const char *config;
    fk_status status;
    const char *text;
  } cases[] = {
      {"{", FK_ERROR_FORMAT, "config.json:1:"},
      {"[]", FK_ERROR_FORMAT, "expected an object, got an array"},
      {"{}", FK_ERROR_FORMAT, "expected \"architectures\" or \"model_type\", found neither"},
      {"{\"architectures\": \"LlamaForCausalLM\"}", FK_ERROR_FORMAT, "architectures: expected an array, got \"Llama"},
      {"{\"architectures\": [7]}", FK_ERROR_FORMAT, "architectures[0]: expected a string, got 7"},
      {"{\"architectures\": [\"GPT9\"]}", FK_ERROR_UNSUPPORTED, "\"GPT9\"; known architectures: "},
      {"{\"architectures\": [\"GPT9\"], \"model_type\": \"llama\"}", FK_ERROR_UNSUPPORTED, "LlamaForCausalLM"},
      {"{\"model_type\": \"gpt9\"}", FK_ERROR_UNSUPPORTED, "model_type: no model here serves \"gpt9\""},
      {"{\"model_type\": 3}", FK_ERROR_FORMAT, "model_type: expected a string, got 3"},
      {"{\"model_type\": \"llama\"}", FK_ERROR_FORMAT, "vocab_size: the key is missing"},
      {"{\"model_type\": \"llama\", \"vocab_size\": \"x\"}", FK_ERROR_FORMAT,
       "vocab_size: expected an integer from 1 to 16777216, got \"x\""},
      {"{\"model_type\": \"llama\", \"vocab_size\": 0}", FK_ERROR_FORMAT, "vocab_size: expected an integer from 1"},
      {"{\"model_type\": \"llama\", \"vocab_size\": 9, \"hidden_size\": 1e3}", FK_ERROR_FORMAT,
       "hidden_size: expected"},
      {WITH("\"hidden_act\": \"gelu\""), FK_ERROR_UNSUPPORTED, "hidden_act: \"gelu\" is not supported (only \"silu\")"},
      {WITH("\"pretraining_tp\": 2"), FK_ERROR_FORMAT, "pretraining_tp: expected an integer from 1 to 1, got 2"},
      {WITH("\"head_dim\": 3"), FK_ERROR_FORMAT, "head_dim: expected an even number, got 3"},
      {WITH("\"head_dim\": true"), FK_ERROR_FORMAT, "head_dim: expected an integer from 2 to 65536, got true"},
      {WITH("\"attention_bias\": 1"), FK_ERROR_FORMAT, "attention_bias: expected true or false, got 1"},
      {WITH("\"rope_scaling\": {\"rope_type\": \"su\"}"), FK_ERROR_UNSUPPORTED, "rope_scaling.rope_type: \"su\""},
      {WITH("\"rope_scaling\": {\"type\": \"longrope\"}"), FK_ERROR_UNSUPPORTED, "rope_scaling.type: \"longrope\""},
      {WITH("\"rope_scaling\": [1]"), FK_ERROR_FORMAT, "rope_scaling: expected an object, got an array"},
      {WITH("\"rope_theta\": -1"), FK_ERROR_FORMAT, "rope_theta: expected a number from"},
      {"{\"model_type\": \"llama\", \"vocab_size\": 5, \"hidden_size\": 6, \"intermediate_size\": 6, "
       "\"num_hidden_layers\": 1, \"num_attention_heads\": 4}",
       FK_ERROR_FORMAT, "hidden_size: expected a multiple of num_attention_heads, 4, got 6"},
      {"{\"model_type\": \"llama\", \"vocab_size\": 5, \"hidden_size\": 6, \"intermediate_size\": 6, "
       "\"num_hidden_layers\": 1, \"num_attention_heads\": 3, \"num_key_value_heads\": 2}",
       FK_ERROR_FORMAT, "num_key_value_heads: expected a divisor of num_attention_heads, 3, got 2"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    put_checkpoint(cases[i].config, (change){0});
    REFUSES(cases[i].status, "config.json", cases[i].text);
  }
}

static void test_places(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_CPU), *meta = open_context(FK_META);
  fk_model *model;
  const fk_model_options plain = {0}, random = {.random_weights = true}, longer = {.max_model_len = 33};
  assert_fails(fk_model_open(ctx, "no-such-preset", &plain, &model), FK_ERROR_NOT_FOUND, "llama-3.1-70b");
  assert_fails(fk_model_open(ctx, "./no/such/folder", &plain, &model), FK_ERROR_NOT_FOUND, "./no/such/folder");
  assert_fails(fk_model_open(ctx, "llama-3.1-8b", &plain, &model), FK_ERROR_ARGUMENT, "without weights");
  assert_fails(fk_model_open(ctx, dir.path, &plain, &model), FK_ERROR_NOT_FOUND, "config.json");
  temp_text(&dir, "config.json", CONFIG);
  assert_fails(fk_model_open(ctx, dir.path, &plain, &model), FK_ERROR_NOT_FOUND, "model.safetensors");
  assert_fails(fk_model_open(ctx, temp_path(&dir, "config.json"), &plain, &model), FK_ERROR_ARGUMENT, "got a file");
  assert_ok(fk_model_open(meta, dir.path, &plain, &model)); /* shapes need no weights */
  fk_model_close(model);
  assert_ok(fk_model_open(ctx, dir.path, &random, &model));
  fk_model_close(model);
  assert_fails(fk_model_open(meta, dir.path, &longer, &model), FK_ERROR_FORMAT, "33 tokens");
  temp_write(&dir, "model.safetensors", "junk", 4);
  assert_fails(fk_model_open(ctx, dir.path, &plain, &model), FK_ERROR_FORMAT, "model.safetensors");
  fk_context_destroy(ctx);
  fk_context_destroy(meta);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup(f, clear)
  const struct CMUnitTest tests[] = {TEST(test_good),       TEST(test_missing),     TEST(test_misshapen),
                                     TEST(test_extra),      TEST(test_several),     TEST(test_tied),
                                     TEST(test_base_model), TEST(test_bad_configs), TEST(test_places)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
