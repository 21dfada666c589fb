"""PyTorch on the encoders and image models that bench_cuda_models times: transformers, eager and torch.compile, bfloat16.

    python benchmarks/peers_models.py [--ours MODELS.json] [--json FILE] [--only NAME] [--no-compile]

Random weights of the presets' sizes, the same batches, wall time from call to synchronised GPU, medians of 31. ColBERT is
BertModel (scaled_dot_product_attention, no mask: no passage is padded), the projection to 128 and the l2 norm. compile is
the faster of torch.compile as it comes and with CUDA graphs (mode reduce-overhead). --ours: what bench_cuda_models --json
wrote in the same session, for the ratios. Needs a GPU; used for comparison only, never at run time."""
import argparse
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertModel, ConvNextV2Config, ConvNextV2ForImageClassification

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RUNS, WARMUP = 31, 5


def preset(path):
    config = json.load(open(os.path.join(ROOT, "models", path)))
    return {key: value for key, value in config.items() if key not in ("architectures", "torch_dtype", "transformers_version")}


class Colbert(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = BertModel(BertConfig(**preset("colbertv2/presets/colbertv2.0.json")), add_pooling_layer=False)
        self.linear = torch.nn.Linear(768, 128, bias=False)

    def forward(self, ids):
        return F.normalize(self.linear(self.bert(ids).last_hidden_state), dim=-1)


class ConvNext(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = ConvNextV2ForImageClassification(ConvNextV2Config(**preset("convnextv2/presets/convnextv2-base-22k-384.json")))

    def forward(self, pixels):
        return self.model(pixels).logits


def measure(run):
    samples = []
    for i in range(WARMUP + RUNS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if i >= WARMUP:
            samples.append(1e3 * (time.perf_counter() - start))
    return samples


def candidates(model, compiled):
    yield "eager", model
    if compiled:
        yield "compile", torch.compile(model, dynamic=False)
        yield "compile, CUDA graphs", torch.compile(model, dynamic=False, mode="reduce-overhead")


def subjects():
    """(name of bench_cuda_models, model, inputs)"""
    colbert = Colbert().to("cuda", torch.bfloat16).eval()
    for length in (65, 180):
        yield f"colbertv2 32 x {length}", colbert, torch.randint(1000, 30000, (32, length), device="cuda")
    convnext = ConvNext().to("cuda", torch.bfloat16, memory_format=torch.channels_last).eval()
    pixels = torch.randn(32, 3, 384, 384, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    yield "convnextv2-base 32", convnext, pixels


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours")
    parser.add_argument("--json")
    parser.add_argument("--only", default="")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    ours = {r["name"]: r["median_ms"] for r in json.load(open(options.ours))["results"]} if options.ours else {}
    results = []
    for name, model, inputs in subjects():
        if options.only not in name:
            continue
        for peer, run in candidates(model, not options.no_compile):
            torch._dynamo.reset()
            samples = measure(lambda run=run: run(inputs))
            ms = statistics.median(samples)
            ratio = f"  {ms / ours[name]:.2f} of ours" if name in ours else ""
            print(f"{name:24} {peer:24} {ms:8.3f} ms{ratio}", flush=True)
            results.append({"name": name, "peer": peer, "ms": ms, "samples_ms": samples})
    if options.json:
        environment = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
        json.dump({"environment": environment, "results": results}, open(options.json, "w"), indent=1)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
