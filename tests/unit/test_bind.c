/* Binding: what a call may look like, each way it may be wrong, and what is computed from one that is right. */
#include <math.h>

#include "core_helpers.h"

static const char definition[] =
    "{'name': 'mix', 'level': 1, 'family': 'f', 'summary': 's', 'tolerance': 'exact',"
    " 'mirrors': [{'library': 'l', 'symbol': 's'}],"
    " 'axes': {'rows': 'var', 'n': 'const', 'half': {'expr': 'n / 2'}, 'total': {'expr': 'sum(lens)'}, 'm': 'var'},"
    " 'inputs': {'x': {'shape': ['rows...', 'n'], 'dtype': ['float32', 'bfloat16']},"
    "            'table': {'shape': ['half', 3], 'dtype': 'x', 'strides': 'contiguous'},"
    "            'lens': {'shape': ['m'], 'dtype': ['int32', 'int64'], 'optional': true},"
    "            'state': {'shape': ['2 * n + 1'], 'dtype': 'x', 'inout': true, 'optional': true}},"
    " 'weights': {'bias': {'shape': ['n'], 'dtype': 'x', 'optional': true}},"
    " 'attributes': {'eps': {'type': 'float', 'min': 0}, 'mode': {'type': 'enum', 'enum': ['a', 'b']},"
    "                'k': {'type': 'int'}},"
    " 'outputs': {'out': {'shape': ['rows...', 'n'], 'dtype': 'bias', 'may_alias': ['x'], 'strides': 'any'}},"
    " 'constraints': ['n % 2 == 0', 'k < n'], 'flops': 'rows * n + total'}";

enum { X, TABLE, LENS, STATE, BIAS, EPS, MODE, K, OUT, NUM_ARGS };

static fk_arena arena;
static fk_task *task;

static fk_task *parse_quoted(const char *text) {
  char json[4096];
  size_t n = strlen(text);
  for (size_t i = 0; i <= n; i++) json[i] = text[i] == '\'' ? '"' : text[i];
  fk_task *t;
  assert_ok(fk_task_parse(&arena, json, n, "test", &t));
  return t;
}

/* A call that is right: rows 2 x 3, n 4. Tests then spoil one thing. */
typedef struct call {
  float x[64], table[64], state[16], bias[8], out[64];
  int32_t lens[4];
  test_tensor t[NUM_ARGS];
  fk_any args[NUM_ARGS];
} call;

static call good(void) {
  return (call){.lens = {5, 6}};
}

static void fill(call *c) {
  c->args[X] = fk_any_tensor(TENSOR(&c->t[X], c->x, FK_F32, 2, 3, 4));
  c->args[TABLE] = fk_any_tensor(TENSOR(&c->t[TABLE], c->table, FK_F32, 2, 3));
  c->args[LENS] = fk_any_tensor(TENSOR(&c->t[LENS], c->lens, FK_I32, 2));
  c->args[STATE] = fk_any_tensor(TENSOR(&c->t[STATE], c->state, FK_F32, 9));
  c->args[BIAS] = fk_any_tensor(TENSOR(&c->t[BIAS], c->bias, FK_F32, 4));
  c->args[EPS] = fk_any_float(0.5);
  c->args[MODE] = fk_any_int(1);
  c->args[K] = fk_any_int(3);
  c->args[OUT] = fk_any_tensor(TENSOR(&c->t[OUT], c->out, FK_F32, 2, 3, 4));
}

static fk_status bind_on(call *c, fk_backend backend) {
  fk_binding b;
  return fk_bind(task, backend, c->args, NUM_ARGS, &b);
}

#define CALL(c)    \
  call c = good(); \
  fill(&c)
#define WRONG(c, text) assert_fails(bind_on(&c, FK_CPU), FK_ERROR_ARGUMENT, text)

