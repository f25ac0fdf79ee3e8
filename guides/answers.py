"""What a fitted guide says of each site: draws, means and quantiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from guides.errors import OptionError, whole_number

if TYPE_CHECKING:
    from guides.base import Call, Guide

__all__ = ["draw", "means", "quantiles"]


def draw(guide: Guide, call: Call, num_samples: int) -> dict[str, Tensor]:
    """Draw every site, ``(num_samples, *shape)``; see :meth:`guides.Guide.sample_posterior`."""
    num_samples = whole_number("num_samples", num_samples, least=1)
    sites = {site.name: site for part in guide._parts for site in part.space.sites}
    nesting = max(part.space.max_plate_nesting for part in guide._parts)
    with torch.no_grad(), poutine.block(), pyro.plate("_samples", num_samples, dim=-1 - nesting):
        drawn = guide._draw(call)
    values = {}
    for name, value in drawn.items():
        own = len(sites[name].batch_shape) + sites[name].event_dim
        values[name] = value.reshape(num_samples, *value.shape[value.dim() - own :])
    return values


@torch.no_grad()
def means(guide: Guide, call: Call, num_samples: int) -> dict[str, Tensor]:
    """The mean of every site, exact where the guide is normal; see :meth:`guides.Guide.posterior_mean`."""
    found = {name: values.mean(0) for name, values in draw(guide, call, num_samples).items()}
    for part in guide._parts:
        marginals = part._marginals(call)
        if marginals is not None:
            exact = part.space.constrain(marginals.mean)
            found |= {site.name: exact[site.name].detach().clone() for site in part.space.sites if site.is_real}
    return found


@torch.no_grad()
def quantiles(guide: Guide, call: Call, q: Any, num_samples: int) -> dict[str, Tensor]:
    """Quantiles of every site, exact where they can be; see :meth:`guides.Guide.quantiles`."""
    draws = draw(guide, call, num_samples)
    some = next(iter(draws.values()))
    try:
        levels = torch.as_tensor(q, dtype=some.dtype, device=some.device)
    except (TypeError, ValueError, RuntimeError):
        levels = some.new_empty(0)
    if levels.dim() > 1 or levels.numel() == 0 or not ((levels > 0) & (levels < 1)).all():
        raise OptionError(f"q must be a number or a list of numbers between 0 and 1; got {q!r}.")
    found = {name: values.quantile(levels, dim=0) for name, values in draws.items()}
    for part in guide._parts:
        marginals = part._marginals(call)
        if marginals is None:
            continue
        levels_of = levels.reshape(levels.shape + (1,) * marginals.mean.dim())
        upper, lower = (part.space.constrain(marginals.icdf(each)) for each in (levels_of, 1 - levels_of))
        for site in part.space.sites:
            if site.sign is not None:
                found[site.name] = (upper if site.sign > 0 else lower)[site.name]
    return found
