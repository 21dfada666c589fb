"""mul_add by torch in double."""

import torch


def cases(rng):
    result = []
    for shape in [(3, 5), (2, 4, 64), (1, 1)]:
        a, b, c = (torch.from_numpy(rng.standard_normal(shape)) for _ in range(3))
        result.append(dict(a=a, b=b, c=c, out=torch.addcmul(c, a, b)))
    return result
