/* causal_conv1d on the GPU: a block takes a chunk of one sequence's tokens and a range of channels; a thread has four
 * channels, and their filters and last inputs in registers, and goes through its tokens in steps whose loads are all
 * under way at once.
 *
 * Chunks are counted from each sequence's first token and are no shorter than a filter reaches back. So only the first
 * chunk of a sequence looks at conv_state, and its threads also leave the new state there: nobody else reads what they
 * overwrite. Blocks find their sequence by themselves, for the host does not know the lengths: sequence b owns blocks
 * from cu_seqlens_q[b] / chunk + b on, which is as many as it can need.
 *
 * With as many tokens as sequences each probably has one: a thread then takes a few sequences at once, whole.
 *
 * out may be x: then x is copied first where neighbouring chunks read the same tokens. */
#include "device/cuda/kernel.cuh"
#include "tasks/causal_conv1d.h"

enum {
  LANES = 4,      /* channels of a thread */
  STEP = 8,       /* tokens that are loaded together; no less than a filter of the packed kernel reaches back */
  CHUNK_MAX = 64, /* tokens of a block */
  CHUNK_ANY = 16, /* no less than any filter reaches back */
  S = 4,          /* that a thread of the decoding kernel takes */
  MAX_THREADS = 256
};

/* Whole sequences that a thread of the decoding kernel takes. */
template <typename T>
static constexpr int sequences = 8 / (int)sizeof(T);

typedef struct conv_job {
  const void *x, *weight, *bias;
  void *state, *out;
  const int32_t *cu_seqlens_q, *seq_lens, *state_slots;
  int64_t num_tokens, num_slots, dim, x_stride, out_stride;
  int num_seqs, width, chunk;
  bool silu;
  fk_index_check start_check, length_check, slot_check, count_check;
} conv_job;

/* A block's part of a sequence: tokens [first + start, first + start + chunk), as far as there are. */
typedef struct piece {
  int64_t first, slot;
  int tokens, start;
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

/* Sequence b; false when it has no tokens, or none that could be taken safely. */
static __device__ __forceinline__ bool sequence_at(const conv_job &j, int b, piece *p) {
  int64_t end = j.cu_seqlens_q[b + 1];
  p->first = j.cu_seqlens_q[b];
  p->tokens = (int)(end - p->first);
  p->start = 0;
  p->slot = j.state_slots[b];
  p->has_initial_state = j.seq_lens[b] > p->tokens;
  return p->first >= 0 && end <= j.num_tokens && p->tokens > 0 && p->slot >= 0 && p->slot < j.num_slots;
}

static __device__ __forceinline__ bool find_piece(const conv_job &j, piece *p) {
  int b = sequence_of(j, blockIdx.x, gridDim.x);
  bool ok = sequence_at(j, b, p);
  int64_t start = (blockIdx.x - first_block(j, b)) * j.chunk;
  p->start = (int)start;
  return ok && start >= 0 && start < p->tokens;
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

/* v / (1 + e^-v) by the hardware's functions: within a few units of float32's last place where it matters, and two slow
 * instructions. A denominator beyond float32 gives 0, or NaN for -infinity, as it should. */
static __device__ __forceinline__ float activate(float v, bool silu) {
  float e, r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(-1.4426950408889634f * v));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1 + e));
  return silu ? v * r : v;
}

/* Four numbers as they lie in memory: 16 bytes of float32, 8 of the others. */
template <typename T>
struct alignas(4 * sizeof(T)) four {
  uint32_t word[sizeof(T)];
};

template <typename T>
static __device__ __forceinline__ four<T> load_four(const T *p) {
  four<T> v;
  if constexpr (sizeof(T) == 4)
    *(uint4 *)&v = *(const uint4 *)p;
  else
    *(uint2 *)&v = *(const uint2 *)p;
  return v;
}

template <typename T>
static __device__ __forceinline__ void store_four(T *p, const four<T> &v) {
  if constexpr (sizeof(T) == 4)
    *(uint4 *)p = *(const uint4 *)&v;
  else
    *(uint2 *)p = *(const uint2 *)&v;
}

template <typename T>
static __device__ __forceinline__ four<T> no_four() {
  four<T> v;
#pragma unroll
  for (int i = 0; i < (int)sizeof(T); i++) v.word[i] = 0;
  return v;
}

template <typename T>
static __device__ __forceinline__ void widen(const four<T> &v, float x[LANES]) {
#pragma unroll
  for (int i = 0; i < LANES; i++) {
    if constexpr (std::is_same<T, float>::value) {
      x[i] = __uint_as_float(v.word[i]);
    } else if constexpr (std::is_same<T, __nv_bfloat16>::value) {
      x[i] = __uint_as_float(i % 2 ? v.word[i / 2] & 0xffff0000u : v.word[i / 2] << 16);
    } else {
      float2 two = __half22float2(*(const __half2 *)&v.word[i / 2]);
      x[i] = i % 2 ? two.y : two.x;
    }
  }
}

