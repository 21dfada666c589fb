#include "core/expr.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Postfix code for a small stack machine: compact, and evaluated in one pass on every checked call. */
typedef enum opcode {
  OP_NUMBER,
  OP_SYMBOL,
  OP_PRESENT,
  OP_ITEMSIZE,
  OP_SUM,
  OP_LARGEST,
  OP_PAIRS,
  OP_CROSS,
  OP_NEG,
  OP_NOT,
  OP_ADD,
  OP_SUB,
  OP_MUL,
  OP_DIV,
  OP_MOD,
  OP_MIN,
  OP_MAX,
  OP_CEIL_DIV,
  OP_EQ,
  OP_NE,
  OP_LT,
  OP_LE,
  OP_GT,
  OP_GE,
  OP_AND,
  OP_OR
} opcode;

typedef struct instruction {
  opcode op;
  int arg, arg2; /* symbol index, or tensor argument indices */
  int64_t number;
} instruction;

enum { MAX_CODE = 128, MAX_STACK = 32, MAX_NESTING = 24 };

struct fk_expr {
  const char *text;
  int length;
  bool reads_data, uses_tensors;
  instruction code[];
};

/* ---- Parsing --------------------------------------------------------------------------------------------- */

typedef struct parser {
  const char *text, *at;
  const fk_expr_scope *scope;
  int length, depth, nesting;
  bool reads_data, uses_tensors;
  instruction code[MAX_CODE];
} parser;

static fk_status parse_or(parser *p);

static fk_status syntax(const parser *p, const char *what) {
  return fk_fail(FK_ERROR_FORMAT, "expression \"%s\", column %d: %s", p->text, (int)(p->at - p->text) + 1, what);
}

/* Appends an instruction that changes the stack by `effect`; the depth is bounded here, never at run time. */
static fk_status emit(parser *p, instruction in, int effect) {
  p->depth += effect;
  if (p->length == MAX_CODE || p->depth > MAX_STACK) return syntax(p, "the expression is too long");
  p->code[p->length++] = in;
  return FK_OK;
}

static void skip_space(parser *p) {
  while (isspace((unsigned char)*p->at)) p->at++;
}

static bool accept(parser *p, const char *token) {
  skip_space(p);
  size_t n = strlen(token);
  if (strncmp(p->at, token, n) != 0) return false;
  p->at += n;
  return true;
}

static fk_status expect(parser *p, const char *token, const char *what) {
  return accept(p, token) ? FK_OK : syntax(p, what);
}

/* Names may hold dots, as state-dict names of weights do. */
static bool read_name(parser *p, char *name, size_t size) {
  skip_space(p);
  size_t n = 0;
  if (!isalpha((unsigned char)*p->at) && *p->at != '_') return false;
  while (isalnum((unsigned char)p->at[n]) || p->at[n] == '_' || p->at[n] == '.') n++;
  if (n >= size) return false;
  memcpy(name, p->at, n);
  name[n] = 0;
  p->at += n;
  return true;
}

static fk_status read_tensor(parser *p, int *index) {
  char name[128];
  if (!read_name(p, name, sizeof name)) return syntax(p, "expected the name of a tensor argument");
  *index = p->scope->tensor ? p->scope->tensor(p->scope->self, name) : -1;
  if (*index < 0) return syntax(p, "no tensor argument has this name");
  return FK_OK;
}

static fk_status parse_tensor_function(parser *p, opcode op) {
  instruction in = {.op = op};
  FK_TRY(read_tensor(p, &in.arg));
  if (op == OP_PAIRS || op == OP_CROSS) {
    FK_TRY(expect(p, ",", "expected ','"));
    FK_TRY(read_tensor(p, &in.arg2));
  }
  p->uses_tensors = true;
  if (op != OP_PRESENT && op != OP_ITEMSIZE) p->reads_data = true;
  FK_TRY(expect(p, ")", "expected ')'"));
  return emit(p, in, +1);
}

static fk_status parse_value_function(parser *p, opcode op) {
  FK_TRY(parse_or(p));
  FK_TRY(expect(p, ",", "expected ','"));
  FK_TRY(parse_or(p));
  FK_TRY(expect(p, ")", "expected ')'"));
  return emit(p, (instruction){.op = op}, -1);
}

