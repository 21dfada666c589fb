/* The file of measured choices: JSON, from the text of a shape to what won there.
 *
 *   {"bfloat16>bfloat16 m8 n4096 k4096 ...": {"by": "cublaslt", "algo": "00..", "us": 9.1},
 *    "conv2d bfloat16 n32 ...": {"by": "wgmma", "us": 162.0}}
 *
 * One file per GPU, driver and version of the library that competes with own kernels, in $FASTKERNELS_CACHE, else
 * $XDG_CACHE_HOME/fastkernels, else ~/.cache/fastkernels. Written whole, through a temporary file. A file that is
 * missing, broken or of another form counts as empty. */
#ifndef FK_DEVICE_CUDA_CHOICE_FILE_H
#define FK_DEVICE_CUDA_CHOICE_FILE_H

#include "device/cuda/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fk_choice_file fk_choice_file;

/* An algorithm of a library and its settings, as the library encodes them: only good for the same version. */
typedef struct fk_choice_algo {
  uint64_t data[8];
} fk_choice_algo;

/* NULL when there is no place for it: nothing is then kept. library "cublaslt", version as the library counts; 0: none.
 */
fk_choice_file *fk_choice_file_open(fk_cuda *cuda, const char *library, int version);
void fk_choice_file_close(fk_choice_file *file);

/* What is known of a shape: false for nothing, or when an algorithm is asked for (algo not NULL), the choice is the
 * library's (by is its name) and has none. *by is borrowed until the next put. */
bool fk_choice_file_get(const fk_choice_file *file, const char *shape, const char **by, fk_choice_algo *algo);
/* algo may be NULL. A file that cannot be written is no error. */
void fk_choice_file_put(fk_choice_file *file, const char *shape, const char *by, const fk_choice_algo *algo,
                        double microseconds);

#ifdef __cplusplus
}
#endif

#endif
