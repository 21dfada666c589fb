"""PyTorch on the CPU, on the cases of bench_cpu_kernels.c that have a PyTorch peer; the same JSON lines.

python benchmarks/peers_cpu.py ROUNDS
"""

import json
import os
import sys
import time

import torch
import torch.nn.functional as F

# As in bench_cpu_kernels.c: processor time of one thread where the machine is shared.
now = time.thread_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter


def sample(run, repeats):
    while True:
        start = now()
        for _ in range(repeats):
            run()
        seconds = now() - start
        if seconds > 5e-3:
            return seconds / repeats, repeats
        repeats *= 2


def report(task, case, run, rounds):
    _, repeats = sample(run, 1)
    seconds = []
    for _ in range(rounds):
        value, repeats = sample(run, repeats)
        seconds.append(float(f"{value:.4g}"))
    print(json.dumps({"task": task, "case": case, "who": {"pytorch": seconds}}), flush=True)


def attention(rounds):
    def heads_first(*shape, dtype=torch.float32):
        return torch.randn(*shape, dtype=dtype).transpose(1, 2)

    for s, h, kv, d in [(512, 32, 8, 128), (1024, 32, 8, 128), (2048, 32, 8, 128), (1024, 32, 32, 64)]:
        q, k, v = heads_first(1, s, h, d), heads_first(1, s, kv, d), heads_first(1, s, kv, d)
        for causal in (1, 0):
            report("attention", f"prefill s={s} h={h} kv={kv} d={d} causal={causal}",
                   lambda: F.scaled_dot_product_attention(q, k, v, is_causal=bool(causal), enable_gqa=h != kv), rounds)
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        q = heads_first(8, 1, 32, 128, dtype=dtype)
        k, v = heads_first(8, 16384, 8, 128, dtype=dtype), heads_first(8, 16384, 8, 128, dtype=dtype)
        report("attention", f"decode {name} b=8 keys=16384 h=32 kv=8 d=128",
               lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), rounds)


def memory(rounds):
    x, out = torch.randn(65536, 4096), torch.empty(65536, 4096)
    weight = torch.randn(4096)
    report("rms_norm", "rows=65536 n=4096", lambda: F.rms_norm(x, (4096,), weight, 1e-5), rounds)
    half = torch.empty(65536, 2048)
    report("silu_and_mul", "rows=65536 n=2048",
           lambda: torch.mul(F.silu(x[:, :2048]), x[:, 2048:], out=half), rounds)
    report("softmax", "rows=65536 n=4096", lambda: torch.softmax(x, -1, out=out), rounds)
    y = torch.randn(65536, 4096)
    report("add", "rows=65536 n=4096", lambda: torch.add(x, y, out=out), rounds)
    del x, y, out, half
    key, cache = torch.randn(65536, 8, 128), torch.empty(65536, 8, 128)
    cache_v, slots = torch.empty(65536, 8, 128), torch.arange(65536)

    def store():
        cache.index_copy_(0, slots, key)
        cache_v.index_copy_(0, slots, key)

    report("reshape_and_cache", "tokens=65536 kv=8 d=128", store, rounds)


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    with torch.inference_mode():
        if only in ("", "attention"):
            attention(rounds)
        if only in ("", "memory"):
            memory(rounds)
