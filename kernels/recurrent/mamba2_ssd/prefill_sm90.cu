/* Long sequences on compute capability 9.0, for states of 128 columns: the sums of prefill.cu in chunks of 64 tokens,
 * by warps with roles. One warp fetches chunks by tensor loads and makes their time steps. One warpgroup carries the
 * state from chunk to chunk and shows each to the others. Two warpgroups compute the outputs of every other chunk. So
 * only the state waits for the state: scores and weights of a chunk are computed beside it.
 *
 * Rows of a tile beyond the sequence's end belong to other sequences: their time step is zero, and what is computed for
 * them is not stored. */
#include <cuda.h>
#include <cudaTypedefs.h>

#include "prefill.h"
#include "prefill_sm90.cuh"

enum {
  TOKENS = 64,
  STAGES = 3,
  SLAB = TOKENS * 128, /* bytes of 64 rows of 64 columns */
  STAGE = 5 * SLAB,    /* x, two slabs of B, two of C */
  STATE = 4 * SLAB,    /* two slabs, in two parts */
  ROLE_THREADS = 4 * 128
};

typedef struct role_shared { /* behind the tiles */
  chunk_steps steps[STAGES];
  uint64_t full[STAGES], empty[STAGES], state_full[2], state_empty[2];
  int bad; /* something was not finite */
} role_shared;

static constexpr int ROLE_BYTES = 1024 + STAGES * STAGE + 2 * STATE + (int)sizeof(role_shared);

typedef struct role_maps {
  CUtensorMap x, b, c;
} role_maps;

#if __CUDA_ARCH_FEAT_SM90_ALL

/* ---- Barriers in shared memory and tensor loads ------------------------------------------------------------ */

static __device__ __forceinline__ uint32_t shared_of(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void barrier_init(uint64_t *barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_of(barrier)), "r"(arrivals) : "memory");
}

/* Until use number `use` of what the barrier guards is complete. */
static __device__ __forceinline__ void barrier_wait(uint64_t *barrier, int use) {
  uint32_t done = 0;
  for (int tries = 0; !done && tries < 1 << 16; tries++)
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(shared_of(barrier)), "r"(use & 1)
        : "memory");
  __syncwarp();
}

static __device__ __forceinline__ void barrier_arrive(uint64_t *barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}\n" ::"r"(shared_of(barrier))
               : "memory");
}

static __device__ __forceinline__ void barrier_expect(uint64_t *barrier, uint32_t bytes) {
  asm volatile(
      "{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}\n" ::"r"(shared_of(barrier)),
      "r"(bytes)
      : "memory");
}

/* A warp is done with something: its lanes' accesses come before what others do to it, by tensor loads too. */
static __device__ __forceinline__ void release(uint64_t *barrier, int lane) {
  show_to_products();
  __syncwarp();
  if (lane == 0) barrier_arrive(barrier);
}

static __device__ __forceinline__ void load_slab(uint32_t to, const CUtensorMap *map, uint64_t *barrier, int column,
                                                 int token, int head) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(map), "r"(shared_of(barrier)), "r"(column), "r"(token), "r"(head)
      : "memory");
}

/* Registers of a warpgroup, from the 128 that every thread begins with. */
template <int COUNT, bool MORE>
static __device__ __forceinline__ void set_registers(void) {
  if (MORE)
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
  else
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

/* ---- Roles ------------------------------------------------------------------------------------------------- */

typedef struct role_place {
  char *tiles;
  uint32_t base; /* of tiles */
  role_shared *shared;
  int chunks;
} role_place;

template <typename T>
static __device__ __forceinline__ void produce(const ssd_job &j, const block_work &w, const role_maps &maps,
                                               const role_place &p) {
  int lane = threadIdx.x % 32, group = w.head / j.heads_per_group;
  for (int c = 0; c < p.chunks; c++) {
    int s = c % STAGES, token = (int)w.q.first + c * TOKENS;
    uint32_t to = p.base + s * STAGE;
    uint64_t *full = &p.shared->full[s];
    T raw[2];
    fetch_steps<T, 2>(j, w, c * TOKENS, raw);
    if (c >= STAGES) barrier_wait(&p.shared->empty[s], c / STAGES - 1);
    if (lane == 0) {
      barrier_expect(full, STAGE);
      load_slab(to, &maps.x, full, w.row, token, w.head);
      load_slab(to + SLAB, &maps.b, full, 0, token, group);
      load_slab(to + 2 * SLAB, &maps.b, full, 64, token, group);
      load_slab(to + 3 * SLAB, &maps.c, full, 0, token, group);
      load_slab(to + 4 * SLAB, &maps.c, full, 64, token, group);
    }
    __syncwarp();
    make_steps<T, 2>(j, w, c * TOKENS, raw, &p.shared->steps[s]);
    __syncwarp();
    if (lane == 0) barrier_arrive(full);
  }
}

/* Carries the state; warp w of four has rows 16 w on. Yields 0, or NaN when the state was not finite. */
template <typename T>
static __device__ __forceinline__ float carry(const ssd_job &j, const block_work &w, const role_place &p,
                                              float (&h)[2][8][4]) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  float nothing = 0;
  for (int c = 0; c < p.chunks; c++) {
    int s = c % STAGES, slot = c % 2;
    uint32_t stage = p.base + s * STAGE;
    const chunk_steps *steps = &p.shared->steps[s];
    if (c >= 2) barrier_wait(&p.shared->state_empty[slot], c / 2 - 1);
    nothing += share_rows<T>(p.tiles + STAGES * STAGE + slot * STATE, warp, lane, h);
    release(&p.shared->state_full[slot], lane);
    barrier_wait(&p.shared->full[s], c / STAGES);
    float all = steps->decay * steps->scale;
#pragma unroll
    for (int g = 0; g < 2; g++)
#pragma unroll
      for (int n = 0; n < 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) h[g][n][i] *= all;
    uint32_t coarse[4][4], fine[4][4];
    scale_inputs<T, TOKENS>(stage, steps, 0, lane, coarse, fine);
    settle(h[0]), settle(h[1]), settle(coarse), settle(fine);
    begin_products();
    products_of_parts<T>(h[0], coarse, fine, stage + SLAB);
    products_of_parts<T>(h[1], coarse, fine, stage + 2 * SLAB);
    end_products();
    wait_products<0>();
    settle(h[0]), settle(h[1]);
    unscale<T, 128>(steps, h[0]);
    unscale<T, 128>(steps, h[1]);
    release(&p.shared->empty[s], lane);
  }
#pragma unroll
  for (int g = 0; g < 2; g++)
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) nothing = fmaf(h[g][n][i], 0, nothing);
  return nothing;
}

