/* embedding_bag on the GPU: a group of lanes, one per pack of a row, takes a run of bags and reads their values as one
 * stream, several rows in flight whatever the bags' lengths. Where bags are long and few, groups share a bag: each
 * takes every so many-th step of its values, and one adds up their sums in a fixed order.
 *
 * Offsets and values may be wrong: offsets are clamped to the values there are, values outside the table are left out;
 * both are reported. */
#include "device/cuda/kernel.cuh"
#include "tasks/embedding_bag.h"

enum { THREADS = 256, STEP = 8 };

typedef struct bag_job {
  const void *values, *offsets, *factors, *weight;
  void *out;
  bool wide_values, wide_offsets, mean;
  int64_t num_bags, num_indices, num_embeddings, weight_stride, out_stride;
  int dim, packs;       /* of a row */
  int lanes, log_lanes; /* of a group, a power of two up to 32 */
  int bags;             /* that a group takes */
  int split;            /* groups that share a bag, a power of two; then bags is 1 */
  fk_index_check value_check, offset_check, count_check;
} bag_job;

static __device__ __forceinline__ int64_t int_at(const void *p, bool wide, int64_t i) {
  return wide ? ((const int64_t *)p)[i] : (int64_t)((const int32_t *)p)[i];
}

/* Where bag b begins, or the values end; never before least nor beyond the values. What was wrong is found again by
 * report: here it costs a flag. */
static __device__ __forceinline__ int64_t offset_at(const bag_job &j, int64_t b, int64_t least, bool &bad) {
  int64_t at = int_at(j.offsets, j.wide_offsets, b);
  bad = bad || at < least || at > j.num_indices || (b == 0 && at != 0) || (b == j.num_bags && at != j.num_indices);
  return at < least ? least : at > j.num_indices ? j.num_indices : at;
}

/* Says what is wrong with bags [bag, last). An offset beyond the next one is reported against that one. */
static __device__ void report(const bag_job &j, int64_t bag, int64_t last) {
  for (; bag < last; bag++) {
    int64_t start = int_at(j.offsets, j.wide_offsets, bag), end = int_at(j.offsets, j.wide_offsets, bag + 1);
    bool ok = fk_index_ok(j.offset_check, end, j.num_indices + 1) && fk_index_ok(j.offset_check, start, end + 1);
    if (bag == 0) ok = fk_index_ok(j.offset_check, start, 1) && ok;
    if (bag + 1 == j.num_bags) ok = fk_index_ok(j.count_check, j.num_indices, end + 1) && ok;
    for (int64_t i = start; ok && i < end; i++)
      ok = fk_index_ok(j.value_check, int_at(j.values, j.wide_values, i), j.num_embeddings);
  }
}

/* Rows wait as they came, in words: widened early they would take twice the registers. */
template <typename T>
static __device__ __forceinline__ void add_row(float *sum, const uint4 &row, float factor) {
  const uint32_t word[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if constexpr (std::is_same<T, float>::value) {
      sum[i] += factor * __uint_as_float(word[i]);
    } else if constexpr (std::is_same<T, __nv_bfloat16>::value) {
      sum[2 * i] += factor * __uint_as_float(word[i] << 16);
      sum[2 * i + 1] += factor * __uint_as_float(word[i] & 0xffff0000u);
    } else {
      float2 x = __half22float2(*reinterpret_cast<const __half2 *>(&word[i]));
      sum[2 * i] += factor * x.x;
      sum[2 * i + 1] += factor * x.y;
    }
  }
}

template <typename T>
static __device__ __forceinline__ void store_bag(const bag_job &j, int64_t bag, int column, int64_t count, float *sum) {
  fk_pack<T> v;
#pragma unroll
  for (int i = 0; i < fk_pack<T>::size; i++) {
    v.at[i] = fk_from<T>(j.mean && count > 1 ? sum[i] / (float)count : sum[i]);
    sum[i] = 0;
  }
  fk_store_pack((T *)j.out + bag * j.out_stride + column, v);
}

/* One step of a stream: the rows of values first to first + STEP, as far as they are before end; -1: none. */
template <typename T, bool WEIGHTED>
struct step {
  int row[STEP];
  float factor[STEP];
};

template <typename T, bool WEIGHTED>
static __device__ __forceinline__ void fetch_values(const bag_job &j, int64_t first, int64_t end, step<T, WEIGHTED> &s,
                                                    bool &bad) {
#pragma unroll
  for (int u = 0; u < STEP; u++) {
    bool given = first + u < end;
    int64_t value = given ? int_at(j.values, j.wide_values, first + u) : 0;
    bool ok = (uint64_t)value < (uint64_t)j.num_embeddings;
    bad = bad || (given && !ok);
    s.row[u] = given && ok ? (int)value : -1;
    if (WEIGHTED) s.factor[u] = given ? fk_float(((const T *)j.factors)[first + u]) : 0;
  }
}

