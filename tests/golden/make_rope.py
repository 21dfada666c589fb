"""Writes fixtures/rope/rope.json: rotary frequencies of several configurations, twice.

"float32" is what transformers' ROPE_INIT_FUNCTIONS computes (in float32); "exact" comes from the formulas, written down
here once more in 50-digit arithmetic, and must be the same but for float32's rounding. Cosines and sines of a few
positions come from the same arithmetic.

Run by hand:  python tests/golden/make_rope.py   (needs torch, transformers 5 or later, mpmath)
"""

import json
import pathlib

import mpmath as mp
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

mp.mp.dps = 50

LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)
YARN = dict(rope_type="yarn", rope_theta=150000.0, factor=32.0, original_max_position_embeddings=4096)

# name, rotary_dim, max_position_embeddings, seq_len, the rope parameters
CONFIGS = [
    ("default", 128, 2048, None, dict(rope_type="default", rope_theta=10000.0)),
    ("default, odd number of pairs", 22, 2048, None, dict(rope_type="default", rope_theta=1e6)),
    ("default, one pair", 2, 64, None, dict(rope_type="default", rope_theta=10000.0)),
    ("linear", 64, 4096, None, dict(rope_type="linear", rope_theta=10000.0, factor=2.5)),
    ("dynamic, short", 64, 4096, 100, dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0)),
    ("dynamic, long", 64, 4096, 10000, dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0)),
    ("llama3, 8B", 128, 131072, None, LLAMA3),
    ("llama3, 1B", 64, 131072, None, {**LLAMA3, "factor": 32.0}),
    ("yarn, defaults", 128, 131072, None, {**YARN, "rope_theta": 1e6, "factor": 4.0,
                                           "original_max_position_embeddings": 32768}),
    ("yarn, gpt-oss", 64, 131072, None, {**YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}),
    ("yarn, deepseek", 64, 163840, None, {**YARN, "rope_theta": 10000.0, "factor": 40.0, "beta_fast": 32, "beta_slow": 1,
                                          "mscale": 1.0, "mscale_all_dim": 0.7}),
    ("yarn, attention_factor", 64, 131072, None, {**YARN, "attention_factor": 1.25}),
    ("yarn, factor from the lengths", 64, 131072, None, {**YARN, "factor": None}),
    ("yarn, other betas", 96, 131072, None, {**YARN, "beta_fast": 16.0, "beta_slow": 2.0}),
    ("yarn, the ramp is a step", 8, 131072, None, {**YARN, "original_max_position_embeddings": 4, "factor": 2.0,
                                                  "beta_fast": 100.0, "beta_slow": 90.0}),
]


def exact(dim, longest, seq_len, p):
    """(inverse frequencies, attention factor) in mpmath."""
    kind, theta = p["rope_type"], mp.mpf(p["rope_theta"])
    factor = p.get("factor")
    if kind == "dynamic":
        ratio = mp.mpf(max(seq_len or longest, longest)) / longest
        theta *= mp.power(factor * ratio - factor + 1, mp.mpf(dim) / (dim - 2))
    inv = [mp.exp(-mp.log(theta) * 2 * j / dim) for j in range(dim // 2)]
    if kind == "linear":
        inv = [f / factor for f in inv]
    if kind == "llama3":
        inv = [llama3(f, p) for f in inv]
    if kind != "yarn":
        return inv, mp.mpf(1)
    context = p["original_max_position_embeddings"]
    factor = mp.mpf(longest) / context if factor is None else mp.mpf(factor)

    def pair(rotations):
        return dim * mp.log(context / (2 * mp.pi * rotations)) / (2 * mp.log(theta))

    low, high = pair(p.get("beta_fast", 32)), pair(p.get("beta_slow", 1))
    if p.get("truncate", True):
        low, high = mp.floor(low), mp.ceil(high)
    low, high = max(low, mp.mpf(0)), min(high, mp.mpf(dim - 1))
    if low == high:
        high += mp.mpf("0.001")
    ramp = [min(max((j - low) / (high - low), mp.mpf(0)), mp.mpf(1)) for j in range(dim // 2)]
    inv = [f * (1 - r + r / factor) for f, r in zip(inv, ramp)]

    def magnitude(m):
        return 1 + mp.mpf(m) * mp.log(factor) / 10 if factor > 1 else mp.mpf(1)

    if p.get("attention_factor") is not None:
        return inv, mp.mpf(p["attention_factor"])
    if p.get("mscale") and p.get("mscale_all_dim"):
        return inv, magnitude(p["mscale"]) / magnitude(p["mscale_all_dim"])
    return inv, magnitude(1)


def llama3(f, p):
    waves = p["original_max_position_embeddings"] * f / (2 * mp.pi)
    low, high = p["low_freq_factor"], p["high_freq_factor"]
    share = min(max((waves - low) / (high - low), mp.mpf(0)), mp.mpf(1))
    return f * (share + (1 - share) / p["factor"])


def case(name, dim, longest, seq_len, p):
    config = LlamaConfig(hidden_size=dim, num_attention_heads=1, head_dim=dim, max_position_embeddings=longest,
                         rope_parameters=dict(p))
    # The default type has no entry in the table: each model's module carries it.
    if p["rope_type"] == "default":
        inv32, scale32 = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        inv32, scale32 = ROPE_INIT_FUNCTIONS[p["rope_type"]](config, "cpu", seq_len=seq_len)
    inv32 = inv32.tolist()
    inv, scale = exact(dim, longest, seq_len, p)
    worst = max([abs(a / b - 1) for a, b in zip(inv32, inv)] + [abs(scale32 / scale - 1)])
    assert worst < 1e-6, (name, worst)
    rows = [{"position": n, "cos": [float(mp.cos(n * f) * scale) for f in inv],
             "sin": [float(mp.sin(n * f) * scale) for f in inv]} for n in (0, 1, 4095)]
    config_json = {"max_position_embeddings": longest, "rope_parameters": {k: v for k, v in p.items()}}
    return {"name": name, "rotary_dim": dim, "seq_len": seq_len or longest, "config": config_json,
            "float32": {"inv_freq": inv32, "attention_factor": float(scale32)},
            "exact": {"inv_freq": [float(f) for f in inv], "attention_factor": float(scale)}, "rows": rows}


def main():
    path = pathlib.Path(__file__).resolve().parent / "fixtures" / "rope" / "rope.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cases": [case(*c) for c in CONFIGS]}, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
