/* Rotary frequencies: from a model's description of its rotary embedding to the cos/sin table that the task
 * rotary_embedding reads.
 *
 * A description (fk_rope) is a plain value in the terms of config.json; a field that is 0 is absent and takes the
 * default that its comment gives. Pair j of the rotary_dim / 2 pairs turns by position * inv_freq[j]; the attention
 * factor scales cosines and sines. Every operation is rounded to float32, on every device: models were trained with
 * float32 angles, and at position 10^5 those are off by 10^-2 radians from the exact ones. Buffers and tables belong to
 * the caller; fk_rope_cos_sin allocates its table from the model.
 *
 * The formulas are those of transformers' modeling_rope_utils.py (5.23), checked against it by
 * tests/golden/make_rope.py; their sources are the Llama 3.1 release and YaRN (arXiv 2309.00071). */
#ifndef FK_ENGINE_ROPE_H
#define FK_ENGINE_ROPE_H

#include "engine/loader.h"

typedef enum fk_rope_type {
  FK_ROPE_DEFAULT, /* inv_freq[j] = theta^(-2 j / rotary_dim) */
  FK_ROPE_LINEAR,  /* all divided by factor */
  FK_ROPE_DYNAMIC, /* theta grows with the longest sequence beyond max_position_embeddings */
  FK_ROPE_LLAMA3,  /* long waves divided by factor, short ones kept, a smooth step between them */
  FK_ROPE_YARN     /* the same idea over pair numbers, and an attention factor */
} fk_rope_type;

/* "default", "linear", "dynamic", "llama3", "yarn", in the order of the enum; NULL-ended. */
extern const char *const fk_rope_type_names[];

typedef struct fk_rope {
  fk_rope_type type;
  int64_t rotary_dim; /* columns that turn: even, at least 2 */
  double theta;       /* rope_theta; at least 1 */
  double factor;      /* linear, dynamic, llama3: required. yarn: or max_position_embeddings over the original one */
  double low_freq_factor, high_freq_factor; /* llama3: required, low below high */
  int64_t original_max_position_embeddings; /* llama3, yarn: required */
  int64_t max_position_embeddings;          /* dynamic: required; yarn without factor: required */
  int64_t seq_len;                          /* dynamic: the longest sequence; max_position_embeddings */
  double beta_fast, beta_slow;              /* yarn: rotations at which the ramp starts and ends; 32 and 1 */
  double attention_factor;                  /* yarn: computed from mscale and mscale_all_dim, or from factor alone */
  double mscale, mscale_all_dim;            /* yarn */
  bool exact;                               /* compute in double throughout, to check the formulas */
  bool untruncated;                         /* yarn: the ramp's ends keep their fractions ("truncate": false) */
} fk_rope;

/* Writes rotary_dim / 2 frequencies and the attention factor. FK_ERROR_ARGUMENT names the field that is missing or out
 * of range. */
fk_status fk_rope_frequencies(const fk_rope *rope, double *inv_freq, double *attention_factor);

/* Fills a contiguous host tensor [max_position, rotary_dim] of any float dtype: row p is cos(p * inv_freq), then sin,
 * both times the attention factor. */
fk_status fk_rope_table(const fk_rope *rope, const fk_tensor *table);

/* Reads the description from config.json: rope_theta (10000 when absent) and rope_scaling or rope_parameters, old and
 * new spelling. Tables that differ by layer type are refused. rotary_dim is the caller's: it knows head_dim and
 * partial_rotary_factor. */
fk_status fk_rope_read(fk_loader *l, int64_t rotary_dim, fk_rope *rope);

/* The table [max_position, rotary_dim] of the configuration, kept as long as the model: float64 on ref, else float32;
 * without data on meta. On failure *table is NULL. */
fk_status fk_rope_cos_sin(fk_loader *l, int64_t rotary_dim, int64_t max_position, fk_tensor **table);

#endif
