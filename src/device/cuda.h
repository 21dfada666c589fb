/* The CUDA device as the rest of the library sees it: C, without a CUDA header, and present in every build.
 *
 * An fk_cuda is one GPU as one context uses it: a stream on which everything is queued in order, pinned memory for
 * transfers, a place where kernels report a wrong index, library handles. The context owns it. The runtime is linked
 * statically and loads the driver when it is first asked for something: on a machine without one, fk_cuda_create says
 * so and nothing else changes. In a build without CUDA code every function fails the same way (cuda_none.c).
 *
 * Everything is asynchronous unless said otherwise: a kernel that fails is reported by the next call that waits. */
#ifndef FK_DEVICE_CUDA_H
#define FK_DEVICE_CUDA_H

#include <stdbool.h>
#include <stdint.h>

#include "core/arena.h"
#include "fastkernels/abi.h"
#include "fastkernels/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fk_cuda fk_cuda;
typedef struct fk_cuda_graph fk_cuda_graph;

typedef struct fk_cuda_info {
  char name[256];
  int compute_capability; /* 10 * major + minor */
  int num_sms, clock_khz, memory_clock_khz, memory_bus_bits;
  int driver_version, runtime_version, compiled_version; /* 13000 is CUDA 13.0 */
  size_t memory_bytes, l2_bytes;
  char cublaslt[32], cudnn[32]; /* versions of the libraries that were found, "" for none */
} fk_cuda_info;

/* GPUs that this process may use; 0 where there is no driver or no CUDA code. */
int fk_cuda_device_count(void);
/* Which architectures the kernels were compiled for ("80 90a 100"), "" without CUDA code. */
const char *fk_cuda_architectures(void);

/* On failure *cuda is NULL. */
fk_status fk_cuda_create(int device_id, fk_cuda **cuda);
void fk_cuda_destroy(fk_cuda *cuda);
fk_status fk_cuda_describe(fk_cuda *cuda, fk_cuda_info *info);
int fk_cuda_device_id(const fk_cuda *cuda);
void *fk_cuda_stream(const fk_cuda *cuda); /* cudaStream_t */

/* Makes the GPU the calling thread's current one: before any call that launches. */
fk_status fk_cuda_enter(const fk_cuda *cuda);

/* Device memory for arenas. What was allocated must be released before the fk_cuda ends. */
fk_memory *fk_cuda_memory(fk_cuda *cuda);

/* Host to device. Returns when from may be changed; the copy itself is queued. Large copies from pageable memory run at
 * the speed of the link: they go through pinned memory, filled by several threads. */
fk_status fk_cuda_upload(fk_cuda *cuda, void *to, const void *from, size_t bytes);
/* Device to host. Waits, and reports what went wrong before. */
fk_status fk_cuda_download(fk_cuda *cuda, void *to, const void *from, size_t bytes);
fk_status fk_cuda_copy(fk_cuda *cuda, void *to, const void *from, size_t bytes); /* device to device */
fk_status fk_cuda_fill(fk_cuda *cuda, void *to, int byte, size_t bytes);
/* n elements of a float dtype: mean + std times what the loader's generator draws from a stream (engine/loader.c). */
fk_status fk_cuda_random(fk_cuda *cuda, void *to, fk_type type, int64_t n, uint64_t stream, double mean, double std);

/* Greedy decoding between two steps: the tokens found become the next inputs, positions and lengths grow by one, rows
 * of the caches follow from the block table. All pointers are to device memory; B sequences. */
typedef struct fk_cuda_decode {
  int64_t batch_size, num_columns, block_size; /* block_size 0: there are no paged caches */
  int64_t history;                             /* steps that tokens has room for, at least 1 */
  const int64_t *best;                         /* [B] */
  const int32_t *block_table;                  /* [B, num_columns] */
  int32_t *input_ids, *seq_lens;               /* [B] */
  int64_t *positions, *slot_mapping;           /* [B] */
  int32_t *tokens;                             /* [history, B], a ring */
  int64_t *steps;                              /* [1]: how many there were */
} fk_cuda_decode;
fk_status fk_cuda_advance(fk_cuda *cuda, const fk_cuda_decode *decode);
/* Reads device memory and keeps nothing: empties the L2 cache of other data when bytes are several times its size. */
fk_status fk_cuda_read(fk_cuda *cuda, void *from, size_t bytes);

