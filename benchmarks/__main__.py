"""``python -m benchmarks``: print every number with its goal; the exit code says whether all are reached."""

from __future__ import annotations

import sys

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import (
    calibration,
    compiled,
    convergence,
    cost,
    evidence,
    gaussian,
    gradients,
    mnist,
    mnist_models,
    nuts,
    posteriors,
    seeds,
    study,
    study_metrics,
    targets,
    toy,
    toy_models,
    training,
    two_sided,
    verdict,
)
from benchmarks.report import COLUMNS, Row, keep

PARTS = {
    "evidence": evidence.contract,
    "learned": gaussian.learned_bases,
    "volume": gaussian.volume_law,
    "study": study.study,
    "targets": targets.targets,
    "posteriors": posteriors.posteriors,
    "regressions": posteriors.regressions,
    "two-sided": two_sided.two_sided,
    "nuts": nuts.nuts,
    "verdict": verdict.verdict,
    "calibration": calibration.calibration_and_gaps,
    "convergence": convergence.convergence,
    "intervals": study_metrics.intervals,
    "published": study_metrics.published,
    "size": cost.cost_does_not_grow_with_the_data,
    "pyro": cost.against_pyro,
    "compiled": compiled.compiled,
    "training": training.training,
    "trajectories": mnist.trajectories,
    "particles": mnist.particles,
    "gradients": gradients.at_the_exact_posterior,
    "start-up": cost.start_up,
    "toy": toy.toy_sets,
    "seeds": seeds.seeds,
    "densities": toy_models.densities,
    "mnist-models": mnist_models.mnist_models,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"error: parts are {', '.join(PARTS)}; got {', '.join(unknown)}", file=sys.stderr)
        return 2
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table(*COLUMNS, title="ppl-models: the numbers")
    rows: list[Row] = []
    for name in names or PARTS:
        found = list(PARTS[name]())
        keep(name, found)
        rows += found
    for row in rows:
        table.add_row(*row.cells)
    Console(width=140).print(table)
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
