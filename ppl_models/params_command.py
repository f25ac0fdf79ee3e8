"""The command ``ppl-models params``."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

__all__ = ["show_parameters"]


def show_parameters(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show how many trainable parameters each model of the study has, its own guide included.

    By dataset; those of one shape stand in one column. Where there is nothing, the model is none of such data.
    """
    from ppl_models.datasets import DATASETS
    from ppl_models.study import PAIRS, build_pair, count_parameters
    from ppl_models.study.pairs import kind_of

    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, dataset in DATASETS.items():
        shapes.setdefault(dataset.event_shape, []).append(name)
    counts = {
        model: {
            shape: count_parameters(*build_pair(model, shape))
            for shape in shapes
            if kind_of(shape) in PAIRS[model].make
        }
        for model in PAIRS
    }
    if as_json:
        by_dataset = {
            model: {name: number for shape, number in row.items() for name in shapes[shape]}
            for model, row in counts.items()
        }
        typer.echo(json.dumps(by_dataset, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Model", no_wrap=True)
    for shape, names in shapes.items():
        heading = "points in the plane" if shape == (2,) else "\n".join(names)
        table.add_column(f"{heading}\n{'×'.join(map(str, shape))}", justify="right", no_wrap=True, vertical="bottom")
    for model, row in counts.items():
        table.add_row(model, *(f"{row[shape]:,}" if shape in row else "" for shape in shapes))
    Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 100).print(table)
