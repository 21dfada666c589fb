/* Up to 64 rows of 16-bit x on compute capability 9.0: every multiprocessor reads the same number of weight bytes.
 *
 * The product is cut into units: 128 features by 64 of depth, depth innermost. Block c of G takes units
 * [c U / G, (c + 1) U / G): the end of one tile of features, some whole tiles, the beginning of another. One warp feeds
 * a ring of stages in shared memory by tensor loads; two warpgroups multiply, weights as the 64-row operand and x as
 * the narrow one. A block that holds the beginning of a tile owns it: the blocks after it leave their sums of the rest
 * of the tile in memory and raise a flag, and the owner adds them to its own in the order of the blocks, so that the
 * result does not depend on timing. Owners lower the flags again, for the next launch.
 *
 * Every block is resident at once (G is at most the number of multiprocessors, and a dependent kernel starts only when
 * all blocks have), so an owner's wait ends. Facts on mbarrier, tensor loads and wgmma are from the PTX ISA manual. */
#include <cuda.h>

#include "linear.cuh"

enum {
  FEATURES = 64,                      /* of a tile for each warpgroup that multiplies */
  DEPTH = 64,                         /* of a unit: 128 bytes, one row of the swizzle */
  GROUP = 128,                        /* threads of a warpgroup */
  GROUP_BYTES = FEATURES * DEPTH * 2, /* of weights in a stage */
  ALIGN = 1024                        /* of a stage: the swizzle counts address bits */
};

typedef struct stream_args {
  CUtensorMap weight, x;
  const void *bias;
  void *out;
  float4 *partial; /* [block][register / 4][thread] */
  unsigned *flags; /* [block], zero between launches */
  int64_t ldo;
  int rows, features, units, units_per_tile;
  int ahead; /* units asked for before the previous kernel has ended */
} stream_args;

#if __CUDA_ARCH_FEAT_SM90_ALL

static __device__ __forceinline__ uint32_t address_of(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void barrier_init(uint64_t *b, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address_of(b)), "r"(count) : "memory");
}

static __device__ __forceinline__ void barrier_wait(uint64_t *b, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(address_of(b)),
      "r"(parity)
      : "memory");
}

static __device__ __forceinline__ void barrier_expect(uint64_t *b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address_of(b)), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint64_t *b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address_of(b)) : "memory");
}

static __device__ __forceinline__ void load_box(void *to, const CUtensorMap *map, uint64_t *b, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(address_of(to)),
      "l"(map), "r"(address_of(b)), "r"(column), "r"(row)
      : "memory");
}

/* Into L2 only: right also where the previous kernel still writes what is read. */
static __device__ __forceinline__ void prefetch_box(const CUtensorMap *map, int column, int row) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(map), "r"(column), "r"(row)
               : "memory");
}

