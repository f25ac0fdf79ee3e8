"""The commands ``ppl-models data list`` and ``ppl-models data fetch``."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ppl_models.datasets import Dataset

__all__ = ["app"]

app = typer.Typer(help="List the datasets, and get the files of those that need some.")

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list")
def list_datasets(as_json: _Json = False) -> None:
    """List the datasets.

    Sizes are those of the parts for training, validation and test: of what is in the cache, or else as published. The
    entropy, in nats, is the mean negative log likelihood below which no model can come; it is known for points in the
    plane. Points on a curve have none that means anything.
    """
    from ppl_models.datasets import DATASETS

    rows = [_row(name, dataset) for name, dataset in DATASETS.items()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, allow_nan=False))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("Dataset", "Train", "Validation", "Test", "Each", "Entropy", "Files"):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("Dataset", "Files") else "right")
    for row in rows:
        entropy = row["entropy"]
        table.add_row(
            row["name"],
            *(f"{row[part]:,}" for part in ("train", "validation", "test")),
            "×".join(map(str, row["event_shape"])),
            "" if entropy is None else "−∞" if entropy == "-inf" else f"{entropy:.6f}",
            row["files"],
        )
    Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 100).print(table)


@app.command("fetch")
def fetch_dataset(
    name: Annotated[str, typer.Argument(help="mnist, fashion_mnist or omniglot.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder or file to copy from. Without it, the internet is asked.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Put a checked copy of a dataset's files into the cache, where every later run finds it.

    For mnist and fashion_mnist --from names the folder of the four IDX files; for omniglot, the folder of the two zip
    files, or one .npz file of some of the drawings. The cache is ppl-models in $XDG_CACHE_HOME or ~/.cache.
    """
    from ppl_models.datasets import fetch

    files = [str(path) for path in fetch(name, source)]
    if as_json:
        typer.echo(json.dumps({"name": name, "files": files}, indent=2))
    else:
        typer.echo("\n".join(["Kept:", *(f"  {path}" for path in files)]))


def _row(name: str, dataset: Dataset) -> dict[str, Any]:
    from guides.errors import DataError
    from ppl_models.datasets.cache import cache_folder, kept_files

    files, sizes = "none needed", dataset.sizes
    if dataset.fetch is not None:
        try:
            kept = kept_files(cache_folder(name))
        except DataError:
            files = "damaged, to be fetched"
        else:
            files = "in the cache" if kept else "to be fetched"
            sizes = dataset.kept(kept) if kept and dataset.kept else sizes
    return {
        "name": name,
        **dict(zip(("train", "validation", "test"), sizes, strict=True)),
        "event_shape": list(dataset.event_shape),
        # JSON has no infinity.
        "entropy": "-inf" if dataset.entropy == -math.inf else dataset.entropy,
        "files": files,
    }
