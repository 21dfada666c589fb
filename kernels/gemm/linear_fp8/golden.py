"""Expected outputs of linear_fp8, by numpy in double, over numbers that float8_e4m3fn holds."""

import numpy as np


def cases(rng):
    out = []
    for m, k, n, x_scales, weight_scales, has_bias in [(1, 7, 3, 1, 1, True), (4, 33, 10, 4, 10, False),
                                                       (3, 16, 5, 1, 5, True), (5, 20, 6, 5, 1, False)]:
        x = rng.integers(-15, 16, (m, k)) / 8
        weight = rng.integers(-15, 16, (n, k)) / 4
        case = {"x": x, "weight": weight, "x_scale": rng.uniform(0.5, 2, x_scales),
                "weight_scale": rng.uniform(0.5, 2, weight_scales)}
        expected = (x * case["x_scale"][:, None]) @ (weight * case["weight_scale"][:, None]).T
        if has_bias:
            case["bias"] = rng.standard_normal(n)
            expected = expected + case["bias"]
        out.append({**case, "out": expected})
    return out
