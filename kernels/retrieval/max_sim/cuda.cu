/* max_sim on the GPU: a block per document and query. Its warps share out the tokens of the document; a query goes by
 * in groups of 32 tokens. 16-bit tokens of usual dimensions go through the tensor cores (the query's fragments lie in
 * shared memory, the document's come straight from memory), all others through tiles in shared memory. */
#include "device/cuda/mma.cuh"
#include "tasks/max_sim.h"

enum { GROUP = 32, WARPS = 4, THREADS = 32 * WARPS, DEPTH = 32 };

typedef struct max_sim_args {
  const void *q, *d;
  const int32_t *offsets;
  const uint8_t *mask;
  float *scores;
  int64_t num_queries, query_len, num_doc_tokens, num_docs, dim;
  int64_t q_outer, q_row, d_row, scores_row;
  fk_index_check check;
} max_sim_args;

/* What a query token scores where a document shows no token. */
static constexpr float nothing = -9999;

/* A NaN is kept once it is there: no number is above it. */
static __device__ __forceinline__ float best_of(float best, float s) {
  return s > best || s != s ? s : best;
}

/* The tokens of document j; false when the offsets are wrong. */
static __device__ bool document(const max_sim_args &a, int64_t j, int64_t *start, int64_t *end) {
  *start = a.offsets[j], *end = a.offsets[j + 1];
  bool ok = fk_index_ok(a.check, *start, j == 0 ? 1 : a.num_doc_tokens + 1);
  ok = ok && fk_index_ok(a.check, *end - *start, a.num_doc_tokens - *start + 1);
  return ok && (j + 1 < a.num_docs || fk_index_ok(a.check, a.num_doc_tokens - *end, 1));
}

static __device__ __forceinline__ bool visible(const max_sim_args &a, int64_t token, int64_t end) {
  return token < end && (!a.mask || a.mask[token]);
}

/* Adds a group's maxima, [WARPS][GROUP] in shared memory, in order. Called by thread 0. */
static __device__ double sum_of_group(const float (*best)[GROUP], int64_t tokens) {
  double sum = 0;
  for (int t = 0; t < GROUP && t < tokens; t++) {
    float b = best[0][t];
    for (int w = 1; w < WARPS; w++) b = best_of(b, best[w][t]);
    sum += (double)b;
  }
  return sum;
}

/* ---- Any type and dimension ------------------------------------------------------------------------------- */

enum { TILE = 64 };

/* Chunks of rows as columns, [DEPTH][rows] in shared memory. Groups of four rows change places with the depth, so that
 * neither writing along the depth nor reading along the rows meets a bank twice. */
static __device__ __forceinline__ int place(int k, int row, int rows) {
  return k * rows + (row ^ k / 4 % 8 * 4);
}

typedef struct four {
  float at[4];
} four;

/* Elements k to k + 3 of a row, 0 beyond its end. aligned: four at once can be read. */
template <typename T>
static __device__ __forceinline__ four load_four(const T *row, int64_t k, int64_t dim, bool exists, bool aligned) {
  four v = {};
  if (!exists) return v;
  if (aligned && k + 4 <= dim) {
    struct alignas(4 * sizeof(T)) span {
      T at[4];
    } raw = *reinterpret_cast<const span *>(row + k);
#pragma unroll
    for (int i = 0; i < 4; i++) v.at[i] = fk_float(raw.at[i]);
  } else {
    for (int i = 0; i < 4; i++)
      if (k + i < dim) v.at[i] = fk_float(row[k + i]);
  }
  return v;
}

/* ROWS / 16 quarters of rows per thread: a chunk of ROWS rows, of which `valid` exist. */
template <typename T, int ROWS>
static __device__ __forceinline__ void load_chunk(const T *rows, int64_t stride, int64_t valid, int64_t k, int64_t dim,
                                                  bool aligned, four (&v)[ROWS / 16]) {
#pragma unroll
  for (int i = 0; i < ROWS / 16; i++) {
    int row = i * 16 + (int)threadIdx.x / 8;
    v[i] = load_four(rows + row * stride, k + threadIdx.x % 8 * 4, dim, row < valid, aligned);
  }
}

template <int ROWS>
static __device__ __forceinline__ void store_chunk(const four (&v)[ROWS / 16], float *to) {
#pragma unroll
  for (int i = 0; i < ROWS / 16; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) to[place(threadIdx.x % 8 * 4 + j, i * 16 + threadIdx.x / 8, ROWS)] = v[i].at[j];
}

static __device__ __forceinline__ void multiply_chunk(const float *q, const float *d, int mine, int theirs,
                                                      float (&s)[4][4]) {
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    float4 x = *reinterpret_cast<const float4 *>(q + place(k, mine * 4, GROUP));
    float4 y = *reinterpret_cast<const float4 *>(d + place(k, theirs * 4, TILE));
    float a[4] = {x.x, x.y, x.z, x.w}, b[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) s[i][j] = fmaf(a[i], b[j], s[i][j]);
  }
}

