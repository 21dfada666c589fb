/* causal_conv1d on the GPU: a block takes up to CHUNK tokens of one sequence and a range of channels; a thread has one
 * pack of channels, reads its tokens and the few before them at once, and writes the outputs.
 *
 * Chunks are counted from each sequence's first token and are no shorter than a filter reaches back. So only the first
 * chunk of a sequence looks at conv_state, and its threads also leave the new state there: nobody else reads what they
 * overwrite. Blocks find their sequence by themselves, for the host does not know the lengths: sequence b owns blocks
 * from cu_seqlens_q[b] / CHUNK + b on, which is as many as it can need.
 *
 * out may be x: then x is copied first, since neighbouring chunks read the same tokens. */
#include "device/cuda/kernel.cuh"
#include "tasks/causal_conv1d.h"

enum { CHUNK = 8, CHUNK_ANY = 16, MAX_THREADS = 256 };

typedef struct conv_job {
  const void *x, *weight, *bias;
  void *state, *out;
  const int32_t *cu_seqlens_q, *seq_lens, *state_slots;
  int64_t num_tokens, num_slots, dim, x_stride, out_stride;
  int num_seqs, width, chunk;
  bool silu;
  fk_index_check start_check, length_check, slot_check, count_check;
} conv_job;

/* A block's part of a sequence: tokens [first + start, first + start + count). */
typedef struct piece {
  int64_t first, tokens, start, slot;
  bool has_initial_state;
} piece;

static __device__ __forceinline__ int64_t first_block(const conv_job &j, int b) {
  return (int64_t)j.cu_seqlens_q[b] / j.chunk + b;
}

/* The last sequence whose blocks begin at or before this one. Lengths are often alike: the guess saves the search. */
static __device__ __forceinline__ int sequence_of(const conv_job &j, int64_t block, int64_t blocks) {
  int low = (int)(block * j.num_seqs / blocks), high = j.num_seqs;
  if (first_block(j, low) <= block && (low + 1 == high || block < first_block(j, low + 1))) return low;
  low = 0;
  while (high - low > 1) {
    int middle = low + (high - low) / 2;
    if (first_block(j, middle) <= block)
      low = middle;
    else
      high = middle;
  }
  return low;
}

/* False when there is nothing to do, or nothing that could be done safely. */
static __device__ __forceinline__ bool find_piece(const conv_job &j, piece *p) {
  int64_t blocks = gridDim.x;
  int b = sequence_of(j, blockIdx.x, blocks);
  int64_t end = j.cu_seqlens_q[b + 1];
  p->first = j.cu_seqlens_q[b];
  p->tokens = end - p->first;
  p->start = (blockIdx.x - first_block(j, b)) * j.chunk;
  p->slot = j.state_slots[b];
  p->has_initial_state = j.seq_lens[b] > p->tokens;
  return p->first >= 0 && end <= j.num_tokens && p->start >= 0 && p->start < p->tokens && p->slot >= 0 &&
         p->slot < j.num_slots;
}

/* The first blocks look over all sequences once. A start beyond the next one is reported against that one. */
static __device__ __forceinline__ void check_sequences(const conv_job &j) {
  int64_t b = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (blockIdx.y != 0 || b >= j.num_seqs) return;
  int64_t start = j.cu_seqlens_q[b], end = j.cu_seqlens_q[b + 1];
  bool ok = fk_index_ok(j.start_check, end, j.num_tokens + 1) && fk_index_ok(j.start_check, start, end + 1);
  if (b == 0) ok = fk_index_ok(j.start_check, start, 1) && ok;
  if (b + 1 == j.num_seqs) ok = fk_index_ok(j.count_check, j.num_tokens, end + 1) && ok;
  if (ok) fk_index_ok(j.length_check, end - start, (int64_t)j.seq_lens[b] + 1);
  fk_index_ok(j.slot_check, j.state_slots[b], j.num_slots);
}

static __device__ __forceinline__ float activate(float v, bool silu) {
  return silu ? __fdividef(v, 1 + __expf(-v)) : v;
}

