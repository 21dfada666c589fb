"""dot_interaction by torch in double: all products, then the upper triangle."""

import torch


def cases(rng):
    result = []
    for batch, features, dim in [(2, 3, 5), (3, 1, 4), (1, 20, 8), (2, 0, 3)]:
        dense = torch.from_numpy(rng.standard_normal((batch, dim)))
        sparse = torch.from_numpy(rng.standard_normal((batch, features, dim)))
        vectors = torch.cat((dense.unsqueeze(1), sparse), 1)
        i, j = torch.triu_indices(features + 1, features + 1, offset=1)
        pairs = torch.einsum("bik,bjk->bij", vectors, vectors)[:, i, j]
        result.append(dict(dense=dense, sparse=sparse, out=torch.cat((dense, pairs), 1)))
    return result
