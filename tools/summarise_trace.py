#!/usr/bin/env python3
"""Summarise a request trace as a workload of quantiles, small enough to keep beside the code.

    summarise_trace.py TRACE.csv|TRACE.jsonl --name NAME --source CITATION [--requests 1000] > workloads/NAME.json

Writes the quantiles of the input and output lengths and the correlation of their normal scores, which is what
src/engine/workload.c needs to draw requests again. Needs nothing but Python's standard library.
"""

import argparse
import csv
import json
import statistics

PROBABILITIES = [0, 0.01, 0.02, 0.05, *(k / 10 for k in range(1, 10)), 0.25, 0.75, 0.95, 0.98, 0.99, 0.995, 0.999, 1]


def read(path):
    """Yield (input tokens, output tokens) of each request."""
    with open(path, newline="", encoding="utf-8") as file:
        if path.endswith(".jsonl"):
            for line in file:
                request = json.loads(line)
                yield request["input_length"], request["output_length"]
        else:
            for row in csv.DictReader(file):
                yield int(row["ContextTokens"]), int(row["GeneratedTokens"])


def quantiles(values):
    """Return [[probability, value], ...] by linear interpolation between order statistics."""
    ordered = sorted(values)
    result = []
    for p in sorted(PROBABILITIES):
        place = p * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        result.append([p, round(ordered[low] + (place - low) * (ordered[high] - ordered[low]), 1)])
    return result


def normal_scores(values):
    """Return the normal quantile of each value's rank; equal values share their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    scores = [0.0] * len(values)
    normal = statistics.NormalDist()
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        score = normal.inv_cdf((start + end) / 2 / len(values))
        for k in range(start, end):
            scores[order[k]] = score
        start = end
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace")
    parser.add_argument("--name", required=True)
    parser.add_argument("--source", required=True, help="whose data it is, and its licence")
    parser.add_argument("--requests", type=int, default=1000, help="how many the workload draws by default")
    options = parser.parse_args()
    inputs, outputs = zip(*read(options.trace))
    correlation = statistics.correlation(normal_scores(inputs), normal_scores(outputs))
    parts = {
        "name": json.dumps(options.name),
        "source": json.dumps(f"{options.source}; summary of {len(inputs)} requests"),
        "requests": json.dumps(options.requests),
        "input_length": json.dumps({"quantiles": quantiles(inputs)}),
        "output_length": json.dumps({"quantiles": quantiles(outputs)}),
        "correlation": json.dumps(round(correlation, 3)),
    }
    print("{\n" + ",\n".join(f"  {json.dumps(key)}: {value}" for key, value in parts.items()) + "\n}")


if __name__ == "__main__":
    main()
