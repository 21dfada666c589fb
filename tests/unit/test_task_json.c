/* task.json: a definition with every feature, then the same definition broken in one place at a time: the message names
 * the file, the key and the reason. */
#include <jansson.h>

#include "core_helpers.h"

static const char good[] =
    "{'name': 'every', 'level': 2, 'family': 'f', 'summary': 's', 'notes': 'n', 'tolerance': 'matmul',"
    " 'mirrors': [{'library': 'vllm', 'symbol': 'a.b', 'arguments': ['out', 'x']}],"
    " 'axes': {'rows': 'var', 'n': 'const', 'b': 'var', 'half': {'expr': 'n / 2'}, 'p': {'expr': 'pairs(cu, lens)'}},"
    " 'layouts': {'paged': {'table': ['b', 'n']}, 'plain': {'table': null}},"
    " 'inputs': {'x': {'shape': ['rows...', 'n'], 'dtype': ['float32', 'bfloat16'], 'doc': 'the x', 'strides': 'any'},"
    "            'cache': {'shape': ['half', 2, 'n * k - 1'], 'dtype': 'x', 'inout': true, 'strides': 'contiguous'},"
    "            'cu': {'shape': ['b + 1'], 'dtype': 'int32', 'values': {'kind': 'cu_seqlens', 'total': 'rows'}},"
    "            'lens': {'shape': ['b'], 'dtype': 'int32', 'values': {'kind': 'seq_lens', 'max': '64', "
    "'cu_seqlens_q': 'cu'}},"
    "            'table': {'dtype': 'int32', 'optional': true,"
    "                      'values': {'kind': 'index', 'below': 'n', 'unique': true}}},"
    " 'weights': {'w.weight': {'shape': ['n'], 'dtype': 'x', 'values': {'kind': 'uniform', 'low': -2, 'high': 3}}},"
    " 'attributes': {'k': {'type': 'int', 'min': 1, 'max': 9, 'default': 2}, 'eps': {'type': 'float', 'default': 0.5},"
    "                'flag': {'type': 'bool', 'default': true}, 'mode': {'type': 'enum', 'enum': ['u', 'v'], "
    "'default': 'v'}},"
    " 'outputs': {'out': {'shape': ['rows...', 'n'], 'dtype': 'x', 'may_alias': ['x']}},"
    " 'constraints': ['n % 2 == 0', 'n >= k || flag'], 'flops': '2 * rows * n + p', 'bytes': 'rows * itemsize(x)'}";

/* Definitions above are written with ' for ". */
static size_t quoted(const char *text, char *json, size_t size) {
  size_t n = strlen(text);
  assert_true(n < size);
  for (size_t i = 0; i <= n; i++) json[i] = text[i] == '\'' ? '"' : text[i];
  return n;
}

static fk_status parse(fk_arena *arena, const char *text, fk_task **task) {
  char json[8192];
  size_t n = quoted(text, json, sizeof json);
  return fk_task_parse(arena, json, n, "folder/task.json", task);
}

static void test_good(void **state) {
  (void)state;
  fk_arena arena;
  fk_arena_init(&arena, &fk_host_memory, 0);
  fk_task *t;
  assert_ok(parse(&arena, good, &t));
  assert_string_equal(t->name, "every");
  assert_int_equal(t->level, 2);
  assert_int_equal(t->num_args, 11);
  assert_int_equal(t->num_inputs, 5);
  assert_int_equal(t->num_weights, 1);
  assert_int_equal(t->num_attributes, 4);
  assert_int_equal(t->num_outputs, 1);
  assert_int_equal(t->num_layouts, 2);
  assert_int_equal(t->num_constraints, 2);
  assert_int_equal(fk_task_arg(t, "out"), 10);
  assert_int_equal(fk_task_arg(t, "nothing"), -1);
  assert_int_equal(t->symbols[fk_task_symbol(t, "half")].kind, FK_AXIS_EXPR);
  assert_int_equal(t->symbols[fk_task_symbol(t, "mode")].kind, FK_AXIS_ATTRIBUTE);
  assert_int_equal(fk_task_symbol(t, "eps"), -1);
  const fk_arg *x = &t->args[0], *cache = &t->args[1], *table = &t->args[4], *w = &t->args[5], *mode = &t->args[9];
  assert_string_equal(x->doc, "the x");
  assert_int_equal(x->dtypes, fk_type_bit(FK_F32) | fk_type_bit(FK_BF16));
  assert_true(x->shapes[0].ellipsis && x->shapes[1].ellipsis);
  assert_int_equal(x->strides, FK_STRIDES_ANY);
  assert_true(cache->inout && fk_arg_is_written(cache));
  assert_int_equal(cache->same_dtype_as, 0);
  assert_int_equal(cache->shapes[0].dims[1].literal, 2);
  assert_non_null(cache->shapes[0].dims[2].expr);
  assert_true(table->optional && !table->shapes[0].absent && table->shapes[1].absent);
  assert_true(table->values.unique);
  assert_string_equal(w->c_name, "w_weight");
  assert_true(w->values.a == -2 && w->values.b == 3);
  assert_int_equal(t->args[3].values.tensor, 2);
  assert_string_equal(mode->enum_names[1], "v");
  assert_true(mode->default_value == 1 && mode->max == 1);
  assert_int_equal(t->args[10].may_alias[0], 0);
  assert_string_equal(t->mirrors[0].arguments[1], "x");
  fk_arena_destroy(&arena);
}

