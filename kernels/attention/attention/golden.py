"""Expected outputs of attention, one query row at a time, by numpy in double."""

import numpy as np


def attend(q, k, v, scale, causal=True, left=-1, right=-1, softcap=0.0, sinks=None, num_visible=None, shift=None):
    """q [Lq, H, D], k [Lk, Hkv, D], v [Lk, Hkv, Dv] -> [Lq, H, Dv]."""
    num_q, heads, _ = q.shape
    num_k, kv_heads, _ = k.shape
    shift = num_k - num_q if shift is None else shift
    out = np.zeros((num_q, heads, v.shape[-1]))
    keys = np.arange(num_k)
    for i in range(num_q):
        position = i + shift
        seen = np.ones(num_k, dtype=bool) if num_visible is None else keys < num_visible
        if causal:
            seen &= keys <= position
        if left >= 0:
            seen &= keys >= position - left
        if right >= 0:
            seen &= keys <= position + right
        if not seen.any():
            continue
        for h in range(heads):
            g = h // (heads // kv_heads)
            s = scale * (k[seen, g] @ q[i, h])
            if softcap:
                s = softcap * np.tanh(s / softcap)
            sink = [] if sinks is None else [sinks[h]]
            top = np.max(np.concatenate([s, sink]))
            p = np.exp(s - top)
            out[i, h] = p @ v[seen, g] / (p.sum() + np.exp(np.array(sink) - top).sum())
    return out


def dense_case(rng, batch, lq, lk, heads, kv_heads, d, dv, lens=None, sinks=False, **attributes):
    q = rng.standard_normal((batch, lq, heads, d))
    k = rng.standard_normal((batch, lk, kv_heads, d))
    v = rng.standard_normal((batch, lk, kv_heads, dv))
    case = {"q": q, "k": k, "v": v}
    if lens is not None:
        case["seq_lens"] = np.array(lens, dtype=np.int32)
    if sinks:
        case["sinks"] = rng.standard_normal(heads)
    settings = {"scale": d**-0.5, "causal": True, "window_left": -1, "window_right": -1, "softcap": 0.0, **attributes}
    out = [
        attend(q[b], k[b], v[b], settings["scale"], settings["causal"], settings["window_left"],
               settings["window_right"], settings["softcap"], case.get("sinks"),
               None if lens is None else lens[b])
        for b in range(batch)
    ]
    return {**case, **settings, "out": np.stack(out)}


def paged_case(rng, queries, lens, block_size, heads, kv_heads, d, dv, **attributes):
    blocks = [-(-n // block_size) for n in lens]
    order = rng.permutation(sum(blocks) + 1)
    table = np.zeros((len(lens), max(blocks)), dtype=np.int32)
    at = 0
    for b, n in enumerate(blocks):
        table[b, :n] = order[at : at + n]
        at += n
    k = rng.standard_normal((len(order), block_size, kv_heads, d))
    v = rng.standard_normal((len(order), block_size, kv_heads, dv))
    q = rng.standard_normal((sum(queries), heads, d))
    cu = np.concatenate([[0], np.cumsum(queries)]).astype(np.int32)
    settings = {"scale": d**-0.5, "causal": True, "window_left": -1, "window_right": -1, "softcap": 0.0, **attributes}
    out = []
    for b, n in enumerate(lens):
        rows = table[b, : blocks[b]]
        keys = k[rows].reshape(-1, kv_heads, d)[:n]
        values = v[rows].reshape(-1, kv_heads, dv)[:n]
        out.append(attend(q[cu[b] : cu[b + 1]], keys, values, settings["scale"], settings["causal"],
                          settings["window_left"], settings["window_right"], settings["softcap"]))
    return {"q": q, "k": k, "v": v, "cu_seqlens_q": cu, "seq_lens": np.array(lens, dtype=np.int32),
            "block_table": table, **settings, "out": np.concatenate(out)}


def varlen_case(rng, queries, lens, heads, kv_heads, d, dv, **attributes):
    q = rng.standard_normal((sum(queries), heads, d))
    k = rng.standard_normal((sum(lens), kv_heads, d))
    v = rng.standard_normal((sum(lens), kv_heads, dv))
    cu_q = np.concatenate([[0], np.cumsum(queries)]).astype(np.int32)
    cu_k = np.concatenate([[0], np.cumsum(lens)]).astype(np.int32)
    settings = {"scale": d**-0.5, "causal": True, "window_left": -1, "window_right": -1, "softcap": 0.0, **attributes}
    out = [
        attend(q[cu_q[b] : cu_q[b + 1]], k[cu_k[b] : cu_k[b + 1]], v[cu_k[b] : cu_k[b + 1]], settings["scale"],
               settings["causal"], settings["window_left"], settings["window_right"], settings["softcap"])
        for b in range(len(lens))
    ]
    return {"q": q, "k": k, "v": v, "cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, **settings, "out": np.concatenate(out)}


def cases(rng):
    return [
        dense_case(rng, 2, 5, 7, 4, 2, 8, 8),
        dense_case(rng, 1, 6, 4, 2, 1, 5, 3, sinks=True),
        dense_case(rng, 3, 2, 6, 2, 2, 4, 4, lens=[6, 0, 3], causal=False),
        dense_case(rng, 1, 9, 9, 2, 2, 4, 4, sinks=True, window_left=2, softcap=1.5),
        dense_case(rng, 1, 7, 7, 2, 1, 4, 4, causal=False, window_left=1, window_right=2),
        varlen_case(rng, [3, 0, 4], [2, 5, 6], 4, 2, 4, 6),
        paged_case(rng, [1, 1, 1], [1, 7, 4], 2, 4, 2, 8, 8),
        paged_case(rng, [4, 1], [6, 9], 4, 2, 1, 6, 4, window_left=3),
    ]
