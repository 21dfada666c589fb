#include "judge/ranks.h"

#include <string.h>

static int find_symbol(const fk_task *task, const char *name) {
  for (int i = 0; i < task->num_symbols; i++)
    if (strcmp(task->symbols[i].name, name) == 0) return i;
  return -1;
}

static int find_attribute(const fk_task *task, const char *name) {
  for (int i = 0; i < task->num_args; i++)
    if (task->args[i].role == FK_ATTRIBUTE && strcmp(task->args[i].name, name) == 0) return i;
  return -1;
}

bool fk_task_is_collective(const fk_task *task) {
  return find_symbol(task, "ranks") >= 0 && find_attribute(task, "world_size") >= 0 &&
         find_attribute(task, "rank") >= 0 && find_attribute(task, "comm") >= 0;
}

int64_t fk_case_ranks(const fk_case *c) {
  return fk_task_is_collective(c->task) ? c->binding.symbols[find_symbol(c->task, "ranks")] : 0;
}

static void set_attribute(fk_case *c, const char *name, int64_t value) {
  int arg = find_attribute(c->task, name);
  c->attributes[arg] = (double)value;
  if (c->task->args[arg].symbol >= 0) c->binding.symbols[c->task->args[arg].symbol] = value;
}

void fk_case_set_ranks(fk_case *c, int64_t n) {
  c->binding.symbols[find_symbol(c->task, "ranks")] = n;
  set_attribute(c, "world_size", n);
}

/* Led by the axis: one slice of it for every rank. */
static bool is_split(const fk_plan *whole, int arg) {
  const fk_shape *s = &whole->task->args[arg].shapes[whole->c->binding.layout];
  return s->ndim > 0 && !s->ellipsis && s->dims[0].symbol == find_symbol(whole->task, "ranks");
}

fk_status fk_rank_make(const fk_plan *whole, int rank, fk_rank_call *call) {
  const fk_task *task = whole->task;
  call->c = *whole->c;
  call->rank = rank;
  call->comm_arg = find_attribute(task, "comm");
  call->c.binding.symbols[find_symbol(task, "ranks")] = 1;
  set_attribute(&call->c, "rank", rank);
  for (int i = 0; i < task->num_args; i++) {
    fk_case_tensor *t = &call->c.tensors[i];
    t->strides = NULL;
    t->num_strides = 0;
    t->values = NULL; /* contents come from the whole */
    t->num_values = 0;
  }
  FK_TRY(fk_plan_make(&call->c, &call->plan));
  for (int i = 0; i < task->num_args; i++) {
    const fk_plan_tensor *all = &whole->tensors[i], *own = &call->plan.tensors[i];
    if (all->given && all->span != own->span * (is_split(whole, i) ? (uint64_t)fk_case_ranks(whole->c) : 1))
      return fk_fail(FK_ERROR_ARGUMENT, "%s: %s: expected contiguous parts, one for each rank", task->name,
                     task->args[i].name);
  }
  return FK_OK;
}

/* Where the rank's part lies in the whole. */
static uint64_t offset_of(const fk_plan *whole, const fk_rank_call *call, int arg) {
  uint64_t skipped = is_split(whole, arg) ? (uint64_t)call->rank * call->plan.tensors[arg].span : 0;
  return whole->tensors[arg].data + skipped;
}

fk_status fk_rank_scatter(const fk_plan *whole, const void *from, const fk_rank_call *call, uint64_t seed, void *base) {
  FK_TRY(fk_plan_fill(&call->plan, base, seed));
  for (int i = 0; i < whole->task->num_args; i++) {
    const fk_plan_tensor *t = &call->plan.tensors[i];
    if (!t->given || t->alias >= 0 || t->span == 0) continue;
    memcpy((char *)base + t->data, (const char *)from + offset_of(whole, call, i), t->span);
  }
  return FK_OK;
}

void fk_rank_gather(const fk_plan *whole, void *to, const fk_rank_call *call, const void *base) {
  for (int i = 0; i < whole->task->num_args; i++) {
    const fk_plan_tensor *t = &call->plan.tensors[i];
    if (!t->given || !t->written || t->span == 0) continue;
    memcpy((char *)to + offset_of(whole, call, i), (const char *)base + t->data, t->span);
  }
}
