#include "io/checkpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/arena.h"

enum { MAX_CONFIG = 16 << 20, MAX_INDEX = 256 << 20 };

typedef struct entry {
  const fk_stored *tensor;
  bool used;
} entry;

typedef struct shard {
  const char *name; /* of the file, without the folder */
  fk_safetensors *file;
} shard;

struct fk_checkpoint {
  const char *dir, *config_path;
  json_t *config;
  json_t *index; /* NULL for a single file */
  size_t num_shards, count;
  shard *shards;
  entry *entries; /* sorted by name */
  fk_arena arena;
};

/* ---- Shards ------------------------------------------------------------------------------------------------ */

static fk_status open_shard(fk_checkpoint *c, const char *name) {
  const char *path = fk_arena_printf(&c->arena, "%s/%s", c->dir, name);
  shard *s = &c->shards[c->num_shards];
  if (!path) return FK_ERROR_MEMORY;
  FK_TRY(fk_safetensors_open(path, &s->file));
  s->name = name;
  c->num_shards++;
  return FK_OK;
}

/* A plain name: an index from elsewhere must not lead out of its folder. */
static bool is_plain_name(const char *name) {
  return *name && *name != '.' && !strchr(name, '/') && !strchr(name, '\\') && strlen(name) < 256;
}

/* Opens every file that the map names, once. seen maps a file name to its shard, so that large maps stay linear. */
static fk_status open_shards(fk_checkpoint *c, const fk_json *map, json_t *seen) {
  const char *tensor;
  json_t *value;
  c->shards = fk_arena_calloc(&c->arena, json_object_size(map->node), sizeof *c->shards);
  if (!c->shards) return FK_ERROR_MEMORY;
  json_object_foreach((json_t *)map->node, tensor, value) {
    fk_json at = fk_json_member(map, tensor);
    const char *name = json_string_value(value);
    if (!name || !is_plain_name(name)) return fk_json_expected(&at, "the plain name of a file in this folder");
    if (json_object_get(seen, name)) continue;
    fk_status status = open_shard(c, name);
    if (status != FK_OK) return fk_json_fail(&at, status, "%s", fk_last_error());
    if (json_object_set_new(seen, name, json_true()))
      return fk_fail(FK_ERROR_MEMORY, "%s: no memory to list the shards", c->dir);
  }
  return FK_OK;
}

/* Every tensor of a shard must be mapped to that shard. */
static fk_status check_shard(const shard *s, const fk_json *map) {
  for (size_t i = 0; i < fk_safetensors_count(s->file); i++) {
    const char *name = fk_safetensors_at(s->file, i)->name;
    const char *mapped = json_string_value(json_object_get(map->node, name));
    if (!mapped) return fk_json_fail(map, FK_ERROR_FORMAT, "tensor \"%.200s\" of %s is not listed", name, s->name);
    if (strcmp(mapped, s->name))
      return fk_json_fail(map, FK_ERROR_FORMAT, "tensor \"%.200s\" is listed in %s but also stored in %s", name, mapped,
                          s->name);
  }
  return FK_OK;
}

/* The first mapped tensor that no shard holds; there is one. */
static fk_status report_missing(const fk_checkpoint *c, const fk_json *map) {
  const char *tensor;
  json_t *value;
  json_object_foreach((json_t *)map->node, tensor, value) {
    for (size_t i = 0; i < c->num_shards; i++)
      if (strcmp(c->shards[i].name, json_string_value(value)) == 0 && !fk_safetensors_find(c->shards[i].file, tensor))
        return fk_json_fail(map, FK_ERROR_FORMAT, "tensor \"%.200s\" is listed in %s, which lacks it", tensor,
                            c->shards[i].name);
  }
  return fk_json_fail(map, FK_ERROR_FORMAT, "does not agree with the shards");
}

static fk_status open_index(fk_checkpoint *c, const char *path) {
  FK_TRY(fk_json_load(path, MAX_INDEX, &c->index));
  fk_json root = fk_json_root(c->index, path), map;
  FK_TRY(fk_json_object(&root, "weight_map", &map));
  json_t *seen = json_object();
  if (!seen) return fk_fail(FK_ERROR_MEMORY, "%s: no memory to list the shards", path);
  fk_status status = open_shards(c, &map, seen);
  json_decref(seen);
  FK_TRY(status);
  size_t stored = 0;
  for (size_t i = 0; i < c->num_shards; i++) {
    FK_TRY(check_shard(&c->shards[i], &map));
    stored += fk_safetensors_count(c->shards[i].file);
  }
  return stored == json_object_size(map.node) ? FK_OK : report_missing(c, &map);
}

/* ---- The folder -------------------------------------------------------------------------------------------- */

static int compare_entries(const void *a, const void *b) {
  return strcmp(((const entry *)a)->tensor->name, ((const entry *)b)->tensor->name);
}

