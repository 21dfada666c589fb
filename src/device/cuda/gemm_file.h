/* The file of measured choices (gemm.h): JSON, from the text of a shape to what won there.
 *
 *   {"bfloat16>bfloat16 m8 n4096 k4096 ...": {"by": "cublaslt", "algo": "00..", "us": 9.1}, ...: {"by": "rows_8", ...}}
 *
 * Written whole, through a temporary file. A file that is missing, broken or of another form counts as empty. */
#ifndef FK_DEVICE_CUDA_GEMM_FILE_H
#define FK_DEVICE_CUDA_GEMM_FILE_H

#include "device/cuda/gemm_library.h"

typedef struct fk_gemm_file fk_gemm_file;

/* NULL when there is no place for it: nothing is then kept. version: of cuBLASLt, 0 for none. */
fk_gemm_file *fk_gemm_file_open(fk_cuda *cuda, int library_version);
void fk_gemm_file_close(fk_gemm_file *file);

/* What is known of a shape: false for nothing. *by is borrowed until the next put. */
bool fk_gemm_file_get(const fk_gemm_file *file, const char *shape, const char **by, fk_gemm_algo *algo);
/* algo NULL: an own kernel. A file that cannot be written is no error. */
void fk_gemm_file_put(fk_gemm_file *file, const char *shape, const char *by, const fk_gemm_algo *algo,
                      double microseconds);

#endif
