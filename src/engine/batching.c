#include "engine/batching.h"

#include <stdlib.h>
#include <string.h>

/* The clock of --arrival trace: a line through what a large model does on a large GPU (weights read once per step, then
 * tokens at 20,000 per second). It orders arrivals against steps; it claims nothing about speed. */
static const double step_seconds = 0.010, token_seconds = 0.00005;

typedef enum phase { WAITING, PREFILLING, RUNNING, FINISHED } phase;

typedef struct sequence {
  phase phase;
  bool scheduled;   /* in this step */
  int32_t slot;     /* entry of state caches, while in flight */
  int64_t known;    /* tokens that exist: prompt and generated */
  int64_t computed; /* tokens whose cache rows are filled */
  int64_t admitted; /* grows with every admission: the newest has the largest */
  int32_t *blocks;
  int64_t num_blocks, room_blocks;
  int32_t *generated;
  int64_t num_generated, room_generated;
  int64_t next; /* in the waiting list; -1 = last */
} sequence;

typedef struct entry { /* of a step's plan */
  int64_t seq, tokens;
} entry;

struct fk_batcher {
  fk_batching_options options;
  const fk_request *requests;
  sequence *seqs; /* one per request */
  int64_t count, arrived, admissions;
  int64_t waiting_head, waiting_tail;
  int64_t *prefilling, *running, num_prefilling, num_running; /* first in, first out */
  int32_t *free_blocks, *free_slots;
  int64_t num_free_blocks, num_free_slots, watermark;
  entry *plan;
  int64_t num_plan, budget;
  bool open; /* between next and commit */
  fk_batching_stats stats;

  fk_batch batch;
  fk_tensor tensors[8];
  int64_t shapes[8][2];
  int32_t *block_table;
  int64_t room_block_table;
  void *memory; /* of the other tables */
};

static fk_status no_memory(void) {
  return fk_fail(FK_ERROR_MEMORY, "batching: cannot allocate");
}

static int64_t blocks_for(int64_t tokens) {
  return (tokens + FK_BLOCK_SIZE - 1) / FK_BLOCK_SIZE;
}

/* Cache rows a request ever fills: its last token is emitted and never fed back. */
static int64_t final_tokens(const fk_request *r) {
  return r->input_length + r->output_length - 1;
}

/* ---- Blocks ---------------------------------------------------------------------------------------------- */

static fk_status take_blocks(fk_batcher *b, sequence *s, int64_t wanted) {
  if (wanted > s->room_blocks) {
    int64_t room = wanted > 2 * s->room_blocks ? wanted : 2 * s->room_blocks;
    int32_t *blocks = realloc(s->blocks, (size_t)room * sizeof *blocks);
    if (!blocks) return no_memory();
    s->blocks = blocks;
    s->room_blocks = room;
  }
  while (s->num_blocks < wanted) s->blocks[s->num_blocks++] = b->free_blocks[--b->num_free_blocks];
  int64_t used = b->stats.num_blocks - b->num_free_blocks;
  if (used > b->stats.max_blocks_used) b->stats.max_blocks_used = used;
  return FK_OK;
}

/* Returns what a sequence in flight holds. */
static void release(fk_batcher *b, sequence *s) {
  while (s->num_blocks > 0) b->free_blocks[b->num_free_blocks++] = s->blocks[--s->num_blocks];
  free(s->blocks);
  s->blocks = NULL;
  s->room_blocks = 0;
  b->free_slots[b->num_free_slots++] = s->slot;
}

/* ---- Lists ----------------------------------------------------------------------------------------------- */

static void wait_last(fk_batcher *b, int64_t i) {
  b->seqs[i].next = -1;
  if (b->waiting_head < 0)
    b->waiting_head = i;
  else
    b->seqs[b->waiting_tail].next = i;
  b->waiting_tail = i;
}

static void wait_first(fk_batcher *b, int64_t i) {
  b->seqs[i].next = b->waiting_head;
  b->waiting_head = i;
  if (b->seqs[i].next < 0) b->waiting_tail = i;
}

