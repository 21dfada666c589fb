/* Every model on the GPU: golden outputs in every dtype, weights that reach the GPU whole, sequences cut into any
 * steps, and decoding as one graph against eager steps.
 *
 *     test_cuda_models [PART]     all parts, each in a process of its own (a bad address ends only that one), or one
 *
 * Ends with 77 where there is no GPU. */
#include <glob.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/convert.h"
#include "engine/cache.h"
#include "engine/decode_graph.h"
#include "model_files.h"

enum { SKIPPED = 77, CHILD_SECONDS = 300, BLOCK = 16 };

static const fk_backend device = FK_CUDA;
static int failures;

__attribute__((format(printf, 1, 2))) static void complain(const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  vprintf(format, ap);
  va_end(ap);
  putchar('\n');
  failures++;
}

/* The test goes on with the next thing: one missing kernel must not hide what else is wrong. */
static bool ok(fk_status status, const char *what) {
  if (status) complain("%s: %s", what, fk_last_error());
  return !status;
}

static fk_context *open_context(fk_backend backend) {
  fk_context *ctx;
  if (!ok(fk_context_create(&(fk_context_options){.backend = backend}, &ctx), "context")) exit(1);
  return ctx;
}

/* The tree that was built from, or where the program runs. */
static const char *source_dir(void) {
  return access(FK_SOURCE_DIR "/tests/golden/fixtures", R_OK) == 0 ? FK_SOURCE_DIR : ".";
}

/* ---- Golden outputs -------------------------------------------------------------------------------------- */

/* In causal models the rows of padding mean nothing in the reference. */
static void check_output(const fk_model *model, const fk_safetensors *file, const fk_stored *expected,
                         const fk_tensor *got, const char *path, double limit, double *worst) {
  if (!got || got->ndim != expected->ndim ||
      memcmp(got->shape, expected->shape, (size_t)got->ndim * sizeof *got->shape) != 0) {
    complain("%s: %s: no output of this name and shape", path, expected->name);
    return;
  }
  const fk_stored *mask = model->class->sequence ? fk_safetensors_find(file, "in.attention_mask") : NULL;
  int64_t rows = mask ? got->shape[0] * got->shape[1] : 1;
  double error = row_error(fk_type_of(got), fk_data(got), expected->type, expected->data, rows,
                           rows ? fk_numel(got) / rows : 0, mask);
  if (!(error <= limit)) complain("%s: %s: relative error %g, at most %g allowed", path, expected->name, error, limit);
  if (error > *worst) *worst = error;
}

static int check_file(fk_context *ctx, const fk_model *model, const char *path, double limit, double *worst) {
  fk_safetensors *file;
  fk_tensors inputs, outputs = {0};
  int compared = 0;
  if (!ok(fk_safetensors_open(path, &file), path)) return 0;
  fk_status status = read_model_inputs(ctx, model, file, &inputs);
  if (!status) status = fk_model_forward(ctx, model, &inputs, &outputs);
  for (size_t i = 0; ok(status, path) && i < fk_safetensors_count(file); i++) {
    const fk_stored *expected = fk_safetensors_at(file, i);
    if (strncmp(expected->name, "out.", 4) != 0) continue;
    check_output(model, file, expected, fk_tensors_get(&outputs, expected->name + 4), path, limit, worst);
    compared++;
  }
  fk_safetensors_close(file);
  fk_context_reset(ctx);
  return compared;
}

/* Every io file of every fixture of a family. */
static void check_family(fk_context *ctx, const char *family, fk_type dtype, double limit) {
  glob_t folders, files;
  char pattern[2048];
  double worst = 0;
  int compared = 0;
  snprintf(pattern, sizeof pattern, "%s/tests/golden/fixtures/%s/*", source_dir(), family);
  if (glob(pattern, 0, NULL, &folders) != 0) {
    complain("%s: no fixtures", pattern);
    return;
  }
  for (size_t i = 0; i < folders.gl_pathc; i++) {
    fk_model *model;
    if (!ok(fk_model_open(ctx, folders.gl_pathv[i], &(fk_model_options){.dtype = dtype}, &model), folders.gl_pathv[i]))
      continue;
    snprintf(pattern, sizeof pattern, "%s/io*.safetensors", folders.gl_pathv[i]);
    if (glob(pattern, 0, NULL, &files) != 0) complain("%s: no files", pattern);
    for (size_t k = 0; k < files.gl_pathc; k++) compared += check_file(ctx, model, files.gl_pathv[k], limit, &worst);
    globfree(&files);
    fk_model_close(model);
  }
  globfree(&folders);
  printf("%-10s %-9s worst relative error %.2e over %d outputs\n", family, fk_type_name(dtype), worst, compared);
  if (compared == 0) complain("%s: nothing was compared", family);
}

