"""rotary_embedding by complex numbers: a pair (a, b) is a + bi, turned by multiplying with cos + i sin."""

import numpy as np


def rotate(x, turn, is_neox):
    """x [tokens, heads, head_size], turn [tokens, pairs] complex."""
    pairs = turn.shape[1]
    out = x.copy()
    first = np.arange(pairs) if is_neox else 2 * np.arange(pairs)
    second = first + pairs if is_neox else first + 1
    turned = (x[..., first] + 1j * x[..., second]) * turn[:, None, :]
    out[..., first], out[..., second] = turned.real, turned.imag
    return out


def cases(rng):
    result = []
    for tokens, heads, kv_heads, head_size, rotary_dim, is_neox in [
        (3, 2, 1, 8, 8, True), (3, 2, 1, 8, 8, False), (5, 4, 2, 35, 22, True), (5, 4, 2, 35, 22, False),
        (4, 3, None, 16, 4, True), (2, 2, 2, 6, 0, True),
    ]:
        positions = rng.integers(0, 50, tokens)
        angles = np.outer(np.arange(50), 10000.0 ** -(np.arange(rotary_dim // 2) / max(rotary_dim // 2, 1)))
        turn = np.exp(1j * angles)[positions]
        query = rng.standard_normal((tokens, heads, head_size))
        case = {"positions": positions, "query": query, "is_neox": is_neox,
                "cos_sin_cache": np.concatenate([np.cos(angles), np.sin(angles)], axis=1),
                "query.after": rotate(query, turn, is_neox)}
        if kv_heads:
            case["key"] = rng.standard_normal((tokens, kv_heads, head_size))
            case["key.after"] = rotate(case["key"], turn, is_neox)
        result.append(case)
    return result
