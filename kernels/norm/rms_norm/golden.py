"""rms_norm by numpy: each row divided by its quadratic mean."""

import numpy as np


def expected(x, weight, epsilon):
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + epsilon) * weight


def cases(rng):
    result = []
    for shape, scale, epsilon in [((3, 5), 1, 1e-6), ((2, 3, 64), 1, 1e-5), ((257,), 1, 0.0), ((4, 33), 1e100, 1e-6),
                                  ((4, 33), 1e-4, 1e-6)]:
        x = rng.standard_normal(shape) * scale
        weight = rng.standard_normal(shape[-1])
        result.append(dict(x=x, weight=weight, epsilon=epsilon, out=expected(x, weight, epsilon)))
    return result
