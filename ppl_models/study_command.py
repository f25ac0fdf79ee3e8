"""The commands ``ppl-models study table``, ``plot`` and ``report``."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guides.errors import OptionError, choose

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["TABLES", "app"]

app = typer.Typer(help="Show what a study has found, while it is running too.")

#: What ``study table`` can show.
TABLES = ("metrics", "test", "comparisons", "runs", "parameters")

_Where = Annotated[
    Path, typer.Argument(metavar="DIR", help="The study's folder, or a netCDF file of its results.", show_default=False)
]
_Metric = Annotated[
    str | None,
    typer.Option(help="min, max, last, first, exceeds, time_to_threshold, test_loss or nll.", show_default=False),
]
_Threshold = Annotated[
    float | None, typer.Option(help="The validation loss to get below, for time_to_threshold.", show_default=False)
]
_AfterWarmup = Annotated[
    bool, typer.Option("--after-warmup", help="Leave out the epochs in which the KL terms had a weight below 1.")
]
_Floor = Annotated[
    list[str] | None,
    typer.Option(metavar="DATASET=NATS", help="A floor for a dataset whose entropy is not known.", show_default=False),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("table")
def show_table(
    where: _Where,
    table: Annotated[str, typer.Option(help=f"{', '.join(TABLES[:-1])} or {TABLES[-1]}.")] = "metrics",
    format: Annotated[
        str | None,
        typer.Option(help="markdown if not given, csv or latex; csv has all columns and digits.", show_default=False),
    ] = None,
    metric: _Metric = None,
    threshold: _Threshold = None,
    after_warmup: _AfterWarmup = False,
    floor: _Floor = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file.", show_default=False)] = None,
    as_json: _Json = False,
) -> None:
    """Show a table of a study.

    metrics: how the validation losses of each model converged, over the seeds. test: the final models on the test set.
    comparisons: pairs of models, by test_loss if --metric does not say otherwise. runs: each run, and why it failed.
    parameters: how many there are.
    """
    from ppl_models.files import atomic_path
    from ppl_models.study.opening import open_results
    from ppl_models.study.table_formats import FORMATS, format_table

    choose("--table", table, TABLES)
    if format is not None:
        choose("--format", format, FORMATS)
        if as_json:
            raise OptionError(f"--format must not be given with --json; got {format!r}. Write one of the two.")
    metrics = _metrics(table, metric, threshold)
    above = () if table == "comparisons" else None  # differences have no floor
    _see_effects(f"--table {table}", metrics, threshold, after_warmup, floor, above=above)
    frame = _table(open_results(where), table, metrics, threshold, after_warmup, _floors(floor))
    text = (
        json.dumps(_plain(frame), indent=2, allow_nan=False) + "\n"
        if as_json
        else format_table(frame, format or "markdown")
    )
    if out is None:
        typer.echo(text, nl=False)
        return
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    _tell(out, as_json=False)


@app.command("plot")
def plot_study(
    where: _Where,
    metric: _Metric = None,
    dataset: Annotated[
        str | None, typer.Option(help="One dataset; without it, all of them side by side.", show_default=False)
    ] = None,
    threshold: _Threshold = None,
    after_warmup: _AfterWarmup = False,
    floor: _Floor = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Picture to write: .png, .svg or .pdf. In DIR, named after what it shows, if not given."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Draw the validation losses of a study with bands over the seeds or, with --metric, bars with intervals."""
    from ppl_models.files import atomic_path
    from ppl_models.study.opening import open_results

    if metric is None:
        _see_effects("curves", ("losses",), threshold, after_warmup, None)
    else:
        _see_effects("bars", (_known(metric),), threshold, after_warmup, floor)
    results, floors = open_results(where), _floors(floor)
    names = results["dataset"].values.tolist()
    names = names if dataset is None else [choose("--dataset", dataset, names)]
    for name in floors:
        choose("a dataset of --floor", name, names)
    out = _beside(where, f"{metric or 'losses'}.png") if out is None else out
    choose("the suffix of --out", out.suffix, (".png", ".svg", ".pdf"))
    figure = _draw(results, names, metric, threshold, after_warmup, floors)
    with atomic_path(out) as temporary:
        figure.savefig(temporary)
    _tell(out, as_json=as_json)


