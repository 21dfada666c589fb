/* Timing candidates (gemm_measure.h). */
#include "device/cuda/gemm_measure.h"

#include <string.h>

enum {
  FIRST_ROUNDS = 3,  /* in which every candidate is timed */
  FINAL_ROUNDS = 11, /* in which the fastest are timed again */
  FINALISTS = 4,
  MAX_REPEATS = 20,
  MAX_COPIES = 64,
};
static const double SAMPLE_US = 400, FAILED = 1e30;

typedef struct run {
  int candidate;
  cudaGraphExec_t graph;
  double us, samples[FINAL_ROUNDS];
} run;

typedef struct job {
  fk_cuda *cuda;
  fk_gemm_meter *meter;
  const fk_gemm_args *g;
  fk_gemm_run_fn run;
  void *self;
  const void *weights[MAX_COPIES];
  int num_weights, repeats;
} job;

void fk_gemm_meter_close(fk_gemm_meter *meter) {
  if (meter->copies) cudaFree(meter->copies);
  if (meter->start) cudaEventDestroy(meter->start);
  if (meter->stop) cudaEventDestroy(meter->stop);
  memset(meter, 0, sizeof *meter);
}

static fk_status open_meter(fk_cuda *cuda, fk_gemm_meter *meter) {
  int l2 = 0;
  if (!meter->start) FK_CUDA_TRY(cudaEventCreate(&meter->start));
  if (!meter->stop) FK_CUDA_TRY(cudaEventCreate(&meter->stop));
  if (meter->copies) return FK_OK;
  FK_CUDA_TRY(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, cuda->device_id));
  size_t bytes = 2 * (size_t)(l2 > 0 ? l2 : 32 << 20);
  FK_CUDA_TRY(cudaMalloc((void **)&meter->copies, bytes));
  meter->bytes = bytes;
  return FK_OK;
}

/* The weights themselves, and as many copies as there is room for. */
static fk_status copy_weights(job *j) {
  const fk_gemm_args *g = j->g;
  size_t width = fk_type_bytes(g->type, 1), bytes = (size_t)((g->features - 1) * g->ldw + g->depth) * width;
  size_t step = (bytes + 255) / 256 * 256;
  j->weights[0] = g->weight;
  for (j->num_weights = 1; j->num_weights < MAX_COPIES; j->num_weights++) {
    size_t at = (size_t)(j->num_weights - 1) * step;
    if (at + bytes > j->meter->bytes) break;
    FK_CUDA_TRY(cudaMemcpyAsync(j->meter->copies + at, g->weight, bytes, cudaMemcpyDeviceToDevice, j->cuda->stream));
    j->weights[j->num_weights] = j->meter->copies + at;
  }
  return FK_OK;
}

/* A sample of about SAMPLE_US, guessed from 4 TB/s and 500 TFLOP/s. */
static int repeats_of(const fk_gemm_args *g) {
  double flops = 2.0 * (double)g->rows * (double)g->features * (double)g->depth;
  double bytes = (double)g->features * (double)g->depth * (double)fk_type_bytes(g->type, 1);
  double repeats = SAMPLE_US / (2 + bytes / 4e6 + flops / 5e8);
  return repeats < 1 ? 1 : repeats > MAX_REPEATS ? MAX_REPEATS : (int)repeats;
}

static fk_status record(const job *j, int candidate, cudaGraphExec_t *exec) {
  cudaGraph_t graph = NULL;
  fk_status status = FK_OK;
  FK_CUDA_TRY(cudaStreamBeginCapture(j->cuda->stream, cudaStreamCaptureModeRelaxed));
  for (int i = 0; i < j->repeats && !status; i++) {
    fk_gemm_args g = *j->g;
    g.weight = j->weights[i % j->num_weights];
    status = j->run(j->self, candidate, &g);
  }
  cudaError_t error = cudaStreamEndCapture(j->cuda->stream, &graph);
  if (!status && !error) error = cudaGraphInstantiate(exec, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  if (status) {
    cudaGetLastError();
    return status;
  }
  FK_CUDA_TRY(error);
  return FK_OK;
}

static fk_status sample(const job *j, cudaGraphExec_t graph, double *us) {
  float milliseconds;
  FK_CUDA_TRY(cudaEventRecord(j->meter->start, j->cuda->stream));
  FK_CUDA_TRY(cudaGraphLaunch(graph, j->cuda->stream));
  FK_CUDA_TRY(cudaEventRecord(j->meter->stop, j->cuda->stream));
  FK_CUDA_TRY(cudaEventSynchronize(j->meter->stop));
  FK_CUDA_TRY(cudaEventElapsedTime(&milliseconds, j->meter->start, j->meter->stop));
  *us = 1e3 * milliseconds / j->repeats;
  return FK_OK;
}

static double median(const double *samples, int n) {
  double sorted[FINAL_ROUNDS];
  for (int i = 0; i < n; i++) {
    int at = i;
    for (; at > 0 && sorted[at - 1] > samples[i]; at--) sorted[at] = sorted[at - 1];
    sorted[at] = samples[i];
  }
  return sorted[n / 2];
}

/* Times the first `count` runs in turns and sorts them, the fastest first. */
static void compete(const job *j, run *runs, int count, int rounds) {
  for (int round = -1; round < rounds; round++) /* the first turn loads code and warms up */
    for (int i = 0; i < count; i++) {
      double us = FAILED;
      if (runs[i].graph && sample(j, runs[i].graph, &us) != FK_OK) us = FAILED;
      if (round >= 0) runs[i].samples[round] = us;
    }
  for (int i = 0; i < count; i++) runs[i].us = median(runs[i].samples, rounds);
  for (int i = 1; i < count; i++)
    for (int k = i; k > 0 && runs[k].us < runs[k - 1].us; k--) {
      run swap = runs[k];
      runs[k] = runs[k - 1];
      runs[k - 1] = swap;
    }
}

int fk_gemm_measure(fk_cuda *cuda, fk_gemm_meter *meter, const fk_gemm_args *g, fk_gemm_run_fn run_one, void *self,
                    int count, fk_gemm_time *times) {
  run runs[FK_GEMM_MAX_CANDIDATES] = {0};
  int ran = 0;
  job j = {.cuda = cuda, .meter = meter, .g = g, .run = run_one, .self = self, .repeats = repeats_of(g)};
  if (count == 0 || open_meter(cuda, meter) != FK_OK || copy_weights(&j) != FK_OK) return 0;
  for (int i = 0; i < count; i++) {
    runs[i].candidate = i;
    if (record(&j, i, &runs[i].graph) != FK_OK) runs[i].graph = NULL;
  }
  compete(&j, runs, count, FIRST_ROUNDS);
  if (count > 1) compete(&j, runs, count < FINALISTS ? count : FINALISTS, FINAL_ROUNDS);
  for (int i = 0; i < count; i++) {
    if (runs[i].graph) cudaGraphExecDestroy(runs[i].graph);
    if (runs[i].us < FAILED) times[ran++] = (fk_gemm_time){runs[i].candidate, runs[i].us};
  }
  return ran;
}