static void golden(const char *family) {
  fk_context *ctx = open_context(device);
  check_family(ctx, family, FK_F32, 1e-5);
  check_family(ctx, family, FK_BF16, 2e-2);
  check_family(ctx, family, FK_F16, 2e-2);
  fk_context_destroy(ctx);
}

/* ---- Weights --------------------------------------------------------------------------------------------- */

/* Every size and alignment comes back as it was sent, at the speed of the link when it is large. */
static void transfers(const char *name) {
  static const size_t sizes[] = {0, 1, 255, 4096, (1 << 20) + 3, (40 << 20) + 1, (200 << 20) + 7};
  enum { MOST = (200 << 20) + 7 + 3 };
  fk_context *ctx = open_context(device);
  unsigned char *from = malloc(MOST), *back = malloc(MOST), *to = fk_scratch(ctx, MOST);
  fk_cuda_timer *timer = NULL;
  (void)name;
  if (!from || !back || !to || !ok(fk_cuda_timer_create(ctx->cuda, &timer), "timer")) exit(1);
  for (size_t i = 0; i < MOST; i++) from[i] = (unsigned char)(i * 2654435761u >> 13);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    size_t n = sizes[i], odd = i % 3;
    double milliseconds = 0;
    bool sent = ok(fk_cuda_fill(ctx->cuda, to, 0xee, MOST), "fill") &&
                ok(fk_cuda_timer_start(ctx->cuda, timer), "start") &&
                ok(fk_cuda_upload(ctx->cuda, to + odd, from + odd, n), "upload") &&
                ok(fk_cuda_timer_stop(ctx->cuda, timer), "stop") &&
                ok(fk_cuda_timer_elapsed(ctx->cuda, timer, &milliseconds), "elapsed") &&
                ok(fk_cuda_download(ctx->cuda, back, to, n + odd + 1), "download");
    if (!sent) continue;
    if (memcmp(back + odd, from + odd, n) != 0 || (odd && back[0] != 0xee) || back[n + odd] != 0xee)
      complain("transfer of %zu bytes: not what was sent", n);
    if (n > 100 << 20) printf("upload of %zu MB: %.1f GB/s\n", n >> 20, (double)n / milliseconds / 1e6);
  }
  fk_cuda_timer_destroy(timer);
  free(from);
  free(back);
  fk_context_destroy(ctx);
}

static const char llama_config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 515, \"hidden_size\": 96, \"intermediate_size\": 200,"
    " \"num_hidden_layers\": 3, \"num_attention_heads\": 6, \"num_key_value_heads\": 2,"
    " \"max_position_embeddings\": 256}";
static const char mamba2_config[] =
    "{\"architectures\": [\"Mamba2ForCausalLM\"], \"vocab_size\": 515, \"hidden_size\": 96, \"num_hidden_layers\": 3,"
    " \"num_heads\": 12, \"head_dim\": 16, \"state_size\": 32, \"n_groups\": 2}";

static fk_model *open_random(fk_context *ctx, const char *config, fk_type dtype) {
  fk_model *model;
  fk_model_options options = {.dtype = dtype, .random_weights = true, .seed = 7};
  return ok(fk_model_open_config(ctx, config, strlen(config), "config", &options, &model), "random weights") ? model
                                                                                                             : NULL;
}