/* Outputs of chunks group, group + 2, ... Yields 0, or NaN when something was not finite. */
template <typename T>
static __device__ __forceinline__ float put_out(const ssd_job &j, const block_work &w, const role_place &p, int group) {
  int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16;
  float nothing = 0, skip = j.D ? fk_float(((const T *)j.D)[w.head]) : 0;
  uint32_t state = p.base + STAGES * STAGE + group * STATE;
  for (int chunk = group; chunk < p.chunks; chunk += 2) {
    int s = chunk % STAGES;
    uint32_t stage = p.base + s * STAGE, c[8][4], coarse[4][4], fine[4][4];
    const chunk_steps *steps = &p.shared->steps[s];
    float score[8][4], y[8][4];
    barrier_wait(&p.shared->full[s], chunk / STAGES);
#pragma unroll
    for (int k = 0; k < 8; k++) load_left<TOKENS>(c[k], stage + 3 * SLAB, row, k * 16, lane);
    begin_products();
    products_of_c<T>(score, c, stage + SLAB, SLAB, 0);
    end_products();
    barrier_wait(&p.shared->state_full[group], chunk / 2);
    begin_products();
    products_of_c<T>(y, c, state, SLAB, 0);
    products_of_c<T>(y, c, state + 2 * SLAB, SLAB, 1);
    end_products();
    float before[2] = {steps->before[row + lane / 4], steps->before[row + lane / 4 + 8]};
    float decay[2] = {power_of_two(before[0]), power_of_two(before[1])};
    wait_products<1>();
    settle(score);
    weigh_slab<T, true>(score, steps, 0, before, skip, lane, coarse, fine);
    wait_products<0>();
    settle(y);
    release(&p.shared->state_empty[group], lane);
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) y[n][i] *= decay[i / 2];
    settle(y), settle(coarse), settle(fine);
    begin_products();
    products_of_parts<T>(y, coarse, fine, stage);
    end_products();
    wait_products<0>();
    settle(y);
    char *c_tile = p.tiles + s * STAGE + 3 * SLAB;
    nothing += store_outputs<T, TOKENS>(j, w, c_tile, chunk * TOKENS, row, lane, y);
    release(&p.shared->empty[s], lane);
  }
  return nothing;
}

/* ---- The kernel --------------------------------------------------------------------------------------------- */

/* Where this lane's part of the state lies: half i of fragment n of slab g is at g * 64 + n * 8 + i * 8 * 128. */
static __device__ __forceinline__ float *state_rows(const ssd_job &j, const block_work &w, int lane) {
  int row = w.row + threadIdx.x / 32 % 4 * 16 + lane / 4;
  return j.state + ((w.q.slot * j.heads + w.head) * j.dim + row) * (int64_t)128 + lane % 4 * 2;
}

static __device__ __forceinline__ void read_state(const float *state, bool exists, float (&h)[2][8][4]) {
#pragma unroll
  for (int g = 0; g < 2; g++)
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float2 v = exists ? *(const float2 *)(state + g * 64 + n * 8 + i * 1024) : make_float2(0, 0);
        h[g][n][2 * i] = v.x, h[g][n][2 * i + 1] = v.y;
      }
}

