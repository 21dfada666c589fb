"""BERT-base's forward() against transformers' BertModel (PyTorch eager, CPU, float32), taking turns.

    python benchmarks/encoder.py BUILD_DIR [ROUNDS]

Results go to benchmarks/results/. OMP_NUM_THREADS is 2 unless set; BENCH_CLOCK=cpu with OMP_NUM_THREADS=1 measures
processor time.
"""

import os
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")
import torch  # noqa: E402
from transformers import BertConfig, BertModel  # noqa: E402

import compare  # noqa: E402
from quiet import wait_for_quiet  # noqa: E402

now = time.thread_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter


def main():
    build, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 25
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model, records = BertModel(BertConfig()).eval(), []
    compare.heading(rounds)
    for batch, length in [(1, 128), (8, 128)]:
        ids = torch.randint(1, 30000, (batch, length))
        command = [f"{build}/bench_encoder", str(batch), str(length)]
        ours = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        times = {"ours": [], "eager": []}
        for _ in range(rounds):
            wait_for_quiet()
            ours.stdin.write("\n")
            ours.stdin.flush()
            times["ours"].append(float(ours.stdout.readline()))
            start = now()
            model(ids)
            times["eager"].append(now() - start)
        ours.stdin.close()
        ours.wait()
        label = f"BERT base, {batch} x {length} tokens"
        print(f"{label:38} {compare.verdict(times['ours'], times['eager'])}", flush=True)
        records.append(compare.record(label, times))
    compare.write("encoder", records)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
