/* Tensor-core pieces of prefill.cu: fragments of 16-bit tiles in shared memory.
 *
 * A tile is rows of 64 or 128 elements; the 16-byte piece p of row r lies at p ^ (r % 8), so that eight rows of one
 * column, or eight columns of one row, come from different banks. */
#pragma once

#include "ssd.cuh"

/* Piece `piece` of row `row`, for rows of N elements. */
template <int N>
static __device__ __forceinline__ uint32_t at_piece(uint32_t tile, int row, int piece) {
  return tile + row * (N * 2) + ((piece ^ (row & 7)) << 4);
}

static __device__ __forceinline__ void load_fragments(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

static __device__ __forceinline__ void load_turned_fragments(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/* Left factor [16 rows][16 depth] from rows of depth. */
template <int N>
static __device__ __forceinline__ void load_left(uint32_t (&r)[4], uint32_t tile, int row, int depth, int lane) {
  load_fragments(r, at_piece<N>(tile, row + lane % 16, depth / 8 + lane / 16));
}

/* The same from rows of `row`: the tile is [depth][row]. */
template <int N>
static __device__ __forceinline__ void load_left_turned(uint32_t (&r)[4], uint32_t tile, int row, int depth, int lane) {
  load_turned_fragments(r, at_piece<N>(tile, depth + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2));
}

/* Right factor of 16 columns, two fragments, from a tile [column][depth]. */
template <int N>
static __device__ __forceinline__ void load_right(uint32_t (&r)[4], uint32_t tile, int column, int depth, int lane) {
  load_fragments(r, at_piece<N>(tile, column + lane / 16 * 8 + lane % 8, depth / 8 + lane / 8 % 2));
}

/* The same from a tile [depth][column]. */
template <int N>
static __device__ __forceinline__ void load_right_turned(uint32_t (&r)[4], uint32_t tile, int column, int depth,
                                                         int lane) {
  load_turned_fragments(r, at_piece<N>(tile, depth + lane % 16, column / 8 + lane / 16));
}

template <typename T>
static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same<T, __half>::value)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <typename T>
static __device__ __forceinline__ uint32_t pack_two(float low, float high) {
  if constexpr (std::is_same<T, __half>::value) {
    __half2 v = __floats2half2_rn(low, high);
    return *(const uint32_t *)&v;
  } else {
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&v;
  }
}

template <typename T>
static __device__ __forceinline__ float2 unpack_two(uint32_t v) {
  if constexpr (std::is_same<T, __half>::value)
    return __half22float2(*(const __half2 *)&v);
  else
    return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u));
}

/* 2^x to a few units in the last place; 0 for -inf. */
static __device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/* 16 bytes from memory to shared memory, or zeros. */
static __device__ __forceinline__ void copy_piece(uint32_t to, const void *from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
}
static __device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}
