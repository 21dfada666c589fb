"""Expected results of conv2d: sums over shifted slices of a zero-padded NHWC array, one slice per tap, in double."""

import numpy as np


def conv(x, weight, bias, stride, padding, dilation, groups):
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    out_channels, channels, kh, kw = weight.shape
    x = np.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)))
    n, height, width, _ = x.shape
    oh, ow = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    out = np.zeros((n, oh, ow, out_channels))
    per_group = out_channels // groups
    for g in range(groups):
        part, w = x[..., g * channels:(g + 1) * channels], weight[g * per_group:(g + 1) * per_group]
        for ky in range(kh):
            for kx in range(kw):
                tap = part[:, ky * dh:ky * dh + (oh - 1) * sh + 1:sh, kx * dw:kx * dw + (ow - 1) * sw + 1:sw]
                out[..., g * per_group:(g + 1) * per_group] += tap @ w[:, :, ky, kx].T
    return out if bias is None else out + bias


def cases(rng):
    out = []
    for shape, weight, stride, padding, dilation, groups, with_bias in [
        ((2, 5, 6, 3), (4, 3, 1, 1), (1, 1), (0, 0), (1, 1), 1, True),
        ((1, 7, 5, 3), (5, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1, False),
        ((2, 9, 10, 4), (6, 2, 3, 2), (2, 1), (1, 0), (1, 2), 2, True),
        ((1, 8, 11, 3), (7, 3, 4, 4), (4, 4), (0, 0), (1, 1), 1, True),
        ((1, 6, 5, 5), (5, 1, 7, 7), (1, 1), (3, 3), (1, 1), 5, True),
        ((1, 9, 8, 3), (6, 1, 3, 5), (2, 3), (2, 1), (3, 1), 3, False),
    ]:
        x, w = rng.standard_normal(shape), rng.standard_normal(weight)
        b = rng.standard_normal(weight[0]) if with_bias else None
        case = dict(x=x, weight=w, stride_h=stride[0], stride_w=stride[1], padding_h=padding[0], padding_w=padding[1],
                    dilation_h=dilation[0], dilation_w=dilation[1], groups=groups,
                    out=conv(x, w, b, stride, padding, dilation, groups))
        if with_bias:
            case["bias"] = b
        out.append(case)
    return out
