"""ReferenceChains: draws to hold a guide against, and whether they deserve it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guides.errors import DataError
from ppl_models.diagnostics.draws import are_chains
from ppl_models.diagnostics.findings import Finding, Threshold, finding

if TYPE_CHECKING:
    from arviz import InferenceData

__all__ = ["ReferenceChains"]

_VEHTARI = "Aki Vehtari et al., Rank-normalization, folding, and localization, 2021, https://arxiv.org/abs/1903.08008"
_BETANCOURT = (
    "Michael Betancourt, A Conceptual Introduction to Hamiltonian Monte Carlo, 2017, https://arxiv.org/abs/1701.02434"
)

#: A bad reference says nothing of the guide, neither good nor bad: it makes a verdict doubtful, and never a failure.
DIVERGENCES = Threshold(0.0, math.inf, f"{_BETANCOURT}, section 6.2")
R_HAT = Threshold(1.01, math.inf, f"{_VEHTARI}")
EFFECTIVE = Threshold(400.0, -math.inf, f"{_VEHTARI}")
ENERGY = Threshold(0.3, -math.inf, f"{_BETANCOURT}, section 6.1; 0.3 is Stan's")


class ReferenceChains:
    """Draws by site, checked against a model's latents.

    Args:
        source: InferenceData or a DataTree with the group ``posterior``: draws of chains, each site
            ``(num_chains, num_draws, *batch, *event)``. Or exact draws by site, ``(num_draws, *batch, *event)``.
        like: Draws of the model's latents, ``(S, *batch, *event)`` each.

    Raises:
        DataError: If sites or shapes are others, or values not finite.
    """

    def __init__(self, source: Mapping[str, Tensor] | InferenceData, like: Mapping[str, Tensor]) -> None:
        self.source = source
        #: Whether the draws are those of chains; exact ones need no judging.
        self.from_chains = are_chains(source)
        held: Any = source["posterior"] if self.from_chains else source
        if set(held) != set(like):
            raise DataError(f"reference must hold draws of {sorted(like)}; got {sorted(map(str, held))}.")
        #: By site, ``(C, R, *batch, *event)``.
        self.chains: dict[str, Tensor] = {}
        for name, own in like.items():
            value = torch.tensor(held[name].values) if self.from_chains else torch.as_tensor(held[name])[None]
            if value.shape[2:] != own.shape[1:]:
                axes = "(chain, draw, ...)" if self.from_chains else "(draw, ...)"
                raise DataError(
                    f"reference[{name!r}] must hold draws of shape {tuple(own.shape[1:])}; got "
                    f"{tuple(value.shape[2:])} behind {axes}. Was it drawn from the same model and data?"
                )
            if not value.isfinite().all():
                raise DataError(f"reference[{name!r}] must be finite; got {int((~value.isfinite()).sum())} values not.")
            self.chains[name] = value.to(own.device, torch.float64)
        sizes = {tuple(value.shape[:2]) for value in self.chains.values()}
        if len(sizes) > 1 or min(sizes)[1] < 4:
            raise DataError(f"reference must hold as many draws of each site, at least 4; got {sorted(sizes)}.")
        num = min(sizes)[1] // 4 * 4
        if not self.from_chains and num >= 16:  # independent draws may be cut into chains
            self.chains = {name: value[0, :num].unflatten(0, (4, num // 4)) for name, value in self.chains.items()}

    def flat(self) -> dict[str, Tensor]:
        """The draws by site, chains one behind the other: ``(C * R, *batch, *event)``."""
        return {name: value.flatten(0, 1) for name, value in self.chains.items()}

    @property
    def num_chains(self) -> int:
        """C."""
        return len(next(iter(self.chains.values())))

    def findings(self) -> list[Finding]:
        """Judge chains by their divergences, R-hat, effective sample size and energy; exact draws by nothing."""
        if not self.from_chains:
            return []
        import arviz as az
        import numpy as np

        found = []
        stats = self._stats()
        if "diverging" in stats:
            share = float(np.mean(stats["diverging"]))
            every = "all transitions diverged: the chains stood still and say nothing" if share == 1 else ""
            found.append(
                finding(
                    "reference: share of divergent transitions",
                    share,
                    None,
                    DIVERGENCES,
                    "Raise target_accept to 0.99 or write the model in a non-centred form, and run nuts again.",
                    detail=every,
                )
            )
        names, columns = [], []
        for name, value in self.chains.items():
            flat = value.reshape(*value.shape[:2], -1).cpu().numpy()
            names += [name if flat.shape[2] == 1 else f"{name}[{i}]" for i in range(flat.shape[2])]
            columns += [np.ascontiguousarray(flat[..., i]) for i in range(flat.shape[2])]
        # Elements that never change are constants of the site, like the zeros of a triangular matrix.
        moving = [i for i, each in enumerate(columns) if np.ptp(each) > 0] or list(range(len(columns)))
        columns, names = [columns[i] for i in moving], [names[i] for i in moving]
        with np.errstate(all="ignore"):
            r_hat = torch.tensor([float(az.rhat(each)) if len(each) > 1 else math.nan for each in columns])
            bulk, tail = (
                torch.tensor([float(az.ess(each, method=method)) for each in columns]) for method in ("bulk", "tail")
            )
        one = "" if self.num_chains > 1 else "one chain cannot be compared with others"
        found.append(
            finding(
                "reference: R-hat",
                r_hat,
                None,
                R_HAT,
                "Run more and longer chains; where they stay apart, the posterior has several modes.",
                label=names.__getitem__,
                detail=one,
            )
        )
        found.append(
            finding(
                "reference: effective draws",
                torch.minimum(bulk, tail),
                None,
                EFFECTIVE,
                "Run longer chains: num_samples= of nuts.",
                label=names.__getitem__,
            )
        )
        if "energy" in stats and np.ptp(stats["energy"]) > 0:
            found.append(
                finding(
                    "reference: E-BFMI",
                    torch.as_tensor(np.atleast_1d(az.bfmi(np.atleast_2d(stats["energy"])))),
                    None,
                    ENERGY,
                    "Write the model in another parametrisation: the momenta do not carry the chains across it.",
                    label=lambda i: f"chain {i}",
                )
            )
        return found

    def _stats(self) -> dict[str, Any]:
        source: Any = self.source
        if "sample_stats" not in source:
            return {}
        return {name: source["sample_stats"][name].values for name in source["sample_stats"]}