template <typename T>
static __device__ __forceinline__ float element(const uint4 *packs, int i) {
  const uint32_t *word = (const uint32_t *)packs;
  if constexpr (std::is_same<T, float>::value) {
    return __uint_as_float(word[i]);
  } else if constexpr (std::is_same<T, __nv_bfloat16>::value) {
    return __uint_as_float(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
  } else {
    float2 v = __half22float2(*(const __half2 *)&word[i / 2]);
    return i % 2 ? v.y : v.x;
  }
}

/* The last WIDTH - 1 inputs, where window holds the first chunk's. */
template <typename T, int WIDTH>
static __device__ __forceinline__ void keep_state(const conv_job &j, const piece &p, const T *x, T *state,
                                                  const uint4 *window) {
#pragma unroll
  for (int k = 0; k < WIDTH - 1; k++) {
    uint4 v = window[k + 1];
    if (p.tokens > 1) {
      int64_t at = p.tokens - (WIDTH - 1) + k;
      if (at >= 0) v = *(const uint4 *)(x + (p.first + at) * j.x_stride);
#pragma unroll
      for (int m = k + 2; m < WIDTH - 1; m++)
        if (m == p.tokens + k) v = window[m];
    }
    *(uint4 *)(state + k * j.dim) = v;
  }
}

template <typename T, int WIDTH>
static __global__ void __launch_bounds__(MAX_THREADS) conv_packed(conv_job j) {
  constexpr int N = fk_pack<T>::size, BACK = WIDTH - 1;
  fk_wait_previous();
  int64_t channel = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * N;
  piece p;
  if (channel < j.dim && find_piece(j, &p)) {
    const T *x = (const T *)j.x + channel, *weight = (const T *)j.weight + channel * WIDTH;
    T *state = (T *)j.state + p.slot * BACK * j.dim + channel, *out = (T *)j.out + channel;
    uint4 window[BACK + CHUNK], filter[WIDTH], bias = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < BACK + CHUNK; i++) {
      int64_t at = p.start - BACK + i;
      window[i] = make_uint4(0, 0, 0, 0);
      if (at >= 0 && at < p.tokens)
        window[i] = *(const uint4 *)(x + (p.first + at) * j.x_stride);
      else if (i < BACK && p.start == 0 && p.has_initial_state)
        window[i] = *(const uint4 *)(state + i * j.dim);
    }
#pragma unroll
    for (int i = 0; i < WIDTH; i++) filter[i] = *(const uint4 *)(weight + i * N);
    if (j.bias) bias = *(const uint4 *)((const T *)j.bias + channel);
    if (WIDTH > 1 && p.start == 0) keep_state<T, WIDTH>(j, p, x, state, window);
#pragma unroll
    for (int c = 0; c < CHUNK; c++) {
      if (p.start + c >= p.tokens) break;
      fk_pack<T> y;
#pragma unroll
      for (int i = 0; i < N; i++) {
        float sum = element<T>(&bias, i);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) sum += element<T>(filter, i * WIDTH + k) * element<T>(&window[c + k], i);
        y.at[i] = fk_from<T>(activate(sum, j.silu));
      }
      fk_store_pack(out + (p.first + p.start + c) * j.out_stride, y);
    }
  }
  check_sequences(j);
}

/* Any width, any stride: a thread per channel. */
template <typename T>
static __global__ void __launch_bounds__(MAX_THREADS) conv_any(conv_job j) {
  fk_wait_previous();
  int64_t channel = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
  int back = j.width - 1;
  piece p;
  if (channel < j.dim && find_piece(j, &p)) {
    const T *x = (const T *)j.x + channel, *weight = (const T *)j.weight + channel * j.width;
    T *state = (T *)j.state + p.slot * back * j.dim + channel;
    float bias = j.bias ? fk_float(((const T *)j.bias)[channel]) : 0;
    for (int64_t t = p.start; t < p.tokens && t < p.start + j.chunk; t++) {
      float sum = bias;
      for (int k = 0; k <= back; k++) {
        int64_t at = t - back + k;
        float input = 0;
        if (at >= 0)
          input = fk_float(x[(p.first + at) * j.x_stride]);
        else if (p.has_initial_state)
          input = fk_float(state[(back + at) * j.dim]);
        sum += fk_float(weight[k]) * input;
      }
      ((T *)j.out)[(p.first + t) * j.out_stride + channel] = fk_from<T>(activate(sum, j.silu));
    }
    if (p.start == 0)
      for (int k = 0; k < back; k++) { /* in this order: an entry moves to where it has been read before */
        int64_t at = p.tokens - back + k;
        T v = at >= 0 ? x[(p.first + at) * j.x_stride]
                      : (p.has_initial_state ? state[(back + at) * j.dim] : fk_from<T>(0));
        state[k * j.dim] = v;
      }
  }
  check_sequences(j);
}

