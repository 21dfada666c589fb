"""DLRM and DLRMv2 in double: torchrec's DLRM and DLRM_DCN, written out with torch.nn.functional.

Where torchrec can be imported, its own interaction, cross network and perceptrons must agree with what is written out
here; its embedding bags are torch's. Names of weights are those of torchrec's state_dict."""

import json

import torch
import torch.nn.functional as F
from llama import save_io
from safetensors.torch import save_file

SMALL = dict(dense_in_features=13, embedding_dim=12, num_embeddings_per_feature=[40, 3, 17, 250, 1],
             multi_hot_sizes=[3, 1, 2, 9, 1], dense_arch_layer_sizes=[32, 20, 12], over_arch_layer_sizes=[24, 16, 1])
TABLE = "sparse_arch.embedding_bag_collection.embedding_bags.t_cat_{}.weight"


def shapes(config):
    """Every weight's shape, by name."""
    dim, rows = config["embedding_dim"], config["num_embeddings_per_feature"]
    wide = (len(rows) + 1) * dim
    crosses = config["architectures"] == ["DLRM_DCN"]
    result = {TABLE.format(i): (n, dim) for i, n in enumerate(rows)}

    def layers(place, sizes, first):
        for i, (out, into) in enumerate(zip(sizes, [first, *sizes])):
            result[f"{place}._mlp.{i}._linear.weight"], result[f"{place}._mlp.{i}._linear.bias"] = (out, into), (out,)

    over = config["over_arch_layer_sizes"]
    layers("dense_arch.model", config["dense_arch_layer_sizes"], config.get("dense_in_features", 13))
    layers("over_arch.model.0", over[:-1], wide if crosses else dim + len(rows) * (len(rows) + 1) // 2)
    result["over_arch.model.1.weight"], result["over_arch.model.1.bias"] = (over[-1], over[-2]), (over[-1],)
    for i in range(config.get("dcn_num_layers", 3) if crosses else 0):
        rank = config.get("dcn_low_rank_dim", 512)
        result[f"inter_arch.crossnet.V_kernels.{i}"] = (rank, wide)
        result[f"inter_arch.crossnet.W_kernels.{i}"] = (wide, rank)
        result[f"inter_arch.crossnet.bias.{i}"] = (wide,)
    return result


def perceptrons(w, place, x):
    i = 0
    while f"{place}._mlp.{i}._linear.weight" in w:
        x = F.relu(F.linear(x, w[f"{place}._mlp.{i}._linear.weight"], w[f"{place}._mlp.{i}._linear.bias"]))
        i += 1
    return x


def cross(w, x_0):
    x, i = x_0, 0
    while f"inter_arch.crossnet.bias.{i}" in w:
        product = F.linear(F.linear(x, w[f"inter_arch.crossnet.V_kernels.{i}"]), w[f"inter_arch.crossnet.W_kernels.{i}"])
        x = x_0 * (product + w[f"inter_arch.crossnet.bias.{i}"]) + x
        i += 1
    return x


def pairs(vectors):
    i, j = torch.triu_indices(vectors.shape[1], vectors.shape[1], offset=1)
    return torch.bmm(vectors, vectors.transpose(1, 2))[:, i, j]


def forward(config, w, inputs):
    dense, values, offsets = inputs["dense_features"].double(), inputs["sparse_values"], inputs["sparse_offsets"].long()
    factors, batch = inputs.get("sparse_weights"), dense.shape[0]
    embedded = perceptrons(w, "dense_arch.model", dense)
    vectors = [embedded]
    for f in range(len(config["num_embeddings_per_feature"])):
        bags = offsets[f * batch:(f + 1) * batch + 1]
        cut = slice(int(bags[0]), int(bags[-1]))
        psw = factors[cut].double() if factors is not None else None
        pooled = F.embedding_bag(values[cut].long(), w[TABLE.format(f)], bags - bags[0], include_last_offset=True,
                                 mode="sum", per_sample_weights=psw)
        if config.get("pooling") == "MEAN":  # weighted too, as FBGEMM computes it; PyTorch refuses
            pooled = pooled / bags.diff().clamp(min=1)[:, None]
        vectors.append(pooled)
    vectors = torch.stack(vectors, 1)
    if config["architectures"] == ["DLRM_DCN"]:
        joined = cross(w, vectors.reshape(batch, -1))
    else:
        joined = torch.cat((embedded, pairs(vectors)), 1)
    compare_with_torchrec(w, dense, embedded, vectors, joined)
    return F.linear(perceptrons(w, "over_arch.model.0", joined), w["over_arch.model.1.weight"],
                    w["over_arch.model.1.bias"])


def compare_with_torchrec(w, dense, embedded, vectors, joined):
    try:
        from torchrec.models.dlrm import DenseArch, InteractionArch, InteractionDCNArch
        from torchrec.modules.crossnet import LowRankCrossNet
    except (ImportError, OSError):
        return

    def given(module, place):
        own = {name[len(place) + 1:]: t for name, t in w.items() if name.startswith(place + ".")}
        module.double().load_state_dict(own)
        return module

    sizes = [t.shape[0] for name, t in w.items() if name.startswith("dense_arch.") and name.endswith("weight")]
    torch.testing.assert_close(given(DenseArch(dense.shape[1], sizes), "dense_arch")(dense), embedded)
    count = vectors.shape[1] - 1
    ranks = [t.shape[0] for name, t in w.items() if "V_kernels" in name]
    inter = InteractionDCNArch(count, LowRankCrossNet(vectors.shape[1] * vectors.shape[2], len(ranks), ranks[0])) \
        if ranks else InteractionArch(count)
    torch.testing.assert_close(given(inter, "inter_arch")(embedded, vectors[:, 1:]), joined)
    print("agrees with torchrec")


def sample(config, generator, batch, ints=(torch.int64, torch.int64), empty=0.0):
    """Inputs with bags of 0 to twice multi_hot_sizes values; a share of bags is empty."""
    rows = config["num_embeddings_per_feature"]
    lengths, values = [], []
    for count, hot in zip(rows, config.get("multi_hot_sizes", [1] * len(rows))):
        n = torch.randint(0, 2 * hot + 1, (batch,), generator=generator)
        n[torch.rand(batch, generator=generator) < empty] = 0
        lengths.append(n)
        values.append(torch.randint(0, count, (int(n.sum()),), generator=generator))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(lengths).cumsum(0)])
    inputs = {"dense_features": torch.randn((batch, config.get("dense_in_features", 13)), generator=generator),
              "sparse_offsets": offsets.to(ints[0]), "sparse_values": torch.cat(values).to(ints[1])}
    if config.get("is_weighted"):
        inputs["sparse_weights"] = torch.randn(inputs["sparse_values"].shape, generator=generator)
    return inputs