template <typename T>
static __device__ __forceinline__ four<T> narrow(const float x[LANES]) {
  four<T> v;
  T *to = (T *)&v;
#pragma unroll
  for (int i = 0; i < LANES; i++) to[i] = fk_from<T>(x[i]);
  return v;
}

/* filter[k][i]: tap k of channel i. In memory the taps of a channel are neighbours. */
template <typename T, int WIDTH>
static __device__ __forceinline__ void load_filter(const conv_job &j, int64_t channel, float filter[WIDTH][LANES],
                                                   float bias[LANES]) {
#pragma unroll
  for (int k = 0; k < WIDTH; k++) {
    float x[LANES];
    widen(load_four((const T *)j.weight + channel * WIDTH + k * LANES), x);
#pragma unroll
    for (int i = 0; i < LANES; i++) filter[(k * LANES + i) % WIDTH][(k * LANES + i) / WIDTH] = x[i];
  }
  widen(j.bias ? load_four((const T *)j.bias + channel) : no_four<T>(), bias);
}

/* One output from the inputs before it, which move up by one. */
template <typename T, int WIDTH>
static __device__ __forceinline__ four<T> convolve(const float filter[WIDTH][LANES], const float bias[LANES],
                                                   float last[WIDTH - 1][LANES], const four<T> &input, bool silu) {
  float x[LANES], y[LANES];
  widen(input, x);
#pragma unroll
  for (int i = 0; i < LANES; i++) {
    float sum = bias[i];
#pragma unroll
    for (int k = 0; k < WIDTH - 1; k++) sum = fmaf(filter[k][i], last[k][i], sum);
    y[i] = activate(fmaf(filter[WIDTH - 1][i], x[i], sum), silu);
#pragma unroll
    for (int k = 0; k < WIDTH - 2; k++) last[k][i] = last[k + 1][i];
    last[WIDTH - 2][i] = x[i];
  }
  return narrow<T>(y);
}

/* The new state of a sequence of more than one token: its last inputs, or what remains of the old state, entry by entry
 * in an order in which each is read before it is written. */
template <typename T, int WIDTH>
static __device__ __forceinline__ void keep_state(const conv_job &j, const piece &p, const T *x, T *state) {
#pragma unroll
  for (int k = 0; k < WIDTH - 1; k++) {
    int at = p.tokens - (WIDTH - 1) + k;
    four<T> v = no_four<T>();
    if (at >= 0)
      v = load_four(x + (p.first + at) * j.x_stride);
    else if (p.has_initial_state)
      v = load_four(state + (WIDTH - 1 + at) * j.dim);
    store_four(state + k * j.dim, v);
  }
}

/* Tokens [start, stop) of a sequence, STEP at a time; last has the inputs before them. */
template <typename T, int WIDTH>
static __device__ __forceinline__ void run_tokens(const conv_job &j, const piece &p, int start, int stop, const T *x,
                                                  T *out, const float filter[WIDTH][LANES], const float bias[LANES],
                                                  float last[WIDTH - 1][LANES]) {
  x += (p.first + start) * j.x_stride;
  out += (p.first + start) * j.out_stride;
  for (int left = stop - start; left > 0; left -= STEP) {
    four<T> input[STEP];
#pragma unroll
    for (int i = 0; i < STEP; i++, x += j.x_stride)
      if (i < left) input[i] = load_four(x);
#pragma unroll
    for (int i = 0; i < STEP; i++, out += j.out_stride) {
      if (i >= left) break;
      store_four(out, convolve<T, WIDTH>(filter, bias, last, input[i], j.silu));
    }
  }
}

template <typename T, int WIDTH>
static __global__ void __launch_bounds__(MAX_THREADS, sizeof(T) == 4 ? 3 : 4)
    conv_packed(const __grid_constant__ conv_job j) {
  constexpr int BACK = WIDTH - 1;
  fk_wait_previous();
  int64_t channel = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * LANES;
  piece p;
  if (channel < j.dim && find_piece(j, &p)) {
    const T *x = (const T *)j.x + channel;
    T *state = (T *)j.state + p.slot * BACK * j.dim + channel;
    float filter[WIDTH][LANES], bias[LANES], last[BACK][LANES];
    four<T> before[BACK];
#pragma unroll
    for (int k = 0; k < BACK; k++) {
      before[k] = no_four<T>();
      if (p.start > 0)
        before[k] = load_four(x + (p.first + p.start - BACK + k) * j.x_stride);
      else if (p.has_initial_state)
        before[k] = load_four(state + k * j.dim);
    }
    load_filter<T, WIDTH>(j, channel, filter, bias);
#pragma unroll
    for (int k = 0; k < BACK; k++) widen(before[k], last[k]);
    if (p.start == 0) keep_state<T, WIDTH>(j, p, x, state);
    int stop = p.start + j.chunk < p.tokens ? p.start + j.chunk : p.tokens;
    run_tokens<T, WIDTH>(j, p, p.start, stop, x, (T *)j.out + channel, filter, bias, last);
  }
  check_sequences(j);
}

