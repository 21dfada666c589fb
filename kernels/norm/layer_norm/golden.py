"""Expected outputs of layer_norm, by numpy in double."""

import numpy as np


def cases(rng):
    out = []
    for shape, epsilon, has_weight, has_bias in [
        ((1, 1), 1e-5, True, True),
        ((3, 7), 1e-12, True, True),
        ((2, 3, 33), 1e-5, False, False),
        ((4, 128), 1e-6, True, False),
        ((4, 10), 0.5, False, True),
    ]:
        x = 3 * rng.standard_normal(shape) + 1
        case = {"x": x}
        expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
        if has_weight:
            case["weight"] = rng.standard_normal(shape[-1])
            expected = expected * case["weight"]
        if has_bias:
            case["bias"] = rng.standard_normal(shape[-1])
            expected = expected + case["bias"]
        out.append({**case, "epsilon": epsilon, "out": expected})
    return out
