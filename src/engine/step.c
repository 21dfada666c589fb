#include "engine/step.h"

#include <string.h>

#include "core/convert.h"

/* ---- The level-4 definition ------------------------------------------------------------------------------ */

static const char definition[] =
    "{\"name\": \"%s_step\", \"level\": 4, \"family\": \"model\","
    " \"summary\": \"One step of a sequence model over a batch packed without padding.\","
    " \"mirrors\": [{\"library\": \"vllm\", \"symbol\": \"%s.forward\", \"arguments\": [\"input_ids\", "
    "\"positions\"]}],"
    " \"axes\": {\"num_tokens\": \"var\", \"num_seqs\": \"var\", \"max_blocks_per_seq\": \"var\","
    " \"num_logits\": \"var\", \"output_size\": \"const\"},"
    " \"inputs\": {"
    "\"input_ids\": {\"shape\": [\"num_tokens\"], \"dtype\": \"int32\"},"
    "\"positions\": {\"shape\": [\"num_tokens\"], \"dtype\": \"int64\"},"
    "\"cu_seqlens_q\": {\"shape\": [\"num_seqs + 1\"], \"dtype\": \"int32\"},"
    "\"seq_lens\": {\"shape\": [\"num_seqs\"], \"dtype\": \"int32\"},"
    "\"slot_mapping\": {\"shape\": [\"num_tokens\"], \"dtype\": \"int64\"},"
    "\"block_table\": {\"shape\": [\"num_seqs\", \"max_blocks_per_seq\"], \"dtype\": \"int32\"},"
    "\"state_slots\": {\"shape\": [\"num_seqs\"], \"dtype\": \"int32\", \"optional\": true},"
    "\"logits_indices\": {\"shape\": [\"num_logits\"], \"dtype\": \"int32\"}},"
    " \"outputs\": {\"logits\": {\"shape\": [\"num_logits\", \"output_size\"],"
    " \"dtype\": [\"float32\", \"bfloat16\", \"float16\"]}},"
    " \"flops\": \"0\", \"tolerance\": \"attention\"}";

fk_status fk_step_task(fk_arena *arena, const fk_model_class *class, const fk_task **task) {
  fk_task *parsed;
  const char *json = fk_arena_printf(arena, definition, class->name, class->architectures[0]);
  if (!json) return FK_ERROR_MEMORY;
  FK_TRY(fk_task_parse(arena, json, strlen(json), class->name, &parsed));
  parsed->index = -1;
  *task = parsed;
  return FK_OK;
}

/* ---- Checks ---------------------------------------------------------------------------------------------- */

/* An integer of a host tensor: int32, or int64 on ref. */
static int64_t at(const fk_tensor *t, int64_t i) {
  return fk_load_i64(fk_type_of(t), fk_data(t), i);
}

/* On meta a tensor may have no data, on cuda it may lie in GPU memory: nothing to check. */
static bool is_readable(const fk_tensor *t) {
  return t->data && t->device.type == FK_DL_CPU;
}

/* Every element of an integer tensor lies in [min, max]. */
static fk_status check_range(const fk_tensor *t, const char *name, int64_t min, int64_t max) {
  int64_t n = is_readable(t) ? fk_numel(t) : 0;
  for (int64_t i = 0; i < n; i++)
    if (at(t, i) < min || at(t, i) > max)
      return fk_fail(FK_ERROR_ARGUMENT, "%s[%lld]: expected a value from %lld to %lld, got %lld", name, (long long)i,
                     (long long)min, (long long)max, (long long)at(t, i));
  return FK_OK;
}

