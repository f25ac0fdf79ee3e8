"""Two million points of each toy set: seconds, and the ratio to scikit-learn where it makes the same set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from sklearn.datasets import make_circles, make_moons

from benchmarks.cost import ratio
from benchmarks.report import Row
from ppl_models.datasets import TOY_DENSITIES, toy

NUM = 2_000_000


def toy_sets() -> Iterator[Row]:
    for name in TOY_DENSITIES:
        start = time.perf_counter()
        toy(name, NUM)
        yield Row(f"toy set {name}: seconds for 2,000,000 points", time.perf_counter() - start, most=2.0)
    peers: dict[str, Callable[[], object]] = {
        "moons": lambda: make_moons(NUM, noise=0.1, random_state=0),
        "circles": lambda: make_circles(NUM, noise=0.08, factor=0.5, random_state=0),
    }
    for name, peer in peers.items():
        value = ratio(lambda name=name: toy(name, NUM), peer, rounds=5)
        yield Row(f"toy set {name}: time over scikit-learn's make_{name}", value, most=1.0)
