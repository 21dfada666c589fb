/* What a warp of decode.cu does with one tile of keys and values in its part of shared memory: scores, exponentials,
 * weighted sums. Two of a kind, with the same members: decode_math on the tensor cores, decode_math_float. */
#pragma once

#include "decode.cuh"
#include "device/cuda/mma.cuh"

/* Of a tile of keys, those that any row of the item sees. */
enum decode_sight { SEEN_BY_ALL, SEEN_BY_ALL_OR_NONE, SEEN_BY_SOME };

/* A lane's part of its warp's results: R rows, C columns of each. */
template <int R, int C>
struct decode_sums {
  float o[R][C], m[R], l[R];
};

static __device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/* What sums over scores up to m are multiplied with when the largest becomes `largest`: -inf stands for none yet. */
static __device__ __forceinline__ float rescale(float m, float largest) {
  return exp2_of(m - (largest == -INFINITY ? 0 : largest));
}

/* A NaN stays one; beyond a quarter by exponentials, below by a series, where 1 - 2 / (1 + e^2x) would cancel. */
static __device__ __forceinline__ float tanh_of(float x) {
  float y = x * x, e = exp2_of(2.88539008f * fabsf(x)), large = 1 - __fdividef(2, 1 + e);
  float small = x + x * y * (-0.333333333f + y * (0.133333333f + y * (-0.0539682540f + y * 0.0218694885f)));
  return fabsf(x) < 0.25f ? small : copysignf(large, x);
}

template <int N>
static __device__ __forceinline__ void scale_scores(const decode_call &c, float (&s)[N]) {
  if (c.cap > 0) {
#pragma unroll
    for (int k = 0; k < N; k++) s[k] = c.cap * tanh_of(s[k] * c.scale);
  } else {
#pragma unroll
    for (int k = 0; k < N; k++) s[k] *= c.scale;
  }
}

/* Keys [lo, hi) that a row of the item sees; none beyond the last row. */
static __device__ __forceinline__ void row_keys(const decode_call &c, const decode_segment &g, int row, int &lo,
                                                int &hi) {
  visible_keys(c, g.shift, g.num_k, divide(g.row0 + row, c.group), lo, hi);
  if (g.row0 + row >= g.num_q * (int)c.group.divisor) hi = lo;
}

/* Offset in elements of a row of q or out. */
static __device__ __forceinline__ int64_t row_offset(const decode_call &c, const decode_strides &st, int b, int q0,
                                                     int row, int kv_head) {
  int query = divide(row, c.group), head = row - query * (int)c.group.divisor + kv_head * (int)c.group.divisor;
  return (c.dense ? b * st.batch : 0) + (q0 + query) * st.token + head * st.head;
}

/* ---- 16-bit types: tensor cores -------------------------------------------------------------------------- */

template <typename T>
static __device__ __forceinline__ uint32_t pack_two(float low, float high) {
  if constexpr (std::is_same<T, __nv_bfloat16>::value) {
    __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&two;
  } else {
    __half2 two = __floats2half2_rn(low, high);
    return *(uint32_t *)&two;
  }
}

template <typename T>
static __device__ __forceinline__ bool any_nonfinite(uint4 x) {
  constexpr uint32_t exponent = std::is_same<T, __nv_bfloat16>::value ? 0x7f80 : 0x7c00;
  uint32_t words[4] = {x.x, x.y, x.z, x.w};
  bool found = false;
#pragma unroll
  for (int i = 0; i < 4; i++)
    found = found || (words[i] & exponent) == exponent || (words[i] >> 16 & exponent) == exponent;
  return found;
}

/* MT: groups of 16 rows; KEYS of a tile: 16 or 32. A lane holds rows lane / 4 and 8 more of each group, and of every 8
 * columns two. */
template <typename T, int D, int DV, int MT, int KEYS>
struct decode_math {
  static constexpr int tile = KEYS, tile_shift = MT == 1 ? 4 : 5, R = 2 * MT, C = DV / 4, S = KEYS / 4;
  static constexpr int warp_bytes = 0; /* of shared memory besides the stages */
  static constexpr int row_lanes = 4;  /* neighbours that hold parts of the same row */
  static constexpr int run = 2;        /* neighbouring columns in a lane */
  typedef struct query {
    uint32_t x[MT][D / 16][4];
  } query;

