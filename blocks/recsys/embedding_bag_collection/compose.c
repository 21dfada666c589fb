#include "core/convert.h"
#include "tasks/embedding_bag_collection.h"

static int64_t at(const fk_tensor *t, int64_t i) {
  return fk_load_i64(fk_type_of(t), fk_data(t), i);
}

/* Offsets run from 0 to total and never fall, or have no content. */
static fk_status check(const fk_tensor *t, const char *name, const char *of, int64_t total) {
  int64_t count = fk_size(t, 0), last = 0;
  for (int64_t i = 0; i < count && t->data; i++) {
    int64_t x = at(t, i);
    if (i == 0 ? x != 0 : x < last)
      return fk_fail(FK_ERROR_ARGUMENT, "%s[%lld]: expected %s%lld, got %lld", name, (long long)i,
                     i == 0 ? "" : "at least ", (long long)last, (long long)x);
    last = x;
  }
  if (!t->data || last == total) return FK_OK;
  return fk_fail(FK_ERROR_ARGUMENT, "%s: expected the last one to be the number of %s, %lld, got %lld", name, of,
                 (long long)total, (long long)last);
}

/* Offset i of count equal parts of total where the tensor has no content. */
static int64_t offset_at(const fk_tensor *t, int64_t i, int64_t total) {
  int64_t parts = fk_size(t, 0) - 1;
  if (t->data) return at(t, i);
  return parts ? (int64_t)((double)total * (double)i / (double)parts) : 0;
}

static fk_status pool(fk_context *ctx, const fk_embedding_bag_collection_args *a, const fk_tensor *offsets,
                      const fk_tensor *tables, int64_t table) {
  int64_t batch = fk_size(a->out, 0), dim = fk_size(a->out, 2), first = table * batch;
  int64_t count = fk_size(a->values, 0), rows = fk_size(a->weight, 0), top = offset_at(tables, table, rows);
  int64_t start = offset_at(offsets, first, count), end = offset_at(offsets, first + batch, count);
  fk_tensor *bags = fk_host(ctx, FK_I64, batch + 1);
  if (!bags) return FK_ERROR_MEMORY;
  for (int64_t i = 0; i <= batch; i++) ((int64_t *)bags->data)[i] = offset_at(offsets, first + i, count) - start;
  const fk_tensor *factors = a->per_sample_weights ? fk_slice(ctx, a->per_sample_weights, 0, start, end - start) : NULL;
  fk_tensor *out = fk_view(ctx, fk_slice(ctx, a->out, 1, table, 1), batch, dim);
  return fk_call(ctx, "embedding_bag", fk_slice(ctx, a->values, 0, start, end - start), fk_to_device(ctx, bags),
                 factors, fk_slice(ctx, a->weight, 0, top, offset_at(tables, table + 1, rows) - top), a->mode, out);
}

fk_status fk_compose_embedding_bag_collection(fk_context *ctx, const fk_embedding_bag_collection_args *a) {
  const fk_tensor *offsets = fk_to_host(ctx, a->offsets), *tables = fk_to_host(ctx, a->table_offsets);
  if (!offsets || !tables) return FK_ERROR_MEMORY;
  FK_TRY(check(offsets, "offsets", "values", fk_size(a->values, 0)));
  FK_TRY(check(tables, "table_offsets", "rows", fk_size(a->weight, 0)));
  for (int64_t t = 0; t + 1 < fk_size(tables, 0); t++) {
    fk_status status = pool(ctx, a, offsets, tables, t);
    if (status) return fk_fail_in(status, "table %lld", (long long)t);
  }
  return FK_OK;
}