static int set_up(void **state) {
  (void)state;
  fk_arena_init(&arena, &fk_host_memory, 0);
  task = parse_quoted(definition);
  return 0;
}
static int tear_down(void **state) {
  (void)state;
  fk_arena_destroy(&arena);
  return 0;
}

static void test_good(void **state) {
  (void)state;
  CALL(c);
  fk_binding b;
  assert_ok(fk_bind(task, FK_CPU, c.args, NUM_ARGS, &b));
  assert_int_equal(b.symbols[fk_task_symbol(task, "rows")], 6);
  assert_int_equal(b.symbols[fk_task_symbol(task, "n")], 4);
  assert_int_equal(b.symbols[fk_task_symbol(task, "half")], 2);
  assert_int_equal(b.symbols[fk_task_symbol(task, "mode")], 1);
  assert_true(b.symbols[fk_task_symbol(task, "total")] == FK_UNBOUND);
  assert_int_equal(b.lead_ndim, 2);
  assert_ok(fk_binding_finish(task, c.args, &b));
  assert_int_equal(b.symbols[fk_task_symbol(task, "total")], 11);
  double amount;
  assert_ok(fk_task_flops(task, c.args, &b, &amount));
  assert_true(amount == 24 + 11);
  assert_ok(fk_task_bytes(task, c.args, &b, &amount)); /* the in-out state is read and written */
  assert_true(amount == 4 * (24 + 6 + 2 + 2 * 9 + 4 + 24));
}

static void test_leading_dimensions(void **state) {
  (void)state;
  CALL(c);
  TENSOR(&c.t[X], c.x, FK_F32, 4); /* none at all: one row */
  TENSOR(&c.t[OUT], c.out, FK_F32, 4);
  assert_ok(bind_on(&c, FK_CPU));
  TENSOR(&c.t[X], c.x, FK_F32, 0, 4);
  TENSOR(&c.t[OUT], c.out, FK_F32, 0, 4);
  assert_ok(bind_on(&c, FK_CPU));
  TENSOR(&c.t[X], c.x, FK_F32, 6, 4);
  TENSOR(&c.t[OUT], c.out, FK_F32, 2, 3, 4);
  WRONG(c, "mix: out: expected shape [rows..., n], got [2, 3, 4]: the leading dimensions differ");
}

static void test_counts_and_kinds(void **state) {
  (void)state;
  CALL(c);
  fk_binding b;
  assert_fails(fk_bind(task, FK_CPU, c.args, NUM_ARGS - 1, &b), FK_ERROR_ARGUMENT, "mix: expected 9 arguments, got 8");
  c.args[X] = fk_any_int(3);
  WRONG(c, "mix: x: expected a tensor, got a number");
  c.args[X] = fk_any_none(NULL);
  WRONG(c, "mix: x: the tensor is missing");
}

static void test_attributes(void **state) {
  (void)state;
  CALL(c);
  c.args[EPS] = fk_any_int(1);
  assert_ok(bind_on(&c, FK_CPU));
  c.args[EPS] = fk_any_float(-0.5);
  WRONG(c, "mix: eps: expected a value from 0 to");
  c.args[EPS] = fk_any_float(NAN);
  WRONG(c, "mix: eps: expected a value");
  c.args[EPS] = fk_any_none(NULL);
  WRONG(c, "mix: eps: expected a number, got None");
  fill(&c);
  c.args[MODE] = fk_any_int(2);
  WRONG(c, "mix: mode: expected a value from 0 to 1, got 2");
  c.args[MODE] = fk_any_int(-1);
  WRONG(c, "mix: mode: expected a value from 0 to 1");
  c.args[MODE] = fk_any_float(1);
  WRONG(c, "mix: mode: expected an integer, got a float");
  c.args[MODE] = c.args[X];
  WRONG(c, "mix: mode: expected an integer, got a tensor");
  fill(&c);
  c.args[K] = fk_any_int(INT64_MIN); /* the value that means "unbound" */
  WRONG(c, "mix: k: expected a value");
}

