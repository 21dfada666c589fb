/* Task: an operator's name and definition, parsed from task.json (docs/task-json.md is the schema).
 *
 * A definition is immutable and lives as long as the arena it was parsed into; the built-in ones live as long as the
 * process (registry.h). From it come argument checks, shape inference, FLOPs and bytes, input synthesis, stubs and
 * docs, so nothing else in the library knows a task by name. */
#ifndef FK_CORE_TASK_H
#define FK_CORE_TASK_H

#include "core/arena.h"
#include "core/expr.h"
#include "fastkernels/fastkernels.h"

typedef enum fk_role { FK_INPUT, FK_WEIGHT, FK_ATTRIBUTE, FK_OUTPUT } fk_role;

/* Axes and integer attributes share one table of symbols, so that formulas can use both. */
typedef enum fk_axis_kind {
  FK_AXIS_VAR,      /* varies from call to call: tokens, sequences */
  FK_AXIS_CONST,    /* fixed by the model: hidden size, heads */
  FK_AXIS_EXPR,     /* computed from the others: pairs, total lengths; may read integer tensors */
  FK_AXIS_ATTRIBUTE /* an int or bool attribute */
} fk_axis_kind;

typedef struct fk_symbol {
  const char *name;
  fk_axis_kind kind;
  const fk_expr *expr; /* FK_AXIS_EXPR */
} fk_symbol;

typedef struct fk_dim {
  int symbol;          /* >= 0: a bare axis, which a tensor may bind */
  int64_t literal;     /* when expr is NULL and symbol < 0 */
  const fk_expr *expr; /* computed from bound axes */
} fk_dim;

/* A shape; with ellipsis, dims[0] is an axis that stands for any number of leading dimensions ("rows..."). */
typedef struct fk_shape {
  int32_t ndim;
  bool ellipsis;
  bool absent; /* in this layout the tensor must not be given */
  fk_dim dims[FK_MAX_DIMS];
} fk_shape;

typedef enum fk_strides { FK_STRIDES_ROWS, FK_STRIDES_CONTIGUOUS, FK_STRIDES_ANY } fk_strides;

/* How to synthesise content (judge/synth.h gives the meaning of each). */
typedef enum fk_values_kind {
  FK_VALUES_DEFAULT, /* floats: standard normal; weights of two dims and more: normal / sqrt(last dim); ints: 0..1 */
  FK_VALUES_NORMAL,  /* mean, std */
  FK_VALUES_UNIFORM, /* low, high */
  FK_VALUES_INDEX,   /* integers 0 <= i < below, distinct when unique */
  FK_VALUES_CU_SEQLENS,
  FK_VALUES_SEQ_LENS,
  FK_VALUES_BLOCK_TABLE,
  FK_VALUES_SLOT_MAPPING,
  FK_VALUES_POSITIONS,
  FK_VALUES_COS_SIN
} fk_values_kind;

typedef struct fk_values {
  fk_values_kind kind;
  double a, b;          /* mean and std, or low and high */
  const fk_expr *bound; /* below, total, max: as the kind needs */
  int tensor;           /* the argument it must agree with, or -1 */
  bool unique;
} fk_values;

typedef enum fk_attr_type { FK_ATTR_INT, FK_ATTR_FLOAT, FK_ATTR_BOOL, FK_ATTR_ENUM } fk_attr_type;

typedef struct fk_arg {
  const char *name;   /* "x", "gate_up_proj.weight", "epsilon" */
  const char *c_name; /* the same as a C identifier */
  const char *doc;    /* one line: meaning and unit; never NULL */
  fk_role role;
  /* tensors */
  bool optional, inout;
  int same_dtype_as; /* argument index, or -1 */
  uint32_t dtypes;   /* set of fk_type_bit() when same_dtype_as < 0 */
  fk_strides strides;
  const fk_shape *shapes; /* one per layout (num_layouts, or 1 when the task has none) */
  const int *may_alias;   /* outputs: argument indices whose memory this may be, ended by -1; or NULL */
  fk_values values;
  /* attributes */
  fk_attr_type type;
  double min, max, default_value;
  bool has_default;
  const char *const *enum_names; /* FK_ATTR_ENUM: NULL-ended; the value is the index */
  int symbol;                    /* of int, bool and enum attributes; -1 for floats */
} fk_arg;

typedef struct fk_mirror {
  const char *library, *symbol;
  const char *const *arguments; /* the library's argument order, in our names; NULL-ended */
} fk_mirror;

struct fk_task {
  const char *name, *family, *summary, *tolerance;
  int level;
  int32_t num_args, num_symbols, num_layouts, num_mirrors, num_constraints;
  int32_t num_inputs, num_weights, num_attributes, num_outputs;
  const fk_arg *args; /* inputs, weights, attributes, outputs: the order of the call */
  const fk_symbol *symbols;
  const char *const *layouts; /* names; empty when there is one unnamed layout */
  const fk_mirror *mirrors;
  const fk_expr *const *constraints;
  const fk_expr *flops;
  const fk_expr *bytes; /* NULL: every tensor read or written once */
  const char *json;     /* the definition's text */
  int index;            /* place in the registry; -1 outside it */
};

/* Parses and validates one definition. where names the file in errors. On failure *task is NULL. */
fk_status fk_task_parse(fk_arena *arena, const char *json, size_t length, const char *where, fk_task **task);

/* Index of an argument, or -1. */
int fk_task_arg(const fk_task *task, const char *name);
int fk_task_symbol(const fk_task *task, const char *name);

/* One bit per dtype, for fk_arg.dtypes; 0 for an unknown type. */
uint32_t fk_type_bit(fk_type type);

static inline bool fk_arg_is_tensor(const fk_arg *arg) {
  return arg->role != FK_ATTRIBUTE;
}
static inline bool fk_arg_is_written(const fk_arg *arg) {
  return arg->role == FK_OUTPUT || arg->inout;
}

#endif
