/* The numbers of machines, each with its source. */
#include <string.h>

#include "engine/ceilings.h"
#include "engine/roofline.h"

#define TERA 1e12

/* Makers state tensor core rates "with sparsity" at twice the dense rate; these are the dense ones. Float32 is the rate
 * of ordinary cores: TF32 rounds operands to 10 bits of mantissa and is not float32. */
const fk_machine fk_machines[] = {
    {.name = "h200",
     .product = "NVIDIA H200 SXM 141 GB",
     .source = "NVIDIA H200 Tensor Core GPU datasheet, SXM column, dense",
     .measured_by = "one H200 SXM, 2026-11-22: device-to-device copy, read plus written; best cuBLAS bfloat16 product",
     .memory = {4.8 * TERA, 4.28 * TERA},
     .flops = {{67 * TERA, 0}, {67 * TERA, 0}, {989.5 * TERA, 790 * TERA}, {1979 * TERA, 0}},
     .link = 450e9,
     .link_name = "NVLink 4, 900 GB/s both ways together"},
    {.name = "h100",
     .product = "NVIDIA H100 SXM 80 GB",
     .source = "NVIDIA H100 Tensor Core GPU datasheet, SXM column, dense",
     .memory = {3.35 * TERA, 0},
     .flops = {{67 * TERA, 0}, {67 * TERA, 0}, {989.5 * TERA, 0}, {1979 * TERA, 0}},
     .link = 450e9,
     .link_name = "NVLink 4, 900 GB/s both ways together"},
    {.name = "a100",
     .product = "NVIDIA A100 SXM 80 GB",
     .source = "NVIDIA A100 Tensor Core GPU datasheet, SXM column, dense",
     .memory = {2.039 * TERA, 0},
     .flops = {{19.5 * TERA, 0}, {19.5 * TERA, 0}, {312 * TERA, 0}, {0, 0}},
     .link = 300e9,
     .link_name = "NVLink 3, 600 GB/s both ways together"},
    {.name = "b200",
     .product = "NVIDIA B200 SXM 180 GB",
     .source = "NVIDIA Blackwell datasheet, HGX B200 per GPU, dense; memory by the DGX B200 datasheet (64 TB/s over 8)",
     .memory = {8 * TERA, 0},
     .flops = {{37 * TERA, 0}, {75 * TERA, 0}, {2250 * TERA, 0}, {4500 * TERA, 0}},
     .link = 900e9,
     .link_name = "NVLink 5, 1.8 TB/s both ways together"},
    {0}};

const fk_machine *fk_machine_find(const char *name) {
  for (const fk_machine *m = fk_machines; m->name; m++)
    if (strcmp(m->name, name) == 0) return m;
  fk_fail(FK_ERROR_NOT_FOUND, "expected h200, h100, a100, b200 or cpu, got \"%s\"", name);
  return NULL;
}

fk_status fk_machine_measure_cpu(double seconds, fk_machine *machine) {
  fk_copy_ceiling copy;
  fk_gemm_ceiling gemm;
  FK_TRY(fk_measure_copy(seconds, &copy));
  FK_TRY(fk_measure_gemm(seconds, &gemm));
  *machine =
      (fk_machine){.name = "cpu",
                   .product = "this machine's processor",
                   .measured_by = "just now, with all threads: a copy, read plus written; a float32 matrix product",
                   .memory = {0, copy.bytes_per_second},
                   .flops = {[FK_RATE_FLOAT32] = {0, gemm.flops_per_second}}};
  return FK_OK;
}

double fk_rate_value(const fk_rate *rate, bool measured) {
  double first = measured ? rate->measured : rate->datasheet;
  return first > 0 ? first : measured ? rate->datasheet : rate->measured;
}

fk_rate_kind fk_rate_kind_of(fk_type type) {
  if (type == FK_F64) return FK_RATE_FLOAT64;
  if (type == FK_BF16 || type == FK_F16) return FK_RATE_HALF;
  if (type == FK_F8_E4M3FN || type == FK_F8_E5M2) return FK_RATE_FLOAT8;
  return FK_RATE_FLOAT32;
}