static __device__ __forceinline__ void write_state(float *state, const float (&h)[2][8][4]) {
#pragma unroll
  for (int g = 0; g < 2; g++)
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int i = 0; i < 2; i++)
        *(float2 *)(state + g * 64 + n * 8 + i * 1024) = make_float2(h[g][n][2 * i], h[g][n][2 * i + 1]);
}

/* Whether what all three warpgroups computed is finite; nothing is 0, or NaN. */
static __device__ __forceinline__ bool all_finite(const role_place &p, float nothing) {
  if (nothing != 0) *(volatile int *)&p.shared->bad = 1;
  asm volatile("bar.sync 1, 384;" ::: "memory");
  return *(volatile int *)&p.shared->bad == 0;
}

static __device__ __forceinline__ void init_barriers(role_shared *shared) {
  shared->bad = 0;
  for (int s = 0; s < STAGES; s++) barrier_init(&shared->full[s], 2), barrier_init(&shared->empty[s], 8);
  for (int s = 0; s < 2; s++) barrier_init(&shared->state_full[s], 4), barrier_init(&shared->state_empty[s], 4);
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  show_to_products();
}

#endif

template <typename T>
static __global__ void __launch_bounds__(ROLE_THREADS, 1)
    ssd_roles(const __grid_constant__ ssd_job j, const __grid_constant__ role_maps maps, int shortest, bool every) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ char raw_shared[];
  role_place p;
  p.tiles = raw_shared + (1024 - shared_of(raw_shared) % 1024) % 1024;
  p.base = shared_of(p.tiles);
  p.shared = (role_shared *)(p.tiles + STAGES * STAGE + 2 * STATE);
  int warp = __shfl_sync(0xffffffffu, (int)threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  if (threadIdx.x == 0) init_barriers(p.shared);
  fk_wait_previous();
  fk_let_next_start();
  block_work w;
  if (!find_work(j, shortest, every, &w)) return;
  p.chunks = (w.q.tokens + TOKENS - 1) / TOKENS;
  __syncthreads();
  if (warp >= 12) {
    set_registers<56, false>();
    if (warp == 12) produce<T>(j, w, maps, p);
  } else if (warp >= 8) {
    set_registers<152, true>();
    float h[2][8][4];
    read_state(state_rows(j, w, lane), w.q.has_initial_state, h);
    if (all_finite(p, carry<T>(j, w, p, h))) write_state(state_rows(j, w, lane), h);
  } else {
    set_registers<152, true>();
    if (!all_finite(p, put_out<T>(j, w, p, warp / 4))) scan_rows<T, 32, 1, true>(j, w.q, w.head, w.row + warp * 8);
  }
#endif
}

/* Rows of 64 elements of a [tokens][heads][columns] tensor; zeros beyond its end. */
static bool make_map(CUtensorMap *map, fk_type type, const void *data, int64_t columns, int64_t tokens, int64_t heads,
                     int64_t token_stride, int64_t head_stride) {
  PFN_cuTensorMapEncodeTiled_v12000 encode =
      (PFN_cuTensorMapEncodeTiled_v12000)fk_cuda_driver_function("cuTensorMapEncodeTiled");
  cuuint64_t sizes[3] = {(cuuint64_t)columns, (cuuint64_t)tokens, (cuuint64_t)heads};
  cuuint64_t strides[2] = {(cuuint64_t)(tokens > 1 ? token_stride : 64) * 2,
                           (cuuint64_t)(heads > 1 ? head_stride : 64) * 2};
  cuuint32_t box[3] = {64, TOKENS, 1}, steps[3] = {1, 1, 1};
  return encode && encode(map, type == FK_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3,
                          (void *)(uintptr_t)data, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                          CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                          CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool ssd_prefill_sm90_fits(fk_context *ctx, const ssd_job *j) {
  return fk_context_cuda(ctx)->compute_capability == 90 && j->size == 128 && j->num_tokens <= INT32_MAX - TOKENS;
}

fk_status ssd_prefill_sm90(fk_context *ctx, const ssd_job *j, fk_type type, int64_t blocks, int shortest, bool every) {
  role_maps maps;
  if (!make_map(&maps.x, type, j->x, j->dim, j->num_tokens, j->heads, j->x_token, j->x_head) ||
      !make_map(&maps.b, type, j->B, j->size, j->num_tokens, j->groups, j->b_token, j->b_group) ||
      !make_map(&maps.c, type, j->C, j->size, j->num_tokens, j->groups, j->c_token, j->c_group))
    return fk_fail(FK_ERROR_KERNEL, "mamba2_ssd: the driver refused the layout of x, B or C");
  dim3 grid((unsigned)blocks), block(ROLE_THREADS);
  if (type == FK_F16)
    return fk_launch_early(ctx, ssd_roles<__half>, grid, block, ROLE_BYTES, *j, maps, shortest, every);
  return fk_launch_early(ctx, ssd_roles<__nv_bfloat16>, grid, block, ROLE_BYTES, *j, maps, shortest, every);
}
