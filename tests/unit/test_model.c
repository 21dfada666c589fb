/* Models as objects: presets, random weights, dtypes, inputs of forward(), batches of step(), recorders. */
#include "model_helpers.h"

#define TINY(more)                                                                                                   \
  "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 31, \"hidden_size\": 16, \"intermediate_size\": 24, " \
  "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "                               \
  "\"max_position_embeddings\": 40" more "}"

static const fk_model_options seven = {.dtype = FK_F32, .random_weights = true, .seed = 7};

static fk_tensor *ids_tensor(fk_context *ctx, fk_type type, int64_t rows, int64_t columns) {
  fk_tensor *t = fk_empty(ctx, type, rows, columns);
  assert_non_null(t);
  for (int64_t i = 0; i < rows * columns; i++) fk_store_i64(type, t->data, i, (i * 7 + 3) % 31);
  return t;
}

static fk_tensor *logits_of(fk_context *ctx, const fk_model *model, fk_tensor *ids) {
  fk_tensors inputs = {0}, outputs;
  assert_ok(fk_tensors_put(&inputs, "input_ids", ids));
  assert_ok(fk_model_forward(ctx, model, &inputs, &outputs));
  assert_int_equal(outputs.count, 1);
  assert_string_equal(outputs.items[0].name, "logits");
  return outputs.items[0].tensor;
}

/* ---- Presets --------------------------------------------------------------------------------------------- */

/* Numbers of parameters as published. */
static void test_presets(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int64_t parameters, layers;
  } known[] = {{"llama-3.1-8b", 8030261248, 32}, {"llama-3.1-70b", 70553706496, 80}, {"llama-3.2-1b", 1235814400, 16}};
  fk_context *ctx = open_context(FK_META);
  for (size_t i = 0; i < 3; i++) {
    fk_model *model = open_model(ctx, known[i].name, (fk_model_options){0});
    assert_int_equal(model->dtype, FK_BF16);
    const fk_sequence_ops *ops = model->class->sequence;
    assert_int_equal(ops->vocab_size(model->state), 128256);
    assert_int_equal(ops->max_position(model->state), 131072);
    assert_int_equal(ops->caches(model->state, NULL), 2 * known[i].layers);
    assert_int_equal(model->num_parameters, known[i].parameters);
    fk_model_close(model);
  }
  fk_context_destroy(ctx);
}

/* A forward of 70 billion parameters on meta: shapes only, at once. */
static void test_meta_forward(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_META);
  fk_model *model = open_model(ctx, "llama-3.1-70b", (fk_model_options){0});
  fk_tensor *logits = logits_of(ctx, model, ids_tensor(ctx, FK_I64, 3, 500));
  assert_int_equal(logits->shape[0], 3);
  assert_int_equal(logits->shape[1], 500);
  assert_int_equal(logits->shape[2], 128256);
  assert_null(logits->data);
  fk_model_close(model);
  fk_context_destroy(ctx);
}

/* ---- Random weights and dtypes --------------------------------------------------------------------------- */

static void test_random(void **state) {
  (void)state;
  fk_context *cpu = open_context(FK_CPU), *ref = open_context(FK_REF);
  fk_model_options other = seven, half = seven;
  other.seed = 8;
  half.dtype = FK_BF16;
  fk_model *a = open_text(cpu, TINY(""), seven), *b = open_text(cpu, TINY(""), seven);
  fk_model *c = open_text(cpu, TINY(""), other), *d = open_text(ref, TINY(""), seven);
  fk_model *e = open_text(cpu, TINY(""), half);
  fk_tensor *la = logits_of(cpu, a, ids_tensor(cpu, FK_I32, 2, 9)),
            *lb = logits_of(cpu, b, ids_tensor(cpu, FK_I64, 2, 9));
  assert_memory_equal(la->data, lb->data, 2 * 9 * 31 * sizeof(float));
  assert_true(tensor_error(logits_of(cpu, c, ids_tensor(cpu, FK_I32, 2, 9)), la) > 0.5);
  assert_true(tensor_error(la, logits_of(ref, d, ids_tensor(ref, FK_I32, 2, 9))) < 1e-5);
  assert_true(tensor_error(logits_of(cpu, e, ids_tensor(cpu, FK_I32, 2, 9)), la) < 4e-2);
  double sum = 0;
  for (int i = 0; i < 2 * 9 * 31; i++) sum += ((float *)la->data)[i] * ((float *)la->data)[i];
  assert_true(sum > 100 && sum < 2 * 9 * 31 * 10); /* neither dead nor exploding */
  fk_model_close(a), fk_model_close(b), fk_model_close(c), fk_model_close(d), fk_model_close(e);
  fk_context_destroy(cpu);
  fk_context_destroy(ref);
}