/* A thread has four query tokens and four document tokens of a tile. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) max_sim_tiled(const __grid_constant__ max_sim_args a, bool aligned) {
  __shared__ alignas(16) float q[DEPTH * GROUP], d[DEPTH * TILE];
  __shared__ float best[WARPS][GROUP];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, mine = lane % 8, theirs = threadIdx.x / 8;
  int64_t doc = blockIdx.x % (unsigned)a.num_docs, query = blockIdx.x / (unsigned)a.num_docs, start, end;
  fk_wait_previous();
  if (!document(a, doc, &start, &end)) return;
  double sum = 0;
  bool seen = false;
  for (int64_t group = 0; group < a.query_len; group += GROUP) {
    const T *from = (const T *)a.q + query * a.q_outer + group * a.q_row;
    float top[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    seen = false;
    for (int64_t first = start; first < end; first += TILE) {
      const T *tokens = (const T *)a.d + first * a.d_row;
      four next_q[GROUP / 16], next_d[TILE / 16];
      float s[4][4] = {};
      load_chunk<T, GROUP>(from, a.q_row, a.query_len - group, 0, a.dim, aligned, next_q);
      load_chunk<T, TILE>(tokens, a.d_row, end - first, 0, a.dim, aligned, next_d);
      for (int64_t k = 0; k < a.dim; k += DEPTH) {
        __syncthreads();
        store_chunk<GROUP>(next_q, q);
        store_chunk<TILE>(next_d, d);
        __syncthreads();
        if (k + DEPTH < a.dim) { /* travels while this chunk is multiplied */
          load_chunk<T, GROUP>(from, a.q_row, a.query_len - group, k + DEPTH, a.dim, aligned, next_q);
          load_chunk<T, TILE>(tokens, a.d_row, end - first, k + DEPTH, a.dim, aligned, next_d);
        }
        multiply_chunk(q, d, mine, theirs, s);
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        if (!visible(a, first + theirs * 4 + j, end)) continue;
        seen = true;
#pragma unroll
        for (int i = 0; i < 4; i++) top[i] = best_of(top[i], s[i][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      top[i] = best_of(top[i], __shfl_xor_sync(0xffffffffu, top[i], 8));
      top[i] = best_of(top[i], __shfl_xor_sync(0xffffffffu, top[i], 16));
      if (lane < 8) best[warp][lane * 4 + i] = top[i];
    }
    seen = __syncthreads_or(seen);
    if (threadIdx.x == 0) sum += sum_of_group(best, a.query_len - group);
    __syncthreads();
  }
  if (threadIdx.x > 0) return;
  if (!seen) sum = (double)nothing * (double)a.query_len;
  a.scores[query * a.scores_row + doc] = (float)sum;
}

/* ---- Tensor cores ------------------------------------------------------------------------------------------ */

/* 8 neighbouring elements of a row, zeros when the row does not exist. The product does not care in which order the
 * dimensions come, as long as both sides agree: lane c of four takes dimensions 8 c to 8 c + 7 of each 32, where the
 * fragment's layout would have it take pairs. */
template <typename T>
static __device__ __forceinline__ uint4 eight(const T *row, int block, int lane, bool exists) {
  if (!exists) return make_uint4(0, 0, 0, 0);
  return *reinterpret_cast<const uint4 *>(row + block * 32 + lane % 4 * 8);
}

/* The tokens `first` to first + 15 of a document: two fragments of 8. */
template <typename T, int BLOCKS>
static __device__ __forceinline__ void load_tokens(const max_sim_args &a, int64_t first, int64_t end,
                                                   uint4 (&d)[2][BLOCKS]) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int t = 0; t < 2; t++) {
    int64_t token = first + 8 * t + lane / 4;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) d[t][b] = eight((const T *)a.d + token * a.d_row, b, lane, token < end);
  }
}

