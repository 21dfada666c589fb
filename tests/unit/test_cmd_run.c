/* The program's commands run and op, from outside: files in, files or an error out. */
#include <sys/wait.h>

#include "model_helpers.h"
#include "temp_dir.h"

static temp_dir dir;
static char said[4096]; /* by the last command, on stderr */

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

/* Runs `fastkernels ARGUMENTS` with @ standing for the folder; its exit status. */
static int run(const char *arguments) {
  char command[4096];
  size_t n = (size_t)snprintf(command, sizeof command, "exec " FK_BUILD_DIR "/fastkernels ");
  for (; *arguments && n < sizeof command / 2; arguments++) {
    if (*arguments == '@')
      n += (size_t)snprintf(command + n, sizeof command - n, "%s", dir.path);
    else
      command[n++] = *arguments;
  }
  snprintf(command + n, sizeof command - n, " 2> %s/said > /dev/null", dir.path);
  int status = system(command);
  FILE *f = fopen(temp_path(&dir, "said"), "rb");
  assert_non_null(f);
  said[fread(said, 1, sizeof said - 1, f)] = 0;
  fclose(f);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

static bool exists(const char *name) {
  return access(temp_path(&dir, name), F_OK) == 0;
}

static void succeeds(const char *arguments) {
  int status = run(arguments);
  if (status) fail_msg("%s: exit status %d: %s", arguments, status, said);
}

/* Fails with status 2, one line that holds the text, and no output file. */
static void refuses(const char *arguments, const char *text) {
  int status = run(arguments);
  const char *line = strchr(said, '\n');
  if (status != 2 || !strstr(said, text) || !line || line[1])
    fail_msg("%s: expected status 2 and \"%s\", got %d and \"%s\"", arguments, text, status, said);
  assert_false(exists("out.safetensors"));
}

static fk_safetensors *output(void) {
  fk_safetensors *file;
  assert_ok(fk_safetensors_open(temp_path(&dir, "out.safetensors"), &file));
  return file;
}

/* ---- run ------------------------------------------------------------------------------------------------- */

#define PLAIN LLAMA_FIXTURES "plain"
#define IO " --inputs " PLAIN "/io.safetensors --output @/out.safetensors "

static double golden_error(void) {
  fk_safetensors *got = output(), *wanted;
  assert_ok(fk_safetensors_open(PLAIN "/io.safetensors", &wanted));
  const fk_stored *a = fk_safetensors_find(got, "out.logits"), *b = fk_safetensors_find(wanted, "out.logits");
  assert_int_equal(fk_safetensors_count(got), 1);
  assert_non_null(a);
  assert_int_equal(a->type, FK_F32);
  assert_int_equal(a->ndim, 3);
  assert_memory_equal(a->shape, b->shape, 3 * sizeof *a->shape);
  double error = row_error(a->type, a->data, b->type, b->data, a->shape[0] * a->shape[1], a->shape[2],
                           fk_safetensors_find(wanted, "in.attention_mask"));
  fk_safetensors_close(got);
  fk_safetensors_close(wanted);
  return error;
}

static void test_run(void **state) {
  (void)state;
  succeeds("run " PLAIN IO "--device ref");
  assert_true(golden_error() < 1e-6);
  succeeds("run " PLAIN IO "--threads 1");
  assert_true(golden_error() < 1e-5);
  succeeds("run " PLAIN IO "--device cpu --dtype=bfloat16");
  double error = golden_error();
  assert_true(error > 1e-4 && error < 2e-2);
  succeeds("run " PLAIN IO "--random-weights 3");
  assert_true(golden_error() > 0.5);
}

static void test_run_refuses(void **state) {
  (void)state;
  refuses("run", "missing argument");
  refuses("run " PLAIN, "--inputs is missing");
  refuses("run " PLAIN " --inputs " PLAIN "/io.safetensors", "--output is missing");
  refuses("run " PLAIN IO "--device tpu", "--device: expected ref, cpu, cuda or meta, got \"tpu\"");
  refuses("run " PLAIN IO "--device meta", "meta computes no values");
  refuses("run " PLAIN IO "--dtype int8", "--dtype: expected float32, bfloat16 or float16");
  refuses("run " PLAIN IO "--threads 0", "--threads: expected an integer from 1");
  refuses("run " PLAIN IO "--random-weights x", "--random-weights: expected an integer");
  refuses("run " PLAIN IO "--impl llama_mlp", "--impl: expected TASK=PATH, got \"llama_mlp\"");
  refuses("run " PLAIN IO "--impl lama_mlp=x.so", "no task named \"lama_mlp\" (did you mean llama_mlp?)");
  refuses("run " PLAIN IO "--impl llama_mlp=none.so", "none.so");
  refuses("run llama-3.1-8b" IO, "without weights");
  refuses("run nothing" IO, "nothing: neither a model folder nor a preset");
  refuses("run " PLAIN " --inputs @/none --output @/out.safetensors", "none");
  refuses("run " PLAIN " --inputs " PLAIN "/model.safetensors --output @/out.safetensors", "input_ids: the input is");
  refuses("run " PLAIN " --inputs " PLAIN "/io.safetensors --output @/no/out.safetensors", "no/out.safetensors");
  refuses("run " LLAMA_FIXTURES "base_model --inputs " LLAMA_FIXTURES
          "tied_odd/io.safetensors --output @/out.safetensors",
          "input_ids[0,");
}

/* ---- op -------------------------------------------------------------------------------------------------- */

static void put(const char *name, const fk_stored *items, size_t count) {
  assert_ok(fk_safetensors_write(temp_path(&dir, name), items, count, NULL));
}

#define OP " --inputs @/in.safetensors --output @/out.safetensors "
static float x[6] = {1, 2, 3, -1, 0, 2}, y[6] = {5, 5, 5, 5, 5, 5}, gain[3] = {1, 2, 3};
static const fk_stored x_item = {.name = "x", .type = FK_F32, .ndim = 2, .shape = {2, 3}, .data = x};
static const fk_stored residual_item = {.name = "residual", .type = FK_F32, .ndim = 2, .shape = {2, 3}, .data = y};
static const fk_stored gain_item = {.name = "weight", .type = FK_F32, .ndim = 1, .shape = {3}, .data = gain};

static void test_op(void **state) {
  (void)state;
  put("in.safetensors", (fk_stored[]){x_item, gain_item}, 2);
  static const char *const ways[] = {"--device ref", "", "--dtype bfloat16"};
  static const fk_type types[] = {FK_F64, FK_F32, FK_BF16};
  for (int i = 0; i < 3; i++) {
    char command[512];
    snprintf(command, sizeof command, "op rms_norm" OP "--set epsilon=0.5 %s", ways[i]);
    succeeds(command);
    fk_safetensors *file = output();
    const fk_stored *out = fk_safetensors_find(file, "out");
    assert_int_equal(fk_safetensors_count(file), 1);
    assert_non_null(out);
    assert_int_equal(out->type, types[i]);
    for (int k = 0; k < 6; k++) {
      double mean = k < 3 ? 14.0 / 3 : 5.0 / 3;
      assert_true(fabs(fk_load_f64(out->type, out->data, k) - x[k] / sqrt(mean + 0.5) * gain[k % 3]) < (i == 0 ? 1e-14
                                                                                                        : i == 1
                                                                                                            ? 1e-6
                                                                                                            : 0.03));
    }
    fk_safetensors_close(file);
  }
}

/* In-out tensors are written back under their names. */
static void test_op_inout(void **state) {
  (void)state;
  put("in.safetensors", (fk_stored[]){x_item, residual_item, gain_item}, 3);
  succeeds("op fused_add_rms_norm" OP);
  fk_safetensors *file = output();
  assert_int_equal(fk_safetensors_count(file), 2);
  const fk_stored *sum = fk_safetensors_find(file, "residual"), *norm = fk_safetensors_find(file, "x");
  assert_non_null(sum);
  assert_non_null(norm);
  for (int k = 0; k < 6; k++) assert_true(fk_load_f64(sum->type, sum->data, k) == (double)x[k] + y[k]);
  assert_true(fabs(fk_load_f64(norm->type, norm->data, 0) - 6 / sqrt(149.0 / 3 + 1e-6)) < 1e-5);
  fk_safetensors_close(file);
}

static void test_op_refuses(void **state) {
  (void)state;
  const fk_stored bad = {.name = "wieght", .type = FK_F32, .ndim = 1, .shape = {3}, .data = gain};
  const fk_stored out = {.name = "out", .type = FK_F32, .ndim = 2, .shape = {2, 3}, .data = y};
  put("in.safetensors", (fk_stored[]){x_item, gain_item}, 2);
  refuses("op", "missing argument");
  refuses("op rms_nrm" OP, "no task named \"rms_nrm\" (did you mean rms_norm?)");
  refuses("op rms_norm" OP "--set epsilon=a", "--set epsilon: expected a number, got \"a\"");
  refuses("op rms_norm" OP "--set epsilon=", "--set epsilon: expected a number, got \"\"");
  refuses("op rms_norm" OP "--set epsilon", "--set: expected NAME=VALUE, got \"epsilon\"");
  refuses("op rms_norm" OP "--set eps=1", "--set: rms_norm has no attribute \"eps\"");
  refuses("op rms_norm" OP "--set x=1", "--set: rms_norm has no attribute \"x\"");
  refuses("op rms_norm" OP "--set epsilon=-1", "epsilon: expected a value from 0");
  refuses("op attention" OP, "attention needs --set for scale (a number)");
  refuses("op attention" OP "--set scale=1 --set causal=maybe", "--set causal: expected true or false, got \"maybe\"");
  refuses("op attention" OP "--set scale=1 --set window_left=1.5", "--set window_left: expected an integer");
  refuses("op linear" OP, "linear: weight: expected shape");
  put("in.safetensors", (fk_stored[]){x_item}, 1);
  refuses("op rms_norm" OP, "rms_norm: weight: the tensor is missing");
  put("in.safetensors", (fk_stored[]){x_item, bad}, 2);
  refuses("op rms_norm" OP, "wieght: rms_norm has no input or weight of this name");
  put("in.safetensors", (fk_stored[]){x_item, gain_item, out}, 3);
  refuses("op rms_norm" OP, "out: rms_norm has no input or weight of this name");
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup(f, clear)
  const struct CMUnitTest tests[] = {TEST(test_run), TEST(test_run_refuses), TEST(test_op), TEST(test_op_inout),
                                     TEST(test_op_refuses)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
