#include "engine/decode_graph.h"

#include <stdlib.h>
#include <string.h>

#include "engine/step.h"

enum { ALIGN = 256, CACHE_PLACES = 8, TUNE_STEPS = 8, HOST_CHUNK = 1 << 14, DEVICE_CHUNK = 16 << 20 };

/* Of a step's time: what is gained must be more than noise. */
static const double worth_keeping = 0.997;

/* The index tensors, in the order in which they lie in one block of GPU memory, so that one transfer sets them. */
enum { IDS, POSITIONS, CU_SEQLENS, SEQ_LENS, SLOTS, TABLE, STATES, INDICES, STEPS, TENSORS };

struct fk_decode_graph {
  fk_context *ctx;
  const fk_model *model;
  fk_decode_options options;
  fk_tensor *const *caches;
  bool has_state;
  int64_t block_size; /* of the paged caches; 0 when there are none */
  int64_t steps;      /* since set */
  fk_arena host, device, temporaries;
  fk_tensor *index[TENSORS], *logits, *best, *tokens;
  char *mirror; /* what is uploaded to index_data, index_bytes long */
  char *index_data;
  size_t offsets[TENSORS], index_bytes;
  fk_cuda_graph *graph;
  double before, after; /* milliseconds a step, of tuning */
};

/* ---- Tensors --------------------------------------------------------------------------------------------- */

static fk_tensor *describe(fk_decode_graph *g, fk_type type, void *data, int64_t rows, int64_t columns) {
  fk_tensor *t = fk_arena_calloc(&g->host, 1, sizeof *t + 2 * sizeof(int64_t));
  if (!t) return NULL;
  *t = (fk_tensor){.data = data, .ndim = columns < 0 ? 1 : 2, .dtype = fk_dtype_from(type)};
  t->device = (fk_device){FK_DL_CUDA, fk_cuda_device_id(g->ctx->cuda)};
  t->shape = (int64_t *)(t + 1);
  t->shape[0] = rows;
  if (columns >= 0) t->shape[1] = columns;
  return t;
}

static fk_tensor *allocate(fk_decode_graph *g, fk_type type, int64_t rows, int64_t columns) {
  void *data = fk_arena_alloc(&g->device, fk_type_bytes(type, rows * (columns < 0 ? 1 : columns)), ALIGN);
  return data ? describe(g, type, data, rows, columns) : NULL;
}

static fk_status make_index(fk_decode_graph *g) {
  static const fk_type types[TENSORS] = {FK_I32, FK_I64, FK_I32, FK_I32, FK_I64, FK_I32, FK_I32, FK_I32, FK_I64};
  int64_t n = g->options.batch_size, columns = g->options.max_blocks_per_seq;
  for (int i = 0; i < TENSORS; i++) {
    int64_t count = i == TABLE ? n * columns : i == CU_SEQLENS ? n + 1 : i == STEPS ? 1 : n;
    g->offsets[i] = g->index_bytes;
    g->index_bytes += (fk_type_bytes(types[i], count) + ALIGN - 1) / ALIGN * ALIGN;
  }
  g->mirror = fk_arena_calloc(&g->host, g->index_bytes, 1);
  g->index_data = fk_arena_alloc(&g->device, g->index_bytes, ALIGN);
  if (!g->mirror || !g->index_data) return FK_ERROR_MEMORY;
  for (int i = 0; i < TENSORS; i++) {
    int64_t rows = i == CU_SEQLENS ? n + 1 : i == STEPS ? 1 : n;
    g->index[i] = describe(g, types[i], g->index_data + g->offsets[i], rows, i == TABLE ? columns : -1);
    if (!g->index[i]) return FK_ERROR_MEMORY;
  }
  int32_t *offsets = (int32_t *)(g->mirror + g->offsets[CU_SEQLENS]);
  int32_t *states = (int32_t *)(g->mirror + g->offsets[STATES]),
          *lengths = (int32_t *)(g->mirror + g->offsets[SEQ_LENS]);
  int32_t *indices = (int32_t *)(g->mirror + g->offsets[INDICES]);
  for (int64_t i = 0; i < n; i++) {
    offsets[i + 1] = (int32_t)i + 1;
    states[i] = indices[i] = (int32_t)i;
    lengths[i] = 1;
    ((int64_t *)(g->mirror + g->offsets[SLOTS]))[i] = -1;
  }
  return fk_cuda_upload(g->ctx->cuda, g->index_data, g->mirror, g->index_bytes);
}

