"""Expected outputs of relu, by numpy in double."""

import numpy as np


def cases(rng):
    xs = [rng.standard_normal(shape) for shape in [(1, 1), (3, 7), (2, 5, 33)]]
    return [{"x": x, "out": np.maximum(x, 0)} for x in xs]
