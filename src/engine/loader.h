/* Loader: what a model's load() sees of its configuration and checkpoint.
 *
 * Getters check types and ranges, name file and key in errors, and follow status.h. Weights are asked for by their
 * checkpoint name with the shape that the configuration implies; a missing, misshapen or (after load) unasked-for
 * tensor is an error. Wrong tensors are collected: fk_weight and its kin succeed with a tensor without data, and
 * fk_model_open fails after load() with the first one and the number of the others. The loader lives during load()
 * only; the tensors it returns live as long as the model. */
#ifndef FK_ENGINE_LOADER_H
#define FK_ENGINE_LOADER_H

#include "engine/model.h"

/* Configuration: keys are paths with dots ("rope_scaling.factor"). The _or forms take a default for absent or null. */
bool fk_config_has(const fk_loader *l, const char *key);
fk_status fk_config_int(fk_loader *l, const char *key, int64_t min, int64_t max, int64_t *value);
fk_status fk_config_int_or(fk_loader *l, const char *key, int64_t min, int64_t max, int64_t otherwise, int64_t *value);
fk_status fk_config_float_or(fk_loader *l, const char *key, double min, double max, double otherwise, double *value);
fk_status fk_config_bool_or(fk_loader *l, const char *key, bool otherwise, bool *value);
/* One of the names (NULL-ended); *index is its place. otherwise < 0 makes the key required. */
fk_status fk_config_enum(fk_loader *l, const char *key, const char *const *names, int otherwise, int *index);
/* Array of numbers; *count <= max on return. Absent: *count = 0. */
fk_status fk_config_floats(fk_loader *l, const char *key, int max, double *values, int *count);

/* An error at a key: file and key before the message. Returns FK_ERROR_FORMAT. */
fk_status fk_config_fail(fk_loader *l, const char *key, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Which of the class's architectures the configuration names; 0 when it was found by "model_type". */
int fk_loader_architecture(const fk_loader *l);
fk_backend fk_loader_backend(const fk_loader *l);
fk_type fk_loader_dtype(const fk_loader *l);         /* float64 on ref, else the chosen dtype */
int64_t fk_loader_max_model_len(const fk_loader *l); /* 0 = not limited by the caller */
fk_arena *fk_loader_arena(fk_loader *l);             /* the model's, host side */

/* One weight, converted to the model's dtype. name is a printf format. */
fk_status fk_weight(fk_loader *l, fk_tensor **tensor, const int64_t *shape, int32_t ndim, const char *name, ...)
    __attribute__((format(printf, 5, 6)));
/* The same in another dtype: numbers that must not be rounded to the model's. */
fk_status fk_weight_as(fk_loader *l, fk_tensor **tensor, fk_type type, const int64_t *shape, int32_t ndim,
                       const char *name, ...) __attribute__((format(printf, 6, 7)));
/* The second, always in host memory: numbers that load() itself reads. No task can use it on cuda. */
fk_status fk_weight_host(fk_loader *l, fk_tensor **tensor, fk_type type, const int64_t *shape, int32_t ndim,
                         const char *name, ...) __attribute__((format(printf, 6, 7)));
/* The first again, NULL when the checkpoint has no such tensor (on meta and with random weights: as `present` says). */
fk_status fk_weight_optional(fk_loader *l, fk_tensor **tensor, bool present, const int64_t *shape, int32_t ndim,
                             const char *name, ...) __attribute__((format(printf, 6, 7)));
/* Several weights joined along axis 0, in order (q, k, v -> qkv): rows[i] x the remaining shape. names are complete. */
fk_status fk_weight_concat(fk_loader *l, fk_tensor **tensor, const char *const *names, const int64_t *rows, int count,
                           const int64_t *inner_shape, int32_t inner_ndim);
/* Whether the checkpoint has the tensor; false without a checkpoint. For files that come in two shapes. */
bool fk_weight_exists(const fk_loader *l, const char *name);
/* Declares that a checkpoint tensor is known and not needed (e.g. rotary_emb.inv_freq). name may not exist. */
void fk_weight_ignore(fk_loader *l, const char *name, ...) __attribute__((format(printf, 2, 3)));
/* Declares a tensor that must equal another if it is stored at all: a tied weight. */
fk_status fk_weight_tied(fk_loader *l, const char *name, const char *to);
/* A tensor that load() fills itself, in host memory; its data is NULL on meta. On cuda its content moves to the GPU
 * when load() has returned: then the host reads it no more. */
fk_status fk_weight_table(fk_loader *l, fk_tensor **tensor, fk_type type, const int64_t *shape, int32_t ndim);

#endif
