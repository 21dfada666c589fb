/* Model: a network bound to weights on one device (level 4). A model is computed by calling tasks and by nothing else,
 * so one model.c runs on every device, is captured at every level, and follows every override.
 *
 * A model class is a folder models/<name>/ with model.c, which defines `const fk_model_class fk_model_<name>`; the
 * build collects them (models.gen.c). A model instance owns its arena (weights, tables) and keeps its checkpoint open.
 * Weights are views of the mapped file where dtype and layout agree, converted copies otherwise, shapes only on meta;
 * on cuda they lie in GPU memory, so that a model must be closed before its context is destroyed. */
#ifndef FK_ENGINE_MODEL_H
#define FK_ENGINE_MODEL_H

#include "core/arena.h"
#include "core/context.h"

typedef struct fk_loader fk_loader;   /* engine/loader.h: config and weights, while a model is being built */
typedef struct fk_tensors fk_tensors; /* a small ordered map from names to tensors, below */

/* ---- Token sequences (engine, capture) ------------------------------------------------------------------- */

typedef enum fk_cache_kind {
  FK_CACHE_PAGED, /* [num_blocks, block_size, shape...]: one row per token, found through the block table */
  FK_CACHE_STATE  /* [num_slots, shape...]: one entry per sequence, found through state_slots */
} fk_cache_kind;

enum { FK_MAX_CACHES = 1024 };

/* One cache tensor of a model, e.g. layer 3's keys. */
typedef struct fk_cache_spec {
  const char *name;
  fk_cache_kind kind;
  fk_type type;
  int32_t ndim;
  int64_t shape[4];
} fk_cache_spec;

/* One step over a batch of sequences, packed without padding. T tokens, B sequences. Index tensors live on the host: on
 * cuda fk_model_step checks them there and takes them over in one transfer; those that are in GPU memory already are
 * used as they are, unchecked but by the kernels. The ops' step() gets all of them where tasks can use them. */
typedef struct fk_batch {
  fk_tensor *input_ids;      /* [T] int32 */
  fk_tensor *positions;      /* [T] int64: place of each token in its sequence */
  fk_tensor *cu_seqlens_q;   /* [B+1] int32: where each sequence's tokens start */
  fk_tensor *seq_lens;       /* [B] int32: tokens of each sequence in the caches after this step */
  fk_tensor *slot_mapping;   /* [T] int64: block * block_size + offset of each token's row; -1 = do not store */
  fk_tensor *block_table;    /* [B, max_blocks_per_seq] int32 */
  fk_tensor *state_slots;    /* [B] int32, or NULL when the model has no state caches */
  fk_tensor *logits_indices; /* [N] int32: tokens whose logits are wanted */
  fk_tensor *const *caches;  /* one per fk_cache_spec */
} fk_batch;

typedef struct fk_sequence_ops {
  /* Describes the caches; specs == NULL asks for their number only. */
  int (*caches)(const void *model, fk_cache_spec *specs);
  /* Runs the batch; logits [N, output_size], of the model's dtype (float64 on ref), in the device's memory. */
  fk_status (*step)(fk_context *ctx, const void *model, const fk_batch *batch, fk_tensor *logits);
  int64_t (*num_embeddings)(const void *model); /* input ids lie below it */
  int64_t (*vocab_size)(const void *model);     /* 0 for a model without head, which cannot generate */
  int64_t (*output_size)(const void *model);    /* columns of logits: vocab_size, or without head the hidden size */
  int64_t (*max_position)(const void *model);   /* longest sequence the model was built for */
} fk_sequence_ops;

/* ---- Classes and instances ------------------------------------------------------------------------------- */

typedef struct fk_model fk_model;

/* An input of forward(), for the level-4 definition. Each may be absent there: the model says what it needs. */
typedef struct fk_model_input {
  const char *name, *axes; /* "batch length": one name per dimension; the same name, the same size */
  bool floats;             /* else integers or bool */
} fk_model_input;

typedef struct fk_model_class {
  const char *name;                 /* the folder's name */
  const char *category;             /* one of the eight of README */
  const char *summary;              /* one sentence */
  const char *const *architectures; /* values of config.json's "architectures" that it serves; NULL-ended */
  size_t state_size;                /* bytes of the model's own struct, zeroed before load */
  /* Reads the configuration, binds every weight. */
  fk_status (*load)(fk_loader *loader, void *model);
  /* The public reference's forward(): inputs and outputs named as there. Both are host tensors on every device (cuda
   * takes those that only tasks read, floats above all, from GPU memory too); outputs are temporaries of ctx. */
  fk_status (*forward)(fk_context *ctx, const fk_model *model, const fk_tensors *inputs, fk_tensors *outputs);
  const fk_sequence_ops *sequence; /* NULL when the model does not generate tokens; then it has inputs */
  const fk_model_input *inputs;    /* of forward(), ended by a NULL name; NULL for sequence models */
} fk_model_class;

extern const fk_model_class *const fk_model_classes[]; /* NULL-ended */

typedef struct fk_preset { /* a public configuration: models/<model>/presets/<name>.json */
  const char *name, *model, *config_json;
} fk_preset;
extern const fk_preset fk_presets[];
extern const int fk_preset_count;

typedef struct fk_model_options {
  fk_type dtype;         /* compute and storage dtype; 0 = the configuration's; ref ignores it (double) */
  int64_t max_model_len; /* longest sequence to prepare for; 0 = the configuration's */
  bool random_weights;   /* from a preset on a computing device: normal weights from seed */
  uint64_t seed;
} fk_model_options;

struct fk_model {
  const fk_model_class *class;
  void *state; /* class->state_size bytes */
  fk_type dtype;
  fk_arena arena;           /* host side: descriptors, tables, converted weights */
  fk_arena device;          /* GPU side, of a model on cuda */
  int64_t num_parameters;   /* elements of all weights; a tied weight counts once */
  const fk_task *step_task; /* the level-4 definition that recorders see: of a step, or else of forward() */
  void *checkpoint;         /* fk_checkpoint * kept open under the weights, or NULL */
};

/* source is a model folder (config.json and weights) or, when no such folder exists, a preset's name. On a meta context
 * a preset or a folder without weights is enough. On failure *model is NULL. */
fk_status fk_model_open(fk_context *ctx, const char *source, const fk_model_options *options, fk_model **model);
/* The same from the text of a config.json, without weights: on meta, or with random weights. where names the text in
 * messages. */
fk_status fk_model_open_config(fk_context *ctx, const char *json, size_t size, const char *where,
                               const fk_model_options *options, fk_model **model);
void fk_model_close(fk_model *model);

/* Runs forward(), of which the recorder is told as one level-4 call. A sequence model's forward() is one step. */
fk_status fk_model_forward(fk_context *ctx, const fk_model *model, const fk_tensors *inputs, fk_tensors *outputs);

/* Runs one step of a sequence model. Checks the batch, indices included, unless the context is unchecked. Tells the
 * recorder about the level-4 call: task model->step_task, whose index is -1 and which lives as long as the model. */
fk_status fk_model_step(fk_context *ctx, const fk_model *model, const fk_batch *batch, fk_tensor *logits);

/* ---- Named tensors --------------------------------------------------------------------------------------- */

enum { FK_MAX_NAMED = 64 };
struct fk_tensors {
  int count;
  struct {
    const char *name;
    fk_tensor *tensor;
  } items[FK_MAX_NAMED];
};

fk_tensor *fk_tensors_get(const fk_tensors *map, const char *name); /* NULL when absent */
fk_status fk_tensors_put(fk_tensors *map, const char *name, fk_tensor *tensor);

#endif
