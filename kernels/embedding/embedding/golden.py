"""embedding by torch in double."""

import torch


def cases(rng):
    result = []
    for ids_shape, vocab_size, hidden_size in [((3,), 7, 5), ((2, 4), 11, 64), ((), 3, 2)]:
        ids = torch.from_numpy(rng.integers(0, vocab_size, ids_shape).reshape(ids_shape))
        weight = torch.from_numpy(rng.standard_normal((vocab_size, hidden_size)))
        result.append(dict(input_ids=ids, weight=weight, out=torch.nn.functional.embedding(ids, weight)))
    return result
