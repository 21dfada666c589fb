/* Parts of the task.json parser (task_json.c): what its three files share. Private to them. */
#ifndef FK_CORE_TASK_PARSER_H
#define FK_CORE_TASK_PARSER_H

#include <jansson.h>

#include "core/task.h"

/* One definition being parsed. Everything it makes lives in the arena; a failure leaves the arena as it got. */
typedef struct fk_task_parser {
  fk_arena *arena;
  const char *where; /* the file, for messages */
  fk_task *task;
  fk_arg args[FK_MAX_ARGS];
  fk_symbol symbols[FK_MAX_SYMBOLS];
  int ellipsis; /* the symbol of "name...", or -1 */
} fk_task_parser;

/* Fails with the file before the message. */
#define BAD(p, ...) fk_def_bad(p, fk_fail(FK_ERROR_FORMAT, __VA_ARGS__))

/* Typed reading of keys, names and formulas (task_keys.c). place goes before the key in messages. */
fk_status fk_def_bad(const fk_task_parser *p, fk_status status);
const char *fk_def_type_text(const json_t *v);
fk_status fk_def_get_string(fk_task_parser *p, const json_t *object, const char *place, const char *key,
                            const char **text);
fk_status fk_def_get_array(fk_task_parser *p, const json_t *object, const char *place, const char *key,
                           const json_t **array);
fk_status fk_def_get_bool(fk_task_parser *p, const json_t *object, const char *place, const char *key, bool *value);
fk_status fk_def_get_number(fk_task_parser *p, const json_t *object, const char *place, const char *key, double *value);
fk_status fk_def_only_keys(fk_task_parser *p, const json_t *object, const char *place, const char *const *allowed);
bool fk_def_is_identifier(const char *name, bool dots);
int fk_def_find_symbol(const void *self, const char *name);
int fk_def_find_arg(const void *self, const char *name);
int fk_def_find_tensor(const void *self, const char *name);
fk_status fk_def_parse_expr(fk_task_parser *p, const char *text, const char *place, const fk_expr **expr);
fk_status fk_def_add_symbol(fk_task_parser *p, const char *name, fk_axis_kind kind, int *index);

/* One attribute; one tensor; a tensor's values hint, once all names are known (task_tensors.c). */
fk_status fk_def_parse_attribute(fk_task_parser *p, fk_arg *arg, const json_t *v);
fk_status fk_def_parse_tensor(fk_task_parser *p, const json_t *root, fk_arg *arg, const json_t *v);
fk_status fk_def_parse_values(fk_task_parser *p, fk_arg *arg, const json_t *v);

#endif
