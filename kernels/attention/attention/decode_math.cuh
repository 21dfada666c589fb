/* What a warp of decode.cu does with one tile of keys and values in its part of shared memory: scores, exponentials,
 * weighted sums. Two of a kind, with the same members: decode_math on the tensor cores, decode_math_float. */
#pragma once

#include "decode.cuh"

/* ---- 16-bit types: tensor cores -------------------------------------------------------------------------- */

static __device__ __forceinline__ void load_matrices(uint32_t (&x)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(from)
               : "memory");
}

static __device__ __forceinline__ void load_transposed(uint32_t (&x)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(from)
               : "memory");
}

/* d += a b: 16 rows, 8 columns, 16 deep. */
template <typename T>
static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same<T, __nv_bfloat16>::value)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <typename T>
static __device__ __forceinline__ uint32_t pack_two(float low, float high) {
  T two[2] = {fk_from<T>(low), fk_from<T>(high)};
  uint32_t bits;
  memcpy(&bits, two, 4);
  return bits;
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

/* MT: groups of 16 rows. A lane holds rows lane / 4 and 8 more of each, and of 8 columns two. */
template <typename T, int D, int DV, int MT>
struct decode_math {
  static constexpr int rows = 16 * MT, R = 2 * MT, C = DV / 4;
  static constexpr int warp_bytes = 0; /* of shared memory besides the stages */
  static constexpr int row_lanes = 4;  /* neighbours that hold parts of the same row */
  typedef struct query {
    uint32_t x[MT][D / 16][4];
  } query;

  static __device__ __forceinline__ int row_of(int i) {
    return i / 2 * 16 + i % 2 * 8 + (int)threadIdx.x % 32 / 4;
  }
  static __device__ __forceinline__ int column_of(int k) {
    return k / 2 * 8 + (int)threadIdx.x % 4 * 2 + k % 2;
  }

  static __device__ void load_query(const decode_call &c, const decode_place &p, int kv_head, unsigned char *,
                                    query &q) {
    int total = p.s.num_q * c.group;
#pragma unroll
    for (int i = 0; i < R; i++) {
      int row = p.row0 + row_of(i);
      const T *from = (const T *)c.q + (row < total ? row_offset(c, c.qs, p.s, p.b, row, kv_head) : 0);
#pragma unroll
      for (int k = 0; k < D / 8; k++) {
        uint32_t two = 0;
        if (row < total) two = *(const uint32_t *)(from + k * 8 + threadIdx.x % 4 * 2);
        q.x[i / 2][k / 2][k % 2 * 2 + i % 2] = two;
      }
    }
  }

  /* Bit n * 2 + e: whether row i sees key n * 8 + 2 * (lane % 4) + e of the tile. */
  static __device__ __forceinline__ unsigned seen_by(const decode_call &c, const decode_place &p, int query, int j0) {
    int lo, hi;
    visible_keys(c, p.s, query, lo, hi);
    unsigned bits = 0;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        int j = j0 + n * 8 + (int)threadIdx.x % 4 * 2 + e;
        if (j >= lo && j < hi) bits |= 1u << (n * 2 + e);
      }
    return bits;
  }

  static __device__ __forceinline__ uint32_t value_address(uint32_t values, int n) {
    int lane = threadIdx.x % 32, row = lane % 16;
    return values +
           (uint32_t)(row * decode_tile<T, DV>::columns + swizzled<decode_tile<T, DV>::columns>(row, n + lane / 16)) *
               16;
  }

  static __device__ __forceinline__ void add_values(decode_sums<R, C> &x, const uint32_t (&weights)[MT][4],
                                                    uint32_t values, uint32_t low_mask, uint32_t high_mask) {
#pragma unroll
    for (int n = 0; n < DV / 8; n += 2) {
      uint32_t v[4];
      load_transposed(v, value_address(values, n));
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int mt = 0; mt < MT; mt++) {
          float d[4] = {x.o[2 * mt][2 * (n + half)], x.o[2 * mt][2 * (n + half) + 1], x.o[2 * mt + 1][2 * (n + half)],
                        x.o[2 * mt + 1][2 * (n + half) + 1]};
          multiply<T>(d, weights[mt], v[2 * half] & low_mask, v[2 * half + 1] & high_mask);
          x.o[2 * mt][2 * (n + half)] = d[0];
          x.o[2 * mt][2 * (n + half) + 1] = d[1];
          x.o[2 * mt + 1][2 * (n + half)] = d[2];
          x.o[2 * mt + 1][2 * (n + half) + 1] = d[3];
        }
    }
  }

  /* A tile that some rows see in part and that holds a NaN or an infinity: nothing times zero is not zero, so a query
   * at a time, with zeros for the values that it does not see. */
  static __device__ __forceinline__ void add_values_apart(const decode_call &c, const decode_place &p, int j0,
                                                          decode_sums<R, C> &x, const uint32_t (&weights)[MT][4],
                                                          uint32_t values) {
    int last = min(p.row0 + rows, p.s.num_q * c.group) - 1;
    for (int query = p.row0 / c.group; query <= last / c.group; query++) {
      unsigned seen = seen_by(c, p, query, j0);
      uint32_t low = (seen & 1 ? 0xffffu : 0) | (seen & 2 ? 0xffff0000u : 0);
      uint32_t high = (seen & 4 ? 0xffffu : 0) | (seen & 8 ? 0xffff0000u : 0);
      uint32_t own[MT][4];
#pragma unroll
      for (int mt = 0; mt < MT; mt++)
#pragma unroll
        for (int i = 0; i < 4; i++)
          own[mt][i] = (p.row0 + row_of(2 * mt + i % 2)) / c.group == query ? weights[mt][i] : 0;
      add_values(x, own, values, low, high);
    }
  }

  static __device__ __forceinline__ bool values_nonfinite(uint32_t values) {
    bool found = false;
#pragma unroll 2
    for (int i = 0; i < decode_tile<T, DV>::columns / 2; i++) {
      uint4 v;
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                   : "r"(values + (uint32_t)(i * 32 + threadIdx.x % 32) * 16)
                   : "memory");
      found = found || any_nonfinite<T>(v);
    }
    return __any_sync(0xffffffffu, found);
  }

  static __device__ __forceinline__ void score(const query &q, uint32_t keys, float (&s)[R][4]) {
    int lane = threadIdx.x % 32, row = lane / 16 * 8 + lane % 8;
    float d[MT][2][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
      uint32_t x[4];
      int column = swizzled<decode_tile<T, D>::columns>(row, 2 * k + lane / 8 % 2);
      load_matrices(x, keys + (uint32_t)(row * decode_tile<T, D>::columns + column) * 16);
#pragma unroll
      for (int mt = 0; mt < MT; mt++) {
        multiply<T>(d[mt][0], q.x[mt][k], x[0], x[1]);
        multiply<T>(d[mt][1], q.x[mt][k], x[2], x[3]);
      }
    }
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
      for (int k = 0; k < 4; k++) s[i][k] = d[i / 2][k / 2][i % 2 * 2 + k % 2];
  }

  /* One tile of keys. */
  static __device__ __forceinline__ void attend(const decode_call &c, const decode_place &p, int j0, decode_sight sight,
                                                const query &q, unsigned char *, uint32_t keys, decode_sums<R, C> &x) {
    float s[R][4];
    uint32_t weights[MT][4];
    score(q, keys, s);
#pragma unroll
    for (int i = 0; i < R; i++) {
      int row = p.row0 + row_of(i);
      unsigned seen = sight != SEEN_BY_ALL ? row < p.s.num_q * c.group ? seen_by(c, p, row / c.group, j0) : 0 : 15;
      float largest = -INFINITY;
#pragma unroll
      for (int k = 0; k < 4; k++) {
        s[i][k] = seen >> k & 1 ? scaled_score(c, s[i][k]) : -INFINITY;
        largest = fmaxf(largest, s[i][k]);
      }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2)), x.m[i]);
      float old = rescale(x.m[i], largest);
      float shift = largest == -INFINITY ? 0 : largest;
      x.m[i] = largest;
      x.l[i] *= old;