/* Rows of 128 bytes along the product's depth, swizzled; 8 rows further is 1024 bytes further. */
static __device__ __forceinline__ uint64_t matrix_at(const void *p) {
  return (uint64_t)((address_of(p) & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
         (uint64_t)1 << 62;
}

#define R4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define MULTIPLY(N, TYPE, LIST, ...)                                                                        \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" LIST ", 1, 1, 1, 0, 0;" \
               : __VA_ARGS__                                                                                \
               : "l"(a), "l"(b))
#define L4 "%0, %1, %2, %3"
#define L8 L4 ", %4, %5, %6, %7"
#define L16 L8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define L32 L16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"

#define MULTIPLY_ALL(TYPE)                                              \
  if constexpr (N == 8)                                                 \
    MULTIPLY(8, TYPE, L4 "}, %4, %5", R4(0));                           \
  else if constexpr (N == 16)                                           \
    MULTIPLY(16, TYPE, L8 "}, %8, %9", R4(0), R4(4));                   \
  else if constexpr (N == 32)                                           \
    MULTIPLY(32, TYPE, L16 "}, %16, %17", R4(0), R4(4), R4(8), R4(12)); \
  else                                                                  \
    MULTIPLY(64, TYPE, L32 "}, %32, %33", R4(0), R4(4), R4(8), R4(12), R4(16), R4(20), R4(24), R4(28))

/* d [64, N] += a [64, 16] b [N, 16]^T. */
template <typename T, int N>
static __device__ __forceinline__ void multiply(float (&d)[N / 2], uint64_t a, uint64_t b) {
  if constexpr (std::is_same<T, __nv_bfloat16>::value) {
    MULTIPLY_ALL("bf16");
  } else {
    MULTIPLY_ALL("f16");
  }
}

template <int N>
static __device__ __forceinline__ void hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

template <int THREADS>
static __device__ __forceinline__ void consumers_meet() {
  asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory");
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

template <typename T, int GROUPS, int REGISTERS>
static __device__ __forceinline__ void write(const stream_args &p, const float (&d)[REGISTERS], int tile) {
  int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    int n = tile * GROUPS * FEATURES + warp * 16 + 8 * h + g;
    if (n >= p.features) continue;
    float bias = p.bias ? fk_float(((const T *)p.bias)[n]) : 0.0f;
#pragma unroll
    for (int j = 0; j < REGISTERS / 4; j++)
#pragma unroll
      for (int c = 0; c < 2; c++) {
        int m = 8 * j + 2 * t + c;
        if (m < p.rows) ((T *)p.out)[m * p.ldo + n] = fk_from<T>(d[4 * j + 2 * h + c] + bias);
      }
  }
}

#endif

/* N: rows of x, rounded up to a width of wgmma. STAGES: about 100 KB of shared memory, so that a block of the next
 * kernel fits beside this one and has its first weights brought into L2 while this one ends. */
template <typename T, int N, int GROUPS, int STAGES>
static __global__ void __launch_bounds__(GROUPS *GROUP + 32, 2) linear_stream(const __grid_constant__ stream_args p) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int CONSUMERS = GROUPS * GROUP, WEIGHT_BYTES = GROUPS * GROUP_BYTES, X_BYTES = N * DEPTH * 2;
  constexpr int STAGE = WEIGHT_BYTES + X_BYTES, TILE = GROUPS * FEATURES;
  extern __shared__ uint8_t raw[];
  __shared__ uint64_t full[STAGES], empty[STAGES];
  uint8_t *stages = raw + (ALIGN - address_of(raw) % ALIGN) % ALIGN;
  int begin = first_unit(p, (int)blockIdx.x), end = first_unit(p, (int)blockIdx.x + 1);
  if (threadIdx.x == CONSUMERS) {
    for (int i = begin; i < end && i < begin + p.ahead; i++)
      prefetch_box(&p.weight, i % p.units_per_tile * DEPTH, i / p.units_per_tile * TILE);
    for (int s = 0; s < STAGES; s++) {
      barrier_init(&full[s], 1);
      barrier_init(&empty[s], CONSUMERS / 32);
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
      barrier_expect(&full[s], STAGE);
      load_box(stages + s * STAGE, &p.weight, &full[s], k, i / p.units_per_tile * TILE);
      load_box(stages + s * STAGE + WEIGHT_BYTES, &p.x, &full[s], k, 0);
    }
    return;
  }
  int group = (int)threadIdx.x / GROUP, lane = (int)threadIdx.x % 32;
  float d[N / 2] = {};
  for (int i = begin; i < end; i++) {
    int s = (i - begin) % STAGES, turn = (i - begin) / STAGES;
    int tile = i / p.units_per_tile, tile_end = (tile + 1) * p.units_per_tile;
    barrier_wait(&full[s], (uint32_t)turn & 1);
    uint64_t a = matrix_at(stages + s * STAGE + group * GROUP_BYTES);
    uint64_t b = matrix_at(stages + s * STAGE + WEIGHT_BYTES);
    hold(d);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++) multiply<T, N>(d, a + 2 * k, b + 2 * k); /* 32 bytes, counted in sixteens */
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    hold(d);
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    hold(d);
    if (lane == 0) barrier_arrive(&empty[s]);
    if (i + 1 < tile_end && i + 1 < end) continue;
    if (begin <= tile * p.units_per_tile) {
      if (i + 1 < tile_end) collect<CONSUMERS>(p, d, tile_end);
      write<T, GROUPS>(p, d, tile);
    } else {
      leave<CONSUMERS>(p, d);
    }
#pragma unroll
    for (int r = 0; r < N / 2; r++) d[r] = 0;
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
  const cuuint64_t shape[2] = {(cuuint64_t)depth, (cuuint64_t)rows}, stride[1] = {(cuuint64_t)ld * 2};
  const cuuint32_t box[2] = {DEPTH, (cuuint32_t)box_rows}, step[2] = {1, 1};
  return encode &&
         encode(map, type == FK_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
                (void *)base, shape, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <typename T, int N, int GROUPS, int STAGES>
static fk_status launch(fk_context *ctx, const fk_gemm_args *g, int ahead) {
  constexpr int CONSUMERS = GROUPS * GROUP, TILE = GROUPS * FEATURES;
  fk_cuda *cuda = fk_context_cuda(ctx);
  int64_t per_tile = fk_ceil_div(g->depth, DEPTH), units = fk_ceil_div(g->features, TILE) * per_tile;
  int blocks = (int)(units < cuda->num_sms ? units : cuda->num_sms);
  stream_args p = {};
  if (!map_rows(&p.weight, g->type, g->weight, g->features, g->depth, g->ldw, TILE) ||
      !map_rows(&p.x, g->type, g->x, g->rows, g->depth, g->ldx, N))
    return fk_fail(FK_ERROR_UNSUPPORTED, "linear: the driver describes no tensor loads of this shape");
  p.bias = g->bias;
  p.out = g->out;
  p.partial = (float4 *)fk_scratch(ctx, (size_t)blocks * CONSUMERS * (N / 2) * sizeof(float));
  p.flags = fk_gemm_flags(cuda);
  if (!p.partial) return FK_ERROR_MEMORY;
  p.ldo = g->ldo;
  p.rows = (int)g->rows;
  p.features = (int)g->features;
  p.ahead = ahead;
  p.units = (int)units;
  p.units_per_tile = (int)per_tile;
  size_t shared = (size_t)STAGES * (GROUPS * GROUP_BYTES + N * DEPTH * 2) + ALIGN;
  return fk_launch_early(ctx, linear_stream<T, N, GROUPS, STAGES>, dim3((unsigned)blocks), dim3(CONSUMERS + 32), shared,
                         p);
}

template <typename T>
static fk_status dispatch(fk_context *ctx, const fk_gemm_args *g, int groups, int ahead) {
  if (groups == 1) {
    if (g->rows <= 8) return launch<T, 8, 1, 11>(ctx, g, ahead);
    if (g->rows <= 16) return launch<T, 16, 1, 10>(ctx, g, ahead);
    if (g->rows <= 32) return launch<T, 32, 1, 8>(ctx, g, ahead);
    return launch<T, 64, 1, 6>(ctx, g, ahead);
  }
  if (g->rows <= 8) return launch<T, 8, 2, 6>(ctx, g, ahead);
  if (g->rows <= 16) return launch<T, 16, 2, 6>(ctx, g, ahead);
  if (g->rows <= 32) return launch<T, 32, 2, 5>(ctx, g, ahead);
  return launch<T, 64, 2, 4>(ctx, g, ahead);
}

int fk_linear_stream_fit(const fk_cuda *cuda, const fk_gemm_args *g) {
  return cuda->compute_capability == 90 && (g->type == FK_BF16 || g->type == FK_F16) && g->rows <= 64 &&
         (uintptr_t)g->x % 16 == 0 && (uintptr_t)g->weight % 16 == 0 && g->ldx % 8 == 0 && g->ldw % 8 == 0 &&
         g->ldw < (int64_t)1 << 35 && g->features < 1 << 24 && g->depth < 1 << 20 && cuda->num_sms <= FK_GEMM_FLAGS &&
         fk_gemm_flags(cuda);
}

fk_status fk_linear_stream(fk_context *ctx, const fk_gemm_args *g, int groups, int ahead) {
  return g->type == FK_BF16 ? dispatch<__nv_bfloat16>(ctx, g, groups, ahead) : dispatch<__half>(ctx, g, groups, ahead);
}
