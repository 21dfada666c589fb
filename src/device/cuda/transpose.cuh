/* Transposed copies of matrices, bit by bit: out[c][r] = in[r][c] for every matrix of a batch.
 *
 * A block moves a tile of 64 x 64 elements through shared memory: packs of 16 bytes on both sides where the layout
 * allows it. Where one side has few elements, the three colours of an image, the tile has all of them and is long. */
#pragma once

#include "device/cuda/map.cuh"

/* The batch has two dimensions, of sizes batch / inner and inner. Strides are in elements. */
typedef struct fk_transpose {
  const void *in;
  void *out;
  int64_t batch, inner, rows, columns;
  int64_t in_outer, in_inner, in_row; /* from matrix to matrix, and from row to row */
  int64_t out_outer, out_inner, out_row;
  int64_t row_tiles, column_tiles;
} fk_transpose;

enum { FK_TILE_SIDE = 64 };

/* Where a block works: the first row and column of its tile, with the pointers moved to its matrix. */
template <typename E>
static __device__ __forceinline__ void fk_transpose_place(const fk_transpose &t, int64_t tile_rows,
                                                          int64_t tile_columns, const E **in, E **out, int64_t *row,
                                                          int64_t *column) {
  uint32_t column_tiles = (uint32_t)t.column_tiles, tiles = (uint32_t)t.row_tiles * column_tiles;
  uint32_t matrix = blockIdx.x / tiles, tile = blockIdx.x - matrix * tiles;
  *row = tile / column_tiles * tile_rows;
  *column = tile % column_tiles * tile_columns;
  uint32_t outer = matrix / (uint32_t)t.inner, inner = matrix - outer * (uint32_t)t.inner;
  *in = (const E *)t.in + outer * t.in_outer + inner * t.in_inner;
  *out = (E *)t.out + outer * t.out_outer + inner * t.out_inner;
}

/* Rows and columns are multiples of a pack, and so are all strides. The pitch of the tile makes both sides free of bank
 * conflicts (for 2 bytes) or nearly so: words are written along rows, elements are gathered along columns. */
template <typename E>
static __global__ void __launch_bounds__(256) fk_transpose_packed(const __grid_constant__ fk_transpose t) {
  constexpr int N = 16 / sizeof(E), PITCH = FK_TILE_SIDE + 4 / sizeof(E), PER_ROW = FK_TILE_SIDE / N;
  constexpr int PACKS = FK_TILE_SIDE * PER_ROW, RUN = sizeof(E) == 2 ? 4 : 8;
  __shared__ alignas(16) E tile[FK_TILE_SIDE * PITCH];
  const E *in;
  E *out;
  int64_t row, column;
  fk_transpose_place(t, FK_TILE_SIDE, FK_TILE_SIDE, &in, &out, &row, &column);
  fk_wait_previous();
  uint4 kept[PACKS / 256];
#pragma unroll
  for (int k = 0; k < PACKS / 256; k++) {
    int p = k * 256 + (int)threadIdx.x, r = p / PER_ROW, c = p % PER_ROW * N;
    if (row + r < t.rows && column + c < t.columns)
      kept[k] = *reinterpret_cast<const uint4 *>(in + (row + r) * t.in_row + column + c);
  }
#pragma unroll
  for (int k = 0; k < PACKS / 256; k++) {
    int p = k * 256 + (int)threadIdx.x, r = p / PER_ROW, c = p % PER_ROW * N;
    uint32_t *to = reinterpret_cast<uint32_t *>(tile + r * PITCH + c);
    if (row + r < t.rows && column + c < t.columns) {
      to[0] = kept[k].x;
      to[1] = kept[k].y;
      to[2] = kept[k].z;
      to[3] = kept[k].w;
    }
  }
  __syncthreads();
  fk_let_next_start();
#pragma unroll
  for (int k = 0; k < PACKS / 256; k++) {
    /* RUN packs of one output row by neighbours, then the next output row. */
    int p = k * 256 + (int)threadIdx.x, c = p / RUN % FK_TILE_SIDE, r = (p % RUN + p / RUN / FK_TILE_SIDE * RUN) * N;
    if (row + r >= t.rows || column + c >= t.columns) continue;
    fk_pack<E> v;
#pragma unroll
    for (int i = 0; i < N; i++) v.at[i] = tile[(r + i) * PITCH + c];
    fk_store_pack(out + (column + c) * t.out_row + row + r, v);
  }
}

