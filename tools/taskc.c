/* taskc: the build's own compiler of folders.
 *
 *     taskc SOURCE_DIR OUTPUT_DIR
 *
 * Reads kernels/<family>/<task>/task.json, blocks/<family>/<task>/task.json and models/<model>/, validates every
 * definition, and writes
 *
 *     OUTPUT_DIR/tasks/<task>.h   the task's arguments as a struct, and prototypes of its implementations
 *     OUTPUT_DIR/registry.gen.c   the table of tasks: definitions as text, entry points
 *     OUTPUT_DIR/models.gen.c     the tables of models, their presets, and of workloads
 *
 * A file is rewritten only when its content changes, so that nothing is rebuilt in vain. */
#include <errno.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/task.h"

typedef struct text {
  char *data;
  size_t size, room;
} text;

static _Noreturn void die(const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  fputs("taskc: ", stderr);
  vfprintf(stderr, format, ap);
  fputc('\n', stderr);
  va_end(ap);
  exit(1);
}

__attribute__((format(printf, 2, 3))) static void put(text *t, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  char *line;
  int n = vasprintf(&line, format, ap);
  va_end(ap);
  if (n < 0) die("out of memory");
  if (t->size + (size_t)n + 1 > t->room) {
    t->room = 2 * (t->size + (size_t)n + 1);
    t->data = realloc(t->data, t->room);
    if (!t->data) die("out of memory");
  }
  memcpy(t->data + t->size, line, (size_t)n + 1);
  t->size += (size_t)n;
  free(line);
}

static char *read_file(const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  if (!f) return NULL;
  text t = {0};
  char buffer[65536];
  put(&t, "%s", "");
  for (size_t n; (n = fread(buffer, 1, sizeof buffer - 1, f)) > 0;) {
    buffer[n] = 0;
    if (strlen(buffer) != n) die("%s: contains a zero byte", path);
    put(&t, "%s", buffer);
  }
  fclose(f);
  *size = t.size;
  return t.data;
}

static void write_file(const char *path, text *t) {
  size_t size;
  char *old = read_file(path, &size);
  bool same = old && size == t->size && memcmp(old, t->data, size) == 0;
  free(old);
  if (same) return;
  FILE *f = fopen(path, "wb");
  if (!f || fwrite(t->data, 1, t->size, f) != t->size || fclose(f) != 0)
    die("cannot write %s: %s", path, strerror(errno));
}

static bool exists(const char *folder, const char *file) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, file);
  struct stat st;
  return stat(path, &st) == 0;
}

/* A C string literal, split into lines. */
static void put_literal(text *t, const char *s) {
  put(t, "\"");
  for (int column = 0; *s; s++) {
    unsigned char c = (unsigned char)*s;
    if (c == '"' || c == '\\')
      put(t, "\\%c", c);
    else if (c < 32 || c > 126)
      put(t, "\\%03o", c);
    else
      put(t, "%c", c);
    if (++column > 100 || c == '\n') {
      put(t, "\"\n    \"");
      column = 0;
    }
  }
  put(t, "\"");
}

/* ---- One task -------------------------------------------------------------------------------------------- */

static const char *const unpackers[] = {"fk_arg_int", "fk_arg_float", "fk_arg_int", "fk_arg_int"};
static const char *const c_types[] = {"int64_t ", "double ", "bool ", "int64_t "};

static void put_header(const fk_task *task, const char *output) {
  text t = {0};
  put(&t, "/* %s: %s\n * Generated from task.json. */\n#pragma once\n\n", task->name, task->summary);
  put(&t, "#include \"core/kernel.h\"\n\ntypedef struct fk_%s_args {\n", task->name);
  for (int i = 0; i < task->num_args; i++) {
    const fk_arg *a = &task->args[i];
    bool tensor = fk_arg_is_tensor(a);
    put(&t, "  %s%s; /* %s%s%s */\n", tensor ? "fk_tensor *" : c_types[a->type], a->c_name,
        a->role == FK_OUTPUT ? "out "
        : a->inout           ? "in-out "
                             : "",
        a->optional ? "optional " : "", a->doc);
  }
  put(&t, "} fk_%s_args;\n\n#ifndef __cplusplus\nstatic inline fk_%s_args fk_%s_unpack(const fk_any *args) {\n",
      task->name, task->name, task->name);
  put(&t, "  return (fk_%s_args){\n", task->name);
  for (int i = 0; i < task->num_args; i++) {
    const fk_arg *a = &task->args[i];
    put(&t, "      .%s = %s(&args[%d]),\n", a->c_name, fk_arg_is_tensor(a) ? "fk_arg_tensor" : unpackers[a->type], i);
  }
  put(&t, "  };\n}\n#endif\n\n#define fk_cpu_%s FK_ISA_NAME(fk_cpu_%s)\n", task->name, task->name);
  static const char *const kinds[] = {"ref", "cpu", "cuda", "compose"};
  for (int k = 0; k < 4; k++)
    put(&t, "FK_EXTERN_C fk_status fk_%s_%s(fk_context *ctx, const fk_%s_args *a);\n", kinds[k], task->name,
        task->name);
  char path[4096];
  snprintf(path, sizeof path, "%s/tasks/%s.h", output, task->name);
  write_file(path, &t);
  free(t.data);
}

