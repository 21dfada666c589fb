"""PyTorch at the shapes of every bench.json, timed as bench_cuda times ours.

    python benchmarks/peers.py [--json FILE] [--compile] [--budget SECONDS] [TASK...]

For each case every way PyTorch has (eager, each backend of scaled_dot_product_attention, torch.compile with --compile) is
recorded as a CUDA graph where it can be, replayed with the L2 cache full of other data, and timed between two events; the median in
microseconds is printed. Where PyTorch has no such operator (paged caches, jagged batches) the nearest dense call with the
same work stands in, and its name says so. Needs a GPU; used for comparison only, never at run time."""
import argparse
import ast
import glob
import json
import os
import statistics
import time
import warnings

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

warnings.filterwarnings("ignore")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int32": torch.int32,
          "int64": torch.int64, "bool": torch.bool}
FLUSH_BYTES, MIN_SAMPLES, MAX_SAMPLES = 192 << 20, 11, 101
HEAVY_US, REST = 50, 4


def size(expression, axes):
    """A dimension of task.json: arithmetic over axes."""
    names = {node.id for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name)}
    return int(eval(expression.replace("/", "//"), {"__builtins__": {}}, {n: axes[n] for n in names}))


class Case:
    """The tensors of one case of a task, on the GPU, with plausible content."""

    def __init__(self, task, case):
        self.task, self.axes, self.note = task["name"], {}, case.get("note", "")
        self.lead = {}
        for name, value in case.get("axes", {}).items():
            self.lead[name] = value if isinstance(value, list) else [value]
            self.axes[name] = int(torch.tensor(self.lead[name]).prod())
        self.attributes = {k: v.get("default") for k, v in task.get("attributes", {}).items()}
        self.attributes.update(case.get("attributes", {}))
        self.layout = case.get("layout") or next(iter(task.get("layouts", {})), None)
        self.values, self.tensors = case.get("values", {}), {}
        arguments = {**task["inputs"], **task.get("weights", {})}
        for name, spec in arguments.items():
            shape = task["layouts"][self.layout].get(name, spec.get("shape")) if self.layout else spec.get("shape")
            if name in case.get("absent", []) or shape is None:
                self.tensors[name] = None
                continue
            try:
                self.tensors[name] = self.make(name, shape, self.dtype(name, arguments, case), name in task.get("weights", {}))
            except KeyError:  # an axis that this case leaves open
                self.tensors[name] = None

    def dtype(self, name, arguments, case):
        spec = arguments[name].get("dtype")
        if name in case.get("dtypes", {}):
            return DTYPES[case["dtypes"][name]]
        if isinstance(spec, str) and spec in arguments:
            return self.dtype(spec, arguments, case)
        return DTYPES[spec if isinstance(spec, str) else spec[0]]

    def make(self, name, shape, dtype, weight):
        dims = []
        for d in shape:
            dims += self.lead[d[:-3]] if d.endswith("...") else [size(str(d), self.axes)]
        if name in self.values:
            return torch.tensor(self.values[name], device="cuda").to(dtype).reshape(dims)
        if not dtype.is_floating_point:
            return torch.zeros(dims, dtype=dtype, device="cuda")
        t = torch.randn(dims, device="cuda", dtype=torch.float32)
        return (t / dims[-1]**0.5 if weight and len(dims) > 1 else t).to(dtype)

    def __getattr__(self, name):
        return self.__dict__["tensors"][name]


# ---- Peers: task -> {name: function}. A function takes no argument and runs the operator once. ----


def simple(function):
    return lambda c: {"eager": lambda: function(c), "compile": lambda: function(c)}


def attention(c):
    q, k, v = c.q, c.k, c.v
    scale, causal = c.attributes["scale"], bool(c.attributes["causal"])
    name = ""
    if c.layout != "dense":
        lens = c.values.get("seq_lens") if c.layout == "paged" else None
        cu = c.values.get("cu_seqlens_q")
        if c.layout == "varlen" or not lens or not cu:
            return {}
        batch, queries, keys = len(lens), cu[1] - cu[0], round(sum(lens) / len(lens))
        heads, kv, d, dv = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
        q = torch.randn(batch, queries, heads, d, device="cuda").to(q.dtype)
        k = torch.randn(batch, keys, kv, d, device="cuda").to(q.dtype)
        v = torch.randn(batch, keys, kv, dv, device="cuda").to(q.dtype)
        name, causal = "dense ", causal and queries == keys
    elif causal and q.shape[1] != k.shape[1]:
        return {}
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    peers = {}
    for label, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash2", SDPBackend.FLASH_ATTENTION),
                           ("efficient", SDPBackend.EFFICIENT_ATTENTION)):

        def run(backend=backend):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale,
                                                      enable_gqa=q.shape[1] != k.shape[1])

        peers[name + label] = run
    return peers


def conv2d(c):
    a = c.attributes
    x = c.x.permute(0, 3, 1, 2)  # NHWC in memory: channels_last
    w = c.weight.contiguous(memory_format=torch.channels_last)
    run = lambda: F.conv2d(x, w, c.bias, (a["stride_h"], a["stride_w"]), (a["padding_h"], a["padding_w"]),
                           (a["dilation_h"], a["dilation_w"]), a["groups"])
    return {"eager": run}


def fused_add_rms_norm(c):

    def run():
        c.residual.add_(c.x)
        return F.rms_norm(c.residual, c.residual.shape[-1:], c.weight, c.attributes["epsilon"])

    return {"eager": run, "compile": run}


def grn(c):

    def run():
        g = c.x.float().norm(dim=(1, 2), keepdim=True)
        n = g / (g.mean(-1, keepdim=True) + c.attributes["epsilon"])
        return c.x + c.weight * (c.x * n.to(c.x.dtype)) + c.bias

    return {"eager": run, "compile": run}


