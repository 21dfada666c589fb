"""Llama: transformers' LlamaForCausalLM and LlamaModel."""

import json

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

SMALL = dict(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)


def randomise(model, generator):
    """Weights at which every part matters: the default initialisation makes attention nearly uniform."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("bias"):
            p.data = 0.3 * noise
        elif p.ndim == 1:
            p.data = 1 + 0.2 * noise
        else:
            gain = 1.2 if "q_proj" in name or "k_proj" in name else 1.0
            p.data = gain * noise / p.shape[1] ** 0.5


def save_io(path, inputs, outputs):
    tensors = {"in." + k: v.contiguous() for k, v in inputs.items()}
    tensors.update({"out." + k: v.detach().to(torch.float32).contiguous() for k, v in outputs.items()})
    save_file(tensors, str(path))


def fixture(folder, seed, inputs, dtype=torch.float32, cls=LlamaForCausalLM, shard=None, old_config=None, **changes):
    """inputs: {io file's suffix: function of a generator and the config giving forward()'s arguments}."""
    generator = torch.Generator().manual_seed(seed)
    config = LlamaConfig(**{**SMALL, **changes})
    model = cls(config)
    randomise(model, generator)
    if getattr(config, "tie_word_embeddings", False):
        model.tie_weights()
    model = model.to(dtype).eval()
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    if old_config:
        path = folder / "config.json"
        path.write_text(json.dumps(old_config(json.loads(path.read_text())), indent=2) + "\n")
    model = cls.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").eval()
    for suffix, make in inputs.items():
        arguments = make(generator, config)
        with torch.no_grad():
            result = model(**arguments, use_cache=False)
        key = "logits" if cls is LlamaForCausalLM else "last_hidden_state"
        save_io(folder / f"io{suffix}.safetensors", arguments, {key: result[key]})


def ids(batch, length, dtype=torch.int64):
    return lambda g, c: {"input_ids": torch.randint(0, c.vocab_size, (batch, length), generator=g).to(dtype)}


def masked(rows, dtype=torch.int64):
    """rows: strings of 0 and 1, one per sequence."""
    mask = torch.tensor([[int(c) for c in row] for row in rows], dtype=dtype)
    return lambda g, c: {**ids(*mask.shape)(g, c), "attention_mask": mask}


def positions(rows, mask=None, dtype=torch.int64):
    table = torch.tensor(rows)

    def make(g, c):
        batch = len(mask) if mask else table.shape[0]
        out = {**ids(batch, table.shape[1], dtype)(g, c), "position_ids": table}
        return {**out, "attention_mask": torch.tensor(mask)} if mask else out

    return make


def transformers_4(rope_theta, rope_scaling, drop=()):
    """The same configuration as transformers 4 wrote it."""

    def convert(config):
        config.pop("rope_parameters")
        config["rope_theta"] = rope_theta
        config["rope_scaling"] = rope_scaling
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = "4.43.0"
        config["pretraining_tp"] = 1
        for key in drop:
            config.pop(key, None)
        return config

    return convert


def make(target):
    both_sides = ["0000011111111", "1111111111111", "1111111000000", "0011111111000"]
    fixture(
        target / "plain",
        1,
        {
            "": masked(both_sides),
            "_single": ids(1, 1),
            "_unmasked": ids(2, 19),
            "_positions": positions([list(range(7, 24)), list(range(0, 17))]),
            "_shared_positions": positions([list(range(3, 12))], mask=[[1] * 9, [0, 0, 0] + [1] * 6]),
            "_packed": positions([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0], [4, 5, 6, 0, 1, 2, 3, 9, 10, 11, 12]]),
        },
    )
    fixture(
        target / "tied_odd",
        2,
        {"": ids(2, 33, torch.int32), "_masked": masked(["1" * 20, "0" * 19 + "1"], torch.int32)},
        vocab_size=101,
        hidden_size=72,
        intermediate_size=100,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
    fixture(
        target / "biases_head_dim",
        3,
        {"": masked(["11111111111100000", "11111111111111111"])},
        hidden_size=42,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=16,
        attention_bias=True,
        mlp_bias=True,
    )
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    fixture(
        target / "llama3_sharded_bf16",
        4,
        {"": masked(["1" * 70, "0" * 23 + "1" * 30 + "0" + "1" * 16])},
        dtype=torch.bfloat16,
        shard="40KB",
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=4,
        rope_parameters={**llama3, "rope_theta": 500000.0},
        old_config=transformers_4(500000.0, llama3, drop=("head_dim",)),
    )
    fixture(
        target / "linear_f16",
        5,
        {"": masked(["0" * 6 + "1" * 18, "1" * 24])},
        dtype=torch.float16,
        hidden_size=64,
        num_attention_heads=8,
        num_key_value_heads=1,
        rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0},
        old_config=transformers_4(10000.0, {"type": "linear", "factor": 2.5}),
    )
    fixture(
        target / "yarn",
        6,
        {"": ids(2, 50)},
        dtype=torch.bfloat16,
        rope_parameters={
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 32,
        },
    )
    fixture(
        target / "base_model",
        7,
        {"": masked(["0001111111", "1111111111"])},
        cls=LlamaModel,
        dtype=torch.bfloat16,
    )
