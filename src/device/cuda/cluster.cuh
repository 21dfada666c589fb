/* Clusters: blocks that run side by side, on Hopper and later, and read each other's shared memory. */
#pragma once

#include "device/cuda/kernel.cuh"

static __device__ __forceinline__ void fk_cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

static __device__ __forceinline__ void fk_cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/* All threads of all blocks of the cluster have come here, and see what was written before. */
static __device__ __forceinline__ void fk_cluster_sync() {
  fk_cluster_arrive();
  fk_cluster_wait();
}

/* What *p, in this block's shared memory, is in block `rank` of the cluster. */
static __device__ __forceinline__ uint64_t fk_cluster_load(const uint64_t *p, int rank) {
  uint64_t value = 0;
#if __CUDA_ARCH__ >= 900
  uint32_t local = fk_shared_address(p), remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
  asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(value) : "r"(remote) : "memory");
#endif
  return value;
}

static inline bool fk_has_clusters(fk_context *ctx) {
  return fk_context_cuda(ctx)->compute_capability >= 90;
}

/* fk_launch_early with clusters of `size` blocks, at most 8; the grid is a multiple of it. */
template <typename... P>
static fk_status fk_launch_clusters(fk_context *ctx, int size, void (*kernel)(P...), dim3 grid, dim3 block,
                                    typename fk_same<P>::type... args) {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = (unsigned)size;
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = fk_context_cuda(ctx)->stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  FK_CUDA_TRY(cudaLaunchKernelEx(&config, kernel, args...));
  return FK_OK;
}