static fk_status list_tensors(fk_checkpoint *c) {
  size_t total = 0;
  for (size_t i = 0; i < c->num_shards; i++) total += fk_safetensors_count(c->shards[i].file);
  c->entries = fk_arena_calloc(&c->arena, total, sizeof *c->entries);
  if (!c->entries) return FK_ERROR_MEMORY;
  for (size_t i = 0; i < c->num_shards; i++)
    for (size_t k = 0; k < fk_safetensors_count(c->shards[i].file); k++)
      c->entries[c->count++].tensor = fk_safetensors_at(c->shards[i].file, k);
  qsort(c->entries, c->count, sizeof *c->entries, compare_entries);
  return FK_OK;
}

static fk_status open_weights(fk_checkpoint *c) {
  const char *single = fk_arena_printf(&c->arena, "%s/model.safetensors", c->dir);
  const char *index = fk_arena_printf(&c->arena, "%s/model.safetensors.index.json", c->dir);
  if (!single || !index) return FK_ERROR_MEMORY;
  if (access(single, F_OK) == 0) {
    c->shards = fk_arena_calloc(&c->arena, 1, sizeof *c->shards);
    return c->shards ? open_shard(c, "model.safetensors") : FK_ERROR_MEMORY;
  }
  if (access(index, F_OK) == 0) return open_index(c, index);
  return fk_fail(FK_ERROR_NOT_FOUND, "%s: expected model.safetensors or model.safetensors.index.json, found neither",
                 c->dir);
}

static fk_status open_folder(fk_checkpoint *c, const char *dir) {
  struct stat info;
  if (stat(dir, &info))
    return fk_fail(errno == ENOENT || errno == ENOTDIR ? FK_ERROR_NOT_FOUND : FK_ERROR_IO,
                   "%s: cannot open the model folder: %s", dir, strerror(errno));
  if (!S_ISDIR(info.st_mode)) return fk_fail(FK_ERROR_NOT_FOUND, "%s: expected a model folder, got a file", dir);
  c->dir = fk_arena_strdup(&c->arena, dir);
  c->config_path = c->dir ? fk_arena_printf(&c->arena, "%s/config.json", dir) : NULL;
  if (!c->config_path) return FK_ERROR_MEMORY;
  FK_TRY(fk_json_load(c->config_path, MAX_CONFIG, &c->config));
  fk_json root = fk_checkpoint_config(c);
  if (!json_is_object(c->config)) return fk_json_expected(&root, "an object");
  FK_TRY(open_weights(c));
  return list_tensors(c);
}

fk_status fk_checkpoint_open(const char *dir, fk_checkpoint **checkpoint) {
  fk_checkpoint *c = calloc(1, sizeof *c);
  *checkpoint = NULL;
  if (!c) return fk_fail(FK_ERROR_MEMORY, "%s: no memory to open the model folder", dir);
  fk_arena_init(&c->arena, &fk_host_memory, 4096);
  fk_status status = open_folder(c, dir);
  if (status == FK_OK)
    *checkpoint = c;
  else
    fk_checkpoint_close(c);
  return status;
}

void fk_checkpoint_close(fk_checkpoint *c) {
  if (!c) return;
  for (size_t i = 0; i < c->num_shards; i++) fk_safetensors_close(c->shards[i].file);
  json_decref(c->index);
  json_decref(c->config);
  fk_arena_destroy(&c->arena);
  free(c);
}

/* ---- Tensors ----------------------------------------------------------------------------------------------- */

const char *fk_checkpoint_dir(const fk_checkpoint *c) {
  return c->dir;
}

fk_json fk_checkpoint_config(const fk_checkpoint *c) {
  return fk_json_root(c->config, c->config_path);
}

size_t fk_checkpoint_count(const fk_checkpoint *c) {
  return c->count;
}

const fk_stored *fk_checkpoint_at(const fk_checkpoint *c, size_t index) {
  return index < c->count ? c->entries[index].tensor : NULL;
}

static entry *find(const fk_checkpoint *c, const char *name) {
  fk_stored wanted = {.name = name};
  entry key = {.tensor = &wanted};
  return bsearch(&key, c->entries, c->count, sizeof *c->entries, compare_entries);
}

const fk_stored *fk_checkpoint_find(const fk_checkpoint *c, const char *name) {
  const entry *e = find(c, name);
  return e ? e->tensor : NULL;
}

fk_status fk_checkpoint_use(fk_checkpoint *c, const char *name, const fk_stored **tensor) {
  entry *e = find(c, name);
  *tensor = e ? e->tensor : NULL;
  if (!e) return fk_fail(FK_ERROR_NOT_FOUND, "%s: expected a tensor \"%.200s\", found none", c->dir, name);
  e->used = true;
  return FK_OK;
}

bool fk_checkpoint_mark(fk_checkpoint *c, const char *name) {
  entry *e = find(c, name);
  if (e) e->used = true;
  return e != NULL;
}

const char *fk_checkpoint_unused(const fk_checkpoint *c, size_t *cursor) {
  while (*cursor < c->count) {
    const entry *e = &c->entries[(*cursor)++];
    if (!e->used) return e->tensor->name;
  }
  return NULL;
}
