"""Waiting for a moment in which nothing else runs, for the benchmarks that compare wall times."""
import os
import time


def processor_ticks():
    ticks = [int(word) for word in open("/proc/stat").readline().split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def wait_for_quiet(seconds=4):
    """Waits until nothing else runs, or for so long: a neighbour takes a thread's core, and the others wait for it."""
    end = time.monotonic() + (0 if os.environ.get("BENCH_CLOCK") == "cpu" else seconds)
    while os.path.exists("/proc/stat") and time.monotonic() < end:
        all_before, idle_before = processor_ticks()
        time.sleep(0.05)
        all_after, idle_after = processor_ticks()
        if idle_after - idle_before >= 0.9 * (all_after - all_before):
            return