static void test_dtypes(void **state) {
  (void)state;
  CALL(c);
  c.t[X].t.dtype = fk_dtype_from(FK_F16);
  WRONG(c, "mix: x: expected dtype float32 or bfloat16, got float16");
  c.t[X].t.dtype = fk_dtype_from(FK_BF16);
  WRONG(c, "mix: table: expected dtype bfloat16 as x has, got float32");
  fill(&c);
  c.t[X].t.dtype.lanes = 4;
  WRONG(c, "mix: x: expected dtype lanes 1, got 4");
  fill(&c);
  c.t[OUT].t.dtype = fk_dtype_from(FK_BF16);
  WRONG(c, "mix: out: expected dtype float32 as bias has, got bfloat16");
  c.args[BIAS] = fk_any_none(NULL); /* out is as bias, which is as x: that still counts */
  WRONG(c, "mix: out: expected dtype float32 as x has, got bfloat16");
}

static void test_ref_takes_wide_dtypes(void **state) {
  (void)state;
  CALL(c);
  double wide[64];
  int64_t lens[2] = {5, 6};
  static const int tensors[] = {X, TABLE, STATE, BIAS};
  for (int i = 0; i < 4; i++) {
    c.t[tensors[i]].t.dtype = fk_dtype_from(FK_F64);
    c.t[tensors[i]].t.data = wide;
  }
  double state_data[16], out[64];
  c.t[STATE].t.data = state_data;
  TENSOR(&c.t[OUT], out, FK_F64, 2, 3, 4);
  TENSOR(&c.t[LENS], lens, FK_I64, 2);
  assert_ok(bind_on(&c, FK_REF));
  WRONG(c, "mix: x: expected dtype float32 or bfloat16, got float64");
}

static void test_memory(void **state) {
  (void)state;
  CALL(c);
  c.t[X].t.device.type = FK_DL_CUDA;
  WRONG(c, "mix: x: expected a tensor of DLPack device 1, got 2");
  fill(&c);
  c.t[X].t.data = NULL;
  WRONG(c, "mix: x: the tensor has no data");
  assert_ok(bind_on(&c, FK_META));
  fill(&c);
  c.t[X].t.byte_offset = 2;
  WRONG(c, "mix: x: expected data aligned to 4 bytes");
}

static void test_descriptors(void **state) {
  (void)state;
  CALL(c);
  c.t[X].t.ndim = 9;
  WRONG(c, "mix: x: expected 0 to 8 dimensions, got 9");
  c.t[X].t.ndim = -1;
  WRONG(c, "mix: x: expected 0 to 8 dimensions");
  fill(&c);
  c.t[X].t.shape = NULL;
  WRONG(c, "mix: x: expected 0 to 8 dimensions");
  fill(&c);
  c.t[X].shape[0] = c.t[X].shape[1] = -2; /* their product is positive */
  WRONG(c, "mix: x: dimension 0 is -2");
  c.t[X].shape[0] = c.t[X].shape[1] = (int64_t)1 << 32;
  WRONG(c, "too large");
}

static void test_shapes(void **state) {
  (void)state;
  CALL(c);
  TENSOR(&c.t[BIAS], c.bias, FK_F32, 5);
  WRONG(c, "mix: bias: expected shape [n], got [5]: n is 4 elsewhere");
  TENSOR(&c.t[BIAS], c.bias, FK_F32, 1, 4);
  WRONG(c, "mix: bias: expected shape [n], got [1, 4]");
  fill(&c);
  TENSOR(&c.t[TABLE], c.table, FK_F32, 2, 4);
  WRONG(c, "mix: table: expected shape [half, 3], got [2, 4]");
  TENSOR(&c.t[TABLE], c.table, FK_F32, 3, 3);
  WRONG(c, "mix: axis half: expected 2 (n / 2), got 3");
  fill(&c);
  TENSOR(&c.t[STATE], c.state, FK_F32, 8);
  WRONG(c, "mix: state: expected shape [2 * n + 1], got [8]: 2 * n + 1 is 9");
}

