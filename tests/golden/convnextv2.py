"""ConvNeXt V2: transformers' ConvNextV2ForImageClassification and ConvNextV2Model."""

import json

import torch
from llama import save_io
from transformers import ConvNextV2Config, ConvNextV2ForImageClassification, ConvNextV2Model

SMALL = dict(num_channels=3, patch_size=4, num_stages=3, hidden_sizes=[8, 12, 20], depths=[1, 2, 1], num_labels=7)


def randomise(model, generator):
    """Weights at which every part matters: the response norm's are zero by default, which makes it the identity."""
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("bias"):
            p.data = 0.3 * noise
        elif "grn" in name:
            p.data = noise
        elif p.ndim == 1:
            p.data = 1 + 0.2 * noise
        else:
            p.data = noise / (p.numel() / p.shape[0]) ** 0.5


def fixture(folder, seed, images, dtype=torch.float32, cls=ConvNextV2ForImageClassification, edit=None, **changes):
    """images: {io file's suffix: (batch, height, width)}."""
    generator = torch.Generator().manual_seed(seed)
    config = ConvNextV2Config(**{**SMALL, **changes})
    model = cls(config)
    randomise(model, generator)
    model = model.to(dtype).eval()
    model.save_pretrained(folder)
    if edit:
        path = folder / "config.json"
        path.write_text(json.dumps(edit(json.loads(path.read_text())), indent=2) + "\n")
    model = cls.from_pretrained(folder, dtype=torch.float64).eval()
    names = ["logits"] if cls is ConvNextV2ForImageClassification else ["last_hidden_state", "pooler_output"]
    for suffix, (batch, height, width) in images.items():
        pixels = torch.randn((batch, config.num_channels, height, width), generator=generator)
        with torch.no_grad():
            result = model(pixel_values=pixels.double())
        save_io(folder / f"io{suffix}.safetensors", {"pixel_values": pixels}, {name: result[name] for name in names})


def transformers_4(config):
    """The same configuration as transformers 4 wrote it."""
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.28.0"
    config["problem_type"] = "single_label_classification"
    return config


def make(target):
    fixture(target / "plain", 1, {"": (2, 32, 32), "_oblong": (1, 35, 54), "_smallest": (3, 16, 17)})
    # Four stages as published, channels that fill no vector, an odd count of labels.
    fixture(
        target / "four_stages_odd",
        2,
        {"": (1, 66, 101), "_batch": (2, 47, 32)},
        num_stages=4,
        hidden_sizes=[9, 16, 17, 33],
        depths=[2, 1, 3, 1],
        num_labels=13,
        edit=transformers_4,
    )
    fixture(
        target / "grey_bf16",
        3,
        {"": (2, 21, 30)},
        dtype=torch.bfloat16,
        num_channels=1,
        patch_size=2,
        num_stages=2,
        hidden_sizes=[16, 40],
        depths=[1, 1],
        layer_norm_eps=1e-5,
    )
    fixture(target / "base_model", 4, {"": (2, 43, 36), "_oblong": (1, 16, 90)}, cls=ConvNextV2Model)
    fixture(target / "base_of_classifier", 5, {"": (1, 33, 40)}, depths=[1, 1, 1], edit=only_base)
    only_base_io(target / "base_of_classifier")


def only_base(config):
    """A classifier's checkpoint opened as its base model."""
    return {**config, "architectures": ["ConvNextV2Model"]}


def only_base_io(folder):
    generator = torch.Generator().manual_seed(6)
    model = ConvNextV2Model.from_pretrained(folder, dtype=torch.float64).eval()
    pixels = torch.randn((1, 3, 33, 40), generator=generator)
    with torch.no_grad():
        result = model(pixel_values=pixels.double())
    save_io(folder / "io.safetensors", {"pixel_values": pixels},
            {name: result[name] for name in ["last_hidden_state", "pooler_output"]})
