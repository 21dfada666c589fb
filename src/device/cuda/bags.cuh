/* Pooling bags of rows, of one table or of several that lie below each other.
 *
 * A group of lanes, one per pack of a row, takes a run of bags of one table and reads their values as one stream,
 * several rows in flight whatever the bags' lengths. Where bags are long and few, groups share a bag: each takes every
 * so many-th step of its values, and one adds up their sums in a fixed order.
 *
 * Offsets and values may be wrong: offsets are clamped to the values there are, values outside their table are left
 * out; both are reported. */
#pragma once

#include "device/cuda/kernel.cuh"

enum { FK_BAG_THREADS = 256, FK_BAG_STEP = 8 };

typedef struct bag_job {
  const void *values, *offsets, *factors, *weight; /* factors: NULL for ones */
  const void *tables;                              /* first row of each table, and the end; NULL: all rows are one */
  void *out;
  bool wide_values, wide_offsets, wide_tables, mean;
  int64_t num_tables, batch; /* bags of a table */
  int64_t num_indices, num_embeddings;
  int64_t weight_stride, out_stride, out_table_stride; /* elements; out_stride from bag to bag of a table */
  int dim;
  fk_index_check value_check, offset_check, count_check, table_check;
  /* Set by fk_pool_bags. */
  int packs;            /* of a row */
  int lanes, log_lanes; /* of a group, a power of two up to 32 */
  int bags;             /* that a group takes */
  int split;            /* groups that share a bag, a power of two; then bags is 1 */
  int64_t groups;       /* that a table takes, when not split */
} bag_job;

/* The rows of a table. */
typedef struct bag_table {
  int64_t first, rows;
} bag_table;

/* A thread's columns of a table and of its bags in out. */
template <typename T>
struct bag_columns {
  const T *rows;
  unsigned num_rows;
  T *out; /* of the bag whose number among all is 0, were it of this table */
};

static __device__ __forceinline__ int64_t int_at(const void *p, bool wide, int64_t i) {
  return wide ? ((const int64_t *)p)[i] : (int64_t)((const int32_t *)p)[i];
}

/* None where its offsets are wrong. */
static __device__ __forceinline__ bag_table table_at(const bag_job &j, int64_t table, bool &bad) {
  bag_table t = {0, j.num_embeddings};
  if (!j.tables) return t;
  t.first = int_at(j.tables, j.wide_tables, table);
  int64_t end = int_at(j.tables, j.wide_tables, table + 1);
  t.rows = end - t.first;
  if (t.first >= 0 && end <= j.num_embeddings && t.rows >= 0) return t;
  bad = true;
  t.rows = 0;
  return t;
}

/* Where bag b begins, or the values end; never before least nor beyond the values. What was wrong is found again by
 * report: here it costs a flag. */
static __device__ __forceinline__ int64_t offset_at(const bag_job &j, int64_t b, int64_t least, bool &bad) {
  int64_t at = int_at(j.offsets, j.wide_offsets, b);
  bad = bad || at < least || at > j.num_indices || (b == 0 && at != 0) ||
        (b == j.num_tables * j.batch && at != j.num_indices);
  return at < least ? least : at > j.num_indices ? j.num_indices : at;
}

