"""The table of docs/performance.md from the records of a GPU run.

    python benchmarks/gpu_table.py FOLDER     # bench*.json, peers.json, models.json as tools/gpu_machine.sh leaves them

Prints Markdown: per task and shape our time for one call and in a chain, the floor, the best of PyTorch's ways and the
ratio to it. One call on both sides is a replay of a graph between two events with a cold cache."""
import glob
import json
import os
import statistics
import sys


def load(folder):
    results, environment = [], {}
    for path in sorted(glob.glob(os.path.join(folder, "bench*.json"))):
        record = json.load(open(path))
        environment = environment or record["environment"]
        results += record["results"]
    peers = {}
    path = os.path.join(folder, "peers.json")
    if os.path.exists(path):
        for r in json.load(open(path))["results"]:
            peers.setdefault((r["task"], r["note"]), []).append((statistics.median(r["samples_us"]), r["peer"]))
    return environment, results, peers


def main():
    folder = sys.argv[1]
    environment, results, peers = load(folder)
    print(f"{environment['gpu']}, driver {environment['driver']}, cuBLASLt {environment['cublaslt']}, cuDNN "
          f"{environment['cudnn'] or 'not found'}, commit {environment['commit'] or '?'}, {environment['date']}; copy "
          f"{environment['copy_bytes_per_second'] / 1e12:.2f} TB/s, bfloat16 products "
          f"{environment['matrix_flops_per_second'] / 1e12:.0f} TFLOP/s, an empty graph {environment['overhead_us']:.1f} us.\n")
    task = None
    for r in sorted(results, key=lambda r: r["task"]):
        if r["task"] != task:
            task = r["task"]
            print(f"\n### {task}\n\n| case | one call, us | in a chain, us | floor, us | of floor | TB/s | TFLOP/s | best of "
                  "PyTorch, us | PyTorch / ours |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")
        best = min(peers.get((r["task"], r["note"]), [(None, "")]), key=lambda p: p[0] or 1e30)
        steady = r["chain_us"] or r["us"]
        theirs = f"{best[0]:.1f} ({best[1]})" if best[0] else ""
        ratio = f"{best[0] / r['us']:.2f}" if best[0] else ""
        by = f" ({r['by']})" if r.get("by") else ""
        print(f"| {r['note'] or r['case']}{by} | {r['us']:.2f} | {r['chain_us']:.2f} | {r['floor_us']:.2f} | "
              f"{100 * r['floor_us'] / steady:.0f} % | {r['bytes'] / steady / 1e6:.2f} | {r['flops'] / steady / 1e6:.0f} | "
              f"{theirs} | {ratio} |")


if __name__ == "__main__":
    main()
