#include "judge/stubs.h"

#include <ctype.h>
#include <string.h>

#include "core/expr.h"
#include "judge/case.h"

typedef struct stub {
  const fk_task *task;
  bool cuda;
  FILE *out;
  int64_t bound[FK_MAX_SYMBOLS]; /* FK_UNBOUND: the stub has no variable of this axis yet */
} stub;

/* ---- The comment ----------------------------------------------------------------------------------------- */

/* Text of any length as comment lines; it cannot end the comment. */
static void wrapped(FILE *out, const char *indent, const char *text) {
  size_t column = 0;
  while (*text) {
    size_t word = strcspn(text, " \n");
    if (column == 0 || column + word + 1 > 116 - strlen(indent)) {
      fprintf(out, "%s *%s", column ? "\n" : "", indent);
      column = 1;
    }
    fputc(' ', out);
    for (size_t i = 0; i < word; i++) {
      bool ends = text[i] == '*' && text[i + 1] == '/', starts = text[i] == '/' && text[i + 1] == '*';
      fputc(text[i], out);
      if (ends || starts) fputc(' ', out);
    }
    column += word + 1;
    text += word;
    text += strspn(text, " \n");
  }
  if (column) fputc('\n', out);
}

static void print_shape(const fk_task *task, const fk_shape *s, char *text, size_t size) {
  size_t used = (size_t)snprintf(text, size, s->absent ? "absent" : "[");
  for (int i = 0; i < s->ndim && used < size; i++) {
    const fk_dim *d = &s->dims[i];
    const char *comma = i ? ", " : "";
    if (d->symbol >= 0)
      used += (size_t)snprintf(text + used, size - used, "%s%s%s", comma, task->symbols[d->symbol].name,
                               i == 0 && s->ellipsis ? "..." : "");
    else if (d->expr)
      used += (size_t)snprintf(text + used, size - used, "%s%s", comma, fk_expr_text(d->expr));
    else
      used += (size_t)snprintf(text + used, size - used, "%s%lld", comma, (long long)d->literal);
  }
  if (!s->absent && used < size) snprintf(text + used, size - used, "]");
}

static void describe_tensor(const stub *s, int i, char *text, size_t size) {
  static const char *const roles[] = {"input", "weight", "attribute", "output"};
  static const char *const strides[] = {"last dimension of stride 1", "contiguous", "any strides"};
  const fk_arg *arg = &s->task->args[i];
  char shape[256], types[200] = "";
  fk_type list[16];
  int n = fk_task_dtypes(s->task, i, list);
  for (int k = 0; k < n; k++) {
    size_t used = strlen(types);
    snprintf(types + used, sizeof types - used, "%s%s", k ? " or " : "", fk_type_name(list[k]));
  }
  if (n == 0) snprintf(types, sizeof types, "dtype of %s", s->task->args[arg->same_dtype_as].name);
  size_t used =
      (size_t)snprintf(text, size, "args[%d] %s: %s%s%s, %s, %s", i, arg->name, arg->optional ? "optional " : "",
                       arg->inout ? "in-out " : "", roles[arg->role], types, strides[arg->strides]);
  for (int l = 0; l < (s->task->num_layouts ? s->task->num_layouts : 1) && used < size; l++) {
    print_shape(s->task, &arg->shapes[l], shape, sizeof shape);
    used += (size_t)snprintf(text + used, size - used, "%s%s%s %s", l ? "; " : ", ",
                             s->task->num_layouts ? s->task->layouts[l] : "", s->task->num_layouts ? ":" : "", shape);
  }
  if (used < size) snprintf(text + used, size - used, ". %s", arg->doc);
}

static void describe_attribute(const stub *s, int i, char *text, size_t size) {
  static const char *const types[] = {"int", "float", "bool", "one of"};
  const fk_arg *arg = &s->task->args[i];
  size_t used = (size_t)snprintf(text, size, "args[%d] %s: attribute, %s", i, arg->name, types[arg->type]);
  for (int e = 0; arg->type == FK_ATTR_ENUM && arg->enum_names[e] && used < size; e++)
    used += (size_t)snprintf(text + used, size - used, "%s %d = %s", e ? "," : "", e, arg->enum_names[e]);
  if (arg->has_default && used < size)
    used += (size_t)snprintf(text + used, size - used, ", default %g", arg->default_value);
  if (used < size) snprintf(text + used, size - used, ". %s", arg->doc);
}

