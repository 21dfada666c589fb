"""rms_norm_gated by numpy: rows cut into groups, each divided by its quadratic mean."""

import numpy as np


def expected(x, gate, weight, group_size, epsilon, norm_before_gate):
    gated = gate / (1 + np.exp(-gate))
    t = x if norm_before_gate else x * gated
    groups = t.reshape(*t.shape[:-1], -1, group_size)
    normed = (groups / np.sqrt(np.mean(groups**2, axis=-1, keepdims=True) + epsilon)).reshape(t.shape) * weight
    return normed * gated if norm_before_gate else normed


def cases(rng):
    result = []
    for shape, group_size, epsilon, norm_before_gate in [((3, 6), 6, 1e-5, False), ((2, 3, 64), 16, 1e-5, False),
                                                         ((5, 33), 11, 0.1, False), ((4, 40), 10, 1e-6, True)]:
        x, gate, weight = rng.standard_normal(shape), rng.standard_normal(shape), rng.standard_normal(shape[-1])
        out = expected(x, gate, weight, group_size, epsilon, norm_before_gate)
        result.append(dict(x=x, gate=gate, weight=weight, group_size=group_size, epsilon=epsilon,
                           norm_before_gate=norm_before_gate, out=out))
    return result