#pragma unroll
      for (int k = 0; k < 4; k++) {
        s[i][k] = exp2_of(s[i][k] - shift);
        x.l[i] += s[i][k];
      }
      weights[i / 2][i % 2] = pack_two<T>(s[i][0], s[i][1]);
      weights[i / 2][i % 2 + 2] = pack_two<T>(s[i][2], s[i][3]);
      if (__any_sync(0xffffffffu, old != 1)) { /* mostly the largest score is an earlier one */
#pragma unroll
        for (int k = 0; k < C; k++) x.o[i][k] *= old;
      }
    }
    uint32_t values = keys + decode_tile<T, D>::bytes;
    if (sight == SEEN_BY_SOME && values_nonfinite(values))
      add_values_apart(c, p, j0, x, weights, values);
    else
      add_values(x, weights, values, 0xffffffffu, 0xffffffffu);
  }
};

/* ---- float32 --------------------------------------------------------------------------------------------- */

/* Scores: a lane takes half of the columns of one key. Values: it takes every 32nd column of all keys. */
template <int D, int DV>
struct decode_math_float {
  static constexpr int rows = 8, R = 8, C = DV / 32;
  static constexpr int warp_bytes = (rows * D + TILE * rows) * 4; /* queries, then exponentials */
  static constexpr int row_lanes = 16;
  typedef struct query {
    unsigned char none;
  } query;

