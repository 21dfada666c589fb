"""mamba2_ssd by numpy, without a recurrence: y_t = sum over s <= t of exp(A sum of dt in (s, t]) dt_s (C_t . B_s) x_s.

An in-out tensor's content before the call is named as the argument, its content after the call "<argument>.after".
"""

import numpy as np


def softplus(v):
    return np.where(v > 20, v, np.log1p(np.exp(np.minimum(v, 20))))


def head_scan(x, dt, a, b, c, h):
    """x [T, P], dt [T], b and c [T, N], h [P, N] -> y [T, P], the state after the last token."""
    total = np.cumsum(dt) * a
    weights = np.tril(np.exp(np.tril(total[:, None] - total[None, :])) * (c @ b.T)) * dt
    y = weights @ x + np.exp(total)[:, None] * (c @ h.T)
    left = np.exp(total[-1] - total) * dt
    return y, np.exp(total[-1]) * h + (left[:, None] * x).T @ b


def case(rng, lengths, before, heads, dim, groups, size, d=True, bias=True, dt_min=0.0, dt_max=1e300):
    tokens, slots = sum(lengths), len(lengths) + 2
    order = rng.permutation(slots)[: len(lengths)]
    x, dt = rng.standard_normal((tokens, heads, dim)), rng.standard_normal((tokens, heads)) - 1
    b, c = rng.standard_normal((tokens, groups, size)), rng.standard_normal((tokens, groups, size))
    a = -np.exp(rng.standard_normal(heads))
    skip, offset = rng.standard_normal(heads) * d, rng.standard_normal(heads) * bias
    state = rng.standard_normal((slots, heads, dim, size))
    out, after, at = np.zeros_like(x), state.copy(), 0
    step = np.clip(softplus(dt + offset), dt_min, dt_max)
    for length, old, slot in zip(lengths, before, order):
        now = slice(at, at + length)
        for h in range(heads if length else 0):
            g = h // (heads // groups)
            past = state[slot, h] if old else np.zeros((dim, size))
            y, after[slot, h] = head_scan(x[now, h], step[now, h], a[h], b[now, g], c[now, g], past)
            out[now, h] = y + skip[h] * x[now, h]
        at += length
    result = {"x": x, "dt": dt, "B": b, "C": c, "A": a, "D": skip if d else None, "dt_bias": offset if bias else None,
              "ssm_state": state, "ssm_state.after": after, "dt_min": dt_min, "dt_max": dt_max, "chunk_size": 256,
              "cu_seqlens_q": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
              "seq_lens": (np.array(lengths) + np.array(before)).astype(np.int32),
              "state_slots": order.astype(np.int32), "out": out}
    return result


def cases(rng):
    return [
        case(rng, [7], [0], 2, 3, 1, 4),
        case(rng, [1, 1, 1], [4, 0, 9], 4, 2, 2, 3),
        case(rng, [5, 0, 1, 12], [0, 2, 3, 7], 6, 4, 3, 5),
        case(rng, [6, 2], [1, 0], 3, 2, 3, 2, d=False, bias=False, dt_min=0.2, dt_max=0.6),
        case(rng, [40], [3], 2, 4, 1, 8),
    ]
