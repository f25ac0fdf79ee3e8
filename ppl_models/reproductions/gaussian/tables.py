"""The tables of the Gaussian reproduction, from what its jobs found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppl_models.reproductions.gaussian.methods import LEARNED, METHODS, SETTINGS, STANDARD
from ppl_models.reproductions.gaussian.published import published

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compared", "draws_of_z", "goals", "headline", "summary", "verdicts", "why"]

Result = Mapping[str, Any]

#: The goals, with a learned base: nats of log evidence, and the squared distance of Delta + E z from the data's mean.
MOST_GAP, MOST_DISTANCE = 1.0, 1e-4


def summary(rows: Sequence[Result]) -> pd.DataFrame:
    """Take means over the data sets, one row for each d, setting and method.

    The fits of all data sets have the same noise, and are measured by the same draws, so that the standard error of a
    mean may be as large as the mean of theirs, which is what is told.
    """
    import pandas as pd

    table = pd.DataFrame(list(rows))
    columns = [
        "theta",
        "Delta",
        "Sigma",
        "theta against ML",
        "Delta against ML",
        "Sigma against ML",
        "location",
        "gap",
        "standard error",
        "least gap",
        "gap to ML",
        "seconds",
    ]
    grouped = table.groupby(["d", "setting", "method"], sort=False)
    means = grouped[columns].mean()
    means["largest gap to ML"] = grouped["gap to ML"].max()
    means["largest location"] = grouped["location"].max()
    means["skipped"] = grouped["skipped"].sum()
    means.insert(0, "data sets", grouped.size())
    return _ordered(means.reset_index())


def headline(rows: Sequence[Result]) -> pd.DataFrame:
    """Show the errors of the scales and the gaps, as published and put right, one row for each d and method."""
    import pandas as pd

    table = pd.DataFrame(list(rows))
    found = table.groupby(["d", "method"], sort=False)[["ML Sigma"]].mean()
    cells = {(cell.dim, cell.method): cell.value for cell in published() if cell.quantity == "Sigma"}
    found["published Sigma"] = [cells.get(key, float("nan")) for key in found.index]
    for quantity in ("Sigma", "gap to ML", "seconds"):
        means = table.groupby(["setting", "d", "method"])[quantity].mean()
        for setting in SETTINGS:
            if setting in set(table["setting"]):
                found[f"{quantity}, {setting}"] = means[setting]
    return _ordered(found.reset_index())


def compared(rows: Sequence[Result], forms: Mapping[int, Result]) -> pd.DataFrame:
    """Put the study's cells beside what its objectives have their optimum at, and beside ours, with the reason.

    Args:
        rows: Of all fits.
        forms: By d, what :func:`~ppl_models.reproductions.gaussian.pieces.closed_forms_job` found.
    """
    import pandas as pd

    means = summary(rows).set_index(["d", "setting", "method"])
    best = pd.DataFrame(list(rows)).groupby("d")[["ML theta", "ML Delta", "ML Sigma"]].mean()
    table = []
    for cell in published():
        if cell.dim not in best.index:
            continue
        form = _closed_form(cell.quantity, cell.method, forms.get(cell.dim))
        line: dict[str, Any] = {
            "error of": cell.quantity,
            "d": cell.dim,
            "method": cell.method,
            "published": cell.value,
            "closed form": form,
            "published / closed form": None if form is None else cell.value / form,
        }
        for setting in SETTINGS:
            key = (cell.dim, setting, cell.method)
            line[f"ours, {setting}"] = means.loc[key, cell.quantity] if key in means.index else None
        line["ML"] = best.loc[cell.dim, f"ML {cell.quantity}"]
        line["why they differ"] = why(cell.method, cell.quantity, cell.dim)
        table.append(line)
    columns = ["published", "closed form", "published / closed form", *(f"ours, {each}" for each in SETTINGS), "ML"]
    found = pd.DataFrame(table)
    if len(found):
        found = found.astype(dict.fromkeys(columns, float))
        found = found.sort_values("error of", key=lambda c: c.map(["Delta", "Sigma", "theta"].index), kind="stable")
    return found


def _closed_form(quantity: str, method: str, form: Result | None) -> float | None:
    if form is None:
        return None
    if quantity != "theta":
        return form[quantity][method]
    parts = [form["Delta"][method], form["Sigma"][method]]
    return None if None in parts else sum(parts)


def why(method: str, quantity: str, dim: int) -> str:
    """Say in a sentence why a published error differs from the ML estimate's.

    Example:
        >>> why("IAF", "Sigma", 25)
        'its ELBO lacks 1/2 on the squares, so that the optimum is √2 σ'
    """
    if quantity == "theta":
        return "the sum of the other two"
    if quantity == "Delta":
        if method == "IAF":
            return "other data: they were drawn after the network, from the same seed; the error is the ML's on those"
        if method == "mean-field VB":
            return "stopped on the ridge Δ + E z = x̄, along which both move equally"
        diverged = "; set back to the last finite steps of two runs that diverged" if (method, dim) == DIVERGED else ""
        return f"the ML's own error on the study's data, |x̄ − Δ|², which is the noise in z{diverged}"
    return {
        "HVAE K=1": "each minibatch of 256 (the last: 16) is taken for a data set of its own, and N(0, I) keeps its "
        "volume; gradients clipped to one norm, as all but those at d = 400, may explain the rest",
        "HVAE K=10": "the same; no closed form for ten steps, whose limit is that of one",
        "IAF": "its ELBO lacks 1/2 on the squares, so that the optimum is √2 σ",
        "planar K=1": "its ELBO lacks 1/2 on the squares, and d − 1 directions keep the variance 1",
        "planar K=30": "the same: its 30 layers share their parameters, and bend one direction",
        "mean-field VB": "each of 40 minibatches counts the whole divergence, which makes the prior 40 times as strong",
        "HVAE K=1, no tempering": "minibatches as data sets of their own, and an energy that is conserved",
        "HVAE K=10, no tempering": "a local optimum where the steps move nothing: the variance stays 1",
    }[method] + ("; set back to the last finite steps of two runs that diverged" if (method, dim) == DIVERGED else "")


#: Two of the study's runs of it ended in NaN, and it kept their last finite records.
DIVERGED = ("planar K=1", 300)


def draws_of_z(forms: Mapping[int, Result]) -> pd.DataFrame:
    """Show |x̄ − Δ|² of the study's data sets, those for all methods and those of the IAF, and what was published."""
    import pandas as pd

    cells = {(cell.dim, cell.method): cell.value for cell in published() if cell.quantity == "Delta"}
    table = []
    for dim, form in forms.items():
        for which, method in (("shift", "HVAE K=1"), ("shift after the network", "IAF")):
            values = form[which]
            mean = sum(values) / len(values)
            table.append(
                {
                    "d": dim,
                    "data drawn": "for all methods" if which == "shift" else "for the IAF, after its network",
                    **{f"set {i + 1}": value for i, value in enumerate(values)},
                    "mean": mean,
                    "published Delta error of": method,
                    "published": cells[dim, method],
                    "published / mean": cells[dim, method] / mean,
                }
            )
    return pd.DataFrame(table)


