"""ColBERTv2: transformers' BertModel, and colbert-ir's query(), doc() and score() as formulas in torch."""

import json

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

SMALL = dict(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
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
        elif "embeddings" in name:
            p.data = 0.7 * noise
        else:
            gain = 1.4 if "query" in name or "key" in name else 1.0
            p.data = gain * noise / p.shape[1] ** 0.5


def save_io(path, inputs, outputs):
    tensors = {"in." + k: v.contiguous() for k, v in inputs.items()}
    tensors.update({"out." + k: v.detach().to(torch.float32).contiguous() for k, v in outputs.items()})
    save_file(tensors, str(path))


def checkpoint(folder, seed, cls, config, heads, dtype=torch.float32, prefix=None, edit=None, **arguments):
    """Saves a random model, with further tensors `heads` and names behind a prefix; reopens it in double."""
    generator = torch.Generator().manual_seed(seed)
    model = cls(config, **arguments)
    randomise(model, generator)
    model.to(dtype).eval().save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = load_file(str(path))
    if prefix:
        tensors = {prefix + k: v for k, v in tensors.items()}
    tensors.update({k: v.to(dtype) for k, v in heads(generator).items()})
    save_file(tensors, str(path), metadata={"format": "pt"})
    if edit:
        path = folder / "config.json"
        path.write_text(json.dumps(edit(json.loads(path.read_text())), indent=2) + "\n")
    plain = cls(config, **arguments)
    own = {k.removeprefix(prefix or ""): v for k, v in tensors.items()}
    missing = plain.load_state_dict(own, strict=False).missing_keys
    assert not missing, missing
    stored = {k: v.to(torch.float64) for k, v in tensors.items()}
    return plain.to(torch.float64).eval(), stored, generator


def clear(x, mask):
    return x * mask.to(x.dtype).reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))


def mask_of(rows):
    return torch.tensor([[int(c) for c in row] for row in rows])


def bert(model, arguments):
    """BertModel's outputs; padding is zero, and so is the pooled vector where the first token is padding."""
    with torch.no_grad():
        result = model(**arguments)
    mask = arguments.get("attention_mask", torch.ones_like(arguments["input_ids"]))
    out = {"last_hidden_state": clear(result.last_hidden_state, mask)}
    if result.pooler_output is not None:
        out["pooler_output"] = result.pooler_output
    return out, mask


def unit(x):
    return torch.nn.functional.normalize(x, p=2, dim=-1)


def colbert(model, linear, query, doc, skiplist, maxlen, mask_id, attend=False):
    """query, doc: (input_ids, attention_mask), padded at the end."""
    ids, mask = query
    ids = torch.where(mask.bool(), ids, mask_id)
    fill = max(maxlen - ids.shape[1], 0)
    ids = torch.nn.functional.pad(ids, (0, fill), value=mask_id)
    mask = torch.nn.functional.pad(mask, (0, fill), value=0)
    with torch.no_grad():
        q = unit(model(ids, attention_mask=torch.ones_like(mask) if attend else mask).last_hidden_state @ linear.T)
        d = model(doc[0], attention_mask=doc[1]).last_hidden_state @ linear.T
    keep = doc[1].bool() & (doc[0] != 0) & ~torch.isin(doc[0], skiplist)
    d = unit(clear(d, keep))
    products = torch.einsum("jtd,iqd->ijtq", d, q)
    products[:, ~keep] = -9999.0
    return {"query_embeddings": q, "doc_embeddings": d, "scores": products.max(2).values.sum(-1)}


def make(target):
    no_heads = lambda g: {}
    config = BertConfig(**SMALL)
    model, _, g = checkpoint(target / "bert", 1, BertModel, config, no_heads)
    ids = lambda b, s: torch.randint(1, config.vocab_size, (b, s), generator=g)
    masks = {"": ["1111111111111", "1111111000000", "1000000000000"], "_holes": ["1111111111111", "1101111100110"]}
    for suffix, rows in masks.items():
        mask = mask_of(rows)
        arguments = {"input_ids": ids(*mask.shape), "attention_mask": mask}
        arguments["token_type_ids"] = torch.randint(0, 2, mask.shape, generator=g)
        save_io(target / "bert" / f"io{suffix}.safetensors", arguments, bert(model, arguments)[0])
    left = mask_of(["0000011111111", "0111111111111"])
    arguments = {"input_ids": ids(2, 13), "attention_mask": left}
    out, _ = bert(model, arguments)
    del out["pooler_output"]  # of a padding token there
    save_io(target / "bert" / "io_left.safetensors", arguments, out)
    for suffix, arguments in {
        "_single": {"input_ids": ids(1, 1)},
        "_unmasked": {"input_ids": ids(2, 33).to(torch.int32)},
        "_positions": {"input_ids": ids(2, 9), "position_ids": torch.tensor([[9, 8, 7, 1, 0, 63, 5, 5, 5]])},
    }.items():
        save_io(target / "bert" / f"io{suffix}.safetensors", arguments, bert(model, arguments)[0])

    def old(c):
        c["torch_dtype"] = c.pop("dtype", "float16")
        return c

    config = BertConfig(**{**SMALL, "hidden_size": 42, "num_attention_heads": 3, "hidden_act": "gelu_new"})
    model, _, g = checkpoint(
        target / "odd_f16", 2, BertModel, config, no_heads, torch.float16, "bert.", old, add_pooling_layer=False
    )
    arguments = {"input_ids": ids(2, 21), "attention_mask": mask_of(["1" * 21, "0" * 4 + "1" * 17])}
    save_io(target / "odd_f16" / "io.safetensors", arguments, bert(model, arguments)[0])

    def as_colbert(**changes):
        return lambda c: {**c, "architectures": ["HF_ColBERT"], **changes}

    for name, seed, dim, attend in [("colbert", 3, 128, False), ("colbert_narrow", 4, 24, True)]:
        config = BertConfig(**SMALL)
        heads = lambda g: {"linear.weight": torch.randn(dim, 48, generator=g) / 7}
        extra = {} if dim == 128 else {"dim": dim, "query_maxlen": 12, "mask_token_id": 4, "attend_to_mask_tokens": attend}
        model, stored, g = checkpoint(
            target / name, seed, BertModel, config, heads, prefix="bert.", edit=as_colbert(**extra)
        )
        linear = stored["linear.weight"]
        mask = mask_of(["111111111111", "000111111111"])
        arguments = {"input_ids": ids(2, 12), "attention_mask": mask}
        out, _ = bert(model, arguments)
        del out["pooler_output"]
        out["token_embeddings"] = clear(unit(out["last_hidden_state"] @ linear.T), mask)
        save_io(target / name / "io.safetensors", arguments, out)
        query, skiplist = (ids(3, 9), mask_of(["111111111", "111110000", "111000000"])), torch.tensor([5, 6, 7, 8, 9])
        doc = (ids(4, 17), mask_of(["1" * 17, "1" * 11 + "0" * 6, "1" * 2 + "0" * 15, "1" * 17]))
        doc[0][0, 3:6] = torch.tensor([5, 9, 0])
        doc[0][2, :2] = 7  # shows nothing at all
        out = colbert(model, linear, query, doc, skiplist, extra.get("query_maxlen", 32), extra.get("mask_token_id", 96), attend)
        inputs = {"query_input_ids": query[0], "query_attention_mask": query[1], "doc_input_ids": doc[0]}
        inputs.update({"doc_attention_mask": doc[1], "skiplist": skiplist})
        save_io(target / name / "io_scores.safetensors", inputs, out)
