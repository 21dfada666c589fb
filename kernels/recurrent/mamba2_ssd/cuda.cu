/* mamba2_ssd on the GPU. Short sequences, and every type and size, go token by token: a block has some rows of one
 * head's state in registers. Long sequences of 16-bit types and usual sizes go by chunks (prefill.cu). The host does
 * not know the lengths: where some may be long and others not, both kernels are queued, and each skips what is the
 * other's. */
#include "prefill.h"

enum { THREADS = 128, LONGEST = 16 };

template <typename T, int LANES, int VECS, bool PACKED>
static __global__ void __launch_bounds__(THREADS) ssd_step(const __grid_constant__ ssd_job j, int parts) {
  constexpr int ROWS = 8 / VECS, WARP_ROWS = 32 / LANES * ROWS;
  fk_wait_previous();
  fk_let_next_start();
  int64_t index = blockIdx.x;
  int part = (int)(index % parts), head = (int)(index / parts % j.heads), b = (int)(index / parts / j.heads);
  if (part == 0 && head == 0 && threadIdx.x == 0) check_sequence(j, b);
  ssd_sequence q;
  if (!sequence_at(j, b, &q) || q.tokens > j.longest) return;
  int first = (part * (THREADS / 32) + threadIdx.x / 32) * WARP_ROWS;
  if (first >= j.dim) return;
  scan_rows<T, LANES, VECS, PACKED>(j, q, head, first + threadIdx.x % 32 / LANES * ROWS);
}