/* The good definition with one piece replaced, and what the message must say. */
static const struct {
  const char *from, *to, *message;
} broken[] = {
    {"{'name'", "'name'", "folder/task.json:1:"},
    {"'level': 2", "'level': 2, 'level': 2", "duplicate"},
    {"'level': 2", "'level': 5", "level: expected 1, 2, 3 or 4"},
    {"'level': 2", "'level': '2'", "level: expected"},
    {"'name': 'every'", "'name': 'ev-ery'", "name: \"ev-ery\" is no identifier"},
    {"'name': 'every'", "'name': 7", "name: expected a non-empty string, got an integer"},
    {"'family': 'f', ", "", "family: expected a non-empty string, got nothing"},
    {"'summary': 's'", "'summary': ''", "summary: expected a non-empty string"},
    {"'notes'", "'note'", "top level: unknown key \"note\""},
    {"'matmul'", "'loose'", "tolerance: \"loose\" is none of"},
    {"'mirrors': [{", "'mirrors': [], 'x': [{", "unknown key \"x\""},
    {"['out', 'x']}]", "['out', 'y']}]", "mirrors[0].arguments[1]: no argument"},
    {"['out', 'x']}]", "'out'}]", "mirrors.arguments: expected an array, got a string"},
    {"'symbol': 'a.b'", "'symbl': 'a.b'", "mirrors: unknown key \"symbl\""},
    {"'rows': 'var'", "'rows': 'dynamic'", "axes.rows: expected \"var\", \"const\""},
    {"'n': 'const'", "'n 1': 'const'", "axis \"n 1\": expected an identifier"},
    {"{'expr': 'n / 2'}", "{'expr': 'm / 2'}", "half: expression \"m / 2\", column 1"},
    {"{'expr': 'n / 2'}", "{'expr': 'n / 2', 'kind': 1}", "axes.half: expected"},
    {"'paged': {'table': ['b', 'n']}", "'paged': {'table': ['b', 'n'], 'tabel': ['b']}",
     "layouts.paged.tabel: no tensor"},
    {"'paged': {'table': ['b', 'n']}", "'paged': 3", "layouts.paged: expected an object, got an integer"},
    {"'paged': {'table': ['b', 'n']}", "'paged': {}", "table: no shape in layout paged"},
    {"'plain': {'table': null}", "'plain': {'table': null, 'cu': null}", "cu: absent in a layout, but not optional"},
    {"['rows...', 'n'], 'dtype': ['float32'", "['n', 'rows...'], 'dtype': ['float32'",
     "must be an axis and come first"},
    {"['rows...', 'n'], 'dtype': 'x'", "['b...', 'n'], 'dtype': 'x'", "may have one \"...\" axis"},
    {"['half', 2,", "['half', -2,", "cache.shape[1]: a dimension cannot be negative"},
    {"['half', 2,", "['half', 2.5,", "cache.shape[1]: expected a string or an integer"},
    {"['half', 2,", "['p', 2,", "cache.shape[0]: axis p depends on data"},
    {"['half', 2,", "['sum(lens)', 2,", "cache.shape[0]: a shape cannot depend on tensors"},
    {"['half', 2,", "['n * present(table)', 2,", "cache.shape[0]: a shape cannot depend on tensors"},
    {"['half', 2,", "['half', 1, 1, 1, 1, 1, 1, 2,", "more than 8 dimensions"},
    {"'shape': ['b'],", "'shape': 'b',", "lens.shape: expected an array, got a string"},
    {"'n * k - 1'", "'n * k -'", "cache: expression \"n * k -\", column 8"},
    {"['float32', 'bfloat16']", "['float33']", "x.dtype[0]: expected a dtype"},
    {"['float32', 'bfloat16']", "[]", "x.dtype: expected a dtype, a list"},
    {"['float32', 'bfloat16']", "'cu'", "x.dtype: \"cu\" is neither a dtype nor an earlier tensor"},
    {"['float32', 'bfloat16']", "'x'", "x.dtype: \"x\" is neither"},
    {"'inout': true", "'inout': 1", "cache.inout: expected true or false, got an integer"},
    {"'optional': true", "'optional': 'yes'", "table.optional: expected true or false"},
    {"'w.weight': {", "'w.weight': {'inout': true, ", "w.weight.inout: only an input"},
    {"'contiguous'", "'dense'", "cache.strides: expected \"rows\""},
    {"'contiguous'", "2", "cache.strides: expected \"rows\""},
    {"'kind': 'cu_seqlens'", "'kind': 'offsets'", "cu.values.kind: unknown kind \"offsets\""},
    {"'total': 'rows'", "'below': 'rows'", "cu.values.total: expected an expression"},
    {"'cu_seqlens_q': 'cu'", "'cu_seqlens_q': 'cv'", "lens.values.cu_seqlens_q: expected the name"},
    {"'unique': true", "'unique': 1", "table.values.unique: expected true or false"},
    {"'low': -2", "'low': 'x'", "w.weight.values.low: expected a number"},
    {"'low': -2", "'lo': -2", "w.weight: unknown key \"lo\""},
    {"'w.weight'", "'w weight'", "weights.w weight: expected an identifier"},
    {"'w.weight'", "'x'", "x: two arguments have this name"},
    {"'w.weight': {", "'w_weight': {'shape': ['n'], 'dtype': 'x'}, 'w.weight': {",
     "is w_weight in C, and so is w_weight"},
    {"'type': 'int'", "'type': 'integer'", "attributes.k.type: expected \"int\""},
    {"'min': 1", "'min': '1'", "k.min: expected a number, got a string"},
    {"'min': 1", "'min': 10", "attributes.k.min: 10 is above max"},
    {"'default': 2", "'default': 12", "attributes.k.default: 12 is outside"},
    {"'default': 2", "'default': 2.5", "attributes.k.default: expected a value of the attribute's type"},
    {"'default': 'v'", "'default': 'w'", "attributes.mode.default: not one of enum"},
    {"'enum': ['u', 'v'], ", "", "attributes.mode.enum: expected at least one"},
    {"'enum': ['u', 'v']", "'enum': [1]", "attributes.mode.enum: expected strings"},
    {"'default': true", "'default': true, 'enum': ['a']", "attributes.flag.enum: only"},
    {"'eps': {", "'rows': {'type': 'int'}, 'eps': {", "rows: an axis or attribute of this name already exists"},
    {"'eps': {", "'eps': 1, 'e': {", "attributes.eps: expected an object"},
    {"'doc': 'the x'", "'doc': ''", "x.doc: expected a non-empty string"},
    {"'may_alias': ['x']", "'may_alias': ['eps']", "out.may_alias[0]: expected the name of a tensor"},
    {"'may_alias': ['x']", "'may_alias': ['out']", "out.may_alias[0]: expected"},
    {"'may_alias': ['x']", "'may_alias': 'x'", "out.may_alias: expected an array"},
    {"'inout': true", "'may_alias': ['x']", "cache.may_alias: only an output"},
    {"'constraints': [", "'constraints': ['sum(lens) > 0', ", "constraints[0]: a constraint cannot depend on data"},
    {"'constraints': [", "'constraints': [3, ", "constraints[0]: expected an expression"},
    {"'constraints': ['n % 2 == 0', 'n >= k || flag']", "'constraints': 'n'", "constraints: expected an array"},
    {"'flops': '2 * rows * n + p'", "'flops': 2", "flops: expected a non-empty string"},
    {"'bytes': 'rows * itemsize(x)'", "'bytes': 2", "bytes: expected a non-empty string"},
    {"'bytes': 'rows * itemsize(x)'", "'bytes': 'itemsize(q)'", "bytes: expression"},
};

