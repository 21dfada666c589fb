"""Expected results of grn: numpy norms over the two image axes, in double."""

import numpy as np


def cases(rng):
    out = []
    for shape, epsilon in [((1, 1, 1, 1), 1e-6), ((2, 3, 5, 7), 1e-6), ((3, 4, 4, 16), 0.25), ((1, 2, 9, 33), 0.0)]:
        x, weight, bias = rng.standard_normal(shape), rng.standard_normal(shape[3]), rng.standard_normal(shape[3])
        norm = np.linalg.norm(x.reshape(shape[0], -1, shape[3]), axis=1)[:, None, None, :]
        scaled = x * norm / (norm.mean(axis=-1, keepdims=True) + epsilon)
        out.append(dict(x=x, weight=weight, bias=bias, epsilon=epsilon, out=weight * scaled + bias + x))
    return out
