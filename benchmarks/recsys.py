"""Kernels of recommenders against PyTorch eager on the CPU, taking turns on every case.

    python benchmarks/recsys.py BUILD_DIR [ROUNDS [CASE_FILTER]]

Tables of the first cases are larger than any last-level cache, and so are the rows that they look up before a batch
comes again. Where a table happens to lie in memory alone can double the time of either side: every case is set up
anew several times. Results go to benchmarks/results/. OMP_NUM_THREADS is 2 unless set; BENCH_CLOCK=cpu with
OMP_NUM_THREADS=1 measures processor time.
"""

import itertools
import os
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import compare  # noqa: E402
from quiet import wait_for_quiet  # noqa: E402

now = time.thread_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter

PLACES = 3  # how often a case is set up
TOUCHED = 1 << 30  # bytes of rows looked up before a batch of bags is repeated

# (task, numbers as bench_recsys.c reads them, dtype): features of DLRMv2 and its interactions. Tables of 4 million rows
# of 128 take 2 GB; those of 40 million behave alike, since no row is found in a cache either way.
CASES = [
    ("embedding_bag", (4000000, 128, 2048, 1), "float32"),
    ("embedding_bag", (4000000, 128, 2048, 3), "float32"),
    ("embedding_bag", (4000000, 128, 2048, 12), "float32"),
    ("embedding_bag", (4000000, 128, 2048, 27), "float32"),
    ("embedding_bag", (4000000, 128, 2048, 100), "float32"),
    ("embedding_bag", (4000000, 128, 2048, 27), "bfloat16"),
    ("embedding_bag", (4000000, 16, 8192, 20), "float32"),
    ("embedding_bag", (3, 128, 2048, 1), "float32"),
    ("embedding_bag", (12973, 128, 2048, 3), "float32"),
    ("dot_interaction", (2048, 26, 128), "float32"),
    ("dot_interaction", (2048, 26, 16), "float32"),
    ("low_rank_cross_net", (256, 3456, 512, 3), "float32"),
]


def sets_of(bags, dim, pooling):
    return max(1, min(1024, TOUCHED // (bags * pooling * dim * 4)))


def peer(task, numbers, dtype):
    dtype = getattr(torch, dtype)
    if task == "embedding_bag":
        rows, dim, bags, pooling = numbers
        weight = torch.empty((rows, dim), dtype=dtype)
        weight.copy_(torch.randn((1, dim), dtype=dtype).expand(rows, dim))
        offsets = torch.arange(0, bags * pooling + 1, pooling)
        values = itertools.cycle(torch.randint(rows, (sets_of(bags, dim, pooling), bags * pooling)).unbind())
        return lambda: F.embedding_bag(next(values), weight, offsets, mode="sum", include_last_offset=True)
    if task == "dot_interaction":
        batch, features, dim = numbers
        dense, sparse = torch.randn((batch, dim), dtype=dtype), torch.randn((batch, features, dim), dtype=dtype)
        i, j = torch.triu_indices(features + 1, features + 1, offset=1)

        def interact():
            vectors = torch.cat((dense.unsqueeze(1), sparse), 1)
            return torch.cat((dense, torch.bmm(vectors, vectors.transpose(1, 2))[:, i, j]), 1)

        return interact
    batch, wide, rank, layers = numbers
    x_0 = torch.randn((batch, wide), dtype=dtype)
    v = [torch.randn((rank, wide), dtype=dtype) / wide for _ in range(layers)]
    w = [torch.randn((wide, rank), dtype=dtype) / rank for _ in range(layers)]
    bias = [torch.randn(wide, dtype=dtype) for _ in range(layers)]

    def cross():
        x = x_0
        for k in range(layers):
            x = x_0 * (F.linear(F.linear(x, v[k]), w[k]) + bias[k]) + x
        return x

    return cross


def sample(run):
    start, runs = now(), 0
    while True:
        run()
        runs += 1
        seconds = now() - start
        if seconds > 2e-2:
            return seconds / runs


def turns(build, request, run, rounds, times):
    """Samples of both sides, in turns, of one process of ours and one set of PyTorch's tensors."""
    ours = subprocess.Popen([f"{build}/bench_recsys"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    run()
    for _ in range(rounds):
        wait_for_quiet()
        ours.stdin.write(request + "\n")
        ours.stdin.flush()
        times["ours"].append(float(ours.stdout.readline()))
        times["pytorch"].append(sample(run))
    ours.stdin.close()
    ours.wait()


def main(build, rounds, only):
    records = []
    compare.heading(f"{PLACES} x {rounds}")
    for task, numbers, dtype in CASES:
        request = f"{task} {' '.join(map(str, numbers))} {dtype}"
        if task == "embedding_bag":
            request += f" {sets_of(numbers[2], numbers[1], numbers[3])}"
        if only not in request:
            continue
        times = {"ours": [], "pytorch": []}
        for _ in range(PLACES):
            turns(build, request, peer(task, numbers, dtype), rounds, times)
        print(f"{request:48} {compare.verdict(times['ours'], times['pytorch'])}", flush=True)
        records.append(compare.record(request, times))
    if not only:
        compare.write("recsys", records)


if __name__ == "__main__":
    with torch.inference_mode():
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5, sys.argv[3] if len(sys.argv) > 3 else "")