  static __device__ __forceinline__ int row_of(int i) {
    return i;
  }
  static __device__ __forceinline__ int column_of(int k) {
    return k * 32 + (int)threadIdx.x % 32;
  }

  static __device__ void load_query(const decode_call &c, const decode_place &p, int kv_head, unsigned char *room,
                                    query &) {
    float *to = (float *)room;
    int total = p.s.num_q * c.group;
    __syncwarp();
    for (int r = 0; r < R; r++) {
      int row = p.row0 + r;
      const float *from = (const float *)c.q + (row < total ? row_offset(c, c.qs, p.s, p.b, row, kv_head) : 0);
      for (int k = threadIdx.x % 32; k < D; k += 32) to[r * D + k] = row < total ? from[k] : 0;
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

  static __device__ __forceinline__ void score(const float *q, uint32_t keys, float (&s)[R]) {
    constexpr int columns = decode_tile<float, D>::columns;
    int key = threadIdx.x % TILE, first = (int)threadIdx.x % 32 / TILE * (columns / 2);
#pragma unroll
    for (int r = 0; r < R; r++) s[r] = 0;
#pragma unroll 4
    for (int i = first; i < first + columns / 2; i++) {
      float4 x = load_four(keys + (uint32_t)(key * columns + swizzled<columns>(key, i)) * 16);
#pragma unroll
      for (int r = 0; r < R; r++) {
        float4 y = *(const float4 *)(q + r * D + i * 4);
        s[r] += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
      }
    }
#pragma unroll
    for (int r = 0; r < R; r++) s[r] += __shfl_xor_sync(0xffffffffu, s[r], TILE);
  }

  /* Rows that do not see a key leave its value alone: it may be anything. */
  static __device__ __forceinline__ void add_values(const float *weights, const unsigned (&seen)[R], uint32_t values,
                                                    decode_sums<R, C> &x) {
    constexpr int columns = decode_tile<float, DV>::columns;
#pragma unroll 2
    for (int key = 0; key < TILE; key++) {
      float v[C];
#pragma unroll
      for (int k = 0; k < C; k++) {
        int column = column_of(k);
        uint32_t from = values + (uint32_t)(key * columns + swizzled<columns>(key, column / 4)) * 16 + column % 4 * 4;
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v[k]) : "r"(from) : "memory");
      }
#pragma unroll
      for (int r = 0; r < R; r++)
        if (seen[r] >> key & 1) {
#pragma unroll
          for (int k = 0; k < C; k++) x.o[r][k] += weights[key * R + r] * v[k];
        }
    }
  }

  static __device__ __forceinline__ void attend(const decode_call &c, const decode_place &p, int j0, decode_sight sight,
                                                const query &, unsigned char *room, uint32_t keys,
                                                decode_sums<R, C> &x) {
    const float *q = (const float *)room;
    float s[R], *weights = (float *)room + rows * D;
    unsigned seen[R];
    int lane = threadIdx.x % 32, total = p.s.num_q * c.group, j = j0 + lane % TILE;
    score(q, keys, s);
#pragma unroll
    for (int r = 0; r < R; r++) {
      int lo = 0, hi = 0, row = p.row0 + r;
      if (row < total) visible_keys(c, p.s, row / c.group, lo, hi);
      bool sees = row < total && (sight == SEEN_BY_ALL || (j >= lo && j < hi));
      seen[r] = __ballot_sync(0xffffffffu, sees);
      s[r] = sees ? scaled_score(c, s[r]) : -INFINITY;
      float largest = s[r];
#pragma unroll
      for (int d = TILE / 2; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
      largest = fmaxf(largest, x.m[r]);
      float old = rescale(x.m[r], largest);
      x.m[r] = largest;
      s[r] = exp2_of(s[r] - (largest == -INFINITY ? 0 : largest));
      x.l[r] = x.l[r] * old + s[r];
#pragma unroll
      for (int k = 0; k < C; k++) x.o[r][k] *= old;
      if (lane < TILE) weights[lane * R + r] = s[r];
    }
    __syncwarp();
    add_values(weights, seen, keys + decode_tile<float, D>::bytes, x);
    __syncwarp();
  }
};
