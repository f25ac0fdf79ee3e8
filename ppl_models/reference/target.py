"""Target: the log joint that a sampler walks on, and how its points become values of the model's sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from guides.errors import ModelError
from guides.latent_space import LatentSpace
from guides.log_density import Feasible, is_random
from guides.plates import full_size, outside_plates
from guides.starts import Init, set_start
from guides.whitening import Whitening
from ppl_models.reference.float64 import in_float64

__all__ = ["CurrentSite", "Observed", "Target"]

#: Draws of a starting point before a chain gives up.
TRIES = 100

#: Chains start uniformly in (-2, 2) without ``init``, as Stan's do.
RADIUS = 2.0


@dataclass(frozen=True)
class Observed:
    """Observed values of one site: ``(*batch, *event)``, and the plates by the batch dimension they stand in."""

    value: Tensor
    event_dim: int
    plates: Mapping[int, str]


class CurrentSite(Messenger):
    """Knows where in the model a run is."""

    def __init__(self) -> None:
        super().__init__()
        self.place = "before the first site"

    def _pyro_sample(self, msg: Any) -> None:
        self.place = f"in site {msg['name']!r}"

    def _pyro_post_sample(self, msg: Any) -> None:
        self.place = f"after site {msg['name']!r}"


class Target:
    r"""The log joint of a model over a whitened vector, in float64: :math:`v \mapsto \log p(x, T(m + L v))`.

    Args:
        model: Any Pyro model.
        init: As of :func:`ppl_models.reference.nuts`.
        seed: Fixes what the start draws of the prior.
        args: Arguments of the model.
        kwargs: Its keyword arguments.

    Raises:
        ModelError: If the model subsamples its data, or :class:`guides.LatentSpace` cannot present it.
    """

    def __init__(self, model: Callable[..., Any], init: Init, seed: int, args: Any, kwargs: Any) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        self.current = CurrentSite()
        self.whitening = Whitening()
        with torch.random.fork_rng(), in_float64():
            torch.manual_seed(seed)
            self.observed = self._observe()
            self.space = LatentSpace(self.current(model), *args, **kwargs)
            set_start(self.whitening, self.space, init, args, kwargs)
        self.dim = self.space.dim
        self.init = init

    def _observe(self) -> dict[str, Observed]:
        with torch.no_grad(), outside_plates(), poutine.block():
            trace: Any = poutine.trace(Feasible()(self.model)).get_trace(*self.args, **self.kwargs)
        for site in trace.nodes.values():
            for frame in site.get("cond_indep_stack", ()):
                if full_size(frame) != frame.size:
                    raise ModelError(
                        f"nuts must see all data; got site {site['name']!r} inside plate {frame.name!r}, which looks "
                        f"at {frame.size} of {full_size(frame)}. Leave subsample_size out."
                    )
        sites = [site for site in trace.nodes.values() if is_random(site) and site["is_observed"]]
        return {
            site["name"]: Observed(
                torch.as_tensor(site["value"]).detach(),
                site["fn"].event_dim,
                {frame.dim: frame.name for frame in site["cond_indep_stack"] if frame.vectorized},
            )
            for site in sites
        }

    def log_joint(self, vector: Tensor) -> Tensor:
        """Evaluate the log joint at one whitened vector ``(D,)``; a scalar with its graph. Call it in float64."""
        return self.space.log_joint(self.whitening(vector), *self.args, **self.kwargs)

    def value_and_gradient(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the log joint and its gradient at ``(D,)``; NaN where the model has no value."""
        vector = vector.detach().requires_grad_()
        try:
            with in_float64(), torch.enable_grad():
                value = self.log_joint(vector)
                gradient = torch.autograd.grad(value, vector, allow_unused=True)[0]
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # a matrix that is not positive definite
            return vector.new_tensor(torch.nan), torch.full_like(vector, torch.nan).detach()
        return value.detach(), torch.zeros_like(vector) if gradient is None else gradient

    def starts(self, num_chains: int, generator: torch.Generator) -> Tensor:
        """Draw where the chains start, ``(num_chains, D)``: points where the log joint and its gradient are finite."""
        return torch.stack([self._start(generator) for _ in range(num_chains)])

    def _start(self, generator: torch.Generator) -> Tensor:
        for _ in range(TRIES):
            vector = self.draw(generator)
            value, gradient = self.value_and_gradient(vector)
            if value.isfinite() and gradient.isfinite().all():
                return vector
        raise ModelError(
            f"the log joint and its gradient must be finite where a chain starts; got {float(value)} at the last of "
            f"{TRIES} points tried. Give init='prior', 'laplace' or values, or look for observations that the model "
            "holds impossible."
        )

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw a point around the start."""
        device = self.space.device
        if self.init is None:
            uniform = torch.rand(self.dim, generator=generator, dtype=torch.float64)
            return (RADIUS * (2 * uniform - 1)).to(device)
        unit = self.whitening.unit if isinstance(self.init, Mapping) else 1.0
        return (unit * torch.randn(self.dim, generator=generator, dtype=torch.float64)).to(device)

    def constrain(self, vectors: Tensor) -> dict[str, Tensor]:
        """Map whitened vectors ``(*S, D)`` to the sites' values, ``(*S, *batch, *event)`` each."""
        with torch.no_grad(), in_float64():
            return self.space.constrain(self.whitening(vectors.to(self.space.device)))