def goals(rows: Sequence[Result]) -> list[dict[str, Any]]:
    """Hold the worst fits against what was to be reached, and list those that are better than they can be."""
    learned = [row for row in rows if row["setting"] == LEARNED]
    told = []
    for what, most in (("gap to ML", MOST_GAP), ("location", MOST_DISTANCE)):
        if learned:
            worst = max(learned, key=lambda row: float("inf") if row[what] is None else row[what])
            fit = f"{worst['method']}, d = {worst['d']}, set {worst['data set']}"
            told.append(
                {
                    "number": what,
                    "worst fit": fit,
                    "value": worst[what],
                    "most": most,
                    "reached": worst[what] is not None and worst[what] <= most,
                }
            )
    for row in (row for row in rows if row["setting"] == STANDARD and row["least gap"]):
        if row["gap"] is not None and row["gap"] < row["least gap"] - 5 * row["standard error"]:
            told.append(
                {
                    "number": "gap below the least possible",
                    "worst fit": f"{row['method']}, d = {row['d']}, set {row['data set']}",
                    "value": row["gap"],
                    "most": row["least gap"],
                    "reached": False,
                }
            )
    return told


def verdicts(rows: Sequence[Result]) -> pd.DataFrame:
    """Show the verdicts on the guides that were judged, one row for each method."""
    import pandas as pd

    table = pd.DataFrame(list(rows)).pivot(index="method", columns="setting", values="verdict")
    return _ordered(table[list(SETTINGS)].reset_index())


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """By d, then setting, then method, as they are listed."""
    order = {name: i for i, name in enumerate([*SETTINGS, *METHODS])}
    by = [name for name in ("d", "setting", "method") if name in table]
    return table.sort_values(by, key=lambda c: c.map(order) if c.name != "d" else c)
