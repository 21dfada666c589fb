"""Expected outputs of max_sim, by numpy in double over padded documents, as colbert-ir scores them."""

import numpy as np


def cases(rng):
    out = []
    for queries, length, lengths, dim, masked in [(1, 4, [3, 5], 8, False), (2, 3, [1, 0, 6], 5, True), (3, 1, [2], 1, False)]:
        q = rng.standard_normal((queries, length, dim))
        d = rng.standard_normal((sum(lengths), dim))
        mask = rng.random(sum(lengths)) < 0.7 if masked else np.ones(sum(lengths), bool)
        ends = np.cumsum([0] + lengths)
        padded = np.full((queries, len(lengths), max(lengths), length), -9999.0)
        for j, (start, end) in enumerate(zip(ends[:-1], ends[1:])):
            dots = np.einsum("td,ild->itl", d[start:end], q)
            padded[:, j, : end - start] = np.where(mask[start:end][None, :, None], dots, -9999.0)
        case = {"q": q, "d": d, "cu_seqlens_d": ends}
        if masked:
            case["doc_mask"] = mask
        out.append({**case, "scores": padded.max(2).sum(-1)})
    return out
