/* Products of 16-bit numbers by a warp's tensor core instructions: what every kernel that uses mma.sync shares.
 *
 * A warp multiplies a left factor [16][16] by a right factor [16][8] into float32 sums [16][8]. Lane l, with g = l / 4
 * and c = l % 4, holds of the left factor rows g and g + 8 at columns 2 c, 2 c + 1 (a0, a1) and 8 further (a2, a3); of
 * the right factor rows 2 c, 2 c + 1 (b0) and 8 further (b1) at column g; of the sums row g at columns 2 c, 2 c + 1
 * (d0, d1) and row g + 8 (d2, d3). Two 16-bit numbers lie in a register, the first in its low half. From the PTX ISA
 * manual, "Matrix Fragments for mma.m16n8k16" and ldmatrix. */
#pragma once

#include "device/cuda/kernel.cuh"

/* Four matrices of 8 rows of 16 bytes: lane l gives the address of row l % 8 of matrix l / 8, and gets two numbers of
 * row l / 4 of each. */
static __device__ __forceinline__ void fk_load_matrices(uint32_t *r, uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/* The same, of the matrices' transposes. */
static __device__ __forceinline__ void fk_load_turned_matrices(uint32_t *r, uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/* d += a b, T being __half or __nv_bfloat16. */
template <typename T>
static __device__ __forceinline__ void fk_mma(float &d0, float &d1, float &d2, float &d3, const uint32_t *a,
                                              uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same<T, __half>::value)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <typename T>
static __device__ __forceinline__ void fk_mma(float *d, const uint32_t *a, uint32_t b0, uint32_t b1) {
  fk_mma<T>(d[0], d[1], d[2], d[3], a, b0, b1);
}