static void test_strides(void **state) {
  (void)state;
  CALL(c);
  c.t[X].strides[1] = 8; /* rows of a wider matrix */
  c.t[X].strides[0] = 24;
  assert_ok(bind_on(&c, FK_CPU));
  c.t[X].strides[2] = 2;
  WRONG(c, "mix: x: expected stride 1 along the last dimension, got 2");
  fill(&c);
  c.t[OUT].strides[2] = 2;
  assert_ok(bind_on(&c, FK_CPU));
  c.t[OUT].strides[1] = 0;
  WRONG(c, "mix: out: written, but dimension 1 has stride 0");
  fill(&c);
  c.t[TABLE].strides[0] = 4;
  WRONG(c, "mix: table: expected a contiguous tensor");
  fill(&c);
  c.t[X].t.strides = c.t[TABLE].t.strides = NULL; /* contiguous */
  assert_ok(bind_on(&c, FK_CPU));
}

static void test_optional(void **state) {
  (void)state;
  CALL(c);
  c.args[LENS] = c.args[STATE] = c.args[BIAS] = fk_any_none(NULL);
  assert_ok(bind_on(&c, FK_CPU));
}

static void test_constraints(void **state) {
  (void)state;
  CALL(c);
  c.args[K] = fk_any_int(4);
  WRONG(c, "mix: the constraint k < n does not hold");
}

static void test_aliases(void **state) {
  (void)state;
  CALL(c);
  c.t[OUT].t.data = c.x; /* allowed, and the same elements */
  assert_ok(bind_on(&c, FK_CPU));
  c.t[X].strides[1] = 8;
  c.t[X].strides[0] = 24;
  WRONG(c, "mix: out: must be exactly the memory of x or none of it");
  fill(&c);
  c.t[OUT].t.data = c.x + 4;
  WRONG(c, "mix: out: must be exactly the memory of x or none of it");
  fill(&c);
  c.t[OUT].t.data = c.table;
  WRONG(c, "mix: out: must not be the memory of table");
  fill(&c);
  c.t[STATE].t.data = c.bias; /* an in-out tensor over an input */
  WRONG(c, "mix: state: must not be the memory of bias");
  fill(&c);
  c.t[STATE].t.data = c.out;
  WRONG(c, "mix: out: must not be the memory of state");
}

static void test_infer(void **state) {
  (void)state;
  CALL(c);
  int64_t shape[FK_MAX_DIMS];
  int32_t ndim;
  fk_type type;
  assert_ok(fk_infer(task, FK_CPU, c.args, 0, shape, &ndim, &type));
  assert_int_equal(ndim, 3);
  assert_int_equal(shape[1], 3);
  assert_int_equal(type, FK_F32);
  c.args[BIAS] = fk_any_none(NULL);
  c.t[X].t.dtype = c.t[TABLE].t.dtype = c.t[STATE].t.dtype = fk_dtype_from(FK_BF16);
  assert_ok(fk_infer(task, FK_CPU, c.args, 0, shape, &ndim, &type));
  assert_int_equal(type, FK_BF16);
  c.t[X].shape[2] = 6;
  assert_fails(fk_infer(task, FK_CPU, c.args, 0, shape, &ndim, &type), FK_ERROR_ARGUMENT, "mix:");
}

