"""Expected outputs of tanh, by its quotient of exponentials in double."""

import numpy as np


def cases(rng):
    out = []
    for shape in [(1, 1), (3, 7), (2, 5, 33)]:
        x = rng.standard_normal(shape)
        out.append({"x": x, "out": np.expm1(2 * x) / (np.expm1(2 * x) + 2)})
    return out
