/* Padded inputs to packed tokens, and back (bert.h). */
#include <stdio.h>
#include <string.h>

#include "bert.h"
#include "core/convert.h"
#include "core/kernel.h"

enum { PARALLEL = 1 << 16 }; /* elements from which on threads pay */

/* An integer of an input. On meta an input may have no data: then every token is real, and its id 0. */
static int64_t int_at(const fk_tensor *t, int64_t i, int64_t otherwise) {
  return t && t->data ? fk_load_i64(fk_type_of(t), fk_data(t), i) : otherwise;
}

/* ---- Inputs ---------------------------------------------------------------------------------------------- */

static const char *const names[] = {"input_ids", "attention_mask", "token_type_ids", "position_ids"};

fk_bert_inputs fk_bert_find(const fk_tensors *inputs, const char *prefix) {
  fk_tensor *found[4];
  for (int i = 0; i < 4; i++) {
    char name[64];
    snprintf(name, sizeof name, "%s%s", prefix, names[i]);
    found[i] = fk_tensors_get(inputs, name);
  }
  return (fk_bert_inputs){prefix, found[0], found[1], found[2], found[3]};
}

fk_status fk_bert_only(const fk_tensors *inputs, const char *const *known) {
  char list[512] = "";
  for (int i = 0; i < inputs->count; i++) {
    int k = 0;
    while (known[k] && strcmp(inputs->items[i].name, known[k]) != 0) k++;
    if (known[k]) continue;
    for (k = 0; known[k]; k++) {
      size_t used = strlen(list);
      snprintf(list + used, sizeof list - used, "%s%s", k ? ", " : "", known[k]);
    }
    return fk_fail(FK_ERROR_ARGUMENT, "%s: unknown input; expected some of %s", inputs->items[i].name, list);
  }
  return FK_OK;
}

static fk_status check_input(const fk_bert_inputs *in, const fk_tensor *t, const char *name, bool broadcast) {
  if (!t) return FK_OK;
  if (!(fk_type_is_int(fk_type_of(t)) || fk_type_of(t) == FK_BOOL) || !fk_is_contiguous(t))
    return fk_fail(FK_ERROR_ARGUMENT, "%s%s: expected contiguous integers, got dtype %s", in->prefix, name,
                   fk_type_name(fk_type_of(t)));
  if (t->ndim != 2)
    return fk_fail(FK_ERROR_ARGUMENT, "%s%s: expected shape [batch, sequence], got %d dimensions", in->prefix, name,
                   t->ndim);
  const int64_t *want = in->input_ids->shape;
  if (t->shape[1] != want[1] || !(t->shape[0] == want[0] || (broadcast && t->shape[0] == 1)))
    return fk_fail(FK_ERROR_ARGUMENT, "%s%s: expected shape [%lld, %lld] as input_ids has, got [%lld, %lld]",
                   in->prefix, name, (long long)want[0], (long long)want[1], (long long)t->shape[0],
                   (long long)t->shape[1]);
  return FK_OK;
}

static fk_status check_inputs(const fk_bert *m, const fk_bert_inputs *in) {
  if (!in->input_ids) return fk_fail(FK_ERROR_ARGUMENT, "%sinput_ids: the input is missing", in->prefix);
  FK_TRY(check_input(in, in->input_ids, names[0], false));
  FK_TRY(check_input(in, in->attention_mask, names[1], false));
  FK_TRY(check_input(in, in->token_type_ids, names[2], false));
  FK_TRY(check_input(in, in->position_ids, names[3], true));
  int64_t batch = in->input_ids->shape[0], length = in->input_ids->shape[1];
  if (length > m->longest)
    return fk_fail(FK_ERROR_ARGUMENT, "%sinput_ids: a sequence of %lld tokens is longer than the model's %lld",
                   in->prefix, (long long)length, (long long)m->longest);
  if (length && batch > INT32_MAX / length)
    return fk_fail(FK_ERROR_ARGUMENT, "%sinput_ids: more than 2^31 tokens", in->prefix);
  return FK_OK;
}

/* ---- Packing --------------------------------------------------------------------------------------------- */

static fk_status allocate(fk_context *ctx, int64_t tokens, fk_bert_batch *b) {
  b->place = fk_host_scratch(ctx, (size_t)(tokens + 1) * sizeof *b->place);
  b->input_ids = fk_host(ctx, FK_I32, tokens);
  b->position_ids = fk_host(ctx, FK_I32, tokens);
  b->token_type_ids = fk_host(ctx, FK_I32, tokens);
  b->cu_seqlens = fk_host(ctx, FK_I32, b->batch + 1);
  if (!b->place || !b->input_ids || !b->position_ids || !b->token_type_ids || !b->cu_seqlens) return FK_ERROR_MEMORY;
  b->tokens = tokens;
  b->ids = b->input_ids->data;
  b->offsets = b->cu_seqlens->data;
  return FK_OK;
}

