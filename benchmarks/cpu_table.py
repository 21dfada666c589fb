"""Joins the JSON lines of cpu.sh's runs: prints the table of ratios and writes the raw samples.

python benchmarks/cpu_table.py LINES RESULT.json
"""

import datetime
import json
import os
import platform
import statistics
import sys


def main(lines, result):
    cases, missing = {}, []
    with open(lines) as f:
        for line in f:
            entry = json.loads(line)
            if entry.get("missing"):
                if entry["task"] not in missing:
                    missing.append(entry["task"])
                continue
            case = cases.setdefault((entry["task"], entry["case"]), {"flops": 0, "bytes": 0, "who": {}})
            case["flops"] = max(case["flops"], entry.get("flops", 0))
            case["bytes"] = max(case["bytes"], entry.get("bytes", 0))
            for name, seconds in entry["who"].items():
                case["who"].setdefault(name, []).extend(seconds)

    median = {key: {who: statistics.median(s) for who, s in case["who"].items()} for key, case in cases.items()}

    def speed(case):  # of the fastest way
        key = ("bandwidth", case)
        return cases[key]["bytes"] / min(median[key].values()) if key in cases else None

    copy, read = speed("copy 1 GiB"), speed("read 1 GiB")
    if copy:
        print(f"copy {copy / 1e9:.1f} GB/s, read {read / 1e9:.1f} GB/s, {os.environ.get('OMP_NUM_THREADS')} threads, "
              f"{os.environ.get('BENCH_CLOCK', 'wall')} time, load {os.getloadavg()[0]:.1f}")
    print(f"{'task':18} {'case':48} {'ours':>10} {'peer':>10} {'peer/ours':>9} {'GF/s':>6} {'GB/s':>6}  target")
    missed = 0
    for (task, case), data in cases.items():
        times = median[task, case]
        if "ours" not in times:
            continue
        ours = times["ours"]
        peers = {who: t for who, t in times.items() if who != "ours"}
        best = min(peers, key=peers.get) if peers else None
        ratio = peers[best] / ours if best else None
        rate = data["bytes"] / ours
        checks = []
        if task == "linear":
            checks.append(("0.90 of the better library", ratio is None or ratio >= 0.9))
            if data["bytes"] > 2**29:
                checks.append(("0.80 of read bandwidth", not read or rate >= 0.8 * read))
        elif task == "attention" and case.startswith("decode"):
            checks.append(("0.70 of read bandwidth", not read or rate >= 0.7 * read))
        elif task == "attention":
            checks.append(("no slower than PyTorch", ratio is None or ratio >= 1))
        else:
            checks.append(("no slower than PyTorch", ratio is None or ratio >= 1))
            checks.append(("0.80 of copy bandwidth", not copy or rate >= 0.8 * copy))
        verdict = "; ".join(("" if ok else "MISSED ") + name for name, ok in checks)
        missed += sum(not ok for _, ok in checks)
        print(f"{task:18} {case:48} {ours * 1e3:9.3f}m {peers[best] * 1e3 if best else float('nan'):9.3f}m "
              f"{ratio if ratio else float('nan'):9.2f} {data['flops'] / ours / 1e9:6.0f} {rate / 1e9:6.1f}  "
              f"{verdict}{' (' + best + ')' if best else ''}")
    for task in missing:
        print(f"{task:18} not in this build")
    print(f"{missed} missed")
    record = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": platform.processor() or platform.machine(),
        "cpu": next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), ""),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "clock": os.environ.get("BENCH_CLOCK", "wall"),
        "load": os.getloadavg(),
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),
        "missing": missing,
        "cases": [{"task": task, "case": case, **data} for (task, case), data in cases.items()],
    }
    with open(result, "w") as f:
        json.dump(record, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