/* Raises the maxima of query tokens lane / 4 + 8 i by 16 document tokens; true when one of them is shown. */
template <typename T, int BLOCKS>
static __device__ __forceinline__ bool meet(const max_sim_args &a, const uint4 (*q)[BLOCKS][32],
                                            const uint4 (&d)[2][BLOCKS], int64_t first, int64_t end, float (&top)[4]) {
  int lane = threadIdx.x % 32;
  float s[2][2][4] = {}; /* of document fragment, query tile */
#pragma unroll
  for (int b = 0; b < BLOCKS; b++)
#pragma unroll
    for (int m = 0; m < 2; m++) {
      uint4 low = q[2 * m][b][lane], high = q[2 * m + 1][b][lane];
      uint32_t one[4] = {low.x, high.x, low.y, high.y}, two[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
      for (int t = 0; t < 2; t++) {
        fk_mma<T>(s[t][m], one, d[t][b].x, d[t][b].y);
        fk_mma<T>(s[t][m], two, d[t][b].z, d[t][b].w);
      }
    }
  bool seen = false;
#pragma unroll
  for (int t = 0; t < 2; t++)
#pragma unroll
    for (int n = 0; n < 2; n++) {
      if (!visible(a, first + 8 * t + lane % 4 * 2 + n, end)) continue;
      seen = true;
#pragma unroll
      for (int i = 0; i < 4; i++) top[i] = best_of(top[i], s[t][i / 2][i % 2 * 2 + n]);
    }
  return seen;
}

/* BLOCKS: the dimension is 32 * BLOCKS. A warp has 16 tokens of the document at a time, the next 16 under way. */
template <typename T, int BLOCKS>
static __global__ void __launch_bounds__(THREADS, 4) max_sim_tensor(const __grid_constant__ max_sim_args a) {
  __shared__ uint4 q[4][BLOCKS][32]; /* fragments of query tokens lane / 4 + 8 i */
  __shared__ float best[WARPS][GROUP];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int64_t doc = blockIdx.x % (unsigned)a.num_docs, query = blockIdx.x / (unsigned)a.num_docs, start, end;
  fk_wait_previous();
  if (!document(a, doc, &start, &end)) return;
  double sum = 0;
  bool seen = false;
  for (int64_t group = 0; group < a.query_len; group += GROUP) {
    uint4 d[2][BLOCKS];
    load_tokens<T, BLOCKS>(a, start + warp * 16, end, d);
    int64_t t = group + lane / 4 + 8 * warp;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
      q[warp][b][lane] = eight((const T *)a.q + query * a.q_outer + t * a.q_row, b, lane, t < a.query_len);
    __syncthreads();
    float top[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    seen = false;
    for (int64_t first = start + warp * 16; first < end; first += 16 * WARPS) {
      uint4 now[2][BLOCKS];
#pragma unroll
      for (int i = 0; i < 2 * BLOCKS; i++) now[i / BLOCKS][i % BLOCKS] = d[i / BLOCKS][i % BLOCKS];
      if (first + 16 * WARPS < end) load_tokens<T, BLOCKS>(a, first + 16 * WARPS, end, d);
      seen |= meet<T, BLOCKS>(a, q, now, first, end, top);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      top[i] = best_of(top[i], __shfl_xor_sync(0xffffffffu, top[i], 1));
      top[i] = best_of(top[i], __shfl_xor_sync(0xffffffffu, top[i], 2));
      if (lane % 4 == 0) best[warp][lane / 4 + 8 * i] = top[i];
    }
    seen = __syncthreads_or(seen);
    if (threadIdx.x == 0) sum += sum_of_group(best, a.query_len - group);
    __syncthreads();
  }
  if (threadIdx.x > 0) return;
  if (!seen) sum = (double)nothing * (double)a.query_len;
  a.scores[query * a.scores_row + doc] = (float)sum;
}

template <typename T>
static fk_status launch(fk_context *ctx, const max_sim_args &a) {
  dim3 grid((unsigned)(a.num_queries * a.num_docs)), block(THREADS);
  bool packed = ((uintptr_t)a.q | (uintptr_t)a.d) % 16 == 0 && (a.q_outer | a.q_row | a.d_row) % 8 == 0;
  if constexpr (sizeof(T) == 2) {
    if (packed && a.dim == 128) return fk_launch_early(ctx, max_sim_tensor<T, 4>, grid, block, 0, a);
    if (packed && a.dim == 96) return fk_launch_early(ctx, max_sim_tensor<T, 3>, grid, block, 0, a);
    if (packed && a.dim == 64) return fk_launch_early(ctx, max_sim_tensor<T, 2>, grid, block, 0, a);
    if (packed && a.dim == 32) return fk_launch_early(ctx, max_sim_tensor<T, 1>, grid, block, 0, a);
  }
  bool aligned = ((uintptr_t)a.q | (uintptr_t)a.d) % (4 * sizeof(T)) == 0 && (a.q_outer | a.q_row | a.d_row) % 4 == 0;
  return fk_launch_early(ctx, max_sim_tiled<T>, grid, block, 0, a, aligned);
}

fk_status fk_cuda_max_sim(fk_context *ctx, const fk_max_sim_args *t) {
  max_sim_args a = {};
  a.num_queries = fk_size(t->q, 0), a.query_len = fk_size(t->q, 1), a.dim = fk_size(t->q, 2);
  a.num_doc_tokens = fk_size(t->d, 0), a.num_docs = fk_size(t->scores, 1);
  if (a.num_queries == 0 || a.num_docs == 0) return FK_OK;
  if (a.num_queries * a.num_docs > INT32_MAX)
    return fk_fail(FK_ERROR_UNSUPPORTED, "max_sim: cuda: %lld queries and %lld documents are too many",
                   (long long)a.num_queries, (long long)a.num_docs);
  a.q = fk_data(t->q), a.d = fk_data(t->d);
  a.offsets = (const int32_t *)fk_data(t->cu_seqlens_d);
  if (t->doc_mask) a.mask = (const uint8_t *)fk_data(t->doc_mask);
  a.scores = (float *)fk_data(t->scores);
  a.q_outer = fk_stride(t->q, 0), a.q_row = fk_stride(t->q, 1), a.d_row = fk_stride(t->d, 0);
  a.scores_row = fk_stride(t->scores, 0);
  a.check = fk_index_checker(ctx, "max_sim: cu_seqlens_d");
  FK_FLOAT_DISPATCH(fk_type_of(t->q), T, return launch<T>(ctx, a));
}
