"""Seconds and peak memory of Mulberry Lane: a million impressions, their training table, 50,000 orders.

Run ``OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/market.py``; it prints one line a step.
"""

import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mtl_ref.market import Dials, World  # noqa: E402


def measure(name, step):
    """Run one step and print its seconds (wall and CPU) and the peak memory so far."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:<42} {wall:6.2f} s wall {cpu:6.2f} s CPU   peak {peak:5.2f} GiB", flush=True)
    return result


if __name__ == "__main__":
    world = measure("World(0)", lambda: World(0, Dials()))
    log = measure("serve: 84 days, 1,008,000 impressions", lambda: world.serve(days=84))
    print(f"{len(log.impressions):,} impressions")
    measure("Log.table()", log.table)
    measure("orders(50_000)", lambda: world.orders(50_000))
