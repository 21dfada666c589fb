"""embedding_bag_collection by one torch embedding_bag in double per table."""

import numpy as np
import torch


def cases(rng):
    result = []
    for rows, lengths, dim, mode in [([5, 1, 9], [[2, 0], [1, 3], [4, 1]], 7, "sum"), ([3, 8], [[1], [6]], 4, "mean"),
                                     ([4], [[0, 2, 1]], 5, "sum")]:
        counts = np.array(lengths)
        offsets = np.cumsum([0, *counts.ravel()])
        values = np.concatenate([rng.integers(0, r, n.sum()) for r, n in zip(rows, counts)])
        weight = rng.standard_normal((sum(rows), dim))
        table_offsets = np.cumsum([0, *rows])
        tables, batch = counts.shape
        out = np.zeros((batch, tables, dim))
        for t in range(tables):
            own = offsets[t * batch:(t + 1) * batch + 1]
            out[:, t] = torch.nn.functional.embedding_bag(
                torch.from_numpy(values[own[0]:own[-1]]), torch.from_numpy(weight[table_offsets[t]:table_offsets[t + 1]]),
                torch.from_numpy(own - own[0]), mode=mode, include_last_offset=True)
        result.append(dict(values=values, offsets=offsets, weight=weight, table_offsets=table_offsets, mode=mode, out=out))
    return result
