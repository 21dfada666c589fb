"""row_parallel_linear as the one linear layer that its ranks share."""

import numpy as np


def cases(rng):
    result = []
    for world, rows, columns, features, has_bias in [(1, 3, 4, 5, True), (2, 5, 7, 3, False), (4, 2, 9, 6, True)]:
        x = rng.standard_normal((rows, world * columns))
        weight = rng.standard_normal((features, world * columns))
        case = dict(x=np.stack(np.split(x, world, axis=1)), weight=np.stack(np.split(weight, world, axis=1)))
        out = x @ weight.T
        if has_bias:
            case["bias"] = rng.standard_normal(features)
            out = out + case["bias"]
        result.append({**case, "world_size": world, "out": np.stack([out] * world)})
    return result
