"""VAE: one latent vector per datum, and a network from it to the datum's distribution."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from guides.errors import DataError, whole_number
from ppl_models.likelihoods import Likelihood

__all__ = ["VAE"]


class VAE(PyroModule):
    r"""Generate each datum from a latent vector of its own through a decoder network.

    .. math::
        z_i \sim N(0, I_L), \qquad x_i \mid z_i \sim p(\cdot \mid \mathrm{decoder}(z_i)), \quad i = 1, \dots, B

    Sites ``z`` and ``x``, both in the plate ``"data"``. Called with data ``(B, *event)`` the model scores them; called
    with ``None`` and ``num=B`` it generates.

    Args:
        decoder: Module from ``(*, L)`` to the likelihood's parameters: for ``"bernoulli"`` the logits ``(*, *event)``;
            for ``"normal"`` and ``"discretised_logistic"`` means and log-scales, side by side in the last dimension,
            which is then twice as wide; for ``"categorical"`` a logit for each grey level, ``(*, *event, K)``.
        latent_dim: L.
        likelihood: ``"bernoulli"``, ``"normal"``, ``"categorical"`` or ``"discretised_logistic"``; the last two are of
            grey levels 0, 1 / (K - 1), ..., 1.
        levels: K, for the likelihoods of grey levels only; 256 by default.

    Raises:
        OptionError: If a number is too small, the likelihood unknown, or ``levels`` given where there are none.
        TypeError: If ``decoder`` is not a module.
        DataError: When called with data whose shape the decoder does not produce.

    Example:
        >>> import torch
        >>> from ppl_models.networks import MLPDecoder
        >>> vae = VAE(MLPDecoder(2, event_shape=(1, 4, 4), hidden=(8,)), latent_dim=2)
        >>> vae(None, num=3).shape
        torch.Size([3, 1, 4, 4])

    References:
        Diederik P. Kingma, Max Welling, Auto-Encoding Variational Bayes, 2014, https://arxiv.org/abs/1312.6114,
        section 3 and appendix C.
    """

    def __init__(
        self, decoder: nn.Module, *, latent_dim: int, likelihood: str = "bernoulli", levels: int | None = None
    ) -> None:
        super().__init__()
        if not isinstance(decoder, nn.Module):
            raise TypeError(f"decoder must be a torch.nn.Module; got {type(decoder).__name__}.")
        self.decoder = decoder
        self.latent_dim = whole_number("latent_dim", latent_dim, least=1)
        self.likelihood = Likelihood(likelihood, levels=levels)

    def decode(self, z: Tensor) -> TorchDistribution:
        """Give the distribution of data at latent vectors ``(*, L)``: batch shape ``(*)``, event shape of one datum."""
        return self.likelihood(self.decoder(z), z.dim() - 1)

    def forward(self, x: Tensor | None = None, *, num: int | None = None) -> Tensor:
        """Score data ``(B, *event)``, or generate ``num`` of them; return the value of ``x``."""
        if x is None:
            num = whole_number("num", num, least=1, instead="To generate without data, write model(None, num=16).")
        elif not isinstance(x, Tensor) or x.dim() < 2 or len(x) == 0:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise DataError(f"x must be a tensor of shape (B, *event) with B >= 1; got {got}.")
        with pyro.plate("data", num if x is None else len(x)):
            weight = next(self.parameters(), torch.empty(()))  # self.decoder would show Pyro's handlers every parameter
            z = pyro.sample("z", dist.Normal(weight.new_zeros(self.latent_dim), 1.0).to_event(1))
            law = self.decode(z)
            if x is not None and x.shape[1:] != law.event_shape:
                raise DataError(
                    f"x must have shape (B, {', '.join(map(str, law.event_shape))}), as the decoder's output; got "
                    f"{tuple(x.shape)}."
                )
            value: Tensor = pyro.sample("x", law, obs=x)
        return value
