#include "device/cpu_row.h"
#include "tasks/rotary_embedding.h"

enum { PAIRS = FK_CHUNK / 2 }; /* pairs turned at a time */

/* Pairs of the two halves: a and b are rows of n numbers. */
static void rotate_halves(float *a, float *b, const float *cos, const float *sin, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float x = a[i], y = b[i];
    a[i] = x * cos[i] - y * sin[i];
    b[i] = x * sin[i] + y * cos[i];
  }
}

/* Pairs side by side: x is a row of 2 n numbers. */
static void rotate_neighbours(float *x, const float *cos, const float *sin, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cos[i] - b * sin[i];
    x[2 * i + 1] = a * sin[i] + b * cos[i];
  }
}

/* Elements [i, i + n) of a head as floats that may be changed: the head itself when it is float32. */
static float *head_floats(fk_type type, void *head, int64_t i, float *room, int64_t n) {
  float *x = fk_row_target(type, head, i, room, false);
  if (x == room) fk_widen(type, (char *)head + i * fk_width(type), room, n);
  return x;
}

/* Every head of token t by n of its angles, from pair `first` on. */
static void rotate_token(const fk_tensor *x, int64_t t, const float *cos, const float *sin, int64_t first, int64_t n,
                         int64_t half, bool is_neox) {
  float rooms[2][PAIRS], room[2 * PAIRS];
  fk_type type = fk_type_of(x);
  for (int64_t h = 0; h < x->shape[1]; h++) {
    char *head = (char *)fk_data(x) + (t * fk_stride(x, 0) + h * fk_stride(x, 1)) * fk_width(type);
    if (is_neox) {
      float *a = head_floats(type, head, first, rooms[0], n), *b = head_floats(type, head, half + first, rooms[1], n);
      rotate_halves(a, b, cos, sin, n);
      fk_row_write(type, head, first, a, n, false);
      fk_row_write(type, head, half + first, b, n, false);
    } else {
      float *pairs = head_floats(type, head, 2 * first, room, 2 * n);
      rotate_neighbours(pairs, cos, sin, n);
      fk_row_write(type, head, 2 * first, pairs, 2 * n, false);
    }
  }
}

static fk_status check(const fk_rotary_embedding_args *a) {
  fk_type table = fk_type_of(a->cos_sin_cache), type = fk_type_of(a->query);
  if (table != FK_F32 && table != type)
    return fk_fail(FK_ERROR_ARGUMENT, "cos_sin_cache: expected dtype float32 or the query's, %s, got %s",
                   fk_type_name(type), fk_type_name(table));
  int64_t max_position = fk_size(a->cos_sin_cache, 0);
  const int64_t *positions = fk_data(a->positions);
  /* All of them before the first write: an error leaves query and key as they were. */
  for (int64_t t = 0; t < fk_size(a->positions, 0); t++)
    if (positions[t] < 0 || positions[t] >= max_position)
      return fk_fail(FK_ERROR_ARGUMENT, "positions[%lld]: expected a row of the table, 0 to %lld, got %lld",
                     (long long)t, (long long)max_position - 1, (long long)positions[t]);
  return FK_OK;
}

fk_status fk_cpu_rotary_embedding(fk_context *ctx, const fk_rotary_embedding_args *a) {
  (void)ctx;
  FK_TRY(check(a));
  int64_t tokens = fk_size(a->query, 0), half = fk_size(a->cos_sin_cache, 1) / 2;
  int64_t heads = fk_size(a->query, 1) + (a->key ? fk_size(a->key, 1) : 0);
  fk_type table = fk_type_of(a->cos_sin_cache);
  const int64_t *positions = fk_data(a->positions);
#pragma omp parallel for schedule(static) if (tokens > 1 && tokens * heads * half * 2 >= FK_PARALLEL_MIN)
  for (int64_t t = 0; t < tokens; t++) {
    float cos_room[PAIRS], sin_room[PAIRS];
    const void *angles = fk_row(a->cos_sin_cache, positions[t]);
    for (int64_t i = 0; i < half; i += PAIRS) {
      int64_t n = half - i < PAIRS ? half - i : PAIRS;
      const float *cos = fk_row_read(table, angles, i, cos_room, n);
      const float *sin = fk_row_read(table, angles, half + i, sin_room, n);
      rotate_token(a->query, t, cos, sin, i, n, half, a->is_neox);
      if (a->key) rotate_token(a->key, t, cos, sin, i, n, half, a->is_neox);
    }
  }
  return FK_OK;
}
