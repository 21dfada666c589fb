"""BERT-base's forward() against transformers' BertModel (PyTorch eager, CPU, float32), taking turns.

    python benchmarks/encoder.py BUILD_DIR [ROUNDS]

The best sample of each side counts: on a shared machine the others only add. OMP_NUM_THREADS is 2 unless set;
BENCH_CLOCK=cpu with OMP_NUM_THREADS=1 measures processor time.
"""

import os
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")
import torch  # noqa: E402
from transformers import BertConfig, BertModel  # noqa: E402

now = time.thread_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter


def main():
    build, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = BertModel(BertConfig()).eval()
    missed = False
    for batch, length in [(1, 128), (8, 128)]:
        ids = torch.randint(1, 30000, (batch, length))
        own = subprocess.Popen(
            [f"{build}/bench_encoder", str(batch), str(length)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        best = {"fastkernels": 1e9, "torch": 1e9}
        for _ in range(rounds):
            own.stdin.write("\n")
            own.stdin.flush()
            best["fastkernels"] = min(best["fastkernels"], float(own.stdout.readline()))
            with torch.no_grad():
                start = now()
                model(ids)
                best["torch"] = min(best["torch"], now() - start)
        own.stdin.close()
        own.wait()
        ratio = best["torch"] / best["fastkernels"]
        missed = missed or ratio < 1
        print(f"{batch} x {length}: {1e3 * best['fastkernels']:.1f} ms, torch {1e3 * best['torch']:.1f} ms, {ratio:.2f} times as fast")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