/* The configuration's dtype where the caller names none; both spellings. */
static void test_dtype(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_META);
  const fk_model_options none = {0};
  static const struct {
    const char *json;
    fk_type type;
  } cases[] = {{TINY(""), FK_F32},
               {TINY(", \"torch_dtype\": \"bfloat16\""), FK_BF16},
               {TINY(", \"dtype\": \"float16\""), FK_F16},
               {TINY(", \"dtype\": \"float16\", \"torch_dtype\": \"bfloat16\""), FK_F16}};
  for (size_t i = 0; i < 4; i++) {
    fk_model *m = open_text(ctx, cases[i].json, none);
    assert_int_equal(m->dtype, cases[i].type);
    fk_model_close(m);
  }
  fk_model *m;
  const char *bad = TINY(", \"dtype\": \"int8\"");
  assert_fails(fk_model_open_config(ctx, bad, strlen(bad), "config", &none, &m), FK_ERROR_UNSUPPORTED,
               "config: dtype: \"int8\" is not float32, bfloat16 or float16");
  fk_context_destroy(ctx);
}

/* ---- Inputs of forward() --------------------------------------------------------------------------------- */

static void test_empty(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_CPU);
  fk_model *m = open_text(ctx, TINY(""), seven);
  static const int64_t sizes[][2] = {{0, 0}, {0, 5}, {3, 0}};
  for (int i = 0; i < 3; i++) {
    fk_tensor *t = logits_of(ctx, m, ids_tensor(ctx, FK_I64, sizes[i][0], sizes[i][1]));
    assert_int_equal(t->shape[0], sizes[i][0]);
    assert_int_equal(t->shape[1], sizes[i][1]);
    assert_int_equal(t->shape[2], 31);
  }
  fk_tensors inputs = {0}, outputs; /* nothing but padding */
  fk_tensor *mask = fk_empty(ctx, FK_I64, 2, 3);
  memset(mask->data, 0, 6 * sizeof(int64_t));
  assert_ok(fk_tensors_put(&inputs, "input_ids", ids_tensor(ctx, FK_I64, 2, 3)));
  assert_ok(fk_tensors_put(&inputs, "attention_mask", mask));
  assert_ok(fk_model_forward(ctx, m, &inputs, &outputs));
  for (int i = 0; i < 2 * 3 * 31; i++) assert_true(((float *)outputs.items[0].tensor->data)[i] == 0);
  fk_model_close(m);
  fk_context_destroy(ctx);
}