static fk_batch batch_of(const fk_decode_graph *g, fk_tensor *const *caches) {
  return (fk_batch){.input_ids = g->index[IDS],
                    .positions = g->index[POSITIONS],
                    .cu_seqlens_q = g->index[CU_SEQLENS],
                    .seq_lens = g->index[SEQ_LENS],
                    .slot_mapping = g->index[SLOTS],
                    .block_table = g->index[TABLE],
                    .state_slots = g->has_state ? g->index[STATES] : NULL,
                    .logits_indices = g->index[INDICES],
                    .caches = caches};
}

/* ---- Recording ------------------------------------------------------------------------------------------- */

/* Caches for a step that is computed for its side effects on libraries and arenas only. What they hold does not matter,
 * only that those of one layer lie apart: they take turns in a few places of data, of the size that is returned when
 * data is NULL. */
static size_t borrow_caches(fk_decode_graph *g, const fk_cache_spec *specs, int count, void *data, size_t room,
                            fk_tensor **caches) {
  size_t most = 1;
  for (int i = 0; i < count; i++) {
    bool paged = specs[i].kind == FK_CACHE_PAGED;
    int64_t shape[6] = {paged ? 1 : g->options.batch_size, g->block_size}, n = 1;
    int32_t ndim = (paged ? 2 : 1) + specs[i].ndim;
    memcpy(shape + (paged ? 2 : 1), specs[i].shape, (size_t)specs[i].ndim * sizeof *shape);
    for (int32_t d = 0; d < ndim; d++) n *= shape[d];
    size_t bytes = fk_type_bytes(specs[i].type, n);
    if (bytes > most) most = bytes;
    if (data) {
      char *place = (char *)data + (size_t)(i % CACHE_PLACES) * room;
      caches[i] = fk_wrap(g->ctx, place, specs[i].type, shape, ndim, NULL);
    }
  }
  return (most + ALIGN - 1) / ALIGN * ALIGN;
}

static fk_status queue_step(fk_decode_graph *g, const fk_batch *batch) {
  FK_TRY(fk_model_step(g->ctx, g->model, batch, g->logits));
  if (!g->options.greedy) return FK_OK;
  FK_TRY(fk_call(g->ctx, "argmax", g->logits, g->best));
  fk_cuda_decode d = {.batch_size = g->options.batch_size,
                      .num_columns = g->options.max_blocks_per_seq,
                      .block_size = g->block_size,
                      .history = g->options.history,
                      .best = g->best->data,
                      .block_table = g->index[TABLE]->data,
                      .input_ids = g->index[IDS]->data,
                      .seq_lens = g->index[SEQ_LENS]->data,
                      .positions = g->index[POSITIONS]->data,
                      .slot_mapping = g->index[SLOTS]->data,
                      .tokens = g->tokens->data,
                      .steps = g->index[STEPS]->data};
  return fk_cuda_advance(g->ctx->cuda, &d);
}

static fk_status record(fk_decode_graph *g, const fk_batch *batch) {
  fk_cuda_graph_destroy(g->graph);
  g->graph = NULL;
  FK_TRY(fk_cuda_graph_begin(g->ctx->cuda));
  fk_status status = queue_step(g, batch);
  fk_status ended = fk_cuda_graph_end(g->ctx->cuda, &g->graph);
  FK_TRY(status);
  FK_TRY(ended);
  const char *foreign = fk_cuda_graph_foreign(g->graph, false);
  if (foreign) return fk_fail(FK_ERROR_UNSUPPORTED, "%s: a step contains %s", g->model->class->name, foreign);
  return FK_OK;
}

/* ---- Tuning ---------------------------------------------------------------------------------------------- */

/* Sequences of half the longest length, whose keys all lie in the first block. */
static void imagine_lengths(fk_decode_graph *g) {
  int64_t length = g->options.max_blocks_per_seq * g->block_size / 2;
  int64_t longest = g->model->class->sequence->max_position(g->model->state);
  if (g->block_size > 0 && longest > 2 * length) longest = 2 * length;
  if (length + TUNE_STEPS + 3 > longest) length = longest - TUNE_STEPS - 3;
  if (length < 1) length = 1;
  for (int64_t i = 0; i < g->options.batch_size; i++) {
    ((int32_t *)(g->mirror + g->offsets[SEQ_LENS]))[i] = (int32_t)length;
    ((int64_t *)(g->mirror + g->offsets[POSITIONS]))[i] = length - 1;
  }
}