/* Sequences cover the tokens in order, and each has the blocks that it needs. */
static fk_status check_sequences(const fk_batch *b, int64_t num_blocks, int64_t block_size) {
  int64_t count = b->seq_lens->shape[0], tokens = b->input_ids->shape[0], width = b->block_table->shape[1];
  if (!is_readable(b->cu_seqlens_q) || !is_readable(b->seq_lens)) return FK_OK;
  if (at(b->cu_seqlens_q, 0) != 0 || at(b->cu_seqlens_q, count) != tokens)
    return fk_fail(FK_ERROR_ARGUMENT, "cu_seqlens_q: expected to run from 0 to %lld tokens, got %lld to %lld",
                   (long long)tokens, (long long)at(b->cu_seqlens_q, 0), (long long)at(b->cu_seqlens_q, count));
  for (int64_t i = 0; i < count; i++) {
    int64_t added = at(b->cu_seqlens_q, i + 1) - at(b->cu_seqlens_q, i), length = at(b->seq_lens, i);
    if (added < 0 || length < added || length > width * block_size)
      return fk_fail(FK_ERROR_ARGUMENT,
                     "sequence %lld: expected 0 <= new tokens <= seq_len <= %lld (its blocks), got %lld new tokens and "
                     "seq_len %lld",
                     (long long)i, (long long)(width * block_size), (long long)added, (long long)length);
    for (int64_t k = 0; is_readable(b->block_table) && k * block_size < length; k++) {
      int64_t block = at(b->block_table, i * fk_stride(b->block_table, 0) + k);
      if (block < 0 || block >= num_blocks)
        return fk_fail(FK_ERROR_ARGUMENT, "block_table[%lld, %lld]: expected a block from 0 to %lld, got %lld",
                       (long long)i, (long long)k, (long long)num_blocks - 1, (long long)block);
    }
  }
  return FK_OK;
}

/* The caches are those that the model describes; yields the size of the paged ones. */
static fk_status check_caches(const fk_model *model, const fk_batch *b, int64_t *num_blocks, int64_t *block_size) {
  const fk_sequence_ops *ops = model->class->sequence;
  fk_cache_spec specs[FK_MAX_CACHES];
  int count = ops->caches(model->state, NULL);
  if (count > FK_MAX_CACHES) return fk_fail(FK_ERROR_UNSUPPORTED, "more than %d caches", FK_MAX_CACHES);
  ops->caches(model->state, specs);
  *num_blocks = *block_size = -1;
  for (int i = 0; i < count; i++) {
    const fk_tensor *t = b->caches[i];
    bool paged = specs[i].kind == FK_CACHE_PAGED;
    bool fits = t && fk_type_of(t) == specs[i].type && t->ndim == specs[i].ndim + (paged ? 2 : 1);
    for (int32_t k = 0; fits && k < specs[i].ndim; k++)
      fits = t->shape[t->ndim - specs[i].ndim + k] == specs[i].shape[k];
    if (fits && paged && *num_blocks < 0) *num_blocks = t->shape[0], *block_size = t->shape[1];
    if (!fits || (paged && (t->shape[0] != *num_blocks || t->shape[1] != *block_size)))
      return fk_fail(FK_ERROR_ARGUMENT, "cache %d (%s): not of the dtype and shape that the model describes", i,
                     specs[i].name);
  }
  return FK_OK;
}

/* What a step reads through an index must be there: a wrong index would read beyond a tensor. */
fk_status fk_step_check(const fk_model *model, const fk_batch *b) {
  const fk_sequence_ops *ops = model->class->sequence;
  int64_t num_blocks, block_size;
  FK_TRY(check_caches(model, b, &num_blocks, &block_size));
  if (block_size > 0) {
    FK_TRY(check_sequences(b, num_blocks, block_size));
    FK_TRY(check_range(b->slot_mapping, "slot_mapping", -1, num_blocks * block_size - 1));
  }
  FK_TRY(check_range(b->positions, "positions", 0, ops->max_position(model->state) - 1));
  FK_TRY(check_range(b->logits_indices, "logits_indices", 0, b->input_ids->shape[0] - 1));
  return check_range(b->input_ids, "input_ids", 0, ops->num_embeddings(model->state) - 1);
}

/* ---- Running --------------------------------------------------------------------------------------------- */

enum { INDEX_TENSORS = 8, INDEX_ALIGN = 256 };

static void index_tensors(fk_batch *b, fk_tensor **list[INDEX_TENSORS]) {
  fk_tensor **const all[] = {&b->input_ids,    &b->positions,   &b->cu_seqlens_q, &b->seq_lens,
                             &b->slot_mapping, &b->block_table, &b->state_slots,  &b->logits_indices};
  memcpy(list, all, sizeof all);
}

