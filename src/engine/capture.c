#include "engine/capture.h"

#include <stdlib.h>
#include <string.h>

#include "engine/shadow.h"

enum { MAX_DEPTH = 64 };

/* One distinct call of a step, by its arguments and the content of its integer tensors; where composites are skipped
 * its count is known only when the step ends. */
typedef struct node {
  fk_hash key;
  fk_record_table *table;
  int64_t number;      /* identity in the table */
  double flops, bytes; /* of one call */
  bool costed;
  uint64_t count;
  int first_edge; /* calls it makes; -1 = none */
  int finished;   /* place in the order of completion; -1 while it runs */
} node;

typedef struct edge {
  int child;
  int next;
  uint64_t times;
} edge;

typedef struct frozen {
  const char *start;
  size_t bytes;
  /* Once somebody kept them, of the tensor of exactly this memory: it is an argument at every level. */
  fk_ints *ints;
  bool has_stats;
  fk_stats stats;
} frozen;

/* A call that is running. */
typedef struct frame {
  int node;
  fk_record_table *table;
  int64_t number;
  bool costed;
  double flops, bytes;             /* its own */
  double inner_flops, inner_bytes; /* of the calls it makes: what a model costs */
} frame;

struct fk_capture {
  fk_recorder recorder;
  fk_capture_options options;
  fk_arena arena; /* copies of definitions that the registry does not own */
  fk_record_table **tables;
  int num_tables, room_tables;
  fk_record_table **by_index; /* registered tasks, by task->index */
  int num_registered;
  bool finished;
  fk_cuda *cuda; /* of the context that is being recorded */
  fk_shadows shadows;
  fk_status status; /* of recording in this step */
  char *error;

  frame frames[MAX_DEPTH];
  int depth;
  node *nodes;
  edge *edges;
  int *order; /* nodes by completion */
  int *slots; /* node index + 1 by key, open addressing */
  frozen *frozen;
  int num_nodes, room_nodes, num_edges, room_edges, num_finished, num_frozen, room_frozen;
  size_t num_slots;
};

static fk_status no_memory(void) {
  return fk_fail(FK_ERROR_MEMORY, "capture: cannot allocate");
}

/* Makes room for one more item of an array. */
static fk_status grow(void *array, int count, int *room, size_t size) {
  if (count < *room) return FK_OK;
  int wanted = *room ? 2 * *room : 64;
  void *old, *larger;
  memcpy(&old, array, sizeof old);
  larger = realloc(old, (size_t)wanted * size);
  if (!larger) return no_memory();
  memcpy(array, &larger, sizeof larger);
  *room = wanted;
  return FK_OK;
}

/* ---- Tables ---------------------------------------------------------------------------------------------- */

static const fk_shape *copy_shapes(fk_arena *arena, const fk_task *task, const fk_arg *arg) {
  size_t layouts = task->num_layouts ? (size_t)task->num_layouts : 1;
  fk_shape *shapes = fk_arena_calloc(arena, layouts, sizeof *shapes);
  for (size_t l = 0; shapes && l < layouts; l++) {
    shapes[l] = arg->shapes[l];
    for (int d = 0; d < FK_MAX_DIMS; d++) shapes[l].dims[d].expr = NULL;
  }
  return shapes;
}