static fk_status time_replays(fk_decode_graph *g, fk_cuda_timer *timer, int count, double *milliseconds) {
  fk_cuda *cuda = g->ctx->cuda;
  FK_TRY(fk_cuda_timer_start(cuda, timer));
  for (int i = 0; i < count; i++) FK_TRY(fk_cuda_graph_launch(cuda, g->graph));
  FK_TRY(fk_cuda_timer_stop(cuda, timer));
  FK_TRY(fk_cuda_timer_elapsed(cuda, timer, milliseconds));
  *milliseconds /= count;
  return FK_OK;
}

/* What is far from the best so far (0: none) is not worth many replays. */
static fk_status time_step(fk_decode_graph *g, const fk_batch *batch, fk_cuda_timer *timer, double best,
                           double *milliseconds) {
  FK_TRY(record(g, batch));
  FK_TRY(fk_cuda_upload(g->ctx->cuda, g->index_data, g->mirror, g->index_bytes));
  FK_TRY(fk_cuda_graph_launch(g->ctx->cuda, g->graph)); /* the first replay uploads the graph */
  FK_TRY(time_replays(g, timer, 1, milliseconds));
  if (best == 0 || *milliseconds < 1.02 * best) FK_TRY(time_replays(g, timer, TUNE_STEPS, milliseconds));
  return fk_sync(g->ctx);
}

/* One product after the other; an option that cannot be recorded is passed over. */
static fk_status try_options(fk_decode_graph *g, const fk_batch *batch, fk_cuda_timer *timer) {
  fk_cuda *cuda = g->ctx->cuda;
  FK_TRY(time_step(g, batch, timer, 0, &g->before));
  g->after = g->before;
  for (int shape = 0; shape < fk_cuda_gemm_shapes(cuda); shape++) {
    int best, count = fk_cuda_gemm_options(cuda, shape, g->options.batch_size, &best);
    for (int option = 0, first = best; option < count; option++) {
      double milliseconds;
      if (option == first) continue;
      fk_cuda_gemm_select(cuda, shape, option);
      fk_status status = time_step(g, batch, timer, g->after, &milliseconds);
      if (!status && milliseconds < worth_keeping * g->after) {
        g->after = milliseconds;
        best = option;
      }
      fk_cuda_gemm_select(cuda, shape, best);
    }
  }
  return FK_OK;
}

static fk_status tune(fk_decode_graph *g, const fk_batch *batch) {
  fk_cuda_timer *timer;
  FK_TRY(fk_cuda_timer_create(g->ctx->cuda, &timer));
  imagine_lengths(g);
  fk_status status = try_options(g, batch, timer);
  fk_cuda_timer_destroy(timer);
  return status;
}

/* Libraries make their plans and arenas grow when a step runs for the first time: not while it is recorded. */
static fk_status rehearse(fk_decode_graph *g, const fk_cache_spec *specs, int count) {
  fk_memory *memory = fk_cuda_memory(g->ctx->cuda);
  fk_tensor **caches = fk_arena_calloc(&g->host, (size_t)count + 1, sizeof *caches);
  if (!caches) return FK_ERROR_MEMORY;
  size_t room = borrow_caches(g, specs, count, NULL, 0, NULL), bytes = CACHE_PLACES * room;
  void *data = memory->alloc(memory, bytes);
  if (!data) return fk_fail(FK_ERROR_MEMORY, "decode graph: cannot allocate %zu bytes of GPU memory", bytes);
  borrow_caches(g, specs, count, data, room, caches);
  fk_batch batch = batch_of(g, caches);
  fk_status status = g->ctx->pending;
  if (!status) status = fk_cuda_fill(g->ctx->cuda, data, 0, bytes);
  if (!status) status = queue_step(g, &batch);
  if (!status) status = fk_sync(g->ctx);
  if (!status && g->options.tune) status = tune(g, &batch);
  memory->release(memory, data, bytes);
  return status;
}