/* States of any size, which stay in memory: a warp per row. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) ssd_step_any(const __grid_constant__ ssd_job j, int parts) {
  fk_wait_previous();
  int64_t index = blockIdx.x;
  int part = (int)(index % parts), head = (int)(index / parts % j.heads), b = (int)(index / parts / j.heads);
  if (part == 0 && head == 0 && threadIdx.x == 0) check_sequence(j, b);
  int row = part * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32, group = head / j.heads_per_group;
  ssd_sequence q;
  if (!sequence_at(j, b, &q) || row >= j.dim) return;
  float *h = j.state + ((q.slot * j.heads + head) * j.dim + row) * (int64_t)j.size, a = j.A[head];
  float skip = j.D ? fk_float(((const T *)j.D)[head]) : 0;
  for (int t = 0; t < q.tokens; t++) {
    int64_t token = q.first + t;
    const T *bs = (const T *)j.B + token * j.b_token + group * j.b_group;
    const T *cs = (const T *)j.C + token * j.c_token + group * j.c_group;
    float x = fk_float(((const T *)j.x)[token * j.x_token + head * j.x_head + row]);
    float dt = time_step<T>(j, token, head), decay = expf(dt * a), dx = dt * x;
    double sum = 0;
    for (int n = lane; n < j.size; n += 32) {
      float was = t > 0 || q.has_initial_state ? h[n] : 0, is = fmaf(was, decay, dx * fk_float(bs[n]));
      h[n] = is;
      sum += (double)is * (double)fk_float(cs[n]);
    }
#pragma unroll
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (lane == 0)
      ((T *)j.out)[token * j.out_token + head * j.out_head + row] =
          fk_from<T>((float)(j.D ? sum + (double)skip * (double)x : sum));
  }
}

template <typename T>
static bool packs(const ssd_job &j) {
  int64_t four = 4 * sizeof(T), x = 16 / sizeof(T);
  return (uintptr_t)j.state % 16 == 0 && (uintptr_t)j.x % 16 == 0 && (uintptr_t)j.B % four == 0 &&
         (uintptr_t)j.C % four == 0 && j.x_token % x == 0 && j.x_head % x == 0 && j.b_token % 4 == 0 &&
         j.b_group % 4 == 0 && j.c_token % 4 == 0 && j.c_group % 4 == 0 && j.dim % 8 == 0 && j.size % 4 == 0;
}

template <typename T>
static fk_status step(fk_context *ctx, const ssd_job &j) {
  int rows = j.size > 256 ? 4 : j.size > 128 ? 16 : j.size > 64 ? 32 : 64;
  int parts = (j.dim + rows - 1) / rows;
  int64_t blocks = (int64_t)j.num_seqs * j.heads * parts;
  if (blocks > INT32_MAX)
    return fk_fail(FK_ERROR_UNSUPPORTED, "mamba2_ssd: cuda: %d sequences of %d heads are too many", j.num_seqs,
                   j.heads);
  dim3 grid((unsigned)blocks), block(THREADS);
  void (*kernel)(ssd_job, int) = ssd_step_any<T>;
  if (j.size <= 64)
    kernel = packs<T>(j) ? ssd_step<T, 16, 1, true> : ssd_step<T, 16, 1, false>;
  else if (j.size <= 128)
    kernel = packs<T>(j) ? ssd_step<T, 32, 1, true> : ssd_step<T, 32, 1, false>;
  else if (j.size <= 256)
    kernel = packs<T>(j) ? ssd_step<T, 32, 2, true> : ssd_step<T, 32, 2, false>;
  return fk_launch_early(ctx, kernel, grid, block, 0, j, parts);
}

static float narrowed(double v) {
  return v > FLT_MAX ? INFINITY : (float)v;
}

static ssd_job job_of(fk_context *ctx, const fk_mamba2_ssd_args *a) {
  ssd_job j = {};
  j.x = fk_data(a->x);
  j.dt = fk_data(a->dt);
  j.B = fk_data(a->B);
  j.C = fk_data(a->C);
  j.D = a->D ? fk_data(a->D) : NULL;
  j.dt_bias = a->dt_bias ? fk_data(a->dt_bias) : NULL;
  j.A = (const float *)fk_data(a->A);
  j.state = (float *)fk_data(a->ssm_state);
  j.out = fk_data(a->out);
  j.cu_seqlens_q = (const int32_t *)fk_data(a->cu_seqlens_q);
  j.seq_lens = (const int32_t *)fk_data(a->seq_lens);
  j.state_slots = (const int32_t *)fk_data(a->state_slots);
  j.num_tokens = fk_size(a->x, 0);
  j.num_slots = fk_size(a->ssm_state, 0);
  j.x_token = fk_stride(a->x, 0), j.x_head = fk_stride(a->x, 1);
  j.dt_token = fk_stride(a->dt, 0);
  j.b_token = fk_stride(a->B, 0), j.b_group = fk_stride(a->B, 1);
  j.c_token = fk_stride(a->C, 0), j.c_group = fk_stride(a->C, 1);
  j.out_token = fk_stride(a->out, 0), j.out_head = fk_stride(a->out, 1);
  j.heads = (int)fk_size(a->x, 1);
  j.dim = (int)fk_size(a->x, 2);
  j.groups = (int)fk_size(a->B, 1);
  j.size = (int)fk_size(a->B, 2);
  j.num_seqs = (int)fk_size(a->state_slots, 0);
  j.heads_per_group = j.heads / j.groups;
  j.dt_min = narrowed(a->dt_min);
  j.dt_max = narrowed(a->dt_max);
  j.longest = INT32_MAX;
  j.start_check = fk_index_checker(ctx, "mamba2_ssd: cu_seqlens_q");
  j.length_check = fk_index_checker(ctx, "mamba2_ssd: tokens of a sequence, by its seq_lens");
  j.slot_check = fk_index_checker(ctx, "mamba2_ssd: state_slots");
  j.count_check = fk_index_checker(ctx, "mamba2_ssd: num_tokens, by the end of cu_seqlens_q");
  return j;
}

fk_status fk_cuda_mamba2_ssd(fk_context *ctx, const fk_mamba2_ssd_args *a) {
  if (fk_numel(a->x) == 0) return FK_OK;
  ssd_job j = job_of(ctx, a);
  if (j.num_seqs == 0)
    return fk_fail(FK_ERROR_ARGUMENT, "mamba2_ssd: expected no tokens without sequences, got %lld",
                   (long long)j.num_tokens);
  fk_type type = fk_type_of(a->x);
  /* Sequences have a token each, as a rule: then no length is beyond this. Others would only be slow. */
  int64_t longest = j.num_tokens - j.num_seqs + 1;
  if (longest > LONGEST && ssd_prefill_fits(ctx, &j, type)) {
    bool alone = j.num_seqs == 1;
    fk_cuda_chose(ctx, "ssd chunks");
    FK_TRY(ssd_prefill(ctx, &j, type, alone ? 0 : LONGEST));
    if (alone) return FK_OK;
    j.longest = LONGEST;
  }
  fk_cuda_chose(ctx, "ssd steps");
  FK_FLOAT_DISPATCH(type, T, return step<T>(ctx, j));
}
