/* Synthesis: from a case and a seed to the arguments of a call.
 *
 * Two steps, so that the same call can be laid out in memory that two processes share:
 *  - a *plan* says where every tensor lies in one flat buffer: shapes, strides, offsets. It refers to its case and
 *    stays as it is for all seeds;
 *  - *filling* a buffer by the plan writes inputs, poisons outputs, and puts random bits everywhere else: into the red
 *    zones before and after each tensor and into the gaps between the rows of strided ones.
 * The caller owns the buffer (64-byte aligned); a frame holds the descriptors of one call, whose shapes and strides
 * are the plan's.
 *
 * What the kinds of values mean (task.json, "values"); every value depends on (seed, argument, logical index) only:
 *  - default: floats standard normal; weights of two dims and more normal / sqrt(last dim), so that a product keeps the
 *    scale of its input; integers and bools 0 or 1. Where the case has "stats" of the tensor: normal with the captured
 *    mean and deviation, clamped to the captured range;
 *  - normal (mean, std), uniform (low, high; integers include both ends);
 *  - index: 0 <= i < below; with unique, distinct along the last dimension;
 *  - cu_seqlens: [B + 1] from 0 to total; ragged, no sequence empty while total >= B;
 *  - seq_lens: [B], at least the query length of the sequence in cu_seqlens_q (at least 1), at most max;
 *  - block_table: random blocks below the bound, no block twice while there are enough of them, else none twice in a
 *    row; slot_mapping: distinct slots, about one in eight -1 (also where the slots run out); positions: any below;
 *  - cos_sin: row p holds cos(p * f_j), then sin(p * f_j), f_j = 10000^(-j / half): the tables of rotary embedding.
 * "values" of the case win over all of these. Normal numbers come from a table of quantiles: |x| < 4.5.
 *
 * special "huge" multiplies the normal and uniform values of float inputs (not weights) by 2^13 in float16 (clamped to
 * +-60000) and by 2^40 elsewhere (float8: by 2^5): squares and cubes stay inside float32, so a kernel that accumulates
 * in float32 has no excuse, while one that passes through float16 or a fourth power overflows. "nonfinite" puts one or
 * two of NaN, +Inf, -Inf into the first row and about a quarter of the others but never into the last of several rows.
 *
 * Poison: outputs start as signalling NaNs with random payload (floats that have NaN), bytes 2..255 (bool), random
 * bits (the rest). No arithmetic yields a signalling NaN, so an element that still is its poison was not written. */
#ifndef FK_JUDGE_SYNTH_H
#define FK_JUDGE_SYNTH_H

#include "judge/case.h"

typedef struct fk_plan_tensor {
  bool given;
  bool written; /* the call may write its elements: an output, an in-out input, or aliased by an output */
  int alias;    /* the argument whose memory it is, or -1 */
  fk_type type;
  int32_t ndim;
  int64_t shape[FK_MAX_DIMS], strides[FK_MAX_DIMS];
  uint64_t data, span;     /* bytes: offset of the first element, and from there to the end of the last one */
  uint64_t region, length; /* bytes: with the red zones; 0 for an alias */
} fk_plan_tensor;

typedef struct fk_plan {
  const fk_task *task;
  const fk_case *c;
  uint64_t bytes; /* size of the buffer */
  fk_plan_tensor tensors[FK_MAX_ARGS];
} fk_plan;

typedef struct fk_frame {
  fk_any args[FK_MAX_ARGS];
  fk_tensor tensors[FK_MAX_ARGS];
} fk_frame;

/* FK_ERROR_ARGUMENT when an axis that a shape needs has no value, strides or values do not fit the shape, or a tensor
 * is too large to address. */
fk_status fk_plan_make(const fk_case *c, fk_plan *plan);

/* Writes the whole buffer. An integer tensor whose constraints cannot be met (a query longer than max) is an error. */
fk_status fk_plan_fill(const fk_plan *plan, void *base, uint64_t seed);

/* Only the tensors of integers and bools, for whoever makes the others elsewhere: the rest of the buffer is untouched.
 */
fk_status fk_plan_fill_integers(const fk_plan *plan, void *base, uint64_t seed);

/* Descriptors of the call over base. base NULL: without data, for meta. The plan must outlive the frame. */
void fk_plan_frame(const fk_plan *plan, void *base, fk_frame *frame);

/* Byte offset of a logical element from the tensor's first one; only of dtypes of whole bytes. */
int64_t fk_plan_offset(const fk_plan_tensor *t, int64_t index);

/* Hash of what the call must leave alone in an argument's region: all of it for an unwritten tensor; else its red zones
 * and the gaps between its rows (tensors whose rows are out of order in memory: only the red zones). */
uint64_t fk_plan_guard(const fk_plan *plan, const void *base, int arg);

/* Compares all guards with those taken before the call; FK_ERROR_KERNEL naming the argument and what was done to it. */
void fk_plan_guards(const fk_plan *plan, const void *base, uint64_t guards[FK_MAX_ARGS]);
fk_status fk_plan_check_guards(const fk_plan *plan, const void *base, const uint64_t guards[FK_MAX_ARGS]);

/* Elements of an output that still hold the poison of this seed. Counted for float16 and wider floats only, where it
 * cannot happen by chance; 0 for aliases and in-out tensors. */
int64_t fk_plan_unwritten(const fk_plan *plan, const void *base, int arg, uint64_t seed);

/* The oracle: runs the task on a ref context over contiguous double and int64 copies of the inputs at base. wide[i] are
 * the descriptors of all tensors afterwards (NULL for attributes and absent tensors), from ctx's temporaries: valid
 * until fk_context_reset(ctx). Call it before the candidate's answer replaces in-out inputs at base. */
fk_status fk_plan_oracle(const fk_plan *plan, const void *base, fk_context *ref, fk_tensor *wide[FK_MAX_ARGS]);

#endif
