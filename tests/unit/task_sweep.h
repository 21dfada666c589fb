/* Shared by the tests that go over every task's cases.json: finds the folders, parses the cases, makes the calls. */
#ifndef FK_TESTS_TASK_SWEEP_H
#define FK_TESTS_TASK_SWEEP_H

#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/context.h"
#include "judge/compare.h"
#include "judge/synth.h"

typedef struct sweep_case {
  fk_case *c;
  int number; /* in cases.json */
} sweep_case;

typedef struct sweep_task {
  const fk_task *task;
  fk_arena arena;
  sweep_case *cases;
  int count;
} sweep_task;

/* Prints one problem of a case and counts it. */
__attribute__((format(printf, 3, 4))) static inline void complain(int *failures, const fk_case *c, const char *format,
                                                                  ...) {
  char label[256];
  va_list args;
  fk_case_label(c, label, sizeof label);
  va_start(args, format);
  fprintf(stderr, "%s [%s]%s%s%s: ", c->task->name, label, *c->note ? " (" : "", c->note, *c->note ? ")" : "");
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  ++*failures;
}

/* The cases of the task in a folder; false when a file is broken. */
static inline bool sweep_open(const char *cases_path, sweep_task *s) {
  char where[64];
  json_error_t error;
  json_t *root = json_load_file(cases_path, 0, &error), *list = json_object_get(root, "cases");
  char folder[512];
  snprintf(folder, sizeof folder, "%s", cases_path);
  *strrchr(folder, '/') = '\0';
  memset(s, 0, sizeof *s);
  fk_arena_init(&s->arena, &fk_host_memory, 0);
  s->task = fk_task_find(strrchr(folder, '/') + 1);
  if (!root || !json_is_array(list) || !s->task || json_array_size(list) == 0) {
    fprintf(stderr, "%s: %s\n", cases_path, !root ? error.text : !s->task ? fk_last_error() : "\"cases\" is no list");
    json_decref(root);
    return false;
  }
  s->cases = fk_arena_calloc(&s->arena, json_array_size(list), sizeof *s->cases);
  bool ok = s->cases != NULL;
  for (size_t i = 0; ok && i < json_array_size(list); i++, s->count++) {
    snprintf(where, sizeof where, "cases.json, case %zu", i);
    s->cases[i].number = (int)i;
    ok = fk_case_parse(&s->arena, s->task, json_array_get(list, i), where, &s->cases[i].c) == FK_OK;
    if (!ok) fprintf(stderr, "%s: %s\n", s->task->name, fk_last_error());
  }
  json_decref(root);
  return ok;
}

static inline void sweep_close(sweep_task *s) {
  fk_arena_destroy(&s->arena);
}

/* Runs one function for every folder with a file of cases; the environment variable FASTKERNELS_TASK narrows it to one.
 * Returns the failures; *tasks counts what was seen. */
static inline int sweep_files(const char *file, int (*test)(sweep_task *), int *tasks) {
  /* A program that was carried elsewhere finds the tree where this variable says. */
  const char *root = getenv("FASTKERNELS_SOURCE");
  char patterns[2][512];
  snprintf(patterns[0], sizeof patterns[0], "%s/kernels/*/*/%s", root ? root : FK_SOURCE_DIR, file);
  snprintf(patterns[1], sizeof patterns[1], "%s/blocks/*/*/%s", root ? root : FK_SOURCE_DIR, file);
  const char *only = getenv("FASTKERNELS_TASK");
  int failures = 0;
  *tasks = 0;
  for (int p = 0; p < 2; p++) {
    glob_t found;
    if (glob(patterns[p], 0, NULL, &found) != 0) continue;
    for (size_t i = 0; i < found.gl_pathc; i++) {
      sweep_task s;
      char folder[128];
      snprintf(folder, sizeof folder, "/%s/%s", only ? only : "", file);
      if (only && !strstr(found.gl_pathv[i], folder)) continue;
      ++*tasks;
      if (sweep_open(found.gl_pathv[i], &s))
        failures += test(&s);
      else
        failures++;
      sweep_close(&s);
    }
    globfree(&found);
  }
  return failures;
}

static inline int sweep_all(int (*test)(sweep_task *), int *tasks) {
  return sweep_files("cases.json", test, tasks);
}

/* A buffer of the plan's size, 64-byte aligned; the caller frees it. */
static inline void *sweep_buffer(const fk_plan *plan) {
  return aligned_alloc(64, (plan->bytes + 64) / 64 * 64);
}

static inline fk_context *sweep_context(fk_backend backend, const char *isa) {
  fk_context *ctx;
  fk_context_options options = {.backend = backend};
  unsetenv("FASTKERNELS_ISA");
  if (isa) setenv("FASTKERNELS_ISA", isa, 1);
  if (fk_context_create(&options, &ctx) != FK_OK) {
    fprintf(stderr, "%s\n", fk_last_error());
    abort();
  }
  return ctx;
}

#endif
