"""causal_conv1d by numpy: every sequence padded on the left with its state, then numpy.convolve per channel.

An in-out tensor's content before the call is named as the argument, its content after the call "<argument>.after".
"""

import numpy as np


def case(rng, lengths, before, dim, width, bias, activation):
    slots = len(lengths) + 2
    order = rng.permutation(slots)[: len(lengths)]
    x = rng.standard_normal((sum(lengths), dim))
    state = rng.standard_normal((slots, width - 1, dim))
    weight, offset = rng.standard_normal((dim, width)), rng.standard_normal(dim) if bias else np.zeros(dim)
    out, after, at = np.zeros_like(x), state.copy(), 0
    for length, old, slot in zip(lengths, before, order):
        if length == 0:
            continue
        past = state[slot] if old else np.zeros((width - 1, dim))
        padded = np.concatenate([past, x[at : at + length]])
        for c in range(dim):
            # convolve() turns its kernel round
            y = np.convolve(padded[:, c], weight[c, ::-1], mode="valid") + offset[c]
            out[at : at + length, c] = y / (1 + np.exp(-y)) if activation == "silu" else y
        after[slot] = padded[len(padded) - (width - 1) :]
        at += length
    result = {"x": x, "conv_state": state, "conv_state.after": after, "weight": weight, "activation": activation,
              "cu_seqlens_q": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
              "seq_lens": (np.array(lengths) + np.array(before)).astype(np.int32),
              "state_slots": order.astype(np.int32), "out": out}
    return {**result, "bias": offset} if bias else result


def cases(rng):
    return [
        case(rng, [9], [0], 5, 4, True, "silu"),
        case(rng, [1, 1, 1], [7, 0, 1], 6, 4, True, "silu"),
        case(rng, [2, 5, 0, 1, 3], [3, 0, 4, 0, 1], 4, 4, False, "silu"),
        case(rng, [4, 2], [0, 9], 3, 2, True, "none"),
        case(rng, [1, 6], [2, 2], 3, 6, False, "none"),
    ]