/* Any layout, element by element, in tiles of 32 x 32. */
template <typename E>
static __global__ void __launch_bounds__(256) fk_transpose_any(const __grid_constant__ fk_transpose t) {
  __shared__ E tile[32][33];
  const E *in;
  E *out;
  int64_t row, column;
  fk_transpose_place(t, 32, 32, &in, &out, &row, &column);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  fk_wait_previous();
  for (int r = warp; r < 32; r += 8)
    if (row + r < t.rows && column + lane < t.columns) tile[r][lane] = in[(row + r) * t.in_row + column + lane];
  __syncthreads();
  for (int c = warp; c < 32; c += 8)
    if (row + lane < t.rows && column + c < t.columns) out[(column + c) * t.out_row + row + lane] = tile[lane][c];
}

/* Place of element f in shared memory: one word is left out of 33, or equal columns of many rows would share a bank. */
template <typename E>
static __device__ __forceinline__ int fk_spread(int f) {
  constexpr int LINE = 128 / sizeof(E), GAP = 4 / sizeof(E);
  return f + f / LINE * GAP;
}

/* A pack into shared memory that is aligned to words. */
template <typename E>
static __device__ __forceinline__ void fk_put_words(E *to, const uint4 &v) {
  uint32_t *word = reinterpret_cast<uint32_t *>(to);
  word[0] = v.x;
  word[1] = v.y;
  word[2] = v.z;
  word[3] = v.w;
}

enum { FK_NARROW = 32, FK_NARROW_TILE = 8192 };

/* Few rows, whose columns become rows that follow each other without a gap: out is one run of rows * columns. */
template <typename E>
static __global__ void __launch_bounds__(256)
    fk_transpose_interleave(const __grid_constant__ fk_transpose t, int tile_columns, fk_divider by_rows) {
  constexpr int N = 16 / sizeof(E), GAP = 4 / sizeof(E);
  __shared__ alignas(16) E tile[FK_NARROW_TILE + FK_NARROW * GAP];
  const E *in;
  E *out;
  int64_t row, column;
  fk_transpose_place(t, FK_NARROW, tile_columns, &in, &out, &row, &column);
  int rows = (int)t.rows, pitch = tile_columns + GAP;
  int count = (int)(t.columns - column < tile_columns ? t.columns - column : tile_columns);
  fk_wait_previous();
  for (int r = 0; r < rows; r++)
    for (int c = (int)threadIdx.x * N; c < count; c += 256 * N)
      fk_put_words(tile + r * pitch + c, *reinterpret_cast<const uint4 *>(in + r * t.in_row + column + c));
  __syncthreads();
  fk_let_next_start();
  out += column * rows;
  for (int f = (int)threadIdx.x * N; f < count * rows; f += 256 * N) {
    int c = (int)fk_divide((uint32_t)f, by_rows), r = f - c * rows;
    fk_pack<E> v;
#pragma unroll
    for (int i = 0; i < N; i++) {
      v.at[i] = tile[r * pitch + c];
      if (++r == rows) r = 0, c++;
    }
    fk_store_pack(out + f, v);
  }
}

/* The way back: rows of few columns, without a gap between them. */
template <typename E>
static __global__ void __launch_bounds__(256)
    fk_transpose_separate(const __grid_constant__ fk_transpose t, int tile_rows) {
  constexpr int N = 16 / sizeof(E);
  __shared__ alignas(16) E tile[FK_NARROW_TILE / 32 * 33];
  const E *in;
  E *out;
  int64_t row, column;
  fk_transpose_place(t, tile_rows, FK_NARROW, &in, &out, &row, &column);
  int columns = (int)t.columns, count = (int)(t.rows - row < tile_rows ? t.rows - row : tile_rows);
  fk_wait_previous();
  in += row * columns;
  for (int f = (int)threadIdx.x * N; f < count * columns; f += 256 * N)
    fk_put_words(tile + fk_spread<E>(f), *reinterpret_cast<const uint4 *>(in + f));
  __syncthreads();
  fk_let_next_start();
  for (int c = 0; c < columns; c++)
    for (int r = (int)threadIdx.x * N; r < count; r += 256 * N) {
      fk_pack<E> v;
#pragma unroll
      for (int i = 0; i < N; i++) v.at[i] = tile[fk_spread<E>((r + i) * columns + c)];
      fk_store_pack(out + c * t.out_row + row + r, v);
    }
}