/* What a capture needs of a definition whose owner may go first: names, roles, kinds; no expressions. */
static const fk_task *copy_task(fk_arena *arena, const fk_task *task) {
  fk_task *copy = fk_arena_calloc(arena, 1, sizeof *copy);
  fk_arg *args = fk_arena_calloc(arena, (size_t)task->num_args + 1, sizeof *args);
  fk_symbol *symbols = fk_arena_calloc(arena, (size_t)task->num_symbols + 1, sizeof *symbols);
  const char **layouts = fk_arena_calloc(arena, (size_t)task->num_layouts + 1, sizeof *layouts);
  if (!copy || !args || !symbols || !layouts) return NULL;
  *copy = *task;
  copy->name = fk_arena_strdup(arena, task->name);
  copy->family = fk_arena_strdup(arena, task->family ? task->family : "model");
  copy->summary = fk_arena_strdup(arena, task->summary ? task->summary : "");
  if (!copy->name || !copy->family || !copy->summary) return NULL;
  for (int i = 0; i < task->num_layouts; i++)
    if (!(layouts[i] = fk_arena_strdup(arena, task->layouts[i]))) return NULL;
  for (int i = 0; i < task->num_symbols; i++) {
    symbols[i] = (fk_symbol){.kind = task->symbols[i].kind, .name = fk_arena_strdup(arena, task->symbols[i].name)};
    if (!symbols[i].name) return NULL;
  }
  for (int i = 0; i < task->num_args; i++) {
    args[i] = task->args[i];
    args[i].may_alias = NULL;
    args[i].doc = "";
    args[i].enum_names = NULL;
    args[i].c_name = args[i].name = fk_arena_strdup(arena, task->args[i].name);
    if (fk_arg_is_tensor(&args[i])) args[i].shapes = copy_shapes(arena, task, &task->args[i]);
    if (!args[i].name || (fk_arg_is_tensor(&args[i]) && !args[i].shapes)) return NULL;
  }
  copy->args = args;
  copy->symbols = symbols;
  copy->layouts = layouts;
  copy->mirrors = NULL;
  copy->constraints = NULL;
  copy->num_mirrors = copy->num_constraints = 0;
  copy->tolerance = "";
  copy->flops = copy->bytes = NULL;
  copy->json = NULL;
  return copy;
}

static fk_status table_new(fk_capture *c, const fk_task *task, fk_record_table **out) {
  FK_TRY(grow(&c->tables, c->num_tables, &c->room_tables, sizeof(fk_record_table *)));
  fk_record_table *table = malloc(sizeof *table);
  if (!table) return no_memory();
  fk_record_table_init(table, task, c->options.max_cases);
  c->tables[c->num_tables++] = *out = table;
  return FK_OK;
}

static fk_status table_of(fk_capture *c, const fk_task *task, fk_record_table **out) {
  if (task->index >= 0) {
    *out = c->by_index[task->index];
    if (*out) return FK_OK;
    FK_TRY(table_new(c, task, out));
    c->by_index[task->index] = *out;
    return FK_OK;
  }
  for (int i = 0; i < c->num_tables; i++)
    if (c->tables[i]->task->index < 0 && strcmp(c->tables[i]->task->name, task->name) == 0) {
      *out = c->tables[i];
      /* The same model name with other arguments would mix two meanings in one table. */
      return (*out)->task->num_args == task->num_args && (*out)->task->num_symbols == task->num_symbols
                 ? FK_OK
                 : fk_fail(FK_ERROR_UNSUPPORTED, "capture: %s is called with other tensors than before", task->name);
    }
  const fk_task *copy = copy_task(&c->arena, task);
  return copy ? table_new(c, copy, out) : no_memory();
}

/* ---- Content --------------------------------------------------------------------------------------------- */

static bool is_integer(const fk_tensor *t) {
  return fk_type_is_int(fk_type_of(t)) || fk_type_of(t) == FK_BOOL;
}

static bool is_readable(const fk_arg *arg, const fk_tensor *t) {
  return t && t->data && t->device.type == FK_DL_CPU && arg->role != FK_OUTPUT;
}

static frozen *find_frozen(fk_capture *c, const fk_tensor *t) {
  const char *data = fk_data(t);
  for (int i = 0; i < c->num_frozen; i++)
    if (data >= c->frozen[i].start && data < c->frozen[i].start + c->frozen[i].bytes) return &c->frozen[i];
  return NULL;
}

/* Integers that are not frozen may have changed since the last call: their content is read. */
static fk_status hash_integers(fk_hash *h, const fk_tensor *t) {
  if (fk_is_contiguous(t)) {
    fk_hash_bytes(h, fk_data(t), fk_type_bytes(fk_type_of(t), fk_numel(t)));
    return FK_OK;
  }
  fk_ints *ints;
  FK_TRY(fk_ints_read(t, &ints));
  for (int64_t i = 0; i < ints->count; i++) fk_hash_int(h, fk_ints_at(ints, i));
  fk_ints_release(ints);
  return FK_OK;
}

