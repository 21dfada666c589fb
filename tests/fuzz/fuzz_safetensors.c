/* Any bytes as a safetensors file: whatever opens can be read, element by element, within its bounds. */
#include <stdlib.h>

#include "core/convert.h"
#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fk_safetensors *f;
  if (fk_safetensors_open_memory(data, size, "fuzz", &f) != FK_OK) return 0;
  size_t total = 0;
  for (size_t i = 0; i < fk_safetensors_count(f); i++) {
    const fk_stored *t = fk_safetensors_at(f, i);
    int64_t n = fk_stored_numel(t);
    if (fk_safetensors_find(f, t->name) != t || fk_type_bytes(t->type, n) != t->bytes) abort();
    total += t->bytes;
    double sum = 0;
    for (int64_t k = 0; k < n; k++) sum += fk_load_f64(t->type, t->data, k);
    if (n == 0 && sum != 0) abort();
    float block[64];
    if (n <= 64 && fk_type_is_float(t->type) && fk_safetensors_read(t, FK_F32, block) != FK_OK) abort();
  }
  if (total > size) abort();
  fk_safetensors_metadata(f, "format");
  fk_safetensors_close(f);
  return 0;
}
