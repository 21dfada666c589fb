/* Images from NCHW to NHWC and back: line by line the transposition of a matrix, whose rows are channels or pixels.
 * The tensors are the caller's; strides are arbitrary but for the last axis, which has stride 1. */
#ifndef FK_KERNELS_CONV_LAYOUT_H
#define FK_KERNELS_CONV_LAYOUT_H

#include <string.h>

#include "core/kernel.h"
#include "device/cpu_row.h"

typedef struct fk_image_line { /* one line of one image: matrix [rows, columns] of x, transposed in out; elements */
  const char *x;
  char *out;
  int64_t x_step, out_step, rows, columns;
} fk_image_line;

/* Squares of 16 by 16, so that both sides stay in the cache; size is a constant where this is inlined. */
static inline __attribute__((always_inline)) void fk_line_move(const fk_image_line *m, int size) {
  enum { BLOCK = 16 };
  for (int64_t column = 0; column < m->columns; column += BLOCK) {
    int64_t end = column + BLOCK < m->columns ? column + BLOCK : m->columns;
    for (int64_t row = 0; row < m->rows; row += BLOCK) {
      int64_t last = row + BLOCK < m->rows ? row + BLOCK : m->rows;
      for (int64_t i = column; i < end; i++)
        for (int64_t k = row; k < last; k++)
          memcpy(m->out + (i * m->out_step + k) * size, m->x + (k * m->x_step + i) * size, (size_t)size);
    }
  }
}

/* channels_first: x is NCHW and out NHWC; else the other way. Elements of 2 or 4 bytes. */
static inline void fk_images_move(const fk_tensor *x, const fk_tensor *out, bool channels_first) {
  int x_line = channels_first ? 2 : 1, out_line = channels_first ? 1 : 2; /* the axes of height */
  int x_row = channels_first ? 1 : 2, out_row = channels_first ? 2 : 1;
  int64_t height = fk_size(x, x_line), lines = fk_size(x, 0) * height, size = fk_width(fk_type_of(x));
  fk_image_line m = {.x_step = fk_stride(x, x_row),
                     .out_step = fk_stride(out, out_row),
                     .rows = fk_size(x, x_row),
                     .columns = fk_size(x, 3)};
#pragma omp parallel for schedule(static) firstprivate(m) if (lines * m.rows * m.columns >= FK_PARALLEL_MIN)
  for (int64_t i = 0; i < lines; i++) {
    int64_t n = i / height, y = i % height;
    m.x = (const char *)fk_data(x) + (n * fk_stride(x, 0) + y * fk_stride(x, x_line)) * size;
    m.out = (char *)fk_data(out) + (n * fk_stride(out, 0) + y * fk_stride(out, out_line)) * size;
    if (size == 4)
      fk_line_move(&m, 4);
    else
      fk_line_move(&m, 2);
  }
}

#endif