/* The generator gives the GPU what it gives the host: the same model, up to the arithmetic of its kernels. */
static void random_weights(const char *name) {
  fk_context *contexts[2] = {open_context(FK_CPU), open_context(device)};
  fk_tensor *out[2] = {NULL, NULL};
  fk_model *models[2];
  (void)name;
  for (int i = 0; i < 2; i++) {
    if (!(models[i] = open_random(contexts[i], llama_config, FK_F32))) exit(1);
    fk_tensors inputs = {0}, outputs = {0};
    fk_tensor *ids = fk_host(contexts[i], FK_I64, 2, 20);
    for (int64_t k = 0; k < 40; k++) ((int64_t *)ids->data)[k] = k * 37 % 515;
    if (ok(fk_tensors_put(&inputs, "input_ids", ids), "inputs") &&
        ok(fk_model_forward(contexts[i], models[i], &inputs, &outputs), "forward"))
      out[i] = outputs.items[0].tensor;
  }
  if (out[0] && out[1]) {
    double error = row_error(FK_F32, fk_data(out[1]), FK_F32, fk_data(out[0]), 1, fk_numel(out[0]), NULL);
    printf("random weights, cuda against cpu: relative error %.2e\n", error);
    if (!(error <= 1e-5)) complain("random weights differ between devices: relative error %g", error);
  }
  for (int i = 0; i < 2; i++) {
    fk_model_close(models[i]);
    fk_context_destroy(contexts[i]);
  }
}

/* ---- Steps ----------------------------------------------------------------------------------------------- */

enum { VOCAB = 515, WIDTH = 10, MOST_TOKENS = 256, MOST_SEQS = 8 };

typedef struct runner {
  fk_context *ctx;
  fk_model *model;
  fk_caches caches;
} runner;

typedef struct chunk { /* tokens [from, to) of a text, whose blocks and state are those of a slot */
  int text;
  int64_t from, to;
  int slot;
} chunk;

static int32_t id_of(int text, int64_t i) {
  return (int32_t)((i * 31 + 17 * text + i * i) % VOCAB);
}

static bool make_runner(const char *config, fk_type dtype, runner *r) {
  *r = (runner){.ctx = open_context(device)};
  r->model = open_random(r->ctx, config, dtype);
  return r->model && ok(fk_caches_create(r->ctx, r->model, MOST_SEQS * WIDTH, BLOCK, MOST_SEQS, &r->caches), "caches");
}

static void free_runner(runner *r) {
  fk_caches_destroy(&r->caches);
  fk_model_close(r->model);
  fk_context_destroy(r->ctx);
}

/* Index tensors on the host. Blocks of a slot lie apart, as they do in a cache that has been used. */
static fk_batch make_batch(runner *r, const chunk *chunks, int count) {
  fk_context *ctx = r->ctx;
  int64_t tokens = 0, at = 0;
  for (int c = 0; c < count; c++) tokens += chunks[c].to - chunks[c].from;
  fk_batch b = {.input_ids = fk_host(ctx, FK_I32, tokens),
                .positions = fk_host(ctx, FK_I64, tokens),
                .cu_seqlens_q = fk_host(ctx, FK_I32, count + 1),
                .seq_lens = fk_host(ctx, FK_I32, count),
                .slot_mapping = fk_host(ctx, FK_I64, tokens),
                .block_table = fk_host(ctx, FK_I32, count, WIDTH),
                .state_slots = r->caches.has_state ? fk_host(ctx, FK_I32, count) : NULL,
                .logits_indices = fk_host(ctx, FK_I32, tokens),
                .caches = r->caches.tensors};
  ((int32_t *)b.cu_seqlens_q->data)[0] = 0;
  for (int c = 0; c < count; c++) {
    int32_t *table = (int32_t *)b.block_table->data + c * WIDTH;
    ((int32_t *)b.seq_lens->data)[c] = (int32_t)chunks[c].to;
    if (b.state_slots) ((int32_t *)b.state_slots->data)[c] = chunks[c].slot;
    for (int k = 0; k < WIDTH; k++) table[k] = k * MOST_SEQS + chunks[c].slot;
    for (int64_t i = chunks[c].from; i < chunks[c].to; i++, at++) {
      ((int32_t *)b.input_ids->data)[at] = id_of(chunks[c].text, i);
      ((int64_t *)b.positions->data)[at] = i;
      ((int64_t *)b.slot_mapping->data)[at] = (int64_t)table[i / BLOCK] * BLOCK + i % BLOCK;
      ((int32_t *)b.logits_indices->data)[at] = (int32_t)at;
    }
    ((int32_t *)b.cu_seqlens_q->data)[c + 1] = (int32_t)at;
  }
  return b;
}