@app.command("report")
def report_study(
    where: _Where,
    metric: _Metric = None,
    threshold: _Threshold = None,
    floor: _Floor = None,
    out: Annotated[Path | None, typer.Option(help="File to write; report.html in DIR, if not given.")] = None,
    as_json: _Json = False,
) -> None:
    """Write a study as one HTML file: what it says in words, figures, tables. Models are judged by --metric."""
    from ppl_models.study.opening import open_results
    from ppl_models.study.report import write_report

    out = _beside(where, "report.html") if out is None else out
    results, floors = open_results(where), _floors(floor)
    write_report(results, out, metric=metric, threshold=threshold, floors=floors)
    _tell(out, as_json=as_json)


def _metrics(table: str, metric: str | None, threshold: float | None) -> tuple[str, ...]:
    """Which metrics a table shows."""
    from ppl_models.study.run_metrics import METRICS
    from ppl_models.study.run_values import TEST_METRICS

    if table in ("runs", "parameters"):
        if metric is not None:
            raise OptionError(f"--metric must be given with another table than {table}; got {metric!r}. Leave it out.")
        return ()
    if metric is not None:
        return (_known(metric),)
    if table == "metrics":
        return (*METRICS, *(["time_to_threshold"] if threshold is not None else []))
    return TEST_METRICS if table == "test" else TEST_METRICS[:1]


def _known(metric: str) -> str:
    from ppl_models.study.tables import METRIC_NAMES

    return choose("--metric", metric, METRIC_NAMES)


def _see_effects(
    shown: str,
    metrics: Collection[str],
    threshold: float | None,
    after_warmup: bool,
    floor: list[str] | None,
    *,
    above: Collection[str] | None = None,
) -> None:
    """Refuse an option that changes nothing about the metrics that are shown.

    Args:
        shown: How.
        metrics: Those.
        threshold: As given, and so are the next two.
        after_warmup: Likewise.
        floor: Likewise.
        above: The metrics that are held against a floor, if not all that can be.
    """
    from ppl_models.study.run_metrics import METRICS
    from ppl_models.study.tables import ABOVE_FLOOR

    for option, given, those in (
        ("--threshold", threshold is not None, ("time_to_threshold",)),
        ("--after-warmup", after_warmup, METRICS),
        ("--floor", bool(floor), ABOVE_FLOOR if above is None else above),
    ):
        if given and not set(metrics) & set(those):
            what = f"{shown} of {', '.join(metrics)}" if metrics else shown
            instead = f", or choose {' or '.join(those)} by --metric" if metrics and those else ""
            raise OptionError(
                f"{option} must not be given with {what}, where it changes nothing. Leave it out{instead}."
            )


def _table(
    results: xr.Dataset,
    table: str,
    metrics: tuple[str, ...],
    threshold: float | None,
    after_warmup: bool,
    floors: dict[str, float],
) -> pd.DataFrame:
    from ppl_models.study.comparisons import compare_models
    from ppl_models.study.tables import metrics_table, parameters_table, runs_table

    if table == "comparisons":
        return compare_models(results, metric=metrics[0], after_warmup=after_warmup)
    if table == "runs":
        return runs_table(results)
    if table == "parameters":
        return parameters_table(results)
    return metrics_table(results, metrics=metrics, after_warmup=after_warmup, threshold=threshold, floors=floors)


def _draw(
    results: xr.Dataset,
    names: list[str],
    metric: str | None,
    threshold: float | None,
    after_warmup: bool,
    floors: dict[str, float],
) -> Figure:
    from matplotlib.figure import Figure

    from ppl_models.study.figures import plot_losses, plot_metric

    width = 6.2 if metric is None else max(4.4, 1.6 + 1.15 * results.sizes["model"])
    figure = Figure(figsize=(width * len(names), 4.2), dpi=100, layout="constrained")
    panels: Any = figure.subplots(1, len(names), squeeze=False)
    for name, panel in zip(names, panels[0], strict=True):
        if metric is None:
            plot_losses(results, name, floors=floors, ax=panel)
        else:
            plot_metric(results, name, metric, after_warmup=after_warmup, threshold=threshold, floors=floors, ax=panel)
    return figure


def _floors(given: list[str] | None) -> dict[str, float]:
    found = {}
    for each in given or []:
        name, _, value = each.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise OptionError(f"--floor must be DATASET=NATS, such as mnist=80.5; got {each!r}.") from None
    return found


def _beside(where: Path, name: str) -> Path:
    return where / name if where.is_dir() else where.with_name(name)


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows that JSON can hold: null for NaN, and infinity as a word."""
    rows = table.to_dict("records")
    return [{name: _plain_value(value) for name, value in row.items()} for row in rows]


def _plain_value(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _tell(out: Path, *, as_json: bool) -> None:
    typer.echo(json.dumps({"files": [str(out)]}, indent=2) if as_json else f"Written: {out}")
