"""Times of several ways to do one thing, taken in turn, and peaks of memory, each in a process of its own."""

import gc
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Work = Callable[[], Any]


def interleaved(arms: Mapping[str, Work], repeats: int = 7) -> dict[str, list[float]]:
    """Processor seconds of each arm, ``repeats`` times, in an order that rotates; each has run once before.

    Processor time of one thread moves by a few per cent where wall time doubles under other load.
    """
    for work in arms.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            start = time.process_time()
            arms[name]()
            times[name].append(time.process_time() - start)
    return times


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Median of the ratios of each turn, and the interval that holds the true median in at least 95 % of cases."""
    ratios = sorted(one / other for one, other in zip(over, under, strict=True))
    out = outside(len(ratios))
    return {"value": statistics.median(ratios), "low": ratios[out], "high": ratios[-1 - out]}


def outside(count: int) -> int:
    """How many of ``count`` sorted values lie outside of the median's interval, on each side.

    By the sign test: the true median lies below the k smallest with probability sum(C(n, i), i < k) / 2^n.
    """
    out = 0
    while 2 * sum(math.comb(count, below) for below in range(out + 2)) / 2**count <= 0.05:
        out += 1
    return out


def medians(times: Mapping[str, list[float]], unit: float = 1.0) -> dict[str, float]:
    """Of each arm, in seconds or in what ``unit`` seconds are called."""
    return {name: statistics.median(values) / unit for name, values in times.items()}


def peak_megabytes(prepare: Callable[..., Work], *arguments: Any) -> float:
    """By how much the resident set grows at most while what ``prepare`` gives runs, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_grown, (prepare, *arguments))


def _grown(prepare: Callable[..., Work], *arguments: Any) -> float:
    work = prepare(*arguments)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, at what is resident now
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    """Of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:"))