/* Matrix products by what computes them, for a caller that can time more than one product: a kernel that is slower
 * alone may be faster among others, because it begins while the one before it ends. Shapes count from 0; of one that
 * has exactly `rows` rows there are so many options, of others none. */
int fk_cuda_gemm_shapes(const fk_cuda *cuda);
int fk_cuda_gemm_options(const fk_cuda *cuda, int shape, int64_t rows, int *selected);
void fk_cuda_gemm_select(fk_cuda *cuda, int shape, int option);

/* Waits for everything queued. Reports errors of kernels, and indices that a kernel found wrong. */
fk_status fk_cuda_sync(fk_cuda *cuda);

/* From begin to end, work queued by this thread on the stream is recorded and not run. No upload, download or sync in
 * between. An error ends the recording. */
fk_status fk_cuda_graph_begin(fk_cuda *cuda);
fk_status fk_cuda_graph_end(fk_cuda *cuda, fk_cuda_graph **graph);
fk_status fk_cuda_graph_launch(fk_cuda *cuda, fk_cuda_graph *graph);
int fk_cuda_graph_nodes(const fk_cuda_graph *graph);
/* What a graph holds besides kernels, memsets and device copies, and where they are allowed events, in words; NULL when
 * nothing. */
const char *fk_cuda_graph_foreign(const fk_cuda_graph *graph, bool events_allowed);
void fk_cuda_graph_destroy(fk_cuda_graph *graph);

/* What computed the calls since the reset, where there was a choice: "skinny_16 10.06 us; cublaslt 11.34 us" with its
 * time and its best rival's if they were measured now, "cublaslt 66 tile 24 stages 9 splitk 1", "cudnn 1 ..."; several
 * joined as in "prefill_sm90 + skinny_16". "" when there was no choice. */
void fk_cuda_choice_reset(fk_cuda *cuda);
void fk_cuda_choice(const fk_cuda *cuda, char *text, size_t size);

/* What the driver said about a GPU in a number of readings: the range of its clocks, its highest temperature and power,
 * and NVML's reasons why clocks were held back, of all readings together. No readings: the driver's NVML was not found.
 * slowed: those reasons that make a measurement slower, in words; "" when there was none. */
typedef struct fk_cuda_clocks {
  int readings, sm_mhz_low, sm_mhz_high, memory_mhz_low, memory_mhz_high, celsius, watts;
  uint64_t reasons;
} fk_cuda_clocks;
void fk_cuda_clocks_read(int device_id, fk_cuda_clocks *clocks); /* adds a reading; not from several threads at once */
void fk_cuda_clocks_slowed(const fk_cuda_clocks *clocks, char *text, size_t size);

/* A group of ranks, one GPU and one thread or process each, that exchange data by NCCL. One of them, or somebody else,
 * makes an id; all join with it at the same time, each waiting for the others. comm is the ncclComm_t as a number (what
 * the attribute comm of a collective task takes); it ends with fk_cuda_leave, before the fk_cuda. A barrier holds the
 * stream until the streams of all ranks have come to it. */
enum { FK_CUDA_ID_BYTES = 128 };
fk_status fk_cuda_unique_id(char id[FK_CUDA_ID_BYTES]);
fk_status fk_cuda_join(fk_cuda *cuda, const char *id, int rank, int world_size, int64_t *comm);
fk_status fk_cuda_barrier(fk_cuda *cuda, int64_t comm);
void fk_cuda_leave(fk_cuda *cuda, int64_t comm);

/* Two marks on the stream and the milliseconds between them; elapsed waits for the second. */
typedef struct fk_cuda_timer fk_cuda_timer;
fk_status fk_cuda_timer_create(fk_cuda *cuda, fk_cuda_timer **timer);
fk_status fk_cuda_timer_start(fk_cuda *cuda, fk_cuda_timer *timer);
fk_status fk_cuda_timer_stop(fk_cuda *cuda, fk_cuda_timer *timer);
fk_status fk_cuda_timer_elapsed(fk_cuda *cuda, fk_cuda_timer *timer, double *milliseconds);
void fk_cuda_timer_destroy(fk_cuda_timer *timer);

#ifdef __cplusplus
}
#endif

#endif