/* Of a tensor that is to be carried over; 0 for others, malformed ones included: what binds them says what is wrong. */
static size_t room_of(const fk_tensor *t) {
  if (!t || t->device.type != FK_DL_CPU || t->ndim < 0 || t->ndim > FK_MAX_DIMS) return 0;
  for (int32_t i = 0; i < t->ndim; i++)
    if (t->shape[i] < 0 || t->shape[i] > INT32_MAX) return 0;
  if (!t->data && fk_numel(t) > 0) return 0;
  size_t bytes = fk_type_bytes(fk_type_of(t), fk_numel(t)) + 1; /* empty tensors too get a place */
  return (bytes + INDEX_ALIGN - 1) / INDEX_ALIGN * INDEX_ALIGN;
}

/* The index tensors where tasks can use them: on cuda those of the host are carried over, all in one transfer. */
static fk_status place_batch(fk_context *ctx, fk_batch *b) {
  fk_tensor **list[INDEX_TENSORS];
  size_t total = 0, offset = 0;
  if (!ctx->cuda) return FK_OK;
  index_tensors(b, list);
  for (int i = 0; i < INDEX_TENSORS; i++) total += room_of(*list[i]);
  if (total == 0) return FK_OK;
  fk_tensor *packed = fk_host(ctx, FK_U8, (int64_t)total);
  if (!packed) return FK_ERROR_MEMORY;
  for (int i = 0; i < INDEX_TENSORS; i++) {
    if (room_of(*list[i]) == 0) continue;
    fk_tensor copy = {.data = (char *)packed->data + offset, .ndim = (*list[i])->ndim, .dtype = (*list[i])->dtype};
    copy.device = (fk_device){FK_DL_CPU, 0};
    copy.shape = (*list[i])->shape;
    FK_TRY(fk_copy(*list[i], &copy));
    offset += room_of(*list[i]);
  }
  FK_TRY(fk_move_to_device(ctx, &packed));
  offset = 0;
  for (int i = 0; i < INDEX_TENSORS; i++) {
    fk_tensor *t = *list[i];
    size_t room = room_of(t);
    if (room == 0) continue;
    *list[i] = fk_wrap(ctx, (char *)packed->data + offset, fk_type_of(t), t->shape, t->ndim, NULL);
    if (!*list[i]) return FK_ERROR_MEMORY;
    offset += room;
  }
  return FK_OK;
}

static fk_status run(fk_context *ctx, const fk_model *model, const fk_batch *given, fk_tensor *logits) {
  fk_batch placed = *given;
  const fk_batch *b = &placed;
  fk_status (*step)(fk_context *, const void *, const fk_batch *, fk_tensor *) = model->class->sequence->step;
  FK_TRY(place_batch(ctx, &placed));
  if (ctx->unchecked && !ctx->recorder) return step(ctx, model->state, b, logits);
  const fk_task *task = model->step_task;
  const fk_any args[] = {
      fk_any_tensor(b->input_ids),   fk_any_tensor(b->positions),      fk_any_tensor(b->cu_seqlens_q),
      fk_any_tensor(b->seq_lens),    fk_any_tensor(b->slot_mapping),   fk_any_tensor(b->block_table),
      fk_any_tensor(b->state_slots), fk_any_tensor(b->logits_indices), fk_any_tensor(logits)};
  fk_binding binding;
  FK_TRY(fk_bind(task, ctx->backend, args, sizeof args / sizeof *args, &binding));
  if (!ctx->unchecked) {
    fk_status status = fk_step_check(model, given);
    if (status) return fk_fail_in(status, "%s", model->class->name);
  }
  fk_recorder *recorder = ctx->recorder;
  if (!recorder) return step(ctx, model->state, b, logits);
  fk_status status = FK_OK;
  if (recorder->enter(recorder, ctx, task, args, &binding)) status = step(ctx, model->state, b, logits);
  recorder->leave(recorder, ctx, task, args, status);
  return status;
}

fk_status fk_model_step(fk_context *ctx, const fk_model *model, const fk_batch *batch, fk_tensor *logits) {
  if (!model->class->sequence) return fk_fail(FK_ERROR_UNSUPPORTED, "%s: the model takes no steps", model->class->name);
  fk_context_mark mark = fk_context_save(ctx);
  fk_status status = run(ctx, model, batch, logits);
  fk_context_rewind(ctx, mark); /* the step's temporaries end with it */
  return status;
}
