"""How the benchmarks measure, so that a figure holds on a busy machine.

Two ways of doing the same are run in turn (A B A B ...) on one thread by CPU time, and their minima
are compared: load from outside lengthens single rounds, hardly ever all of them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

ROUNDS = 5
RESAMPLES = 2000
PROBE_SIDE = 1024


def probe() -> dict[str, float]:
    """Return this machine's matrix-multiplication rate in GFLOP/s on one thread, by format."""
    import torch

    torch.set_num_threads(1)
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(PROBE_SIDE, PROBE_SIDE, dtype=dtype)
        a @ a
        seconds = min(_cpu_seconds(lambda a=a: a @ a) for _ in range(8))
        rates[str(dtype).removeprefix("torch.")] = round(2 * PROBE_SIDE**3 / seconds / 1e9, 1)
    return rates


def compare(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS) -> dict:
    """Return {value, unit, ratio, ci, n}: CPU seconds of `ours`, and its ratio to `theirs`.

    One round to warm up, then `rounds` in turn; the interval is a 95 % bootstrap of the ratio of
    minima. Call `torch.set_num_threads(1)` first: CPU time counts the spinning of idle threads.
    """
    ours(), theirs()
    pairs = [(_cpu_seconds(ours), _cpu_seconds(theirs)) for _ in range(rounds)]
    first, second = zip(*pairs, strict=True)
    low, high = bootstrap(first, second)
    return {
        "value": min(first),
        "unit": "s",
        "ratio": min(first) / min(second),
        "ci": [low, high],
        "n": rounds,
    }


def bootstrap(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[float, float]:
    """Return the 95 % interval of min(first) / min(second) over resamples of both."""
    chance = random.Random(0)
    ratios = sorted(
        min(chance.choices(first, k=len(first))) / min(chance.choices(second, k=len(second)))
        for _ in range(RESAMPLES)
    )
    return ratios[int(0.025 * RESAMPLES)], ratios[int(0.975 * RESAMPLES)]


def _cpu_seconds(action: Callable[[], object]) -> float:
    begin = time.process_time()
    action()
    return time.process_time() - begin