/* An entry point of the call convention around a typed implementation. */
static void put_thunk(text *t, const char *task, const char *function) {
  put(t,
      "fk_status %s(fk_context *ctx, const fk_%s_args *a);\n"
      "static int call_%s(void *self, const fk_any *args, int32_t num_args, fk_any *result) {\n"
      "  (void)num_args;\n  (void)result;\n"
      "  fk_%s_args a = fk_%s_unpack(args);\n"
      "  return -(int)%s(self, &a);\n}\n",
      function, task, function, task, task, function);
}

static void put_task(const fk_task *task, const char *folder, text *code, text *table) {
  static const char *const isas[] = {"baseline", "avx2", "avx512"};
  char name[512];
  put(code, "#include \"tasks/%s.h\"\n#undef fk_cpu_%s\n", task->name, task->name);
  put(table, "    {");
  put_literal(table, task->json);
  put(table, ",\n     %zu,\n     ", strlen(task->json));
  bool ref = exists(folder, "ref.c"), cpu = exists(folder, "cpu.c"), cuda = exists(folder, "cuda.cu"),
       compose = exists(folder, "compose.c");
  if (!ref && !compose) die("%s: needs ref.c or compose.c", folder);
  snprintf(name, sizeof name, "fk_ref_%s", task->name);
  if (ref) put_thunk(code, task->name, name);
  put(table, ref ? "call_%s, {" : "NULL, {", name);
  for (int i = 0; i < 3; i++) {
    snprintf(name, sizeof name, "fk_cpu_%s_%s", task->name, isas[i]);
    if (cpu) put(code, i ? "#ifdef FK_HAVE_ISAS\n" : "");
    if (cpu) put_thunk(code, task->name, name);
    if (cpu && i) put(code, "#define ISA_%s call_%s\n#else\n#define ISA_%s NULL\n#endif\n", name, name, name);
    if (!cpu)
      put(table, "NULL%s", i < 2 ? ", " : "}, ");
    else
      put(table, "%s%s%s", i ? "ISA_" : "call_", name, i < 2 ? ", " : "}, ");
  }
  snprintf(name, sizeof name, "fk_cuda_%s", task->name);
  if (cuda) {
    put(code, "#ifdef FK_HAVE_CUDA\n");
    put_thunk(code, task->name, name);
    put(code, "#define CUDA_%s call_%s\n#else\n#define CUDA_%s NULL\n#endif\n", task->name, name, task->name);
  }
  put(table, cuda ? "CUDA_%s, " : "NULL, ", task->name);
  snprintf(name, sizeof name, "fk_compose_%s", task->name);
  if (compose) put_thunk(code, task->name, name);
  put(table, compose ? "call_%s},\n" : "NULL},\n", name);
}

/* The last but one and the last component of "…/<family>/<task>/task.json". */
static void check_place(const fk_task *task, const char *folder) {
  const char *slash = strrchr(folder, '/');
  const char *family = slash;
  while (family > folder && family[-1] != '/') family--;
  if (strcmp(slash + 1, task->name) != 0)
    die("%s/task.json: name is \"%s\", but the folder says otherwise", folder, task->name);
  size_t n = (size_t)(slash - family);
  if (strlen(task->family) != n || memcmp(task->family, family, n) != 0)
    die("%s/task.json: family is \"%s\", but the folder says otherwise", folder, task->family);
}

