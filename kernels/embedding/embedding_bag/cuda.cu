/* embedding_bag on the GPU: bags of one table (device/cuda/bags.cuh). */
#include "device/cuda/bags.cuh"
#include "tasks/embedding_bag.h"

fk_status fk_cuda_embedding_bag(fk_context *ctx, const fk_embedding_bag_args *a) {
  bag_job j = {};
  if (fk_numel(a->out) == 0) return FK_OK;
  j.values = fk_data(a->values);
  j.offsets = fk_data(a->offsets);
  j.factors = a->per_sample_weights ? fk_data(a->per_sample_weights) : NULL;
  j.weight = fk_data(a->weight);
  j.out = fk_data(a->out);
  j.wide_values = fk_type_of(a->values) == FK_I64;
  j.wide_offsets = fk_type_of(a->offsets) == FK_I64;
  j.mean = a->mode == 1;
  j.num_tables = 1;
  j.batch = fk_size(a->out, 0);
  j.num_indices = fk_size(a->values, 0);
  j.num_embeddings = fk_size(a->weight, 0);
  j.weight_stride = fk_stride(a->weight, 0);
  j.out_stride = fk_stride(a->out, 0);
  j.dim = (int)fk_size(a->weight, 1);
  j.value_check = fk_index_checker(ctx, "embedding_bag: values");
  j.offset_check = fk_index_checker(ctx, "embedding_bag: offsets");
  j.count_check = fk_index_checker(ctx, "embedding_bag: number of values, by the last offset");
  return fk_pool_bags(ctx, fk_type_of(a->weight), &j);
}