static fk_status build(fk_decode_graph *g) {
  const fk_sequence_ops *ops = g->model->class->sequence;
  int64_t n = g->options.batch_size;
  int count = ops->caches(g->model->state, NULL);
  fk_cache_spec *specs = fk_arena_calloc(&g->host, (size_t)count + 1, sizeof *specs);
  if (!specs) return FK_ERROR_MEMORY;
  ops->caches(g->model->state, specs);
  for (int i = 0; i < count; i++) {
    if (specs[i].kind == FK_CACHE_STATE) g->has_state = true;
    if (specs[i].kind == FK_CACHE_PAGED && g->caches[i]->ndim > 1) g->block_size = g->caches[i]->shape[1];
  }
  FK_TRY(make_index(g));
  g->logits = allocate(g, g->model->dtype, n, ops->output_size(g->model->state));
  g->best = allocate(g, FK_I64, n, -1);
  g->tokens = allocate(g, FK_I32, g->options.history, n);
  if (!g->logits || !g->best || !g->tokens) return FK_ERROR_MEMORY;
  FK_TRY(rehearse(g, specs, count));
  fk_batch batch = batch_of(g, g->caches);
  return record(g, &batch);
}

static fk_status check_options(const fk_context *ctx, const fk_model *model, const fk_decode_options *o) {
  const char *name = model->class->name;
  if (!ctx->cuda || ctx->recorder)
    return fk_fail(FK_ERROR_ARGUMENT, "decode graph: expected a cuda context without recorder");
  if (!model->class->sequence) return fk_fail(FK_ERROR_UNSUPPORTED, "%s: the model takes no steps", name);
  if (o->greedy && model->class->sequence->vocab_size(model->state) == 0)
    return fk_fail(FK_ERROR_UNSUPPORTED, "%s: a model without head chooses no tokens", name);
  if (o->batch_size < 1 || o->batch_size > 1 << 20 || o->history < 0 || o->history > INT32_MAX / o->batch_size)
    return fk_fail(FK_ERROR_ARGUMENT,
                   "decode graph: expected 1 to 2^20 sequences and a history of at most 2^31 tokens,"
                   " got %lld and %lld steps",
                   (long long)o->batch_size, (long long)o->history);
  if (o->max_blocks_per_seq < 1 || o->max_blocks_per_seq > INT32_MAX / o->batch_size)
    return fk_fail(FK_ERROR_ARGUMENT, "decode graph: expected a block table of 1 to 2^31 entries, got %lld columns",
                   (long long)o->max_blocks_per_seq);
  return FK_OK;
}

fk_status fk_decode_graph_create(fk_context *ctx, const fk_model *model, fk_tensor *const *caches,
                                 const fk_decode_options *options, fk_decode_graph **out) {
  *out = NULL;
  FK_TRY(check_options(ctx, model, options));
  fk_decode_graph *g = calloc(1, sizeof *g);
  if (!g) return fk_fail(FK_ERROR_MEMORY, "decode graph: cannot allocate");
  *g = (fk_decode_graph){.ctx = ctx, .model = model, .caches = caches, .options = *options};
  if (g->options.history == 0) g->options.history = 1;
  fk_arena_init(&g->host, &fk_host_memory, HOST_CHUNK);
  fk_arena_init(&g->device, fk_cuda_memory(ctx->cuda), DEVICE_CHUNK);
  fk_arena_init(&g->temporaries, fk_cuda_memory(ctx->cuda), DEVICE_CHUNK);
  /* The graph remembers where its temporaries were: that memory must be nobody else's while the graph lives. */
  fk_arena others = ctx->device;
  fk_arena_mark mark = fk_arena_save(&ctx->host);
  ctx->device = g->temporaries;
  fk_status status = build(g);
  g->temporaries = ctx->device;
  ctx->device = others;
  fk_arena_rewind(&ctx->host, mark);
  ctx->pending = FK_OK;
  if (status) {
    fk_decode_graph_destroy(g);
    return status;
  }
  *out = g;
  return FK_OK;
}

void fk_decode_graph_destroy(fk_decode_graph *g) {
  if (!g) return;
  (void)fk_sync(g->ctx); /* a replay may be under way; what it met is not the destroyer's concern */
  fk_cuda_graph_destroy(g->graph);
  fk_arena_destroy(&g->temporaries);
  fk_arena_destroy(&g->device);
  fk_arena_destroy(&g->host);
  free(g);
}

/* ---- Running --------------------------------------------------------------------------------------------- */