  static __device__ __forceinline__ int row_of(int i) {
    return i / 2 * 16 + i % 2 * 8 + (int)threadIdx.x % 32 / 4;
  }
  static __device__ __forceinline__ int column_of(int k) {
    return k / 2 * 8 + (int)threadIdx.x % 4 * 2 + k % 2;
  }
  static __device__ __forceinline__ int key_of(int k) {
    return k / 2 * 8 + (int)threadIdx.x % 4 * 2 + k % 2;
  }

  static __device__ __forceinline__ void load_query(const decode_call &c, const decode_segment &g, int kv_head,
                                                    unsigned char *, query &q) {
    int rows = g.num_q * (int)c.group.divisor - g.row0;
#pragma unroll
    for (int i = 0; i < R; i++) {
      bool exists = row_of(i) < rows;
      const T *from = (const T *)c.q + threadIdx.x % 4 * 2;
      if (exists) from += row_offset(c, c.qs, g.b, g.q0, g.row0 + row_of(i), kv_head);
#pragma unroll
      for (int k = 0; k < D / 8; k++)
        q.x[i / 2][k / 2][k % 2 * 2 + i % 2] = exists ? *(const uint32_t *)(from + k * 8) : 0;
    }
  }

  static __device__ __forceinline__ void add_values(decode_sums<R, C> &x, const uint32_t (&weights)[MT][4],
                                                    uint32_t values, uint32_t low_mask, uint32_t high_mask) {
    int row = threadIdx.x % 16;
    values += (uint32_t)row * decode_tile<T, DV, KEYS>::columns * 16;
#pragma unroll
    for (int n = 0; n < DV / 8; n += 2) {
      uint32_t v[4];
      fk_load_turned_matrices(
          v, values + swizzled<decode_tile<T, DV, KEYS>::columns>(row, n + threadIdx.x % 32 / 16) * 16);
#pragma unroll
      for (int k = 2 * n; k < 2 * n + 4; k += 2)
#pragma unroll
        for (int mt = 0; mt < MT; mt++)
          fk_mma<T>(x.o[2 * mt][k], x.o[2 * mt][k + 1], x.o[2 * mt + 1][k], x.o[2 * mt + 1][k + 1], weights[mt],
                    v[k - 2 * n] & low_mask, v[k - 2 * n + 1] & high_mask);
    }
  }

  /* Values among which are a NaN or an infinity, of keys that only some rows see: nothing times zero is not zero then,
   * so a query at a time, with zeros for the values that it does not see. */
  static __device__ __forceinline__ void add_values_apart(const decode_call &c, const decode_segment &g, int j0,
                                                          decode_sums<R, C> &x, const uint32_t (&weights)[MT][4],
                                                          uint32_t values) {
    int rows = min(16 * MT, g.num_q * (int)c.group.divisor - g.row0);
    int last = divide(g.row0 + rows - 1, c.group);
#pragma unroll 1
    for (int query = divide(g.row0, c.group); query <= last; query++) {
      uint32_t masks[2], own[MT][4];
      int lo, hi;
      visible_keys(c, g.shift, g.num_k, query, lo, hi);
#pragma unroll
      for (int n = 0; n < 2; n++) {
        int j = j0 + key_of(2 * n);
        masks[n] = (j >= lo && j < hi ? 0xffffu : 0) | (j + 1 >= lo && j + 1 < hi ? 0xffff0000u : 0);
      }
#pragma unroll
      for (int i = 0; i < 4 * MT; i++)
        own[i / 4][i % 4] = divide(g.row0 + row_of(i / 4 * 2 + i % 2), c.group) == query ? weights[i / 4][i % 4] : 0;
      add_values(x, own, values, masks[0], masks[1]);
    }
  }

