/* fastkernels list: tasks and models, and which uses which. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "core/registry.h"
#include "engine/simulate.h"

static const cli_option options[] = {{"level", "N", "only tasks of level 1, 2 or 3; 4: only models"},
                                     {"family", "F", "only tasks of a family"},
                                     {"model", "M", "only a model (or preset) and the tasks that it calls"},
                                     {"json", NULL, "as JSON"},
                                     {0}};

static const cli_spec spec = {
    .command = "list",
    .arguments = "",
    .summary = "Shows tasks and models, and which uses which.",
    .details =
        "What a model uses is found out by running its presets on shapes alone.\n"
        "JSON: {\"tasks\": [{name, level, family, summary, devices, composed, models}],\n"
        "       \"models\": [{name, category, summary, presets, tasks}]}; docs/captures.md explains the keys.",
    .options = options};

/* uses[model * num_tasks + task->index]: the model calls the task, in one of its presets. */
typedef struct catalogue {
  const fk_task *const *tasks;
  int num_tasks, num_models;
  bool *uses;
  /* filters */
  int64_t level;
  const char *family;
  int model; /* -1 = all */
} catalogue;

static bool shown(const catalogue *k, const fk_task *task) {
  return (!k->level || task->level == k->level) && (!k->family || strcmp(task->family, k->family) == 0) &&
         (k->model < 0 || k->uses[k->model * k->num_tasks + task->index]);
}

static bool shown_model(const catalogue *k, int m) {
  return (!k->level || k->level == 4) && !k->family && (k->model < 0 || k->model == m);
}

/* ---- Near names ------------------------------------------------------------------------------------------ */

/* Edits from one name to another, both at most 63 letters long; more is never near. */
static int edits(const char *a, const char *b) {
  size_t n = strlen(a), m = strlen(b);
  int row[64];
  if (n > 63 || m > 63) return 64;
  for (size_t j = 0; j <= m; j++) row[j] = (int)j;
  for (size_t i = 1; i <= n; i++) {
    int diagonal = row[0];
    row[0] = (int)i;
    for (size_t j = 1; j <= m; j++) {
      int change = diagonal + (a[i - 1] != b[j - 1]), least = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
      diagonal = row[j];
      row[j] = change < least ? change : least;
    }
  }
  return row[m];
}

static void consider(const char *wanted, const char *name, const char **best, int *distance) {
  int d = edits(wanted, name);
  if (d < *distance) *distance = d, *best = name;
}

static int unknown(const cli *c, const char *option, const char *value, const char *near) {
  return near ? cli_fail(c, "--%s: there is no \"%s\" (did you mean %s?)", option, value, near)
              : cli_fail(c, "--%s: there is no \"%s\"", option, value);
}

/* ---- The catalogue --------------------------------------------------------------------------------------- */

static int model_index(const char *name) {
  for (int m = 0; fk_model_classes[m]; m++)
    if (strcmp(fk_model_classes[m]->name, name) == 0) return m;
  return -1;
}

static bool choose_family(const cli *c, catalogue *k) {
  const char *near = NULL;
  int distance = 4;
  k->family = cli_value(c, "family");
  for (int i = 0; k->family && i < k->num_tasks; i++) {
    if (strcmp(k->tasks[i]->family, k->family) == 0) return true;
    consider(k->family, k->tasks[i]->family, &near, &distance);
  }
  return !k->family || (unknown(c, "family", k->family, near), false);
}

static bool choose_model(const cli *c, catalogue *k) {
  const char *name = cli_value(c, "model"), *near = NULL;
  int distance = 4;
  k->model = name ? model_index(name) : -1;
  for (int i = 0; name && k->model < 0 && i < fk_preset_count; i++)
    if (strcmp(fk_presets[i].name, name) == 0) k->model = model_index(fk_presets[i].model);
  if (!name || k->model >= 0) return true;
  for (int m = 0; m < k->num_models; m++) consider(name, fk_model_classes[m]->name, &near, &distance);
  for (int i = 0; i < fk_preset_count; i++) consider(name, fk_presets[i].name, &near, &distance);
  unknown(c, "model", name, near);
  return false;
}

/* A smallest run of each preset on meta says what its model calls. A preset that cannot run is reported, and spoils
 * the exit status but not the list. */
static bool find_uses(const cli *c, catalogue *k) {
  bool ok = true;
  for (int p = 0; p < fk_preset_count; p++) {
    int m = model_index(fk_presets[p].model);
    if (m < 0) continue; /* a folder of presets without its model */
    fk_capture *capture;
    fk_status status =
        fk_capture_model(fk_presets[p].name, NULL, 0, &(fk_capture_options){.shapes_only = true}, &capture);
    if (status) {
      cli_fail(c, "model %s, preset %s: %s", fk_presets[p].model, fk_presets[p].name, fk_last_error());
      ok = false;
      continue;
    }
    for (int i = 0; i < fk_capture_count(capture); i++) {
      int index = fk_capture_table(capture, i)->task->index;
      if (index >= 0) k->uses[m * k->num_tasks + index] = true;
    }
    fk_capture_destroy(capture);
  }
  return ok;
}

/* Devices with an implementation; a composition runs wherever its parts do. */
static int devices_of(const fk_task *task, const char *names[4], bool *composed) {
  const fk_task_entry *e = fk_task_entry_of(task);
  int n = 0;
  *composed = e->compose != NULL;
  if (e->ref || e->compose) names[n++] = "ref";
  if (e->cpu[0] || e->compose) names[n++] = "cpu";
  names[n++] = "meta";
  return n;
}