/* Says what is wrong with bags [bag, last). An offset beyond the next one is reported against that one. */
static __device__ __noinline__ void report(const bag_job &j, int64_t bag, int64_t last) {
  bool lost = false;
  bag_table t = table_at(j, bag / j.batch, lost);
  if (lost) {
    int64_t start = int_at(j.tables, j.wide_tables, bag / j.batch),
            end = int_at(j.tables, j.wide_tables, bag / j.batch + 1);
    if (fk_index_ok(j.table_check, end, j.num_embeddings + 1)) fk_index_ok(j.table_check, start, end + 1);
    return;
  }
  for (; bag < last; bag++) {
    int64_t start = int_at(j.offsets, j.wide_offsets, bag), end = int_at(j.offsets, j.wide_offsets, bag + 1);
    bool ok = fk_index_ok(j.offset_check, end, j.num_indices + 1) && fk_index_ok(j.offset_check, start, end + 1);
    if (bag == 0) ok = fk_index_ok(j.offset_check, start, 1) && ok;
    if (bag + 1 == j.num_tables * j.batch) ok = fk_index_ok(j.count_check, j.num_indices, end + 1) && ok;
    for (int64_t i = start; ok && i < end; i++)
      ok = fk_index_ok(j.value_check, int_at(j.values, j.wide_values, i), t.rows);
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
static __device__ __forceinline__ bag_columns<T> columns_of(const bag_job &j, int64_t bag, int column, bool &bad) {
  int64_t table = j.tables ? bag / j.batch : 0;
  bag_table t = table_at(j, table, bad);
  bag_columns<T> c = {(const T *)j.weight + t.first * j.weight_stride + column, (unsigned)t.rows,
                      (T *)j.out + table * j.out_table_stride - table * j.batch * j.out_stride + column};
  return c;
}

template <typename T>
static __device__ __forceinline__ void store_bag(const bag_job &j, T *to, int count, float *sum) {
  fk_pack<T> v;
#pragma unroll
  for (int i = 0; i < fk_pack<T>::size; i++) {
    v.at[i] = fk_from<T>(j.mean && count > 1 ? sum[i] / (float)count : sum[i]);
    sum[i] = 0;
  }
  fk_store_pack(to, v);
}

/* One step of a stream: the rows of values first to first + FK_BAG_STEP, as far as they are before end; -1: none. */
template <typename T, bool WEIGHTED>
struct step {
  int row[FK_BAG_STEP];
  float factor[FK_BAG_STEP];
};

template <typename T, bool WEIGHTED>
static __device__ __forceinline__ void fetch_values(const bag_job &j, unsigned num_rows, int first, int end,
                                                    step<T, WEIGHTED> &s, bool &bad) {
#pragma unroll
  for (int u = 0; u < FK_BAG_STEP; u++) {
    bool given = first + u < end;
    int64_t value = given ? int_at(j.values, j.wide_values, first + u) : 0;
    bool ok = (uint64_t)value < num_rows;
    bad = bad || (given && !ok);
    s.row[u] = given && ok ? (int)value : -1;
    if (WEIGHTED) s.factor[u] = given ? fk_float(((const T *)j.factors)[first + u]) : 0;
  }
}

template <typename T, bool WEIGHTED>
static __device__ __forceinline__ void fetch_rows(const bag_job &j, const T *from, const step<T, WEIGHTED> &s,
                                                  uint4 rows[FK_BAG_STEP]) {
#pragma unroll
  for (int u = 0; u < FK_BAG_STEP; u++)
    if (s.row[u] >= 0) rows[u] = *(const uint4 *)(from + s.row[u] * j.weight_stride);
}

/* Bags [bag, last) by one group: a stream of values, flushed where a bag ends. */
template <typename T, bool WEIGHTED>
static __device__ __forceinline__ void stream_bags(const bag_job &j, int bag, int last, int column) {
  constexpr int N = fk_pack<T>::size;
  float sum[N];
  uint4 rows[FK_BAG_STEP];
  step<T, WEIGHTED> s;
#pragma unroll
  for (int i = 0; i < N; i++) sum[i] = 0;
  bool bad = false;
  bag_columns<T> c = columns_of<T>(j, bag, column, bad);
  int first = bag, start = (int)offset_at(j, bag, 0, bad), end = (int)offset_at(j, bag + 1, start, bad);
  int stop = (int)offset_at(j, last, start, bad);
  for (int at = start; at < stop; at += FK_BAG_STEP) {
    fetch_values(j, c.num_rows, at, stop, s, bad);
    fetch_rows(j, c.rows, s, rows);
#pragma unroll
    for (int u = 0; u < FK_BAG_STEP; u++) {
      if (at + u >= stop) break;
      while (at + u >= end && bag + 1 < last) {
        store_bag(j, c.out + bag++ * j.out_stride, end - start, sum);
        start = end;
        end = (int)offset_at(j, bag + 1, start, bad);
      }
      if (s.row[u] >= 0) add_row<T>(sum, rows[u], WEIGHTED ? s.factor[u] : 1.0f);
    }
  }
  while (true) {
    store_bag(j, c.out + bag++ * j.out_stride, end - start, sum);
    if (bag >= last) break;
    start = end;
    end = (int)offset_at(j, bag + 1, start, bad);
  }
  if (bad) report(j, first, last);
}

template <typename T, bool WEIGHTED>
static __global__ void __launch_bounds__(FK_BAG_THREADS) bags_streamed(const __grid_constant__ bag_job j) {
  fk_wait_previous();
  int group = threadIdx.x >> j.log_lanes, lane = threadIdx.x & (j.lanes - 1);
  int64_t all = (int64_t)blockIdx.x * (FK_BAG_THREADS >> j.log_lanes) + group, table = all / j.groups;
  int pack = blockIdx.y * j.lanes + lane;
  if (table >= j.num_tables || pack >= j.packs) return;
  int64_t bag = table * j.batch + (all - table * j.groups) * j.bags, end = (table + 1) * j.batch;
  int64_t last = bag + j.bags < end ? bag + j.bags : end;
  stream_bags<T, WEIGHTED>(j, (int)bag, (int)last, pack * fk_pack<T>::size);
}

/* Groups that share a bag lie in one block. */
template <typename T, bool WEIGHTED>
static __global__ void __launch_bounds__(FK_BAG_THREADS) bags_shared(const __grid_constant__ bag_job j) {
  constexpr int N = fk_pack<T>::size;
  __shared__ float partial[FK_BAG_THREADS * N];
  fk_wait_previous();
  int group = threadIdx.x >> j.log_lanes, lane = threadIdx.x & (j.lanes - 1), part = group % j.split;
  int64_t bag = (int64_t)blockIdx.x * ((FK_BAG_THREADS >> j.log_lanes) / j.split) + group / j.split;
  int pack = blockIdx.y * j.lanes + lane;
  bool active = bag < j.num_tables * j.batch && pack < j.packs;
  float sum[N];
#pragma unroll
  for (int i = 0; i < N; i++) sum[i] = 0;
  int start = 0, end = 0;
  bool bad = false;
  bag_columns<T> c = {};
  if (active) {
    c = columns_of<T>(j, bag, pack * N, bad);
    start = (int)offset_at(j, bag, 0, bad);
    end = (int)offset_at(j, bag + 1, start, bad);
    uint4 rows[FK_BAG_STEP];
    step<T, WEIGHTED> s;
    for (int at = start + part * FK_BAG_STEP; at < end; at += j.split * FK_BAG_STEP) {
      fetch_values(j, c.num_rows, at, end, s, bad);
      fetch_rows(j, c.rows, s, rows);
#pragma unroll
      for (int u = 0; u < FK_BAG_STEP; u++)
        if (s.row[u] >= 0) add_row<T>(sum, rows[u], WEIGHTED ? s.factor[u] : 1.0f);
    }
    if (bad) report(j, bag, bag + 1);
  }
#pragma unroll
  for (int i = 0; i < N; i++) partial[i * FK_BAG_THREADS + threadIdx.x] = sum[i];
  __syncthreads();
  if (!active || part) return;
  for (int p = 1; p < j.split; p++)
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] += partial[i * FK_BAG_THREADS + threadIdx.x + (p << j.log_lanes)];
  store_bag(j, c.out + bag * j.out_stride, end - start, sum);
}

/* Rows of any length and stride: a warp per bag. */
template <typename T>
static __global__ void bags_any(const __grid_constant__ bag_job j) {
  fk_wait_previous();
  int64_t bag = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (bag >= j.num_tables * j.batch) return;
  bool bad = false;
  int64_t table = bag / j.batch;
  bag_table t = table_at(j, table, bad);
  int64_t start = offset_at(j, bag, 0, bad), end = offset_at(j, bag + 1, start, bad);
  if (bad) report(j, bag, bag + 1);
  for (int column = threadIdx.x % 32; column < j.dim; column += 32) {
    float sum = 0;
    for (int64_t at = start; at < end; at++) {
      int64_t value = int_at(j.values, j.wide_values, at);
      if (!fk_index_ok(j.value_check, value, t.rows)) continue;
      float x = fk_float(((const T *)j.weight)[(t.first + value) * j.weight_stride + column]);
      sum += j.factors ? fk_float(((const T *)j.factors)[at]) * x : x;
    }
    if (j.mean && end > start) sum /= (float)(end - start);
    ((T *)j.out)[(bag - table * j.batch) * j.out_stride + table * j.out_table_stride + column] = fk_from<T>(sum);
  }
}

/* How many groups a bag is worth, and how many bags a group: from the average length, as nothing else is known. */
static void divide_bags(const fk_cuda *cuda, bag_job *j) {
  int64_t num_bags = j->num_tables * j->batch, average = j->num_indices / num_bags,
          groups = FK_BAG_THREADS >> j->log_lanes;
  int64_t wanted = (int64_t)cuda->num_sms * 1024 / j->lanes;
  j->bags = average < 1 ? FK_BAG_STEP : average < FK_BAG_STEP ? (int)(FK_BAG_STEP / average) : 1;
  while (j->bags > 1 && num_bags / j->bags < wanted) j->bags /= 2;
  j->split = 1;
  while (j->split * 2 <= groups && average >= 2 * FK_BAG_STEP * j->split && num_bags * j->split < wanted) j->split *= 2;
}

template <typename T>
static fk_status launch_bags(fk_context *ctx, bag_job *j) {
  constexpr int N = fk_pack<T>::size;
  int64_t num_bags = j->num_tables * j->batch;
  bool small = j->num_embeddings < INT32_MAX && j->num_indices < INT32_MAX / 2 && num_bags < INT32_MAX / 2;
  bool packed = small && fk_packs<T>(j->weight, j->weight_stride, j->dim) &&
                fk_packs<T>(j->out, j->out_stride, j->dim) && fk_packs<T>(j->out, j->out_table_stride, j->dim);
  if (!packed) return fk_launch_early(ctx, bags_any<T>, dim3((unsigned)fk_ceil_div(num_bags, 4)), dim3(128), 0, *j);
  j->packs = j->dim / N;
  j->lanes = 1;
  j->log_lanes = 0;
  while (j->lanes < 32 && j->lanes < j->packs) j->lanes *= 2, j->log_lanes++;
  divide_bags(fk_context_cuda(ctx), j);
  j->groups = fk_ceil_div(j->batch, j->bags);
  int64_t groups = FK_BAG_THREADS >> j->log_lanes, chunks = fk_ceil_div(j->packs, j->lanes);
  int64_t blocks =
      j->split > 1 ? fk_ceil_div(num_bags * j->split, groups) : fk_ceil_div(j->num_tables * j->groups, groups);
  dim3 grid((unsigned)blocks, (unsigned)chunks);
  void (*kernel)(bag_job) = j->split > 1 ? (j->factors ? bags_shared<T, true> : bags_shared<T, false>)
                                         : (j->factors ? bags_streamed<T, true> : bags_streamed<T, false>);
  return fk_launch_early(ctx, kernel, grid, dim3(FK_BAG_THREADS), 0, *j);
}

/* num_tables, batch and dim are at least 1. */
static fk_status fk_pool_bags(fk_context *ctx, fk_type type, bag_job *j) {
  FK_FLOAT_DISPATCH(type, T, return launch_bags<T>(ctx, j));
}
