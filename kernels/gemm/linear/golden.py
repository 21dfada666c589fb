"""Expected outputs of linear, by numpy in double."""

import numpy as np


def cases(rng):
    out = []
    for lead, k, n, has_bias in [((1,), 7, 3, True), ((4,), 33, 10, False), ((2, 3), 16, 5, True), ((3,), 0, 4, True)]:
        x = rng.standard_normal((*lead, k))
        weight = rng.standard_normal((n, k))
        case = {"x": x, "weight": weight}
        expected = np.einsum("...k,nk->...n", x, weight)
        if has_bias:
            case["bias"] = rng.standard_normal(n)
            expected = expected + case["bias"]
        out.append({**case, "out": expected})
    return out