static void write_comment(const stub *s, const char *file, const char *include) {
  const fk_task *task = s->task;
  char text[2048];
  snprintf(text, sizeof text, "%s (level %d, %s): %s", task->name, task->level, task->family, task->summary);
  fputs("/*\n", s->out);
  wrapped(s->out, "", text);
  json_t *root = json_loads(task->json, 0, NULL);
  const char *notes = json_string_value(json_object_get(root, "notes"));
  if (notes) wrapped(s->out, "", notes);
  json_decref(root);
  fputs(" *\n", s->out);
  for (int i = 0; i < task->num_args; i++) {
    if (fk_arg_is_tensor(&task->args[i]))
      describe_tensor(s, i, text, sizeof text);
    else
      describe_attribute(s, i, text, sizeof text);
    wrapped(s->out, "  ", text);
  }
  fputs(" *\n", s->out);
  for (int i = 0; i < task->num_constraints; i++) {
    snprintf(text, sizeof text, "It always holds that %s.", fk_expr_text(task->constraints[i]));
    wrapped(s->out, "", text);
  }
  for (int i = 0; i < task->num_mirrors; i++) {
    snprintf(text, sizeof text, "The same as %s of %s.", task->mirrors[i].symbol, task->mirrors[i].library);
    wrapped(s->out, "", text);
  }
  snprintf(text, sizeof text, "FLOPs: %s. Tolerance class: %s.", fk_expr_text(task->flops), task->tolerance);
  wrapped(s->out, "", text);
  fputs(" *\n", s->out);
  const char *flag = include ? "-I " : "", *folder = include ? include : "";
  if (s->cuda)
    fprintf(s->out, " * Build: nvcc -O3 -arch=native -shared -Xcompiler -fPIC %s%s %s -o %s.so\n", flag, folder, file,
            task->name);
  else
    fprintf(s->out, " * Build: cc -O3 -march=native -fopenmp -shared -fPIC %s%s %s -o %s.so -lm\n", flag, folder, file,
            task->name);
  fprintf(s->out, " * Judge: fastkernels bench --candidate %s%s --captures CAPTURE.json\n */\n",
          s->cuda ? task->name : file, s->cuda ? ".so" : "");
}

/* ---- The code -------------------------------------------------------------------------------------------- */

/* The variable of an argument or axis: its name, kept apart from the names that the function already has. */
static void variable(const stub *s, const char *name, bool axis, char *text, size_t size) {
  static const char *const taken[] = {
      "self",   "args", "num_args", "result", "default", "register", "double", "float", "int",      "for",      "if",
      "switch", "case", "const",    "static", "new",     "class",    "delete", "this",  "template", "operator", NULL};
  bool clash = false;
  for (int i = 0; taken[i]; i++) clash |= strcmp(taken[i], name) == 0;
  for (int i = 0; axis && i < s->task->num_args; i++) clash |= strcmp(s->task->args[i].c_name, name) == 0;
  snprintf(text, size, "%.100s%s", name, clash ? (axis ? "_axis" : "_arg") : "");
}

static void unpack(const stub *s) {
  const fk_task *task = s->task;
  char name[128];
  fprintf(s->out, "  FK_REQUIRE(num_args == %d, \"TypeError\", \"%s: expected %d arguments\");\n", task->num_args,
          task->name, task->num_args);
  for (int i = 0; i < task->num_args; i++) {
    const fk_arg *arg = &task->args[i];
    variable(s, arg->c_name, false, name, sizeof name);
    if (fk_arg_is_tensor(arg))
      fprintf(s->out, "  const fk_tensor *%s = fk_arg_tensor(&args[%d]);\n", name, i);
    else if (arg->type == FK_ATTR_FLOAT)
      fprintf(s->out, "  double %s = fk_arg_float(&args[%d]);\n", name, i);
    else
      fprintf(s->out, "  int64_t %s = fk_arg_int(&args[%d]);\n", name, i);
  }
  for (int i = 0; i < task->num_args; i++) {
    variable(s, task->args[i].c_name, false, name, sizeof name);
    fprintf(s->out, "%s(void)%s%s", i == 0 ? "  " : ", ", name, i + 1 == task->num_args ? ";\n" : "");
  }
}

