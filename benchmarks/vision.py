"""Convolutions, row kernels and image models against PyTorch on the CPU, float32, taking turns on every case.

    python benchmarks/vision.py BUILD_DIR [ROUNDS [CASE_FILTER]]

PyTorch runs eager, its tensors channels last and contiguous; the faster of the two counts (compare.py says how samples
become a verdict). Short cases, more easily disturbed, get more rounds. Results go to benchmarks/results/. OMP_NUM_THREADS is 2 unless set; BENCH_CLOCK=cpu with OMP_NUM_THREADS=1 measures processor time.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import compare  # noqa: E402
from quiet import wait_for_quiet  # noqa: E402

now = time.thread_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter

# (label, batch, height, width, in_channels, out_channels, kernel, stride, padding, groups): shapes of ConvNeXt V2 base
# at 224 and 384, and the 3x3 convolutions of a residual network.
CONVS = [
    ("patchify 4x4 s4, 384", 1, 384, 384, 3, 128, 4, 4, 0, 1),
    ("patchify 4x4 s4, 224 b8", 8, 224, 224, 3, 128, 4, 4, 0, 1),
    ("downsample 2x2 s2, 128>256", 1, 96, 96, 128, 256, 2, 2, 0, 1),
    ("downsample 2x2 s2, 512>1024", 1, 24, 24, 512, 1024, 2, 2, 0, 1),
    ("pointwise 128>512, 56", 1, 56, 56, 128, 512, 1, 1, 0, 1),
    ("pointwise 512>2048, 24", 1, 24, 24, 512, 2048, 1, 1, 0, 1),
    ("pointwise 2048>512, 14 b8", 8, 14, 14, 2048, 512, 1, 1, 0, 1),
    ("3x3 s1 128, 56", 1, 56, 56, 128, 128, 3, 1, 1, 1),
    ("3x3 s2 128>256, 56", 1, 56, 56, 128, 256, 3, 2, 1, 1),
    ("3x3 s1 512, 14", 1, 14, 14, 512, 512, 3, 1, 1, 1),
    ("depthwise 7x7 128, 96", 1, 96, 96, 128, 128, 7, 1, 3, 128),
    ("depthwise 7x7 256, 48", 1, 48, 48, 256, 256, 7, 1, 3, 256),
    ("depthwise 7x7 512, 24", 1, 24, 24, 512, 512, 7, 1, 3, 512),
    ("depthwise 7x7 1024, 12", 1, 12, 12, 1024, 1024, 7, 1, 3, 1024),
    ("depthwise 7x7 512, 14 b8", 8, 14, 14, 512, 512, 7, 1, 3, 512),
    ("depthwise 7x7 1024, 7 b8", 8, 7, 7, 1024, 1024, 7, 1, 3, 1024),
]
# (task, rows, columns): one and eight images of ConvNeXt V2 base at 224 in its first and last stage; one and eight passages of
# 180 tokens in BERT base.
ROWS = [("layer_norm", 56 * 56, 128), ("layer_norm", 8 * 56 * 56, 128), ("layer_norm", 7 * 7, 1024),
        ("layer_norm", 180, 768), ("layer_norm", 8 * 180, 768), ("gelu", 56 * 56, 512), ("gelu", 8 * 180, 3072)]
SHORT, MORE = 20e-3, 5  # seconds of a case that gets more rounds, and how many times as many
MODELS = [("convnextv2-base-22k-384", 1, 224), ("convnextv2-base-22k-384", 1, 384),
          ("convnextv2-base-22k-384", 8, 224)]


def conv_peers(n, h, w, c, o, k, s, p, g):
    x, weight, bias = torch.randn(n, c, h, w), torch.randn(o, c // g, k, k), torch.randn(o)
    xl, weight_l = x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)
    return {"contiguous": lambda: F.conv2d(x, weight, bias, s, p, 1, g),
            "channels_last": lambda: F.conv2d(xl, weight_l, bias, s, p, 1, g)}


def row_peers(task, rows, columns):
    x, weight, bias = torch.randn(rows, columns), torch.randn(columns), torch.randn(columns)
    if task == "gelu":
        return {"eager": lambda: F.gelu(x)}
    return {"eager": lambda: F.layer_norm(x, (columns,), weight, bias, 1e-6)}


def model_peers(preset, batch, size):
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

    path = pathlib.Path(__file__).resolve().parents[1] / f"models/convnextv2/presets/{preset}.json"
    config = json.loads(path.read_text())
    config = {key: value for key, value in config.items() if key not in ("architectures", "torch_dtype")}
    model = ConvNextV2ForImageClassification(ConvNextV2Config(**config)).eval()
    x = torch.randn(batch, 3, size, size)
    model_l = ConvNextV2ForImageClassification(ConvNextV2Config(**config)).eval().to(memory_format=torch.channels_last)
    xl = x.to(memory_format=torch.channels_last)
    return {"contiguous": lambda: model(x), "channels_last": lambda: model_l(xl)}


def sample(run):
    start, runs = now(), 0
    while True:
        run()
        runs += 1
        seconds = now() - start
        if seconds > 5e-3:
            return seconds / runs


def main(build, rounds, only):
    ours = subprocess.Popen([f"{build}/bench_vision"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(request):
        ours.stdin.write(request + "\n")
        ours.stdin.flush()
        return float(ours.stdout.readline())

    cases = [(label, "conv2d " + " ".join(map(str, shape)), conv_peers, shape) for label, *shape in CONVS]
    cases += [(f"{task} {rows} x {columns}", f"{task} {rows} {columns}", row_peers, (task, rows, columns))
              for task, rows, columns in ROWS]
    cases += [(f"{p} b{n} {size}", f"model {p} {n} {size}", model_peers, (p, n, size)) for p, n, size in MODELS]
    compare.heading(f"{rounds} or more")
    print(f"{'case':38} {'ours':>10} {'PyTorch':>10} {'ratio':>6}")
    records = []
    for label, request, make, arguments in cases:
        if only not in label:
            continue
        peers = make(*arguments)
        for run in peers.values():
            run()
        ask(request)
        times = {"ours": [], **{name: [] for name in peers}}
        for _ in range(rounds if ask(request) > SHORT else MORE * rounds):
            wait_for_quiet()
            times["ours"].append(ask(request))
            for name, run in peers.items():
                times[name].append(sample(run))
        peer = min(peers, key=lambda name: compare.low(times[name]))
        print(f"{label:38} {compare.verdict(times['ours'], times[peer])} ({peer})", flush=True)
        records.append(compare.record(label, times))
    ours.stdin.close()
    ours.wait()
    if not only:
        compare.write("vision", records)


if __name__ == "__main__":
    with torch.inference_mode():
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5, sys.argv[3] if len(sys.argv) > 3 else "")