static void list_remove(int64_t *list, int64_t *count, int64_t i) {
  int64_t kept = 0;
  for (int64_t k = 0; k < *count; k++)
    if (list[k] != i) list[kept++] = list[k];
  *count = kept;
}

/* The newest sequence in flight that this step does not compute yet, or -1. */
static int64_t newest(const fk_batcher *b) {
  int64_t best = -1;
  for (int which = 0; which < 2; which++) {
    const int64_t *list = which ? b->running : b->prefilling;
    int64_t n = which ? b->num_running : b->num_prefilling;
    for (int64_t k = 0; k < n; k++) {
      const sequence *s = &b->seqs[list[k]];
      if (!s->scheduled && (best < 0 || s->admitted > b->seqs[best].admitted)) best = list[k];
    }
  }
  return best;
}

/* Back to the head of the queue; everything it has must be computed again. */
static void preempt(fk_batcher *b, int64_t i) {
  sequence *s = &b->seqs[i];
  if (s->phase == RUNNING)
    list_remove(b->running, &b->num_running, i);
  else
    list_remove(b->prefilling, &b->num_prefilling, i);
  b->stats.preemptions++;
  b->stats.recomputed_tokens += s->computed;
  release(b, s);
  s->computed = 0;
  s->phase = WAITING;
  wait_first(b, i);
}

/* ---- A step's plan --------------------------------------------------------------------------------------- */

static void schedule(fk_batcher *b, int64_t i, int64_t tokens) {
  b->plan[b->num_plan++] = (entry){i, tokens};
  b->seqs[i].scheduled = true;
  b->budget -= tokens;
}

/* Every running sequence computes its last token, oldest first; the newest give way when blocks run out. */
static fk_status plan_decodes(fk_batcher *b) {
  for (int64_t k = 0; k < b->num_running && b->budget > 0;) {
    int64_t i = b->running[k];
    sequence *s = &b->seqs[i];
    int64_t wanted = blocks_for(s->computed + 1);
    while (s->phase == RUNNING && wanted > s->num_blocks && b->num_free_blocks == 0) preempt(b, newest(b));
    if (s->phase != RUNNING) continue; /* gave way itself: the next one has moved up */
    FK_TRY(take_blocks(b, s, wanted));
    schedule(b, i, 1);
    /* Sequences before this one are all scheduled, so that none of them can have been removed. */
    k++;
  }
  return FK_OK;
}

static fk_status plan_prefills(fk_batcher *b) {
  for (int64_t k = 0; k < b->num_prefilling && b->budget > 0; k++) {
    sequence *s = &b->seqs[b->prefilling[k]];
    int64_t rest = s->known - s->computed, chunk = rest < b->budget ? rest : b->budget;
    int64_t wanted = blocks_for(s->computed + chunk);
    if (wanted - s->num_blocks > b->num_free_blocks) continue;
    FK_TRY(take_blocks(b, s, wanted));
    schedule(b, b->prefilling[k], chunk);
  }
  return FK_OK;
}

static fk_status plan_admissions(fk_batcher *b) {
  while (b->budget > 0 && b->waiting_head >= 0 && b->num_running + b->num_prefilling < b->options.max_num_seqs) {
    int64_t i = b->waiting_head;
    sequence *s = &b->seqs[i];
    /* Room for all of it, and a reserve for those that run: else it would soon be preempted again. */
    if (b->num_free_blocks < blocks_for(s->known) + b->watermark) break;
    b->waiting_head = s->next;
    s->phase = PREFILLING;
    s->admitted = b->admissions++;
    s->slot = b->free_slots[--b->num_free_slots];
    b->prefilling[b->num_prefilling++] = i;
    int64_t chunk = s->known < b->budget ? s->known : b->budget;
    FK_TRY(take_blocks(b, s, blocks_for(chunk)));
    schedule(b, i, chunk);
  }
  int64_t in_flight = b->num_running + b->num_prefilling;
  if (in_flight > b->stats.max_in_flight) b->stats.max_in_flight = in_flight;
  return FK_OK;
}

