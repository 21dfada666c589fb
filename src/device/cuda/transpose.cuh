/* Transposed copies of matrices, bit by bit: out[c][r] = in[r][c] for every matrix of a batch.
 *
 * Blocks take tiles of 64 rows and 16 KB in turn; a tile goes through shared memory while the next one travels. Both
 * sides are read and written in 16 or 8 bytes where the layout allows it. Where one side has few elements, the three
 * colours of an image, the tile has all of them and is long. */
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
  fk_divider by_tiles, by_column_tiles, by_inner;
} fk_transpose;

/* Where a tile lies: its first row and column, and its matrix. */
template <typename E>
struct fk_tile {
  const E *in;
  E *out;
  int64_t row, column;
};

template <typename E>
static __device__ __forceinline__ fk_tile<E> fk_tile_at(const fk_transpose &t, uint32_t index, int rows, int columns) {
  uint32_t matrix = fk_divide(index, t.by_tiles), tile = index - matrix * t.by_tiles.divisor;
  uint32_t row = fk_divide(tile, t.by_column_tiles), column = tile - row * t.by_column_tiles.divisor;
  int64_t outer = fk_divide(matrix, t.by_inner), inner = matrix - outer * t.inner;
  fk_tile<E> place = {(const E *)t.in + outer * t.in_outer + inner * t.in_inner,
                      (E *)t.out + outer * t.out_outer + inner * t.out_inner, (int64_t)row * rows,
                      (int64_t)column * columns};
  return place;
}

template <int BYTES>
struct fk_word;
template <>
struct fk_word<16> {
  typedef uint4 type;
};
template <>
struct fk_word<8> {
  typedef uint2 type;
};
template <>
struct fk_word<4> {
  typedef uint32_t type;
};
template <>
struct fk_word<2> {
  typedef uint16_t type;
};

/* A vector into shared memory that is aligned to 4 bytes, or to an element. */
template <typename E, typename W>
static __device__ __forceinline__ void fk_put(E *to, const W &v) {
  typedef typename std::conditional<(sizeof(W) < 4), W, uint32_t>::type part;
#pragma unroll
  for (int i = 0; i < (int)(sizeof(W) / sizeof(part)); i++)
    reinterpret_cast<part *>(to)[i] = reinterpret_cast<const part *>(&v)[i];
}

enum { FK_TILE_ROWS = 64, FK_TILE_BYTES = 16384 };

/* VI columns are read, and VO rows written, at once; the matrices' sides and strides are multiples of them. */
template <typename E, int VI, int VO>
static __global__ void __launch_bounds__(256)
    fk_transpose_tiles(const __grid_constant__ fk_transpose t, uint32_t num_tiles) {
  constexpr int COLUMNS = FK_TILE_BYTES / FK_TILE_ROWS / (int)sizeof(E), PITCH = COLUMNS + 4 / (int)sizeof(E);
  constexpr int LOADS = FK_TILE_ROWS * COLUMNS / VI / 256, STORES = FK_TILE_ROWS * COLUMNS / VO / 256;
  constexpr int ACROSS = COLUMNS / VI, DOWN = FK_TILE_ROWS / VO;
  typedef typename fk_word<VI * sizeof(E)>::type word;
  __shared__ alignas(16) E shared[FK_TILE_ROWS * PITCH];
  /* Single elements would be too many to have under way. */
  constexpr bool AHEAD = LOADS <= 8;
  word kept[AHEAD ? LOADS : 1];
  auto load = [&](const fk_tile<E> &tile, int k, word *to) {
    int p = k * 256 + (int)threadIdx.x, r = p / ACROSS, c = p % ACROSS * VI;
    if (tile.row + r < t.rows && tile.column + c < t.columns)
      *to = *reinterpret_cast<const word *>(tile.in + (tile.row + r) * t.in_row + tile.column + c);
  };
  auto put = [&](int k, const word &v) {
    int p = k * 256 + (int)threadIdx.x;
    fk_put(shared + p / ACROSS * PITCH + p % ACROSS * VI, v);
  };
  fk_wait_previous();
  fk_let_next_start();
  uint32_t index = blockIdx.x;
  fk_tile<E> tile = fk_tile_at<E>(t, index, FK_TILE_ROWS, COLUMNS);
#pragma unroll
  for (int k = 0; AHEAD && k < LOADS; k++) load(tile, k, &kept[k]);
  for (; index < num_tiles; index += gridDim.x) {
    fk_tile<E> now = tile;
    bool more = index + gridDim.x < num_tiles;
    if (more) tile = fk_tile_at<E>(t, index + gridDim.x, FK_TILE_ROWS, COLUMNS);
    __syncthreads();
    if constexpr (AHEAD) {
#pragma unroll
      for (int k = 0; k < LOADS; k++) put(k, kept[k]);
    } else {
#pragma unroll 8
      for (int k = 0; k < LOADS; k++) {
        word one = 0;
        load(now, k, &one);
        put(k, one);
      }
    }
    __syncthreads();
    if (AHEAD && more) {
#pragma unroll
      for (int k = 0; k < LOADS; k++) load(tile, k, &kept[k]);
    }
#pragma unroll(STORES <= 8 ? STORES : 8)
    for (int k = 0; k < STORES; k++) {
      int p = k * 256 + (int)threadIdx.x, c = p / DOWN, r = p % DOWN * VO;
      if (now.row + r >= t.rows || now.column + c >= t.columns) continue;
      union {
        E at[VO];
        typename fk_word<VO * sizeof(E)>::type all;
      } v;
#pragma unroll
      for (int i = 0; i < VO; i++) v.at[i] = shared[(r + i) * PITCH + c];
      *reinterpret_cast<typename fk_word<VO * sizeof(E)>::type *>(now.out + (now.column + c) * t.out_row + now.row +
                                                                  r) = v.all;
    }
  }
}

