/* What prefill.cu is made of: 16-bit tiles in shared memory, and the products of the tensor cores.
 *
 * A tile is one or two slabs of 64 columns, each [ROWS][64]: 128 bytes a row, whose 16-byte piece p lies at
 * p ^ (row % 8). So eight rows of one column, or eight columns of one row, come from different banks, and the
 * instructions of compute capability 9.0 can read it too. */
#pragma once

#include "ssd.cuh"

enum { CHUNK = 128, DIM = 64, WARPS = 8, THREADS = 32 * WARPS };

/* What the time steps of a chunk say, totals in powers of two. */
typedef struct chunk_steps {
  float before[CHUNK]; /* decay from the state before to each token: 2^before */
  float from[CHUNK];   /* 2^(before[t] - from[s]) is dt_s times the decay from s to t */
  float after[CHUNK];  /* dt times the decay from each token to the last, times scale */
  float decay, scale;  /* of the whole chunk; scale keeps `after` in the range of float16 */
} chunk_steps;

template <int N>
struct layout {
  static constexpr int X = CHUNK * DIM * 2, BC = CHUNK * N * 2, STAGE = X + 2 * BC, H = DIM * N * 2; /* H: one part */
  static constexpr int shared(int stages) {
    return stages * STAGE + 2 * H + 2 * (int)sizeof(chunk_steps) + 1024; /* begins at a multiple of 1024 */
  }
};

/* Where 8 elements from column 8 * piece on of a row are. */
template <int ROWS>
static __device__ __forceinline__ uint32_t at_piece(int row, int piece) {
  return piece / 8 * (ROWS * 128) + row * 128 + ((piece % 8 ^ (row & 7)) << 4);
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
template <int ROWS>
static __device__ __forceinline__ void load_left(uint32_t (&r)[4], uint32_t tile, int row, int depth, int lane) {
  load_fragments(r, tile + at_piece<ROWS>(row + lane % 16, depth / 8 + lane / 16));
}

/* The same from rows of `row`: the tile is [depth][row]. */
template <int ROWS>
static __device__ __forceinline__ void load_left_turned(uint32_t (&r)[4], uint32_t tile, int row, int depth, int lane) {
  load_turned_fragments(r, tile + at_piece<ROWS>(depth + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2));
}

/* Right factor of 16 columns, two fragments, from a tile [column][depth]. */
template <int ROWS>
static __device__ __forceinline__ void load_right(uint32_t (&r)[4], uint32_t tile, int column, int depth, int lane) {
  load_fragments(r, tile + at_piece<ROWS>(column + lane / 16 * 8 + lane % 8, depth / 8 + lane / 8 % 2));
}

/* The same from a tile [depth][column]. */
template <int ROWS>
static __device__ __forceinline__ void load_right_turned(uint32_t (&r)[4], uint32_t tile, int column, int depth,
                                                         int lane) {
  load_turned_fragments(r, tile + at_piece<ROWS>(depth + lane % 16, column / 8 + lane / 16));
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

/* A pair as a rounded pair and what the rounding left: 16 significant bits or more. */
template <typename T>
static __device__ __forceinline__ void in_two_parts(float low, float high, uint32_t *coarse, uint32_t *fine) {
  *coarse = pack_two<T>(low, high);
  float2 c = unpack_two<T>(*coarse);
  *fine = pack_two<T>(low - c.x, high - c.y);
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

/* What ordinary instructions wrote to shared memory is there for products that read it by themselves. */
static __device__ __forceinline__ void show_to_products() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