static void arrive(fk_batcher *b) {
  while (b->arrived < b->count && (!b->options.honour_arrivals || b->requests[b->arrived].arrival <= b->stats.seconds))
    wait_last(b, b->arrived++);
}

static fk_status plan_step(fk_batcher *b) {
  b->num_plan = 0;
  b->budget = b->options.max_num_batched_tokens;
  arrive(b);
  if (b->waiting_head < 0 && b->num_running + b->num_prefilling == 0 && b->arrived < b->count) {
    b->stats.seconds = b->requests[b->arrived].arrival; /* idle until then */
    arrive(b);
  }
  FK_TRY(plan_decodes(b));
  for (;;) {
    FK_TRY(plan_prefills(b));
    FK_TRY(plan_admissions(b));
    if (b->num_plan > 0 || newest(b) < 0) return FK_OK;
    /* Unfinished prompts hold all blocks and none can go on: the newest gives way. The oldest, alone, fits. */
    preempt(b, newest(b));
  }
}

/* ---- The batch ------------------------------------------------------------------------------------------- */

enum { IDS, POSITIONS, CU_SEQLENS, SEQ_LENS, SLOTS, TABLE, STATE, LOGITS };

/* A token of a request whose text nobody knows: any id, but the same each time. */
static int32_t invented(const fk_batcher *b, int64_t request, int64_t position) {
  uint64_t x = (uint64_t)request * 0x9e3779b97f4a7c15u + (uint64_t)position;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return (int32_t)((x ^ x >> 31) % (uint64_t)b->options.num_embeddings);
}

static int32_t token_at(const fk_batcher *b, int64_t i, int64_t position) {
  const fk_request *r = &b->requests[i];
  if (position >= r->input_length) return b->seqs[i].generated[position - r->input_length];
  return r->input_ids ? r->input_ids[position] : invented(b, i, position);
}

static fk_status size_block_table(fk_batcher *b, int64_t *width) {
  *width = 1;
  for (int64_t e = 0; e < b->num_plan; e++)
    if (b->seqs[b->plan[e].seq].num_blocks > *width) *width = b->seqs[b->plan[e].seq].num_blocks;
  int64_t wanted = *width * b->num_plan;
  if (wanted <= b->room_block_table) return FK_OK;
  free(b->block_table);
  b->room_block_table = 0;
  b->block_table = malloc((size_t)wanted * 2 * sizeof *b->block_table);
  if (!b->block_table) return no_memory();
  b->room_block_table = 2 * wanted;
  b->tensors[TABLE].data = b->block_table;
  return FK_OK;
}

static fk_status build(fk_batcher *b) {
  int64_t width, t = 0, n = 0;
  FK_TRY(size_block_table(b, &width));
  int32_t *ids = b->tensors[IDS].data, *cu = b->tensors[CU_SEQLENS].data, *lens = b->tensors[SEQ_LENS].data;
  int32_t *state = b->tensors[STATE].data, *logits = b->tensors[LOGITS].data;
  int64_t *positions = b->tensors[POSITIONS].data, *slots = b->tensors[SLOTS].data;
  cu[0] = 0;
  for (int64_t e = 0; e < b->num_plan; e++) {
    int64_t i = b->plan[e].seq;
    const sequence *s = &b->seqs[i];
    for (int64_t p = s->computed; p < s->computed + b->plan[e].tokens; p++, t++) {
      ids[t] = token_at(b, i, p);
      positions[t] = p;
      slots[t] = (int64_t)s->blocks[p / FK_BLOCK_SIZE] * FK_BLOCK_SIZE + p % FK_BLOCK_SIZE;
    }
    cu[e + 1] = (int32_t)t;
    lens[e] = (int32_t)(s->computed + b->plan[e].tokens);
    state[e] = s->slot;
    int32_t *row = b->block_table + e * width;
    memcpy(row, s->blocks, (size_t)s->num_blocks * sizeof *row);
    memset(row + s->num_blocks, 0, (size_t)(width - s->num_blocks) * sizeof *row);
    if (s->computed + b->plan[e].tokens == s->known) logits[n++] = (int32_t)(t - 1);
  }
  b->shapes[IDS][0] = b->shapes[POSITIONS][0] = b->shapes[SLOTS][0] = t;
  b->shapes[CU_SEQLENS][0] = b->num_plan + 1;
  b->shapes[SEQ_LENS][0] = b->shapes[STATE][0] = b->shapes[TABLE][0] = b->num_plan;
  b->shapes[TABLE][1] = width;
  b->shapes[LOGITS][0] = n;
  return FK_OK;
}