/* The filled batch goes where tasks can use it. */
static fk_status hand_over(fk_context *ctx, fk_bert_batch *b) {
  fk_tensor **const all[] = {&b->input_ids, &b->position_ids, &b->token_type_ids, &b->cu_seqlens, &b->seq_lens};
  for (int i = 0; i < 5; i++) FK_TRY(fk_move_to_device(ctx, all[i]));
  return FK_OK;
}

static fk_status put(const fk_bert_inputs *in, const char *name, int64_t value, int64_t below, int64_t row,
                     int64_t column, fk_tensor *to, int64_t at) {
  if (value < 0 || value >= below)
    return fk_fail(FK_ERROR_ARGUMENT, "%s%s[%lld, %lld]: expected a number below %lld, got %lld", in->prefix, name,
                   (long long)row, (long long)column, (long long)below, (long long)value);
  ((int32_t *)to->data)[at] = (int32_t)value;
  return FK_OK;
}

/* Positions of one row [S]. transformers counts for RoBERTa what is not padding by its id, whatever the mask says. */
static void row_positions(const fk_bert *m, const fk_bert_inputs *in, int64_t row, int64_t *positions) {
  int64_t length = in->input_ids->shape[1], given = in->position_ids && in->position_ids->shape[0] > 1 ? row : 0;
  for (int64_t s = 0, seen = 0; s < length; s++) {
    if (in->position_ids) {
      positions[s] = int_at(in->position_ids, given * length + s, 0);
    } else if (m->roberta) {
      bool real = int_at(in->input_ids, row * length + s, m->pad_token_id + 1) != m->pad_token_id;
      positions[s] = m->pad_token_id + (real ? ++seen : 0);
    } else {
      positions[s] = s;
    }
  }
}

static fk_status put_token(const fk_bert *m, const fk_bert_inputs *in, int64_t row, int64_t column, int64_t position,
                           fk_bert_batch *b, int64_t at) {
  int64_t i = row * in->input_ids->shape[1] + column;
  FK_TRY(put(in, names[0], int_at(in->input_ids, i, 0), m->vocab_size, row, column, b->input_ids, at));
  FK_TRY(put(in, names[2], int_at(in->token_type_ids, i, 0), m->type_vocab_size, row, column, b->token_type_ids, at));
  return put(in, names[3], position, m->max_position, row, column, b->position_ids, at);
}

fk_status fk_bert_pack(fk_context *ctx, const fk_bert *m, const fk_bert_inputs *in, fk_bert_batch *b) {
  FK_TRY(check_inputs(m, in));
  *b = (fk_bert_batch){.batch = in->input_ids->shape[0], .length = in->input_ids->shape[1]};
  int64_t tokens = 0, all = b->batch * b->length;
  for (int64_t i = 0; i < all; i++) tokens += int_at(in->attention_mask, i, 1) != 0;
  FK_TRY(allocate(ctx, tokens, b));
  int64_t *positions = fk_host_scratch(ctx, (size_t)(b->length + 1) * sizeof *positions), at = 0;
  if (!positions) return FK_ERROR_MEMORY;
  int32_t *offsets = b->cu_seqlens->data;
  offsets[0] = 0;
  for (int64_t row = 0; row < b->batch; row++) {
    row_positions(m, in, row, positions);
    for (int64_t column = 0; column < b->length; column++) {
      if (int_at(in->attention_mask, row * b->length + column, 1) == 0) continue;
      FK_TRY(put_token(m, in, row, column, positions[column], b, at));
      b->place[at++] = row * b->length + column;
    }
    offsets[row + 1] = (int32_t)at;
  }
  return hand_over(ctx, b);
}

