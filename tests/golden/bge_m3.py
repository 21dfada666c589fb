"""BGE-M3: transformers' XLMRobertaModel, and FlagEmbedding's three heads as formulas in torch."""

import torch
from colbertv2 import checkpoint, clear, mask_of, save_io, unit
from transformers import XLMRobertaConfig, XLMRobertaModel

SMALL = dict(
    vocab_size=101,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=66,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
    bos_token_id=0,
    pad_token_id=1,
    eos_token_id=2,
)


def lexical(ids, weights, mask):
    """FlagEmbedding's dictionary of each sequence, laid at the first occurrence of each id."""
    out = torch.zeros_like(weights)
    for b in range(ids.shape[0]):
        best, first = {}, {}
        for s in range(ids.shape[1]):
            token, weight = int(ids[b, s]), float(weights[b, s])
            if not mask[b, s]:
                continue
            first.setdefault(token, s)
            if token not in (0, 1, 2, 3) and weight > best.get(token, 0):
                best[token] = weight
        for token, weight in best.items():
            out[b, first[token]] = weight
    return out


def run(model, stored, arguments):
    ids = arguments["input_ids"]
    mask = arguments.get("attention_mask", torch.ones_like(ids))
    with torch.no_grad():
        result = model(**arguments)
    hidden = clear(result.last_hidden_state, mask)
    out = {"last_hidden_state": hidden}
    if mask[:, 0].all():  # else the reference takes a padding token for the first
        out["dense_vecs"] = unit(hidden[:, 0])
        if result.pooler_output is not None:
            out["pooler_output"] = result.pooler_output
    if "sparse_linear.weight" in stored:
        weights = torch.relu(hidden @ stored["sparse_linear.weight"].T + stored["sparse_linear.bias"])
        out["token_weights"] = clear(weights, mask)
        assert (weights[mask.bool()] > 0).double().mean() > 0.2, weights
        out["lexical_weights"] = lexical(ids, weights[..., 0], mask)
    if "colbert_linear.weight" in stored:
        vecs = unit(hidden @ stored["colbert_linear.weight"].T + stored["colbert_linear.bias"])
        out["colbert_vecs"] = clear(vecs, mask)[:, 1:]
    return out


def make(target):
    def heads(dim, bias):
        return lambda g: {
            "sparse_linear.weight": torch.randn(1, 48, generator=g) / 4,
            "sparse_linear.bias": torch.tensor([bias]),
            "colbert_linear.weight": torch.randn(dim, 48, generator=g) / 7,
            "colbert_linear.bias": torch.randn(dim, generator=g) / 7,
        }

    def fixture(name, seed, inputs, heads=lambda g: {}, edit=None, prefix=None, dtype=torch.float32, pooler=True, **changes):
        config = XLMRobertaConfig(**{**SMALL, **changes})
        model, stored, g = checkpoint(
            target / name, seed, XLMRobertaModel, config, heads, dtype, prefix, edit, add_pooling_layer=pooler
        )
        for suffix, make_inputs in inputs.items():
            arguments = make_inputs(g)
            save_io(target / name / f"io{suffix}.safetensors", arguments, run(model, stored, arguments))

    def ids(b, s, dtype=torch.int64):
        return lambda g: {"input_ids": torch.randint(2, 30, (b, s), generator=g).to(dtype)}

    def masked(rows, pad=1):
        def make_inputs(g):
            mask = mask_of(rows)
            tokens = ids(*mask.shape)(g)["input_ids"]
            return {"input_ids": torch.where(mask.bool(), tokens, pad), "attention_mask": mask}

        return make_inputs

    right, left = ["1111111111111", "1111111000000", "1000000000000"], ["0000011111111", "1111111111111"]
    fixture("heads", 1, {"": masked(right), "_left": masked(left), "_unmasked": ids(2, 40, torch.int32)}, heads(48, 1.0))
    # Padding by id that no mask hides, a mask over ids that are no padding, explicit positions.
    odd = lambda g: {"input_ids": torch.tensor([[0, 9, 1, 9, 1, 7, 2], [0, 1, 1, 5, 5, 5, 2]])}
    hidden = lambda g: {**odd(g), "attention_mask": mask_of(["1110111", "1111100"])}
    positions = lambda g: {**ids(2, 5)(g), "position_ids": torch.tensor([[2, 9, 65, 2, 0]])}
    fixture("plain", 2, {"": odd, "_hidden": hidden, "_positions": positions, "_single": ids(1, 1)})
    fixture(
        "narrow_f16",
        3,
        {"": masked(["1" * 19, "1" * 5 + "0" * 14], 1)},
        heads(16, 1.5),
        edit=lambda c: {**c, "colbert_dim": 16},
        prefix="roberta.",
        dtype=torch.float16,
        pooler=False,
        num_hidden_layers=3,
        num_attention_heads=6,
    )
