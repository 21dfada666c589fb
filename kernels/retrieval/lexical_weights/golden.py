"""Expected outputs of lexical_weights, by dictionaries of token ids."""

import numpy as np


def cases(rng):
    out = []
    for lengths, special in [([1], []), ([7, 12], [0, 2]), ([5, 0, 30], [1]), ([], [])]:
        n = sum(lengths)
        ids = rng.integers(0, 8, n)
        weights = rng.standard_normal(n)
        ends = np.cumsum([0] + lengths)
        expected = np.zeros(n)
        for start, end in zip(ends[:-1], ends[1:]):
            best, first = {}, {}
            for i in range(start, end):
                first.setdefault(ids[i], i)
                if ids[i] not in special and weights[i] > best.get(ids[i], 0):
                    best[ids[i]] = weights[i]
            for token, weight in best.items():
                expected[first[token]] = weight
        case = {"token_weights": weights, "input_ids": ids, "cu_seqlens": ends}
        if special:
            case["special_ids"] = np.array(special)
        out.append({**case, "out": expected})
    return out
