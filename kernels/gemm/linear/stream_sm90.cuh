/* Up to 64 rows of x on compute capability 9.0: every multiprocessor reads the same number of weight bytes.
 *
 * The product is cut into units: a tile of features by 128 bytes of depth, depth innermost. Block c of G takes units
 * [c U / G, (c + 1) U / G): the end of one tile of features, some whole tiles, the beginning of another. One warp feeds
 * a ring of stages in shared memory by tensor loads; two warpgroups multiply, weights as the 64-row operand and x as
 * the narrow one. A block that holds the beginning of a tile owns it: the blocks after it leave their sums of the rest
 * of the tile in memory and raise a flag, and the owner adds them to its own in the order of the blocks, so that the
 * result does not depend on timing. Owners lower the flags again, for the next launch.
 *
 * The tensor cores' sums of float8 products hold fewer bits than float32: those of each unit, which is 128 of depth,
 * are added to one in float32, and scaled on the way where there is a scale for each block.
 *
 * Every block is resident at once (G is at most the number of multiprocessors, and a dependent kernel starts only when
 * all blocks have), so an owner's wait ends. Facts on mbarrier, tensor loads and wgmma are from the PTX ISA manual. */
#pragma once

#include <cuda.h>
#include <cuda_fp8.h>

#include "device/cuda/gemm.h"
#include "device/cuda/sm90.cuh"

enum {
  FEATURES = 64,                 /* of a tile for each warpgroup that multiplies */
  LINE = 128,                    /* bytes of depth in a unit: one row of the swizzle */
  GROUP = 128,                   /* threads of a warpgroup */
  GROUP_BYTES = FEATURES * LINE, /* of weights in a stage */
  ALIGN = 1024                   /* of a stage: the swizzle counts address bits */
};

typedef struct stream_args {
  CUtensorMap weight, x;
  fk_gemm_args g;
  float4 *partial; /* [block][register / 4][thread] */
  unsigned *flags; /* [block], zero between launches */
  int units, units_per_tile;
  int ahead; /* units asked for before the previous kernel has ended */
} stream_args;

#if __CUDA_ARCH_FEAT_SM90_ALL

static __device__ __forceinline__ void barrier_wait(uint64_t *b, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(fk_shared_address(b)),
      "r"(parity)
      : "memory");
}

static __device__ __forceinline__ void load_box(void *to, const CUtensorMap *map, uint64_t *b, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(fk_shared_address(to)),
      "l"(map), "r"(fk_shared_address(b)), "r"(column), "r"(row)
      : "memory");
}

/* Into L2 only: right also where the previous kernel still writes what is read. */
static __device__ __forceinline__ void prefetch_box(const CUtensorMap *map, int column, int row) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(map), "r"(column), "r"(row)
               : "memory");
}