static fk_status check_tensor(const fk_decode_graph *g, const char *name, const fk_tensor *t, int which) {
  const fk_tensor *own = g->index[which];
  if (!t || t->device.type != FK_DL_CPU || !t->data || fk_type_of(t) != fk_type_of(own) || t->ndim != own->ndim ||
      !fk_is_contiguous(t))
    return fk_fail(FK_ERROR_ARGUMENT, "%s: expected a contiguous host tensor of %s", name,
                   fk_type_name(fk_type_of(own)));
  if (t->shape[0] != own->shape[0])
    return fk_fail(FK_ERROR_ARGUMENT, "%s: expected %lld sequences of one token, got %lld", name,
                   (long long)own->shape[0], (long long)t->shape[0]);
  if (which == TABLE && t->shape[1] > own->shape[1])
    return fk_fail(FK_ERROR_ARGUMENT, "%s: expected at most %lld columns, got %lld", name, (long long)own->shape[1],
                   (long long)t->shape[1]);
  return FK_OK;
}

/* The tensor as the host has it. */
static fk_tensor mirrored(const fk_decode_graph *g, int which) {
  fk_tensor t = *g->index[which];
  t.data = g->mirror + g->offsets[which];
  t.device = (fk_device){FK_DL_CPU, 0};
  return t;
}

fk_status fk_decode_graph_set(fk_decode_graph *g, const fk_batch *given) {
  static const char *const names[] = {"input_ids",    "positions",   NULL,         "seq_lens",
                                      "slot_mapping", "block_table", "state_slots"};
  const fk_tensor *const tensors[] = {given->input_ids,
                                      given->positions,
                                      NULL,
                                      given->seq_lens,
                                      given->slot_mapping,
                                      given->block_table,
                                      g->has_state ? given->state_slots : NULL};
  for (int i = 0; i <= STATES; i++)
    if (names[i] && (i != STATES || g->has_state)) FK_TRY(check_tensor(g, names[i], tensors[i], i));
  fk_tensor offsets = mirrored(g, CU_SEQLENS), indices = mirrored(g, INDICES);
  fk_batch batch = *given;
  batch.caches = g->caches;
  batch.cu_seqlens_q = &offsets;
  batch.logits_indices = &indices;
  FK_TRY(fk_step_check(g->model, &batch));
  for (int i = 0; i <= STATES; i++) {
    if (!tensors[i]) continue;
    size_t size = fk_type_bytes(fk_type_of(tensors[i]), 1);
    size_t to = size * (i == TABLE ? (size_t)g->options.max_blocks_per_seq : 1);
    size_t from = size * (i == TABLE ? (size_t)tensors[i]->shape[1] : 1);
    for (int64_t row = 0; row < g->options.batch_size; row++) {
      char *place = g->mirror + g->offsets[i] + (size_t)row * to;
      memset(place, 0, to);
      memcpy(place, (const char *)fk_data(tensors[i]) + (size_t)row * from, from);
    }
  }
  g->steps = 0;
  return fk_cuda_upload(g->ctx->cuda, g->index_data, g->mirror, g->index_bytes);
}

fk_status fk_decode_graph_step(fk_decode_graph *g) {
  FK_TRY(fk_cuda_graph_launch(g->ctx->cuda, g->graph));
  g->steps++;
  return FK_OK;
}

fk_tensor *fk_decode_graph_logits(const fk_decode_graph *g) {
  return g->logits;
}

fk_status fk_decode_graph_tokens(fk_decode_graph *g, int64_t count, int32_t *tokens) {
  int64_t history = g->options.history, n = g->options.batch_size, most = g->steps < history ? g->steps : history;
  if (!g->options.greedy || count < 0 || count > most)
    return fk_fail(FK_ERROR_ARGUMENT, "decode graph: expected at most %lld steps whose tokens are kept, got %lld",
                   g->options.greedy ? (long long)most : 0LL, (long long)count);
  int32_t *ring = malloc((size_t)(history * n) * sizeof *ring);
  if (!ring) return fk_fail(FK_ERROR_MEMORY, "decode graph: cannot allocate");
  fk_status status = fk_cuda_download(g->ctx->cuda, ring, g->tokens->data, (size_t)(history * n) * sizeof *ring);
  for (int64_t i = 0; i < count && !status; i++)
    memcpy(tokens + i * n, ring + (g->steps - count + i) % history * n, (size_t)n * sizeof *ring);
  free(ring);
  return status;
}

void fk_decode_graph_tuned(const fk_decode_graph *g, double *before, double *after) {
  *before = g->before;
  *after = g->after;
}

int fk_decode_graph_nodes(const fk_decode_graph *g) {
  return fk_cuda_graph_nodes(g->graph);
}
