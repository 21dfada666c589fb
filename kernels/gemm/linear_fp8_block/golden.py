"""Expected outputs of linear_fp8_block, by numpy in double, over numbers that float8_e4m3fn holds."""

import numpy as np


def spread(scale, shape):
    """Every scale over its block, cut to the matrix."""
    return np.repeat(scale, 128, axis=1)[:, : shape[1]]


def cases(rng):
    out = []
    for m, k, n in [(1, 7, 3), (4, 259, 10), (2, 130, 131)]:
        x = rng.integers(-15, 16, (m, k)) / 8
        weight = rng.integers(-15, 16, (n, k)) / 4
        x_scale = rng.uniform(0.5, 2, (m, -(-k // 128)))
        weight_scale = rng.uniform(0.5, 2, (-(-n // 128), -(-k // 128)))
        whole = np.repeat(spread(weight_scale, weight.shape), 128, axis=0)[:n]
        out.append({"x": x, "weight": weight, "x_scale": x_scale, "weight_scale": weight_scale,
                    "out": (x * spread(x_scale, x.shape)) @ (weight * whole).T})
    return out