static const char *type_constant(fk_type type) {
  static const struct {
    fk_type type;
    const char *name;
  } names[] = {{FK_I8, "FK_I8"},
               {FK_I16, "FK_I16"},
               {FK_I32, "FK_I32"},
               {FK_I64, "FK_I64"},
               {FK_U8, "FK_U8"},
               {FK_F16, "FK_F16"},
               {FK_F32, "FK_F32"},
               {FK_F64, "FK_F64"},
               {FK_BF16, "FK_BF16"},
               {FK_BOOL, "FK_BOOL"},
               {FK_F8_E4M3FN, "FK_F8_E4M3FN"},
               {FK_F8_E5M2, "FK_F8_E5M2"},
               {FK_F8_E8M0, "FK_F8_E8M0"},
               {FK_F4_E2M1, "FK_F4_E2M1"}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].type == type) return names[i].name;
  return "0";
}

/* Presence, device and dtype; absent optional tensors pass. */
static void check_tensor(const stub *s, int i) {
  const fk_arg *arg = &s->task->args[i];
  char name[128], like[128];
  fk_type types[16];
  variable(s, arg->c_name, false, name, sizeof name);
  const char *unless = arg->optional ? "!" : "", *device = s->cuda ? "FK_DL_CUDA" : "FK_DL_CPU";
  if (!arg->optional)
    fprintf(s->out, "  FK_REQUIRE(%s, \"TypeError\", \"%s: %s must be a tensor\");\n", name, s->task->name, arg->name);
  fprintf(s->out, "  FK_REQUIRE(%s%s%s%s->device.type == %s, \"ValueError\", \"%s: %s is on another device\");\n",
          unless, arg->optional ? name : "", arg->optional ? " || " : "", name, device, s->task->name, arg->name);
  fprintf(s->out, "  FK_REQUIRE(%s%s%s", unless, arg->optional ? name : "", arg->optional ? " || " : "");
  int n = fk_task_dtypes(s->task, i, types);
  if (n > 1 && arg->optional) fputc('(', s->out);
  for (int k = 0; k < n; k++) fprintf(s->out, "%sfk_type_of(%s) == %s", k ? " || " : "", name, type_constant(types[k]));
  if (n > 1 && arg->optional) fputc(')', s->out);
  if (n == 0) {
    variable(s, s->task->args[arg->same_dtype_as].c_name, false, like, sizeof like);
    if (s->task->args[arg->same_dtype_as].optional)
      fprintf(s->out, "(!%s || fk_type_of(%s) == fk_type_of(%s))", like, name, like);
    else
      fprintf(s->out, "fk_type_of(%s) == fk_type_of(%s)", name, like);
  }
  fprintf(s->out, ",\n             \"TypeError\", \"%s: %s has an unexpected dtype\");\n", s->task->name, arg->name);
}

/* An expression that is C as it stands: no functions, and no name that had to give way. */
static bool is_plain_c(const stub *s, const char *text) {
  char name[128];
  for (const char *p = text; *p;) {
    if (!isalpha((unsigned char)*p) && *p != '_') {
      p++;
      continue;
    }
    size_t n = strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");
    char word[128], bare[128];
    snprintf(word, sizeof word, "%.*s", (int)n, p);
    variable(s, word, true, name, sizeof name);
    variable(s, word, false, bare, sizeof bare);
    p += n;
    bool attribute = fk_task_arg(s->task, word) >= 0 && !fk_arg_is_tensor(&s->task->args[fk_task_arg(s->task, word)]);
    if (*p == '(' || (!attribute && strcmp(name, word) != 0) || strcmp(bare, word) != 0) return false;
  }
  return true;
}