template <typename T, bool WEIGHTED>
static __device__ __forceinline__ void fetch_rows(const bag_job &j, int column, const step<T, WEIGHTED> &s,
                                                  uint4 rows[STEP]) {
#pragma unroll
  for (int u = 0; u < STEP; u++)
    if (s.row[u] >= 0) rows[u] = *(const uint4 *)((const T *)j.weight + (int64_t)s.row[u] * j.weight_stride + column);
}

/* Bags [bag, last) by one group: a stream of values, flushed where a bag ends. */
template <typename T, bool WEIGHTED>
static __device__ __forceinline__ void stream_bags(const bag_job &j, int64_t bag, int64_t last, int column) {
  constexpr int N = fk_pack<T>::size;
  float sum[N];
  uint4 rows[STEP];
  step<T, WEIGHTED> s;
#pragma unroll
  for (int i = 0; i < N; i++) sum[i] = 0;
  bool bad = false;
  int64_t first = bag, start = offset_at(j, bag, 0, bad), end = offset_at(j, bag + 1, start, bad);
  int64_t stop = offset_at(j, last, start, bad);
  for (int64_t at = start; at < stop; at += STEP) {
    fetch_values(j, at, stop, s, bad);
    fetch_rows(j, column, s, rows);
#pragma unroll
    for (int u = 0; u < STEP; u++) {
      if (at + u >= stop) break;
      while (at + u >= end && bag + 1 < last) {
        store_bag<T>(j, bag++, column, end - start, sum);
        start = end;
        end = offset_at(j, bag + 1, start, bad);
      }
      if (s.row[u] >= 0) add_row<T>(sum, rows[u], WEIGHTED ? s.factor[u] : 1.0f);
    }
  }
  while (true) {
    store_bag<T>(j, bag++, column, end - start, sum);
    if (bag >= last) break;
    start = end;
    end = offset_at(j, bag + 1, start, bad);
  }
  if (bad) report(j, first, last);
}

template <typename T, bool WEIGHTED>
static __global__ void __launch_bounds__(THREADS) bags_streamed(bag_job j) {
  fk_wait_previous();
  int group = threadIdx.x >> j.log_lanes, lane = threadIdx.x & (j.lanes - 1);
  int64_t bag = ((int64_t)blockIdx.x * (THREADS >> j.log_lanes) + group) * j.bags;
  int pack = blockIdx.y * j.lanes + lane;
  if (bag >= j.num_bags || pack >= j.packs) return;
  int64_t last = bag + j.bags < j.num_bags ? bag + j.bags : j.num_bags;
  stream_bags<T, WEIGHTED>(j, bag, last, pack * fk_pack<T>::size);
}

/* Groups that share a bag lie in one block. */
template <typename T, bool WEIGHTED>
static __global__ void __launch_bounds__(THREADS) bags_shared(bag_job j) {
  constexpr int N = fk_pack<T>::size;
  __shared__ float partial[THREADS * N];
  fk_wait_previous();
  int group = threadIdx.x >> j.log_lanes, lane = threadIdx.x & (j.lanes - 1), part = group % j.split;
  int64_t bag = (int64_t)blockIdx.x * ((THREADS >> j.log_lanes) / j.split) + group / j.split;
  int pack = blockIdx.y * j.lanes + lane;
  bool active = bag < j.num_bags && pack < j.packs;
  float sum[N];
#pragma unroll
  for (int i = 0; i < N; i++) sum[i] = 0;
  int64_t start = 0, end = 0;
  bool bad = false;
  if (active) {
    start = offset_at(j, bag, 0, bad);
    end = offset_at(j, bag + 1, start, bad);
    uint4 rows[STEP];
    step<T, WEIGHTED> s;
    for (int64_t at = start + part * STEP; at < end; at += j.split * STEP) {
      fetch_values(j, at, end, s, bad);
      fetch_rows(j, pack * N, s, rows);
#pragma unroll
      for (int u = 0; u < STEP; u++)
        if (s.row[u] >= 0) add_row<T>(sum, rows[u], WEIGHTED ? s.factor[u] : 1.0f);
    }
    if (bad) report(j, bag, bag + 1);
  }
#pragma unroll
  for (int i = 0; i < N; i++) partial[i * THREADS + threadIdx.x] = sum[i];
  __syncthreads();
  if (!active || part) return;
  for (int p = 1; p < j.split; p++)
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] += partial[i * THREADS + threadIdx.x + (p << j.log_lanes)];
  store_bag<T>(j, bag, pack * N, end - start, sum);
}