static fk_status call_key(fk_capture *c, const fk_task *task, const fk_any *args, fk_hash *key) {
  fk_hash_word(key, (uint64_t)(uintptr_t)task);
  for (int i = 0; i < task->num_args; i++) {
    if (!fk_arg_is_tensor(&task->args[i])) continue;
    const fk_tensor *t = fk_arg_tensor(&args[i]);
    if (!is_readable(&task->args[i], t) || !is_integer(t)) continue;
    const frozen *f = find_frozen(c, t);
    if (!f) {
      FK_TRY(hash_integers(key, t));
      continue;
    }
    fk_hash_int(key, f - c->frozen);
    fk_hash_int(key, (const char *)fk_data(t) - f->start);
  }
  return FK_OK;
}

/* The frozen tensor that t is all of, or NULL. */
static frozen *find_whole(fk_capture *c, const fk_tensor *t) {
  frozen *f = find_frozen(c, t);
  bool whole = f && f->start == (const char *)fk_data(t) && fk_is_contiguous(t) &&
               f->bytes == fk_type_bytes(fk_type_of(t), fk_numel(t));
  return whole ? f : NULL;
}

static fk_status keep_integers(fk_capture *c, const fk_tensor *t, fk_ints **out) {
  frozen *f = find_whole(c, t);
  if (f && f->ints) {
    f->ints->refs++;
    *out = f->ints;
    return FK_OK;
  }
  FK_TRY(fk_ints_read(t, out));
  if (f) {
    f->ints = *out;
    f->ints->refs++;
  }
  return FK_OK;
}

static fk_status keep_stats(fk_capture *c, const fk_tensor *t, fk_stats **out) {
  frozen *f = find_whole(c, t);
  *out = malloc(sizeof **out);
  if (!*out) return no_memory();
  if (f && f->has_stats) {
    **out = f->stats;
    return FK_OK;
  }
  FK_TRY(fk_stats_read(t, *out));
  if (f) {
    f->stats = **out;
    f->has_stats = true;
  }
  return FK_OK;
}

/* Integers in GPU memory have been replaced by their shadows: what is still there is floats, or too large. */
static fk_status keep_device_stats(fk_capture *c, const fk_arg *arg, const fk_tensor *t, fk_stats **out) {
  fk_tensor copy;
  if (!t || !t->data || t->device.type != FK_DL_CUDA || arg->role == FK_OUTPUT || fk_type_bits(fk_type_of(t)) < 8)
    return FK_OK;
  fk_arena_mark mark = fk_arena_save(&c->shadows.arena);
  fk_status status = fk_shadow_make(&c->shadows, c->cuda, t, false, &copy);
  if (!status && copy.data) status = keep_stats(c, &copy, out);
  fk_arena_rewind(&c->shadows.arena, mark);
  return status;
}

/* Numbers or statistics of the tensors of a call that begins a case. */
static fk_status keep_content(fk_capture *c, const fk_task *task, const fk_any *args, fk_record *r) {
  for (int i = 0; i < task->num_args && !c->options.shapes_only; i++) {
    const fk_tensor *t = fk_arg_is_tensor(&task->args[i]) ? fk_arg_tensor(&args[i]) : NULL;
    if (!is_readable(&task->args[i], t)) {
      FK_TRY(keep_device_stats(c, &task->args[i], t, &r->args[i].stats));
      continue;
    }
    if (is_integer(t) && fk_numel(t) <= FK_MAX_KEPT_INTS) {
      FK_TRY(keep_integers(c, t, &r->args[i].ints));
    } else if (fk_type_bits(fk_type_of(t)) >= 8) {
      FK_TRY(keep_stats(c, t, &r->args[i].stats));
    }
  }
  return FK_OK;
}

fk_status fk_capture_freeze(fk_capture *c, const fk_tensor *t) {
  if (!t || !t->data || fk_numel(t) == 0) return FK_OK;
  FK_TRY(grow(&c->frozen, c->num_frozen, &c->room_frozen, sizeof *c->frozen));
  c->frozen[c->num_frozen++] = (frozen){.start = fk_data(t), .bytes = fk_type_bytes(fk_type_of(t), fk_numel(t))};
  return FK_OK;
}

/* ---- The tree of calls of a step ------------------------------------------------------------------------- */

