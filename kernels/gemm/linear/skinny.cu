/* linear for few rows of 16-bit x: weights go from memory straight into registers as the tensor cores want them.
 *
 * mma.m16n8k16 takes 16 weight rows as its A and 8 rows of x as its B. Which depth a lane's element stands for does not
 * matter as long as A and B agree: lane (g, t) = (lane / 4, lane % 4) loads 16 bytes of depth 8 t .. 8 t + 7 of a slice
 * of 32, from weight rows g and g + 8 and from row g of x. The first two pairs are one mma's operands, the last two
 * pairs the next one's: two mma per slice, no shuffles, no shared memory before the end. Rows of x beyond the last, and
 * depth beyond the end in both operands, are zero.
 *
 * A block owns 16 MT features. Its WARPS warps share the depth, UNROLL slices at a time, so that the block reads each
 * weight row in long runs; their sums meet in shared memory in the order of the warps. */
#include "linear.cuh"

enum { SLICE = 32, PREFETCH_BYTES = 2048 /* of each weight row, before the previous kernel has ended */ };

static __device__ __forceinline__ uint4 load_weights(const void *p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

template <typename T>
static __device__ __forceinline__ void mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same<T, __nv_bfloat16>::value)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Into L2 only: right also where the previous kernel still writes what is read. */
template <typename T, int ROWS>
static __device__ __forceinline__ void prefetch(const T *weight, int64_t n0, const fk_gemm_args &g) {
  constexpr int LINES = PREFETCH_BYTES / 128;
  for (int i = (int)threadIdx.x; i < ROWS * LINES; i += (int)blockDim.x) {
    int64_t n = n0 + i / LINES, k = (int64_t)(i % LINES) * (128 / (int64_t)sizeof(T));
    if (n < g.features && k < g.depth) asm volatile("prefetch.global.L2 [%0];" ::"l"(weight + n * g.ldw + k));
  }
}

/* MT: features in sixteens; NT: rows of x in eights. */
template <typename T, int MT, int NT, int WARPS, int UNROLL, int PER_SM>
static __global__ void __launch_bounds__(32 * WARPS, PER_SM) linear_skinny(fk_gemm_args p) {
  constexpr int PITCH = 16 * MT + 4; /* keeps the lanes of a store in different banks */
  __shared__ float partial[WARPS][8 * NT][PITCH];
  const T *x = (const T *)p.x, *weight = (const T *)p.weight, *bias = (const T *)p.bias;
  int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int64_t n0 = (int64_t)blockIdx.x * (16 * MT), m0 = (int64_t)blockIdx.y * (8 * NT);
  const T *w[MT][2], *xr[NT];
#pragma unroll
  for (int i = 0; i < MT; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int64_t n = n0 + 16 * i + 8 * h + g;
      w[i][h] = weight + (n < p.features ? n : p.features - 1) * p.ldw + 8 * t;
    }
  bool present[NT];
#pragma unroll
  for (int j = 0; j < NT; j++) {
    present[j] = m0 + 8 * j + g < p.rows;
    xr[j] = x + (present[j] ? m0 + 8 * j + g : 0) * p.ldx + 8 * t;
  }
  prefetch<T, 16 * MT>(weight, n0, p);
  fk_wait_previous();
  fk_let_next_start();
  const uint4 zero = make_uint4(0, 0, 0, 0);
  float sum[MT][NT][4] = {};
  int depth = (int)p.depth;
  for (int k0 = warp * UNROLL * SLICE; k0 < depth; k0 += WARPS * UNROLL * SLICE) {
    uint4 a[UNROLL][MT][2];
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      int k = k0 + u * SLICE;
      bool inside = k + 8 * t < depth;
#pragma unroll
      for (int i = 0; i < MT; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) a[u][i][h] = inside ? load_weights(w[i][h] + k) : zero;
    }
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      int k = k0 + u * SLICE;
      bool inside = k + 8 * t < depth;
      uint4 b[NT];
#pragma unroll
      for (int j = 0; j < NT; j++) b[j] = inside && present[j] ? *(const uint4 *)(xr[j] + k) : zero;
#pragma unroll
      for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++) {
          uint4 lo = a[u][i][0], hi = a[u][i][1];
          mma<T>(sum[i][j], lo.x, hi.x, lo.y, hi.y, b[j].x, b[j].y);
          mma<T>(sum[i][j], lo.z, hi.z, lo.w, hi.w, b[j].z, b[j].w);
        }
    }
  }
#pragma unroll
  for (int i = 0; i < MT; i++)
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
      for (int c = 0; c < 4; c++) partial[warp][8 * j + 2 * t + c % 2][16 * i + 8 * (c / 2) + g] = sum[i][j][c];
  __syncthreads();
  for (int e = (int)threadIdx.x; e < 8 * NT * 16 * MT; e += 32 * WARPS) {
    int m = e / (16 * MT), n = e % (16 * MT);
    if (m0 + m >= p.rows || n0 + n >= p.features) continue;
    float v = 0;
#pragma unroll
    for (int k = 0; k < WARPS; k++) v += partial[k][m][n];
    ((T *)p.out)[(m0 + m) * p.ldo + n0 + n] = fk_from<T>(v + (bias ? fk_float(bias[n0 + n]) : 0.0f));
  }
}

template <typename T, int MT, int NT, int WARPS, int UNROLL, int PER_SM>
static fk_status launch(fk_context *ctx, const fk_gemm_args *g) {
  dim3 grid((unsigned)fk_ceil_div(g->features, 16 * MT), (unsigned)fk_ceil_div(g->rows, 8 * NT));
  return fk_launch_early(ctx, linear_skinny<T, MT, NT, WARPS, UNROLL, PER_SM>, grid, dim3(32 * WARPS), 0, *g);
}

template <typename T>
static fk_status dispatch(fk_context *ctx, const fk_gemm_args *g, int variant) {
  switch (variant) {
    case 0:
      return launch<T, 1, 1, 8, 4, 3>(ctx, g);
    case 1:
      return launch<T, 1, 1, 4, 8, 4>(ctx, g);
    case 2:
      return launch<T, 1, 2, 8, 4, 2>(ctx, g);
    case 3:
      return launch<T, 2, 4, 8, 2, 2>(ctx, g);
    default:
      return launch<T, 2, 8, 4, 2, 2>(ctx, g);
  }
}

int fk_linear_skinny_fit(const fk_gemm_args *g) {
  bool packed = (uintptr_t)g->x % 16 == 0 && (uintptr_t)g->weight % 16 == 0 && g->ldx % 8 == 0 && g->ldw % 8 == 0 &&
                g->depth % 8 == 0 && g->depth < 1 << 30;
  return packed && g->out_type == g->type && (g->type == FK_BF16 || g->type == FK_F16) && g->rows <= 128;
}

fk_status fk_linear_skinny(fk_context *ctx, const fk_gemm_args *g, int variant) {
  return g->type == FK_BF16 ? dispatch<__nv_bfloat16>(ctx, g, variant) : dispatch<__half>(ctx, g, variant);
}
