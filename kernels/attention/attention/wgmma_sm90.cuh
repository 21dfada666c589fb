/* The instructions of compute capability 9.0 that the prefill kernel is made of: barriers in shared memory, bulk tensor
 * loads, matrix products of a warpgroup. Facts from the PTX ISA manual, chapters mbarrier, cp.async.bulk.tensor, wgmma.
 *
 * A matrix in shared memory is a row of slabs [rows][64 columns] of 16-bit numbers: 128 bytes a row, whose 16-byte
 * pieces are permuted by the row number modulo 8, as tensor loads with a 128-byte swizzle leave them. A slab begins at
 * a multiple of 1024 bytes. */
#pragma once

#include "device/cuda/sm90.cuh"

/* ---- Barriers -------------------------------------------------------------------------------------------- */

/* Waits for the end of the phase of this parity; a new barrier is in phase 0, and the one before has parity 1. */
static __device__ __forceinline__ void barrier_wait(uint64_t *barrier, uint32_t parity) {
  uint32_t done = 0, address = fk_shared_address(barrier);
  while (!done)
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(address), "r"(parity)
        : "memory");
}

/* Barriers by number, of whole warps: `threads` is how many wait and arrive together. */
static __device__ __forceinline__ void named_wait(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
static __device__ __forceinline__ void named_arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/* What ordinary instructions did to shared memory comes before what tensor loads will do. */
static __device__ __forceinline__ void fence_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- Tensor loads ---------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void tensor_load(void *to, const void *map, uint64_t *barrier, int x, int y, int z,
                                                   int w) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(fk_shared_address(to)),
      "l"(map), "r"(fk_shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
#endif
}

static __device__ __forceinline__ void tensor_prefetch_map(const void *map) {
#if __CUDA_ARCH__ >= 900
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#endif
}

/* ---- Matrix products ------------------------------------------------------------------------------------- */

/* Describes a matrix of slabs to wgmma. rows lie along k of the product (a transposed operand, "MN-major"): the leading
 * offset leads to the next slab; else it means nothing. 8 rows further is always 1024 bytes. */
static __device__ __forceinline__ uint64_t matrix_at(const void *slab, uint32_t slab_bytes) {
  uint64_t address = (fk_shared_address(slab) & 0x3ffff) >> 4;
  return address | (uint64_t)(slab_bytes >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* The same matrix some bytes further. */
static __device__ __forceinline__ uint64_t matrix_plus(uint64_t matrix, uint32_t bytes) {
  return matrix + (bytes >> 4);
}

#if __CUDA_ARCH_FEAT_SM90_ALL

template <int N>
static __device__ __forceinline__ void set_registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
static __device__ __forceinline__ void set_registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* Operand lists of an accumulator, 8 registers each. */
#define D0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define D1 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define D2 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define D3 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define D4 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define D5 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define D6 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define D7 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define D8 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define D9 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define D10 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define D11 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define D12 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define D13 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define D14 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define D15 ", %120, %121, %122, %123, %124, %125, %126, %127"

#define F8(i)                                                                                                 \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])

#define REGS32 D0 D1 D2 D3
#define REGS40 REGS32 D4
#define REGS48 REGS40 D5
#define REGS64 REGS48 D6 D7
#define REGS128 REGS64 D8 D9 D10 D11 D12 D13 D14 D15
#define OUT32 F8(0), F8(8), F8(16), F8(24)
#define OUT40 OUT32, F8(32)
#define OUT48 OUT40, F8(40)
#define OUT64 OUT48, F8(48), F8(56)
#define OUT128 OUT64, F8(64), F8(72), F8(80), F8(88), F8(96), F8(104), F8(112), F8(120)

/* N columns, R accumulators, operand numbers R, R + 1, ... as P0, P1, ... */
#define PRODUCT_SS(N, R, TYPE, P0, P1, P2)                                                                          \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P2                                                             \
               ", 0;\n"                                                                                             \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" REGS##R "}, %" #P0 ", %" #P1    \
                                                                                            ", p, 1, 1, 0, 0;\n}\n" \
               : OUT##R                                                                                             \
               : "l"(a), "l"(b), "r"(add))
#define PRODUCT_RS(N, R, TYPE, P0, P1, P2, P3, P4)                                          \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" REGS##R \
               "}, {%" #P0 ", %" #P1 ", %" #P2 ", %" #P3 "}, %" #P4 ", 1, 1, 1, 1;\n"       \
               : OUT##R                                                                     \
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b))

#define PRODUCT(KIND, N, R, ...)                       \
  if constexpr (std::is_same<T, __nv_bfloat16>::value) \
    PRODUCT_##KIND(N, R, "bf16", __VA_ARGS__);         \
  else                                                 \
    PRODUCT_##KIND(N, R, "f16", __VA_ARGS__);

/* d [64, N] = a b^T + (add ? d : 0): a [64, 16] and b [N, 16] in shared memory. */
template <typename T, int N>
static __device__ __forceinline__ void product_rows(float (&d)[N / 2], uint64_t a, uint64_t b, int add) {
  static_assert(N == 80 || N == 128, "a width without its instruction here");
  if constexpr (N == 80) {
    PRODUCT(SS, 80, 40, 40, 41, 42)
  } else {
    PRODUCT(SS, 128, 64, 64, 65, 66)
  }
}

/* d [64, N] += a b: a [64, 16] in registers, b [16, N] in shared memory. */
template <typename T, int N>
static __device__ __forceinline__ void product_columns(float (&d)[N / 2], uint32_t a0, uint32_t a1, uint32_t a2,
                                                       uint32_t a3, uint64_t b) {
  static_assert(N == 64 || N == 96 || N == 128 || N == 256, "a width without its instruction here");
  if constexpr (N == 64) {
    PRODUCT(RS, 64, 32, 32, 33, 34, 35, 36)
  } else if constexpr (N == 96) {
    PRODUCT(RS, 96, 48, 48, 49, 50, 51, 52)
  } else if constexpr (N == 128) {
    PRODUCT(RS, 128, 64, 64, 65, 66, 67, 68)
  } else {
    PRODUCT(RS, 256, 128, 128, 129, 130, 131, 132)
  }
}

#endif
