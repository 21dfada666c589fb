"""embedding_bag by torch in double; weighted means by a loop in numpy."""

import numpy as np
import torch


def cases(rng):
    result = []
    for lengths, rows, dim, mode, weighted in [([3, 0, 2, 5], 7, 5, "sum", False), ([3, 0, 2, 5], 7, 5, "mean", False),
                                               ([1, 4, 4], 11, 24, "sum", True), ([0, 0], 3, 4, "sum", False),
                                               ([2, 0, 6], 9, 3, "mean", True), ([], 2, 2, "mean", False)]:
        offsets = np.cumsum([0] + lengths)
        values = rng.integers(0, rows, offsets[-1])
        weight = rng.standard_normal((rows, dim))
        case = dict(values=values, offsets=offsets, weight=weight, mode=mode)
        if weighted:
            case["per_sample_weights"] = rng.standard_normal(offsets[-1])
        if weighted and mode == "mean":
            out = np.zeros((len(lengths), dim))
            for b, (start, end) in enumerate(zip(offsets[:-1], offsets[1:])):
                if end > start:
                    factors = case["per_sample_weights"][start:end] / (end - start)
                    out[b] = factors @ weight[values[start:end]]
        else:
            psw = torch.from_numpy(case["per_sample_weights"]) if weighted else None
            out = torch.nn.functional.embedding_bag(
                torch.from_numpy(values), torch.from_numpy(weight), torch.from_numpy(offsets), mode=mode,
                per_sample_weights=psw, include_last_offset=True) if lengths else np.zeros((0, dim))
        result.append({**case, "out": out})
    return result
