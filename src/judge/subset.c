#include "judge/subset.h"

#include <string.h>

#include "judge/random.h"

static const fk_shape *shape_of(const fk_plan *plan, int arg) {
  return &plan->task->args[arg].shapes[plan->c->binding.layout];
}

/* The axis behind the ellipsis, or -1. */
static int row_symbol(const fk_plan *plan) {
  for (int i = 0; i < plan->task->num_args; i++)
    if (plan->tensors[i].given && shape_of(plan, i)->ellipsis) return shape_of(plan, i)->dims[0].symbol;
  return -1;
}

bool fk_subset_possible(const fk_plan *plan, int64_t *rows) {
  int symbol = row_symbol(plan);
  *rows = symbol >= 0 ? plan->c->binding.symbols[symbol] : 0;
  if (*rows <= FK_MAX_SUBSET_ROWS) return false;
  for (int i = 0; i < plan->task->num_args; i++) {
    const fk_plan_tensor *t = &plan->tensors[i];
    if (!t->given) continue;
    if (fk_type_bits(t->type) < 8) return false;
    const fk_shape *s = shape_of(plan, i);
    /* A written tensor without rows would mix them; a size that follows from the number of rows would change. */
    if (t->written && !s->ellipsis) return false;
    for (int32_t d = s->ellipsis; d < s->ndim; d++)
      if (s->dims[d].symbol == symbol || s->dims[d].expr) return false;
  }
  return true;
}

fk_status fk_subset_make(const fk_plan *plan, int64_t count, uint64_t seed, fk_subset *subset) {
  int64_t rows;
  if (!fk_subset_possible(plan, &rows))
    return fk_fail(FK_ERROR_UNSUPPORTED, "%s: the case cannot be judged by rows", plan->task->name);
  subset->of = plan;
  subset->c = *plan->c;
  subset->count = count < 1 ? 1 : count > FK_MAX_SUBSET_ROWS ? FK_MAX_SUBSET_ROWS : count;
  for (int64_t k = 0; k + 1 < subset->count; k++)
    subset->rows[k] = (int64_t)fk_below(fk_random(seed, (uint64_t)k), (uint64_t)rows);
  subset->rows[subset->count - 1] = rows - 1; /* where a tile that is not full ends */
  subset->c.binding.symbols[row_symbol(plan)] = subset->count;
  subset->c.binding.lead_ndim = 1;
  subset->c.binding.lead[0] = subset->count;
  for (int i = 0; i < plan->task->num_args; i++) {
    fk_case_tensor *t = &subset->c.tensors[i];
    t->strides = NULL;
    t->num_strides = 0;
    t->strided = false;
    t->values = NULL;
    t->num_values = 0;
  }
  return fk_plan_make(&subset->c, &subset->plan);
}

static void copy_elements(const fk_plan_tensor *from, int64_t start, const char *full, const fk_plan_tensor *to,
                          int64_t at, char *base, int64_t n) {
  size_t size = fk_type_bits(to->type) / 8;
  int64_t run = from->ndim && from->strides[from->ndim - 1] == 1 ? from->shape[from->ndim - 1] : 1;
  for (int64_t k = 0; k < n; k += run)
    memcpy(base + to->data + (size_t)(at + k) * size, full + from->data + fk_plan_offset(from, start + k),
           (size_t)run * size);
}

void fk_subset_copy(const fk_subset *s, const void *full, void *base) {
  for (int i = 0; i < s->plan.task->num_args; i++) {
    const fk_plan_tensor *from = &s->of->tensors[i], *to = &s->plan.tensors[i];
    if (!from->given) continue;
    int64_t n = 1;
    for (int32_t d = 0; d < to->ndim; d++) n *= to->shape[d];
    if (!shape_of(s->of, i)->ellipsis) {
      copy_elements(from, 0, full, to, 0, base, n);
      continue;
    }
    int64_t each = n / s->count;
    for (int64_t k = 0; k < s->count && each > 0; k++)
      copy_elements(from, s->rows[k] * each, full, to, k * each, base, each);
  }
}
