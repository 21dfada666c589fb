"""column_parallel_linear as the one linear layer that its ranks share."""

import numpy as np


def cases(rng):
    result = []
    for world, rows, columns, features, has_bias in [(1, 3, 4, 5, True), (2, 5, 7, 3, False), (4, 2, 9, 6, True)]:
        for gather in [False, True]:
            x = rng.standard_normal((rows, columns))
            weight = rng.standard_normal((world * features, columns))
            case = dict(x=np.stack([x] * world), weight=np.stack(np.split(weight, world, axis=0)))
            out = x @ weight.T
            if has_bias:
                bias = rng.standard_normal(world * features)
                case["bias"] = np.stack(np.split(bias, world))
                out = out + bias
            out = np.stack([out] * world) if gather else np.stack(np.split(out, world, axis=1))
            result.append({**case, "world_size": world, "gather_output": gather, "out": out})
    return result
