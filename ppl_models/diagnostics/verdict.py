"""Verdict: what is to be thought of a fit, and why."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ppl_models.diagnostics.findings import DOUBTFUL, FAIL, LEVELS, PASS, Finding
from ppl_models.diagnostics.printing import as_text
from ppl_models.labels import contain, versions

if TYPE_CHECKING:
    import pandas as pd
    from arviz import InferenceData
    from matplotlib.axes import Axes
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["Verdict"]

_COLOURS = {PASS: "green", DOUBTFUL: "yellow", FAIL: "red"}


@dataclass(frozen=True)
class Verdict:
    """What :func:`ppl_models.diagnostics.check` found.

    Printed, it is a table; ``print(verdict)`` in plain text, and by Rich's ``console.print`` in colours.

    Args:
        findings: All numbers, those that do not pass first.
        notes: What could not be looked at, and what a verdict of this kind cannot see.
        k_hat: The shape of the weights' tail, ``(*plates,)``: of each datum where they are independent.
        reference: The draws it was held against, where there are some.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    k_hat: Tensor | None = field(default=None, repr=False)
    reference: Any = field(default=None, repr=False)

    @property
    def level(self) -> str:
        """``"pass"``, ``"doubtful"`` or ``"fail"``: that of the worst finding."""
        return max((each.level for each in self.findings), key=LEVELS.index)

    def __getitem__(self, name: str) -> Finding:
        """The finding of a name."""
        for each in self.findings:
            if each.name == name:
                return each
        raise KeyError(f"no finding {name!r}; there are {', '.join(each.name for each in self.findings)}")

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists."""
        return {
            "level": self.level,
            "findings": [each.as_dict() for each in self.findings],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The same as JSON; numbers that are not finite are ``null``."""
        findings = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in each.as_dict().items()}
            for each in self.findings
        ]
        return json.dumps(self.as_dict() | {"findings": findings}, indent=2, allow_nan=False)

    @property
    def table(self) -> pd.DataFrame:
        """One row per finding, with its level, numbers, the source of its threshold, advice and detail."""
        import pandas as pd

        rows = [each.as_dict() for each in self.findings]
        return pd.DataFrame(rows).set_index("name").astype({"standard_error": float})

    def to_arviz(self, *, container: str | None = None) -> InferenceData:
        """Write the findings as the group ``verdict``, along the dimension ``finding``, and the reference beside them.

        Args:
            container: As for :func:`ppl_models.diagnostics.to_arviz`.
        """
        import xarray as xr

        table = self.table.rename_axis("finding")
        verdict = xr.Dataset.from_dataframe(table)
        if self.k_hat is not None:
            dims = [f"k_hat_dim_{i}" for i in range(self.k_hat.dim())]
            verdict["k_hat"] = (dims, self.k_hat.detach().cpu().numpy())
        groups = {"verdict": verdict}
        if self.reference is not None and "posterior" in self.reference:
            posterior = self.reference["posterior"]
            groups["posterior"] = posterior.to_dataset() if isinstance(posterior, xr.DataTree) else posterior
        attrs = versions("ppl-models") | {"level": self.level, "notes": "\n".join(self.notes)}
        return contain(groups, attrs=attrs, kind=container)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw each number between where it passes (0) and where it fails (1), with two standard errors.

        Numbers that cannot fail have only the left end: theirs are in units of it.

        Args:
            ax: Where; a new figure by default.
        """
        from ppl_models.diagnostics.plots.style import LEVEL_COLOURS, LEVEL_MARKERS, one_axes, styled

        with styled():
            ax = one_axes(ax, figsize=(6.8, 1.0 + 0.27 * len(self.findings)))
            for row, each in enumerate(self.findings):
                value, error = each.place
                colour, marker = LEVEL_COLOURS[each.level], LEVEL_MARKERS[each.level]
                ax.errorbar(value, row, xerr=error, fmt=marker, color=colour, markersize=6, label=each.level)
            ax.axvspan(-1.1, 0, color=LEVEL_COLOURS[PASS], alpha=0.1, linewidth=0)
            ax.axvspan(1, 2.1, color=LEVEL_COLOURS[FAIL], alpha=0.1, linewidth=0)
            ax.set_xlim(-1.1, 2.1)
            ax.set_xticks([-0.55, 0.5, 1.55], ["passes", "doubtful", "fails"])
            ax.tick_params(axis="x", length=0)
            ax.set_yticks(range(len(self.findings)), [each.name for each in self.findings])
            ax.set_ylim(len(self.findings) - 0.4, -0.6)
            ax.set_title(f"verdict: {self.level}")
        return ax

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("Finding")
        table.add_column("Level")
        table.add_column("Number", justify="right", no_wrap=True)
        table.add_column("Passes / fails", no_wrap=True)
        table.add_column("More")
        for each in self.findings:
            error = "" if each.standard_error is None else f" +- {each.standard_error:.2g}"
            more = [each.detail] if each.detail else []
            more += [each.advice] if each.level != PASS else []
            table.add_row(
                each.name,
                Text(each.level, style=_COLOURS[each.level]),
                f"{each.value:.3g}{error}",
                str(each.threshold),
                Text("\n".join(more)),
            )
        yield Text(f"Verdict: {self.level}", style=f"bold {_COLOURS[self.level]}")
        yield table
        for note in self.notes:
            yield Text(f"Note: {note}", style="dim")
        yield Text("Thresholds:", style="dim")
        for source in dict.fromkeys(each.threshold.source for each in self.findings):
            names = ", ".join(each.name for each in self.findings if each.threshold.source == source)
            yield Text(f"  {names}: {source}.", style="dim")

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        counts = ", ".join(f"{level}={sum(each.level == level for each in self.findings)}" for level in LEVELS)
        return f"Verdict({self.level!r}, {counts})"
