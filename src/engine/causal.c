/* forward() of causal language models as one step over packed tokens (step.h). */
#include <string.h>

#include "core/convert.h"
#include "engine/step.h"

enum { BLOCK_SIZE = 16 };

/* The padded batch [B, S] as sequences of real tokens. */
typedef struct packing {
  fk_context *ctx;
  const fk_model *model;
  const fk_tensor *ids, *mask, *positions; /* mask and positions may be NULL */
  int64_t batch, length;
  int64_t tokens, seqs, longest;
  int64_t *place;   /* [tokens]: index of each packed token in [B * S] */
  int32_t *offsets; /* [seqs + 1] */
} packing;

static int64_t int_at(const fk_tensor *t, int64_t i) {
  return fk_load_i64(fk_type_of(t), fk_data(t), i);
}

/* ---- Inputs ---------------------------------------------------------------------------------------------- */

static fk_status check_input(const fk_tensor *t, const char *name, const fk_tensor *ids, bool broadcast) {
  bool is_int = fk_type_is_int(fk_type_of(t)) || fk_type_of(t) == FK_BOOL;
  if (!is_int || !fk_is_contiguous(t))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: expected contiguous integers, got dtype %s", name,
                   fk_type_name(fk_type_of(t)));
  if (t->ndim != 2)
    return fk_fail(FK_ERROR_ARGUMENT, "%s: expected shape [batch, sequence], got %d dimensions", name, t->ndim);
  bool rows = t->shape[0] == ids->shape[0] || (broadcast && t->shape[0] == 1);
  if (!rows || t->shape[1] != ids->shape[1])
    return fk_fail(FK_ERROR_ARGUMENT, "%s: expected shape [%lld, %lld] as input_ids has, got [%lld, %lld]", name,
                   (long long)ids->shape[0], (long long)ids->shape[1], (long long)t->shape[0], (long long)t->shape[1]);
  return FK_OK;
}

static fk_status read_inputs(packing *p, const fk_tensors *inputs) {
  static const char *const known[] = {"input_ids", "attention_mask", "position_ids"};
  for (int i = 0; i < inputs->count; i++) {
    size_t k = 0;
    while (k < 3 && strcmp(inputs->items[i].name, known[k]) != 0) k++;
    if (k == 3)
      return fk_fail(FK_ERROR_ARGUMENT, "%s: unknown input; expected input_ids, attention_mask or position_ids",
                     inputs->items[i].name);
  }
  p->ids = fk_tensors_get(inputs, known[0]);
  p->mask = fk_tensors_get(inputs, known[1]);
  p->positions = fk_tensors_get(inputs, known[2]);
  if (!p->ids) return fk_fail(FK_ERROR_ARGUMENT, "input_ids: the input is missing");
  FK_TRY(check_input(p->ids, known[0], p->ids, false));
  if (p->mask) FK_TRY(check_input(p->mask, known[1], p->ids, false));
  if (p->positions) FK_TRY(check_input(p->positions, known[2], p->ids, true));
  p->batch = p->ids->shape[0];
  p->length = p->ids->shape[1];
  int64_t longest = p->model->class->sequence->max_position(p->model->state);
  if (p->length > longest)
    return fk_fail(FK_ERROR_ARGUMENT, "input_ids: a sequence of %lld tokens is longer than the model's %lld",
                   (long long)p->length, (long long)longest);
  if (p->batch > INT32_MAX / (p->length ? p->length : 1))
    return fk_fail(FK_ERROR_ARGUMENT, "input_ids: more than 2^31 tokens");
  return FK_OK;
}

/* ---- Packing --------------------------------------------------------------------------------------------- */

static int64_t position(const packing *p, int64_t row, int64_t column) {
  if (!p->positions) return column;
  return int_at(p->positions, (p->positions->shape[0] == 1 ? 0 : row) * p->length + column);
}

/* Whether a token begins a sequence of its own: the first of a row, or where unmasked positions do not count up. */
static bool begins(const packing *p, int64_t row, int64_t column, int64_t in_row) {
  if (in_row == 0) return true;
  return p->positions && !p->mask && position(p, row, column) != position(p, row, column - 1) + 1;
}

static fk_status pack(packing *p) {
  int64_t all = p->batch * p->length;
  p->place = fk_host_scratch(p->ctx, (size_t)all * sizeof *p->place);
  p->offsets = fk_host_scratch(p->ctx, (size_t)(all + 1) * sizeof *p->offsets);
  if (!p->place || !p->offsets) return FK_ERROR_MEMORY;
  p->offsets[0] = 0;
  for (int64_t row = 0; row < p->batch; row++) {
    for (int64_t column = 0, in_row = 0; column < p->length; column++) {
      if (p->mask && int_at(p->mask, row * p->length + column) == 0) continue;
      if (begins(p, row, column, in_row++)) p->offsets[p->seqs++] = (int32_t)p->tokens;
      p->place[p->tokens++] = row * p->length + column;
      p->offsets[p->seqs] = (int32_t)p->tokens;
      int64_t length = p->offsets[p->seqs] - p->offsets[p->seqs - 1];
      if (length > p->longest) p->longest = length;
    }
  }
  return FK_OK;
}

