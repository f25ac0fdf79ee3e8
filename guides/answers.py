"""What a fitted guide says of each site: draws, means and quantiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from guides.call import Call
from guides.errors import DataError, DivergedError, OptionError, whole_number

__all__ = ["Answers"]


class Answers:
    """The part of a guide that users read its answers from."""

    if TYPE_CHECKING:
        setup: Any
        _draw: Any
        _marginals: Any

    @property
    def _parts(self) -> list[Any]:
        """The guides that draw sites of their own: this one, or those of a list."""
        return [self]

    def sample_posterior(self, num_samples: int, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw from the guide.

        Args:
            num_samples: S, the number of draws.
            *args: Arguments of the model.
            **kwargs: Keyword arguments of the model.

        Returns:
            By site: ``(S, *shape)``, draws first, then the site's own shape in the model.

        Raises:
            OptionError: If ``num_samples`` is less than 1.
        """
        self.setup(*args, **kwargs)
        return _draw(self, Call(args, kwargs), num_samples)

    def posterior_mean(self, *args: Any, num_samples: int = 1000, **kwargs: Any) -> dict[str, Tensor]:
        r"""Compute the mean of every site under the guide.

        Exact for real sites of normal guides; elsewhere the mean of draws, with standard error
        :math:`\mathrm{sd} / \sqrt{S}`.

        Args:
            *args: Arguments of the model.
            num_samples: S, the number of draws.
            **kwargs: Keyword arguments of the model.
        """
        self.setup(*args, **kwargs)
        return _means(self, Call(args, kwargs), num_samples)

    def quantiles(self, q: Any, *args: Any, num_samples: int = 1000, **kwargs: Any) -> dict[str, Tensor]:
        """Compute posterior quantiles of every site under the guide.

        Exact for normal guides, at sites whose elements have supports of their own; elsewhere those of draws.

        Args:
            q: Levels between 0 and 1, a number or a list of Q.
            *args: Arguments of the model.
            num_samples: S, the number of draws.
            **kwargs: Keyword arguments of the model.

        Returns:
            By site: ``(Q, *shape)``, or the site's shape for a single number.

        Raises:
            OptionError: If a level is not between 0 and 1.
        """
        self.setup(*args, **kwargs)
        return _quantiles(self, Call(args, kwargs), q, num_samples)


def _draw(guide: Answers, call: Call, num_samples: int) -> dict[str, Tensor]:
    """Draw every site, ``(num_samples, *shape)``; see :meth:`guides.Guide.sample_posterior`."""
    num_samples = whole_number("num_samples", num_samples, least=1)
    sites = {site.name: site for part in guide._parts for site in part.space.sites}
    nesting = max(part.space.max_plate_nesting for part in guide._parts)
    with torch.no_grad(), poutine.block():
        try:
            with pyro.plate("_samples", num_samples, dim=-1 - nesting):
                drawn = guide._draw(call)
        except (DataError, DivergedError, OptionError):
            raise
        except (RuntimeError, ValueError):
            # A guide with a force, over a model that takes one vector at a time.
            draws = [guide._draw(Call(call.args, call.kwargs)) for _ in range(num_samples)]
            return {name: torch.stack([values[name] for values in draws]) for name in draws[0]}
    values = {}
    for name, value in drawn.items():
        own = len(sites[name].batch_shape) + sites[name].event_dim
        values[name] = value.reshape(num_samples, *value.shape[value.dim() - own :])
    return values


@torch.no_grad()
def _means(guide: Answers, call: Call, num_samples: int) -> dict[str, Tensor]:
    """The mean of every site, exact where the guide is normal; see :meth:`guides.Guide.posterior_mean`."""
    found = {name: values.mean(0) for name, values in _draw(guide, call, num_samples).items()}
    for part in guide._parts:
        marginals = part._marginals(call)
        if marginals is not None:
            exact = part.space.constrain(marginals.mean)
            found |= {site.name: exact[site.name].detach().clone() for site in part.space.sites if site.is_real}
    return found


@torch.no_grad()
def _quantiles(guide: Answers, call: Call, q: Any, num_samples: int) -> dict[str, Tensor]:
    """Quantiles of every site, exact where they can be; see :meth:`guides.Guide.quantiles`."""
    draws = _draw(guide, call, num_samples)
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