fk_status fk_batcher_next(fk_batcher *b, fk_batch **batch) {
  *batch = NULL;
  if (b->open) return fk_fail(FK_ERROR_ARGUMENT, "batching: the last step is not committed");
  FK_TRY(plan_step(b));
  if (b->num_plan == 0) return FK_OK;
  FK_TRY(build(b));
  b->open = true;
  *batch = &b->batch;
  return FK_OK;
}

/* ---- After a step ---------------------------------------------------------------------------------------- */

static fk_status emit(fk_batcher *b, int64_t i, int32_t token) {
  sequence *s = &b->seqs[i];
  if (s->num_generated == s->room_generated) {
    int64_t room = s->room_generated ? 2 * s->room_generated : 16;
    int32_t *generated = realloc(s->generated, (size_t)room * sizeof *generated);
    if (!generated) return no_memory();
    s->generated = generated;
    s->room_generated = room;
  }
  s->generated[s->num_generated++] = token;
  s->known++;
  b->stats.output_tokens++;
  if (s->num_generated < b->requests[i].output_length) return FK_OK;
  s->phase = FINISHED;
  list_remove(b->running, &b->num_running, i);
  b->stats.finished++;
  release(b, s);
  return FK_OK;
}

fk_status fk_batcher_commit(fk_batcher *b, const int32_t *tokens) {
  if (!b->open) return fk_fail(FK_ERROR_ARGUMENT, "batching: there is no step to commit");
  int64_t total = 0, decodes = 0, row = 0;
  b->open = false;
  for (int64_t e = 0; e < b->num_plan; e++) {
    int64_t i = b->plan[e].seq;
    sequence *s = &b->seqs[i];
    bool decode = s->phase == RUNNING;
    *(decode ? &b->stats.decode_tokens : &b->stats.prefill_tokens) += b->plan[e].tokens;
    decodes += decode;
    total += b->plan[e].tokens;
    s->scheduled = false;
    s->computed += b->plan[e].tokens;
    if (s->computed < s->known) continue;
    if (!decode) {
      list_remove(b->prefilling, &b->num_prefilling, i);
      s->phase = RUNNING;
      b->running[b->num_running++] = i;
    }
    FK_TRY(emit(b, i, tokens ? tokens[row] : invented(b, i, s->known)));
    row++;
  }
  b->stats.steps++;
  b->stats.seconds += step_seconds + (double)total * token_seconds;
  if (total > b->stats.max_step_tokens) b->stats.max_step_tokens = total;
  if (decodes > b->stats.max_decode_batch) b->stats.max_decode_batch = decodes;
  return FK_OK;
}

fk_status fk_batcher_check(const fk_batcher *b) {
  int64_t rows = 0, outputs = 0;
  for (int64_t i = 0; i < b->count; i++) {
    rows += final_tokens(&b->requests[i]);
    outputs += b->requests[i].output_length;
  }
  const fk_batching_stats *s = &b->stats;
  const char *broken = NULL;
  if (s->finished != b->count) broken = "not every request finished";
  if (s->output_tokens != outputs) broken = "the tokens emitted are not those requested";
  if (s->prefill_tokens + s->decode_tokens != rows + s->recomputed_tokens)
    broken = "the tokens computed are not those of the requests and of recomputation";
  if (s->max_step_tokens > s->max_num_batched_tokens) broken = "a step exceeds max_num_batched_tokens";
  if (s->max_in_flight > s->max_num_seqs) broken = "more than max_num_seqs sequences were in flight";
  if (b->num_free_blocks != s->num_blocks) broken = "blocks were not returned";
  if (b->num_free_slots != s->max_num_seqs) broken = "state slots were not returned";
  return broken ? fk_fail(FK_ERROR_KERNEL, "batching: %s", broken) : FK_OK;
}