/* True when the launch was one of few rows or columns; then *status says how it went. */
template <typename E>
static bool fk_transpose_narrow(fk_context *ctx, fk_transpose t, fk_status *status) {
  constexpr int64_t N = 16 / sizeof(E);
  bool interleave = t.rows <= FK_NARROW && t.rows < t.columns;
  int64_t few = interleave ? t.rows : t.columns, many = interleave ? t.columns : t.rows;
  int64_t together = many | t.in_outer | t.in_inner | t.out_outer | t.out_inner | (interleave ? t.in_row : t.out_row);
  if (few > FK_NARROW || many < 64 || together % N != 0 || ((uintptr_t)t.in | (uintptr_t)t.out) % 16 != 0) return false;
  if ((interleave ? t.out_row : t.in_row) != few) return false;
  /* Shorter tiles where there is little to do. */
  int64_t tile = FK_NARROW_TILE;
  while (tile > 2048 && t.batch * few * many < tile * 2 * fk_context_cuda(ctx)->num_sms) tile /= 2;
  tile = tile / few / 64 * 64;
  t.row_tiles = t.column_tiles = 1;
  (interleave ? t.column_tiles : t.row_tiles) = fk_ceil_div(many, tile);
  int64_t blocks = t.batch * fk_ceil_div(many, tile);
  if (blocks > INT32_MAX) return false;
  dim3 grid((unsigned)blocks), block(256);
  *status = interleave
                ? fk_launch_early(ctx, fk_transpose_interleave<E>, grid, block, 0, t, (int)tile, fk_divide_by(few))
                : fk_launch_early(ctx, fk_transpose_separate<E>, grid, block, 0, t, (int)tile);
  return true;
}

template <typename E>
static fk_status fk_transpose_launch(fk_context *ctx, fk_transpose t) {
  constexpr int64_t N = 16 / sizeof(E);
  int64_t together = t.in_outer | t.in_inner | t.in_row | t.out_outer | t.out_inner | t.out_row | t.rows | t.columns;
  bool packed = together % N == 0 && ((uintptr_t)t.in | (uintptr_t)t.out) % 16 == 0;
  fk_status status;
  if ((!packed || t.rows < 16 || t.columns < 16) && fk_transpose_narrow<E>(ctx, t, &status)) return status;
  int64_t side = packed ? FK_TILE_SIDE : 32;
  t.row_tiles = fk_ceil_div(t.rows, side), t.column_tiles = fk_ceil_div(t.columns, side);
  int64_t blocks = t.batch * t.row_tiles * t.column_tiles;
  if (blocks > INT32_MAX) return fk_fail(FK_ERROR_UNSUPPORTED, "cuda: %lld tiles are too many", (long long)blocks);
  if (packed) return fk_launch_early(ctx, fk_transpose_packed<E>, dim3((unsigned)blocks), dim3(256), 0, t);
  return fk_launch_early(ctx, fk_transpose_any<E>, dim3((unsigned)blocks), dim3(256), 0, t);
}

/* Between images [N, C, H, W] and [N, H, W, C]; from_channels says which of the two `in` is. */
static inline fk_status fk_transpose_images(fk_context *ctx, const fk_tensor *in, const fk_tensor *out,
                                            bool from_channels) {
  if (fk_numel(in) == 0) return FK_OK;
  const fk_tensor *first = from_channels ? in : out, *last = from_channels ? out : in;
  int64_t channels = fk_size(first, 1), height = fk_size(first, 2), width = fk_size(first, 3);
  int64_t first_line = fk_stride(first, 2), last_line = fk_stride(last, 1), last_pixel = fk_stride(last, 2);
  /* Lines that follow each other on both sides are one line. */
  if ((first_line == width || height == 1) && (last_line == width * last_pixel || height == 1))
    width *= height, height = 1;
  fk_transpose t = {};
  t.in = fk_data(in), t.out = fk_data(out);
  t.batch = fk_size(first, 0) * height, t.inner = height;
  t.rows = from_channels ? channels : width;
  t.columns = from_channels ? width : channels;
  t.in_outer = fk_stride(in, 0), t.out_outer = fk_stride(out, 0);
  int64_t first_inner = height == 1 ? 0 : first_line, last_inner = height == 1 ? 0 : last_line;
  t.in_inner = from_channels ? first_inner : last_inner;
  t.out_inner = from_channels ? last_inner : first_inner;
  t.in_row = from_channels ? fk_stride(in, 1) : last_pixel;
  t.out_row = from_channels ? last_pixel : fk_stride(out, 1);
  if (in->dtype.bits == 32) return fk_transpose_launch<uint32_t>(ctx, t);
  return fk_transpose_launch<uint16_t>(ctx, t);
}