/* An axis that only a computed dimension holds is solved for. */
static void test_infer_solves(void **state) {
  (void)state;
  fk_task *gated = parse_quoted(
      "{'name': 'gated', 'level': 1, 'family': 'f', 'summary': 's', 'tolerance': 'exact',"
      " 'mirrors': [{'library': 'l', 'symbol': 's'}], 'axes': {'rows': 'var', 'n': 'const'},"
      " 'inputs': {'x': {'shape': ['rows...', '2 * n'], 'dtype': ['float16', 'float32']}},"
      " 'outputs': {'out': {'shape': ['rows...', 'n'], 'dtype': 'x'}, 'index': {'shape': ['rows...'], 'dtype': "
      "'int32'}},"
      " 'flops': '0'}");
  test_tensor box;
  float data[32];
  fk_any args[1] = {fk_any_tensor(TENSOR(&box, data, FK_F32, 3, 10))};
  int64_t shape[FK_MAX_DIMS];
  int32_t ndim;
  fk_type type;
  assert_ok(fk_infer(gated, FK_CPU, args, 0, shape, &ndim, &type));
  assert_int_equal(shape[1], 5);
  assert_ok(fk_infer(gated, FK_CPU, args, 1, shape, &ndim, &type));
  assert_int_equal(ndim, 1);
  assert_int_equal(type, FK_I32);
  assert_ok(fk_infer(gated, FK_REF, args, 1, shape, &ndim, &type));
  assert_int_equal(type, FK_I64);
  TENSOR(&box, data, FK_F32, 3, 9);
  assert_fails(fk_infer(gated, FK_CPU, args, 0, shape, &ndim, &type), FK_ERROR_ARGUMENT, "an axis in it is unknown");
}

static void test_layouts(void **state) {
  (void)state;
  fk_task *t = parse_quoted(
      "{'name': 'lay', 'level': 1, 'family': 'f', 'summary': 's', 'tolerance': 'exact',"
      " 'mirrors': [{'library': 'l', 'symbol': 's'}], 'axes': {'b': 'var', 's': 'var', 'n': 'const'},"
      " 'layouts': {'batched': {'q': ['b', 's', 'n'], 'out': ['b', 's', 'n'], 'lens': null},"
      "             'packed': {'q': ['s', 'n'], 'out': ['s', 'n'], 'lens': ['b']}},"
      " 'inputs': {'q': {'dtype': 'float32'}, 'lens': {'dtype': 'int32', 'optional': true}},"
      " 'outputs': {'out': {'dtype': 'q'}}, 'flops': 'b * s'}");
  test_tensor q, lens, out;
  float data[64], result[64];
  int32_t lengths[4] = {0};
  fk_any args[3] = {fk_any_tensor(TENSOR(&q, data, FK_F32, 2, 3, 4)), fk_any_none(NULL),
                    fk_any_tensor(TENSOR(&out, result, FK_F32, 2, 3, 4))};
  fk_binding b;
  assert_ok(fk_bind(t, FK_CPU, args, 3, &b));
  assert_int_equal(b.layout, 0);
  args[1] = fk_any_tensor(TENSOR(&lens, lengths, FK_I32, 2));
  assert_fails(fk_bind(t, FK_CPU, args, 3, &b), FK_ERROR_ARGUMENT, "fit no layout (batched, packed)");
  TENSOR(&q, data, FK_F32, 3, 4);
  TENSOR(&out, result, FK_F32, 3, 4);
  assert_ok(fk_bind(t, FK_CPU, args, 3, &b));
  assert_int_equal(b.layout, 1);
  out.shape[1] = 5;
  assert_fails(fk_bind(t, FK_CPU, args, 3, &b), FK_ERROR_ARGUMENT, "lay: out: expected shape [s, n], got [3, 5]");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_good),
      cmocka_unit_test(test_leading_dimensions),
      cmocka_unit_test(test_counts_and_kinds),
      cmocka_unit_test(test_attributes),
      cmocka_unit_test(test_dtypes),
      cmocka_unit_test(test_ref_takes_wide_dtypes),
      cmocka_unit_test(test_memory),
      cmocka_unit_test(test_descriptors),
      cmocka_unit_test(test_shapes),
      cmocka_unit_test(test_strides),
      cmocka_unit_test(test_optional),
      cmocka_unit_test(test_constraints),
      cmocka_unit_test(test_aliases),
      cmocka_unit_test(test_infer),
      cmocka_unit_test(test_infer_solves),
      cmocka_unit_test(test_layouts),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