fk_status fk_bert_pack_filled(fk_context *ctx, const fk_bert *m, const fk_bert_inputs *in, int64_t length,
                              int64_t fill_id, bool attend, fk_bert_batch *b) {
  FK_TRY(check_inputs(m, in));
  int64_t given = in->input_ids->shape[1];
  *b = (fk_bert_batch){.batch = in->input_ids->shape[0], .length = given > length ? given : length};
  if (in->position_ids || in->token_type_ids)
    return fk_fail(FK_ERROR_ARGUMENT, "%stoken_type_ids, %sposition_ids: queries take none", in->prefix, in->prefix);
  if (b->length && b->batch > INT32_MAX / b->length)
    return fk_fail(FK_ERROR_ARGUMENT, "%sinput_ids: more than 2^31 tokens", in->prefix);
  FK_TRY(allocate(ctx, b->batch * b->length, b));
  if (!(b->seq_lens = fk_host(ctx, FK_I32, b->batch))) return FK_ERROR_MEMORY;
  for (int64_t row = 0; row < b->batch; row++) {
    int64_t real = 0, at = row * b->length;
    while (real < given && int_at(in->attention_mask, row * given + real, 1) != 0) real++;
    for (int64_t s = real; s < given; s++)
      if (int_at(in->attention_mask, row * given + s, 1) != 0)
        return fk_fail(FK_ERROR_ARGUMENT, "%sattention_mask[%lld, %lld]: expected padding at the end only", in->prefix,
                       (long long)row, (long long)s);
    for (int64_t s = 0; s < b->length; s++) {
      int64_t id = s < real ? int_at(in->input_ids, row * given + s, 0) : fill_id;
      FK_TRY(put(in, names[0], id, m->vocab_size, row, s, b->input_ids, at + s));
      FK_TRY(put(in, names[3], s, m->max_position, row, s, b->position_ids, at + s));
      ((int32_t *)b->token_type_ids->data)[at + s] = 0;
      b->place[at + s] = at + s;
    }
    ((int32_t *)b->seq_lens->data)[row] = (int32_t)(attend ? b->length : real);
  }
  for (int64_t row = 0; row <= b->batch; row++) ((int32_t *)b->cu_seqlens->data)[row] = (int32_t)(row * b->length);
  return hand_over(ctx, b);
}

/* ---- Back to the padded form ----------------------------------------------------------------------------- */

static fk_type output_type(const fk_context *ctx) {
  return fk_context_backend(ctx) == FK_REF ? FK_F64 : FK_F32;
}

/* Row i of rows to row place[i] of out; the others become zero. */
static fk_status scatter(const fk_tensor *rows, const int64_t *place, fk_tensor *out) {
  if (!out->data) return FK_OK; /* meta */
  int64_t n = fk_size(out, -1), count = fk_rows(rows);
  fk_type to = fk_type_of(out), from = fk_type_of(rows);
  fk_status status = FK_OK;
  memset(out->data, 0, fk_type_bytes(to, fk_numel(out)));
#pragma omp parallel for if (count * n > PARALLEL) reduction(| : status)
  for (int64_t i = 0; i < count; i++)
    status |= fk_convert_row(to, (char *)out->data + fk_type_bytes(to, place[i] * n), from,
                             (const char *)fk_data(rows) + fk_type_bytes(from, i * n), n);
  return status;
}

/* The rows of the device, put in their places in host memory. */
static fk_status spread(fk_context *ctx, const fk_tensor *rows, const int64_t *place, fk_tensor *out) {
  if (!out || !rows) return FK_ERROR_MEMORY;
  fk_tensor *copy = fk_view_shape(ctx, rows, rows->shape, rows->ndim);
  FK_TRY(fk_move_to_host(ctx, &copy));
  return copy ? scatter(copy, place, out) : FK_ERROR_MEMORY;
}

fk_status fk_bert_unpack(fk_context *ctx, const fk_bert_batch *b, const fk_tensor *rows, fk_tensor **padded) {
  *padded = fk_host(ctx, output_type(ctx), b->batch, b->length, fk_size(rows, -1));
  return spread(ctx, rows, b->place, *padded);
}

fk_status fk_bert_first(fk_context *ctx, const fk_bert_batch *b, const fk_tensor *rows, fk_tensor **first,
                        int64_t **sequences) {
  int64_t count = 0, at = 0;
  for (int64_t i = 0; i < b->batch; i++) count += b->offsets[i + 1] > b->offsets[i];
  fk_tensor *index = fk_host(ctx, FK_I32, count);
  *sequences = fk_host_scratch(ctx, (size_t)(count + 1) * sizeof **sequences);
  *first = fk_empty(ctx, fk_type_of(rows), count, fk_size(rows, -1));
  if (!index || !*sequences || !*first) return FK_ERROR_MEMORY;
  for (int64_t i = 0; i < b->batch; i++) {
    if (b->offsets[i + 1] == b->offsets[i]) continue;
    ((int32_t *)index->data)[at] = b->offsets[i];
    (*sequences)[at++] = i;
  }
  FK_TRY(fk_move_to_device(ctx, &index));
  return fk_call(ctx, "embedding", index, rows, *first); /* picking rows is a look-up */
}

fk_status fk_bert_spread(fk_context *ctx, const fk_bert_batch *b, const fk_tensor *first, const int64_t *sequences,
                         fk_tensor **out) {
  *out = fk_host(ctx, output_type(ctx), b->batch, fk_size(first, -1));
  return spread(ctx, first, sequences, *out);
}
