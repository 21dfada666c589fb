/* Offsets, lengths, blocks, slots and positions lie in GPU memory, where only kernels see them: whatever they are, the
 * next wait names the argument, nothing outside the tensors is touched, and the context goes on working.
 *
 * Ends with 77 where there is no GPU. */
#include <stdio.h>
#include <string.h>

#include "device/cuda.h"
#include "fastkernels/fastkernels.h"

enum { SKIPPED = 77, SEQS = 3, HEADS = 4, KV = 2, D = 64, BLOCKS = 7, BLOCK = 16, COLUMNS = 2 };

static int failures;

static void expect(const char *what, fk_status status, const char *text) {
  bool good = text ? status == FK_ERROR_ARGUMENT && strstr(fk_last_error(), text) : status == FK_OK;
  if (good) return;
  printf("%s: expected %s, got %s\n", what, text ? text : "success", status ? fk_last_error() : "success");
  failures++;
}

static fk_tensor *ints(fk_context *ctx, fk_type type, const int64_t *values, int64_t n) {
  fk_tensor *t = fk_host(ctx, type, n);
  for (int64_t i = 0; t && i < n; i++) {
    if (type == FK_I32)
      ((int32_t *)fk_data(t))[i] = (int32_t)values[i];
    else
      ((int64_t *)fk_data(t))[i] = values[i];
  }
  return fk_to_device(ctx, t);
}

static fk_tensor *zeros(fk_context *ctx, fk_type type, int64_t a, int64_t b, int64_t c, int64_t d) {
  fk_tensor *t = d ? fk_empty(ctx, type, a, b, c, d) : fk_empty(ctx, type, a, b, c);
  if (t) fk_zero(ctx, t);
  return t;
}

typedef struct indices {
  int64_t cu[SEQS + 1], lens[SEQS], table[SEQS * COLUMNS];
} indices;

static const indices good = {{0, 1, 3, 4}, {1, 20, 32}, {6, -9, 0, 1, 5, 2}}; /* block -9 is needed by nobody */

static fk_status attend(fk_context *ctx, fk_type type, const indices *x) {
  fk_tensor *q = zeros(ctx, type, 4, HEADS, D, 0), *out = fk_empty(ctx, type, 4, HEADS, D);
  fk_tensor *k = zeros(ctx, type, BLOCKS, BLOCK, KV, D), *v = zeros(ctx, type, BLOCKS, BLOCK, KV, D);
  fk_tensor *table = fk_view(ctx, ints(ctx, FK_I32, x->table, SEQS * COLUMNS), SEQS, COLUMNS);
  FK_TRY(fk_call(ctx, "attention", q, k, v, ints(ctx, FK_I32, x->cu, SEQS + 1), NULL, ints(ctx, FK_I32, x->lens, SEQS),
                 table, NULL, 0.125, true, -1, -1, 0.0, out));
  return fk_sync(ctx);
}

static void attention(fk_context *ctx, fk_type type) {
  static const struct {
    const char *what, *text;
    int field, index;
    int64_t value;
  } wrong[] = {
      {"offsets that fall", "attention: ", 0, 1, 4},
      {"an offset before the first", "cu_seqlens_q", 0, 1, -5},
      {"a late start", "cu_seqlens_q", 0, 0, 1},
      {"tokens of no sequence", "cu_seqlens_q", 0, 3, 3},
      {"tokens that do not exist", "cu_seqlens_q", 0, 3, 9},
      {"fewer keys than queries", "seq_lens", 1, 1, 1},
      {"more keys than blocks", "seq_lens", 1, 2, 33},
      {"a negative length", "seq_lens", 1, 0, -1},
      {"a block too far", "block_table", 2, 3, BLOCKS},
      {"a negative block", "block_table", 2, 4, -1},
  };
  expect("valid indices", attend(ctx, type, &good), NULL);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    indices x = good;
    (wrong[i].field == 0 ? x.cu : wrong[i].field == 1 ? x.lens : x.table)[wrong[i].index] = wrong[i].value;
    expect(wrong[i].what, attend(ctx, type, &x), wrong[i].text);
    expect("valid indices afterwards", attend(ctx, type, &good), NULL);
    fk_context_reset(ctx);
  }
}

static fk_status store(fk_context *ctx, bool rotate, int64_t slot, int64_t position) {
  const int64_t slots[] = {3, slot, -1}, positions[] = {0, 7, position};
  fk_tensor *q = zeros(ctx, FK_BF16, 3, HEADS, D, 0), *k = zeros(ctx, FK_BF16, 3, KV, D, 0);
  fk_tensor *v = zeros(ctx, FK_BF16, 3, KV, D, 0), *angles = fk_empty(ctx, FK_F32, 8, D);
  fk_tensor *keys = zeros(ctx, FK_BF16, BLOCKS, BLOCK, KV, D), *values = zeros(ctx, FK_BF16, BLOCKS, BLOCK, KV, D);
  fk_tensor *to = ints(ctx, FK_I64, slots, 3), *at = ints(ctx, FK_I64, positions, 3);
  FK_TRY(fk_zero(ctx, angles));
  if (rotate)
    FK_TRY(fk_call(ctx, "rotary_and_cache", at, q, k, v, keys, values, to, angles, true));
  else
    FK_TRY(fk_call(ctx, "reshape_and_cache", k, v, keys, values, to));
  FK_TRY(fk_call(ctx, "rotary_embedding", at, q, k, angles, true));
  return fk_sync(ctx);
}

int main(void) {
  fk_context_options options = {.backend = FK_CUDA};
  fk_context *ctx;
  if (fk_cuda_device_count() == 0) {
    printf("skipped: there is no GPU\n");
    return SKIPPED;
  }
  if (fk_context_create(&options, &ctx)) {
    printf("%s\n", fk_last_error());
    return 1;
  }
  attention(ctx, FK_BF16);
  attention(ctx, FK_F32);
  for (int rotate = 0; rotate < 2; rotate++) {
    expect("valid slots", store(ctx, rotate, BLOCKS * BLOCK - 1, 2), NULL);
    expect("a slot too far", store(ctx, rotate, BLOCKS * BLOCK, 2), "slot_mapping");
    expect("a slot much too far", store(ctx, rotate, INT64_C(1) << 40, 2), "slot_mapping");
    expect("a position too far", store(ctx, rotate, 5, 8), "positions");
    expect("a negative position", store(ctx, rotate, 5, -1), "positions");
    expect("valid slots afterwards", store(ctx, rotate, 0, 2), NULL);
  }
  fk_context_destroy(ctx);
  printf("%d failures\n", failures);
  return failures > 0;
}
