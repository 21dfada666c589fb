/* CUDA graphs and timers (device/cuda.h). */
#include <stdlib.h>

#include "device/cuda/runtime.h"

struct fk_cuda_graph {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  int num_nodes;
  const char *foreign; /* but events */
  bool has_events;
};

/* Relaxed: the first call of a shape may still allocate a chunk of its arena, which is no part of the recording. */
fk_status fk_cuda_graph_begin(fk_cuda *cuda) {
  FK_TRY(fk_cuda_enter(cuda));
  FK_CUDA_TRY(cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeRelaxed));
  cuda->capturing = true;
  return FK_OK;
}

static const char *foreign_kind(cudaGraphNode_t node, bool *event) {
  enum cudaGraphNodeType type;
  struct cudaMemcpy3DParms copy;
  if (cudaGraphNodeGetType(node, &type) != cudaSuccess) return "a node of unknown type";
  switch (type) {
    case cudaGraphNodeTypeKernel:
    case cudaGraphNodeTypeMemset:
    case cudaGraphNodeTypeEmpty:
      return NULL;
    case cudaGraphNodeTypeMemcpy:
      /* One-dimensional copies have no 3D parameters: their kind is checked by where their pointers live. */
      if (cudaGraphMemcpyNodeGetParams(node, &copy) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
      }
      return copy.kind == cudaMemcpyDeviceToDevice || copy.kind == cudaMemcpyDefault ? NULL
                                                                                     : "a copy from or to the host";
    case cudaGraphNodeTypeHost:
      return "a host function";
    case cudaGraphNodeTypeMemAlloc:
    case cudaGraphNodeTypeMemFree:
      return "a memory allocation";
    case cudaGraphNodeTypeEventRecord:
    case cudaGraphNodeTypeWaitEvent:
      *event = true;
      return NULL;
    default:
      return "a semaphore or a child graph";
  }
}

static fk_status inspect(fk_cuda_graph *graph) {
  size_t count = 0;
  FK_CUDA_TRY(cudaGraphGetNodes(graph->graph, NULL, &count));
  cudaGraphNode_t *nodes = malloc((count + 1) * sizeof(cudaGraphNode_t));
  if (!nodes) return fk_fail(FK_ERROR_MEMORY, "cuda: cannot allocate");
  cudaError_t error = count ? cudaGraphGetNodes(graph->graph, nodes, &count) : cudaSuccess;
  for (size_t i = 0; !error && i < count && !graph->foreign; i++)
    graph->foreign = foreign_kind(nodes[i], &graph->has_events);
  free(nodes);
  graph->num_nodes = (int)count;
  FK_CUDA_TRY(error);
  return FK_OK;
}

fk_status fk_cuda_graph_end(fk_cuda *cuda, fk_cuda_graph **out) {
  *out = NULL;
  fk_cuda_graph *graph = calloc(1, sizeof *graph);
  cuda->capturing = false;
  cudaGraph_t recorded = NULL;
  cudaError_t error = cudaStreamEndCapture(cuda->stream, &recorded);
  if (!graph || error || !recorded) {
    if (recorded) cudaGraphDestroy(recorded);
    free(graph);
    FK_CUDA_TRY(error);
    return fk_fail(FK_ERROR_MEMORY, "cuda: cannot allocate a graph");
  }
  graph->graph = recorded;
  fk_status status = inspect(graph);
  error = status ? cudaSuccess : cudaGraphInstantiate(&graph->exec, graph->graph, 0);
  if (!status && error) status = fk_cuda_failed(error, "cudaGraphInstantiate", __FILE__, __LINE__);
  if (status) {
    fk_cuda_graph_destroy(graph);
    return status;
  }
  *out = graph;
  return FK_OK;
}

fk_status fk_cuda_graph_launch(fk_cuda *cuda, fk_cuda_graph *graph) {
  FK_TRY(fk_cuda_enter(cuda));
  FK_CUDA_TRY(cudaGraphLaunch(graph->exec, cuda->stream));
  return FK_OK;
}

int fk_cuda_graph_nodes(const fk_cuda_graph *graph) {
  return graph->num_nodes;
}

const char *fk_cuda_graph_foreign(const fk_cuda_graph *graph, bool events_allowed) {
  return graph->has_events && !events_allowed && !graph->foreign ? "an event" : graph->foreign;
}

void fk_cuda_graph_destroy(fk_cuda_graph *graph) {
  if (!graph) return;
  if (graph->exec) cudaGraphExecDestroy(graph->exec);
  cudaGraphDestroy(graph->graph);
  free(graph);
}

/* ---- Timers ---------------------------------------------------------------------------------------------- */

struct fk_cuda_timer {
  cudaEvent_t from, to;
};

fk_status fk_cuda_timer_create(fk_cuda *cuda, fk_cuda_timer **out) {
  *out = NULL;
  FK_TRY(fk_cuda_enter(cuda));
  fk_cuda_timer *timer = calloc(1, sizeof *timer);
  if (!timer) return fk_fail(FK_ERROR_MEMORY, "cuda: cannot allocate");
  cudaError_t error = cudaEventCreate(&timer->from);
  if (!error) error = cudaEventCreate(&timer->to);
  if (error) {
    fk_cuda_timer_destroy(timer);
    FK_CUDA_TRY(error);
  }
  *out = timer;
  return FK_OK;
}

fk_status fk_cuda_timer_start(fk_cuda *cuda, fk_cuda_timer *timer) {
  FK_CUDA_TRY(cudaEventRecord(timer->from, cuda->stream));
  return FK_OK;
}

fk_status fk_cuda_timer_stop(fk_cuda *cuda, fk_cuda_timer *timer) {
  FK_CUDA_TRY(cudaEventRecord(timer->to, cuda->stream));
  return FK_OK;
}

fk_status fk_cuda_timer_elapsed(fk_cuda *cuda, fk_cuda_timer *timer, double *milliseconds) {
  float elapsed = 0;
  FK_TRY(fk_cuda_enter(cuda));
  FK_CUDA_TRY(cudaEventSynchronize(timer->to));
  FK_CUDA_TRY(cudaEventElapsedTime(&elapsed, timer->from, timer->to));
  *milliseconds = elapsed;
  return FK_OK;
}

void fk_cuda_timer_destroy(fk_cuda_timer *timer) {
  if (!timer) return;
  if (timer->from) cudaEventDestroy(timer->from);
  if (timer->to) cudaEventDestroy(timer->to);
  free(timer);
}