/* Place of element f in shared memory: one word is left out of 33, or equal columns of many rows would share a bank. */
template <typename E>
static __device__ __forceinline__ int fk_spread(int f) {
  constexpr int LINE = 128 / sizeof(E), GAP = 4 / sizeof(E);
  return f + f / LINE * GAP;
}

enum { FK_NARROW = 32, FK_NARROW_TILE = 8192 };

/* Copies n elements from `in`, several packs of a thread at once; put(f, pack) takes what begins at element f. */
template <typename E, typename P>
static __device__ __forceinline__ void fk_fetch_run(const E *in, int n, P put) {
  constexpr int N = 16 / sizeof(E), LOADS = 4;
  for (int base = (int)threadIdx.x * N; base < n; base += 256 * N * LOADS) {
    uint4 kept[LOADS];
#pragma unroll
    for (int k = 0; k < LOADS; k++)
      if (base + k * 256 * N < n) kept[k] = *reinterpret_cast<const uint4 *>(in + base + k * 256 * N);
#pragma unroll
    for (int k = 0; k < LOADS; k++)
      if (base + k * 256 * N < n) put(base + k * 256 * N, kept[k]);
  }
}

/* Few rows, whose columns become rows that follow each other without a gap: out is one run of rows * columns. */
template <typename E>
static __global__ void __launch_bounds__(256)
    fk_transpose_interleave(const __grid_constant__ fk_transpose t, int tile_columns, fk_divider by_rows) {
  constexpr int N = 16 / sizeof(E), GAP = 4 / sizeof(E);
  __shared__ alignas(16) E shared[FK_NARROW_TILE + FK_NARROW * GAP];
  fk_tile<E> tile = fk_tile_at<E>(t, blockIdx.x, FK_NARROW, tile_columns);
  int rows = (int)t.rows, pitch = tile_columns + GAP;
  int count = (int)(t.columns - tile.column < tile_columns ? t.columns - tile.column : tile_columns);
  fk_wait_previous();
#pragma unroll 4
  for (int r = 0; r < rows; r++)
    fk_fetch_run(tile.in + r * t.in_row + tile.column, count,
                 [&](int c, const uint4 &v) { fk_put(shared + r * pitch + c, v); });
  __syncthreads();
  fk_let_next_start();
  E *out = tile.out + tile.column * rows;
  for (int f = (int)threadIdx.x * N; f < count * rows; f += 256 * N) {
    int c = (int)fk_divide((uint32_t)f, by_rows), r = f - c * rows;
    fk_pack<E> v;
#pragma unroll
    for (int i = 0; i < N; i++) {
      v.at[i] = shared[r * pitch + c];
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
  __shared__ alignas(16) E shared[FK_NARROW_TILE / 32 * 33];
  fk_tile<E> tile = fk_tile_at<E>(t, blockIdx.x, tile_rows, FK_NARROW);
  int columns = (int)t.columns, count = (int)(t.rows - tile.row < tile_rows ? t.rows - tile.row : tile_rows);
  fk_wait_previous();
  fk_fetch_run(tile.in + tile.row * columns, count * columns,
               [&](int f, const uint4 &v) { fk_put(shared + fk_spread<E>(f), v); });
  __syncthreads();
  fk_let_next_start();
  /* Neighbours have neighbouring rows of one column, warps different columns. */
  int packs = (count / N + 31) / 32 * 32;
  for (int p = (int)threadIdx.x; p < packs * columns; p += 256) {
    int c = p / packs, r = (p - c * packs) * N;
    if (r >= count) continue;
    fk_pack<E> v;
#pragma unroll
    for (int i = 0; i < N; i++) v.at[i] = shared[fk_spread<E>((r + i) * columns + c)];
    fk_store_pack(tile.out + c * t.out_row + tile.row + r, v);
  }
}

static inline void fk_transpose_divide(fk_transpose *t) {
  t->by_tiles = fk_divide_by(t->row_tiles * t->column_tiles);
  t->by_column_tiles = fk_divide_by(t->column_tiles);
  t->by_inner = fk_divide_by(t->inner);
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
  fk_transpose_divide(&t);
  int64_t blocks = t.batch * fk_ceil_div(many, tile);
  if (blocks > INT32_MAX) return false;
  dim3 grid((unsigned)blocks), block(256);
  *status = interleave
                ? fk_launch_early(ctx, fk_transpose_interleave<E>, grid, block, 0, t, (int)tile, fk_divide_by(few))
                : fk_launch_early(ctx, fk_transpose_separate<E>, grid, block, 0, t, (int)tile);
  return true;
}

/* How many elements can be read or written at once: 16 bytes, 8, or one element. */
template <typename E>
static inline int fk_transpose_vector(const void *base, int64_t side, int64_t outer, int64_t inner, int64_t row) {
  int64_t n = 16 / (int64_t)sizeof(E), together = side | outer | inner | row;
  if (together % n == 0 && (uintptr_t)base % 16 == 0) return (int)n;
  if (together % (n / 2) == 0 && (uintptr_t)base % 8 == 0) return (int)n / 2;
  return 1;
}

template <typename E>
static fk_status fk_transpose_launch(fk_context *ctx, fk_transpose t) {
  constexpr int N = 16 / sizeof(E), COLUMNS = FK_TILE_BYTES / FK_TILE_ROWS / (int)sizeof(E);
  fk_status status;
  if ((t.rows < 16 || t.columns < 16 || (t.rows < 64 && t.rows % N) || (t.columns < 64 && t.columns % N)) &&
      fk_transpose_narrow<E>(ctx, t, &status))
    return status;
  int in = fk_transpose_vector<E>(t.in, t.columns, t.in_outer, t.in_inner, t.in_row);
  int out = fk_transpose_vector<E>(t.out, t.rows, t.out_outer, t.out_inner, t.out_row);
  t.row_tiles = fk_ceil_div(t.rows, FK_TILE_ROWS), t.column_tiles = fk_ceil_div(t.columns, COLUMNS);
  int64_t tiles = t.batch * t.row_tiles * t.column_tiles, most = (int64_t)fk_context_cuda(ctx)->num_sms * 4;
  if (tiles > INT32_MAX) return fk_fail(FK_ERROR_UNSUPPORTED, "cuda: %lld tiles are too many", (long long)tiles);
  fk_transpose_divide(&t);
  void (*kernel)(fk_transpose, uint32_t) = fk_transpose_tiles<E, 1, 1>;
  if (in == N)
    kernel = out == N       ? fk_transpose_tiles<E, N, N>
             : out == N / 2 ? fk_transpose_tiles<E, N, N / 2>
                            : fk_transpose_tiles<E, N, 1>;
  else if (out == N)
    kernel = in == N / 2 ? fk_transpose_tiles<E, N / 2, N> : fk_transpose_tiles<E, 1, N>;
  return fk_launch_early(ctx, kernel, dim3((unsigned)(tiles < most ? tiles : most)), dim3(256), 0, t, (uint32_t)tiles);
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