/* A few whole sequences per thread, of one token each if things are as they seem. */
template <typename T, int WIDTH>
static __global__ void __launch_bounds__(MAX_THREADS, 3) conv_decode(const __grid_constant__ conv_job j) {
  constexpr int BACK = WIDTH - 1, S = sequences<T>;
  fk_wait_previous();
  int64_t channel = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * LANES;
  if (channel < j.dim) {
    const T *x = (const T *)j.x + channel;
    T *out = (T *)j.out + channel;
    piece p[S];
    bool given[S];
    four<T> before[S][BACK], input[S];
    float filter[WIDTH][LANES], bias[LANES];
#pragma unroll
    for (int s = 0; s < S; s++) {
      int b = blockIdx.x * S + s;
      given[s] = b < j.num_seqs && sequence_at(j, b, &p[s]);
    }
#pragma unroll
    for (int s = 0; s < S; s++) {
      input[s] = given[s] ? load_four(x + p[s].first * j.x_stride) : no_four<T>();
#pragma unroll
      for (int k = 0; k < BACK; k++)
        before[s][k] = given[s] && p[s].has_initial_state
                           ? load_four((const T *)j.state + (p[s].slot * BACK + k) * j.dim + channel)
                           : no_four<T>();
    }
    load_filter<T, WIDTH>(j, channel, filter, bias);
    fk_let_next_start();
#pragma unroll
    for (int s = 0; s < S; s++) {
      if (!given[s]) continue;
      T *state = (T *)j.state + p[s].slot * BACK * j.dim + channel;
      float last[BACK][LANES];
#pragma unroll
      for (int k = 0; k < BACK; k++) widen(before[s][k], last[k]);
      if (p[s].tokens > 1) {
        keep_state<T, WIDTH>(j, p[s], x, state);
        run_tokens<T, WIDTH>(j, p[s], 0, p[s].tokens, x, out, filter, bias, last);
        continue;
      }
#pragma unroll
      for (int k = 0; k < BACK; k++) store_four(state + k * j.dim, k + 1 < BACK ? before[s][k + 1] : input[s]);
      store_four(out + p[s].first * j.out_stride, convolve<T, WIDTH>(filter, bias, last, input[s], j.silu));
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
  /* Tokens lie a whole number of fours apart, and begin at one. */
  size_t all = (size_t)j->x | (size_t)j->out | (size_t)j->state | (size_t)j->weight | (size_t)j->bias;
  bool packed = all % (LANES * sizeof(T)) == 0 && (j->dim | j->x_stride | j->out_stride) % LANES == 0 &&
                j->width >= 2 && j->width <= 4;
  int64_t items = packed ? j->dim / LANES : j->dim, sms = fk_context_cuda(ctx)->num_sms;
  int threads = threads_for(items);
  bool decode = packed && j->num_tokens == j->num_seqs;
  if (j->out == j->x && !decode) {
    T *copy = (T *)fk_scratch(ctx, (size_t)(j->num_tokens * j->dim) * sizeof(T));
    if (!copy) return FK_ERROR_MEMORY;
    FK_TRY(fk_launch_early(ctx, copy_rows<T>, dim3((unsigned)j->num_tokens), dim3(256), 0, (const T *)j->x, j->x_stride,
                           copy, j->dim));
    j->x = copy;
    j->x_stride = j->dim;
  }
  j->chunk = packed ? STEP : CHUNK_ANY; /* longer ones read less twice, as long as there are enough */
  while (packed && 2 * j->chunk <= CHUNK_MAX && j->num_tokens * items >= 2 * j->chunk * sms * 2048) j->chunk *= 2;
  dim3 grid((unsigned)(j->num_tokens / j->chunk + j->num_seqs), (unsigned)fk_ceil_div(items, threads)), block(threads);
  if (decode) grid.x = (unsigned)fk_ceil_div(j->num_seqs, sequences<T>);
  if (grid.y > 65535) return fk_fail(FK_ERROR_UNSUPPORTED, "causal_conv1d: %lld channels", (long long)j->dim);
  void (*kernel)(conv_job) = conv_any<T>;
  if (decode)
    kernel = j->width == 2 ? conv_decode<T, 2> : j->width == 3 ? conv_decode<T, 3> : conv_decode<T, 4>;
  else if (packed)
    kernel = j->width == 2 ? conv_packed<T, 2> : j->width == 3 ? conv_packed<T, 3> : conv_packed<T, 4>;
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