def fixture(folder, seed, samples, dtype=torch.float32, architecture="DLRM_DCN", prefix="", **changes):
    """samples: {io file's suffix: arguments of sample()}."""
    generator = torch.Generator().manual_seed(seed)
    config = {"architectures": [architecture], "model_type": "dlrmv2", **SMALL,
              "torch_dtype": str(dtype).split(".")[1], **changes}
    weights = {}
    for name, shape in shapes(config).items():
        noise = torch.randn(shape, generator=generator)
        if "bias" in name:
            noise = 0.3 * noise
        elif TABLE[:20] not in name:
            noise = noise / shape[-1] ** 0.5
        weights[name] = noise.to(dtype)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({prefix + name: t for name, t in weights.items()}, str(folder / "model.safetensors"))
    wide = {name: t.double() for name, t in weights.items()}
    for suffix, arguments in samples.items():
        inputs = sample(config, generator, **arguments)
        save_io(folder / f"io{suffix}.safetensors", inputs, {"logits": forward(config, wide, inputs)})


def make(target):
    fixture(target / "cross", 1, {"": dict(batch=7), "_one": dict(batch=1), "_holes": dict(batch=20, empty=0.7)},
            dcn_num_layers=3, dcn_low_rank_dim=10)
    fixture(target / "dot", 2, {"": dict(batch=7), "_narrow_ints": dict(batch=5, ints=(torch.int32, torch.int32))},
            architecture="DLRM")
    # Weighted means; names as the training wrapper stores them; several outputs; vectors that fill no lanes.
    fixture(target / "weighted_mean", 3, {"": dict(batch=6, ints=(torch.int32, torch.int64))}, prefix="model.",
            is_weighted=True, pooling="MEAN", embedding_dim=9, dense_arch_layer_sizes=[9],
            over_arch_layer_sizes=[7, 3], dcn_num_layers=1, dcn_low_rank_dim=33, dense_in_features=4)
    # Criteo's 26 features, one value each, in bfloat16.
    fixture(target / "criteo_bf16", 4, {"": dict(batch=9)}, dtype=torch.bfloat16, architecture="DLRM",
            embedding_dim=16, num_embeddings_per_feature=list(range(3, 29)), multi_hot_sizes=[1] * 26,
            dense_arch_layer_sizes=[40, 16], over_arch_layer_sizes=[48, 24, 1])
