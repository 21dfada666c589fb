/* Records: the cases of a task that a capture has seen.
 *
 * Calls that agree in layout, axes, dtypes, strides, attributes and absent tensors are one case; the integers in their
 * tables may differ, and those of one real call are kept. A table holds the cases of one task. When there are more
 * than its limit, near ones are merged: the result keeps one real call as its exemplar, the one whose cost is nearest
 * to the mean of what it stands for, and the exact sums of calls, FLOPs and bytes.
 *
 * A table owns its cases; a case owns its arrays and a reference to each fk_ints. */
#ifndef FK_ENGINE_RECORDS_H
#define FK_ENGINE_RECORDS_H

#include "core/bind.h"
#include "engine/content.h"
#include "engine/hash.h"

typedef struct fk_record_arg {
  bool present;     /* tensors: given */
  fk_type type;     /* tensors */
  int32_t ndim;     /* tensors */
  int64_t *strides; /* tensors that are not contiguous: ndim of them; else NULL */
  fk_ints *ints;    /* integer tensors with data, of bounded size; else NULL */
  fk_stats *stats;  /* float inputs with data, integer tensors beyond the bound; else NULL */
  double number;    /* float attributes; the others are symbols of the binding */
} fk_record_arg;

typedef struct fk_record {
  fk_binding binding;
  fk_record_arg *args;              /* task->num_args */
  double flops, bytes;              /* of the exemplar's call */
  uint64_t calls, merged;           /* calls, and distinct cases, that it stands for */
  long double all_flops, all_bytes; /* of all those calls */
} fk_record;

typedef struct fk_record_table {
  const fk_task *task;
  fk_record **cases;
  int count, room;
  uint64_t distinct;                /* cases ever added */
  uint64_t calls;                   /* of all cases */
  uint64_t uncosted;                /* calls among them whose cost is unknown, and counted as none */
  long double flops, bytes;         /* of all calls */
  int limit;                        /* wanted number of cases after a merge */
  int trigger;                      /* merge when there are more */
  bool loose[FK_MAX_SYMBOLS];       /* constant axes that turned out to vary: they are bucketed like the others */
  double width[FK_MAX_SYMBOLS + 2]; /* of the buckets, in octaves: per symbol, then FLOPs and bytes */
  int next_dim;                     /* the dimension to be widened next */
  struct fk_record_slot *slots;     /* identities seen, open addressing */
  size_t num_slots;
  struct fk_record_owner *owners; /* by identity number: the case that stands for it */
  size_t room_owners;
} fk_record_table;

/* Identity of a call, and what it shares with calls it may be merged with. */
fk_hash fk_record_identity(const fk_task *task, const fk_any *args, const fk_binding *binding);

/* A case of one call: everything but content (ints, stats) and sums. */
fk_status fk_record_create(const fk_task *task, const fk_any *args, const fk_binding *binding, fk_record **out);
void fk_record_destroy(const fk_task *task, fk_record *c);

void fk_record_table_init(fk_record_table *table, const fk_task *task, int limit);
void fk_record_table_destroy(fk_record_table *table);

/* Number of a seen identity, or -1. Valid until the table is destroyed. */
int64_t fk_record_table_find(const fk_record_table *table, fk_hash identity);
/* Takes the case, which has no calls yet. On failure it still belongs to the caller. */
fk_status fk_record_table_add(fk_record_table *table, fk_hash identity, fk_record *c, int64_t *number);
/* Adds calls, with the sum of their costs, to the case that stands for an identity. */
void fk_record_table_count(fk_record_table *table, int64_t number, uint64_t calls, long double flops,
                           long double bytes);

/* Sets the cost of the exemplar's call where it was not known when the case began. */
void fk_record_table_cost(fk_record_table *table, int64_t number, double flops, double bytes);

/* Merges down to the limit if there are more than `above` cases. Cases that differ in more than sizes stay apart, so
 * that a table may end with more than its limit. An axis that the definition calls constant, but that has many values
 * all the same (the table of an embedding that gathers activations), counts as a size. */
fk_status fk_record_table_merge(fk_record_table *table, int above);
/* Orders cases by total bytes, largest first. Identity numbers are void afterwards. */
void fk_record_table_sort(fk_record_table *table);

#endif
