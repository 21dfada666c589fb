/* What kernels for compute capability 9.0 share of its instructions: barriers in shared memory that count arrivals and
 * bytes, and the order of a warpgroup's matrix products. Facts from the PTX ISA manual, chapters mbarrier and wgmma.
 * Only for code that is compiled for sm_90a. */
#pragma once

#include "device/cuda/kernel.cuh"

static __device__ __forceinline__ void fk_barrier_init(uint64_t *barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(fk_shared_address(barrier)), "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void fk_barrier_arrive(uint64_t *barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(fk_shared_address(barrier)) : "memory");
}

/* Arrives, and makes the phase wait for this many bytes of asynchronous copies. */
static __device__ __forceinline__ void fk_barrier_expect(uint64_t *barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(fk_shared_address(barrier)), "r"(bytes)
               : "memory");
}

/* What this thread did to registers and shared memory comes before the products that follow. */
static __device__ __forceinline__ void fk_wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void fk_wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most PENDING committed groups are under way. */
template <int PENDING>
static __device__ __forceinline__ void fk_wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* Keeps the compiler from moving uses of registers that products read or write across the place where this stands. */
template <int N>
static __device__ __forceinline__ void fk_wgmma_hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

template <int N>
static __device__ __forceinline__ void fk_wgmma_hold(uint32_t (&a)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+r"(a[i])::"memory");
}