static void test_bad_inputs(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_CPU);
  fk_model *m = open_text(ctx, TINY(""), seven);
  fk_tensor *ids = ids_tensor(ctx, FK_I64, 2, 3), *floats = fk_empty(ctx, FK_F32, 2, 3);
  fk_tensor *far = ids_tensor(ctx, FK_I64, 2, 3), *negative = ids_tensor(ctx, FK_I64, 2, 3);
  fk_tensor *huge = ids_tensor(ctx, FK_I64, 2, 3), *late = ids_tensor(ctx, FK_I64, 2, 3);
  fk_store_i64(FK_I64, far->data, 4, 31);
  fk_store_i64(FK_I64, negative->data, 0, -1);
  fk_store_i64(FK_I64, huge->data, 5, ((int64_t)1 << 32) + 1); /* 1 when cut to 32 bits */
  fk_store_i64(FK_I64, late->data, 2, 40);
  struct {
    const char *name1, *name2;
    fk_tensor *t1, *t2;
    const char *text;
  } cases[] = {
      {"input_ids", NULL, floats, NULL, "input_ids: expected contiguous integers, got dtype float32"},
      {"attention_mask", NULL, ids, NULL, "input_ids: the input is missing"},
      {"input_ids", "labels", ids, ids, "labels: unknown input"},
      {"input_ids", NULL, fk_view(ctx, ids, 6), NULL, "input_ids: expected shape [batch, sequence], got 1 dim"},
      {"input_ids", "attention_mask", ids, ids_tensor(ctx, FK_I64, 2, 4),
       "attention_mask: expected shape [2, 3] as input_ids has, got [2, 4]"},
      {"input_ids", "attention_mask", ids, ids_tensor(ctx, FK_I64, 1, 3), "attention_mask: expected shape [2, 3]"},
      {"input_ids", "position_ids", ids, ids_tensor(ctx, FK_I64, 3, 3), "position_ids: expected shape [2, 3]"},
      {"input_ids", "position_ids", ids, late, "positions[2]: expected a value from 0 to 39, got 40"},
      {"input_ids", NULL, far, NULL, "input_ids[1, 1]: expected a token below 31, got 31"},
      {"input_ids", NULL, negative, NULL, "input_ids[0, 0]: expected a token below 31, got -1"},
      {"input_ids", NULL, huge, NULL, "input_ids[1, 2]: expected a token below 31, got 4294967297"},
      {"input_ids", NULL, ids_tensor(ctx, FK_I64, 1, 41), NULL, "41 tokens is longer than the model's 40"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    fk_tensors inputs = {0}, outputs;
    assert_ok(fk_tensors_put(&inputs, cases[i].name1, cases[i].t1));
    if (cases[i].name2) assert_ok(fk_tensors_put(&inputs, cases[i].name2, cases[i].t2));
    assert_fails(fk_model_forward(ctx, m, &inputs, &outputs), FK_ERROR_ARGUMENT, cases[i].text);
    assert_int_equal(outputs.count, 0);
  }
  logits_of(ctx, m, ids); /* the context is as good as before */
  fk_model_close(m);
  fk_context_destroy(ctx);
}

/* ---- Batches of step() ----------------------------------------------------------------------------------- */

typedef struct boxes {
  int32_t ids[3], cu[3], lens[2], table[2], wanted[1];
  int64_t positions[3], slots[3];
  test_tensor t[8];
  fk_tensor *caches[4];
  fk_batch batch;
  fk_tensor *logits;
} boxes;

/* Two sequences: two new tokens, and one after three. */
static void make_batch(fk_context *ctx, boxes *b) {
  *b = (boxes){.ids = {1, 2, 3},
               .cu = {0, 2, 3},
               .lens = {2, 4},
               .table = {1, 0},
               .wanted = {2},
               .positions = {0, 1, 3},
               .slots = {16, 17, 3}};
  for (int i = 0; i < 4; i++) {
    b->caches[i] = fk_empty(ctx, FK_F32, 2, 16, 2, 4);
    memset(b->caches[i]->data, 0, 2 * 16 * 2 * 4 * sizeof(float));
  }
  b->batch = (fk_batch){.input_ids = TENSOR(&b->t[0], b->ids, FK_I32, 3),
                        .positions = TENSOR(&b->t[1], b->positions, FK_I64, 3),
                        .cu_seqlens_q = TENSOR(&b->t[2], b->cu, FK_I32, 3),
                        .seq_lens = TENSOR(&b->t[3], b->lens, FK_I32, 2),
                        .slot_mapping = TENSOR(&b->t[4], b->slots, FK_I64, 3),
                        .block_table = TENSOR(&b->t[5], b->table, FK_I32, 2, 1),
                        .logits_indices = TENSOR(&b->t[6], b->wanted, FK_I32, 1),
                        .caches = b->caches};
  b->logits = fk_empty(ctx, FK_F32, 1, 31);
}

static void test_bad_batches(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_CPU);
  fk_model *m = open_text(ctx, TINY(""), seven);
  boxes b;
  make_batch(ctx, &b);
  assert_ok(fk_model_step(ctx, m, &b.batch, b.logits));