static fk_status parse_name(parser *p) {
  static const struct {
    const char *name;
    opcode op;
  } functions[] = {{"present", OP_PRESENT}, {"itemsize", OP_ITEMSIZE}, {"sum", OP_SUM},
                   {"largest", OP_LARGEST}, {"pairs", OP_PAIRS},       {"cross", OP_CROSS},
                   {"min", OP_MIN},         {"max", OP_MAX},           {"ceil_div", OP_CEIL_DIV}};
  char name[128];
  const char *start = p->at;
  if (!read_name(p, name, sizeof name)) return syntax(p, "expected a number, a name or '('");
  if (accept(p, "(")) {
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
      if (strcmp(name, functions[i].name) != 0) continue;
      opcode op = functions[i].op;
      return op <= OP_CROSS ? parse_tensor_function(p, op) : parse_value_function(p, op);
    }
    p->at = start;
    return syntax(p, "no such function (min, max, ceil_div, present, itemsize, sum, largest, pairs, cross)");
  }
  int symbol = p->scope->symbol(p->scope->self, name);
  if (symbol < 0) {
    p->at = start;
    return syntax(p, "no axis or integer attribute has this name");
  }
  return emit(p, (instruction){.op = OP_SYMBOL, .arg = symbol}, +1);
}

static fk_status parse_number(parser *p) {
  int64_t value = 0;
  for (; isdigit((unsigned char)*p->at); p->at++) {
    if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *p->at - '0', &value))
      return syntax(p, "the number is too large");
  }
  return emit(p, (instruction){.op = OP_NUMBER, .number = value}, +1);
}

static fk_status parse_unary(parser *p) {
  if (++p->nesting > MAX_NESTING) return syntax(p, "too deeply nested");
  fk_status status;
  skip_space(p);
  if (accept(p, "-")) {
    status = parse_unary(p);
    if (!status) status = emit(p, (instruction){.op = OP_NEG}, 0);
  } else if (*p->at == '!' && p->at[1] != '=') {
    p->at++;
    status = parse_unary(p);
    if (!status) status = emit(p, (instruction){.op = OP_NOT}, 0);
  } else if (accept(p, "(")) {
    status = parse_or(p);
    if (!status) status = expect(p, ")", "expected ')'");
  } else if (isdigit((unsigned char)*p->at)) {
    status = parse_number(p);
  } else {
    status = parse_name(p);
  }
  p->nesting--;
  return status;
}

/* One table for all binary operators, by precedence level; longer tokens come before their prefixes. */
static const struct {
  int level;
  const char *token;
  opcode op;
} operators[] = {{0, "||", OP_OR}, {1, "&&", OP_AND}, {2, "==", OP_EQ}, {2, "!=", OP_NE}, {2, "<=", OP_LE},
                 {2, ">=", OP_GE}, {2, "<", OP_LT},   {2, ">", OP_GT},  {3, "+", OP_ADD}, {3, "-", OP_SUB},
                 {4, "*", OP_MUL}, {4, "/", OP_DIV},  {4, "%", OP_MOD}};

static fk_status parse_level(parser *p, int level) {
  if (level == 5) return parse_unary(p);
  FK_TRY(parse_level(p, level + 1));
  for (size_t i = 0; i < sizeof operators / sizeof *operators;) {
    if (operators[i].level == level && accept(p, operators[i].token)) {
      FK_TRY(parse_level(p, level + 1));
      FK_TRY(emit(p, (instruction){.op = operators[i].op}, -1));
      if (level == 2) return FK_OK; /* comparisons do not chain: "a < b < c" would not mean what it says */
      i = 0;
    } else {
      i++;
    }
  }
  return FK_OK;
}

static fk_status parse_or(parser *p) {
  if (++p->nesting > MAX_NESTING) return syntax(p, "too deeply nested");
  fk_status status = parse_level(p, 0);
  p->nesting--;
  return status;
}

fk_status fk_expr_parse(fk_arena *arena, const char *text, const fk_expr_scope *scope, const fk_expr **expr) {
  parser p = {.text = text, .at = text, .scope = scope};
  *expr = NULL;
  FK_TRY(parse_or(&p));
  skip_space(&p);
  if (*p.at) return syntax(&p, "unexpected text");
  size_t code_bytes = (size_t)p.length * sizeof(instruction);
  fk_expr *e = fk_arena_alloc(arena, sizeof *e + code_bytes, 16);
  char *copy = fk_arena_strdup(arena, text);
  if (!e || !copy) return FK_ERROR_MEMORY;
  *e = (fk_expr){.text = copy, .length = p.length, .reads_data = p.reads_data, .uses_tensors = p.uses_tensors};
  memcpy(e->code, p.code, code_bytes);
  *expr = e;
  return FK_OK;
}

