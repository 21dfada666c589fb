#include "engine/simulate.h"

#include <stdlib.h>
#include <string.h>

#include "engine/cache.h"

fk_status fk_workload_encode(fk_workload *w, const fk_tokenizer *tokenizer) {
  for (int64_t i = 0; w->kind == FK_WORKLOAD_SEQUENCES && i < w->count; i++) {
    fk_request *r = &w->requests[i];
    if (r->input_length) continue;
    if (!tokenizer)
      return fk_fail(FK_ERROR_ARGUMENT, "workload %s: request %lld is text: the model's folder needs a tokenizer.json",
                     w->name, (long long)i);
    int32_t *ids;
    size_t count;
    fk_status status = fk_tokenizer_encode(tokenizer, r->text, strlen(r->text), &w->arena, &ids, &count);
    if (status) return fk_fail_in(status, "workload %s: request %lld", w->name, (long long)i);
    if (count == 0 || count > FK_MAX_REQUEST_LENGTH)
      return fk_fail(FK_ERROR_ARGUMENT, "workload %s: request %lld: expected 1 to %d tokens, got %zu", w->name,
                     (long long)i, FK_MAX_REQUEST_LENGTH, count);
    r->input_ids = ids;
    r->input_length = (int64_t)count;
  }
  return FK_OK;
}

/* ---- Sequences ------------------------------------------------------------------------------------------- */

static fk_status freeze(fk_capture *capture, const fk_batch *b) {
  const fk_tensor *list[] = {b->input_ids,    b->positions,   b->cu_seqlens_q, b->seq_lens,
                             b->slot_mapping, b->block_table, b->state_slots,  b->logits_indices};
  for (size_t i = 0; i < sizeof list / sizeof *list; i++) FK_TRY(fk_capture_freeze(capture, list[i]));
  return FK_OK;
}

/* Runs one batch and says which tokens it yields; *tokens is NULL on meta and for models without a head. */
static fk_status run_step(fk_context *ctx, const fk_model *model, const fk_batch *batch, int32_t **tokens) {
  const fk_sequence_ops *ops = model->class->sequence;
  int64_t n = batch->logits_indices->shape[0];
  *tokens = NULL;
  fk_tensor *logits = fk_empty(ctx, model->dtype, n, ops->output_size(model->state));
  if (!logits) return FK_ERROR_MEMORY;
  FK_TRY(fk_model_step(ctx, model, batch, logits));
  if (ops->vocab_size(model->state) == 0) return FK_OK;
  fk_tensor *best = fk_empty(ctx, FK_I64, n);
  if (!best) return FK_ERROR_MEMORY;
  FK_TRY(fk_call(ctx, "argmax", logits, best));
  if (fk_context_backend(ctx) == FK_META) return FK_OK;
  FK_TRY(fk_move_to_host(ctx, &best));
  int32_t *list = fk_host_scratch(ctx, (size_t)n * sizeof *list);
  if (!list) return FK_ERROR_MEMORY;
  for (int64_t i = 0; i < n; i++) list[i] = (int32_t)((const int64_t *)fk_data(best))[i];
  *tokens = list;
  return FK_OK;
}

static fk_status run_all(fk_context *ctx, const fk_model *model, const fk_caches *caches, fk_batcher *batcher,
                         fk_capture *capture) {
  for (;;) {
    fk_batch *batch;
    int32_t *tokens;
    FK_TRY(fk_batcher_next(batcher, &batch));
    if (!batch) return fk_batcher_check(batcher);
    batch->caches = caches->tensors;
    FK_TRY(freeze(capture, batch));
    FK_TRY(run_step(ctx, model, batch, &tokens));
    FK_TRY(fk_capture_step(capture));
    FK_TRY(fk_batcher_commit(batcher, tokens));
    fk_context_reset(ctx);
  }
}

static fk_status check_ids(const fk_workload *w, int64_t num_embeddings) {
  for (int64_t i = 0; i < w->count; i++)
    for (int64_t k = 0; w->requests[i].input_ids && k < w->requests[i].input_length; k++)
      if (w->requests[i].input_ids[k] >= num_embeddings)
        return fk_fail(FK_ERROR_ARGUMENT, "workload %s: request %lld: expected ids below %lld, got %d", w->name,
                       (long long)i, (long long)num_embeddings, w->requests[i].input_ids[k]);
  return FK_OK;
}

static fk_status keep_first(const fk_batcher *batcher, fk_simulation *s) {
  const int32_t *tokens = fk_batcher_output(batcher, 0, &s->num_first_output);
  s->first_output = malloc((size_t)(s->num_first_output + 1) * sizeof *s->first_output);
  if (!s->first_output) return fk_fail(FK_ERROR_MEMORY, "simulation: cannot allocate");
  if (s->num_first_output) memcpy(s->first_output, tokens, (size_t)s->num_first_output * sizeof *tokens);
  return FK_OK;
}

