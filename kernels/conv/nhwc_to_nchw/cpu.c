#include <string.h>

#include "device/cpu_row.h"
#include "tasks/nhwc_to_nchw.h"

enum { BLOCK = 16 };

typedef struct image_row { /* one line of one image: pixels of x, channels of out, in elements */
  const char *x;
  char *out;
  int64_t pixel_step, channel_step, channels, width;
} image_row;

/* Squares of BLOCK channels by BLOCK pixels, so that both sides stay in the cache; size is a constant where this is
 * inlined. */
static inline __attribute__((always_inline)) void move(const image_row *r, int size) {
  for (int64_t c = 0; c < r->channels; c += BLOCK) {
    int64_t last = c + BLOCK < r->channels ? c + BLOCK : r->channels;
    for (int64_t x = 0; x < r->width; x += BLOCK) {
      int64_t end = x + BLOCK < r->width ? x + BLOCK : r->width;
      for (int64_t k = c; k < last; k++)
        for (int64_t i = x; i < end; i++)
          memcpy(r->out + (k * r->channel_step + i) * size, r->x + (i * r->pixel_step + k) * size, (size_t)size);
    }
  }
}

fk_status fk_cpu_nhwc_to_nchw(fk_context *ctx, const fk_nhwc_to_nchw_args *a) {
  (void)ctx;
  int64_t height = fk_size(a->x, 1), rows = fk_size(a->x, 0) * height, size = fk_width(fk_type_of(a->x));
  image_row r = {.pixel_step = fk_stride(a->x, 2),
                 .channel_step = fk_stride(a->out, 1),
                 .channels = fk_size(a->x, 3),
                 .width = fk_size(a->x, 2)};
#pragma omp parallel for schedule(static) firstprivate(r) if (rows * r.channels * r.width >= FK_PARALLEL_MIN)
  for (int64_t i = 0; i < rows; i++) {
    int64_t n = i / height, y = i % height;
    r.x = (const char *)fk_data(a->x) + (n * fk_stride(a->x, 0) + y * fk_stride(a->x, 1)) * size;
    r.out = (char *)fk_data(a->out) + (n * fk_stride(a->out, 0) + y * fk_stride(a->out, 2)) * size;
    if (size == 4)
      move(&r, 4);
    else
      move(&r, 2);
  }
  return FK_OK;
}