/* Rows of 128 bytes along the product's depth, swizzled; 8 rows further is 1024 bytes further. */
static __device__ __forceinline__ uint64_t matrix_at(const void *p) {
  return (uint64_t)((fk_shared_address(p) & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
         (uint64_t)1 << 62;
}

#define R4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define MULTIPLY(N, TYPE, LAYOUT, LIST, ...)                                                \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #N TYPE " {" LIST ", 1, 1, 1" LAYOUT ";" \
               : __VA_ARGS__                                                                \
               : "l"(a), "l"(b))
#define L4 "%0, %1, %2, %3"
#define L8 L4 ", %4, %5, %6, %7"
#define L16 L8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define L32 L16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"

#define MULTIPLY_ALL(TYPE, LAYOUT)                                              \
  if constexpr (N == 8)                                                         \
    MULTIPLY(8, TYPE, LAYOUT, L4 "}, %4, %5", R4(0));                           \
  else if constexpr (N == 16)                                                   \
    MULTIPLY(16, TYPE, LAYOUT, L8 "}, %8, %9", R4(0), R4(4));                   \
  else if constexpr (N == 32)                                                   \
    MULTIPLY(32, TYPE, LAYOUT, L16 "}, %16, %17", R4(0), R4(4), R4(8), R4(12)); \
  else                                                                          \
    MULTIPLY(64, TYPE, LAYOUT, L32 "}, %32, %33", R4(0), R4(4), R4(8), R4(12), R4(16), R4(20), R4(24), R4(28))

/* d [64, N] += a [64, 32 bytes] b [N, 32 bytes]^T. */
template <typename T, int N>
static __device__ __forceinline__ void multiply(float (&d)[N / 2], uint64_t a, uint64_t b) {
  if constexpr (std::is_same<T, __nv_bfloat16>::value) {
    MULTIPLY_ALL("k16.f32.bf16.bf16", ", 0, 0");
  } else if constexpr (std::is_same<T, __half>::value) {
    MULTIPLY_ALL("k16.f32.f16.f16", ", 0, 0");
  } else {
    MULTIPLY_ALL("k32.f32.e4m3.e4m3", "");
  }
}

template <int THREADS>
static __device__ __forceinline__ void consumers_meet() {
  asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory");
}

/* d += one stage's product. */
template <typename T, int N>
static __device__ __forceinline__ void multiply_unit(float (&d)[N / 2], uint64_t a, uint64_t b) {
  fk_wgmma_hold(d);
  fk_wgmma_fence();
#pragma unroll
  for (int k = 0; k < LINE / 32; k++) multiply<T, N>(d, a + 2 * k, b + 2 * k); /* 32 bytes, counted in sixteens */
  fk_wgmma_commit();
  fk_wgmma_hold(d);
  fk_wgmma_wait<0>();
  fk_wgmma_hold(d);
}

/* The first unit of a block. */
static __device__ __forceinline__ int first_unit(const stream_args &p, int block) {
  return (int)((int64_t)p.units * block / (int)gridDim.x);
}

/* Leaves this block's sums of a tile whose beginning another block has. */
template <int THREADS, int REGISTERS>
static __device__ __forceinline__ void leave(const stream_args &p, const float (&d)[REGISTERS]) {
  float4 *to = p.partial + (int64_t)blockIdx.x * (REGISTERS / 4) * THREADS + threadIdx.x;
#pragma unroll
  for (int i = 0; i < REGISTERS / 4; i++)
    __stcg(to + i * THREADS, make_float4(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]));
  __threadfence();
  consumers_meet<THREADS>();
  if (threadIdx.x == 0) asm volatile("st.release.gpu.u32 [%0], 1;" ::"l"(p.flags + blockIdx.x) : "memory");
}

/* Adds what the blocks after this one have of a tile that ends with unit `end`: one thread waits for each of them, then
 * all read, some blocks at a time. */
template <int THREADS, int REGISTERS>
static __device__ __forceinline__ void collect(const stream_args &p, float (&d)[REGISTERS], int end) {
  constexpr int VECTORS = REGISTERS / 4, BATCH = VECTORS < 8 ? 8 / VECTORS : 1;
  int mine = (int)blockIdx.x, last = mine;
  while (last + 1 < (int)gridDim.x && first_unit(p, last + 1) < end) last++;
  for (int block = mine + 1 + (int)threadIdx.x; block <= last; block += THREADS) {
    unsigned raised = 0;
    while (!raised) asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(raised) : "l"(p.flags + block) : "memory");
    p.flags[block] = 0;
  }
  consumers_meet<THREADS>();
  for (int block = mine + 1; block <= last; block += BATCH) {
    float4 v[BATCH][VECTORS];
#pragma unroll
    for (int b = 0; b < BATCH; b++)
#pragma unroll
      for (int i = 0; i < VECTORS; i++)
        v[b][i] = block + b <= last ? __ldcg(p.partial + ((int64_t)(block + b) * VECTORS + i) * THREADS + threadIdx.x)
                                    : make_float4(0, 0, 0, 0);
#pragma unroll
    for (int b = 0; b < BATCH; b++)
#pragma unroll
      for (int i = 0; i < VECTORS; i++) {
        if (block + b > last) continue;
        d[4 * i] += v[b][i].x;
        d[4 * i + 1] += v[b][i].y;
        d[4 * i + 2] += v[b][i].z;
        d[4 * i + 3] += v[b][i].w;
      }
  }
}

/* U: of out and bias. */
template <typename U, int GROUPS, int REGISTERS>
static __device__ __forceinline__ void write(const fk_gemm_args &g, const float (&d)[REGISTERS], int tile) {
  int warp = (int)threadIdx.x / 32, row = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
  bool scaled = g.scales == FK_GEMM_OUTER;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    int64_t n = (int64_t)tile * GROUPS * FEATURES + warp * 16 + 8 * h + row;
    if (n >= g.features) continue;
    float bias = g.bias ? fk_float(((const U *)g.bias)[n]) : 0.0f, scale = 1;
    if (scaled) scale = g.weight_scale[g.num_weight_scales == 1 ? 0 : n];
#pragma unroll
    for (int j = 0; j < REGISTERS / 4; j++)
#pragma unroll
      for (int c = 0; c < 2; c++) {
        int64_t m = 8 * j + 2 * t + c;
        if (m >= g.rows) continue;
        float v = d[4 * j + 2 * h + c];
        if (scaled) v *= scale * g.x_scale[g.num_x_scales == 1 ? 0 : m];
        ((U *)g.out)[m * g.ldo + n] = fk_from<U>(v + bias);
      }
  }
}

