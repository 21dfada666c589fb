/* The turning of one token's heads, for every kernel that does it: rotary_embedding, and fused ones at a higher level.
 *
 * A block takes a token at a time; thread (x, y) takes the pairs x, x + blockDim.x, ... (in packs of N numbers) of the
 * heads y, y + blockDim.y, ..., so that it reads an angle once for all of its heads. */
#pragma once

#include "device/cuda/kernel.cuh"

/* COUNT neighbouring numbers, aligned to their size up to 16 bytes. */
template <int COUNT, typename C>
static __device__ __forceinline__ void rotate_load_angles(const C *from, float (&to)[COUNT]) {
  constexpr int bytes = COUNT * (int)sizeof(C);
  C x[COUNT];
  if constexpr (bytes % 16 == 0) {
#pragma unroll
    for (int i = 0; i < bytes / 16; i++) ((uint4 *)x)[i] = ((const uint4 *)from)[i];
  } else if constexpr (bytes == 8) {
    *(uint2 *)x = *(const uint2 *)from;
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; i++) x[i] = from[i];
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++) to[i] = fk_float(x[i]);
}

/* N numbers of T in one access. */
template <typename T, int N>
struct alignas(N * sizeof(T)) rotate_numbers {
  T at[N];
};

/* A pair's place: of pairs half a head apart the pack of first members and that of second ones; of neighbours two packs
 * of whole pairs that follow each other. Either way 2 N numbers under N angles. */
template <typename T, int N>
static __device__ __forceinline__ void rotate_numbers_by(rotate_numbers<T, N> &a, rotate_numbers<T, N> &b,
                                                         const float (&cos)[N], const float (&sin)[N], bool is_neox) {
  T x[2 * N];
#pragma unroll
  for (int i = 0; i < N; i++) {
    x[i] = a.at[i];
    x[N + i] = b.at[i];
  }
#pragma unroll
  for (int i = 0; i < N; i++) {
    float first = fk_float(is_neox ? x[i] : x[2 * i]), second = fk_float(is_neox ? x[N + i] : x[2 * i + 1]);
    float turned = first * cos[i] - second * sin[i], other = first * sin[i] + second * cos[i];
    if (is_neox) {
      a.at[i] = fk_from<T>(turned);
      b.at[i] = fk_from<T>(other);
    } else {
      (2 * i < N ? a : b).at[2 * i % N] = fk_from<T>(turned);
      (2 * i + 1 < N ? a : b).at[(2 * i + 1) % N] = fk_from<T>(other);
    }
  }
}

/* Where pack i of a head's pairs lies. */
template <int N>
static __device__ __forceinline__ void rotate_places(int i, int half, bool is_neox, int &a, int &b) {
  a = is_neox ? i * N : 2 * i * N;
  b = is_neox ? half + i * N : (2 * i + 1) * N;
}

/* Called nearer before it is read: what lies far away is asked for a token ahead. */
static __device__ __forceinline__ void rotate_call(const void *p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}