const fk_batching_stats *fk_batcher_stats(const fk_batcher *b) {
  return &b->stats;
}

const int32_t *fk_batcher_output(const fk_batcher *b, int64_t request, int64_t *count) {
  *count = b->seqs[request].num_generated;
  return b->seqs[request].generated;
}

/* ---- Creation -------------------------------------------------------------------------------------------- */

static int64_t watermark_of(int64_t num_blocks) {
  return num_blocks / 100 > 0 ? num_blocks / 100 : 1;
}

/* Chooses num_blocks where asked to, and sees to it that every request fits alone. */
static fk_status size_pool(fk_batching_options *o, const fk_request *requests, int64_t count) {
  int64_t total = 0, longest = 0, which = 0;
  for (int64_t i = 0; i < count; i++) {
    const fk_request *r = &requests[i];
    if (r->input_length < 1 || r->output_length < 1 || r->input_length > FK_MAX_REQUEST_LENGTH ||
        r->output_length > FK_MAX_REQUEST_LENGTH)
      return fk_fail(FK_ERROR_ARGUMENT, "request %lld: expected lengths from 1 to %d, got %lld in and %lld out",
                     (long long)i, FK_MAX_REQUEST_LENGTH, (long long)r->input_length, (long long)r->output_length);
    int64_t blocks = blocks_for(final_tokens(r));
    total += blocks;
    if (blocks > longest) longest = blocks, which = i;
  }
  /* Enough for the longest and its watermark: n - n/100 >= longest. */
  int64_t least = longest + longest / 99 + 2;
  if (!o->num_blocks) {
    int64_t most = longest <= INT64_MAX / o->max_num_seqs ? longest * o->max_num_seqs : INT64_MAX;
    int64_t wanted = total < most ? total : most;
    wanted += wanted / 99 + 2;
    if (wanted > FK_MOST_AUTO_BLOCKS) wanted = FK_MOST_AUTO_BLOCKS;
    o->num_blocks = wanted > least ? wanted : least;
  }
  if (longest + watermark_of(o->num_blocks) <= o->num_blocks) return FK_OK;
  return fk_fail(
      FK_ERROR_ARGUMENT,
      "request %lld needs %lld blocks of %d tokens, of %lld with a reserve of %lld: at least %lld are needed",
      (long long)which, (long long)longest, FK_BLOCK_SIZE, (long long)o->num_blocks,
      (long long)watermark_of(o->num_blocks), (long long)least);
}

static fk_status check_options(fk_batching_options *o) {
  if (!o->max_num_seqs) o->max_num_seqs = FK_DEFAULT_NUM_SEQS;
  if (!o->max_num_batched_tokens) o->max_num_batched_tokens = FK_DEFAULT_BATCHED_TOKENS;
  if (o->max_num_seqs < 1 || o->max_num_seqs > 1 << 20)
    return fk_fail(FK_ERROR_ARGUMENT, "max_num_seqs: expected 1 to %d, got %lld", 1 << 20, (long long)o->max_num_seqs);
  if (o->max_num_batched_tokens < 1 || o->max_num_batched_tokens > 1 << 26)
    return fk_fail(FK_ERROR_ARGUMENT, "max_num_batched_tokens: expected 1 to %d, got %lld", 1 << 26,
                   (long long)o->max_num_batched_tokens);
  if (o->num_blocks < 0 || o->num_blocks > INT32_MAX)
    return fk_fail(FK_ERROR_ARGUMENT, "num_blocks: expected 0 to %d, got %lld", INT32_MAX, (long long)o->num_blocks);
  if (o->num_embeddings < 1 || o->num_embeddings > INT32_MAX)
    return fk_fail(FK_ERROR_ARGUMENT, "num_embeddings: expected 1 to %d, got %lld", INT32_MAX,
                   (long long)o->num_embeddings);
  return FK_OK;
}

static void *part(char **at, int64_t count, size_t size) {
  void *p = *at;
  *at += ((size_t)count * size + 63) / 64 * 64;
  return p;
}

