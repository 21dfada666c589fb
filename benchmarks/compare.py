"""What samples of two sides say, and where they are kept; for the benchmarks that compare wall times."""
import datetime
import json
import os
import pathlib
import random

import torch

QUANTILE, DRAWS = 0.25, 2000


def low(samples):
    """The lower quartile: on a shared machine disturbances only add, and the very best sample is luck."""
    return sorted(samples)[int(QUANTILE * (len(samples) - 1))]


def ratio(ours, theirs):
    """Their time over ours, and the ends of its 95 % interval by drawing the samples again with replacement."""
    draw = random.Random(1)
    drawn = sorted(low(draw.choices(theirs, k=len(theirs))) / low(draw.choices(ours, k=len(ours))) for _ in range(DRAWS))
    return low(theirs) / low(ours), drawn[int(0.025 * DRAWS)], drawn[int(0.975 * DRAWS)]


def verdict(ours, theirs):
    """A line's end: the ratio, its interval, and whether ours is slower: only where the whole interval says so."""
    at, least, most = ratio(ours, theirs)
    word = "faster" if least > 1 else "MISSED" if most < 1 else "even"
    return f"{low(ours) * 1e3:9.3f}m {low(theirs) * 1e3:9.3f}m {at:6.2f} [{least:4.2f}, {most:4.2f}]  {word}"


def heading(what):
    clock = os.environ.get("BENCH_CLOCK", "wall")
    print(f"{torch.get_num_threads()} threads, {clock} time, lower quartile of {what}, torch {torch.__version__}")


def record(case, times):
    return {"case": case, "seconds": {name: [float(f"{v:.4g}") for v in values] for name, values in times.items()}}


def write(name, records):
    """Keeps the samples in results/<name>-<date>.json."""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    result = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "cpu": cpu,
              "threads": torch.get_num_threads(), "clock": os.environ.get("BENCH_CLOCK", "wall"), "load": os.getloadavg(),
              "cases": records}
    folder = pathlib.Path(__file__).resolve().parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-{datetime.date.today()}.json").write_text(json.dumps(result, indent=1) + "\n")
