"""A study as one HTML file that needs nothing else: words, figures and tables."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Callable, Mapping
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_models.files import atomic_path
from ppl_models.study.comparisons import compare_models
from ppl_models.study.figures import plot_losses, plot_metric
from ppl_models.study.run_metrics import METRICS
from ppl_models.study.run_values import TEST_METRICS, check_results
from ppl_models.study.summary import judged_by, on_a_curve, study_summary
from ppl_models.study.table_formats import TEXT_COLUMNS, number, readable
from ppl_models.study.tables import floors_of, metrics_table, parameters_table, runs_table

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["write_report"]

#: Of a figure, in inches: legible on a phone too, which shows it smaller.
_WIDTH, _HEIGHT, _DPI = 5.4, 4.4, 140

#: Matplotlib's settings of a figure on the page's dark background.
_DARK: dict[Any, Any] = dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor"), "#e6edf3"
) | dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "#0d1117")


def write_report(
    results: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    metric: str | None = None,
    threshold: float | None = None,
    floors: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Path:
    """Write a study as one HTML file, with what it says in words, all figures and all tables in it.

    It opens without a network, in light or dark as the reader's system is set, on a desktop and on a phone.

    Args:
        results: Of a study.
        path: The file, which appears when it is whole.
        metric: What models are judged by; as for :func:`study_summary`.
        threshold: The validation loss to get below, if the time to that is of interest.
        floors: As for :func:`metrics_table`, and so are the next two.
        confidence: Of the intervals.
        seed: Fixes what is drawn at random.

    Returns:
        The file's path.

    Raises:
        DataError: If these are no results of a study.
        OptionError: If an option is wrong.
    """
    from jinja2 import Environment, StrictUndefined

    results = check_results(results)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    template = environment.from_string(
        resources.files("ppl_models.study").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    page = template.render(_content(results, metric, threshold, floors, confidence, seed))
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def _content(
    results: xr.Dataset,
    metric: str | None,
    threshold: float | None,
    floors: Mapping[str, float] | None,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    statistics: dict[str, Any] = {"confidence": confidence, "seed": seed}
    metric = judged_by(results, metric)
    statements = study_summary(results, metric=metric, floors=floors, **statistics)
    models = results["model"].values.tolist()
    tested = metrics_table(results, metrics=TEST_METRICS, floors=floors, **statistics)
    pairs = compare_models(results, metric=metric, confidence=confidence) if len(models) > 1 else None
    names = [*METRICS, *(["time_to_threshold"] if threshold is not None else [])]
    converged: dict[str, Any] = {"metrics": names, "threshold": threshold, "floors": floors, **statistics}
    warm = bool((results["kl_weight"] < 1).any())
    sizes = results.sizes
    return {
        "title": f"A study of {_count(sizes['model'], 'model')} on {_count(sizes['dataset'], 'dataset')}",
        "subtitle": f"{_count(sizes['seed'], 'seed')}, up to {_count(sizes['epoch'], 'epoch')} each. "
        f"ppl-models {results.attrs.get('version', '')}",
        "overall": [each for each in statements if not each.dataset],
        "datasets": [
            {
                "name": dataset,
                "anchor": f"dataset-{place + 1}",
                "statements": [each for each in statements if each.dataset == dataset],
                "floor": _floor_text(results, dataset, floors),
                "figures": _figures(results, dataset, metric, floors, statistics),
                "results": readable(tested[tested["dataset"] == dataset].drop(columns="dataset")),
                "comparisons": None
                if pairs is None
                else readable(pairs[pairs["dataset"] == dataset].drop(columns=["dataset", "metric"])),
            }
            for place, dataset in enumerate(results["dataset"].values.tolist())
        ],
        "metric": metric,
        "metrics": readable(metrics_table(results, **converged)),
        "after_warmup": readable(metrics_table(results, after_warmup=True, **converged)) if warm else None,
        "runs": readable(runs_table(results)),
        "parameters": readable(parameters_table(results)),
        "configuration": _configuration(results, threshold),
        "text_columns": TEXT_COLUMNS,
        "confidence": f"{100 * confidence:g}",
    }


def _figures(
    results: xr.Dataset, dataset: str, metric: str, floors: Mapping[str, float] | None, statistics: dict[str, Any]
) -> list[dict[str, Any]]:
    return [
        _picture(
            lambda ax: plot_losses(results, dataset, floors=floors, ax=ax),
            f"Validation loss on {dataset}: median over the runs that are done, in their range.",
        ),
        _picture(
            lambda ax: plot_metric(results, dataset, metric, floors=floors, ax=ax, **statistics),
            f"{metric} on {dataset}: mean with its interval, and each run.",
        ),
    ]


def _picture(draw: Callable[[Axes], Axes], caption: str) -> dict[str, Any]:
    """The same figure for a light and for a dark page, as base64."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    found: dict[str, Any] = {"caption": caption, "width": round(_WIDTH * 100), "height": round(_HEIGHT * 100)}
    for name, settings in (("light", {}), ("dark", _DARK)):
        with rc_context(settings):
            figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, layout="constrained")
            draw(figure.subplots())
            written = BytesIO()
            figure.savefig(written, format="png")
        found[name] = base64.b64encode(written.getvalue()).decode("ascii")
    return found


def _floor_text(results: xr.Dataset, dataset: str, floors: Mapping[str, float] | None) -> str:
    entropy, known = float(results["floor"].sel(dataset=dataset)), floors_of(results, floors)[dataset]
    if math.isfinite(entropy):
        return f"The entropy of the data is {number(entropy, 6)} nats: no loss can be less."
    if math.isfinite(known):
        return f"The entropy of the data is not known. The floor is a value from elsewhere, {number(known)} nats."
    if on_a_curve(dataset):
        return "The points lie on a curve and have no density: there is no floor."
    return "The entropy of the data is not known."


def _configuration(results: xr.Dataset, threshold: float | None) -> list[tuple[str, str]]:
    found = json.loads(results.attrs.get("study", "{}"))
    rows = [(str(name), value if isinstance(value, str) else json.dumps(value)) for name, value in found.items()]
    rows += [("threshold", f"{threshold:g}")] if threshold is not None else []
    return [*rows, ("ppl-models", str(results.attrs.get("version", "")))]


def _count(number_of: int, what: str) -> str:
    return f"{number_of} {what}{'' if number_of == 1 else 's'}"
