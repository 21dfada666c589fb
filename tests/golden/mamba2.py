"""Mamba-2: transformers' Mamba2ForCausalLM and Mamba2Model.

The reference computes its norms and its scan in float32 whatever dtype the model has. Here those casts go to double, so
that its outputs are good to more than the 1e-6 that the tests ask for. Besides, a double loop over tokens, written from
the formulas, must agree with every output: it tells whether groups are normalised apart.
"""

import contextlib
import json

import torch
from safetensors.torch import load_file, save_file
from transformers import Mamba2Config, Mamba2ForCausalLM, Mamba2Model
from transformers.models.mamba2 import modeling_mamba2

SMALL = dict(
    vocab_size=97,
    hidden_size=32,
    num_heads=8,
    head_dim=8,
    state_size=16,
    n_groups=2,
    num_hidden_layers=2,
    conv_kernel=4,
    chunk_size=8,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)


class InDouble:
    """torch, but for float32."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def in_double():
    narrow = torch.Tensor.float
    modeling_mamba2.torch, torch.Tensor.float = InDouble(), torch.Tensor.double
    try:
        yield
    finally:
        modeling_mamba2.torch, torch.Tensor.float = torch, narrow


def randomise(model, generator):
    """Weights at which every part matters: decays of a few to a few hundred tokens, steps around one half."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("A_log"):
            p.data = 1.2 * noise - 1
        elif name.endswith("dt_bias"):
            p.data = noise - 1.5
        elif name.endswith("bias"):
            p.data = 0.3 * noise
        elif p.ndim == 1:
            p.data = 1 + 0.2 * noise
        else:
            p.data = noise / p[0].numel() ** 0.5


def normed(x, weight, eps, groups=1):
    y = x.unflatten(-1, (groups, -1))
    return (y / (y.square().mean(-1, keepdim=True) + eps).sqrt()).flatten(-2) * weight


def mixer(u, w, c):
    """One sequence u [T, hidden], one token after the other."""
    inner, shared = c.num_heads * c.head_dim, c.n_groups * c.state_size
    projected = u @ w["in_proj.weight"].T + w.get("in_proj.bias", 0)
    z, xbc, dt = projected.split([inner, inner + 2 * shared, c.num_heads], dim=-1)
    past = torch.cat([torch.zeros(c.conv_kernel - 1, inner + 2 * shared, dtype=u.dtype), xbc])
    taps = w["conv1d.weight"][:, 0]
    xbc = sum(past[k : k + len(u)] * taps[:, k] for k in range(c.conv_kernel)) + w.get("conv1d.bias", 0)
    x, b, cc = (xbc * xbc.sigmoid()).split([inner, shared, shared], dim=-1)
    dt = torch.nn.functional.softplus(dt + w["dt_bias"]).clamp(*c.time_step_limit)
    h = torch.zeros(c.num_heads, c.head_dim, c.state_size, dtype=u.dtype)
    out = []
    repeat = c.num_heads // c.n_groups
    for t in range(len(u)):
        xt = x[t].view(c.num_heads, c.head_dim)
        bt, ct = (v[t].view(c.n_groups, -1).repeat_interleave(repeat, 0) for v in (b, cc))
        decay = torch.exp(-w["A_log"].exp() * dt[t])
        h = h * decay[:, None, None] + (dt[t][:, None] * xt)[..., None] * bt[:, None]
        out.append(((h * ct[:, None]).sum(-1) + w["D"][:, None] * xt).flatten())
    y = torch.stack(out) * z * z.sigmoid()
    return normed(y, w["norm.weight"], c.layer_norm_epsilon, c.n_groups) @ w["out_proj.weight"].T + w.get(
        "out_proj.bias", 0
    )


def formula(state, c, ids):
    """Last hidden states of one sequence; state has names as Mamba2Model's."""
    h = state["embeddings.weight"][ids]
    for i in range(c.num_hidden_layers):
        own = f"layers.{i}."
        w = {k[len(own) + 6 :]: v for k, v in state.items() if k.startswith(own + "mixer.")}
        h = h + mixer(normed(h, state[own + "norm.weight"], c.layer_norm_epsilon), w, c)
    return normed(h, state["norm_f.weight"], c.layer_norm_epsilon)