static int *slot_of(int *slots, size_t num_slots, const node *nodes, fk_hash key) {
  size_t i = key.a & (num_slots - 1);
  while (slots[i] && !fk_hash_equal(nodes[slots[i] - 1].key, key)) i = (i + 1) & (num_slots - 1);
  return &slots[i];
}

static fk_status add_node(fk_capture *c, const node *n, int *index) {
  if (2 * (size_t)(c->num_nodes + 1) > c->num_slots) {
    size_t wanted = c->num_slots ? 2 * c->num_slots : 256;
    int *slots = calloc(wanted, sizeof *slots);
    if (!slots) return no_memory();
    for (int i = 0; i < c->num_nodes; i++) *slot_of(slots, wanted, c->nodes, c->nodes[i].key) = i + 1;
    free(c->slots);
    c->slots = slots;
    c->num_slots = wanted;
  }
  if (c->num_nodes == c->room_nodes) {
    int room = c->room_nodes;
    FK_TRY(grow(&c->nodes, c->num_nodes, &c->room_nodes, sizeof *c->nodes));
    FK_TRY(grow(&c->order, c->num_nodes, &room, sizeof *c->order));
  }
  *slot_of(c->slots, c->num_slots, c->nodes, n->key) = c->num_nodes + 1;
  c->nodes[ *index = c->num_nodes++] = *n;
  return FK_OK;
}

/* The running call, or the step itself, makes one more call of a node. */
static fk_status add_call(fk_capture *c, int child) {
  if (c->depth == 0) {
    c->nodes[child].count++;
    return FK_OK;
  }
  node *parent = &c->nodes[c->frames[c->depth - 1].node];
  for (int e = parent->first_edge; e >= 0; e = c->edges[e].next)
    if (c->edges[e].child == child) {
      c->edges[e].times++;
      return FK_OK;
    }
  FK_TRY(grow(&c->edges, c->num_edges, &c->room_edges, sizeof *c->edges));
  c->edges[c->num_edges] = (edge){.child = child, .next = parent->first_edge, .times = 1};
  parent->first_edge = c->num_edges++;
  return FK_OK;
}

/* Counts flow from callers to callees: a caller completes after everything it calls. */
static void count_tree(fk_capture *c) {
  for (int i = c->num_finished - 1; i >= 0; i--) {
    const node *n = &c->nodes[c->order[i]];
    long double times = (long double)n->count;
    fk_record_table_count(n->table, n->number, n->count, times * n->flops, times * n->bytes);
    if (!n->costed) n->table->uncosted += n->count;
    for (int e = n->first_edge; e >= 0; e = c->edges[e].next)
      c->nodes[c->edges[e].child].count += n->count * c->edges[e].times;
  }
}

/* ---- Recording ------------------------------------------------------------------------------------------- */

static void failed(fk_capture *c, fk_status status) {
  if (c->status) return; /* the first failure is the cause */
  c->status = status;
  c->error = strdup(fk_last_error());
}

/* A model (no index) states no cost: it has that of its calls, known when it returns. An axis that the call's layout
 * lacks counts as 0 in a formula; without layouts an unbound axis is one whose data cannot be read. */
static bool call_cost(const fk_task *task, const fk_any *args, const fk_binding *b, double *flops, double *bytes) {
  bool bound = task->num_layouts > 0 || (fk_expr_is_bound(task->flops, b->symbols) &&
                                         (!task->bytes || fk_expr_is_bound(task->bytes, b->symbols)));
  return bound && fk_task_flops(task, args, b, flops) == FK_OK && fk_task_bytes(task, args, b, bytes) == FK_OK;
}

/* Finds or begins the case of a call. */
static fk_status find_case(fk_capture *c, const fk_task *task, const fk_any *args, const fk_binding *binding,
                           fk_hash identity, frame *f) {
  FK_TRY(table_of(c, task, &f->table));
  f->costed = task->index >= 0 && call_cost(task, args, binding, &f->flops, &f->bytes);
  if (!f->costed) f->flops = f->bytes = 0;
  f->number = fk_record_table_find(f->table, identity);
  if (f->number >= 0) return FK_OK;
  fk_record *r;
  FK_TRY(fk_record_create(f->table->task, args, binding, &r));
  r->flops = f->flops;
  r->bytes = f->bytes;
  fk_status status = keep_content(c, task, args, r);
  if (!status) status = fk_record_table_add(f->table, identity, r, &f->number);
  if (status) fk_record_destroy(f->table->task, r);
  return status;
}