/* ---- Evaluation ------------------------------------------------------------------------------------------ */

static fk_status failure(const fk_expr *e, const char *what) {
  return fk_fail(FK_ERROR_ARGUMENT, "expression \"%s\": %s", e->text, what);
}

/* A readable one-dimensional int32 or int64 tensor of host memory. */
static const fk_tensor *readable(const fk_any *args, int index) {
  const fk_tensor *t = fk_arg_tensor(&args[index]);
  if (!t || !t->data || t->device.type != FK_DL_CPU || t->ndim != 1) return NULL;
  fk_type type = fk_type_of(t);
  return type == FK_I32 || type == FK_I64 ? t : NULL;
}

static int64_t element(const fk_tensor *t, int64_t i) {
  i *= fk_stride(t, 0);
  const void *data = fk_data(t);
  return fk_type_of(t) == FK_I32 ? ((const int32_t *)data)[i] : ((const int64_t *)data)[i];
}

static fk_status eval_reduction(const fk_expr *e, const instruction *in, const fk_any *args, int64_t *value) {
  const fk_tensor *t = readable(args, in->arg);
  if (!t) return failure(e, "the integer tensor it reads has no data on the host");
  int64_t n = t->shape[0], total = 0, largest = 0;
  for (int64_t i = 0; i < n; i++) {
    int64_t x = element(t, i);
    if (__builtin_add_overflow(total, x, &total)) return failure(e, "overflow");
    if (x > largest) largest = x;
  }
  *value = in->op == OP_SUM ? total : largest;
  return FK_OK;
}

/* Sequence b's entry of a tensor of lengths, or its difference of a tensor of n + 1 offsets. False when it is negative
 * or no length that a machine could hold, which also keeps the arithmetic on it from overflowing. */
static bool length_of(const fk_tensor *t, int64_t n, int64_t b, int64_t *length) {
  int64_t end = t->shape[0] == n ? element(t, b) : element(t, b + 1), start = t->shape[0] == n ? 0 : element(t, b);
  return !__builtin_sub_overflow(end, start, length) && *length >= 0 && *length < INT64_MAX / 4;
}

/* Causal attention right-aligned: with q queries and k keys, query i sees k - q + i + 1 keys (none if negative).
 * Without the causal mask (cross) every query sees every key. */
static fk_status eval_pairs(const fk_expr *e, const instruction *in, const fk_any *args, int64_t *value) {
  const fk_tensor *cu = readable(args, in->arg), *keys = readable(args, in->arg2);
  if (!cu || !keys) return failure(e, "the integer tensors it reads have no data on the host");
  int64_t n = cu->shape[0] - 1, total = 0;
  if (n < 0 || (keys->shape[0] != n && keys->shape[0] != n + 1))
    return failure(e, "it needs n + 1 offsets of queries and n lengths or n + 1 offsets of keys");
  for (int64_t b = 0; b < n; b++) {
    int64_t k, q, pairs;
    if (!length_of(keys, n, b, &k) || !length_of(cu, n, b, &q)) return failure(e, "a sequence has a negative length");
    if (in->op == OP_PAIRS && q > k) q = k;
    int64_t twice = in->op == OP_PAIRS ? 2 * k - q + 1 : 2 * k;
    if (__builtin_mul_overflow(q, twice, &pairs) || __builtin_add_overflow(total, pairs / 2, &total))
      return failure(e, "overflow");
  }
  *value = total;
  return FK_OK;
}

static bool is_none(const fk_any *args, int index) {
  return args[index].type_index == FK_ANY_NONE;
}