/* ---- As JSON --------------------------------------------------------------------------------------------- */

static json_t *task_json(const catalogue *k, const fk_task *task) {
  const char *names[4];
  bool composed;
  int n = devices_of(task, names, &composed);
  json_t *devices = json_array(), *models = json_array();
  for (int i = 0; i < n; i++) json_array_append_new(devices, json_string(names[i]));
  for (int m = 0; m < k->num_models; m++)
    if (k->uses[m * k->num_tasks + task->index]) json_array_append_new(models, json_string(fk_model_classes[m]->name));
  return json_pack("{s:s, s:i, s:s, s:s, s:o, s:b, s:o}", "name", task->name, "level", task->level, "family",
                   task->family, "summary", task->summary, "devices", devices, "composed", (int)composed, "models",
                   models);
}

static json_t *model_json(const catalogue *k, int m) {
  const fk_model_class *class = fk_model_classes[m];
  json_t *presets = json_array(), *tasks = json_array();
  for (int p = 0; p < fk_preset_count; p++)
    if (strcmp(fk_presets[p].model, class->name) == 0) json_array_append_new(presets, json_string(fk_presets[p].name));
  for (int i = 0; i < k->num_tasks; i++)
    if (k->uses[m * k->num_tasks + k->tasks[i]->index]) json_array_append_new(tasks, json_string(k->tasks[i]->name));
  return json_pack("{s:s, s:s, s:s, s:o, s:o}", "name", class->name, "category", class->category, "summary",
                   class->summary, "presets", presets, "tasks", tasks);
}

static bool print_json(const catalogue *k) {
  json_t *tasks = json_array(), *models = json_array();
  bool ok = tasks && models;
  for (int i = 0; ok && i < k->num_tasks; i++)
    if (shown(k, k->tasks[i])) ok = json_array_append_new(tasks, task_json(k, k->tasks[i])) == 0;
  for (int m = 0; ok && m < k->num_models; m++)
    if (shown_model(k, m)) ok = json_array_append_new(models, model_json(k, m)) == 0;
  json_t *root = json_pack("{s:o, s:o}", "tasks", tasks, "models", models);
  ok = ok && root && json_dumpf(root, stdout, JSON_INDENT(2)) == 0;
  putchar('\n');
  json_decref(root);
  return ok;
}

/* ---- For people ------------------------------------------------------------------------------------------ */

static void print_task(const catalogue *k, const fk_task *task) {
  const char *names[4];
  char devices[64] = "", models[256] = "";
  bool composed;
  int n = devices_of(task, names, &composed);
  for (int i = 0; i < n; i++) {
    size_t used = strlen(devices);
    snprintf(devices + used, sizeof devices - used, "%s%s", i ? " " : "", names[i]);
  }
  for (int m = 0; m < k->num_models; m++) {
    size_t used = strlen(models);
    if (k->uses[m * k->num_tasks + task->index])
      snprintf(models + used, sizeof models - used, "%s%s", used ? " " : "", fk_model_classes[m]->name);
  }
  printf("L%d  %-12s %-26s %-14s %-10s %s\n", task->level, task->family, task->name, devices, *models ? models : "-",
         task->summary);
}

static void print_model(const catalogue *k, int m) {
  const fk_model_class *class = fk_model_classes[m];
  printf("L4  %-12s %s: %s\n    presets:", class->name, class->category, class->summary);
  for (int p = 0; p < fk_preset_count; p++)
    if (strcmp(fk_presets[p].model, class->name) == 0) printf(" %s", fk_presets[p].name);
  printf("\n    calls:  ");
  for (int i = 0; i < k->num_tasks; i++)
    if (k->uses[m * k->num_tasks + k->tasks[i]->index]) printf(" %s", k->tasks[i]->name);
  putchar('\n');
}

static void print_text(const catalogue *k) {
  bool any = false;
  for (int level = 1; level <= 3; level++)
    for (int i = 0; i < k->num_tasks; i++) {
      if (k->tasks[i]->level != level || !shown(k, k->tasks[i])) continue;
      if (!any) printf("%-3s %-12s %-26s %-14s %-10s %s\n", "", "family", "task", "devices", "models", "meaning");
      any = true;
      print_task(k, k->tasks[i]);
    }
  for (int m = 0; m < k->num_models; m++) {
    if (!shown_model(k, m)) continue;
    if (any) putchar('\n');
    any = true;
    print_model(k, m);
  }
  if (!any) puts("nothing fits these filters");
}

int fk_cmd_list(int argc, char **argv) {
  cli c;
  catalogue k = {.model = -1};
  int exit_status = 0;
  if (!cli_parse(&c, &spec, argc, argv, &exit_status)) return exit_status;
  if (!cli_int(&c, "level", 1, 4, &k.level)) return 2;
  k.tasks = fk_tasks(&k.num_tasks);
  if (!k.tasks) return cli_error(&c);
  while (fk_model_classes[k.num_models]) k.num_models++;
  if (!choose_family(&c, &k) || !choose_model(&c, &k)) return 2;
  k.uses = calloc((size_t)k.num_models * (size_t)k.num_tasks + 1, sizeof *k.uses);
  if (!k.uses) return cli_fail(&c, "out of memory");
  if (!find_uses(&c, &k)) exit_status = 2;
  if (!cli_flag(&c, "json"))
    print_text(&k);
  else if (!print_json(&k))
    exit_status = cli_fail(&c, "cannot write JSON");
  free(k.uses);
  return exit_status;
}