static fk_status begin(fk_capture *c, const fk_context *ctx, const fk_task *task, const fk_any *args,
                       const fk_binding *binding, bool *expand) {
  *expand = true;
  if (c->finished) return fk_fail(FK_ERROR_ARGUMENT, "capture: it is finished");
  if (c->depth == MAX_DEPTH)
    return fk_fail(FK_ERROR_UNSUPPORTED, "capture: calls are nested deeper than %d", MAX_DEPTH);
  bool tree = fk_context_backend(ctx) == FK_META && !c->options.expand_all;
  fk_hash identity = fk_record_identity(task, args, binding), key = identity;
  frame f = {.node = -1};
  if (tree) {
    FK_TRY(call_key(c, task, args, &key));
    int known = c->num_slots ? *slot_of(c->slots, c->num_slots, c->nodes, key) - 1 : -1;
    if (known >= 0 && c->nodes[known].finished >= 0) {
      const node *n = &c->nodes[known];
      *expand = false;
      f = (frame){.node = -1, .table = n->table, .number = n->number, .flops = n->flops, .bytes = n->bytes};
      FK_TRY(add_call(c, known));
      c->frames[c->depth++] = f;
      return FK_OK;
    }
  }
  FK_TRY(find_case(c, task, args, binding, identity, &f));
  if (tree) {
    node n = {.key = key, .table = f.table, .number = f.number, .first_edge = -1, .finished = -1};
    FK_TRY(add_node(c, &n, &f.node));
    FK_TRY(add_call(c, f.node));
  }
  c->frames[c->depth++] = f;
  return FK_OK;
}

/* On a GPU indices are read where the host can see them: costs and content depend on them. */
static fk_status begin_anywhere(fk_capture *c, const fk_context *ctx, const fk_task *task, const fk_any *args,
                                const fk_binding *binding, bool *expand) {
  fk_any host_args[FK_MAX_ARGS];
  fk_tensor copies[FK_MAX_ARGS];
  c->cuda = ctx->cuda;
  if (!c->cuda) return begin(c, ctx, task, args, binding, expand);
  fk_binding finished = *binding;
  *expand = true;
  FK_TRY(fk_shadow_args(&c->shadows, c->cuda, task, args, copies, host_args));
  /* An expression over data that has none stays unbound, as on meta. */
  (void)fk_binding_finish(task, host_args, &finished);
  return begin(c, ctx, task, host_args, &finished, expand);
}

static bool enter(fk_recorder *self, fk_context *ctx, const fk_task *task, const fk_any *args,
                  const fk_binding *binding) {
  fk_capture *c = (fk_capture *)self;
  bool expand = true;
  fk_status status = c->status ? c->status : begin_anywhere(c, ctx, task, args, binding, &expand);
  if (!status) return expand;
  /* The step goes on uncounted; its end reports the failure. */
  failed(c, status);
  if (c->depth < MAX_DEPTH) c->frames[c->depth] = (frame){.node = -1};
  c->depth++;
  return true;
}

static void leave(fk_recorder *self, fk_context *ctx, const fk_task *task, const fk_any *args, fk_status status) {
  fk_capture *c = (fk_capture *)self;
  (void)args;
  if (status) failed(c, status);
  if (--c->depth == 0) fk_shadows_drop(&c->shadows); /* whose tensors belong to others from now on */
  if (c->depth >= MAX_DEPTH || c->status) return;
  frame *f = &c->frames[c->depth];
  bool skipped = f->node < 0 && fk_context_backend(ctx) == FK_META && !c->options.expand_all;
  if (task->index < 0 && !skipped) {
    f->flops = f->inner_flops;
    f->bytes = f->inner_bytes;
    f->costed = true;
    fk_record_table_cost(f->table, f->number, f->flops, f->bytes);
  }
  if (f->node >= 0) {
    node *n = &c->nodes[f->node];
    n->flops = f->flops;
    n->bytes = f->bytes;
    n->costed = f->costed;
    n->finished = c->num_finished;
    c->order[c->num_finished++] = f->node;
  } else if (!skipped) {
    fk_record_table_count(f->table, f->number, 1, f->flops, f->bytes);
    f->table->uncosted += !f->costed;
  }
  if (c->depth > 0) {
    c->frames[c->depth - 1].inner_flops += f->flops;
    c->frames[c->depth - 1].inner_bytes += f->bytes;
  }
}

