/* Case: one call of a task, as JSON describes it - for tests, benchmarks and captures alike.
 *
 *   {"axes": {"rows": 7, "hidden_size": 33}, "layout": "paged", "attributes": {"epsilon": 1e-5}, "absent": ["bias"],
 *    "dtypes": {"x": "bfloat16"}, "strided": ["x"], "strides": {"x": [64, 1]}, "alias": {"out": "x"},
 *    "special": "huge" | "nonfinite", "values": {"seq_lens": [5, 9]},
 *    "stats": {"x": {"mean": 0, "std": 2.5, "min": -9, "max": 11}},
 *    "count": 12, "cost": {"flops": 1e9, "bytes": 1e6}, "note": "why"}
 *
 * An axis that heads an ellipsis ("rows...") takes an integer or an array of leading dimensions. Only "axes" is
 * required. A case holds copies of everything it needs, in the arena it was parsed into; it refers to its task.
 * docs/scoring.md describes the form for users. */
#ifndef FK_JUDGE_CASE_H
#define FK_JUDGE_CASE_H

#include <jansson.h>

#include "core/bind.h"

typedef enum fk_special { FK_SPECIAL_NONE, FK_SPECIAL_HUGE, FK_SPECIAL_NONFINITE } fk_special;

/* What a case says about one tensor argument. */
typedef struct fk_case_tensor {
  bool given;       /* false: None is passed */
  bool dtype_named; /* the case names its dtype */
  bool strided;     /* rows of a wider matrix, by a padding of synth's choice */
  fk_type dtype;
  int alias;              /* outputs: the argument whose memory it shares, or -1 */
  const int64_t *strides; /* in elements, or NULL */
  int32_t num_strides;
  const double *values; /* explicit content, or NULL; exact for integers below 2^53 */
  int64_t num_values;
  bool has_stats;
  double mean, std, min, max; /* of the captured content */
} fk_case_tensor;

typedef struct fk_case {
  const fk_task *task;
  fk_binding binding;             /* axes, layout and integer attributes; what no tensor needs may be unbound */
  double attributes[FK_MAX_ARGS]; /* by argument index */
  fk_case_tensor tensors[FK_MAX_ARGS];
  fk_special special;
  int64_t count;       /* how many captured calls it stands for; 1 unless given */
  double flops, bytes; /* "cost", 0 unless given */
  const char *note;    /* never NULL */
} fk_case;

/* Parses one case. Unknown keys, axes, tensors and attributes, and wrong types, are errors that name where (the file or
 * the place in it) and the key. Allocates from the arena; on failure *out is NULL. */
fk_status fk_case_parse(fk_arena *arena, const fk_task *task, const json_t *json, const char *where, fk_case **out);

/* A task's dtype variants: variant v gives each tensor that is free to choose its v-th allowed dtype (cyclically).
 * There are as many as the freest tensor has dtypes. A dtype that the case names stays. */
int fk_task_num_variants(const fk_task *task);
void fk_case_use_variant(fk_case *c, int variant);

/* Sets the dtype of every tensor that allows it and whose dtype the case does not name; false when none does. */
bool fk_case_use_dtype(fk_case *c, fk_type dtype);

/* The dtypes task.json lists for an argument, in its order; 0 when its dtype follows another's. */
int fk_task_dtypes(const fk_task *task, int arg, fk_type types[16]);

/* "rows=7 hidden_size=33 bfloat16": a short label of a case, for tables and messages. Always ends the string. */
void fk_case_label(const fk_case *c, char *text, size_t size);

/* The case as JSON again, dtypes included (new reference, NULL when there is no memory). */
json_t *fk_case_to_json(const fk_case *c);

#endif