static void test_each_rule_broken(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
    char text[8192];
    const char *place = strstr(good, broken[i].from);
    if (!place) fail_msg("row %zu: \"%s\" is not in the definition", i, broken[i].from);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(place - good), good, broken[i].to, place + strlen(broken[i].from));
    fk_arena arena;
    fk_arena_init(&arena, &fk_host_memory, 0);
    fk_task *task = (fk_task *)1;
    fk_status status = parse(&arena, text, &task);
    if (status != FK_ERROR_FORMAT || task || !strstr(fk_last_error(), broken[i].message) ||
        !strstr(fk_last_error(), "folder/task.json"))
      fail_msg("row %zu (%s): expected \"%s\", got \"%s\"", i, broken[i].to, broken[i].message,
               status ? fk_last_error() : "success");
    fk_arena_destroy(&arena);
  }
}

static void test_no_object(void **state) {
  (void)state;
  fk_arena arena;
  fk_arena_init(&arena, &fk_host_memory, 0);
  fk_task *task;
  assert_fails(parse(&arena, "[]", &task), FK_ERROR_FORMAT, "expected an object, got an array");
  assert_fails(parse(&arena, "", &task), FK_ERROR_FORMAT, "folder/task.json");
  assert_fails(parse(&arena, "{", &task), FK_ERROR_FORMAT, "folder/task.json");
  fk_arena_destroy(&arena);
}

static void test_nothing_written(void **state) {
  (void)state;
  fk_arena arena;
  fk_arena_init(&arena, &fk_host_memory, 0);
  fk_task *task;
  assert_fails(parse(&arena,
                     "{'name': 'a', 'level': 1, 'family': 'f', 'summary': 's', 'tolerance': 'exact', 'axes': {},"
                     " 'mirrors': [{'library': 'l', 'symbol': 's'}], 'inputs': {'x': {'shape': [], 'dtype': 'bool'}},"
                     " 'flops': '0'}",
                     &task),
               FK_ERROR_FORMAT, "outputs: a task must write something");
  fk_arena_destroy(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_good),
      cmocka_unit_test(test_each_rule_broken),
      cmocka_unit_test(test_no_object),
      cmocka_unit_test(test_nothing_written),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