/* Logits of all tokens of a step, on the host; NULL when it failed. */
static fk_tensor *step(runner *r, const chunk *chunks, int count) {
  fk_batch b = make_batch(r, chunks, count);
  fk_tensor *logits = fk_empty(r->ctx, r->model->dtype, fk_numel(b.input_ids), VOCAB);
  if (!ok(fk_model_step(r->ctx, r->model, &b, logits), "step")) return NULL;
  return ok(fk_move_to_host(r->ctx, &logits), "step") ? logits : NULL;
}
#define STEP(r, ...) step(r, (const chunk[]){__VA_ARGS__}, (int)(sizeof((chunk[]){__VA_ARGS__}) / sizeof(chunk)))

static void check_rows(const char *what, const fk_tensor *a, int64_t from, int64_t n, const fk_tensor *b, int64_t at,
                       double limit) {
  if (!a || !b) return;
  fk_type type = fk_type_of(a);
  double error = row_error(type, (const char *)fk_data(a) + fk_type_bytes(type, from * VOCAB), fk_type_of(b),
                           (const char *)fk_data(b) + fk_type_bytes(fk_type_of(b), at * VOCAB), n, VOCAB, NULL);
  if (!(error <= limit)) complain("%s: relative error %g, at most %g allowed", what, error, limit);
}

/* Chunks of prefill, single tokens, sequences that share steps: all as one long prefill. */
static void check_steps(const char *family, const char *config, fk_type dtype, double limit) {
  runner r;
  char what[64];
  if (!make_runner(config, dtype, &r)) exit(1);
  snprintf(what, sizeof what, "%s in %s steps", family, fk_type_name(dtype));
  fk_tensor *whole = STEP(&r, {0, 0, 150, 3}), *other = STEP(&r, {1, 0, 80, 1});
  check_rows(what, STEP(&r, {0, 0, 2, 4}), 0, 2, whole, 0, limit);
  check_rows(what, STEP(&r, {0, 2, 73, 4}), 0, 71, whole, 2, limit);
  check_rows(what, STEP(&r, {0, 73, 130, 4}), 0, 57, whole, 73, limit);
  check_rows(what, STEP(&r, {0, 130, 133, 4}), 0, 3, whole, 130, limit);
  for (int64_t i = 133; i < 150; i++) check_rows(what, STEP(&r, {0, i, i + 1, 4}), 0, 1, whole, i, limit);
  STEP(&r, {0, 0, 100, 0});
  fk_tensor *both = STEP(&r, {1, 0, 79, 2}, {0, 100, 101, 0});
  check_rows(what, both, 0, 79, other, 0, limit);
  check_rows(what, both, 79, 1, whole, 100, limit);
  both = STEP(&r, {0, 101, 150, 0}, {1, 79, 80, 2});
  check_rows(what, both, 0, 49, whole, 101, limit);
  check_rows(what, both, 49, 1, other, 79, limit);
  free_runner(&r);
}

static void steps(const char *family) {
  const char *config = *family == 'l' ? llama_config : mamba2_config;
  check_steps(family, config, FK_F32, 1e-5);
  check_steps(family, config, FK_BF16, 2e-2);
  check_steps(family, config, FK_F16, 2e-2);
}

