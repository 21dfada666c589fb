"""fused_add_rms_norm by numpy: the sum, and the sum divided by its quadratic mean."""

import numpy as np


def cases(rng):
    result = []
    for shape, scale, epsilon in [((3, 5), 1, 1e-6), ((2, 3, 64), 1, 1e-5), ((257,), 1, 0.0), ((4, 33), 1e-4, 1e-6)]:
        x, residual = rng.standard_normal(shape) * scale, rng.standard_normal(shape) * scale
        weight = rng.standard_normal(shape[-1])
        total = x + residual
        normed = total / np.sqrt(np.mean(np.square(total), axis=-1, keepdims=True) + epsilon) * weight
        result.append({"x": x, "residual": residual, "weight": weight, "epsilon": epsilon, "x.after": normed,
                       "residual.after": total})
    return result
