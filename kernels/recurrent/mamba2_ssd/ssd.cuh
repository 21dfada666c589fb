/* mamba2_ssd on the GPU: what its kernels share.
 *
 * scan_rows() goes token by token: a group of LANES lanes has ROWS rows of a state in registers, four columns (or twice
 * four) per lane. It is right for every input, whatever is not finite, and is as fast as memory where a sequence has a
 * token or few; prefill.cu combines the tokens of a chunk and comes back to it when something left the range. */
#pragma once

#include <float.h>

#include "device/cuda/kernel.cuh"
#include "tasks/mamba2_ssd.h"

typedef struct ssd_job {
  const void *x, *dt, *B, *C, *D, *dt_bias; /* D, dt_bias: may be NULL */
  const float *A;
  float *state;
  void *out;
  const int32_t *cu_seqlens_q, *seq_lens, *state_slots;
  int64_t num_tokens, num_slots, x_token, x_head, dt_token, b_token, b_group, c_token, c_group, out_token, out_head;
  int heads, dim, groups, size, num_seqs, heads_per_group;
  int longest; /* sequences of more tokens are left to prefill.cu */
  float dt_min, dt_max;
  fk_index_check start_check, length_check, slot_check, count_check;
} ssd_job;

typedef struct ssd_sequence {
  int64_t first, slot;
  int tokens;
  bool has_initial_state;
} ssd_sequence;

/* False when the sequence has no tokens, or is not one that could be read and written safely. */
static __device__ __forceinline__ bool sequence_at(const ssd_job &j, int b, ssd_sequence *q) {
  int64_t start = j.cu_seqlens_q[b], end = j.cu_seqlens_q[b + 1];
  q->first = start;
  q->slot = j.state_slots[b];
  q->tokens = (int)(end - start);
  q->has_initial_state = j.seq_lens[b] > end - start;
  return start >= 0 && end > start && end <= j.num_tokens && q->slot >= 0 && q->slot < j.num_slots;
}

static __device__ __forceinline__ void check_sequence(const ssd_job &j, int b) {
  int64_t start = j.cu_seqlens_q[b], end = j.cu_seqlens_q[b + 1];
  bool ok = fk_index_ok(j.start_check, end, j.num_tokens + 1) && fk_index_ok(j.start_check, start, end + 1);
  if (b == 0) ok = fk_index_ok(j.start_check, start, 1) && ok;
  if (b + 1 == j.num_seqs) ok = fk_index_ok(j.count_check, j.num_tokens, end + 1) && ok;
  if (ok) fk_index_ok(j.length_check, end - start, (int64_t)j.seq_lens[b] + 1);
  fk_index_ok(j.slot_check, j.state_slots[b], j.num_slots);
}

static __device__ __forceinline__ float clamped_step(const ssd_job &j, float v) {
  float dt = v > 20 ? v : log1pf(expf(v));
  return dt < j.dt_min ? j.dt_min : dt > j.dt_max ? j.dt_max : dt;
}

template <typename T>
static __device__ __forceinline__ float time_step(const ssd_job &j, int64_t token, int head) {
  float v = fk_float(((const T *)j.dt)[token * j.dt_token + head]);
  return clamped_step(j, j.dt_bias ? v + fk_float(((const T *)j.dt_bias)[head]) : v);
}

/* N consecutive elements, of which those from `valid` on are zero. PACKED: the address is a multiple of the bytes read,
 * and valid is 0, negative or at least N. */
template <typename T, int N, bool PACKED>
static __device__ __forceinline__ void load_floats(const T *from, int valid, float (&to)[N]) {
  if constexpr (PACKED) {
    constexpr int BYTES = N * (int)sizeof(T) < 16 ? N * (int)sizeof(T) : 16, EACH = BYTES / (int)sizeof(T);
#pragma unroll
    for (int i = 0; i < N / EACH; i++) {
      alignas(16) T part[EACH];
      if constexpr (BYTES == 16)
        *(uint4 *)part = valid > 0 ? *((const uint4 *)from + i) : make_uint4(0, 0, 0, 0);
      else
        *(uint2 *)part = valid > 0 ? *((const uint2 *)from + i) : make_uint2(0, 0);
#pragma unroll
      for (int k = 0; k < EACH; k++) to[i * EACH + k] = fk_float(part[k]);
    }
  } else {
#pragma unroll
    for (int k = 0; k < N; k++) to[k] = k < valid ? fk_float(from[k]) : 0;
  }
}

/* What a lane needs of a token: its columns of B and C, and x of its rows. */
template <int ROWS, int VECS>
struct token_part {
  float b[VECS][4], c[VECS][4], x[ROWS];
};

template <typename T, int LANES, int VECS, int ROWS, bool PACKED>
static __device__ __forceinline__ void load_token(const ssd_job &j, int64_t token, int head, int row, int column,
                                                  token_part<ROWS, VECS> *p) {
  int group = head / j.heads_per_group;
  const T *b = (const T *)j.B + token * j.b_token + group * j.b_group + column;
  const T *c = (const T *)j.C + token * j.c_token + group * j.c_group + column;
#pragma unroll
  for (int v = 0; v < VECS; v++) {
    load_floats<T, 4, PACKED>(b + v * LANES * 4, j.size - column - v * LANES * 4, p->b[v]);
    load_floats<T, 4, PACKED>(c + v * LANES * 4, j.size - column - v * LANES * 4, p->c[v]);
  }
  load_floats<T, ROWS, PACKED>((const T *)j.x + token * j.x_token + head * j.x_head + row, j.dim - row, p->x);
}