#define BAD(change, text)                                                             \
  do {                                                                                \
    make_batch(ctx, &b);                                                              \
    change;                                                                           \
    assert_fails(fk_model_step(ctx, m, &b.batch, b.logits), FK_ERROR_ARGUMENT, text); \
  } while (0)
  BAD(b.ids[1] = 31, "llama: input_ids[1]: expected a value from 0 to 30, got 31");
  BAD(b.ids[0] = -1, "input_ids[0]");
  BAD(b.positions[2] = 40, "positions[2]: expected a value from 0 to 39, got 40");
  BAD(b.slots[0] = 32, "slot_mapping[0]: expected a value from -1 to 31, got 32");
  BAD(b.slots[0] = -2, "slot_mapping[0]");
  BAD(b.wanted[0] = 3, "logits_indices[0]: expected a value from 0 to 2, got 3");
  BAD(b.cu[2] = 4, "cu_seqlens_q: expected to run from 0 to 3 tokens, got 0 to 4");
  BAD(b.cu[1] = 4, "sequence 0");
  BAD(b.lens[0] = 1, "sequence 0: expected 0 <= new tokens <= seq_len <= 16");
  BAD(b.lens[1] = 17, "sequence 1");
  BAD(b.table[1] = 2, "block_table[1, 0]: expected a block from 0 to 1, got 2");
  BAD(b.table[0] = -1, "block_table[0, 0]");
  BAD(b.caches[3] = NULL, "cache 3 (layers.1.value_cache)");
  BAD(b.caches[0] = fk_empty(ctx, FK_F32, 2, 16, 4, 2), "cache 0 (layers.0.key_cache)");
  BAD(b.caches[0] = fk_empty(ctx, FK_BF16, 2, 16, 2, 4), "cache 0 (layers.0.key_cache)");
  BAD(b.caches[1] = fk_empty(ctx, FK_F32, 3, 16, 2, 4), "cache 1 (layers.0.value_cache)");
  BAD(b.logits = fk_empty(ctx, FK_F32, 2, 31), "logits: expected shape [num_logits, output_size], got [2, 31]");
  BAD(b.batch.positions = NULL, "positions: the tensor is missing");
  fk_model_close(m);
  fk_context_destroy(ctx);
}

/* ---- Recorders ------------------------------------------------------------------------------------------- */

typedef struct counter {
  fk_recorder recorder;
  int calls[5], depth, deepest; /* calls by level */
  int64_t tokens;
} counter;

static bool enter(fk_recorder *self, fk_context *ctx, const fk_task *task, const fk_any *args, const fk_binding *b) {
  counter *c = (counter *)self;
  (void)ctx, (void)args;
  c->calls[task->level]++;
  if (++c->depth > c->deepest) c->deepest = c->depth;
  if (task->level == 4) c->tokens = b->symbols[fk_task_symbol(task, "num_tokens")];
  return true;
}

static void leave(fk_recorder *self, fk_context *ctx, const fk_task *task, const fk_any *args, fk_status status) {
  (void)ctx, (void)task, (void)args;
  assert_int_equal(status, FK_OK);
  ((counter *)self)->depth--;
}

static void test_recorder(void **state) {
  (void)state;
  fk_context *ctx = open_context(FK_META);
  fk_model *m = open_text(ctx, TINY(""), (fk_model_options){0});
  counter c = {.recorder = {enter, leave}};
  assert_string_equal(m->step_task->name, "llama_step");
  fk_context_record(ctx, &c.recorder);
  logits_of(ctx, m, ids_tensor(ctx, FK_I64, 2, 6));
  assert_int_equal(c.depth, 0);
  assert_int_equal(c.deepest, 5); /* step, layer, attention, rotary and cache, rotary */
  assert_int_equal(c.tokens, 12);
  assert_int_equal(c.calls[4], 1);
  assert_int_equal(c.calls[3], 2);
  assert_int_equal(c.calls[2], 2 * 3);
  /* Per layer: two norms; project, rotate, store, attend, project; project, gate, project. Around them: embed, norm,
   * pick, head. */
  assert_int_equal(c.calls[1], 2 * 10 + 4);
  fk_model_close(m);
  fk_context_destroy(ctx);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_presets),     cmocka_unit_test(test_meta_forward),
                                     cmocka_unit_test(test_random),      cmocka_unit_test(test_dtype),
                                     cmocka_unit_test(test_empty),       cmocka_unit_test(test_bad_inputs),
                                     cmocka_unit_test(test_bad_batches), cmocka_unit_test(test_recorder)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