def check_formula(model, arguments, result, causal):
    base = model.backbone if causal else model
    state = {k: v.double() for k, v in base.state_dict().items()}
    for row, ids in enumerate(arguments["input_ids"]):
        mask = arguments["attention_mask"][row].bool() if "attention_mask" in arguments else torch.ones_like(ids).bool()
        expected = formula(state, model.config, ids[mask].long())
        if causal:
            expected = expected @ model.lm_head.weight.double().T
        error = (result[row][mask] - expected).norm() / expected.norm()
        if not error < 1e-12:
            raise SystemExit(f"the reference and the formula differ by {error:.2e}")


def fixture(folder, seed, inputs, dtype=torch.float32, cls=Mamba2ForCausalLM, rewrite=None, **changes):
    """inputs: {io file's suffix: function of a generator and the config giving forward()'s arguments}."""
    generator = torch.Generator().manual_seed(seed)
    model = cls(Mamba2Config(**{**SMALL, **changes}))
    randomise(model, generator)
    if getattr(model.config, "tie_word_embeddings", False):
        model.tie_weights()
    model = model.to(dtype).eval()
    model.save_pretrained(folder)
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    model = cls.from_pretrained(folder, dtype=torch.float64).eval()
    causal = cls is Mamba2ForCausalLM
    for suffix, make in inputs.items():
        arguments = make(generator, model.config)
        with torch.no_grad(), in_double():
            result = model(**arguments, use_cache=False)["logits" if causal else "last_hidden_state"]
        check_formula(model, arguments, result, causal)
        tensors = {"in." + k: v.contiguous() for k, v in arguments.items()}
        tensors["out." + ("logits" if causal else "last_hidden_state")] = result.to(torch.float32).contiguous()
        save_file(tensors, str(folder / f"io{suffix}.safetensors"))
    if rewrite:
        rewrite(folder)


def ids(batch, length, dtype=torch.int64):
    return lambda g, c: {"input_ids": torch.randint(0, c.vocab_size, (batch, length), generator=g).to(dtype)}


def masked(rows):
    """rows: strings of 0 and 1, one per sequence."""
    mask = torch.tensor([[int(c) for c in row] for row in rows])
    return lambda g, c: {**ids(*mask.shape)(g, c), "attention_mask": mask}


def as_published(folder):
    """The dialect of the published checkpoints: Infinity in the configuration, "embedding" for "embeddings"."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["time_step_limit"] = [0.0, float("inf")]
    config["torch_dtype"] = config.pop("dtype")
    config.update(norm_before_gate=True, rms_norm=True, transformers_version="4.43.0.dev0")
    path.write_text(json.dumps(config, indent=2) + "\n")
    path = folder / "model.safetensors"
    tensors = {k.replace(".embeddings.", ".embedding."): v for k, v in load_file(path).items()}
    save_file(tensors, str(path), metadata={"format": "pt"})


def make(target):
    both_sides = ["0000011111111", "1111111111111", "1111111000000", "0011111110000"]
    fixture(
        target / "plain",
        1,
        {"": masked(both_sides), "_single": ids(1, 1), "_long": ids(1, 150), "_unmasked": ids(3, 21, torch.int32)},
    )
    fixture(
        target / "one_group_biases",
        2,
        {"": ids(2, 33), "_right": masked(["11111111110", "11100000000"])},
        n_groups=1,
        use_bias=True,
        use_conv_bias=False,
        conv_kernel=3,
        chunk_size=16,
        tie_word_embeddings=True,
        time_step_limit=(0.05, 0.4),
    )
    fixture(
        target / "odd_bf16",
        3,
        {"": masked(["1" * 70, "0" * 23 + "1" * 47])},
        dtype=torch.bfloat16,
        hidden_size=30,
        num_heads=6,
        head_dim=10,
        n_groups=3,
        state_size=12,
        num_hidden_layers=3,
        chunk_size=256,
    )
    fixture(
        target / "published_f16",
        4,
        {"": masked(["1" * 20, "0" * 19 + "1"])},
        dtype=torch.float16,
        n_groups=4,
        rewrite=as_published,
    )
    fixture(
        target / "base_model",
        5,
        {"": masked(["0001111111", "1111111111"])},
        cls=Mamba2Model,
        dtype=torch.bfloat16,
    )