static void compile_tasks(const char *source, const char *output) {
  static const char *const storeys[] = {"kernels", "blocks"};
  text code = {0}, table = {0};
  put(&code, "/* Generated by taskc. */\n#include \"core/registry.h\"\n\n");
  put(&table, "\nconst fk_task_entry fk_task_entries[] = {\n");
  int count = 0;
  for (int s = 0; s < 2; s++) {
    char pattern[4096];
    snprintf(pattern, sizeof pattern, "%s/%s/*/*/task.json", source, storeys[s]);
    glob_t found;
    if (glob(pattern, 0, NULL, &found) != 0) continue;
    for (size_t i = 0; i < found.gl_pathc; i++, count++) {
      char *path = found.gl_pathv[i];
      size_t size;
      char *json = read_file(path, &size);
      if (!json) die("cannot read %s", path);
      fk_arena arena;
      fk_arena_init(&arena, &fk_host_memory, 0);
      fk_task *task;
      if (fk_task_parse(&arena, json, size, path + strlen(source) + 1, &task)) die("%s", fk_last_error());
      path[strlen(path) - strlen("/task.json")] = 0;
      check_place(task, path);
      put_header(task, output);
      put_task(task, path, &code, &table);
      fk_arena_destroy(&arena);
      free(json);
    }
    globfree(&found);
  }
  put(&table, "    {0},\n};\nconst size_t fk_task_entry_count = %d;\n", count);
  put(&code, "%s", table.data);
  char path[4096];
  snprintf(path, sizeof path, "%s/registry.gen.c", output);
  write_file(path, &code);
  free(code.data);
  free(table.data);
}

/* ---- Models ---------------------------------------------------------------------------------------------- */

static void put_presets(const char *folder, const char *model, text *presets, int *count) {
  char pattern[4096];
  snprintf(pattern, sizeof pattern, "%s/presets/*.json", folder);
  glob_t found;
  if (glob(pattern, 0, NULL, &found) != 0) return;
  for (size_t i = 0; i < found.gl_pathc; i++, ++*count) {
    size_t size;
    char *json = read_file(found.gl_pathv[i], &size);
    if (!json) die("cannot read %s", found.gl_pathv[i]);
    const char *base = strrchr(found.gl_pathv[i], '/') + 1;
    put(presets, "    {\"%.*s\", \"%s\",\n    ", (int)(strlen(base) - strlen(".json")), base, model);
    put_literal(presets, json);
    put(presets, "},\n");
    free(json);
  }
  globfree(&found);
}

/* Names and texts of the JSON files in workloads/. */
static void put_workloads(const char *source, text *code) {
  char pattern[4096];
  snprintf(pattern, sizeof pattern, "%s/workloads/*.json", source);
  glob_t found = {0};
  size_t count = 0;
  put(code, "\nconst fk_named_workload fk_workloads[] = {\n");
  if (glob(pattern, 0, NULL, &found) == 0) {
    for (; count < found.gl_pathc; count++) {
      size_t size;
      char *json = read_file(found.gl_pathv[count], &size);
      if (!json) die("cannot read %s", found.gl_pathv[count]);
      const char *base = strrchr(found.gl_pathv[count], '/') + 1;
      put(code, "    {\"%.*s\",\n    ", (int)(strlen(base) - strlen(".json")), base);
      put_literal(code, json);
      put(code, "},\n");
      free(json);
    }
  }
  globfree(&found);
  put(code, "    {0},\n};\nconst int fk_workload_count = %zu;\n", count);
}

static void compile_models(const char *source, const char *output) {
  text code = {0}, table = {0}, presets = {0};
  put(&code, "/* Generated by taskc. */\n#include \"engine/model.h\"\n#include \"engine/workload.h\"\n\n");
  put(&table, "const fk_model_class *const fk_model_classes[] = {\n");
  put(&presets, "const fk_preset fk_presets[] = {\n");
  char pattern[4096];
  snprintf(pattern, sizeof pattern, "%s/models/*/model.c", source);
  glob_t found = {0};
  int count = 0;
  if (glob(pattern, 0, NULL, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc; i++) {
      char *path = found.gl_pathv[i];
      path[strlen(path) - strlen("/model.c")] = 0;
      const char *name = strrchr(path, '/') + 1;
      put(&code, "extern const fk_model_class fk_model_%s;\n", name);
      put(&table, "    &fk_model_%s,\n", name);
      put_presets(path, name, &presets, &count);
    }
  }
  globfree(&found);
  put(&code, "\n%s    NULL,\n};\n\n%s    {0},\n};\nconst int fk_preset_count = %d;\n", table.data, presets.data, count);
  put_workloads(source, &code);
  char path[4096];
  snprintf(path, sizeof path, "%s/models.gen.c", output);
  write_file(path, &code);
  free(code.data);
  free(table.data);
  free(presets.data);
}

int main(int argc, char **argv) {
  if (argc != 3) die("usage: taskc SOURCE_DIR OUTPUT_DIR");
  char path[4096];
  snprintf(path, sizeof path, "%s/tasks", argv[2]);
  if ((mkdir(argv[2], 0777) != 0 && errno != EEXIST) || (mkdir(path, 0777) != 0 && errno != EEXIST))
    die("cannot create %s: %s", path, strerror(errno));
  compile_tasks(argv[1], argv[2]);
  compile_models(argv[1], argv[2]);
  return 0;
}