/* A wrong index is refused by the host where it can see it. */
static void refusals(const char *name) {
  runner r;
  (void)name;
  if (!make_runner(llama_config, FK_BF16, &r)) exit(1);
  fk_batch b = make_batch(&r, (const chunk[]){{0, 0, 9, 1}}, 1);
  fk_tensor *logits = fk_empty(r.ctx, FK_BF16, 9, VOCAB);
  ((int32_t *)b.input_ids->data)[4] = VOCAB;
  if (fk_model_step(r.ctx, r.model, &b, logits) != FK_ERROR_ARGUMENT || !strstr(fk_last_error(), "input_ids[4]"))
    complain("a wrong id was not refused");
  ((int32_t *)b.input_ids->data)[4] = 0;
  ((int64_t *)b.slot_mapping->data)[8] = MOST_SEQS * WIDTH * BLOCK;
  if (fk_model_step(r.ctx, r.model, &b, logits) != FK_ERROR_ARGUMENT || !strstr(fk_last_error(), "slot_mapping[8]"))
    complain("a wrong slot was not refused");
  /* Out of the host's sight it is the kernels that notice, and the next wait tells. */
  ((int64_t *)b.slot_mapping->data)[8] = 8;
  ((int32_t *)b.input_ids->data)[4] = VOCAB;
  b.input_ids = fk_to_device(r.ctx, b.input_ids);
  if (ok(fk_model_step(r.ctx, r.model, &b, logits), "step") && fk_sync(r.ctx) != FK_ERROR_ARGUMENT)
    complain("a wrong id in GPU memory went unnoticed");
  ok(fk_sync(r.ctx), "after a fault");
  free_runner(&r);
}

/* ---- Decoding as a graph --------------------------------------------------------------------------------- */

enum { SEQS = 5, PROMPT = 21, OUTPUT = 40 };

/* The tokens that begin decoding: what follows the prompts, by argmax on the host. */
static bool prefill(runner *r, int32_t tokens[SEQS]) {
  chunk chunks[SEQS];
  for (int s = 0; s < SEQS; s++) chunks[s] = (chunk){s, 0, PROMPT - s, s + 1};
  fk_tensor *logits = step(r, chunks, SEQS);
  for (int64_t s = 0, last = -1; logits && s < SEQS; s++) {
    last += PROMPT - s;
    int32_t best = 0;
    for (int32_t v = 1; v < VOCAB; v++)
      if (fk_load_f64(fk_type_of(logits), logits->data, last * VOCAB + v) >
          fk_load_f64(fk_type_of(logits), logits->data, last * VOCAB + best))
        best = v;
    tokens[s] = best;
  }
  return logits != NULL;
}

/* A batch of the given tokens at position PROMPT - s + i of each sequence. */
static fk_batch decode_batch(runner *r, const int32_t *tokens, int64_t i) {
  chunk chunks[SEQS];
  for (int s = 0; s < SEQS; s++) chunks[s] = (chunk){s, PROMPT - s + i, PROMPT - s + i + 1, s + 1};
  fk_batch b = make_batch(r, chunks, SEQS);
  memcpy(b.input_ids->data, tokens, SEQS * sizeof *tokens);
  return b;
}

/* Greedy tokens [OUTPUT, SEQS] and last logits by eager steps. */
static fk_tensor *decode_eagerly(runner *r, int32_t tokens[OUTPUT][SEQS]) {
  int32_t next[SEQS];
  fk_tensor *logits = NULL;
  if (!prefill(r, next)) return NULL;
  for (int64_t i = 0; i < OUTPUT; i++) {
    fk_batch b = decode_batch(r, next, i);
    logits = fk_empty(r->ctx, r->model->dtype, SEQS, VOCAB);
    fk_tensor *best = fk_empty(r->ctx, FK_I64, SEQS);
    if (!ok(fk_model_step(r->ctx, r->model, &b, logits), "eager step") ||
        !ok(fk_call(r->ctx, "argmax", logits, best), "argmax") || !ok(fk_move_to_host(r->ctx, &best), "argmax"))
      return NULL;
    for (int s = 0; s < SEQS; s++) tokens[i][s] = next[s] = (int32_t)((const int64_t *)best->data)[s];
  }
  return ok(fk_move_to_host(r->ctx, &logits), "logits") ? logits : NULL;
}

/* Tuning changes which kernels the context's eager steps use too: a tuned graph comes before them. Any other is made
 * between prefill and replay, and must leave the caches as they are. */