template <typename T>
static __global__ void copy_rows(const T *from, int64_t stride, T *to, int64_t dim) {
  fk_wait_previous();
  from += blockIdx.x * stride;
  to += blockIdx.x * dim;
  if (fk_pack<T>::size * (dim / fk_pack<T>::size) == dim && (uintptr_t)from % 16 == 0) {
    for (int64_t i = threadIdx.x * fk_pack<T>::size; i < dim; i += blockDim.x * fk_pack<T>::size)
      fk_store_pack(to + i, fk_load_pack(from + i));
    return;
  }
  for (int64_t i = threadIdx.x; i < dim; i += blockDim.x) to[i] = from[i];
}

/* Whole warps that leave the fewest lanes without work. */
static int threads_for(int64_t items) {
  int best = 32;
  for (int t = 64; t <= MAX_THREADS; t += 32)
    if (fk_ceil_div(items, t) * t <= fk_ceil_div(items, best) * best || (best < 64 && items > 32)) best = t;
  return best;
}

template <typename T>
static fk_status launch(fk_context *ctx, conv_job *j) {
  constexpr int N = fk_pack<T>::size;
  if (j->out == j->x) {
    T *copy = (T *)fk_scratch(ctx, (size_t)(j->num_tokens * j->dim) * sizeof(T));
    if (!copy) return FK_ERROR_MEMORY;
    FK_TRY(fk_launch_early(ctx, copy_rows<T>, dim3((unsigned)j->num_tokens), dim3(256), 0, (const T *)j->x, j->x_stride,
                           copy, j->dim));
    j->x = copy;
    j->x_stride = j->dim;
  }
  bool packed = fk_packs<T>(j->x, j->x_stride, j->dim) && fk_packs<T>(j->out, j->out_stride, j->dim) &&
                fk_packs<T>(j->state, j->dim, j->dim) && fk_packs<T>(j->weight, 0, j->dim) &&
                fk_packs<T>(j->bias, 0, j->dim) && j->width >= 2 && j->width <= 4;
  j->chunk = packed ? CHUNK : CHUNK_ANY;
  int64_t items = packed ? j->dim / N : j->dim;
  int threads = threads_for(items);
  dim3 grid((unsigned)(j->num_tokens / j->chunk + j->num_seqs), (unsigned)fk_ceil_div(items, threads)), block(threads);
  if (grid.y > 65535) return fk_fail(FK_ERROR_UNSUPPORTED, "causal_conv1d: %lld channels", (long long)j->dim);
  void (*kernel)(conv_job) = conv_any<T>;
  if (packed) kernel = j->width == 2 ? conv_packed<T, 2> : j->width == 3 ? conv_packed<T, 3> : conv_packed<T, 4>;
  return fk_launch_early(ctx, kernel, grid, block, 0, *j);
}

fk_status fk_cuda_causal_conv1d(fk_context *ctx, const fk_causal_conv1d_args *a) {
  conv_job j = {};
  j.x = fk_data(a->x);
  j.weight = fk_data(a->weight);
  j.bias = a->bias ? fk_data(a->bias) : NULL;
  j.state = fk_data(a->conv_state);
  j.out = fk_data(a->out);
  j.cu_seqlens_q = (const int32_t *)fk_data(a->cu_seqlens_q);
  j.seq_lens = (const int32_t *)fk_data(a->seq_lens);
  j.state_slots = (const int32_t *)fk_data(a->state_slots);
  j.num_tokens = fk_size(a->x, 0);
  j.dim = fk_size(a->x, 1);
  j.num_slots = fk_size(a->conv_state, 0);
  j.x_stride = fk_stride(a->x, 0);
  j.out_stride = fk_stride(a->out, 0);
  j.num_seqs = (int)fk_size(a->state_slots, 0);
  j.width = (int)fk_size(a->weight, 1);
  j.silu = a->activation == 1;
  j.start_check = fk_index_checker(ctx, "causal_conv1d: cu_seqlens_q");
  j.length_check = fk_index_checker(ctx, "causal_conv1d: tokens of a sequence, by its seq_lens");
  j.slot_check = fk_index_checker(ctx, "causal_conv1d: state_slots");
  j.count_check = fk_index_checker(ctx, "causal_conv1d: num_tokens, by the end of cu_seqlens_q");
  if (fk_numel(a->x) == 0) return FK_OK;
  if (j.num_seqs == 0)
    return fk_fail(FK_ERROR_ARGUMENT, "causal_conv1d: expected no tokens without sequences, got %lld",
                   (long long)j.num_tokens);
  FK_FLOAT_DISPATCH(fk_type_of(a->x), T, return launch<T>(ctx, &j));
}
