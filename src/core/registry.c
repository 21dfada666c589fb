#include "core/registry.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Open addressing over names: looked up on every call, so no comparison chain. */
enum { SLOTS = 4096 };

static struct {
  pthread_once_t once;
  fk_arena arena;
  fk_status status;
  char error[1024];
  const fk_task **tasks;
  const fk_task_entry **entries; /* by task->index */
  int count;
  const fk_task *slots[SLOTS];
} registry = {.once = PTHREAD_ONCE_INIT};

static uint32_t hash(const char *name) {
  uint32_t h = 2166136261u; /* FNV-1a */
  for (; *name; name++) h = (h ^ (unsigned char)*name) * 16777619u;
  return h ^ h >> 15;
}

static const fk_task **slot(const char *name) {
  uint32_t i = hash(name) % SLOTS;
  while (registry.slots[i] && strcmp(registry.slots[i]->name, name) != 0) i = (i + 1) % SLOTS;
  return &registry.slots[i];
}

static int by_name(const void *a, const void *b) {
  return strcmp((*(const fk_task *const *)a)->name, (*(const fk_task *const *)b)->name);
}

static fk_status load(void) {
  size_t n = fk_task_entry_count;
  fk_arena_init(&registry.arena, &fk_host_memory, 0);
  registry.tasks = fk_arena_calloc(&registry.arena, n + 1, sizeof *registry.tasks);
  registry.entries = fk_arena_calloc(&registry.arena, n + 1, sizeof *registry.entries);
  if (!registry.tasks || !registry.entries) return FK_ERROR_MEMORY;
  if (n > SLOTS / 2) return fk_fail(FK_ERROR_UNSUPPORTED, "the registry holds at most %d tasks", SLOTS / 2);
  for (size_t i = 0; i < n; i++) {
    fk_task *task;
    FK_TRY(fk_task_parse(&registry.arena, fk_task_entries[i].json, fk_task_entries[i].json_length, "built-in task",
                         &task));
    if (*slot(task->name)) return fk_fail(FK_ERROR_FORMAT, "two tasks are named %s", task->name);
    *slot(task->name) = task;
    task->index = (int)i;
    registry.entries[i] = &fk_task_entries[i];
    registry.tasks[i] = task;
  }
  registry.count = (int)n;
  qsort(registry.tasks, n, sizeof *registry.tasks, by_name);
  return FK_OK;
}

static void load_once(void) {
  registry.status = load();
  if (registry.status) strncpy(registry.error, fk_last_error(), sizeof registry.error - 1);
}

static bool ready(void) {
  pthread_once(&registry.once, load_once);
  if (registry.status) fk_fail(registry.status, "%s", registry.error);
  return registry.status == FK_OK;
}

const fk_task *const *fk_tasks(int *count) {
  *count = 0;
  if (!ready()) return NULL;
  *count = registry.count;
  return registry.tasks;
}

/* Letters in common at the front and the back: enough to suggest "rms_norm" for "rmsnorm". */
static size_t likeness(const char *a, const char *b) {
  size_t n = strlen(a), m = strlen(b), front = 0, back = 0;
  while (front < n && front < m && a[front] == b[front]) front++;
  while (back < n - front && back < m - front && a[n - 1 - back] == b[m - 1 - back]) back++;
  return front + back;
}

const fk_task *fk_task_find(const char *name) {
  if (!ready()) return NULL;
  if (!name) {
    fk_fail(FK_ERROR_ARGUMENT, "expected the name of a task, got NULL");
    return NULL;
  }
  const fk_task *task = *slot(name);
  if (task) return task;
  const fk_task *near = NULL;
  size_t best = 3;
  for (int i = 0; i < registry.count; i++) {
    size_t like = likeness(name, registry.tasks[i]->name);
    if (like > best) best = like, near = registry.tasks[i];
  }
  fk_fail(FK_ERROR_NOT_FOUND, "there is no task named \"%s\"%s%s%s", name, near ? " (did you mean " : "",
          near ? near->name : "", near ? "?)" : "; `fastkernels list` shows them all");
  return NULL;
}

const fk_task_entry *fk_task_entry_of(const fk_task *task) {
  return registry.entries[task->index];
}

static const char *const isa_names[] = {"baseline", "avx2", "avx512"};

const char *fk_cpu_isa_name(int isa) {
  return isa_names[isa];
}

#if defined(__x86_64__)
/* By CPUID: clang 14 does not know this feature by name. */
static bool has_f16c(void) {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

int fk_cpu_isa(void) {
  int isa = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) isa = 1;
  if (isa && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    isa = 2;
#endif
  const char *limit = getenv("FASTKERNELS_ISA");
  for (int i = 0; limit && i < isa; i++)
    if (strcmp(limit, isa_names[i]) == 0) isa = i;
  return isa;
}