  static __device__ __forceinline__ bool values_nonfinite(uint32_t values) {
    bool found = false;
#pragma unroll 2
    for (int i = 0; i < decode_tile<T, DV, KEYS>::bytes / 512; i++) {
      uint4 v;
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                   : "r"(values + (uint32_t)(i * 32 + threadIdx.x % 32) * 16)
                   : "memory");
      found = found || any_nonfinite<T>(v);
    }
    return __any_sync(0xffffffffu, found);
  }

  static __device__ __forceinline__ void score(const query &q, uint32_t keys, float (&s)[R][S]) {
    int lane = threadIdx.x % 32, row = lane / 16 * 8 + lane % 8;
    keys += (uint32_t)row * decode_tile<T, D, KEYS>::columns * 16;
#pragma unroll
    for (int i = 0; i < R * S; i++) s[i / S][i % S] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
      for (int n = 0; n < S; n += 4) {
        uint32_t x[4];
        int column = swizzled<decode_tile<T, D, KEYS>::columns>(row, 2 * k + lane / 8 % 2);
        fk_load_matrices(x, keys + (uint32_t)(n * 4 * decode_tile<T, D, KEYS>::columns + column) * 16);
#pragma unroll
        for (int mt = 0; mt < R; mt += 2) {
          fk_mma<T>(s[mt][n], s[mt][n + 1], s[mt + 1][n], s[mt + 1][n + 1], q.x[mt / 2][k], x[0], x[1]);
          fk_mma<T>(s[mt][n + 2], s[mt][n + 3], s[mt + 1][n + 2], s[mt + 1][n + 3], q.x[mt / 2][k], x[2], x[3]);
        }
      }
  }

  /* One tile of keys. */
  static __device__ __forceinline__ void attend(const decode_call &c, const decode_segment &g, int j0,
                                                decode_sight sight, const query &q, unsigned char *, uint32_t keys,
                                                decode_sums<R, C> &x) {
    float s[R][S], old[R];
    bool higher = false;
    score(q, keys, s);
#pragma unroll
    for (int i = 0; i < R; i++) scale_scores(c, s[i]);
    if (sight != SEEN_BY_ALL) {
#pragma unroll
      for (int i = 0; i < R; i++) {
        int lo, hi;
        row_keys(c, g, row_of(i), lo, hi);
#pragma unroll
        for (int k = 0; k < S; k++)
          if (j0 + key_of(k) < lo || j0 + key_of(k) >= hi) s[i][k] = -INFINITY;
      }
    }
#pragma unroll
    for (int i = 0; i < R; i++) {
      float largest = s[i][0];
#pragma unroll
      for (int k = 1; k < S; k++) largest = fmaxf(largest, s[i][k]);
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2)), x.m[i]);
      float shift = largest == -INFINITY ? 0 : largest, sum = 0;
      old[i] = exp2_of(x.m[i] - shift);
      higher = higher || !(old[i] == 1);
      x.m[i] = largest;
#pragma unroll
      for (int k = 0; k < S; k++) {
        s[i][k] = exp2_of(s[i][k] - shift);
        sum += s[i][k];
      }
      x.l[i] = x.l[i] * old[i] + sum;
    }
    if (__any_sync(0xffffffffu, higher)) { /* mostly the largest score is an earlier one */
#pragma unroll
      for (int i = 0; i < R * C; i++) x.o[i / C][i % C] *= old[i / C];
    }
    uint32_t values = keys + decode_tile<T, D, KEYS>::bytes;
    bool apart = sight == SEEN_BY_SOME && values_nonfinite(values);
#pragma unroll
    for (int n = 0; n < S; n += 4, values += 16 * DV * sizeof(T)) {
      uint32_t weights[MT][4];
#pragma unroll
      for (int i = 0; i < R; i++) {
        weights[i / 2][i % 2] = pack_two<T>(s[i][n], s[i][n + 1]);
        weights[i / 2][i % 2 + 2] = pack_two<T>(s[i][n + 2], s[i][n + 3]);
      }
      if (apart)
        add_values_apart(c, g, j0 + n * 4, x, weights, values);
      else
        add_values(x, weights, values, 0xffffffffu, 0xffffffffu);
    }
  }
};

/* ---- float32 --------------------------------------------------------------------------------------------- */

/* Rows are taken four at a time, as many as there are. Scores: a lane takes half of the columns of one key. Values: it
 * takes every 32nd column of all keys. */
template <int D, int DV>
struct decode_math_float {
  static constexpr int tile = 16, tile_shift = 3, R = 8, C = DV / 32, run = 1;
  static constexpr int warp_bytes = (R * D + tile * R) * 4; /* queries, then exponentials */
  static constexpr int row_lanes = 16;
  typedef struct query {
    int rows; /* that exist */
  } query;

  static __device__ __forceinline__ int row_of(int i) {
    return i;
  }
  static __device__ __forceinline__ int column_of(int k) {
    return k * 32 + (int)threadIdx.x % 32;
  }

