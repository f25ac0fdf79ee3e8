"""gradient_report: how much signal, noise and time there is in the gradients of several objectives."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor, nn

from guides.errors import OptionError, whole_number
from ppl_models.objectives.base import Objective
from ppl_models.objectives.chunks import leaves_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["gradient_report"]

#: Draws are put in groups, each of which is left out once for the standard errors.
_GROUPS = 10


def gradient_report(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    objectives: Sequence[Objective],
    num_draws: int = 100,
    seed: int | None = None,
) -> pd.DataFrame:
    r"""Compare gradient estimators at the present parameters.

    With g one draw of a gradient, :math:`\mathrm{variance} = \mathrm{tr}\, \mathrm{Cov}(g)` and

    .. math::
        \mathrm{snr} = \frac{|E g|}{\sqrt{\mathrm{tr}\, \mathrm{Cov}(g)}},

    the mean's square less what noise adds to it. Nothing is trained, and no gradient is left in the parameters.

    Args:
        model: Any Pyro model.
        guide: Any Pyro guide of it.
        *args: Arguments of both.
        objectives: What to compare; of a row's bound, gradients of different objectives need not have the same mean.
        num_draws: Number of gradients of each, at least 20; rounded up to a multiple of 10.
        seed: Fixes the noise, the same for every objective; the global generator is left as it was.

    Returns:
        A table, a row per objective and set of ``parameters`` (``"model"``, ``"guide"``, or ``"other"`` where they
        belong to no module). Columns: ``bound`` in nats, ``norm`` (of the mean gradient), ``snr``, ``variance``, each
        of these followed by its standard error, and ``seconds`` (the median for one gradient).

    Raises:
        OptionError: If there is no objective, or ``num_draws`` is too small.

    Example:
        >>> import torch
        >>> from guides import MeanFieldGuide
        >>> from ppl_models import OffsetGaussian
        >>> from ppl_models.objectives import ELBO
        >>> gaussian, x = OffsetGaussian(2), torch.tensor([[1.0, 0.0], [2.0, 1.0]])
        >>> guide, objectives = MeanFieldGuide(gaussian), [ELBO(), ELBO(gradient="stl")]
        >>> report = gradient_report(gaussian, guide, x, objectives=objectives, seed=0)
        >>> report[["objective", "parameters"]]
                                           objective parameters
        0                       ELBO(num_particles=1)      guide
        1                       ELBO(num_particles=1)      model
        2  ELBO(num_particles=1, gradient='stl')      guide
        3  ELBO(num_particles=1, gradient='stl')      model

    References:
        Tom Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018,
        https://arxiv.org/abs/1802.04537, eq. 5; the ratio here is of the whole gradient, not of each coordinate.
    """
    import pandas as pd

    if isinstance(objectives, Objective) or not objectives:
        raise OptionError(f"objectives must be a list of at least one; got {objectives!r}. Write objectives=[ELBO()].")
    per_group = math.ceil(whole_number("num_draws", num_draws, least=20) / _GROUPS)
    rows: list[dict[str, Any]] = []
    for objective in objectives:
        with torch.random.fork_rng(), pyro.validation_enabled(False):
            objective.loss(model, guide, *args)  # sets up what needs it, and warms up
            if seed is not None:
                torch.manual_seed(seed)
            rows += _rows(objective, model, guide, args, per_group)
    return pd.DataFrame.from_records(rows)


def _rows(objective: Objective, model: Any, guide: Any, args: Any, per_group: int) -> list[dict[str, Any]]:
    owners = {
        id(p): name
        for name, part in (("model", model), ("guide", guide))
        if isinstance(part, nn.Module)
        for p in part.parameters()
    }
    bounds: list[float] = []
    seconds: list[float] = []
    means: dict[str, list[Tensor]] = {}
    squares: dict[str, list[float]] = {}
    for _ in range(_GROUPS):
        sums: dict[Tensor, Tensor] = {}
        square: dict[str, float] = {}
        for _ in range(per_group):
            start = time.perf_counter()
            loss = objective.differentiable_loss(model, guide, *args)
            leaves = leaves_of(loss)
            gradients = torch.autograd.grad(loss, leaves)
            seconds.append(time.perf_counter() - start)
            bounds.append(-loss.item())
            for leaf, gradient in zip(leaves, gradients, strict=True):
                owner = owners.get(id(leaf), "other")
                sums[leaf] = gradient + sums[leaf] if leaf in sums else gradient
                square[owner] = square.get(owner, 0.0) + gradient.double().square().sum().item()
        for owner, value in square.items():
            ordered = sorted((p for p in sums if owners.get(id(p), "other") == owner), key=id)
            means.setdefault(owner, []).append(torch.cat([sums[p].double().flatten() for p in ordered]) / per_group)
            squares.setdefault(owner, []).append(value)
    bound, bound_error = statistics.fmean(bounds), statistics.stdev(bounds) / math.sqrt(len(bounds))
    rows = []
    for owner in sorted(means):
        stacked = torch.stack(means[owner])
        found = _jackknife(stacked @ stacked.T, torch.tensor(squares[owner], dtype=torch.float64), per_group)
        head = {"objective": repr(objective), "parameters": owner, "bound": bound, "bound_error": bound_error}
        rows.append(head | found | {"seconds": statistics.median(seconds)})
    return rows


def _jackknife(products: Tensor, squares: Tensor, per_group: int) -> dict[str, float]:
    """Norm, signal-to-noise ratio and variance, with errors, from the groups' mean gradients and sums of squares.

    Args:
        products: Inner products of the groups' mean gradients, ``(groups, groups)``.
        squares: Each group's sum of squared norms, ``(groups,)``.
        per_group: Number of draws in each.
    """

    def of(kept: Tensor) -> Tensor:
        size = per_group * len(kept)
        mean = products[kept][:, kept].mean()
        variance = ((squares[kept].sum() - size * mean) / (size - 1)).clamp(min=0)
        signal = (mean - variance / size).clamp(min=0)
        return torch.stack([signal.sqrt(), (signal / variance).sqrt(), variance])

    groups = torch.arange(len(squares))
    values = of(groups)
    left_out = torch.stack([of(groups[groups != group]) for group in groups])
    errors = ((len(groups) - 1) * left_out.var(0, unbiased=False)).sqrt()
    found: dict[str, float] = {}
    for name, value, error in zip(("norm", "snr", "variance"), values.tolist(), errors.tolist(), strict=True):
        found |= {name: value, f"{name}_error": error}
    return found
