"""IAFGuide: draws of a base transformed coordinate by coordinate, each given those before it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import torch
from pyro.nn import AutoRegressiveNN, ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.nn import functional as F

from guides.base import Guide
from guides.chained import ChainedGuide
from guides.errors import OptionError, whole_number
from guides.latent_space import LatentSpace, Model
from guides.target import Proposal, Target

__all__ = ["IAFGuide"]

#: Added to the gate's logit, so that a layer starts by keeping most of what it is given (Kingma et al. 2016, 1 to 2).
GATE_BIAS = 2.0

#: The most that a gate takes from its mean: as much as it keeps at the start.
MOST = 1 / (1 + math.exp(-GATE_BIAS))


class IAFGuide(ChainedGuide):
    r"""Transform the draws of a base guide by K inverse autoregressive layers.

    .. math::
        z_k = g_k \odot z_{k-1} + (1 - c g_k) \odot m_k, \qquad
        \log q = \log q_0 - \sum_{k=1}^{K} \sum_{j=1}^{D} \log g_{kj}

    where the gates :math:`g_k = \mathrm{sigmoid}(s_k) \in (0, 1)` and the means :math:`m_k` come from a masked network,
    and :math:`c = \mathrm{sigmoid}(2)` is what a new gate keeps. What is of coordinate j depends on the
    coordinates before it in the layer's order, and on the encoder's output. The order of the coordinates is reversed
    from layer to layer. The base's draws are first multiplied by :math:`c^{-K}`, which undoes what new gates take away,
    so that the guide starts as its base.

    Args:
        model: Any Pyro model.
        encoder: Encoder of an amortised mean-field base; see :class:`~guides.MeanFieldGuide`. It may return more
            numbers than the base reads: the layers read all.
        base: Any guide of the same model; a mean-field guide by default. Where it has no density, as a Hamiltonian
            guide, the layers transform its position, and its log-weight goes with it.
        hide: Names of latents that other guides of a :class:`~guides.GuideList` draw.
        expose: Names of the only latents that this guide draws.
        num_layers: K, at least 1.
        hidden: Widths of each network's hidden layers, none less than D; two of ``max(32, 2 * D)`` by default.

    Raises:
        OptionError: If a number is outside its range.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        >>> guide = IAFGuide(model, num_layers=2, hidden=(16,))
        >>> guide()["z"].shape
        torch.Size([3])
        >>> guide
        IAFGuide(num_layers=2, hidden=(16,), base=MeanFieldGuide(), LatentSpace(dim=3, sites=[z: (3,) real]))

    References:
        Diederik P. Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016,
        https://arxiv.org/abs/1606.04934, algorithm 1 and eqs. 13-14. The first factor is ours, and so is c:
        without it a gate that opens silences its mean. From a narrow start the gates open first, and then the flow
        stays as its base is.
        Mathieu Germain et al., MADE: Masked Autoencoder for Distribution Estimation, 2015,
        https://arxiv.org/abs/1502.03509, for the masks.
    """

    uses_context = True

    def __init__(
        self,
        model: Model,
        *,
        encoder: nn.Module | None = None,
        base: Guide | None = None,
        hide: Collection[str] | None = None,
        expose: Collection[str] | None = None,
        num_layers: int = 4,
        hidden: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model, base=base, encoder=encoder, hide=hide, expose=expose)
        self.num_layers = whole_number(
            "num_layers", num_layers, least=1, instead="Without layers the guide equals its base: use the base guide."
        )
        if hidden is not None and (not isinstance(hidden, Sequence) or not hidden):
            raise OptionError(f"hidden must be a list of layer widths; got {hidden!r}. Write hidden=(64, 64).")
        self.hidden = None if hidden is None else tuple(whole_number("hidden", width, least=1) for width in hidden)

    def build(self, space: LatentSpace) -> None:
        hidden = self.hidden or (max(32, 2 * space.dim),) * 2
        if min(hidden) < space.dim:
            raise OptionError(f"hidden must be at least the number of latent dimensions, {space.dim}; got {hidden}.")
        # A single coordinate has none before it to look at: its layers see a constant.
        width = self.context_width or (1 if space.dim == 1 else None)
        forwards = torch.arange(space.dim)
        self.layers = nn.ModuleList()
        for k in range(self.num_layers):
            options: dict[str, Any] = {"permutation": forwards.flip(0) if k % 2 else forwards, "nonlinearity": nn.ELU()}
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*input_dim = 1")
                if width is None:
                    network: nn.Module = AutoRegressiveNN(space.dim, list(hidden), **options)
                else:
                    network = ConditionalAutoRegressiveNN(space.dim, width, list(hidden), **options)
            network.layers[-1].weight.data *= 0.01  # type: ignore[union-attr, index]
            self.layers.append(network.to(dtype=space.dtype, device=space.device))

    @property
    def noise_dim(self) -> int:
        return self.base.noise_dim

    def propose(self, target: Target, noise: Tensor) -> Proposal:
        start = self.base.propose(target, noise)
        # What K gates take away at the start is given beforehand, so that the start is that of the base.
        stretch = -self.num_layers * math.log(MOST)
        latent = start.latent * math.exp(stretch)
        log_q, context = start.log_q - latent.shape[-1] * stretch, target.context
        if context is None and latent.shape[-1] == 1:
            context = latent.new_ones(1)
        for network in self.layers:
            mean, logit = network(latent) if context is None else network(latent, context)
            logit = logit + GATE_BIAS
            gate = logit.sigmoid()
            latent = gate * latent + (1 - MOST * gate) * mean
            log_q = log_q - F.logsigmoid(logit).sum(-1)
        return Proposal(latent, log_q)

    def describe(self) -> str:
        hidden = "" if self.hidden is None else f"hidden={self.hidden}, "
        return f"num_layers={self.num_layers}, {hidden}{super().describe()}"
