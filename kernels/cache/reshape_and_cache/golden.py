"""Expected caches of reshape_and_cache, by numpy assignment into flat slots.

An in-out tensor's content before the call is named as the argument, its content after the call "<argument>.after".
"""

import numpy as np


def cases(rng):
    out = []
    for slots in [[4, 0, 7], [2, -1, 9, 3], [1, 5, 1]]:
        n, heads, blocks, size, d, dv = len(slots), 2, 5, 2, 3, 4
        key, value = rng.standard_normal((n, heads, d)), rng.standard_normal((n, heads, dv))
        key_cache = rng.standard_normal((blocks, size, heads, d))
        value_cache = rng.standard_normal((blocks, size, heads, dv))
        key_after, value_after = key_cache.copy(), value_cache.copy()
        for token, slot in enumerate(slots):
            if slot >= 0:
                key_after[slot // size, slot % size] = key[token]
                value_after[slot // size, slot % size] = value[token]
        out.append({"key": key, "value": value, "key_cache": key_cache, "value_cache": value_cache,
                    "slot_mapping": np.array(slots, dtype=np.int64),
                    "key_cache.after": key_after, "value_cache.after": value_after})
    return out