/* Adds sum[r] of LANES neighbours for each of ROWS rows; a lane gets row (lane % LANES) / (LANES / ROWS). */
template <typename R, int LANES, int ROWS>
static __device__ __forceinline__ R add_rows(R (&sum)[ROWS], int lane) {
  int distance = LANES / 2;
#pragma unroll
  for (int n = ROWS / 2; n > 0; n /= 2, distance /= 2) {
    bool upper = lane & distance;
#pragma unroll
    for (int r = 0; r < n; r++) {
      R give = upper ? sum[r] : sum[r + n], keep = upper ? sum[r + n] : sum[r];
      sum[r] = keep + __shfl_xor_sync(0xffffffffu, give, distance);
    }
  }
#pragma unroll
  for (int d = LANES / ROWS / 2; d > 0; d /= 2) sum[0] += __shfl_xor_sync(0xffffffffu, sum[0], d);
  return sum[0];
}

/* The row's output once more in double: terms may leave the range of float where their sum, or its sign, does not. */
template <int LANES, int VECS, int ROWS>
static __device__ __forceinline__ float exact_output(const float (&h)[ROWS][VECS * 4], const float (&c)[VECS][4],
                                                     const float (&skip)[ROWS], int lane) {
  double sum[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    sum[r] = (double)skip[r];
#pragma unroll
    for (int k = 0; k < VECS * 4; k++) sum[r] += (double)h[r][k] * (double)c[k / 4][k % 4];
  }
  return (float)add_rows<double, LANES, ROWS>(sum, lane);
}

/* Rows [row, row + ROWS) of one head of one sequence, by the LANES lanes that share `row`. All lanes of a warp call it
 * together, with the same sequence and head; rows from j.dim on do not exist. */
template <typename T, int LANES, int VECS, bool PACKED>
static __device__ __forceinline__ void scan_rows(const ssd_job &j, const ssd_sequence &q, int head, int row) {
  constexpr int ROWS = 8 / VECS;
  int lane = threadIdx.x % 32, column = lane % LANES * 4;
  float *state = j.state + ((q.slot * j.heads + head) * j.dim + row) * (int64_t)j.size + column;
  float h[ROWS][VECS * 4];
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int v = 0; v < VECS; v++) {
      int valid = q.has_initial_state && row + r < j.dim ? j.size - column - v * LANES * 4 : 0;
      float part[4];
      const float *from = state + (int64_t)r * j.size + v * LANES * 4;
      if constexpr (PACKED) {
        *(float4 *)part = valid > 0 ? __ldcs((const float4 *)from) : make_float4(0, 0, 0, 0);
      } else {
#pragma unroll
        for (int k = 0; k < 4; k++) part[k] = k < valid ? from[k] : 0;
      }
#pragma unroll
      for (int k = 0; k < 4; k++) h[r][v * 4 + k] = part[k];
    }
  float a = j.A[head], skip = j.D ? fk_float(((const T *)j.D)[head]) : 0;
  constexpr int DEPTH = sizeof(T) == 4 ? 4 : 1; /* tokens on their way; 16-bit ones go far by chunks */
  token_part<ROWS, VECS> coming[DEPTH];
#pragma unroll
  for (int i = 0; i < DEPTH; i++)
    if (i < q.tokens) load_token<T, LANES, VECS, ROWS, PACKED>(j, q.first + i, head, row, column, &coming[i]);
  float dt32 = 0, decay32 = 0; /* of token t / 32 * 32 + lane */
  for (int first = 0; first < q.tokens; first += DEPTH)
#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
      int t = first + i;
      if (t >= q.tokens) break;
      token_part<ROWS, VECS> now = coming[i];
      if (t + DEPTH < q.tokens)
        load_token<T, LANES, VECS, ROWS, PACKED>(j, q.first + t + DEPTH, head, row, column, &coming[i]);
      if (t % 32 == 0) {
        int mine = t + lane < q.tokens ? t + lane : q.tokens - 1;
        dt32 = time_step<T>(j, q.first + mine, head);
        decay32 = expf(dt32 * a);
      }
      float dt = __shfl_sync(0xffffffffu, dt32, t % 32), decay = __shfl_sync(0xffffffffu, decay32, t % 32);
      float sum[ROWS], passed[ROWS];
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        float dx = dt * now.x[r];
        passed[r] = j.D && lane % LANES == 0 ? skip * now.x[r] : 0;
        sum[r] = passed[r];
#pragma unroll
        for (int k = 0; k < VECS * 4; k++) {
          h[r][k] = fmaf(h[r][k], decay, dx * now.b[k / 4][k % 4]);
          sum[r] = fmaf(h[r][k], now.c[k / 4][k % 4], sum[r]);
        }
      }
      float y = add_rows<float, LANES, ROWS>(sum, lane);
      int mine = row + lane % LANES / (LANES / ROWS);
      bool writes = lane % (LANES / ROWS) == 0 && mine < j.dim;
      if (__any_sync(0xffffffffu, mine < j.dim && !(fabsf(y) <= FLT_MAX)))
        y = exact_output<LANES, VECS, ROWS>(h, now.c, passed, lane);
      if (writes) ((T *)j.out)[(q.first + t) * j.out_token + head * j.out_head + mine] = fk_from<T>(y);
    }
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int v = 0; v < VECS; v++) {
      int valid = row + r < j.dim ? j.size - column - v * LANES * 4 : 0;
      float *to = state + (int64_t)r * j.size + v * LANES * 4;
      if constexpr (PACKED) {
        if (valid > 0)
          __stcs((float4 *)to, make_float4(h[r][v * 4], h[r][v * 4 + 1], h[r][v * 4 + 2], h[r][v * 4 + 3]));
      } else {
#pragma unroll
        for (int k = 0; k < 4; k++)
          if (k < valid) to[k] = h[r][v * 4 + k];
      }
    }
}
