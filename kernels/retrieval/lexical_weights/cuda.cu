/* lexical_weights on the GPU: a block per sequence, a hash table of its ids. A slot holds the place of some occurrence,
 * the place of the first and the largest weight; minima and maxima come out the same in any order. Sequences
 * of up to 8192 tokens have their table in shared memory, longer ones in scratch. */
#include "device/cuda/kernel.cuh"
#include "tasks/lexical_weights.h"

enum { MOST_SHARED_SLOTS = 16384, EMPTY = -1 };

typedef struct slot {
  int32_t any, first; /* places, counted from the start of the sequence */
  uint32_t best;      /* bits of the weight: they order positive floats, NaN above all; 0 for none */
} slot;

typedef struct lexical_args {
  const void *weights, *ids, *special;
  const int32_t *cu_seqlens;
  void *out;
  int64_t num_tokens, num_seqs, num_special;
  slot *slots; /* [4 * num_tokens]: room for the power of two from twice a sequence's tokens on */
  uint32_t shared_slots;
  fk_index_check lengths, id_check;
} lexical_args;

/* What a weight counts for: nothing unless it is positive or NaN. */
static __device__ __forceinline__ uint32_t rank_of(float weight) {
  if (weight != weight) return 0x7fc00000u;
  return weight > 0 ? __float_as_uint(weight) : 0;
}

template <typename S>
static __device__ bool is_special(const lexical_args &a, int64_t id) {
  for (int64_t i = 0; i < a.num_special; i++)
    if ((int64_t)((const S *)a.special)[i] == id) return true;
  return false;
}

/* The slot of an id; the first to come takes a free one. The table is at most half full. */
template <typename I>
static __device__ slot *slot_of(slot *slots, uint32_t mask, const I *ids, int32_t place) {
  I id = ids[place];
  uint32_t at = (uint32_t)((uint64_t)id * 0x9e3779b97f4a7c15u >> 32);
  for (;; at++) {
    slot *s = &slots[at & mask];
    int32_t seen = atomicCAS(&s->any, EMPTY, place);
    if (seen == EMPTY || ids[seen] == id) return s;
  }
}

/* Offsets run from 0 to num_tokens and never back: then no block touches what belongs to another. Each block looks at
 * all of them. */
static __device__ bool wrong_offsets(const lexical_args &a) {
  for (int64_t i = threadIdx.x; i <= a.num_seqs; i += (int)blockDim.x) {
    int64_t offset = a.cu_seqlens[i], least = i > 0 ? a.cu_seqlens[i - 1] : 0;
    int64_t most = i == 0 ? 0 : a.num_tokens;
    if (i == a.num_seqs && least < most) least = most;
    if (offset >= least && offset <= most) continue;
    fk_index_ok(a.lengths, offset < least ? offset - least : offset, most + 1);
    return true;
  }
  return false;
}

template <typename T, typename I, typename S>
static __global__ void __launch_bounds__(1024) lexical_sequence(const __grid_constant__ lexical_args a) {
  extern __shared__ slot shared_slots[];
  fk_wait_previous();
  if (__syncthreads_or(wrong_offsets(a))) return;
  int64_t start = a.cu_seqlens[blockIdx.x];
  int32_t count = (int32_t)(a.cu_seqlens[blockIdx.x + 1] - start);
  uint32_t size = 2;
  while (size < 2 * (uint32_t)count) size *= 2;
  slot *slots = size <= a.shared_slots ? shared_slots : a.slots + 4 * start;
  for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) slots[i] = {EMPTY, INT32_MAX, 0};
  __syncthreads();
  const I *ids = (const I *)a.ids + start;
  const T *weights = (const T *)a.weights + start;
  for (int32_t i = threadIdx.x; i < count; i += (int)blockDim.x) {
    if (ids[i] < 0) {
      fk_index_ok(a.id_check, ids[i], INT64_MAX);
      continue;
    }
    slot *s = slot_of(slots, size - 1, ids, i);
    atomicMin(&s->first, i);
    uint32_t rank = rank_of(fk_float(weights[i]));
    if (rank) atomicMax(&s->best, rank);
  }
  __syncthreads();
  T *out = (T *)a.out + start;
  for (int32_t i = threadIdx.x; i < count; i += (int)blockDim.x) {
    float weight = 0;
    if (ids[i] >= 0) {
      const slot *s = slot_of(slots, size - 1, ids, i);
      if (s->first == i && !is_special<S>(a, ids[i])) weight = __uint_as_float(s->best);
    }
    out[i] = fk_from<T>(weight);
  }
}

template <typename T, typename I>
static fk_status launch(fk_context *ctx, const lexical_args &a, fk_type special_type) {
  unsigned threads = a.num_tokens > 512 ? 1024 : 512;
  FK_INDEX_DISPATCH(special_type, S,
                    return fk_launch_early(ctx, lexical_sequence<T, I, S>, dim3((unsigned)a.num_seqs), dim3(threads),
                                           a.shared_slots * sizeof(slot), a));
}

fk_status fk_cuda_lexical_weights(fk_context *ctx, const fk_lexical_weights_args *t) {
  lexical_args a = {};
  a.num_tokens = fk_size(t->input_ids, 0), a.num_seqs = fk_size(t->cu_seqlens, 0) - 1;
  if (a.num_tokens == 0) return FK_OK;
  if (a.num_seqs < 1)
    return fk_fail(FK_ERROR_ARGUMENT, "cu_seqlens: expected the last offset to be %lld tokens, got no sequence",
                   (long long)a.num_tokens);
  if (a.num_tokens >= INT32_MAX / 4) return fk_fail(FK_ERROR_ARGUMENT, "input_ids: more than 2^29 tokens");
  a.weights = fk_data(t->token_weights), a.ids = fk_data(t->input_ids);
  a.cu_seqlens = (const int32_t *)fk_data(t->cu_seqlens);
  a.out = fk_data(t->out);
  if (t->special_ids) a.special = fk_data(t->special_ids), a.num_special = fk_size(t->special_ids, 0);
  a.lengths = fk_index_checker(ctx, "lexical_weights: cu_seqlens");
  a.id_check = fk_index_checker(ctx, "lexical_weights: input_ids");
  /* The host does not know the longest sequence: room for all tokens in one, as far as it goes. */
  uint32_t most = fk_context_cuda(ctx)->max_shared_bytes >= MOST_SHARED_SLOTS * sizeof(slot) ? MOST_SHARED_SLOTS : 4096;
  for (a.shared_slots = 1024; a.shared_slots < most && a.shared_slots < 2 * a.num_tokens;) a.shared_slots *= 2;
  if (2 * a.num_tokens > a.shared_slots) {
    a.slots = (slot *)fk_scratch(ctx, (size_t)(4 * a.num_tokens + 2) * sizeof(slot));
    if (!a.slots) return FK_ERROR_MEMORY;
  }
  fk_type special = t->special_ids ? fk_type_of(t->special_ids) : FK_I32;
  FK_FLOAT_DISPATCH(fk_type_of(t->token_weights), T,
                    { FK_INDEX_DISPATCH(fk_type_of(t->input_ids), I, return launch<T, I>(ctx, a, special)); });
}
