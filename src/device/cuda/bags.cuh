/* Pooling bags of rows, of one table or of several that lie below each other.
 *
 * A team of threads, a warp or, where bags are long, a block, takes a run of bags of one table. Their values are one
 * stretch of memory, whatever the bags' lengths, and the team's groups of lanes (one lane per pack of a row) share it
 * out in equal parts, several rows in flight each, the next values known before they are needed. A bag that lies within
 * a group's part is stored by that group; of one that reaches into the next parts the sums meet in shared memory and
 * are added in order. So neither long bags nor empty ones leave lanes idle.
 *
 * Offsets and values may be wrong. Where offsets fall or leave the values, the team's bags are not written; a value
 * outside its table is left out; both are reported. */
#pragma once

#include "device/cuda/kernel.cuh"

enum {
  FK_BAG_THREADS = 256,
  FK_BAG_WARPS = FK_BAG_THREADS / 32,
  FK_BAG_STEP = 8,
  FK_BAGS = 24 /* of a team, at most: fewer than it has threads */
};

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
  int bags;             /* of a team */
  int64_t teams;        /* of a table */
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

/* A team's bags, and a group's part of their values. */
typedef struct bag_part {
  const int *ends;        /* where bag i begins, in shared memory; bag i ends where the next one begins */
  int first, last, share; /* all values; of a group */
  int start, stop;        /* this group's */
} bag_part;

static __device__ __forceinline__ bag_part part_of(const int *ends, int count, int group, int groups) {
  bag_part p = {ends, ends[0], ends[count], 0, 0, 0};
  p.share = (p.last - p.first + groups - 1) / groups;
  p.start = min(p.first + group * p.share, p.last);
  p.stop = min(p.start + p.share, p.last);
  return p;
}

/* The last bag that begins at or before a value: not an empty one, if the value is one of the team's. */
static __device__ __forceinline__ int bag_of(const int *ends, int count, int value) {
  int low = 0, high = count;
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (ends[middle] <= value)
      low = middle;
    else
      high = middle;
  }
  return low;
}

/* Adds up the group's part. Complete bags are stored; the sum of one that began in an earlier part goes to head.
 * Returns the bag that goes on in the next part and began in this one, its sum so far in sum; -1: none. */
template <typename T, bool WEIGHTED>
static __device__ __forceinline__ int sum_part(const bag_job &j, const bag_columns<T> &c, const bag_part &p, int bag,
                                               float *sum, float *head, bool &bad) {
  constexpr int N = fk_pack<T>::size;
  step<T, WEIGHTED> s;
  int end = p.ends[bag + 1];
  fetch_values(j, c.num_rows, p.start, p.stop, s, bad);
  for (int at = p.start; at < p.stop; at += FK_BAG_STEP) {
    uint4 rows[FK_BAG_STEP];
    float factor[FK_BAG_STEP];
    unsigned given = 0;
    fetch_rows(j, c.rows, s, rows);
#pragma unroll
    for (int u = 0; u < FK_BAG_STEP; u++) {
      given |= s.row[u] >= 0 ? 1u << u : 0;
      factor[u] = WEIGHTED ? s.factor[u] : 1.0f;
    }
    fetch_values(j, c.num_rows, at + FK_BAG_STEP, p.stop, s, bad);
#pragma unroll
    for (int u = 0; u < FK_BAG_STEP; u++) {
      if (given >> u & 1) add_row<T>(sum, rows[u], factor[u]);
      if (at + u + 1 != end || at + u >= p.stop) continue;
      int begin = p.ends[bag];
      if (begin >= p.start) {
        store_bag(j, c.out + bag * j.out_stride, end - begin, sum);
      } else {
#pragma unroll
        for (int i = 0; i < N; i++) head[i * FK_BAG_THREADS] = sum[i], sum[i] = 0;
      }
      while (p.ends[bag + 1] == end && end < p.last) bag++;
      end = p.ends[bag + 1];
    }
  }
  if (p.start >= p.stop || p.stop == p.last || p.ends[bag] == p.stop) return -1;
  if (p.ends[bag] >= p.start) return bag;
#pragma unroll
  for (int i = 0; i < N; i++) head[i * FK_BAG_THREADS] = sum[i];
  return -1;
}

/* Waits for the team; true when it is for any of its threads. */
template <bool WARP>
static __device__ __forceinline__ bool team_any(bool mine) {
  if constexpr (WARP) {
    bool any = __any_sync(0xffffffffu, mine);
    __syncwarp();
    return any;
  }
  return __syncthreads_or(mine);
}