/* One block of memory for everything whose size the options fix. */
static fk_status allocate(fk_batcher *b) {
  int64_t seqs = b->options.max_num_seqs, tokens = b->options.max_num_batched_tokens, blocks = b->options.num_blocks;
  int64_t most = seqs < tokens ? seqs : tokens; /* a scheduled sequence has a token */
  size_t bytes = (size_t)tokens * (4 + 8 + 8) + (size_t)most * (4 * 4 + sizeof(entry)) + (size_t)seqs * (8 + 8 + 4) +
                 (size_t)blocks * 4 + 16 * 64;
  char *at = b->memory = calloc(1, bytes);
  b->seqs = calloc((size_t)b->count + 1, sizeof *b->seqs);
  if (!b->memory || !b->seqs) return no_memory();
  static const fk_type types[] = {FK_I32, FK_I64, FK_I32, FK_I32, FK_I64, FK_I32, FK_I32, FK_I32};
  int64_t sizes[] = {tokens, tokens, most + 1, most, tokens, 0, most, most};
  for (int i = 0; i < 8; i++)
    b->tensors[i] = (fk_tensor){.data = part(&at, sizes[i], fk_type_bits(types[i]) / 8),
                                .device = {FK_DL_CPU, 0},
                                .ndim = i == TABLE ? 2 : 1,
                                .dtype = fk_dtype_from(types[i]),
                                .shape = b->shapes[i]};
  b->prefilling = part(&at, seqs, sizeof *b->prefilling);
  b->running = part(&at, seqs, sizeof *b->running);
  b->plan = part(&at, most, sizeof *b->plan);
  b->free_blocks = part(&at, blocks, sizeof *b->free_blocks);
  b->free_slots = part(&at, seqs, sizeof *b->free_slots);
  return FK_OK;
}

fk_status fk_batcher_create(const fk_batching_options *options, const fk_request *requests, int64_t count,
                            fk_batcher **out) {
  fk_batching_options o = *options;
  *out = NULL;
  FK_TRY(check_options(&o));
  FK_TRY(size_pool(&o, requests, count));
  fk_batcher *b = calloc(1, sizeof *b);
  if (!b) return no_memory();
  b->options = o;
  b->requests = requests;
  b->count = count;
  fk_status status = allocate(b);
  if (status) {
    fk_batcher_destroy(b);
    return status;
  }
  b->waiting_head = b->waiting_tail = -1;
  b->watermark = watermark_of(o.num_blocks);
  for (int64_t i = 0; i < count; i++) b->seqs[i].known = requests[i].input_length;
  /* Popped from the end: block 0 and slot 0 go first. */
  for (int64_t i = 0; i < o.num_blocks; i++) b->free_blocks[i] = (int32_t)(o.num_blocks - 1 - i);
  for (int64_t i = 0; i < o.max_num_seqs; i++) b->free_slots[i] = (int32_t)(o.max_num_seqs - 1 - i);
  b->num_free_blocks = o.num_blocks;
  b->num_free_slots = o.max_num_seqs;
  b->stats = (fk_batching_stats){.requests = count,
                                 .max_num_seqs = o.max_num_seqs,
                                 .max_num_batched_tokens = o.max_num_batched_tokens,
                                 .num_blocks = o.num_blocks,
                                 .block_size = FK_BLOCK_SIZE};
  fk_tensor *t = b->tensors;
  b->batch = (fk_batch){
      &t[IDS],    &t[POSITIONS], &t[CU_SEQLENS], &t[SEQ_LENS], &t[SLOTS], &t[TABLE], o.state_slots ? &t[STATE] : NULL,
      &t[LOGITS], NULL};
  *out = b;
  return FK_OK;
}

void fk_batcher_destroy(fk_batcher *b) {
  if (!b) return;
  for (int64_t i = 0; b->seqs && i < b->count; i++) {
    free(b->seqs[i].blocks);
    free(b->seqs[i].generated);
  }
  free(b->seqs);
  free(b->memory);
  free(b->block_table);
  free(b);
}