  static __device__ __forceinline__ void load_query(const decode_call &c, const decode_segment &g, int kv_head,
                                                    unsigned char *room, query &q) {
    float *to = (float *)room;
    q.rows = min(R, g.num_q * (int)c.group.divisor - g.row0);
    __syncwarp();
#pragma unroll 1
    for (int r = 0; r < R; r++) {
      const float *from = (const float *)c.q;
      if (r < q.rows) from += row_offset(c, c.qs, g.b, g.q0, g.row0 + r, kv_head);
      for (int k = threadIdx.x % 32; k < D; k += 32) to[r * D + k] = r < q.rows ? from[k] : 0;
    }
    __syncwarp();
  }

  static __device__ __forceinline__ float4 load_four(uint32_t from) {
    float4 x;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(from)
                 : "memory");
    return x;
  }

  static __device__ __forceinline__ void score(const float *q, uint32_t keys, float (&s)[4]) {
    constexpr int columns = decode_tile<float, D, tile>::columns;
    int key = threadIdx.x % tile, first = (int)threadIdx.x % 32 / tile * (columns / 2);
#pragma unroll
    for (int r = 0; r < 4; r++) s[r] = 0;
#pragma unroll 4
    for (int i = first; i < first + columns / 2; i++) {
      float4 x = load_four(keys + (uint32_t)(key * columns + swizzled<columns>(key, i)) * 16);
#pragma unroll
      for (int r = 0; r < 4; r++) {
        float4 y = *(const float4 *)(q + r * D + i * 4);
        s[r] += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
      }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) s[r] += __shfl_xor_sync(0xffffffffu, s[r], tile);
  }

  /* Rows that do not see a key leave its value alone: it may be anything. */
  template <int FIRST>
  static __device__ __forceinline__ void add_values(const float *weights, const unsigned (&seen)[4], bool all,
                                                    uint32_t values, decode_sums<R, C> &x) {
    constexpr int columns = decode_tile<float, DV, tile>::columns;
#pragma unroll 4
    for (int key = 0; key < tile; key++) {
      float4 w = *(const float4 *)(weights + key * 4);
      float by[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int k = 0; k < C; k++) {
        int column = column_of(k);
        uint32_t from = values + (uint32_t)(key * columns + swizzled<columns>(key, column / 4)) * 16 + column % 4 * 4;
        float v;
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(from) : "memory");
#pragma unroll
        for (int r = 0; r < 4; r++)
          if (all || (seen[r] >> key & 1)) x.o[FIRST + r][k] += by[r] * v;
      }
    }
  }

  /* Four rows from FIRST on. */
  template <int FIRST>
  static __device__ __forceinline__ void attend_rows(const decode_call &c, const decode_segment &g, int j0,
                                                     decode_sight sight, unsigned char *room, uint32_t keys,
                                                     decode_sums<R, C> &x) {
    const float *q = (const float *)room + FIRST * D;
    float s[4], *weights = (float *)room + R * D + FIRST * tile;
    unsigned seen[4] = {};
    int lane = threadIdx.x % 32, j = j0 + lane % tile;
    score(q, keys, s);
    scale_scores(c, s);
#pragma unroll
    for (int r = 0; r < 4; r++) {
      float &m = x.m[FIRST + r], &l = x.l[FIRST + r];
      if (sight != SEEN_BY_ALL) {
        int lo, hi;
        row_keys(c, g, FIRST + r, lo, hi);
        if (j < lo || j >= hi) s[r] = -INFINITY;
        seen[r] = __ballot_sync(0xffffffffu, j >= lo && j < hi);
      }
      float largest = s[r];
#pragma unroll
      for (int d = tile / 2; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
      largest = fmaxf(largest, m);
      float old = rescale(m, largest);
      m = largest;
      s[r] = exp2_of(s[r] - (largest == -INFINITY ? 0 : largest));
      l = l * old + s[r];
#pragma unroll
      for (int k = 0; k < C; k++) x.o[FIRST + r][k] *= old;
    }
    if (lane < tile) *(float4 *)(weights + lane * 4) = make_float4(s[0], s[1], s[2], s[3]);
    __syncwarp();
    add_values<FIRST>(weights, seen, sight == SEEN_BY_ALL, keys + decode_tile<float, D, tile>::bytes, x);
    __syncwarp();
  }

  static __device__ __forceinline__ void attend(const decode_call &c, const decode_segment &g, int j0,
                                                decode_sight sight, const query &q, unsigned char *room, uint32_t keys,
                                                decode_sums<R, C> &x) {
    attend_rows<0>(c, g, j0, sight, room, keys, x);
    if (q.rows > 4) attend_rows<4>(c, g, j0, sight, room, keys, x);
  }
};
