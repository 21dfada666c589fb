/* A large checkpoint reaches the GPU whole, and at the speed of the link: written here, read through the page cache,
 * computed there and on the CPU. Ends with 77 where there is no GPU. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/convert.h"
#include "engine/model.h"
#include "io/safetensors.h"

enum { SKIPPED = 77 };

static const fk_backend device = FK_CUDA;

static void check(fk_status status, const char *what) {
  if (!status) return;
  printf("%s: %s\n", what, fk_last_error());
  exit(1);
}

/* A checkpoint of 400 MB in bfloat16, norms in float32: written here, read through the page cache. */
enum { CK_VOCAB = 32000, CK_HIDDEN = 1024, CK_INNER = 4096, CK_LAYERS = 8, CK_TENSORS = 3 + 9 * CK_LAYERS };
static const char checkpoint_config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 32000, \"hidden_size\": 1024,"
    " \"intermediate_size\": 4096, \"num_hidden_layers\": 8, \"num_attention_heads\": 16,"
    " \"num_key_value_heads\": 16, \"max_position_embeddings\": 256, \"torch_dtype\": \"bfloat16\"}";

static void add_stored(fk_stored *items, int *count, char (*names)[64], const char *name, int64_t rows, int64_t columns,
                       const uint16_t *noise, const float *gains) {
  snprintf(names[*count], sizeof names[*count], "%s", name);
  fk_stored *t = &items[*count];
  *t = (fk_stored){.name = names[*count], .type = columns ? FK_BF16 : FK_F32, .ndim = columns ? 2 : 1, .shape = {rows}};
  t->shape[1] = columns;
  t->data = columns ? (const void *)(noise + *count * 64) : gains;
  ++*count;
}

static fk_status write_checkpoint(const char *folder) {
  static const char *const matrices[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                         "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
  static const int64_t shapes[][2] = {{CK_HIDDEN, CK_HIDDEN}, {CK_HIDDEN, CK_HIDDEN}, {CK_HIDDEN, CK_HIDDEN},
                                      {CK_HIDDEN, CK_HIDDEN}, {CK_INNER, CK_HIDDEN},  {CK_INNER, CK_HIDDEN},
                                      {CK_HIDDEN, CK_INNER}};
  enum { MOST = CK_VOCAB * CK_HIDDEN + 64 * CK_TENSORS };
  fk_stored items[CK_TENSORS];
  char names[CK_TENSORS][64], name[64], path[1100];
  int count = 0;
  uint16_t *noise = malloc(MOST * sizeof *noise);
  float *gains = malloc(CK_HIDDEN * sizeof *gains);
  if (!noise || !gains) check(FK_ERROR_MEMORY, "noise");
  for (int64_t i = 0; i < MOST; i++)
    fk_store_f64(FK_BF16, noise, i, ((double)((uint64_t)i * 0x9e3779b97f4a7c15u >> 40) / (1 << 23) - 1) * 0.05);
  for (int i = 0; i < CK_HIDDEN; i++) gains[i] = 1 + (float)(i % 7) / 16;
  add_stored(items, &count, names, "model.embed_tokens.weight", CK_VOCAB, CK_HIDDEN, noise, gains);
  add_stored(items, &count, names, "lm_head.weight", CK_VOCAB, CK_HIDDEN, noise, gains);
  add_stored(items, &count, names, "model.norm.weight", CK_HIDDEN, 0, noise, gains);
  for (int l = 0; l < CK_LAYERS; l++) {
    for (int k = 0; k < 7; k++) {
      snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, matrices[k]);
      add_stored(items, &count, names, name, shapes[k][0], shapes[k][1], noise, gains);
    }
    for (int k = 0; k < 2; k++) {
      snprintf(name, sizeof name, "model.layers.%d.%s_layernorm.weight", l, k ? "post_attention" : "input");
      add_stored(items, &count, names, name, CK_HIDDEN, 0, noise, gains);
    }
  }
  snprintf(path, sizeof path, "%s/model.safetensors", folder);
  fk_status status = fk_safetensors_write(path, items, (size_t)count, NULL);
  snprintf(path, sizeof path, "%s/config.json", folder);
  FILE *f = status ? NULL : fopen(path, "w");
  if (f) fputs(checkpoint_config, f);
  if (!status && (!f || fclose(f) != 0)) status = fk_fail(FK_ERROR_IO, "%s: cannot write", path);
  free(noise);
  free(gains);
  return status;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static fk_model *open_folder(fk_context *ctx, const char *folder) {
  fk_model *model;
  double start = now();
  check(fk_model_open(ctx, folder, &(fk_model_options){0}, &model), folder);
  double bytes = 2 * (double)model->num_parameters, seconds = now() - start;
  printf("%-5s %.0f MB in %.3f s, %.1f GB/s\n", fk_backend_name(fk_context_backend(ctx)), bytes / 1e6, seconds,
         bytes / seconds / 1e9);
  return model;
}

static fk_tensor *logits_of(fk_context *ctx, const fk_model *model) {
  fk_tensors inputs = {0}, outputs = {0};
  fk_tensor *ids = fk_host(ctx, FK_I64, 1, 9);
  for (int64_t i = 0; i < 9; i++) ((int64_t *)ids->data)[i] = i * 3571 % CK_VOCAB;
  check(fk_tensors_put(&inputs, "input_ids", ids), "input_ids");
  check(fk_model_forward(ctx, model, &inputs, &outputs), "forward");
  return outputs.items[0].tensor;
}

static double difference(const fk_tensor *a, const fk_tensor *b) {
  double wrong = 0, all = 0;
  const float *x = fk_data(a), *y = fk_data(b);
  for (int64_t i = 0; i < fk_numel(a); i++) {
    wrong += pow((double)x[i] - (double)y[i], 2);
    all += pow((double)y[i], 2);
  }
  return sqrt(wrong / all);
}

int main(void) {
  char folder[] = "/tmp/fastkernels-XXXXXX", path[64];
  fk_context *cpu, *gpu;
  if (fk_cuda_device_count() == 0) {
    puts("skipped: there is no GPU");
    return SKIPPED;
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  check(fk_context_create(&(fk_context_options){.backend = FK_CPU}, &cpu), "context");
  check(fk_context_create(&(fk_context_options){.backend = device}, &gpu), "context");
  if (!mkdtemp(folder)) return 1;
  check(write_checkpoint(folder), "writing a checkpoint");
  fk_model *expected = open_folder(cpu, folder);
  fk_model_close(open_folder(gpu, folder)); /* makes pinned memory */
  fk_model *model = open_folder(gpu, folder);
  double error = difference(logits_of(gpu, model), logits_of(cpu, expected));
  printf("relative error against the CPU: %.2e\n", error);
  fk_model_close(model);
  fk_model_close(expected);
  fk_context_destroy(gpu);
  fk_context_destroy(cpu);
  static const char *const files[] = {"model.safetensors", "config.json"};
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, files[i]);
    unlink(path);
  }
  rmdir(folder);
  return error <= 2e-2 ? 0 : 1;
}
