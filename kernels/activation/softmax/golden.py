"""softmax by torch in double."""

import torch


def cases(rng):
    result = []
    for shape, scale in [((3, 5), 1), ((2, 3, 64), 10), ((1, 1), 1), ((257,), 3), ((4, 33), 500)]:
        x = torch.from_numpy(rng.standard_normal(shape) * scale)
        result.append(dict(x=x, out=torch.nn.functional.softmax(x, dim=-1)))
    x = torch.tensor([[0.0, float("inf"), 1.0], [float("nan"), 0.0, 0.0], [float("-inf")] * 3, [0.0, float("-inf"), 0.0]],
                     dtype=torch.float64)
    result.append(dict(x=x, out=torch.nn.functional.softmax(x, dim=-1)))
    return result