template <typename T, bool WEIGHTED, bool WARP>
static __global__ void __launch_bounds__(FK_BAG_THREADS, WEIGHTED ? 2 : 3)
    bags_packed(const __grid_constant__ bag_job j) {
  constexpr int N = fk_pack<T>::size, TEAM = WARP ? 32 : FK_BAG_THREADS;
  __shared__ float heads[FK_BAG_THREADS * N];
  __shared__ int all_ends[FK_BAG_WARPS][FK_BAGS + 1];
  fk_wait_previous();
  int *ends = all_ends[threadIdx.x / TEAM];
  int64_t team = (int64_t)blockIdx.x * (FK_BAG_THREADS / TEAM) + threadIdx.x / TEAM, table = team / j.teams;
  if (table >= j.num_tables) return;
  int64_t first = (team - table * j.teams) * j.bags + table * j.batch;
  int count = (int)min((int64_t)j.bags, (table + 1) * j.batch - first), mine = threadIdx.x % TEAM;
  int group = mine >> j.log_lanes, groups = TEAM >> j.log_lanes, pack = blockIdx.y * j.lanes + (mine & (j.lanes - 1));
  bool bad = false;
  if (mine < count) {
    int64_t begin = offset_at(j, first + mine, 0, bad), end = offset_at(j, first + mine + 1, begin, bad);
    ends[mine] = (int)begin;
    if (mine == count - 1) ends[count] = (int)end;
  }
  bag_columns<T> c = columns_of<T>(j, first, pack * N, bad);
  c.out += first * j.out_stride;
  if (team_any<WARP>(bad)) {
    if (mine == 0) report(j, first, first + count);
    return;
  }
  bag_part p = part_of(ends, count, group, groups);
  float sum[N];
#pragma unroll
  for (int i = 0; i < N; i++) sum[i] = 0;
  int open = -1;
  if (pack < j.packs) {
    for (int i = group; i < count; i += groups)
      if (ends[i] == ends[i + 1]) store_bag(j, c.out + i * j.out_stride, 0, sum);
    if (p.start < p.stop)
      open = sum_part<T, WEIGHTED>(j, c, p, bag_of(ends, count, p.start), sum, heads + threadIdx.x, bad);
  }
  bad = team_any<WARP>(bad); /* also: the heads are there */
  if (open >= 0) {
    int end = ends[open + 1];
    for (int g = 1; p.start + g * p.share < end; g++)
#pragma unroll
      for (int i = 0; i < N; i++) sum[i] += heads[i * FK_BAG_THREADS + threadIdx.x + (g << j.log_lanes)];
    store_bag(j, c.out + open * j.out_stride, end - ends[open], sum);
  }
  if (bad && mine == 0) report(j, first, first + count);
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

/* Bags of a team of so many groups: about four steps for each group, as long as all multiprocessors have enough teams.
 */
static int bags_of_team(const bag_job *j, int64_t groups, int64_t teams) {
  int64_t num_bags = j->num_tables * j->batch, bags = 4 * FK_BAG_STEP * groups * num_bags / (j->num_indices + 1);
  if (bags > num_bags / teams) bags = num_bags / teams;
  return bags < 1 ? 1 : bags > FK_BAGS ? FK_BAGS : (int)bags;
}

template <typename T>
static fk_status launch_bags(fk_context *ctx, bag_job *j) {
  constexpr int N = fk_pack<T>::size;
  int64_t num_bags = j->num_tables * j->batch, sms = fk_context_cuda(ctx)->num_sms;
  bool small = j->num_embeddings < INT32_MAX && j->num_indices < INT32_MAX / 2 && num_bags < INT32_MAX / 2;
  bool packed = small && fk_packs<T>(j->weight, j->weight_stride, j->dim) &&
                fk_packs<T>(j->out, j->out_stride, j->dim) && fk_packs<T>(j->out, j->out_table_stride, j->dim);
  if (!packed) return fk_launch_early(ctx, bags_any<T>, dim3((unsigned)fk_ceil_div(num_bags, 4)), dim3(128), 0, *j);
  j->packs = j->dim / N;
  j->lanes = 1;
  j->log_lanes = 0;
  while (j->lanes < 32 && j->lanes < j->packs) j->lanes *= 2, j->log_lanes++;
  bool warps = j->num_indices < 6 * FK_BAG_STEP * num_bags; /* measured: long bags are better off with blocks */
  int teams = warps ? FK_BAG_WARPS : 1;                     /* of a block */
  j->bags = bags_of_team(j, (FK_BAG_THREADS / teams) >> j->log_lanes, warps ? 16 * sms : 6 * sms);
  j->teams = fk_ceil_div(j->batch, j->bags);
  dim3 grid((unsigned)fk_ceil_div(j->num_tables * j->teams, teams), (unsigned)fk_ceil_div(j->packs, j->lanes));
  void (*kernel)(bag_job) = warps ? (j->factors ? bags_packed<T, true, true> : bags_packed<T, false, true>)
                                  : (j->factors ? bags_packed<T, true, false> : bags_packed<T, false, false>);
  return fk_launch_early(ctx, kernel, grid, dim3(FK_BAG_THREADS), 0, *j);
}

/* num_tables, batch and dim are at least 1. */
static fk_status fk_pool_bags(fk_context *ctx, fk_type type, bag_job *j) {
  FK_FLOAT_DISPATCH(type, T, return launch_bags<T>(ctx, j));
}
