/* The description of a rotary embedding as config.json spells it. */
#include <stdio.h>

#include "engine/rope.h"

enum { KEY = 96 };

/* "rope_scaling.factor". */
static const char *key_in(const char *section, const char *name, char key[KEY]) {
  snprintf(key, KEY, "%s.%s", section, name);
  return key;
}

static fk_status number(fk_loader *l, const char *section, const char *name, double *value) {
  char key[KEY];
  return fk_config_float_or(l, key_in(section, name, key), 0, 1e15, 0, value);
}

static fk_status integer(fk_loader *l, const char *section, const char *name, int64_t otherwise, int64_t *value) {
  char key[KEY];
  return fk_config_int_or(l, key_in(section, name, key), 1, (int64_t)1 << 40, otherwise, value);
}

/* Before version 4.43 of transformers the key was "type". */
static fk_status read_type(fk_loader *l, const char *section, fk_rope_type *type) {
  char key[KEY];
  bool named = fk_config_has(l, key_in(section, "rope_type", key));
  if (!named) named = fk_config_has(l, key_in(section, "type", key));
  *type = FK_ROPE_DEFAULT;
  if (!named) {
    char theta[KEY];
    if (fk_config_has(l, key_in(section, "rope_theta", theta))) return FK_OK;
    return fk_config_fail(l, section, "expected \"rope_type\" or \"rope_theta\" (one table for all layers)");
  }
  int index;
  FK_TRY(fk_config_enum(l, key, fk_rope_type_names, -1, &index));
  *type = (fk_rope_type)index;
  return FK_OK;
}

/* The keys of a section that scales. */
static fk_status read_scaling(fk_loader *l, const char *section, fk_rope *r) {
  char key[KEY];
  bool truncate;
  FK_TRY(fk_config_int_or(l, "max_position_embeddings", 1, (int64_t)1 << 40, 0, &r->max_position_embeddings));
  FK_TRY(number(l, section, "factor", &r->factor));
  FK_TRY(number(l, section, "low_freq_factor", &r->low_freq_factor));
  FK_TRY(number(l, section, "high_freq_factor", &r->high_freq_factor));
  FK_TRY(number(l, section, "beta_fast", &r->beta_fast));
  FK_TRY(number(l, section, "beta_slow", &r->beta_slow));
  FK_TRY(number(l, section, "attention_factor", &r->attention_factor));
  FK_TRY(number(l, section, "mscale", &r->mscale));
  FK_TRY(number(l, section, "mscale_all_dim", &r->mscale_all_dim));
  FK_TRY(fk_config_bool_or(l, key_in(section, "truncate", key), true, &truncate));
  r->untruncated = !truncate;
  /* The top level wins over the section, and the trained length stands in for both, as in transformers. */
  int64_t *original = &r->original_max_position_embeddings;
  FK_TRY(integer(l, section, "original_max_position_embeddings", r->max_position_embeddings, original));
  return fk_config_int_or(l, "original_max_position_embeddings", 1, (int64_t)1 << 40, *original, original);
}

fk_status fk_rope_read(fk_loader *l, int64_t rotary_dim, fk_rope *r) {
  const char *section = fk_config_has(l, "rope_scaling") ? "rope_scaling" : "rope_parameters";
  char key[KEY];
  *r = (fk_rope){.rotary_dim = rotary_dim};
  FK_TRY(fk_config_float_or(l, "rope_theta", 1, 1e15, 10000, &r->theta));
  if (!fk_config_has(l, section)) return FK_OK;
  FK_TRY(fk_config_float_or(l, key_in(section, "rope_theta", key), 1, 1e15, r->theta, &r->theta));
  FK_TRY(read_type(l, section, &r->type));
  return r->type == FK_ROPE_DEFAULT ? FK_OK : read_scaling(l, section, r);
}

fk_status fk_rope_cos_sin(fk_loader *l, int64_t rotary_dim, int64_t max_position, fk_tensor **table) {
  fk_rope rope;
  *table = NULL;
  FK_TRY(fk_rope_read(l, rotary_dim, &rope));
  rope.seq_len = max_position;
  fk_type type = fk_loader_backend(l) == FK_REF ? FK_F64 : FK_F32;
  fk_tensor *t;
  FK_TRY(fk_weight_table(l, &t, type, (const int64_t[]){max_position, rotary_dim}, 2));
  if (t->data) {
    fk_status status = fk_rope_table(&rope, t);
    if (status) return fk_config_fail(l, "rope_theta and rope_scaling", "%s", fk_last_error());
  }
  *table = t;
  return FK_OK;
}