/* Fresh caches with blocks for every sequence, one after the other. */
static fk_status make_caches(const packing *p, int64_t num_blocks, fk_tensor ***caches) {
  const fk_sequence_ops *ops = p->model->class->sequence;
  int count = ops->caches(p->model->state, NULL);
  fk_cache_spec *specs = fk_host_scratch(p->ctx, (size_t)count * sizeof *specs);
  *caches = fk_host_scratch(p->ctx, (size_t)count * sizeof **caches);
  if (!specs || !*caches) return FK_ERROR_MEMORY;
  ops->caches(p->model->state, specs);
  for (int i = 0; i < count; i++) {
    int64_t shape[6];
    int32_t lead = 0;
    shape[lead++] = specs[i].kind == FK_CACHE_PAGED ? num_blocks : p->seqs;
    if (specs[i].kind == FK_CACHE_PAGED) shape[lead++] = BLOCK_SIZE;
    memcpy(shape + lead, specs[i].shape, (size_t)specs[i].ndim * sizeof *shape);
    fk_tensor *t = fk_empty_shape(p->ctx, specs[i].type, shape, lead + specs[i].ndim);
    if (!t) return FK_ERROR_MEMORY;
    /* A sequence's state begins as zero; the rows of unused places are never read. */
    if (specs[i].kind == FK_CACHE_STATE) FK_TRY(fk_zero(p->ctx, t));
    (*caches)[i] = t;
  }
  return FK_OK;
}

static fk_status make_batch(const packing *p, fk_batch *b) {
  fk_context *ctx = p->ctx;
  int64_t width = (p->longest + BLOCK_SIZE - 1) / BLOCK_SIZE;
  fk_tensor **caches;
  FK_TRY(make_caches(p, p->seqs * width, &caches));
  *b = (fk_batch){.input_ids = fk_host(ctx, FK_I32, p->tokens),
                  .positions = fk_host(ctx, FK_I64, p->tokens),
                  .cu_seqlens_q = fk_host(ctx, FK_I32, p->seqs + 1),
                  .seq_lens = fk_host(ctx, FK_I32, p->seqs),
                  .slot_mapping = fk_host(ctx, FK_I64, p->tokens),
                  .block_table = fk_host(ctx, FK_I32, p->seqs, width),
                  .state_slots = fk_host(ctx, FK_I32, p->seqs),
                  .logits_indices = fk_host(ctx, FK_I32, p->tokens),
                  .caches = caches};
  if (!b->input_ids || !b->positions || !b->cu_seqlens_q || !b->seq_lens || !b->slot_mapping || !b->block_table ||
      !b->state_slots || !b->logits_indices)
    return FK_ERROR_MEMORY;
  memcpy(b->cu_seqlens_q->data, p->offsets, (size_t)(p->seqs + 1) * sizeof *p->offsets);
  int64_t rows = p->model->class->sequence->num_embeddings(p->model->state);
  for (int64_t s = 0; s < p->seqs; s++) {
    int32_t first = p->offsets[s], length = p->offsets[s + 1] - first;
    ((int32_t *)b->seq_lens->data)[s] = length;
    ((int32_t *)b->state_slots->data)[s] = (int32_t)s;
    for (int64_t k = 0; k < width; k++) ((int32_t *)b->block_table->data)[s * width + k] = (int32_t)(s * width + k);
    for (int64_t i = first; i < first + length; i++) {
      int64_t id = int_at(p->ids, p->place[i]), row = p->place[i] / p->length, column = p->place[i] % p->length;
      if (id < 0 || id >= rows) /* said here with the caller's indices, and before the id is narrowed */
        return fk_fail(FK_ERROR_ARGUMENT, "input_ids[%lld, %lld]: expected a token below %lld, got %lld",
                       (long long)row, (long long)column, (long long)rows, (long long)id);
      ((int32_t *)b->input_ids->data)[i] = (int32_t)id;
      ((int64_t *)b->positions->data)[i] = position(p, row, column);
      ((int64_t *)b->slot_mapping->data)[i] = s * width * BLOCK_SIZE + (i - first);
      ((int32_t *)b->logits_indices->data)[i] = (int32_t)i;
    }
  }
  return FK_OK;
}

/* Rows of packed tokens (NULL when there are none) to their places among the padding. */
static fk_status scatter(const packing *p, const fk_tensor *rows, fk_tensor *out) {
  if (!out->data) return FK_OK; /* meta */
  int64_t n = out->shape[2];
  fk_type to = fk_type_of(out), from = rows ? fk_type_of(rows) : to;
  memset(out->data, 0, fk_type_bytes(to, fk_numel(out)));
  for (int64_t i = 0; i < p->tokens; i++)
    FK_TRY(fk_convert_row(to, (char *)out->data + fk_type_bytes(to, p->place[i] * n), from,
                          (const char *)rows->data + fk_type_bytes(from, i * n), n));
  return FK_OK;
}

fk_status fk_causal_forward(fk_context *ctx, const fk_model *model, const char *output, const fk_tensors *inputs,
                            fk_tensors *outputs) {
  packing p = {.ctx = ctx, .model = model};
  FK_TRY(read_inputs(&p, inputs));
  int64_t columns = model->class->sequence->output_size(model->state);
  fk_tensor *out = fk_host(ctx, ctx->backend == FK_REF ? FK_F64 : FK_F32, p.batch, p.length, columns);
  if (!out) return FK_ERROR_MEMORY;
  fk_context_mark mark = fk_context_save(ctx);
  fk_tensor *rows = NULL;
  fk_status status = pack(&p);
  if (!status && p.tokens > 0) {
    fk_batch batch;
    status = make_batch(&p, &batch);
    if (!status && !(rows = fk_empty(ctx, model->dtype, p.tokens, columns))) status = FK_ERROR_MEMORY;
    if (!status) status = fk_model_step(ctx, model, &batch, rows);
    if (!status) status = fk_move_to_host(ctx, &rows);
  }
  if (!status) status = scatter(&p, rows, out);
  fk_context_rewind(ctx, mark);
  ctx->pending = FK_OK; /* a failed temporary above is this call's error, not the next one's */
  return status ? status : fk_tensors_put(outputs, output, out);
}
