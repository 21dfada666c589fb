/* Integer expressions over a task's axes and attributes, as written in task.json: shapes ("2 * intermediate_size"),
 * constraints ("num_heads % num_kv_heads == 0"), FLOP counts ("2 * num_tokens * out_features * in_features").
 *
 *   or    := and ("||" and)*             sum := prod (("+" | "-") prod)*
 *   and   := cmp ("&&" cmp)*             prod := unary (("*" | "/" | "%") unary)*
 *   cmp   := sum (("==" | "!=" | "<=" | ">=" | "<" | ">") sum)?
 *   unary := ("-" | "!") unary | number | name | function "(" or ("," or)* ")" | "(" or ")"
 *
 * "/" is floor division; every operation is checked for overflow. Functions: min, max, ceil_div (of values);
 * present(t), itemsize(t), sum(t), largest(t), pairs(q, k), cross(q, k) of tensor arguments. present says whether an
 * optional tensor was given, itemsize its bytes per element; the others read an integer tensor: pairs(cu_seqlens_q,
 * seq_lens) counts the query-key pairs of ragged causal attention, cross those without the causal mask; k may also be
 * offsets (cu_seqlens_k). Each is 0 where a tensor is absent. A shape uses no tensor function. Both sides of "&&" and
 * "||" are always computed. */
#ifndef FK_CORE_EXPR_H
#define FK_CORE_EXPR_H

#include "core/arena.h"
#include "fastkernels/fastkernels.h"

typedef struct fk_expr fk_expr;

/* The value of a symbol that has none yet. */
#define FK_UNBOUND INT64_MIN

/* Resolves a name while parsing: the index of a symbol, or of a tensor argument; -1 when there is none. */
typedef struct fk_expr_scope {
  int (*symbol)(const void *self, const char *name);
  int (*tensor)(const void *self, const char *name);
  const void *self;
} fk_expr_scope;

/* Compiles text into the arena. On failure *expr is NULL and the message names the column. */
fk_status fk_expr_parse(fk_arena *arena, const char *text, const fk_expr_scope *scope, const fk_expr **expr);

/* Value over symbol values and a call's arguments (args may be NULL when the expression has no tensor function).
 * Every symbol it uses must be bound. Fails on overflow, division by zero, or a tensor whose data cannot be read. */
fk_status fk_expr_eval(const fk_expr *expr, const int64_t *symbols, const fk_any *args, int64_t *value);

bool fk_expr_reads_data(const fk_expr *expr);
bool fk_expr_uses_tensors(const fk_expr *expr); /* any tensor function, present and itemsize included */
const char *fk_expr_text(const fk_expr *expr);

/* True when every symbol that the expression uses has a value (is not FK_UNBOUND). */
bool fk_expr_is_bound(const fk_expr *expr, const int64_t *symbols);

/* The symbol that has no value when there is just one such, else -1. */
int fk_expr_only_unbound(const fk_expr *expr, const int64_t *symbols);

/* The index when the expression is one bare symbol, else -1. */
int fk_expr_as_symbol(const fk_expr *expr);

#endif