fk_status fk_capture_step(fk_capture *c) {
  fk_status status = c->status;
  if (status)
    fk_fail(status, "%s", c->error ? c->error : "capture: cannot allocate");
  else
    count_tree(c);
  free(c->error);
  for (int i = 0; i < c->num_frozen; i++) fk_ints_release(c->frozen[i].ints);
  if (c->num_slots) memset(c->slots, 0, c->num_slots * sizeof *c->slots);
  c->error = NULL;
  c->status = FK_OK;
  c->depth = c->num_nodes = c->num_edges = c->num_finished = c->num_frozen = 0;
  for (int i = 0; i < c->num_tables && !status; i++)
    status = fk_record_table_merge(c->tables[i], c->tables[i]->trigger);
  return status;
}

/* ---- The whole ------------------------------------------------------------------------------------------- */

fk_status fk_capture_create(const fk_capture_options *options, fk_capture **out) {
  *out = NULL;
  if (options->max_cases < 0)
    return fk_fail(FK_ERROR_ARGUMENT, "capture: max_cases: expected at least 0, got %d", options->max_cases);
  int count;
  if (!fk_tasks(&count)) return FK_ERROR_MEMORY;
  fk_capture *c = calloc(1, sizeof *c);
  fk_record_table **by_index = calloc((size_t)count + 1, sizeof(fk_record_table *));
  if (!c || !by_index) {
    free(c);
    free(by_index);
    return no_memory();
  }
  c->recorder = (fk_recorder){enter, leave};
  c->options = *options;
  if (!c->options.max_cases) c->options.max_cases = FK_DEFAULT_MAX_CASES;
  fk_arena_init(&c->arena, &fk_host_memory, 1 << 14);
  fk_shadows_init(&c->shadows);
  c->by_index = by_index;
  c->num_registered = count;
  *out = c;
  return FK_OK;
}

void fk_capture_destroy(fk_capture *c) {
  if (!c) return;
  for (int i = 0; i < c->num_frozen; i++) fk_ints_release(c->frozen[i].ints);
  for (int i = 0; i < c->num_tables; i++) {
    fk_record_table_destroy(c->tables[i]);
    free(c->tables[i]);
  }
  free(c->tables);
  free(c->by_index);
  free(c->nodes);
  free(c->edges);
  free(c->order);
  free(c->slots);
  free(c->frozen);
  free(c->error);
  fk_arena_destroy(&c->arena);
  fk_shadows_destroy(&c->shadows);
  free(c);
}

fk_recorder *fk_capture_recorder(fk_capture *c) {
  return &c->recorder;
}

static int by_level(const void *x, const void *y) {
  const fk_task *a = (*(fk_record_table *const *)x)->task, *b = (*(fk_record_table *const *)y)->task;
  return a->level != b->level ? a->level - b->level : strcmp(a->name, b->name);
}

fk_status fk_capture_finish(fk_capture *c) {
  c->finished = true;
  for (int i = 0; i < c->num_tables; i++) {
    FK_TRY(fk_record_table_merge(c->tables[i], c->options.max_cases));
    fk_record_table_sort(c->tables[i]);
  }
  if (c->num_tables) qsort(c->tables, (size_t)c->num_tables, sizeof(fk_record_table *), by_level);
  return FK_OK;
}

int fk_capture_count(const fk_capture *c) {
  return c->num_tables;
}

const fk_record_table *fk_capture_table(const fk_capture *c, int index) {
  return c->tables[index];
}

const fk_record_table *fk_capture_find(const fk_capture *c, const char *task) {
  for (int i = 0; i < c->num_tables; i++)
    if (strcmp(c->tables[i]->task->name, task) == 0) return c->tables[i];
  return NULL;
}