/* Rows of any length and stride: a warp per bag. */
template <typename T>
static __global__ void bags_any(bag_job j) {
  fk_wait_previous();
  int64_t bag = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (bag >= j.num_bags) return;
  bool bad = false;
  int64_t start = offset_at(j, bag, 0, bad), end = offset_at(j, bag + 1, start, bad);
  if (bad) report(j, bag, bag + 1);
  for (int column = threadIdx.x % 32; column < j.dim; column += 32) {
    float sum = 0;
    for (int64_t at = start; at < end; at++) {
      int64_t value = int_at(j.values, j.wide_values, at);
      if (!fk_index_ok(j.value_check, value, j.num_embeddings)) continue;
      float x = fk_float(((const T *)j.weight)[value * j.weight_stride + column]);
      sum += j.factors ? fk_float(((const T *)j.factors)[at]) * x : x;
    }
    if (j.mean && end > start) sum /= (float)(end - start);
    ((T *)j.out)[bag * j.out_stride + column] = fk_from<T>(sum);
  }
}

/* How many groups a bag is worth, and how many bags a group: from the average length, as nothing else is known. */
static void divide(const fk_cuda *cuda, bag_job *j) {
  int64_t average = j->num_indices / j->num_bags, groups = THREADS >> j->log_lanes;
  int64_t wanted = (int64_t)cuda->num_sms * 1024 / j->lanes;
  j->bags = average < 1 ? STEP : average < STEP ? (int)(STEP / average) : 1;
  while (j->bags > 1 && j->num_bags / j->bags < wanted) j->bags /= 2;
  j->split = 1;
  while (j->split * 2 <= groups && average >= 2 * STEP * j->split && j->num_bags * j->split < wanted) j->split *= 2;
}

template <typename T>
static fk_status launch(fk_context *ctx, bag_job *j) {
  constexpr int N = fk_pack<T>::size;
  bool packed = j->num_embeddings < INT32_MAX && fk_packs<T>(j->weight, j->weight_stride, j->dim) &&
                fk_packs<T>(j->out, j->out_stride, j->dim);
  if (!packed) return fk_launch_early(ctx, bags_any<T>, dim3((unsigned)fk_ceil_div(j->num_bags, 4)), dim3(128), 0, *j);
  j->packs = j->dim / N;
  while (j->lanes < 32 && j->lanes < j->packs) j->lanes *= 2, j->log_lanes++;
  divide(fk_context_cuda(ctx), j);
  int64_t groups = THREADS >> j->log_lanes, chunks = fk_ceil_div(j->packs, j->lanes);
  int64_t blocks =
      j->split > 1 ? fk_ceil_div(j->num_bags * j->split, groups) : fk_ceil_div(j->num_bags, groups * j->bags);
  dim3 grid((unsigned)blocks, (unsigned)chunks);
  void (*kernel)(bag_job) = j->split > 1 ? (j->factors ? bags_shared<T, true> : bags_shared<T, false>)
                                         : (j->factors ? bags_streamed<T, true> : bags_streamed<T, false>);
  return fk_launch_early(ctx, kernel, grid, dim3(THREADS), 0, *j);
}

fk_status fk_cuda_embedding_bag(fk_context *ctx, const fk_embedding_bag_args *a) {
  bag_job j = {};
  j.values = fk_data(a->values);
  j.offsets = fk_data(a->offsets);
  j.factors = a->per_sample_weights ? fk_data(a->per_sample_weights) : NULL;
  j.weight = fk_data(a->weight);
  j.out = fk_data(a->out);
  j.wide_values = fk_type_of(a->values) == FK_I64;
  j.wide_offsets = fk_type_of(a->offsets) == FK_I64;
  j.mean = a->mode == 1;
  j.num_bags = fk_size(a->out, 0);
  j.num_indices = fk_size(a->values, 0);
  j.num_embeddings = fk_size(a->weight, 0);
  j.weight_stride = fk_stride(a->weight, 0);
  j.out_stride = fk_stride(a->out, 0);
  j.dim = (int)fk_size(a->weight, 1);
  j.lanes = 1;
  j.value_check = fk_index_checker(ctx, "embedding_bag: values");
  j.offset_check = fk_index_checker(ctx, "embedding_bag: offsets");
  j.count_check = fk_index_checker(ctx, "embedding_bag: number of values, by the last offset");
  if (fk_numel(a->out) == 0) return FK_OK;
  FK_FLOAT_DISPATCH(fk_type_of(a->weight), T, return launch<T>(ctx, &j));
}
