#include "device/cpu_row.h"
#include "tasks/embedding.h"

static int64_t id_at(const fk_tensor *ids, int64_t i) {
  const void *data = fk_data(ids);
  return fk_type_of(ids) == FK_I32 ? ((const int32_t *)data)[i] : ((const int64_t *)data)[i];
}

fk_status fk_cpu_embedding(fk_context *ctx, const fk_embedding_args *a) {
  (void)ctx;
  int64_t rows = fk_numel(a->input_ids), n = fk_size(a->weight, 1), vocab_size = fk_size(a->weight, 0);
  /* All ids before the first write: an error leaves out as it was. */
  for (int64_t r = 0; r < rows; r++) {
    int64_t id = id_at(a->input_ids, r);
    if (id < 0 || id >= vocab_size)
      return fk_fail(FK_ERROR_ARGUMENT, "input_ids, element %lld: expected an id from 0 to %lld, got %lld",
                     (long long)r, (long long)vocab_size - 1, (long long)id);
  }
  size_t bytes = (size_t)(n * fk_width(fk_type_of(a->weight)));
  bool stream = fk_stream_pays(2.0 * (double)rows * (double)bytes);
#pragma omp parallel if (rows > 1 && rows * n >= FK_PARALLEL_MIN)
  {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
      const void *from = fk_row(a->weight, id_at(a->input_ids, r));
      if (stream)
        fk_stream(fk_row(a->out, r), from, bytes);
      else
        memcpy(fk_row(a->out, r), from, bytes);
    }
    if (stream) fk_stream_end();
  }
  return FK_OK;
}
