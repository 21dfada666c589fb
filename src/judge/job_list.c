#include "judge/job_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/registry.h"
#include "judge/synth.h"

double fk_case_cost(const fk_case *c) {
  /* A core moves about ten bytes and computes about a hundred FLOPs a nanosecond: only the order matters. */
  double cost = c->bytes / 10 + c->flops / 100;
  if (cost > 0) return cost;
  fk_plan *plan = calloc(1, sizeof *plan);
  if (plan && fk_plan_make(c, plan) == FK_OK) cost = (double)plan->bytes / 10;
  free(plan);
  return cost;
}

static int costliest_first(const void *a, const void *b) {
  const fk_case *x = *(fk_case *const *)a, *y = *(fk_case *const *)b;
  double cx = fk_case_cost(x) * (double)x->count, cy = fk_case_cost(y) * (double)y->count;
  return (cy > cx) - (cy < cx);
}

static fk_status add_job(fk_arena *arena, const fk_task *task, const json_t *cases, const char *where, fk_job_list *w) {
  fk_job *job = &w->jobs[w->num_jobs];
  size_t n = json_array_size(cases);
  if (!json_is_array(cases) || n == 0)
    return fk_fail(FK_ERROR_FORMAT, "%s: %s: expected a list of cases that is not empty", where, task->name);
  *job = (fk_job){.task = task, .cases = fk_arena_calloc(arena, n, sizeof *job->cases)};
  if (!job->cases) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < n; i++) {
    char place[512];
    snprintf(place, sizeof place, "%s: case %zu", where, i);
    FK_TRY(fk_case_parse(arena, task, json_array_get(cases, i), place, &job->cases[i]));
    job->total_calls += job->cases[i]->count;
  }
  job->count = job->total = (int)n;
  job->calls = job->total_calls;
  qsort(job->cases, n, sizeof *job->cases, costliest_first);
  w->num_jobs++;
  return FK_OK;
}

static fk_status text_of(fk_arena *arena, const json_t *root, const char *key, const char **text) {
  const json_t *v = json_object_get(root, key);
  const char *value = json_string_value(json_is_object(v) ? json_object_get(v, "name") : v);
  *text = fk_arena_strdup(arena, value ? value : "");
  return *text ? FK_OK : FK_ERROR_MEMORY;
}

static fk_status load_capture(fk_arena *arena, const json_t *root, const char *where, fk_job_list *w) {
  const char *format = json_string_value(json_object_get(root, "format")), *name;
  json_t *tasks = json_object_get(root, "tasks"), *entry;
  if (!format || strcmp(format, "fastkernels-capture/1") != 0)
    return fk_fail(FK_ERROR_FORMAT, "%s: format: expected \"fastkernels-capture/1\", got \"%s\"", where,
                   format ? format : "(not a string)");
  if (!json_is_object(tasks)) return fk_fail(FK_ERROR_FORMAT, "%s: tasks: expected an object", where);
  w->jobs = fk_arena_calloc(arena, json_object_size(tasks) + 1, sizeof *w->jobs);
  if (!w->jobs) return FK_ERROR_MEMORY;
  json_object_foreach(tasks, name, entry) {
    /* Level 4 is the model itself: a candidate replaces tasks. */
    if (json_integer_value(json_object_get(entry, "level")) == 4) continue;
    const fk_task *task = fk_task_find(name);
    if (!task) return fk_fail_in(FK_ERROR_NOT_FOUND, "%s: tasks", where);
    FK_TRY(add_job(arena, task, json_object_get(entry, "cases"), where, w));
  }
  return FK_OK;
}

static fk_status load_cases(fk_arena *arena, json_t *root, const char *where, const fk_task *task, fk_job_list *w) {
  const char *named = json_string_value(json_object_get(root, "task"));
  if (named && !(task = fk_task_find(named))) return fk_fail_in(FK_ERROR_NOT_FOUND, "%s: task", where);
  if (!task)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: these cases name no task: give one --task, or a candidate of one task",
                   where);
  w->jobs = fk_arena_calloc(arena, 1, sizeof *w->jobs);
  if (!w->jobs) return FK_ERROR_MEMORY;
  json_t *list = json_object_get(root, "cases");
  if (list) return add_job(arena, task, list, where, w);
  json_t *one = json_pack("[O]", root);
  if (!one) return fk_fail(FK_ERROR_MEMORY, "%s: no memory", where);
  fk_status status = add_job(arena, task, one, where, w);
  json_decref(one);
  return status;
}

fk_status fk_job_list_load(fk_arena *arena, const char *text, const fk_task *task, fk_job_list *w) {
  bool is_inline = text[strspn(text, " \t\n")] == '{';
  const char *where = is_inline ? "inline" : text;
  json_error_t error;
  *w = (fk_job_list){.source = where, .note = ""};
  json_t *root = is_inline ? json_loads(text, JSON_REJECT_DUPLICATES, &error)
                           : json_load_file(text, JSON_REJECT_DUPLICATES, &error);
  if (!root) return fk_fail(FK_ERROR_FORMAT, "%s: line %d: %s", where, error.line, error.text);
  fk_status status = json_is_object(root) ? FK_OK : fk_fail(FK_ERROR_FORMAT, "%s: expected an object", where);
  if (!status) status = text_of(arena, root, "model", &w->model);
  if (!status) status = text_of(arena, root, "workload", &w->workload);
  if (!status)
    status =
        json_object_get(root, "format") ? load_capture(arena, root, where, w) : load_cases(arena, root, where, task, w);
  json_decref(root);
  return status;
}

void fk_job_list_trim(fk_job_list *w, int max_cases) {
  for (int i = 0; i < w->num_jobs; i++) {
    fk_job *job = &w->jobs[i];
    if (job->count > max_cases) job->count = max_cases;
    job->calls = 0;
    for (int k = 0; k < job->count; k++) job->calls += job->cases[k]->count;
  }
}