/* The scales of a unit of FK_GEMM_BLOCKS: of each of the thread's rows of x, times that of its features. */
template <int N, int GROUPS>
static __device__ __forceinline__ void unit_scales(const fk_gemm_args &g, float (&scale)[N / 4], int tile, int block) {
  int64_t n = (int64_t)tile * GROUPS * FEATURES + (int)threadIdx.x / GROUP * FEATURES; /* FEATURES divides a block's */
  float of_weight = n < g.features ? g.weight_scale[n / 128 * g.weight_scale_row + block] : 0.0f;
#pragma unroll
  for (int i = 0; i < N / 4; i++) {
    int64_t m = i / 2 * 8 + (int)threadIdx.x % 4 * 2 + i % 2;
    scale[i] = m < g.rows ? of_weight * g.x_scale[m * g.x_scale_row + block] : 0.0f;
  }
}

#endif

/* N: rows of x, rounded up to a width of wgmma. STAGES: about 100 KB of shared memory, so that a block of the next
 * kernel fits beside this one and has its first weights brought into L2 while this one ends. */
template <typename T, int N, int GROUPS, int STAGES, bool BLOCKS>
static __global__ void __launch_bounds__(GROUPS *GROUP + 32, 2) linear_stream(const __grid_constant__ stream_args p) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int CONSUMERS = GROUPS * GROUP, WEIGHT_BYTES = GROUPS * GROUP_BYTES, X_BYTES = N * LINE;
  constexpr int STAGE = WEIGHT_BYTES + X_BYTES, TILE = GROUPS * FEATURES, DEPTH = LINE / (int)sizeof(T);
  constexpr bool FLOAT8 = sizeof(T) == 1;
  extern __shared__ uint8_t raw[];
  __shared__ uint64_t full[STAGES], empty[STAGES];
  uint8_t *stages = raw + (ALIGN - fk_shared_address(raw) % ALIGN) % ALIGN;
  int begin = first_unit(p, (int)blockIdx.x), end = first_unit(p, (int)blockIdx.x + 1);
  if (threadIdx.x == CONSUMERS) {
    for (int i = begin; i < end && i < begin + p.ahead; i++)
      prefetch_box(&p.weight, i % p.units_per_tile * DEPTH, i / p.units_per_tile * TILE);
    for (int s = 0; s < STAGES; s++) {
      fk_barrier_init(&full[s], 1);
      fk_barrier_init(&empty[s], CONSUMERS / 32);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  fk_wait_previous();
  fk_let_next_start();
  if (threadIdx.x >= CONSUMERS) {
    if (threadIdx.x != CONSUMERS) return;
    for (int i = begin; i < end; i++) {
      int s = (i - begin) % STAGES, turn = (i - begin) / STAGES, k = i % p.units_per_tile * DEPTH;
      if (turn > 0) barrier_wait(&empty[s], (uint32_t)(turn - 1) & 1);
      fk_barrier_expect(&full[s], STAGE);
      load_box(stages + s * STAGE, &p.weight, &full[s], k, i / p.units_per_tile * TILE);
      load_box(stages + s * STAGE + WEIGHT_BYTES, &p.x, &full[s], k, 0);
    }
    return;
  }
  int group = (int)threadIdx.x / GROUP, lane = (int)threadIdx.x % 32;
  float sum[N / 2] = {}, d[N / 2] = {}, scale[N / 4]; /* d: of float8, a unit's */
  for (int i = begin; i < end; i++) {
    int s = (i - begin) % STAGES, turn = (i - begin) / STAGES;
    int tile = i / p.units_per_tile, tile_end = (tile + 1) * p.units_per_tile;
    if constexpr (BLOCKS) unit_scales<N, GROUPS>(p.g, scale, tile, i % p.units_per_tile);
    barrier_wait(&full[s], (uint32_t)turn & 1);
    uint64_t a = matrix_at(stages + s * STAGE + group * GROUP_BYTES);
    uint64_t b = matrix_at(stages + s * STAGE + WEIGHT_BYTES);
    if constexpr (FLOAT8)
      multiply_unit<T, N>(d, a, b);
    else
      multiply_unit<T, N>(sum, a, b);
    if (lane == 0) fk_barrier_arrive(&empty[s]);
    if constexpr (FLOAT8) {
#pragma unroll
      for (int r = 0; r < N / 2; r++) {
        sum[r] += BLOCKS ? d[r] * scale[r / 4 * 2 + r % 2] : d[r];
        d[r] = 0;
      }
    }
    if (i + 1 < tile_end && i + 1 < end) continue;
    if (begin <= tile * p.units_per_tile) {
      if (i + 1 < tile_end) collect<CONSUMERS>(p, sum, tile_end);
      if constexpr (!FLOAT8)
        write<T, GROUPS>(p.g, sum, tile);
      else if (p.g.out_type == FK_BF16)
        write<__nv_bfloat16, GROUPS>(p.g, sum, tile);
      else
        write<__half, GROUPS>(p.g, sum, tile);
    } else {
      leave<CONSUMERS>(p, sum);
    }
#pragma unroll
    for (int r = 0; r < N / 2; r++) sum[r] = 0;
  }
#endif
}

/* ---- Launching ------------------------------------------------------------------------------------------- */

static bool map_rows(CUtensorMap *map, fk_type type, const void *base, int64_t rows, int64_t depth, int64_t ld,
                     int box_rows) {
  typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                                CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  encode_fn encode = (encode_fn)fk_cuda_driver_function("cuTensorMapEncodeTiled");
  const cuuint64_t width = fk_type_bits(type) / 8;
  const cuuint64_t shape[2] = {(cuuint64_t)depth, (cuuint64_t)rows}, stride[1] = {(cuuint64_t)ld * width};
  const cuuint32_t box[2] = {LINE / (cuuint32_t)width, (cuuint32_t)box_rows}, step[2] = {1, 1};
  CUtensorMapDataType kind = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  if (type == FK_BF16) kind = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  if (type == FK_F16) kind = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  return encode && encode(map, kind, 2, (void *)base, shape, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                          CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                          CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <typename T, int N, int GROUPS, int STAGES, bool BLOCKS>
static fk_status stream_launch(fk_context *ctx, const fk_gemm_args *g, int ahead) {
  constexpr int CONSUMERS = GROUPS * GROUP, TILE = GROUPS * FEATURES, DEPTH = LINE / (int)sizeof(T);
  fk_cuda *cuda = fk_context_cuda(ctx);
  int64_t per_tile = fk_ceil_div(g->depth, DEPTH), units = fk_ceil_div(g->features, TILE) * per_tile;
  int blocks = (int)(units < cuda->num_sms ? units : cuda->num_sms);
  stream_args p = {};
  if (!map_rows(&p.weight, g->type, g->weight, g->features, g->depth, g->ldw, TILE) ||
      !map_rows(&p.x, g->type, g->x, g->rows, g->depth, g->ldx, N))
    return fk_fail(FK_ERROR_UNSUPPORTED, "linear: the driver describes no tensor loads of this shape");
  p.g = *g;
  p.partial = (float4 *)fk_scratch(ctx, (size_t)blocks * CONSUMERS * (N / 2) * sizeof(float));
  p.flags = fk_gemm_flags(cuda);
  if (!p.partial) return FK_ERROR_MEMORY;
  p.ahead = ahead;
  p.units = (int)units;
  p.units_per_tile = (int)per_tile;
  size_t shared = (size_t)STAGES * (GROUPS * GROUP_BYTES + N * LINE) + ALIGN;
  return fk_launch_early(ctx, linear_stream<T, N, GROUPS, STAGES, BLOCKS>, dim3((unsigned)blocks), dim3(CONSUMERS + 32),
                         shared, p);
}

/* Rows of 128 bytes that tensor loads can address. */
static inline bool stream_fits(const fk_cuda *cuda, const fk_gemm_args *g) {
  int64_t each = 128 / (int64_t)fk_type_bits(g->type);
  return cuda->compute_capability == 90 && g->rows <= 64 && (uintptr_t)g->x % 16 == 0 &&
         (uintptr_t)g->weight % 16 == 0 && g->ldx % each == 0 && g->ldw % each == 0 && g->ldw < (int64_t)1 << 35 &&
         g->features < 1 << 24 && g->depth < 1 << 20 && cuda->num_sms <= FK_GEMM_FLAGS && fk_gemm_flags(cuda);
}