static void check_graph(const char *family, const char *config, fk_type dtype, bool tune) {
  runner r;
  fk_decode_graph *graph = NULL;
  int32_t eager[OUTPUT][SEQS], replayed[OUTPUT][SEQS], next[SEQS];
  if (!make_runner(config, dtype, &r)) exit(1);
  fk_decode_options options = {
      .batch_size = SEQS, .max_blocks_per_seq = WIDTH, .greedy = true, .history = OUTPUT, .tune = tune};
  bool made = !tune || ok(fk_decode_graph_create(r.ctx, r.model, r.caches.tensors, &options, &graph), "tuned graph");
  fk_tensor *expected = made ? decode_eagerly(&r, eager) : NULL;
  made = expected && prefill(&r, next);
  if (made && !tune)
    made = ok(fk_decode_graph_create(r.ctx, r.model, r.caches.tensors, &options, &graph), "decode graph");
  if (made) {
    fk_batch b = decode_batch(&r, next, 0);
    bool ran = ok(fk_decode_graph_set(graph, &b), "set");
    for (int i = 0; ran && i < OUTPUT; i++) ran = ok(fk_decode_graph_step(graph), "replay");
    ran = ran && ok(fk_decode_graph_tokens(graph, OUTPUT, replayed[0]), "tokens");
    fk_tensor *logits = fk_decode_graph_logits(graph);
    ran = ran && ok(fk_move_to_host(r.ctx, &logits), "logits");
    if (ran && memcmp(eager, replayed, sizeof eager) != 0) complain("%s: the graph chose other tokens", family);
    if (ran && memcmp(fk_data(expected), fk_data(logits), fk_type_bytes(dtype, SEQS * VOCAB)) != 0)
      complain("%s %s: logits of the replay differ from those of eager steps", family, fk_type_name(dtype));
    printf("%-10s %-9s %d sequences, %d steps as one graph of %d nodes\n", family, fk_type_name(dtype), SEQS, OUTPUT,
           fk_decode_graph_nodes(graph));
    /* Beyond the block table there is nothing: a fault, not a wrong address. */
    for (int i = 0; ran && i < WIDTH * BLOCK; i++) ran = ok(fk_decode_graph_step(graph), "replay");
    if (ran && r.caches.has_state == false && fk_sync(r.ctx) != FK_ERROR_ARGUMENT)
      complain("%s: the end of the block table went unnoticed", family);
  }
  fk_decode_graph_destroy(graph);
  free_runner(&r);
}

static void graphs(const char *family) {
  const char *config = *family == 'l' ? llama_config : mamba2_config;
  check_graph(family, config, FK_F32, false);
  check_graph(family, config, FK_BF16, false);
  check_graph(family, config, FK_BF16, true);
}

/* ---- The whole ------------------------------------------------------------------------------------------- */

typedef struct part {
  const char *name;
  void (*run)(const char *argument);
  const char *argument;
} part;

static const part parts[] = {
    {"golden-llama", golden, "llama"},
    {"golden-mamba2", golden, "mamba2"},
    {"golden-colbertv2", golden, "colbertv2"},
    {"golden-bge_m3", golden, "bge_m3"},
    {"golden-convnextv2", golden, "convnextv2"},
    {"golden-dlrmv2", golden, "dlrmv2"},
    {"transfers", transfers, ""},
    {"random-weights", random_weights, ""},
    {"steps-llama", steps, "llama"},
    {"steps-mamba2", steps, "mamba2"},
    {"refusals", refusals, ""},
    {"graph-llama", graphs, "llama"},
    {"graph-mamba2", graphs, "mamba2"},
};

/* In a child, since a process that has used the driver cannot fork others that do. */
static int run_part(const part *p) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    alarm(CHILD_SECONDS);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (fk_cuda_device_count() == 0) _exit(SKIPPED);
    p->run(p->argument);
    printf("%-18s %s\n", p->name, failures ? "FAILED" : "ok");
    _exit(failures ? 1 : 0);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return 1;
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  printf("%-18s FAILED: ended by signal %d\n", p->name, WTERMSIG(status));
  return 1;
}

int main(int argc, char **argv) {
  int failed = 0, ran = 0;
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    if (argc > 1 && strcmp(argv[1], parts[i].name) != 0) continue;
    int status = run_part(&parts[i]);
    if (status == SKIPPED) {
      puts("skipped: there is no GPU");
      return SKIPPED;
    }
    failed += status != 0;
    ran++;
  }
  printf("%d of %d parts failed\n", failed, ran);
  return failed || !ran ? 1 : 0;
}
