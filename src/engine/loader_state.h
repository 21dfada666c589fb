/* The loader from within: shared by config.c, loader.c and model.c, and by nothing else. */
#ifndef FK_ENGINE_LOADER_STATE_H
#define FK_ENGINE_LOADER_STATE_H

#include "engine/loader.h"
#include "io/checkpoint.h"
#include "io/json.h"

struct fk_loader {
  const char *where;         /* of the configuration, for messages: "DIR/config.json", "preset NAME" */
  const json_t *config;      /* borrowed from fk_model_open */
  fk_model *model;           /* under construction */
  fk_checkpoint *checkpoint; /* borrowed; NULL on meta and with random weights */
  fk_backend backend;
  int64_t max_model_len;
  int architecture;
  bool random;
  uint64_t seed;
  fk_cuda *cuda; /* where the weights go; NULL for host devices */
  void *scratch; /* for conversions on their way to the GPU; made when first used, freed by model.c */
  /* Tables that load() fills in host memory and that finish() carries to the GPU. */
  struct fk_load_table {
    fk_tensor *tensor;
    struct fk_load_table *next;
  } * tables;
  /* Wrong tensors are collected, so that one run tells how much is wrong; the first one's message is kept. */
  int num_wrong;
  char *first_wrong;
};

/* Uploads tables. Fails with the first wrong tensor and the number of the others, tensors that nobody asked for
 * included. */
fk_status fk_loader_finish(fk_loader *l);

#endif
