/* Timing candidates (measure.h). */
#include "device/cuda/measure.h"

#include <string.h>

enum {
  FIRST_ROUNDS = 3, /* in which every candidate is timed */
  FINALISTS = 4,
  FINAL_ROUNDS = 11, /* at least, in which they are timed again */
  MAX_ROUNDS = 101,
  MAX_REPEATS = 20,
};
/* Microseconds. Clocks settle after some tenths of a second; calls below HEAVY leave the GPU idle in between anyway. */
static const double SAMPLE = 400, FINALS = 30e3, HEAVY = 50, HEAVY_FINALS = 400e3, FAILED = 1e30;

typedef struct run {
  int candidate;
  cudaGraphExec_t graph;
  double us, samples[MAX_ROUNDS];
} run;

typedef struct job {
  fk_cuda *cuda;
  const fk_meter *meter;
  const fk_contest *contest;
  int repeats;
} job;

bool fk_cuda_recording(const fk_cuda *cuda) {
  enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cuda->capturing) return true;
  if (cudaStreamIsCapturing(cuda->stream, &status) != cudaSuccess) cudaGetLastError();
  return status != cudaStreamCaptureStatusNone;
}

void fk_meter_close(fk_meter *meter) {
  if (meter->memory) cudaFree(meter->memory);
  if (meter->start) cudaEventDestroy(meter->start);
  if (meter->stop) cudaEventDestroy(meter->stop);
  memset(meter, 0, sizeof *meter);
}

fk_status fk_meter_open(fk_cuda *cuda, fk_meter *meter) {
  int l2 = 0;
  if (!meter->start) FK_CUDA_TRY(cudaEventCreate(&meter->start));
  if (!meter->stop) FK_CUDA_TRY(cudaEventCreate(&meter->stop));
  if (meter->memory) return FK_OK;
  FK_CUDA_TRY(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, cuda->device_id));
  size_t bytes = 2 * (size_t)(l2 > 0 ? l2 : 32 << 20);
  FK_CUDA_TRY(cudaMalloc((void **)&meter->memory, bytes));
  meter->bytes = bytes;
  return FK_OK;
}

static int repeats_of(const fk_contest *c) {
  double repeats = c->cold ? 1 : SAMPLE / (c->microseconds + 2);
  return repeats < 1 ? 1 : repeats > MAX_REPEATS ? MAX_REPEATS : (int)repeats;
}

static fk_status record(const job *j, int candidate, cudaGraphExec_t *exec) {
  cudaGraph_t graph = NULL;
  fk_status status = FK_OK;
  FK_CUDA_TRY(cudaStreamBeginCapture(j->cuda->stream, cudaStreamCaptureModeRelaxed));
  for (int i = 0; i < j->repeats && !status; i++) status = j->contest->run(j->contest->self, candidate, i);
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
  cudaStream_t stream = j->cuda->stream;
  if (j->contest->cold) FK_CUDA_TRY(cudaMemsetAsync(j->meter->memory, 0, j->meter->bytes, stream));
  FK_CUDA_TRY(cudaEventRecord(j->meter->start, stream));
  FK_CUDA_TRY(cudaGraphLaunch(graph, stream));
  FK_CUDA_TRY(cudaEventRecord(j->meter->stop, stream));
  FK_CUDA_TRY(cudaEventSynchronize(j->meter->stop));
  FK_CUDA_TRY(cudaEventElapsedTime(&milliseconds, j->meter->start, j->meter->stop));
  *us = 1e3 * milliseconds / j->repeats;
  return FK_OK;
}

static double median(const double *samples, int n) {
  double sorted[MAX_ROUNDS];
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

/* Puts the seeded candidate among the finalists, in place of the last of them. */
static void seed(const job *j, run *runs, int count, int finalists) {
  for (int i = finalists; i < count; i++) {
    if (runs[i].candidate != j->contest->seeded || runs[i].us >= FAILED) continue;
    run swap = runs[i];
    runs[i] = runs[finalists - 1];
    runs[finalists - 1] = swap;
  }
}

static int final_rounds(const job *j, const run *runs, int count) {
  double turn = 0;
  for (int i = 0; i < count; i++) turn += runs[i].us < FAILED ? runs[i].us * j->repeats : 0;
  double rounds = (runs[0].us < HEAVY ? FINALS : HEAVY_FINALS) / (turn + 1);
  return rounds < FINAL_ROUNDS ? FINAL_ROUNDS : rounds > MAX_ROUNDS ? MAX_ROUNDS : (int)rounds;
}

int fk_measure(fk_cuda *cuda, fk_meter *meter, const fk_contest *contest, fk_measured *measured) {
  run runs[FK_MEASURE_MAX];
  int ran = 0, count = contest->count, finalists = count < FINALISTS ? count : FINALISTS;
  job j = {.cuda = cuda, .meter = meter, .contest = contest, .repeats = repeats_of(contest)};
  if (count == 0 || fk_meter_open(cuda, meter) != FK_OK) return 0;
  for (int i = 0; i < count; i++) {
    runs[i] = (run){.candidate = i};
    if (record(&j, i, &runs[i].graph) != FK_OK) runs[i].graph = NULL;
  }
  compete(&j, runs, count, FIRST_ROUNDS);
  seed(&j, runs, count, finalists);
  if (count > 1) compete(&j, runs, finalists, final_rounds(&j, runs, finalists));
  for (int i = 0; i < count; i++) {
    if (runs[i].graph) cudaGraphExecDestroy(runs[i].graph);
    if (runs[i].us < FAILED) measured[ran++] = (fk_measured){runs[i].candidate, runs[i].us};
  }
  return ran;
}
