"""silu_and_mul by numpy, the logistic function by way of its logarithm."""

import numpy as np


def cases(rng):
    result = []
    for shape, scale in [((3, 10), 1), ((2, 3, 66), 4), ((1, 2), 1), ((5, 34), 30)]:
        x = rng.standard_normal(shape) * scale
        gate, up = np.split(x, 2, axis=-1)
        result.append(dict(x=x, out=gate * np.exp(-np.logaddexp(0, -gate)) * up))
    return result
