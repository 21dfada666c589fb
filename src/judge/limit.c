/* The machine's limit, measured in the session that it is compared with. */
#include <math.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "core/context.h"
#include "engine/ceilings.h"
#include "judge/bench.h"

static const double seconds_each = 0.4;

static fk_status measure(fk_bench_ceilings *c) {
  fk_copy_ceiling copy;
  fk_gemm_ceiling gemm;
  FK_TRY(fk_measure_copy(seconds_each, &copy));
  FK_TRY(fk_measure_gemm(seconds_each, &gemm));
  c->bytes_per_second = copy.bytes_per_second;
  c->flops_per_second = gemm.flops_per_second;
  c->by = gemm.by;
  return FK_OK;
}

static fk_status measure_gpu(const fk_bench *b, fk_bench_ceilings *c) {
  fk_context *ctx;
  fk_cuda_ceilings gpu;
  fk_context_options options = {.backend = FK_CUDA, .device_id = b->options.limits.devices[0]};
  FK_TRY(fk_context_create(&options, &ctx));
  fk_status status = fk_cuda_describe(fk_context_cuda(ctx), &c->gpu);
  if (!status) status = fk_measure_cuda(ctx, &gpu);
  fk_context_destroy(ctx);
  FK_TRY(status);
  c->bytes_per_second = gpu.bytes_per_second;
  c->flops_per_second = gpu.flops_per_second;
  c->by = "linear (bfloat16)";
  return FK_OK;
}

fk_status fk_bench_measure(fk_bench *b) {
  if (b->options.limits.backend == FK_CUDA) {
    b->ceilings = (fk_bench_ceilings){.threads = b->options.limits.threads};
    return measure_gpu(b, &b->ceilings);
  }
  b->ceilings = (fk_bench_ceilings){.threads = b->options.limits.threads};
#ifdef _OPENMP
  int before = omp_get_max_threads();
  omp_set_num_threads(b->ceilings.threads);
#endif
  fk_status status = measure(&b->ceilings);
#ifdef _OPENMP
  omp_set_num_threads(before);
#endif
  return status;
}

double fk_bench_limit_fraction(const fk_bench *b, const fk_case_result *r, double ns) {
  const fk_bench_ceilings *c = &b->ceilings;
  if (c->bytes_per_second <= 0 || c->flops_per_second <= 0 || ns <= 0) return NAN;
  double all = r->num_ranks > 1 ? r->num_ranks : 1; /* every GPU has such limits */
  return 1e9 * fmax(r->bytes / c->bytes_per_second, r->flops / c->flops_per_second) / all / ns;
}
