/* The CUDA device of a build without CUDA code: every attempt to use it says so. */
#include "device/cuda.h"

#ifndef FK_HAVE_CUDA

static fk_status none(void) {
  return fk_fail(FK_ERROR_UNSUPPORTED, "cuda: this build has no CUDA code (it was built without nvcc)");
}

int fk_cuda_device_count(void) {
  return 0;
}
const char *fk_cuda_architectures(void) {
  return "";
}
fk_status fk_cuda_create(int device_id, fk_cuda **cuda) {
  (void)device_id;
  *cuda = 0;
  return none();
}
void fk_cuda_destroy(fk_cuda *cuda) {
  (void)cuda;
}
fk_status fk_cuda_describe(fk_cuda *cuda, fk_cuda_info *info) {
  (void)cuda, (void)info;
  return none();
}
int fk_cuda_device_id(const fk_cuda *cuda) {
  (void)cuda;
  return 0;
}
void *fk_cuda_stream(const fk_cuda *cuda) {
  (void)cuda;
  return 0;
}
fk_status fk_cuda_enter(const fk_cuda *cuda) {
  (void)cuda;
  return none();
}
void fk_cuda_choice_reset(fk_cuda *cuda) {
  (void)cuda;
}
void fk_cuda_choice(const fk_cuda *cuda, char *text, size_t size) {
  (void)cuda;
  if (size) *text = '\0';
}
void fk_cuda_clocks_read(int device_id, fk_cuda_clocks *clocks) {
  (void)device_id, (void)clocks;
}
void fk_cuda_clocks_slowed(const fk_cuda_clocks *clocks, char *text, size_t size) {
  (void)clocks;
  if (size) *text = '\0';
}
fk_memory *fk_cuda_memory(fk_cuda *cuda) {
  (void)cuda;
  return 0;
}
fk_status fk_cuda_upload(fk_cuda *cuda, void *to, const void *from, size_t bytes) {
  (void)cuda, (void)to, (void)from, (void)bytes;
  return none();
}
fk_status fk_cuda_download(fk_cuda *cuda, void *to, const void *from, size_t bytes) {
  (void)cuda, (void)to, (void)from, (void)bytes;
  return none();
}
fk_status fk_cuda_copy(fk_cuda *cuda, void *to, const void *from, size_t bytes) {
  (void)cuda, (void)to, (void)from, (void)bytes;
  return none();
}
fk_status fk_cuda_fill(fk_cuda *cuda, void *to, int byte, size_t bytes) {
  (void)cuda, (void)to, (void)byte, (void)bytes;
  return none();
}
fk_status fk_cuda_random(fk_cuda *cuda, void *to, fk_type type, int64_t n, uint64_t stream, double mean, double std) {
  (void)cuda, (void)to, (void)type, (void)n, (void)stream, (void)mean, (void)std;
  return none();
}
fk_status fk_cuda_advance(fk_cuda *cuda, const fk_cuda_decode *decode) {
  (void)cuda, (void)decode;
  return none();
}
fk_status fk_cuda_read(fk_cuda *cuda, void *from, size_t bytes) {
  (void)cuda, (void)from, (void)bytes;
  return none();
}
int fk_cuda_gemm_shapes(const fk_cuda *cuda) {
  (void)cuda;
  return 0;
}
int fk_cuda_gemm_options(const fk_cuda *cuda, int shape, int64_t rows, int *selected) {
  (void)cuda, (void)shape, (void)rows;
  *selected = 0;
  return 0;
}
void fk_cuda_gemm_select(fk_cuda *cuda, int shape, int option) {
  (void)cuda, (void)shape, (void)option;
}
fk_status fk_cuda_sync(fk_cuda *cuda) {
  (void)cuda;
  return none();
}
fk_status fk_cuda_graph_begin(fk_cuda *cuda) {
  (void)cuda;
  return none();
}
fk_status fk_cuda_graph_end(fk_cuda *cuda, fk_cuda_graph **graph) {
  (void)cuda;
  *graph = 0;
  return none();
}
fk_status fk_cuda_graph_launch(fk_cuda *cuda, fk_cuda_graph *graph) {
  (void)cuda, (void)graph;
  return none();
}
int fk_cuda_graph_nodes(const fk_cuda_graph *graph) {
  (void)graph;
  return 0;
}
const char *fk_cuda_graph_foreign(const fk_cuda_graph *graph, bool events_allowed) {
  (void)graph, (void)events_allowed;
  return 0;
}
void fk_cuda_graph_destroy(fk_cuda_graph *graph) {
  (void)graph;
}
fk_status fk_cuda_timer_create(fk_cuda *cuda, fk_cuda_timer **timer) {
  (void)cuda;
  *timer = 0;
  return none();
}
fk_status fk_cuda_timer_start(fk_cuda *cuda, fk_cuda_timer *timer) {
  (void)cuda, (void)timer;
  return none();
}
fk_status fk_cuda_timer_stop(fk_cuda *cuda, fk_cuda_timer *timer) {
  (void)cuda, (void)timer;
  return none();
}
fk_status fk_cuda_timer_elapsed(fk_cuda *cuda, fk_cuda_timer *timer, double *milliseconds) {
  (void)cuda, (void)timer, (void)milliseconds;
  return none();
}
fk_status fk_cuda_unique_id(char id[FK_CUDA_ID_BYTES]) {
  (void)id;
  return none();
}
fk_status fk_cuda_join(fk_cuda *cuda, const char *id, int rank, int world_size, int64_t *comm) {
  (void)cuda, (void)id, (void)rank, (void)world_size;
  *comm = 0;
  return none();
}
fk_status fk_cuda_barrier(fk_cuda *cuda, int64_t comm) {
  (void)cuda, (void)comm;
  return none();
}
void fk_cuda_leave(fk_cuda *cuda, int64_t comm) {
  (void)cuda, (void)comm;
}
void fk_cuda_timer_destroy(fk_cuda_timer *timer) {
  (void)timer;
}

#endif