/* One dimension: the first required tensor that has an axis names it, the others must agree. */
static void check_dim(stub *s, const fk_arg *arg, const fk_shape *shape, int d) {
  char name[128], axis[128], size[320];
  const fk_dim *dim = &shape->dims[d];
  variable(s, arg->c_name, false, name, sizeof name);
  if (shape->ellipsis)
    snprintf(size, sizeof size, "%s->shape[%s->ndim - %d]", name, name, shape->ndim - d);
  else
    snprintf(size, sizeof size, "%s->shape[%d]", name, d);
  if (dim->symbol >= 0) variable(s, s->task->symbols[dim->symbol].name, true, axis, sizeof axis);
  if (dim->symbol >= 0 && s->task->symbols[dim->symbol].kind == FK_AXIS_ATTRIBUTE)
    variable(s, s->task->symbols[dim->symbol].name, false, axis, sizeof axis);
  else if (dim->symbol >= 0 && s->bound[dim->symbol] == FK_UNBOUND) {
    if (arg->optional) return;
    fprintf(s->out, "  int64_t %s = %s;\n  (void)%s;\n", axis, size, axis);
    s->bound[dim->symbol] = 1;
    return;
  }
  if (dim->expr) {
    if (!fk_expr_is_bound(dim->expr, s->bound) || !is_plain_c(s, fk_expr_text(dim->expr))) return;
    snprintf(axis, sizeof axis, "(%.120s)", fk_expr_text(dim->expr));
    if (strlen(fk_expr_text(dim->expr)) > 120) return;
  } else if (dim->symbol < 0) {
    snprintf(axis, sizeof axis, "%lld", (long long)dim->literal);
  }
  fprintf(s->out, "  FK_REQUIRE(%s%s%s%s == %s, \"ValueError\", \"%s: %s has the wrong shape\");\n",
          arg->optional ? "!" : "", arg->optional ? name : "", arg->optional ? " || " : "", size, axis, s->task->name,
          arg->name);
}

static void check_shape(stub *s, int i) {
  const fk_arg *arg = &s->task->args[i];
  const fk_shape *shape = &arg->shapes[0];
  char name[128], axis[128];
  variable(s, arg->c_name, false, name, sizeof name);
  fprintf(s->out,
          "  FK_REQUIRE(%s%s%s%s->ndim %s %d, \"ValueError\", \"%s: %s has the wrong number of dimensions\");\n",
          arg->optional ? "!" : "", arg->optional ? name : "", arg->optional ? " || " : "", name,
          shape->ellipsis ? ">=" : "==", shape->ellipsis ? shape->ndim - 1 : shape->ndim, s->task->name, arg->name);
  if (shape->ellipsis && !arg->optional && s->bound[shape->dims[0].symbol] == FK_UNBOUND) {
    variable(s, s->task->symbols[shape->dims[0].symbol].name, true, axis, sizeof axis);
    fprintf(s->out, "  int64_t %s = 1; /* all leading dimensions together */\n", axis);
    fprintf(s->out, "  for (int32_t i = 0; i < %s->ndim - %d; i++) %s *= %s->shape[i];\n  (void)%s;\n", name,
            shape->ndim - 1, axis, name, axis);
    s->bound[shape->dims[0].symbol] = 1;
  }
  for (int d = shape->ellipsis; d < shape->ndim; d++) check_dim(s, arg, shape, d);
}

static bool has_name_clash(const stub *s, int symbol) {
  char name[128];
  variable(s, s->task->symbols[symbol].name, true, name, sizeof name);
  return strcmp(name, s->task->symbols[symbol].name) != 0;
}

void fk_stub_write(const fk_task *task, bool cuda, const char *file, const char *include, FILE *out) {
  stub s = {.task = task, .cuda = cuda, .out = out};
  for (int i = 0; i < task->num_symbols; i++)
    s.bound[i] = task->symbols[i].kind == FK_AXIS_ATTRIBUTE && !has_name_clash(&s, i) ? 1 : FK_UNBOUND;
  for (int i = 0; i < task->num_args; i++)
    if (task->args[i].symbol >= 0) s.bound[task->args[i].symbol] = 1;
  write_comment(&s, file, include);
  fprintf(out, "#include \"fastkernels/abi.h\"\n\nFK_EXPORT(%s) {\n  (void)self, (void)result;\n", task->name);
  unpack(&s);
  for (int i = 0; i < task->num_args; i++)
    if (fk_arg_is_tensor(&task->args[i])) check_tensor(&s, i);
  /* Several layouts: which one it is decides the shapes, and that is the kernel's business. */
  for (int i = 0; i < task->num_args && task->num_layouts < 2; i++)
    if (fk_arg_is_tensor(&task->args[i])) check_shape(&s, i);
  if (cuda)
    fputs(
        "  /* Launch on the caller's stream and return at once: no allocation, no synchronisation. */\n"
        "  void *stream = TVMFFIEnvGetStream(FK_DL_CUDA, 0);\n  (void)stream;\n",
        out);
  fprintf(out, "  return fk_raise(\"RuntimeError\", \"%s: write the kernel here\");\n}\n", task->name);
}