static fk_status eval_leaf(const fk_expr *e, const instruction *in, const int64_t *symbols, const fk_any *args,
                           int64_t *value) {
  switch (in->op) {
    case OP_NUMBER:
      *value = in->number;
      return FK_OK;
    case OP_SYMBOL:
      *value = symbols[in->arg];
      return *value == FK_UNBOUND ? failure(e, "an axis in it has no value") : FK_OK;
    case OP_PRESENT:
      *value = fk_arg_tensor(&args[in->arg]) != NULL;
      return FK_OK;
    case OP_ITEMSIZE: {
      const fk_tensor *t = fk_arg_tensor(&args[in->arg]);
      *value = t ? (t->dtype.bits + 7) / 8 : 0;
      return FK_OK;
    }
    case OP_PAIRS:
    case OP_CROSS:
      *value = 0;
      if (is_none(args, in->arg) || is_none(args, in->arg2)) return FK_OK;
      return eval_pairs(e, in, args, value);
    default:
      *value = 0;
      if (is_none(args, in->arg)) return FK_OK;
      return eval_reduction(e, in, args, value);
  }
}

static int64_t floor_div(int64_t a, int64_t b) {
  return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

/* The value of a binary operator; false on overflow or division by zero. */
static bool apply(opcode op, int64_t a, int64_t b, int64_t *r) {
  switch (op) {
    case OP_ADD:
      return !__builtin_add_overflow(a, b, r);
    case OP_SUB:
      return !__builtin_sub_overflow(a, b, r);
    case OP_MUL:
      return !__builtin_mul_overflow(a, b, r);
    case OP_DIV:
    case OP_MOD:
    case OP_CEIL_DIV:
      if (b == 0 || (a == INT64_MIN && b == -1)) return false;
      if (op == OP_DIV) *r = floor_div(a, b);
      if (op == OP_MOD) *r = a - floor_div(a, b) * b;
      if (op == OP_CEIL_DIV) *r = floor_div(a, b) + (a % b != 0);
      return true;
    case OP_MIN:
      *r = a < b ? a : b;
      return true;
    case OP_MAX:
      *r = a > b ? a : b;
      return true;
    case OP_EQ:
      *r = a == b;
      return true;
    case OP_NE:
      *r = a != b;
      return true;
    case OP_LT:
      *r = a < b;
      return true;
    case OP_LE:
      *r = a <= b;
      return true;
    case OP_GT:
      *r = a > b;
      return true;
    case OP_GE:
      *r = a >= b;
      return true;
    case OP_AND:
      *r = a && b;
      return true;
    default:
      *r = a || b;
      return true;
  }
}

fk_status fk_expr_eval(const fk_expr *e, const int64_t *symbols, const fk_any *args, int64_t *value) {
  int64_t stack[MAX_STACK];
  int top = 0;
  if (e->uses_tensors && !args) return failure(e, "it asks about tensors, and there are none here");
  for (const instruction *in = e->code; in < e->code + e->length; in++) {
    if (in->op <= OP_CROSS) {
      FK_TRY(eval_leaf(e, in, symbols, args, &stack[top++]));
    } else if (in->op == OP_NOT) {
      stack[top - 1] = !stack[top - 1];
    } else if (in->op == OP_NEG) {
      if (__builtin_sub_overflow(0, stack[top - 1], &stack[top - 1])) return failure(e, "overflow");
    } else {
      top--;
      if (!apply(in->op, stack[top - 1], stack[top], &stack[top - 1]))
        return failure(e, "overflow or division by zero");
    }
  }
  *value = stack[0];
  return FK_OK;
}

bool fk_expr_reads_data(const fk_expr *expr) {
  return expr->reads_data;
}

bool fk_expr_uses_tensors(const fk_expr *expr) {
  return expr->uses_tensors;
}

const char *fk_expr_text(const fk_expr *expr) {
  return expr->text;
}

bool fk_expr_is_bound(const fk_expr *e, const int64_t *symbols) {
  for (int i = 0; i < e->length; i++)
    if (e->code[i].op == OP_SYMBOL && symbols[e->code[i].arg] == FK_UNBOUND) return false;
  return true;
}

int fk_expr_only_unbound(const fk_expr *e, const int64_t *symbols) {
  int found = -1;
  for (int i = 0; i < e->length; i++) {
    const instruction *in = &e->code[i];
    if (in->op != OP_SYMBOL || symbols[in->arg] != FK_UNBOUND || in->arg == found) continue;
    if (found >= 0) return -1;
    found = in->arg;
  }
  return found;
}

int fk_expr_as_symbol(const fk_expr *e) {
  return e->length == 1 && e->code[0].op == OP_SYMBOL ? e->code[0].arg : -1;
}
