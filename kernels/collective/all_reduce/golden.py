"""all_reduce by numpy."""

import numpy as np


def cases(rng):
    result = []
    for shape in [(1, 3, 4), (2, 5, 7), (3, 1, 33), (8, 2, 5)]:
        x = rng.standard_normal(shape)
        out = np.repeat(np.einsum("rik->ik", x)[None], shape[0], axis=0)
        result.append(dict(x=x, world_size=shape[0], out=out))
    return result
