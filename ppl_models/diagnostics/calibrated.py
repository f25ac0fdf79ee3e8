"""Calibration: ranks of simulated truths among a guide's draws, and what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guides.errors import OptionError, positive
from ppl_models.diagnostics.plots.ecdf import draw_ecdf
from ppl_models.diagnostics.printing import as_text
from ppl_models.diagnostics.uniformity import UniformRanks, asymmetry
from ppl_models.labels import contain, versions

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from arviz import InferenceData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["LOG_LIKELIHOOD", "Calibration"]

#: The quantity that sees whether draws answer to the data.
LOG_LIKELIHOOD = "log p(x | z)"

#: Of the central intervals in the coverage table.
NOMINAL = (0.5, 0.8, 0.9, 0.95)

#: How many quantities a printed table shows, and how unlikely ranks must be for it to say what is wrong.
SHOWN, UNLIKELY = 12, 0.05


@dataclass(frozen=True)
class Calibration:
    r"""What :func:`ppl_models.diagnostics.calibration` found.

    Args:
        ranks: By site, how many of the L draws are below the simulated truth, ``(S, *shape)``; -1 where a simulation
            failed. Beside the latents there is ``"log p(x | z)"``.
        num_draws: L.
        method: ``"SBC"``, the guide as it stands, or ``"VSBC"``, fitted to each data set.
        how: How, in words.
        failures: How many simulations failed, by reason.
        by_chance: The smallest tail of all quantities when other draws take the truths' places, many times; in order.
    """

    ranks: dict[str, Tensor] = field(repr=False)
    num_draws: int
    method: str
    how: str
    failures: Mapping[str, int]
    by_chance: NDArray[np.float64] = field(repr=False)

    @property
    def num_simulations(self) -> int:
        """S, failed ones included."""
        return len(next(iter(self.ranks.values())))

    @property
    def num_failed(self) -> int:
        """How many simulations have no ranks."""
        return sum(self.failures.values())

    @cached_property
    def quantities(self) -> list[str]:
        """The names of all scalar quantities: ``site``, ``site[i]``, ``site[i, j]``."""
        names = []
        for site, ranks in self.ranks.items():
            places = product(*map(range, ranks.shape[1:]))
            names += [f"{site}[{', '.join(map(str, place))}]" if place else site for place in places]
        return names

    def to_dataframe(self) -> pd.DataFrame:
        """All ranks, one row per simulation and one column per quantity; ``<NA>`` where a simulation failed."""
        import pandas as pd

        flat = torch.cat([ranks.flatten(1) if ranks.dim() > 1 else ranks[:, None] for ranks in self.ranks.values()], 1)
        frame = pd.DataFrame(flat.cpu().numpy(), columns=self.quantities).rename_axis("simulation")
        return frame.astype("Int64").mask(frame < 0)

    @cached_property
    def _known(self) -> NDArray[np.int64]:
        """The ranks of the simulations that did not fail, ``(S, Q)``."""
        return self.to_dataframe().dropna().to_numpy("int64")

    @cached_property
    def _law(self) -> UniformRanks:
        return UniformRanks(len(self._known), self.num_draws)

    @cached_property
    def _least_tails(self) -> NDArray[np.float64]:
        return self._law.least_tail(self._law.counts(self._known))

    @property
    def p_value(self) -> float:
        """Of all quantities being calibrated: the smallest of their p-values, corrected for their number."""
        return float(self._adjusted.min())

    @cached_property
    def _adjusted(self) -> NDArray[np.float64]:
        import numpy as np

        return (1 + np.searchsorted(self.by_chance, self._least_tails, side="right")) / (1 + len(self.by_chance))

    @cached_property
    def table(self) -> pd.DataFrame:
        r"""One row per quantity.

        ``p_value`` of uniform ranks; ``adjusted`` for the number of quantities; ``asymmetry``, the p-value of symmetric
        ranks, times the number of quantities: small if the guide is shifted, whatever its spread; ``shift``, the mean
        of :math:`1/2 - (r + 1/2) / (L + 1)`: positive if the draws are too high; ``spread``, the standard deviation of
        the ranks in units of that of uniform ones: above 1 if the draws are too narrow; and the standard errors of the
        last two.
        """
        import numpy as np
        import pandas as pd

        counts = self._law.counts(self._known)
        values, size = self.num_draws + 1, len(self._known)
        places = (self._known + 0.5) / values
        centred = places - places.mean(0)
        variance = centred.var(0)
        uniform = (1 - 1 / values**2) / 12
        spread = np.sqrt(variance / uniform)
        error = np.sqrt((centred**2).var(0) / size) / (2 * np.sqrt(uniform * np.maximum(variance, 1e-300)))
        return pd.DataFrame(
            {
                "p_value": self._law.p_value(self._least_tails),
                "adjusted": self._adjusted,
                "asymmetry": np.minimum(1.0, len(counts) * asymmetry(counts, np.random.default_rng(0))),
                "shift": 0.5 - places.mean(0),
                "shift_error": np.sqrt(variance / size),
                "spread": spread,
                "spread_error": error,
            },
            index=pd.Index(self.quantities, name="quantity"),
        )

    @cached_property
    def coverage(self) -> pd.DataFrame:
        """How often central intervals of the draws hold the truth, one row per quantity and interval.

        ``nominal`` is the nearest to 50, 80, 90 and 95 % that ranks of L draws allow, which for L = 199 is these
        numbers; ``observed``; ``low`` and ``high``, the exact 95 % interval of a binomial share (Clopper and Pearson).
        """
        import numpy as np
        import pandas as pd
        from scipy.stats import beta

        values, size, parts = self.num_draws + 1, len(self._known), []
        for wanted in NOMINAL:
            cut = round((1 - wanted) / 2 * values)
            inside = ((self._known >= cut) & (self._known <= self.num_draws - cut)).sum(0)
            low = np.where(inside == 0, 0.0, beta.ppf(0.025, inside, size - inside + 1))
            high = np.where(inside == size, 1.0, beta.ppf(0.975, inside + 1, size - inside))
            numbers = {"nominal": (values - 2 * cut) / values, "observed": inside / size, "low": low, "high": high}
            parts.append(pd.DataFrame(numbers, index=self.quantities))
        table = pd.concat(parts, keys=NOMINAL, names=["interval", "quantity"]).swaplevel()
        return table.loc[self.quantities]

    def plot_ecdf(
        self, quantities: Sequence[str] | None = None, *, level: float = 0.95, ax: Axes | None = None
    ) -> Axes:
        """Draw how far the distribution function of each quantity's ranks is from that of uniform ones.

        One of them leaves the band where :attr:`p_value` is at most ``1 - level``.

        Args:
            quantities: Which; all by default, of which those that leave the band are named if there are many.
            level: How often all ECDFs of a calibrated guide are inside the band.
            ax: Where; a new figure by default.

        Raises:
            OptionError: If a quantity is unknown or the level no probability.
        """
        positive("level", level, below=1, instead="Write level=0.95.")
        names = self.quantities if quantities is None else list(quantities)
        for name in names:
            if name not in self.quantities:
                raise OptionError(f"quantities must be among {', '.join(self.quantities)}; got {name!r}.")
        chosen = [self.quantities.index(name) for name in names]
        law = self._law
        allowed = math.floor((1 - level) * (1 + len(self.by_chance)) + 1e-9) - 1
        low, high = law.band(self.by_chance[allowed] if allowed >= 0 else 0.0)
        return draw_ecdf(
            law.counts(self._known[:, chosen]).cumsum(-1)[:, :-1] / law.size,
            law.places,
            (low / law.size, high / law.size),
            level=level,
            names=[self.quantities[i] for i in chosen],
            title=f"{self.method}: p = {self.p_value:.2g}, {len(self._known)} simulations",
            ax=ax,
        )

    def to_arviz(self, *, container: str | None = None) -> InferenceData:
        """Write the places of the truths, ``(rank + 1/2) / (L + 1)``, as the group ``prior_sbc``.

        That is where ``arviz_plots.plot_ecdf_pit`` looks for them. Draws are the simulations that did not fail, by
        their numbers; how many did is among the attributes.

        Args:
            container: As for :func:`ppl_models.diagnostics.to_arviz`.
        """
        import xarray as xr

        ok = torch.tensor(self.to_dataframe().notna().all(axis=1).tolist())
        variables = {}
        for site, ranks in self.ranks.items():
            dims = ["chain", "draw", *(f"{site}_dim_{i}" for i in range(ranks.dim() - 1))]
            variables[site] = (dims, ((ranks[ok].double() + 0.5) / (self.num_draws + 1))[None].cpu().numpy())
        dataset = xr.Dataset(variables, coords={"chain": [0], "draw": ok.nonzero().flatten().cpu().numpy()})
        attrs = versions("ppl-models") | {
            "method": self.method,
            "how": self.how,
            "num_simulations": self.num_simulations,
            "num_failed": self.num_failed,
            "num_draws": self.num_draws,
            "p_value": self.p_value,
        }
        return contain({"prior_sbc": dataset}, attrs=attrs, kind=container)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        bad = self.p_value <= UNLIKELY
        size = f"{self.num_simulations} simulations, {self.num_draws} draws each"
        yield Text(
            f"Calibration: p = {self.p_value:.2g} ({self.method}, {size}; {self.how})",
            style=f"bold {'red' if bad else 'green'}",
        )
        for reason, number in self.failures.items():
            yield Text(f"{number} of {self.num_simulations} simulations failed: {reason}.", style="bold red")
        rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        rows.add_column("Quantity")
        for name in ("p", "p of symmetry", "shift", "spread", *(f"{wanted:.0%}" for wanted in NOMINAL)):
            rows.add_column(name, justify="right", no_wrap=True)
        rows.add_column("")
        table = self.table.sort_values("p_value", kind="stable")
        for name, row in table.head(SHOWN).iterrows():
            covered = [f"{self.coverage.loc[(name, wanted), 'observed']:.1%}" for wanted in NOMINAL]
            rows.add_row(
                str(name),
                f"{row.adjusted:.2g}",
                f"{row.asymmetry:.2g}",
                f"{row['shift']:.3f} +- {row.shift_error:.3f}",
                f"{row.spread:.3f} +- {row.spread_error:.3f}",
                *covered,
                Text(_reading(str(name), row), style="red"),
            )
        yield rows
        if len(table) > SHOWN:
            yield Text(f"... and {len(table) - SHOWN} more, with larger p-values.", style="dim")
        yield Text(
            "p-values are corrected for the number of quantities. shift > 0: draws too high; spread > 1: draws too "
            "narrow; percentages: how often central intervals hold the truth.",
            style="dim",
        )

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        return (
            f"Calibration({self.method}, p_value={self.p_value:.2g}, quantities={len(self.quantities)}, "
            f"num_simulations={self.num_simulations}, num_failed={self.num_failed})"
        )


def _reading(name: str, row: Any) -> str:
    """What ranks that are unlikely look like, in words."""
    if row.adjusted > UNLIKELY:
        return ""
    if name == LOG_LIKELIHOOD:
        return "misses the data"
    words = []
    if abs(row["shift"]) > 3 * row.shift_error:
        words.append("too high" if row["shift"] > 0 else "too low")
    if abs(row.spread - 1) > 3 * row.spread_error:
        words.append("too narrow" if row.spread > 1 else "too wide")
    return ", ".join(words)