def glu(activation):

    def peers(c):

        def run():
            gate, up = c.x.chunk(2, -1)
            return activation(gate) * up

        return {"eager": run, "compile": run}

    return peers


def embedding_bag(c):
    bags = c.offsets.shape[0] - 1
    offsets = torch.arange(bags + 1, device="cuda") * (c.tensors["values"].shape[0] // max(bags, 1))
    index = torch.randint(0, c.weight.shape[0], c.tensors["values"].shape, device="cuda")
    mode = c.attributes.get("mode")
    run = lambda: F.embedding_bag(index, c.weight, offsets[:-1], mode="mean" if mode in (1, "mean") else "sum")
    return {"eager": run}


def dot_interaction(c):
    names = [n for n, t in c.tensors.items() if t is not None]

    def run():
        x = c.tensors[names[0]]
        features = x if x.dim() == 3 else torch.cat([x[:, None], c.tensors[names[1]]], 1)
        z = torch.bmm(features, features.transpose(1, 2))
        i, j = torch.tril_indices(features.shape[1], features.shape[1], -1, device="cuda")
        return z[:, i, j]

    return {"eager without concatenation": run}


def lookup(c):
    name = next(n for n, t in c.tensors.items() if t is not None and not t.dtype.is_floating_point)
    index = torch.randint(0, c.weight.shape[0], c.tensors[name].shape, device="cuda")
    return {"eager": lambda: F.embedding(index, c.weight)}


norm_shape = lambda c: c.x.shape[-1:]
PEERS = {
    "linear": simple(lambda c: F.linear(c.x, c.weight, c.bias)),
    "attention": attention,
    "rms_norm": simple(lambda c: F.rms_norm(c.x, norm_shape(c), c.weight, c.attributes["epsilon"])),
    "fused_add_rms_norm": fused_add_rms_norm,
    "layer_norm": simple(lambda c: F.layer_norm(c.x, norm_shape(c), c.weight, c.bias, c.attributes["epsilon"])),
    "silu_and_mul": glu(F.silu),
    "gelu_and_mul": glu(F.gelu),
    "gelu": simple(lambda c: F.gelu(c.x)),
    "relu": simple(lambda c: F.relu(c.x)),
    "tanh": simple(lambda c: torch.tanh(c.x)),
    "softmax": simple(lambda c: torch.softmax(c.x, -1)),
    "argmax": simple(lambda c: torch.argmax(c.x, -1)),
    "top_k": lambda c: {"eager": lambda: torch.topk(c.x, c.axes.get("k", c.attributes.get("k", 8)), -1)},
    "embedding": lookup,
    "conv2d": conv2d,
    "grn": grn,
    "global_avg_pool2d": simple(lambda c: c.x.mean((1, 2))),
    "embedding_bag": embedding_bag,
    "dot_interaction": dot_interaction,
}

# ---- Timing ----


def recorded(function):
    """The function as a graph's replay; itself when it cannot be recorded."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            keep = function()
        graph.keep = keep
        return graph.replay, "graph"
    except Exception:  # pylint: disable=broad-except
        torch.cuda.synchronize()
        return function, "call"


def measure(function, seconds):
    flush = torch.ones(FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")
    samples, start = [], time.monotonic()
    for i in range(MAX_SAMPLES + 2):
        flush.sum()  # read: a written buffer would be written back inside the measured call
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        function()
        b.record()
        b.synchronize()
        if i >= 2:
            samples.append(1e3 * a.elapsed_time(b))
            if samples[-1] > HEAVY_US:  # as bench_cuda does: clocks fall under sustained load
                time.sleep(REST * 1e-6 * samples[-1])
        if len(samples) >= MIN_SAMPLES and time.monotonic() - start > seconds:
            break
    return samples


def run_case(task, case, options, results):
    c = Case(task, case)
    for name, function in PEERS[task["name"]](c).items():
        if name == "compile":
            if not options.compile or time.monotonic() > options.end:
                continue
            function = torch.compile(function, dynamic=False)
        try:
            replay, how = recorded(function)
            samples = measure(replay, options.seconds)
        except Exception as error:  # pylint: disable=broad-except
            print(f"{task['name']:24} {c.note:52} {name:16} {type(error).__name__}: {str(error).splitlines()[0][:60]}")
            torch.cuda.synchronize()
            continue
        us = statistics.median(samples)
        print(f"{task['name']:24} {c.note:52} {name:16} {us:9.2f} us ({how})", flush=True)
        results.append({"task": task["name"], "note": c.note, "peer": name, "how": how, "us": us, "samples_us": samples})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--json")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--budget", type=float, default=300)
    parser.add_argument("--seconds", type=float, default=0.1)
    options = parser.parse_args()
    options.end = time.monotonic() + options.budget
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    results = []
    for path in sorted(glob.glob(f"{ROOT}/kernels/*/*/bench.json")):
        task = json.load(open(os.path.join(os.path.dirname(path), "task.json")))
        if task["name"] not in PEERS or (options.tasks and task["name"] not in options.tasks):
            continue
        for case in json.load(open(path))["cases"]:
            if time.monotonic() > options.end:
                break
            try:
                run_case(task, case, options, results)
            except Exception as error:  # pylint: disable=broad-except
                print(f"{task['name']}: {case.get('note', '')}: {type(error).__name__}: {error}")
            torch.cuda.empty_cache()
    properties = torch.cuda.get_device_properties(0)
    environment = {"gpu": properties.name, "torch": torch.__version__, "cuda": torch.version.cuda,
                   "cudnn": torch.backends.cudnn.version()}
    if options.json:
        with open(options.json, "w") as f:
            json.dump({"environment": environment, "results": results}, f, indent=1)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