static fk_status simulate_sequences(fk_context *ctx, const fk_model *model, const fk_workload *w,
                                    const fk_batching_options *options, fk_capture *capture, fk_simulation *s) {
  const fk_sequence_ops *ops = model->class->sequence;
  if (!ops)
    return fk_fail(FK_ERROR_ARGUMENT, "%s takes no token sequences: its workload needs \"inputs\"", model->class->name);
  if (w->count == 0)
    return fk_fail(FK_ERROR_ARGUMENT, "workload %s: no request fits the model's %lld positions", w->name,
                   (long long)ops->max_position(model->state));
  fk_batching_options o = *options;
  o.num_embeddings = ops->num_embeddings(model->state);
  o.state_slots = fk_model_has_state(model);
  FK_TRY(check_ids(w, o.num_embeddings));
  fk_batcher *batcher;
  FK_TRY(fk_batcher_create(&o, w->requests, w->count, &batcher));
  const fk_batching_stats *stats = fk_batcher_stats(batcher);
  fk_caches caches;
  fk_status status = fk_caches_create(ctx, model, stats->num_blocks, stats->block_size, stats->max_num_seqs, &caches);
  if (!status) status = run_all(ctx, model, &caches, batcher, capture);
  if (!status && fk_context_backend(ctx) != FK_META) status = keep_first(batcher, s);
  s->stats = *stats;
  s->cache_bytes = caches.bytes;
  fk_caches_destroy(&caches);
  fk_batcher_destroy(batcher);
  return status;
}

/* ---- Tensors --------------------------------------------------------------------------------------------- */

static fk_status simulate_inputs(fk_context *ctx, const fk_model *model, const fk_workload *w, fk_capture *capture,
                                 fk_simulation *s) {
  if (fk_context_backend(ctx) != FK_META)
    return fk_fail(FK_ERROR_UNSUPPORTED, "workload %s gives shapes and no content: capture it on device meta", w->name);
  for (int64_t i = 0; i < w->count; i++) {
    fk_tensors inputs = {0}, outputs = {0};
    for (int k = 0; k < w->items[i].count; k++) {
      const fk_input_spec *spec = &w->items[i].specs[k];
      fk_tensor *t = fk_empty_shape(ctx, spec->type, spec->shape, spec->ndim);
      if (!t) return FK_ERROR_MEMORY;
      FK_TRY(fk_tensors_put(&inputs, spec->name, t));
    }
    fk_status status = fk_model_forward(ctx, model, &inputs, &outputs);
    if (!status) status = fk_capture_step(capture);
    if (status) return fk_fail_in(status, "workload %s: inputs %lld", w->name, (long long)i);
    fk_context_reset(ctx);
    s->stats.steps++;
  }
  s->stats.requests = w->count;
  return FK_OK;
}

/* ---- The whole ------------------------------------------------------------------------------------------- */

fk_status fk_simulate(fk_context *ctx, const fk_model *model, const fk_workload *workload,
                      const fk_batching_options *options, fk_capture *capture, fk_simulation *s) {
  *s = (fk_simulation){.kind = workload->kind};
  fk_context_record(ctx, fk_capture_recorder(capture));
  fk_status status = workload->kind == FK_WORKLOAD_SEQUENCES
                         ? simulate_sequences(ctx, model, workload, options, capture, s)
                         : simulate_inputs(ctx, model, workload, capture, s);
  fk_context_record(ctx, NULL);
  fk_context_reset(ctx);
  if (!status) status = fk_capture_finish(capture);
  if (status) fk_simulation_free(s);
  return status;
}

void fk_simulation_free(fk_simulation *s) {
  free(s->first_output);
  *s = (fk_simulation){0};
}

static const char smallest[] = "{\"name\": \"one step\", \"requests\": [{\"input_length\": 4, \"output_length\": 2}]}";

/* The built-in workload that has the model's name: what a model without token sequences is run on by default. */
static bool has_own_workload(const fk_model *model) {
  for (int i = 0; i < fk_workload_count; i++)
    if (strcmp(fk_workloads[i].name, model->class->name) == 0) return true;
  return false;
}

static fk_status open_workload(const char *source, int64_t max_requests, const fk_model *model, fk_workload **w) {
  if (source)
    FK_TRY(fk_workload_open(source, max_requests, w));
  else if (has_own_workload(model))
    FK_TRY(fk_workload_open(model->class->name, max_requests, w));
  else
    FK_TRY(fk_workload_parse(smallest, strlen(smallest), "built-in workload", 0, w));
  if (model->class->sequence) fk_workload_limit(*w, model->class->sequence->max_position(model->state));
  return FK_OK;
}

fk_status fk_capture_model(const char *source, const char *workload, int64_t max_requests,
                           const fk_capture_options *options, fk_capture **out) {
  fk_context *ctx = NULL;
  fk_model *model = NULL;
  fk_workload *w = NULL;
  fk_capture *capture = NULL;
  fk_simulation simulation = {0};
  *out = NULL;
  fk_status status = fk_context_create(&(fk_context_options){.backend = FK_META}, &ctx);
  if (!status) status = fk_model_open(ctx, source, &(fk_model_options){0}, &model);
  if (!status) status = open_workload(workload, max_requests, model, &w);
  if (!status) status = fk_workload_encode(w, NULL);
  if (!status) status = fk_capture_create(options, &capture);
  if (!status) status = fk_simulate(ctx, model, w, &(fk_batching_options){0}, capture, &simulation);
  fk_simulation_free(&simulation);
  fk_workload_close(w);
  fk_model_close(model);
  fk_context_destroy(ctx);
  if (status) {
    fk_capture_destroy(capture);
    return status;
  }
  *out = capture;
  return FK_OK;
}
